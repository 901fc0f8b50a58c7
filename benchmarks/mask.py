"""The CPPO mask beside a per-sequence loop of tensor operations, in one process.

    python -m benchmarks.mask [--repeats 7] [--json benchmarks/results/mask.json]

Both compute the mask, the reasons and c_t under Binary TV and the dynamic budget, and must agree before they are timed.
The loop is how released code does it: one response after the other, `torch.quantile` for the budget.
"""

import torch
from torch import Tensor

from benchmarks.common import options, seconds, write
from minicppo import cppo_mask

DELTA, DELTA_B, W_MIN, CAP = 0.15, 0.02, 0.8, 2.0
SHAPES = ((512, 2048), (64, 8192))


def draw(rows: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs, rollout log-probs, advantages and mask.

    Responses fill half to all of the width, and drift by 1x to 9x.
    """
    rng = torch.Generator().manual_seed(seed)
    log_probs = 2 * torch.rand(rows, width, generator=rng).log().clamp(min=-6)
    drift = 0.02 * torch.logspace(0, 0.95, rows)[:, None] * torch.randn(rows, width, generator=rng)
    lengths = torch.randint(width // 2, width + 1, (rows,), generator=rng)
    return (
        (log_probs + drift).clamp(max=0),
        log_probs,
        torch.randn(rows, generator=rng),
        torch.arange(width) < lengths[:, None],
    )


def by_sequence(
    log_probs: Tensor, rollout_log_probs: Tensor, advantages: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The rule, one response at a time."""
    keep, reason = torch.zeros_like(mask), torch.zeros(mask.shape, dtype=torch.int8)
    threshold = torch.zeros_like(log_probs)
    for i in range(len(mask)):
        n = int(mask[i].sum())
        pi, mu = log_probs[i, :n], rollout_log_probs[i, :n]
        D = (pi.exp() - mu.exp()).abs()
        budget = torch.quantile(D, 0.9).clamp(DELTA_B, CAP * DELTA_B)
        w = 1 - (1 - W_MIN) * torch.arange(n) / max(n - 1, 1)
        Z = w * D
        credit = (w * budget - Z).cumsum(0)
        slack = DELTA + torch.cat([credit.new_zeros(1), credit[:-1]])
        toward = advantages[i] * (pi - mu) <= 0
        over_token, over_prefix = DELTA < Z, slack < Z
        threshold[i, :n] = slack.clamp(max=DELTA)
        keep[i, :n] = toward | ~(over_token | over_prefix)
        reason[i, :n] = torch.where(toward, 1, 2 + over_token.to(torch.int8) + 2 * over_prefix.to(torch.int8)).to(
            torch.int8
        )
    return keep, reason, threshold


def batched(
    log_probs: Tensor, rollout_log_probs: Tensor, advantages: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    out = cppo_mask(
        log_probs, rollout_log_probs, advantages, mask, delta=DELTA, delta_b=DELTA_B, w_min=W_MIN, cap_factor=CAP
    )
    return out.token_mask, out.reason, out.threshold


def measure(rows: int, width: int, repeats: int) -> dict[str, float | int]:
    inputs = draw(rows, width)
    loop, fast = by_sequence(*inputs), batched(*inputs)
    differ = int((loop[1] != fast[1]).sum())
    assert differ <= 1e-4 * inputs[3].sum(), f"{differ} decisions differ"
    assert torch.allclose(loop[2], fast[2], atol=1e-4)
    took = seconds({"loop": lambda: by_sequence(*inputs), "batched": lambda: batched(*inputs)}, repeats)
    return {
        "rows": rows,
        "width": width,
        "loop_ms": 1e3 * took["loop"],
        "batched_ms": 1e3 * took["batched"],
        "ratio": took["loop"] / took["batched"],
        "masked_share": float((~fast[0] & inputs[3]).sum() / inputs[3].sum()),
        "decisions_that_differ": differ,
    }


def main() -> None:
    args = options(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    rows = [measure(*shape, args.repeats) for shape in SHAPES]
    print("| responses x tokens | loop, ms | batched, ms | times faster | masked | decisions that differ |")
    print("|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r['rows']} x {r['width']} | {r['loop_ms']:.1f} | {r['batched_ms']:.1f} | {r['ratio']:.1f} "
            f"| {r['masked_share']:.1%} | {r['decisions_that_differ']} |"
        )
    write(args.json, "mask", args.repeats, rows)


if __name__ == "__main__":
    main()
