"""What other rules would have done with the same log, how far they agree, and which thresholds a share would take."""

from dataclasses import replace
from typing import Any

import numpy as np

from minicppo.bounds import certified_residual, certify, design_thresholds
from minicppo.inspect.statistics import batch_of, verdicts
from minicppo.inspect.table import Table
from minicppo.rules import METHODS, Method, Reason, get_method

SHARES = (0.01, 0.05, 0.1, 0.2)  # of masked tokens that thresholds are given for
LIKE_ENGINES: dict[str, dict[str, Any]] = {"ppo": {"clip_high": 0.28}}  # the registry's own ppo is symmetric


class Counterfactuals:
    """Call `add` with portions of the log.

    methods: those M that read log-probs of the sampled tokens alone. both: (M, M) tokens that two of them mask.
    changed: (M,) tokens whose weight is not the bare ratio. failed: why a method cannot be told.
    """

    def __init__(self) -> None:
        chosen = {name: get_method(name, **LIKE_ENGINES.get(name, {})) for name in METHODS}
        self.methods = {name: method for name, method in chosen.items() if method.needs == "log_probs"}
        self.both, self.changed = np.zeros((len(self.methods),) * 2), np.zeros(len(self.methods))
        self.tokens = 0
        self.failed: dict[str, str] = {}

    def add(self, table: Table) -> None:
        if table.pi is None or not len(table):
            return
        batch, masked = batch_of(table), np.zeros((len(self.methods), len(table)), np.float32)
        for i, (name, method) in enumerate(self.methods.items()):
            try:
                if method.corrects and batch.old_log_probs is None:
                    raise ValueError("needs pi_old")
                out = method(batch)
            except (ValueError, TypeError) as error:  # it wants what this log does not have
                self.failed[name] = str(error)
            else:
                masked[i] = ~out.token_mask[batch.mask].numpy()
                self.changed[i] += int(((out.weight - batch.ratio).abs() > 1e-6)[batch.mask].sum())
        self.both += masked @ masked.T
        self.tokens += len(table)

    def rows(self) -> dict[str, dict[str, Any]]:
        """By method: masked share, share of tokens whose weight it changes, parameters; or why it cannot be told."""
        whys = {name: f"needs {method.needs} of both policies" for name, method in METHODS.items()}
        whys |= dict.fromkeys(self.methods, "" if self.tokens else "the log has no pi") | self.failed
        out: dict[str, dict[str, Any]] = {name: {"masked": None, "why": why} for name, why in whys.items()}
        for i, (name, method) in enumerate(self.methods.items()):
            if not whys[name]:
                summary = f"{method.summary}{', but the .28 of engines today' * (name in LIKE_ENGINES)}"
                share = {"masked": self.both[i, i] / self.tokens, "changed": self.changed[i] / self.tokens}
                out[name] = {**share, "params": method.params, "summary": summary}
        return out

    def agreement(self) -> dict[str, dict[str, float]]:
        """Of two methods that mask anything: tokens that both mask, over those that either does (Jaccard)."""
        both, own = self.both, self.both.diagonal()
        names = [(i, name) for i, name in enumerate(self.methods) if own[i] > 0]
        return {a: {b: float(both[i, j] / (own[i] + own[j] - both[i, j])) for j, b in names} for i, a in names}


def masked_share(table: Table, method: Method) -> float:
    """Of all tokens."""
    return float((verdicts(table, method) >= Reason.TOKEN).mean()) if len(table) else 0.0


def thresholds(table: Table, method: Any) -> list[dict[str, float]]:
    """For each of SHARES: delta and delta_b, in the method's own proportion, that mask that much of this log.

    The share falls as both grow; found by bisection on their logarithm, delta between a thousandth and 1.
    """

    def scaled(delta: float) -> Any:
        return replace(method, delta=delta, delta_b=delta * method.delta_b / method.delta)

    rows = []
    for wished in SHARES:
        low, high = 1e-3, 1.0
        for _ in range(11):  # to half a per cent
            middle = float(np.sqrt(low * high))
            low, high = (middle, high) if masked_share(table, scaled(middle)) > wished else (low, middle)
        found = scaled(high)
        masked = masked_share(table, found)
        rows.append({"wished": wished, "masked": masked, "delta": high, "delta_b": found.delta_b})
    return rows


def certifying(horizon: int, method: Any, reward_range: float) -> list[dict[str, Any]]:
    """Which thresholds certify half the reward's range at this horizon, and what those of the method certify.

    A residual is the most by which the surrogate can misjudge the change of the expected reward: see `minicppo.bounds`.
    """
    rows, T, half = [], max(horizon, 2), reward_range / 2
    for bound in ("theorem1", "path"):
        made = design_thresholds(T, half, reward_range, method.delta / method.delta_b, method.w_min, bound)
        now = certified_residual(T, method.delta, method.delta_b, method.w_min, reward_range, bound)
        row = {"bound": bound, "horizon": T, "residual": half, "delta": made.delta, "delta_b": made.delta_b}
        rows.append({**row, "now": now, "vacuous": now >= reward_range})
    return rows


def certificate(table: Table) -> dict[str, Any] | None:
    """`minicppo.bounds.certify` on the responses with rewards, of (N, T) at most 2**22; None with fewer than two."""
    table = table.responses(np.isfinite(table.rewards) & (table.lengths > 0))
    T = int(table.lengths.max(initial=0))
    count = min(len(table.lengths), (1 << 22) // max(T, 1))
    if count < 2:
        return None
    rewards, groups, mask = table.rewards[:count], table.groups[:count], np.arange(T) < table.lengths[:count, None]
    mu, d = np.zeros(mask.shape), np.zeros(mask.shape)
    mu[mask], d[mask] = (values[: mask.sum()] for values in (table.mu, table.log_ratio))
    span, grouped = float(np.ptp(rewards)), bool((groups >= 0).all())
    found = certify(mu + d, mu, rewards, mask, groups if grouped else None, reward_range=max(span, 1e-9))
    return {**found.rows(), "verdict": found.verdict, "reward_range": span, "grouped": grouped}
