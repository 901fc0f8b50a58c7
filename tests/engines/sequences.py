"""Whole sequences as engines hold them, prompts and tool tokens included; and what the loops make of them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from minicppo.engines.samples import Sample
from minicppo.reference import LOOPS, Response, policy_loss
from minicppo.rules import get_method

HORIZON = 40
PROMPTS, RESPONSES = (3, 2, 5, 4), (17, 30, 9, 22)
COMPARED = ("cppo", "dppo", "grpo", "icepop")


def sequences(seed: int = 0, drift: float = 0.25) -> list[Sample]:
    """Four in float64, prompt first, the second with tool tokens. mu is 0 on what it did not sample."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for prompt, response, advantage in zip(PROMPTS, RESPONSES, (1.0, -1.0, 0.5, -0.25), strict=True):
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


def reference(samples: list[Sample], name: str, mode: str = "token-mean", **params: Any) -> tuple[float, list[Tensor]]:
    """Loss and its gradient by sequence, by the loops of the reference; fails where nothing is masked."""
    method, weights, advantages = get_method(name, **params), [], []
    family = {"rule": method.rule.family} if method.corrects else {}
    for sample in samples:
        columns = (sample.rollout_log_probs, sample.log_probs, sample.old_log_probs, sample.advantages)
        mu, pi, old, A = (column.detach()[sample.mask] for column in columns)
        response = Response(*(x.exp().tolist() for x in (mu, pi)), A.tolist(), old=old.exp().tolist())
        weights.append(LOOPS[method.family](response, **family, **method.params))
        advantages.append(A.tolist())
    assert any(0 in row for row in weights), "the mask must be active"
    gradients = []
    scales = {"token-mean": [1 / sum(map(len, weights))] * 4}
    scales["seq-mean-token-mean"] = [1 / (len(samples) * len(row)) for row in weights]
    scales["seq-mean-token-sum"] = [1 / len(samples)] * 4
    scales["seq-mean-token-sum-norm"] = [1 / (len(samples) * HORIZON)] * 4
    for sample, row, A, scale in zip(samples, weights, advantages, scales[mode], strict=True):
        gradient = torch.zeros(len(sample.mask), dtype=torch.float64)
        gradient[sample.mask] = -scale * torch.tensor(row, dtype=torch.float64) * torch.tensor(A, dtype=torch.float64)
        gradients.append(gradient)
    return policy_loss(weights, advantages, mode, HORIZON), gradients


def leaf(samples: list[Sample], dtype: torch.dtype = torch.float32) -> list[Sample]:
    """The same in another precision, each with log-probs of its own to take gradients at."""
    cast = [{k: v.detach().to(dtype) for k, v in vars(s).items() if v is not None and k != "mask"} for s in samples]
    made = [replace(sample, **columns) for sample, columns in zip(samples, cast, strict=True)]
    for sample in made:
        sample.log_probs.requires_grad_()
    return made


def assert_gradients(found: list[Tensor], wanted: list[Tensor]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-6, rtol=1e-5)


def shifted(sample: Sample) -> Sample:
    """mu one token early, as of an engine that keeps the log-prob of token t + 1 at position t."""
    assert sample.rollout_log_probs is not None
    return replace(sample, rollout_log_probs=torch.where(sample.mask, sample.rollout_log_probs.roll(-1), 0.0))


MISTAKES = {  # what an engine's columns may get wrong, and what the error says
    "prompt in the mask": (lambda s: replace(s, mask=torch.ones_like(s.mask)), "[Pp]rompt"),
    "mask one token early": (lambda s: replace(s, mask=s.mask.roll(-1)), "exactly 0 under mu|Way out"),
    "mu one token early": (shifted, "one token off|exactly 0 under mu"),
    "mu not recorded": (
        lambda s: replace(s, rollout_log_probs=torch.zeros_like(s.mask, dtype=torch.float64)),
        "recorded",
    ),
    "NaN": (lambda s: replace(s, rollout_log_probs=torch.full_like(s.log_probs.detach(), torch.nan)), "nan on a valid"),
}
