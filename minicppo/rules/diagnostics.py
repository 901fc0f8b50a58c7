"""What to log of every optimiser step, as one flat dict of floats. All shares are of valid tokens."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from minicppo.rules.batch import TokenBatch
from minicppo.rules.outputs import Reason, TokenWeights

DECILES = 10


def diagnostics(batch: TokenBatch, out: TokenWeights) -> dict[str, float]:
    """Mask shares, budget, divergence, ratios and weights of one step.

    mask/frac: masked; mask/frac_pos, _neg: of the tokens with A > 0, A < 0; mask/token_only, prefix_only, both:
    disjoint. gate/frac: scaled down by a soft gate rather than masked. budget/*: effective delta_b, share of responses
    at its floor and cap, with any c_t < delta, and of tokens with c_t < 0. div/*: D_t; div/decile_k by position in the
    response.
    prefix/ratio_*: S_T / W_T over responses. ratio/*: rho. kl/k3: mean of rho - 1 - log rho. weight/*: g, before and
    after clips. accept/*: share of responses not rejected whole, by length. One transfer from the device.
    """
    valid = batch.mask
    count = valid.sum().clamp(min=1)
    rows: dict[str, Tensor] = {}
    shares: dict[str, tuple[Tensor, Tensor]] = {}

    def share(name: str, condition: Tensor, among: Tensor = valid) -> None:
        shares[name] = condition & among, among

    masked = valid & ~out.token_mask
    share("mask/frac", masked)
    share("mask/frac_pos", masked, valid & (batch.advantages > 0))
    share("mask/frac_neg", masked, valid & (batch.advantages < 0))
    for name, code in (("token_only", Reason.TOKEN), ("prefix_only", Reason.PREFIX), ("both", Reason.BOTH)):
        share(f"mask/{name}", masked & (out.reason == code))
    share("gate/frac", out.token_mask & (out.reason >= Reason.TOKEN))
    ratio = batch.ratio[valid]
    if len(ratio):
        rows |= {"ratio/mean": ratio.mean(), "ratio/min": ratio.min(), "ratio/max": ratio.max()}
        rows["kl/k3"] = (batch.log_ratio.expm1() - batch.log_ratio).sum() / count  # 0 on invalid positions
    rows["weight/mean"] = out.weight.sum() / count
    rows["weight/raw_mean"] = out.raw_weight.sum() / count
    rows["weight/raw_max"] = out.raw_weight.max() if out.raw_weight.numel() else count * 0
    if out.divergence is not None and len(ratio):
        rows |= _divergence_rows(batch, out)
    if out.threshold is not None and len(ratio):
        rows |= _budget_rows(batch, out)
    if out.sequence_level:
        rows |= _acceptance_rows(batch, (out.reason == Reason.SEQUENCE).any(1))
    for name, value in out.stats.items():
        if value.ndim == 2:
            share(name, value)
        elif len(value):
            rows[name] = value.double().mean()
    parts, wholes = (torch.stack(flags).flatten(1).sum(1) for flags in zip(*shares.values(), strict=True))
    scalars = torch.stack([value.detach().reshape(()) for value in rows.values()])
    values = torch.cat([parts / wholes.clamp(min=1), scalars]).tolist()
    return dict(zip([*shares, *rows], values, strict=True))


def _divergence_rows(batch: TokenBatch, out: TokenWeights) -> dict[str, Tensor]:
    assert out.divergence is not None
    D, count = out.divergence, int(batch.lengths.sum())
    p90, p99 = upper_quantiles(D.flatten(), count, (0.9, 0.99))
    # Decile k ends before rank ceil((k + 1) T / 10): prefix sums of D and of the mask, read at those tokens alone.
    ends = (torch.arange(1, DECILES + 1, device=D.device) * batch.lengths[:, None] + DECILES - 1) // DECILES
    total = D.cumsum(1, dtype=torch.float64)
    where = torch.searchsorted(batch.mask.cumsum(1, dtype=torch.int32), ends.int())
    sums = total.gather(1, where).diff(dim=1, prepend=torch.zeros_like(total[:, :1])).sum(0)
    sizes = ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1])).sum(0)
    rows = {"div/mean": total[:, -1].sum() / count, "div/p90": p90, "div/p99": p99, "div/max": D.max()}
    rows |= {f"div/decile_{k}": value for k, value in enumerate(sums / sizes.clamp(min=1))}
    return rows


def _budget_rows(batch: TokenBatch, out: TokenWeights) -> dict[str, Tensor]:
    assert out.threshold is not None
    assert out.position_weight is not None
    assert out.divergence is not None
    valid, w = batch.mask, out.position_weight
    ratio = (w * out.divergence).sum(1) / w.sum(1).clamp(min=1e-12)
    limit = out.threshold.amax(1, keepdim=True)  # delta: c_t never exceeds it, and starts there
    rows = {
        "prefix/ratio_mean": ratio.mean(),
        "prefix/ratio_p90": upper_quantiles(ratio, len(ratio), (0.9,))[0],
        "budget/seq_bound": ((out.threshold < limit) & valid).any(1).double().mean(),
        "budget/negative": ((out.threshold < 0) & valid).sum() / valid.sum().clamp(min=1),
    }
    if out.delta_b is not None:
        low, high = out.delta_b.min(), out.delta_b.max()
        rows |= {"budget/delta_b": out.delta_b.mean(), "budget/delta_b_min": low, "budget/delta_b_max": high}
    return rows


def _acceptance_rows(batch: TokenBatch, rejected: Tensor) -> dict[str, Tensor]:
    """Accept rate, over all responses and by length: `accept/len_64` holds lengths 33 to 64."""
    accepted = (~rejected).double()
    rows = {"accept/rate": accepted.mean()}
    bucket = batch.lengths.clamp(min=1).double().log2().ceil().long()
    for k in bucket.unique().tolist():
        rows[f"accept/len_{2**k}"] = accepted[bucket == k].mean()
    return rows


def upper_quantiles(values: Float[Tensor, " N"], count: int, qs: tuple[float, ...]) -> list[Tensor]:
    """Linearly interpolated quantiles of the `count` largest values, of any number (`torch.quantile` stops at 16M).

    Sorts from the top down to the lowest of the quantiles.
    """
    positions = [q * (count - 1) for q in qs]
    ordered = values.topk(count - math.floor(min(positions))).values.double()
    found = []
    for position in positions:
        low, high = (ordered[count - 1 - round_(position)] for round_ in (math.floor, math.ceil))
        found.append(low + (position - math.floor(position)) * (high - low))
    return found
