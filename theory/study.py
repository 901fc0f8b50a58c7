"""The instances every check shares: enumerated pairs of policies, the budget they were built to meet, and
their ratios.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minicppo.bounds import residual as res
from minicppo.bounds import sharper as sh
from minicppo.bounds.budget import Budget
from theory import families as fam
from theory import pair_bounds as pb
from theory.tabular import Array, Pair

MAX_LEAVES = 1024
DELTA, DELTA_B, W_MIN = 0.15, 0.02, 0.8  # the paper's thresholds
RARE = 2.0**-20  # dyadic, so that 1 - RARE is exact
SHAPES = [(v, t) for v in (2, 3, 4) for t in range(2, 8) if v**t <= MAX_LEAVES]


@dataclass(frozen=True)
class Evidence:
    """What a check measured.

    agrees: the registered verdict was reproduced. instances: cases examined. ratio: worst |Delta| / bound (or
    the closest analogue the note names), None where there is none. note: the counterexample, the caveat or
    the figure, in one line.
    """

    agrees: bool
    instances: int
    ratio: float | None
    note: str


@dataclass(frozen=True)
class Instance:
    """One enumerated pair, the family it belongs to, and the budget it meets by construction, if any."""

    family: str
    pair: Pair
    budget: Budget | None = None


@dataclass(frozen=True)
class Study:
    """repeats: draws of every family at every (V, T) of SHAPES, 180 instances each."""

    repeats: int = 18
    seed: int = 0

    @cached_property
    def pool(self) -> list[Instance]:
        """All instances, V = 2 .. 4, T = 2 .. 7, at most 1,024 responses each."""
        rng = np.random.default_rng(self.seed)
        return [item for _ in range(self.repeats) for v, t in SHAPES for item in _draw(rng, t, v)]

    @cached_property
    def worst(self) -> list[float]:
        """sup over |R| <= 1 of |Delta|, per instance, by enumeration (F1)."""
        return [float(pb.worst_reward(item.pair)) for item in self.pool]

    @cached_property
    def bounds_per_instance(self) -> list[dict[str, float]]:
        """Every bound that applies, per instance; xi = 1."""
        return [bounds_of(item) for item in self.pool]

    @cached_property
    def bounds(self) -> dict[str, Array]:
        """Per bound, rows (worst |Delta|, bound) over the instances that meet its premise: (n, 2), xi = 1."""
        found: dict[str, list[tuple[float, float]]] = {}
        for worst, bounds in zip(self.worst, self.bounds_per_instance, strict=True):
            for name, bound in bounds.items():
                found.setdefault(name, []).append((worst, bound))
        return {name: np.array(rows) for name, rows in found.items()}

    def bounded(self, name: str, tolerance: float = 1e-12) -> tuple[bool, int, float]:
        """Whether no instance exceeds the bound by more than the tolerance, how many there are, and the worst ratio."""
        worst, bound = self.bounds[name].T
        real = bound > 1e-9  # below that a ratio is rounding
        return bool((worst <= bound + tolerance).all()), len(bound), float((worst[real] / bound[real]).max())


def bounds_of(item: Instance) -> dict[str, float]:
    """Every bound that applies to an instance, with its own caps, drifts and budgets as premises; xi = 1."""
    pair, budget = item.pair, item.budget
    u, caps, total = pair.drift, pair.caps, float(pair.drift.sum())
    largest = float(pb.largest_path(pair))
    bounds = {
        "prop4": res.proposition4(u, caps),
        "product": res.product_form(u, caps),
        "uniform": res.uniform_rule(pair.horizon, caps.max()),
        "pair": pb.pair_certificate(pair),
        "caps": sh.cap_theorem(caps),
        "unrolled": pb.unrolled(pair),
        "mean_caps": sh.mean_caps(u, caps),
        "mean": sh.mean_budget(total),
        "path": sh.path_budget(largest),
        "path_exact": sh.path_budget_exact(largest),
        "path_capped": sh.path_budget_capped(largest, float(caps.max())),
        "band": sh.ratio_band(largest, max(float(abs(x).max()) for x in pair.excess)),
        "path_finite": sh.path_budget_finite(largest, pair.horizon),
        "expected": sh.expected_budget(total),
        "chi2": sh.chi_square_budget(pb.largest_chi_square(pair)),
    } | {f"trm_{name}": bound for name, bound in pb.trm_bounds(pair).items()}
    if budget is not None:
        delta, delta_b, w_min = budget.delta, budget.delta_b, float(budget.weights[-1])
        bounds[f"path_{budget.form}"] = sh.path_budget(budget.path_divergence)
        if budget.form == "premise":
            bounds["theorem1"] = res.theorem1(pair.horizon, delta, delta_b, w_min)
            bounds["theorem1_monotone"] = res.theorem1_monotone(budget)
        else:
            bounds["prop8"] = res.proposition8(pair.horizon, delta, delta_b, w_min)
            bounds["theorem1_eq8"] = res.theorem1_eq8(budget)
    return {name: float(bound) for name, bound in bounds.items()}


def _draw(rng: np.random.Generator, horizon: int, vocab: int) -> Iterator[Instance]:
    """One instance of every family."""
    for concentration in (1.0, 0.3):
        yield Instance("dirichlet", fam.random_pair(rng, horizon, vocab, concentration=concentration))
    for scale in (0.1, 0.5):
        yield Instance("logit noise", fam.noisy_pair(rng, horizon, vocab, scale))
    yield Instance("mixture", fam.mixture(fam.random_pair(rng, horizon, vocab), rng.uniform(0.02, 0.5)))
    yield Instance("capped", fam.capped(fam.random_pair(rng, horizon, vocab), rng.uniform(0, 0.4, horizon)))
    yield Instance("path budget", fam.path_budgeted(fam.random_pair(rng, horizon, vocab), rng.uniform(0.1, 2.0)))
    yield Instance("rare token", fam.rare_token(rng.uniform(0, 0.9, horizon), RARE, vocab))
    for form in ("premise", "algorithm"):
        for w_min in (1.0, 0.8):
            budget = Budget.linear(horizon, w_min=w_min, form=form)
            start = fam.random_pair(rng, horizon, vocab)
            if w_min < 1:
                start = fam.rare_token(rng.uniform(0, 0.9, horizon), RARE, vocab)
            yield Instance(f"budget, {form}", fam.budgeted(start, budget), budget)
