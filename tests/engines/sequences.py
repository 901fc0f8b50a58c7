"""Whole sequences as engines hold them, prompts and tool tokens included; and what the loops make of them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from minicppo.engines.samples import Sample
from minicppo.reference import LOOPS, Response, policy_loss
from minicppo.rules import get_method

HORIZON = 40
PROMPTS, RESPONSES, ADVANTAGES = (3, 2, 5, 2, 1, 4), (17, 30, 9, 1, 12, 22), (1.0, -1.0, 0.5, 0.75, 0.0, -0.25)
COMPARED = ("cppo", "dppo", "grpo", "icepop")


def sequences(seed: int = 0, drift: float = 0.25) -> list[Sample]:
    """Six in float64, prompt first, the second with tool tokens. mu is 0 on what it did not sample."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for prompt, response, advantage in zip(PROMPTS, RESPONSES, ADVANTAGES, strict=True):
        n = prompt + response
        mask = torch.arange(n) >= prompt
        if len(made) == 1:
            mask[prompt + 10 : prompt + 14] = False
        mu = (0.05 + 0.9 * torch.rand(n, generator=generator, dtype=torch.float64)).log()
        pi, old = (
            (mu + x * torch.randn(n, generator=generator, dtype=mu.dtype)).clamp(max=-0.15) for x in (drift, 0.4)
        )
        pi = torch.where(mask, pi, pi - 1)  # what others wrote is less likely
        advantages = torch.full((n,), advantage, dtype=mu.dtype)
        made.append(Sample(pi.requires_grad_(), mu * mask, mask, advantages, old))
    return made


def reference(
    samples: list[Sample], name: str, mode: str = "token-mean", **params: Any
) -> tuple[float, list[Tensor], float]:
    """Loss, its gradient by sequence and the share of tokens with weight 0, by the loops of the reference."""
    method, batch = get_method(name, **params), []
    family = {"rule": method.rule.family} if method.corrects else {}
    for sample in samples:
        columns = (sample.rollout_log_probs, sample.log_probs, sample.old_log_probs, sample.advantages)
        mu, pi, old, A = (column.detach()[sample.mask] for column in columns)
        batch.append(Response(*(x.exp().tolist() for x in (mu, pi)), A.tolist(), old=old.exp().tolist()))
    each = [replace(response, batch=batch, index=i) for i, response in enumerate(batch)]
    weights = [LOOPS[method.family](response, **family, **method.params) for response in each]
    tokens, gradients = sum(map(len, weights)), []
    for sample, row in zip(samples, weights, strict=True):
        scale = {
            "token-mean": 1 / tokens,
            "seq-mean-token-mean": 1 / (len(samples) * len(row)),
            "seq-mean-token-sum": 1 / len(samples),
            "seq-mean-token-sum-norm": 1 / (len(samples) * HORIZON),
        }[mode]
        gradient = torch.zeros_like(sample.advantages)
        gradient[sample.mask] = -scale * torch.tensor(row, dtype=gradient.dtype) * sample.advantages[sample.mask]
        gradients.append(gradient)
    masked = sum(row.count(0) for row in weights) / tokens
    return policy_loss(weights, [response.advantages for response in batch], mode, HORIZON), gradients, masked


def leaf(samples: list[Sample], dtype: torch.dtype = torch.float32) -> list[Sample]:
    """The same in another precision, each with log-probs of its own to take gradients at."""
    cast = [{k: v.detach().to(dtype) for k, v in vars(s).items() if v is not None and k != "mask"} for s in samples]
    made = [replace(sample, **columns) for sample, columns in zip(samples, cast, strict=True)]
    for sample in made:
        sample.log_probs.requires_grad_()
    return made


def assert_gradients(found: list[Tensor], wanted: list[Tensor]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=2e-7, rtol=1e-5)


def shifted(sample: Sample) -> Sample:
    """mu one token early, as of an engine that keeps the log-prob of token t + 1 at position t."""
    assert sample.rollout_log_probs is not None
    return replace(sample, rollout_log_probs=torch.where(sample.mask, sample.rollout_log_probs.roll(-1), 0.0))


MISTAKES = {  # what an engine's columns may get wrong, and what the error says
    "prompt in the mask": (lambda s: replace(s, mask=torch.ones_like(s.mask)), "[Pp]rompt"),
    "mask one token early": (lambda s: replace(s, mask=s.mask.roll(-1)), "exactly 0 under mu|Way out"),
    "mu one token early": (shifted, "one token off|exactly 0 under mu"),
    "mu all zeros": (lambda s: replace(s, rollout_log_probs=torch.zeros_like(s.advantages)), "recorded"),
    "no mu": (lambda s: replace(s, rollout_log_probs=None), "no log-probs of mu"),
    "columns of two lengths": (lambda s: replace(s, advantages=s.advantages[1:]), r"one length, got .*'advantages'"),
    "NaN": (lambda s: replace(s, rollout_log_probs=torch.full_like(s.log_probs.detach(), torch.nan)), "nan on a valid"),
}
