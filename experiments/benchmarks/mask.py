"""The CPPO mask beside a per-sequence loop of tensor operations and beside a plain copy, in one process.

    python -m experiments.benchmarks.mask [--device cuda] [--threads 2] [--repeats 7] [--json FILE] [--small]

All compute the mask, the reasons and c_t under Binary TV and the dynamic budget, and must agree before they are timed.
The loop is how released code does it: one response after the other, `torch.quantile` for the budget. The copy is the
physical limit: the 9 bytes of a token's inputs read and the 6 of its results written, once, at the measured bandwidth.
On a GPU what is held against the copy is the time of the kernels, on inputs that take turns; the other times are whole
calls, which wait for the result.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.common import copy_bandwidth, kernel_seconds, options, seconds, store, table
from minicppo import CPPOMask, cppo_mask

DELTA, DELTA_B, W_MIN, CAP = 0.15, 0.02, 0.8, 2.0
SHAPES = ((512, 2048), (64, 8192))
GROWTH = (256, (128, 256, 512, 1024, 2048, 4096))  # responses, and their widths
BYTES = 2 * 4 + 1 + 1 + 1 + 4  # log-probs of two policies, valid; kept, reason, c_t

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def draw(rows: int, width: int, seed: int = 0, device: str = "cpu") -> Inputs:
    """Log-probs, rollout log-probs, advantages, mask: responses of half to all of the width that drift by 1x to 9x."""
    rng = torch.Generator().manual_seed(seed)
    log_probs = 2 * torch.rand(rows, width, generator=rng).log().clamp(min=-6)
    drift = 0.02 * torch.logspace(0, 0.95, rows)[:, None] * torch.randn(rows, width, generator=rng)
    lengths = torch.randint(width // 2, width + 1, (rows,), generator=rng)
    tensors = (
        (log_probs + drift).clamp(max=0),
        log_probs,
        torch.randn(rows, generator=rng),
        torch.arange(width) < lengths[:, None],
    )
    first, second, third, fourth = (x.to(device) for x in tensors)
    return first, second, third, fourth


def by_sequence(
    log_probs: Tensor, rollout_log_probs: Tensor, advantages: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The rule, one response at a time."""
    keep, reason = torch.zeros_like(mask), torch.zeros_like(mask, dtype=torch.int8)
    threshold = torch.zeros_like(log_probs)
    for i in range(len(mask)):
        n = int(mask[i].sum())
        pi, mu = log_probs[i, :n], rollout_log_probs[i, :n]
        D = (pi.exp() - mu.exp()).abs()
        budget = torch.quantile(D, 0.9).clamp(DELTA_B, CAP * DELTA_B)
        w = 1 - (1 - W_MIN) * torch.arange(n, device=mask.device) / max(n - 1, 1)
        Z = w * D
        credit = (w * budget - Z).cumsum(0)
        slack = DELTA + torch.cat([credit.new_zeros(1), credit[:-1]])
        toward = advantages[i] * (pi - mu) <= 0
        over_token, over_prefix = DELTA < Z, slack < Z
        threshold[i, :n] = slack.clamp(max=DELTA)
        keep[i, :n] = toward | ~(over_token | over_prefix)
        reason[i, :n] = torch.where(toward, 1, 2 + over_token.char() + 2 * over_prefix.char())
    return keep, reason, threshold


def batched(*inputs: Tensor, lengths: Tensor | None = None) -> CPPOMask:
    """Ours, with the two properties read that are computed on demand or stored."""
    out = cppo_mask(*inputs, lengths=lengths, delta=DELTA, delta_b=DELTA_B, w_min=W_MIN, cap_factor=CAP)
    assert out.token_mask.shape == out.threshold.shape
    return out


def packed(log_probs: Tensor, rollout_log_probs: Tensor, advantages: Tensor, mask: Tensor) -> tuple[Inputs, Tensor]:
    """The same responses end to end, and their lengths."""
    return (log_probs[mask], rollout_log_probs[mask], advantages, mask[mask]), mask.sum(1)


def check(inputs: Inputs) -> dict[str, Any]:
    """Raise unless the loop, the padded and the packed call agree, also with garbage in the padding."""
    mask = inputs[3]
    loop, ours = by_sequence(*inputs), batched(*inputs)
    differ = int((loop[1] != ours.reason).sum())
    assert differ <= 1e-4 * mask.sum(), f"{differ} decisions differ"
    assert torch.allclose(loop[2], ours.threshold, atol=1e-4)
    end_to_end, lengths = packed(*inputs)
    poisoned = [x.masked_fill(~mask, torch.nan) for x in inputs[:2]]
    for other, where in (
        (batched(*end_to_end, lengths=lengths), slice(None)),
        (batched(*poisoned, *inputs[2:]), mask),
    ):
        for field in ("reason", "threshold", "token_mask"):
            assert torch.equal(getattr(other, field)[where], getattr(ours, field)[mask]), field
    masked = (~ours.token_mask & mask).sum() / mask.sum()
    return {"masked_share": float(masked), "decisions_that_differ": differ}


def measure(rows: int, width: int, repeats: int, device: str, bandwidth: float) -> dict[str, Any]:
    inputs = draw(rows, width, device=device)
    found = check(inputs)
    end_to_end, lengths = packed(*inputs)
    took = seconds(
        {
            "loop": lambda: by_sequence(*inputs),
            "batched": lambda: batched(*inputs),
            "packed": lambda: batched(*end_to_end, lengths=lengths),
        },
        repeats,
        f"mask, {rows} x {width}",
        warm=True,
    )
    copy = BYTES * rows * width / bandwidth
    alone = took["batched"]
    if device == "cuda":
        alone = kernel_seconds([partial(batched, *draw(rows, width, seed, device)) for seed in range(8)], repeats)
    return {
        "rows": rows,
        "width": width,
        "loop_ms": 1e3 * took["loop"],
        "batched_ms": 1e3 * took["batched"],
        "ratio": took["loop"] / took["batched"],
        "kernels_ms": 1e3 * alone,
        "copy_ms": 1e3 * copy,
        "copies": alone / copy,
        "packed_ms": 1e3 * took["packed"],
        "packed_ratio": took["loop"] / took["packed"],
        **found,
    }


def growth(rows: int, widths: tuple[int, ...], repeats: int, device: str) -> list[dict[str, Any]]:
    """Nanoseconds a position as the width grows: level where the cost is linear."""
    batches = {str(width): draw(rows, width, device=device) for width in widths}
    took = seconds({width: partial(batched, *x) for width, x in batches.items()}, repeats, "mask, growth")
    return [{"width": int(k), "ms": 1e3 * s, "ns_per_token": 1e9 * s / (rows * int(k))} for k, s in took.items()]


def main() -> None:
    args = options(__doc__, threads=2, repeats=15).parse_args()
    torch.set_num_threads(args.threads)
    shapes, (rows, widths) = (((8, 64), (4, 128)), (8, (32, 64))) if args.small else (SHAPES, GROWTH)
    bandwidth = copy_bandwidth(args.device, repeats=args.repeats)
    found = [measure(*shape, args.repeats, args.device, bandwidth) for shape in shapes]
    columns = {
        "responses x tokens": "{rows} x {width:,}",
        "loop, ms": "{loop_ms:.1f}",
        "ours, ms": "{batched_ms:.2f}",
        "times faster": "{ratio:.1f}",
        "copy limit, ms": "{copy_ms:.4f}",
        "its kernels, ms": "{kernels_ms:.3f}",
        "times the limit": "{copies:.1f}",
        "packed, ms": "{packed_ms:.2f}",
        "times faster ": "{packed_ratio:.1f}",
        "masked": "{masked_share:.1%}",
        "decisions that differ": "{decisions_that_differ}",
    }
    print(table(found, columns))
    print(f"\nA plain copy moves {bandwidth / 1e9:.1f} GB/s, read and written.\n")
    longer = growth(rows, widths, args.repeats, args.device)
    print(table(longer, {f"{rows} responses of": "{width:,}", "ms": "{ms:.2f}", "ns a token": "{ns_per_token:.1f}"}))
    store(args, "mask", found, bandwidth_gb_s=bandwidth / 1e9, growth_rows=rows, growth=longer)


if __name__ == "__main__":
    main()
