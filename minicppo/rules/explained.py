"""One response, one method, token by token: every quantity that the rule computes."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from minicppo.rules.batch import TokenBatch
from minicppo.rules.methods import Method, get_method
from minicppo.verdicts import Reason, token_rows


def explain(
    mu: Sequence[float],
    pi: Sequence[float],
    advantages: Sequence[float],
    method: str = "cppo",
    divergence: Sequence[float] | None = None,
    old: Sequence[float] | None = None,
    **params: Any,
) -> list[dict[str, Any]]:
    """The rows of `minicppo.verdicts.token_rows`.

    mu, pi: the sampled tokens' probabilities under the rollout and the current policy, each in (0, 1], of one response.
    advantages: one for each token, or one for all. divergence: D_t, in the place of the method's own; needed by methods
    whose divergence looks beyond the sampled token. old: the probabilities under pi_old; without them it is mu.
    params: the method's hyper-parameters.
    Raises ValueError on an unknown method, a probability outside (0, 1], or lists of different lengths.
    """
    rule = get_method(method, **params)
    if not mu:
        raise ValueError("mu is empty: give at least one token's probability")
    advantages = list(advantages) * len(mu) if len(advantages) == 1 else list(advantages)
    for name, values in (("pi", pi), ("advantage", advantages), ("divergence", divergence), ("old", old)):
        if values is not None and len(values) != len(mu):
            raise ValueError(f"{name} has {len(values)} values for the {len(mu)} tokens of mu")
    for name, value in [(name, x) for name, values in (("mu", mu), ("pi", pi), ("old", old or [])) for x in values]:
        if not 0 < value <= 1:
            raise ValueError(f"{name} has the value {value}: the probability of a sampled token is in (0, 1]")
    for name, value in [("advantage", x) for x in advantages] + [("divergence", x) for x in divergence or []]:
        if not math.isfinite(value):
            raise ValueError(f"{name} has the value {value}: a finite number is wanted")
    if rule.params.get("direction") == "predicted":
        raise ValueError(f"method {method!r} predicts its direction from whole distributions: explain cannot show it")
    if rule.needs != "log_probs" and divergence is None:
        raise ValueError(f"method {method!r} looks beyond the sampled token: give its D_t with --divergence")
    row = [torch.tensor([list(x)], dtype=torch.float64) for x in (pi, mu, advantages)]
    given = None if divergence is None else torch.tensor([list(divergence)], dtype=torch.float64)
    before = None if old is None else torch.tensor([list(old)], dtype=torch.float64).log()
    batch = TokenBatch(row[0].log(), row[1].log(), row[2], divergence=given, old_log_probs=before)
    out = rule(batch)
    found = {"rho": batch.ratio, "D": out.divergence, "c": out.threshold, "g": out.weight}
    if out.position_weight is not None and out.divergence is not None:
        w, Z = out.position_weight, out.position_weight * out.divergence
        found |= {"w": w, "Z": Z}
        if "budget_w_min" not in rule.params:  # whose S and W have weights of their own
            found |= {"S": Z.cumsum(1), "W": w.cumsum(1)}
    columns: dict[str, Sequence[Any]] = {"mu": mu, "pi": pi, "A": advantages}
    if old is not None:
        columns["old"] = old
        found |= {"mismatch": batch.log_mismatch.exp(), "drift": batch.since_old.ratio}
    columns |= {name: value[0].tolist() for name, value in found.items() if value is not None}
    columns.setdefault("c", _limits(rule, advantages))
    reasons = [Reason(code) for code in out.reason[0].tolist()]
    return token_rows(columns, reasons, None if out.delta_b is None else float(out.delta_b[0]))


def _limits(rule: Method, advantages: Sequence[float]) -> list[float | None]:
    """The limits of a token method without a threshold of its own: DPPO's on D, PPO's on |log rho| by the sign of A."""
    if rule.family == "dppo":
        return [rule.params["delta"]] * len(advantages)
    if rule.family != "ppo":
        return [None] * len(advantages)
    low = rule.params["clip_low"]
    up, down = math.log1p(rule.params["clip_high"]), math.inf if low == 1 else -math.log1p(-low)
    return [up if A > 0 else down for A in advantages]
