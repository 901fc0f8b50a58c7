"""CPPO's token mask (paper Eq. 8-11, Algorithm 1) as a prefix sum over a batch.

On a GPU one kernel, `minicppo.kernels.mask`, does the same; the operations here serve everywhere, and are its twin.
"""

import sys
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

import minicppo.kernels as kernels
from minicppo.rules.batch import LOG_PROB_LIMIT, checked_inputs, moves_away, require_tensors, zero_invalid
from minicppo.rules.divergence import binary_tv
from minicppo.rules.mask_rule import MaskRule
from minicppo.rules.outputs import CPPOMask, Reason, prefix_slack
from minicppo.rules.packing import Packed, Padded

BLOCK = 1 << 18  # tokens worked on at a time on the CPU: intermediates stay in the cache, and their memory is reused
LONGEST = 32_768  # tokens of one response that a program of the kernel holds


def cppo_mask(
    log_probs: Tensor,
    rollout_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor | None = None,
    *,
    delta: float = 0.15,
    delta_b: float = 0.02,
    w_min: float = 0.8,
    budget: str = "dynamic",
    divergence: Tensor | None = None,
    lengths: Tensor | None = None,
    cap_factor: float = 2.0,
    quantile: float = 0.9,
    schedule: str = "linear",
    length: str | int = "own",
) -> CPPOMask:
    """The CPPO mask of a batch of responses: keep where A (rho - 1) <= 0 or w_t D_t <= c_t.

    log_probs, rollout_log_probs: (B, T), pi's and mu's log-probs of the sampled tokens, float32 or float64.
    advantages: (B,) or (B, T). response_mask: (B, T), true on valid tokens; default all.
    Packed input: 1-D tensors of responses laid end to end and `lengths` (B,); the fields of the result are then 1-D.
    advantages (N,) or (B,), but (B, 1) where an empty response makes N = B.
    delta: token limit. delta_b: prefix budget a token (the floor when `budget="dynamic"`; ignored when "off").
    w_min: weight of the last token. divergence: D_t of the batch's shape; None means Binary TV, |pi - mu|.
    length: "own", "padded" or a horizon, see `position_weights`.
    Nothing here is differentiable. Source: paper Algorithm 1; Eq. 22 for the dynamic budget.
    Raises ValueError or TypeError on NaN, shape mismatch, half precision, or a hyper-parameter outside its limits.

    >>> log = lambda *p: torch.tensor([p]).log()
    >>> out = cppo_mask(log(.6, .48, .4, .91, .5), log(.5, .4, .5, .9, .3), torch.ones(1), budget="fixed")
    >>> out.token_mask.int().tolist(), out.reason.tolist()
    ([[1, 0, 1, 0, 0]], [[2, 4, 1, 4, 5]])
    """
    rule = MaskRule(delta, delta_b, w_min, budget, schedule, length, cap_factor, quantile)
    inputs: dict[str, Any] = {"log_probs": log_probs, "rollout_log_probs": rollout_log_probs, "advantages": advantages}
    inputs |= {"response_mask": response_mask, "divergence": divergence}
    require_tensors(lengths=lengths, **inputs)
    packed = None if lengths is None else Packed(lengths)
    width = log_probs.shape[-1:].numel() if packed is None else packed.width
    if length == "padded" and width:  # which a block of packed responses does not know
        rule = replace(rule, length=width)
    numbers = (log_probs, rollout_log_probs, advantages)
    on_gpu = divergence is None and _kernel_takes(numbers, width, rule)  # which checks the values itself
    given = checked_inputs(packed, values=not on_gpu, **inputs)
    pi, mu, A, valid = (given[k] for k in ("log_probs", "rollout_log_probs", "advantages", "response_mask"))
    layout = packed or Padded(*pi.shape)
    if on_gpu:
        mask, broken = mask_in_one_kernel(pi, mu, A, valid, layout, rule)
        if broken.cpu().any():
            checked_inputs(packed, **inputs)  # raises, and says what is wrong where
        return mask
    out: dict[str, Any] = {"divergence": torch.empty_like(pi), "threshold": torch.empty_like(pi)}
    out["reason"] = torch.empty_like(pi, dtype=torch.int8)
    budgets = []
    for rows, tokens, block in layout.blocks(BLOCK if pi.device.type == "cpu" else sys.maxsize):
        p, m, v = (block.pad(x[tokens]) for x in (pi, mu, valid))
        D = block.pad(given["divergence"][tokens]) if "divergence" in given else binary_tv(p, m)
        away = moves_away(p, m, A[rows] if A.ndim == 2 else block.pad(A[tokens]))
        mask = mask_rows(v, zero_invalid(D, v), away, rule)
        for name, values in out.items():
            values[tokens] = block.unpad(getattr(mask, name))
        if mask.delta_b is not None:
            budgets.append(mask.delta_b)
    return replace(mask, **out, delta_b=torch.cat(budgets) if budgets else None, layout=layout)


def mask_rows(
    valid: Bool[Tensor, "B T"], divergence: Float[Tensor, "B T"], away: Bool[Tensor, "B T"], rule: MaskRule
) -> CPPOMask:
    """Algorithm 1, D_t (zero on invalid positions) and the direction given."""
    layout = Padded(*valid.shape)
    if _kernel_takes((divergence,), layout.width, rule):
        return mask_in_one_kernel(divergence, away, None, valid, layout, rule)[0]
    inside = valid.view(torch.int8)
    w, allowed = rule.weights(valid, divergence.dtype), rule.budgets(divergence, inside.sum(1))
    slack = prefix_slack(w, divergence, rule.delta, allowed)
    verdict = verdicts(divergence * w, slack, rule.delta)
    reason = verdict.sub_(1).mul_(away.view(torch.int8)).add_(int(Reason.TOWARD)).mul_(inside)
    # 0 + slack * inside: a product alone would leave -0 where a negative slack meets padding
    threshold = torch.addcmul(slack.new_zeros(()), slack.clamp_(max=rule.delta), inside, out=slack)
    return CPPOMask(reason, divergence, threshold, allowed, rule, layout)


def verdicts(Z: Float[Tensor, "B T"], slack: Float[Tensor, "B T"], delta: float) -> Int8[Tensor, "B T"]:
    """Codes of `Reason` for tokens that move away: INSIDE, + 1 is TOKEN, + 2 is PREFIX, + 3 is BOTH."""
    by_prefix, by_token = slack < Z, Z > delta
    return by_prefix.view(torch.int8) * 2 + by_token.view(torch.int8) + int(Reason.INSIDE)


def _kernel_takes(numbers: tuple[Tensor, ...], width: int, rule: MaskRule) -> bool:
    """Does the kernel know this case? It has no float64, no permuted weights, and checks no horizon."""
    return (
        all(kernels.usable(x) and x.dtype == torch.float32 and x.numel() > 0 for x in numbers)
        and 0 < width <= LONGEST
        and rule.schedule in ("linear", "constant")
        and (rule.length in ("own", "padded") if isinstance(rule.length, str) else rule.length >= width)
    )


def mask_in_one_kernel(
    first: Tensor, second: Tensor, advantages: Tensor | None, valid: Tensor, layout: Padded | Packed, rule: MaskRule
) -> tuple[CPPOMask, Tensor]:
    """The mask, and (B,) whether a valid token's log-prob or advantage is no fit number: `minicppo.kernels.mask`."""
    from minicppo.kernels.mask import mask  # Triton: not everywhere

    lengths = layout.lengths.to(first.device) if isinstance(layout, Packed) else None
    inputs = (first, second, advantages, valid, lengths)
    reason, kept, divergence, threshold, limits, broken = mask(*inputs, layout.width, rule, LOG_PROB_LIMIT)
    found = CPPOMask(reason, divergence, threshold, limits, rule, layout)
    vars(found)["token_mask"] = kept  # the cached property's place
    return found, broken
