"""Three planted mistakes, each caught by a property that the real function passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest

from minicppo.bounds import families as fam
from minicppo.bounds import gate as gt
from minicppo.bounds import residual as res
from minicppo.bounds import sharper as sh
from minicppo.bounds import tabular as tab
from minicppo.bounds.budget import Budget
from minicppo.bounds.tabular import Array, Pair
from theory.study import Study

BOUNDS: dict[str, Callable[[Pair], float]] = {
    "proposition4": lambda pair: float(res.proposition4(pair.drift, pair.caps)),
    "pair_certificate": lambda pair: float(sh.pair_certificate(pair)),
    "cap_theorem": lambda pair: float(sh.cap_theorem(pair.caps)),
    "path_budget": lambda pair: float(sh.path_budget(float(sh.largest_path(pair)))),
    "expected_budget": lambda pair: float(sh.expected_budget(float(pair.drift.sum()))),
}


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(repeats=2)


def violated(bound: Callable[[Pair], float], study: Study) -> bool:
    """Some pair of the pool has a residual above the bound."""
    return any(
        worst > bound(item.pair) * (1 + 1e-9) + 1e-12 for item, worst in zip(study.pool, study.worst, strict=True)
    )


@pytest.mark.parametrize("name", BOUNDS)
def test_a_dropped_factor_two_is_caught(name: str, study: Study) -> None:
    bound = BOUNDS[name]
    assert not violated(bound, study)
    assert violated(lambda pair: bound(pair) / 2, study)


@dataclass(frozen=True)
class InclusiveBudget(Budget):
    """The mutant: W_t where Eq. 8 has W_{t-1}."""

    @cached_property
    def limits(self) -> Array:
        return self.delta + self.delta_b * np.cumsum(self.weights)


def test_an_inclusive_prefix_sum_is_caught(study: Study) -> None:
    def leaves_eq8(kind: type[Budget]) -> bool:
        for item in study.pool:
            weights = np.ones(item.pair.horizon)
            gated = fam.apply_gate(item.pair, fam.waterfill_gates(item.pair, kind(0.15, 0.02, weights)))
            if gt.excess_over(gated, Budget(0.15, 0.02, weights)) > 1e-12:
                return True
        return False

    assert not leaves_eq8(Budget)
    assert leaves_eq8(InclusiveBudget)


def test_a_swapped_kl_is_caught(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def chain_rule_holds() -> bool:
        pairs = [item.pair for item in study.pool if item.family == "dirichlet"]
        return all(
            np.isclose(tab.sequence_kl(p), float(proper_kl(p.reach_mu[-1], p.reach_pi[-1])), rtol=1e-9) for p in pairs
        )

    proper_kl = tab.kl
    assert chain_rule_holds()
    monkeypatch.setattr(tab, "kl", lambda p, q: proper_kl(q, p))
    assert not chain_rule_holds()
