"""What to log of every optimiser step, as one flat dict of floats. All shares are of valid tokens."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from minicppo.rules.batch import TokenBatch
from minicppo.rules.outputs import Reason, TokenWeights
from minicppo.rules.rows import take

DECILES = 10


def diagnostics(batch: TokenBatch, out: TokenWeights) -> dict[str, float]:
    """Mask shares, budget, divergence, ratios and weights of one step.

    mask/frac: masked; mask/frac_pos, _neg: of the tokens with A > 0, A < 0; mask/token_only, prefix_only, both:
    disjoint. gate/frac: scaled down by a soft gate rather than masked. budget/*: effective delta_b, share of responses
    at its floor and cap, with any c_t < delta, and of tokens with c_t < 0. div/*: D_t; div/decile_k by position in the
    response. prefix/ratio_*: S_T / W_T over responses. ratio/*: rho. kl/k3: mean of rho - 1 - log rho. weight/*: g,
    before and after clips. accept/*: share of responses not rejected whole, by length. Where pi_old is recorded,
    mismatch/*: |log pi_old/mu|, and drift/*: |log pi/pi_old|. Responses without a valid token count nowhere.
    """
    if not bool((some := batch.mask.any(1)).all()):
        batch, out = batch.rows(some), take(out, some)
    valid, count = batch.mask, batch.mask.sum().clamp(min=1)
    masked = valid & ~out.token_mask
    shares = {  # of a condition, among which tokens
        "mask/frac": (masked, valid),
        "mask/frac_pos": (masked, valid & (batch.advantages > 0)),
        "mask/frac_neg": (masked, valid & (batch.advantages < 0)),
        "mask/token_only": (masked & (out.reason == Reason.TOKEN), valid),
        "mask/prefix_only": (masked & (out.reason == Reason.PREFIX), valid),
        "mask/both": (masked & (out.reason == Reason.BOTH), valid),
        "gate/frac": (out.token_mask & (out.reason >= Reason.TOKEN), valid),
    }
    rows: dict[str, Tensor] = {}
    ratio = batch.ratio[valid]
    if len(ratio):
        rows |= {"ratio/mean": ratio.mean(), "ratio/min": ratio.min(), "ratio/max": ratio.max()}
        rows["kl/k3"] = (batch.log_ratio.expm1() - batch.log_ratio).sum() / count  # 0 on invalid positions
    if len(ratio) and batch.old_log_probs is not None:
        for name, gap in (("mismatch", batch.log_mismatch), ("drift", batch.since_old.log_ratio)):
            rows |= {f"{name}/mean": gap.abs().sum() / count, f"{name}/max": gap.abs().max()}
    rows["weight/mean"] = out.weight.sum() / count
    rows["weight/raw_mean"] = out.raw_weight.sum() / count
    rows["weight/raw_max"] = out.raw_weight.max() if out.raw_weight.numel() else count * 0
    if out.divergence is not None and len(ratio):
        rows |= _divergence_rows(batch, out.divergence)
        if out.threshold is not None and out.position_weight is not None:
            rows |= _budget_rows(valid, out.divergence, out.threshold, out.position_weight)
            if out.delta_b is not None:
                low, high = out.delta_b.min(), out.delta_b.max()
                rows |= {"budget/delta_b": out.delta_b.mean(), "budget/delta_b_min": low, "budget/delta_b_max": high}
    if out.sequence_level:
        whole = (out.reason == Reason.MISMATCH).any(1) & ~out.token_mask.any(1)
        rows |= _acceptance_rows(batch, whole | (out.reason == Reason.SEQUENCE).any(1))
    for name, value in out.stats.items():
        if value.ndim == 2:
            shares[name] = value, valid
        elif len(value):
            rows[name] = value.double().mean()
    inside = [condition & among for condition, among in shares.values()]
    parts, wholes = (torch.stack(x).flatten(1).sum(1) for x in (inside, [among for _, among in shares.values()]))
    scalars = torch.stack([value.detach().reshape(()) for value in rows.values()])
    values = torch.cat([parts / wholes.clamp(min=1), scalars]).tolist()
    return dict(zip([*shares, *rows], values, strict=True))


def _divergence_rows(batch: TokenBatch, D: Tensor) -> dict[str, Tensor]:
    count = int(batch.lengths.sum())
    p90, p99 = upper_quantiles(D.flatten(), count, (0.9, 0.99))
    # Decile k ends before rank ceil((k + 1) T / 10): prefix sums of D and of the mask, read at those tokens alone.
    ends = (torch.arange(1, DECILES + 1, device=D.device) * batch.lengths[:, None] + DECILES - 1) // DECILES
    total = D.cumsum(1, dtype=torch.float64)
    where = torch.searchsorted(batch.mask.cumsum(1, dtype=torch.int32), ends.int())
    sums = total.gather(1, where).diff(dim=1, prepend=torch.zeros_like(total[:, :1])).sum(0)
    sizes = ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1])).sum(0)
    rows = {"div/mean": total[:, -1].sum() / count, "div/p90": p90, "div/p99": p99, "div/max": D.max()}
    return rows | {f"div/decile_{k}": value for k, value in enumerate(sums / sizes.clamp(min=1))}


def _budget_rows(valid: Tensor, D: Tensor, threshold: Tensor, w: Tensor) -> dict[str, Tensor]:
    ratio = (w * D).sum(1) / w.sum(1).clamp(min=1e-12)
    limit = threshold.amax(1, keepdim=True)  # delta: c_t never exceeds it, and starts there
    return {
        "prefix/ratio_mean": ratio.mean(),
        "prefix/ratio_p90": upper_quantiles(ratio, len(ratio), (0.9,))[0],
        "budget/seq_bound": ((threshold < limit) & valid).any(1).double().mean(),
        "budget/negative": ((threshold < 0) & valid).sum() / valid.sum().clamp(min=1),
    }


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
    low, high = ([ordered[count - 1 - rounded(at)] for at in positions] for rounded in (math.floor, math.ceil))
    return [a + (at - math.floor(at)) * (b - a) for at, a, b in zip(positions, low, high, strict=True)]
