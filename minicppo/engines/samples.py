"""A method's loss on sequences as other engines hand them over: one 1-D sample each, its layout checked first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minicppo.plugins import load_plugins
from minicppo.rules import Method, TokenBatch, TopLogProbs, diagnostics, get_method
from minicppo.rules.rows import map_rows

FEWEST = 16  # tokens from which a shift can be told from chance
SHIFTED = 1 / 3  # so much closer are two columns of log-probs when a shift of one token brings them together
UNLIKELY = -0.7  # a token that was certain under mu, to the last bit, is not below 1/2 under pi
APART = 0.05  # nats a token, below which nothing needs an explanation


@dataclass(frozen=True)
class Sample:
    """One sequence of N tokens, 1-D.

    log_probs: (N,), pi's, with gradient. rollout_log_probs: (N,), mu's; None where the engine has none, which is an
    error. mask: (N,), true or 1 on the tokens that the policy wrote. advantages: (N,).
    old_log_probs: (N,), pi_old's: the trainer's own before the first update on this sample. top: of (N, K), for Top-K
    methods.
    """

    log_probs: Tensor
    rollout_log_probs: Tensor | None
    mask: Tensor
    advantages: Tensor
    old_log_probs: Tensor | None = None
    top: TopLogProbs | None = None


def engine_method(
    name: str | Method, params: dict[str, Any] | None = None, plugins: Sequence[str] = (),
    *, top: bool = False, alone: bool = False, divided: bool = False,
) -> Method:  # fmt: skip
    """The method of that name, with files of one's own loaded first; `params` may name a `correction`. Or itself.

    top: the engine has mu's likeliest tokens. alone: it asks for one sample at a time. divided: advantages come divided
    by a denominator.
    Raises ValueError for an unknown name or hyper-parameter, and for a method that such an engine cannot serve.
    """
    if isinstance(name, Method):
        return name
    load_plugins(plugins)
    method = get_method(name, **(params or {}))
    if method.needs == "full" or (method.needs == "topk" and not top):
        raise ValueError(
            f"{name} needs {'whole distributions' if method.needs == 'full' else 'the likeliest tokens'} of mu, and "
            "this engine keeps the sampled tokens' log-probs. Way out: use a method with a binary divergence, such as "
            "cppo, or use engine trl"
        )
    if method.level == "batch" and alone:
        raise ValueError(f"{name} compares the tokens of a batch, and this engine hands over one sample at a time")
    if divided and (method.level == "batch" or _reads_size(method)):
        raise ValueError(f"{name} reads the size of advantages, which this engine has divided by a denominator")
    if method.params.get("length") == "padded":
        raise ValueError("length='padded' is the width of a micro-batch here: give the longest response, length=N")
    return method


def _reads_size(method: Method) -> bool:
    """Do half the advantages give other weights?"""
    mu = torch.linspace(-6.0, -0.5, 24).reshape(2, 12)
    pi, advantages = mu + 0.3 * torch.sin(50 * mu) - 0.05, torch.tensor([4.0, -4.0])
    one, half = (method(TokenBatch(pi, mu, A)).weight for A in (advantages, advantages / 2))
    return not torch.allclose(one, half)


def token_losses(
    method: Method, samples: Sequence[Sample], *, with_prompt: bool
) -> tuple[list[Float[Tensor, " N"]], dict[str, float]]:
    """-g A exp(log pi - sg(log pi)) of every token, zero where the mask is; and the diagnostics of all samples.

    with_prompt: the samples begin with their prompts. Masked tokens stay in whatever denominator the engine uses.
    Raises ValueError where mu is missing, NaN, or laid out otherwise than pi: see `require_layout`; and where a method
    corrects pi_old and that is missing.
    """
    require_layout(samples, with_prompt)
    if method.corrects and samples[0].old_log_probs is None:  # it would be off in silence
        raise ValueError(
            f"{method.name} corrects pi_old, the trainer's own log-probs before its first update, which the samples "
            f"do not have. Way out: hand them over, or {getattr(method, 'rule', method).name}, which is anchored at mu"
        )
    rows = map_rows(lambda *columns: pad_sequence(list(columns), batch_first=True), *samples)
    pi, mu, mask = rows.log_probs, rows.rollout_log_probs, rows.mask.bool()
    batch = TokenBatch(pi, mu, rows.advantages, mask, rows.top, old_log_probs=rows.old_log_probs)  # None: pi_old is mu
    out = method(batch)
    losses = []
    for sample, weights in zip(samples, out.weight * batch.advantages, strict=True):
        log_probs = sample.log_probs.masked_fill(~sample.mask.bool(), 0.0)  # what is not a token may hold anything
        losses.append(-weights[: len(log_probs)] * torch.exp(log_probs - log_probs.detach()))
    found = diagnostics(batch, out).items()  # NaN: of no response at all
    logged = {key: value for key, value in found if "/len_" not in key and not math.isnan(value)}
    return losses, logged


def require_layout(samples: Sequence[Sample], with_prompt: bool) -> None:
    """Raise ValueError, saying which, for the mistakes of layout that would train on wrong numbers in silence.

    No mu; columns of different lengths; the prompt in the mask; tokens that mu did not sample in it; mu one token off.
    """
    apart = torch.zeros(3, dtype=torch.float64)
    for index, sample in enumerate(samples):
        if sample.rollout_log_probs is None:
            raise ValueError(
                f"sample {index} has no log-probs of mu, the policy that sampled it. Way out: have the sampler return "
                "them; the trainer's own forward pass is no substitute"
            )
        shapes = {name: tuple(column.shape) for name, column in vars(sample).items() if isinstance(column, Tensor)}
        if len(set(shapes.values())) > 1 or sample.mask.ndim != 1:
            raise ValueError(f"sample {index} must have 1-D columns of one length, got {shapes}")
        mask = sample.mask.bool()
        if with_prompt and len(mask) and bool(mask[0]):
            raise ValueError(
                f"sample {index}: the prompt is in the mask, which counts the first token, and a sequence begins with "
                "its prompt. Way out: 1 on the tokens that the policy wrote, 0 before them"
            )
        pi, mu = sample.log_probs.detach()[mask], sample.rollout_log_probs[mask]
        unsampled = (mu == 0) & (pi < UNLIKELY)
        if bool(unsampled.any()):
            raise ValueError(
                f"sample {index}: {int(unsampled.sum())} tokens in the mask have a log-prob of exactly 0 under mu and "
                f"as little as {float(pi[unsampled].min()):.2f} under pi: mu did not sample them. Prompt, tool or "
                "padding tokens are in the mask, the mask is one token off, or mu's log-probs were not recorded"
            )
        if len(mu) > 2:
            here, there = pi[1:-1].double(), mu.double().unfold(0, len(mu) - 2, 1)  # mu one token earlier, here, later
            apart += (here - there).abs().sum(1).cpu()
    tokens = sum(max(int(sample.mask.sum()) - 2, 0) for sample in samples)
    left, aligned, right = (apart / max(tokens, 1)).tolist()
    if tokens >= FEWEST and aligned > APART and min(left, right) < SHIFTED * aligned:
        raise ValueError(
            f"mu's log-probs are one token off pi's: {aligned:.2f} nats apart as given, {min(left, right):.2f} after a "
            "shift of one. Way out: both columns hold at position t the log-prob of token t, or both that of token t+1"
        )
