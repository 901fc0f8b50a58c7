"""Every registered check, once, and planted mistakes that a check must see."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minicppo.bounds import certificate, residual, sharper, step
from minicppo.bounds.budget import Budget
from theory import checks_mask, families, flow, gate, pair_bounds, programs, tabular
from theory.registry import STATEMENTS
from theory.study import Study


@pytest.fixture(scope="module")
def study():
    return Study(repeats=2)


@pytest.mark.slow
@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.id)
def test_verdict_is_reproduced(statement, study):
    evidence = statement.check(study)
    assert evidence.agrees, evidence.note
    assert evidence.instances > 0
    assert evidence.note
    if re.search(r"T=8192: .*\d{3}", evidence.note):  # `minicppo thresholds` and the README take xi = 1/2
        assert "xi = 1" in evidence.note


def scaled(function: Callable[..., Any], factor: float) -> Callable[..., Any]:
    return lambda *values, **named: factor * function(*values, **named)


class InclusiveBudget(Budget):
    """W_t where Eq. 8 has W_{t-1}."""

    limits = property(lambda self: self.delta + self.delta_b * np.cumsum(self.weights))


PLANTED: list[tuple[str, object, str, object]] = [  # the check, and where which mistake is planted
    ("lemma2", pair_bounds, "value", lambda p, rewards: p @ abs(rewards)),
    ("lemma3", residual, "suffix_products", lambda caps: residual.suffix_sums(caps) / 2),
    ("prop4", residual, "proposition4", scaled(residual.proposition4, 0.5)),
    ("theorem1", residual, "theorem1", scaled(residual.theorem1, 0.5)),
    ("cor67", residual, "uniform_rule", scaled(residual.uniform_rule, 0.5)),
    ("b9-bound", residual, "product_form", scaled(residual.product_form, 0.5)),
    ("b10", programs, "greedy", lambda c, caps, limits: (float(c @ np.minimum(caps, limits)), caps)),
    ("c1-score", gate, "keeps", lambda budget, t, z, spent: z <= budget.limits[t] - spent),
    ("c2-mixture", families, "apply_gate", lambda pair, gates: tabular.Pair(pair.mu, pair.pi, pair.prior)),
    ("trm-bounds", tabular, "kl", lambda p, q, kl=tabular.kl: kl(q, p)),
    ("F1", pair_bounds, "worst_reward", scaled(pair_bounds.worst_reward, 0.5)),
    ("F2", pair_bounds, "pair_certificate", scaled(pair_bounds.pair_certificate, 0.5)),
    ("F3", sharper, "cap_theorem", scaled(sharper.cap_theorem, 0.5)),
    ("F4", sharper, "path_budget", scaled(sharper.path_budget, 0.5)),
    ("F5", sharper, "expected_budget", scaled(sharper.expected_budget, 0.5)),
    ("F6", programs, "exact_supremum", scaled(programs.exact_supremum, 0.5)),
    ("F7", sharper, "chi_square_budget", scaled(sharper.chi_square_budget, 0.5)),
    ("T1", pair_bounds, "unrolled", scaled(pair_bounds.unrolled, 0.5)),
    ("T1-moment", pair_bounds, "chi_squares", lambda pair: tuple(d**2 for d in pair.divergence)),
    ("T1-truncated", pair_bounds, "truncated_gain", lambda pair, r, cap: tabular.surrogate(pair, r)),
    ("T2", sharper, "mean_caps", scaled(sharper.mean_caps, 0.5)),
    ("T3", gate, "waterfilled_lower_bound", lambda pair, budget, r, b: tabular.surrogate(pair, r)),
    ("T4", step, "best_budget", lambda alpha: (alpha / 2, alpha**2 / 4)),
    ("T5", pair_bounds, "action_variances", lambda pair, r: np.array([pair.reach_mu[-1] @ r**2])),
    ("T5-band", sharper, "ratio_band", scaled(sharper.ratio_band, 0.5)),
    ("F4-exact", sharper, "path_budget_exact", scaled(sharper.path_budget_exact, 0.5)),
    ("F4-capped", sharper, "path_budget_capped", scaled(sharper.path_budget_capped, 0.5)),
    ("F6-attained", programs, "worst_pair", lambda budget: families.rare_token(budget.caps, 2.0**-20)),
    ("ascent", sharper, "mean_budget", scaled(sharper.mean_budget, 0.5)),
    ("D1", certificate.Certificate, "refused", property(lambda self: False)),
    ("D3", pair_bounds, "require_support", lambda pair: None),
    ("D8", gate, "closed_divergence", scaled(gate.closed_divergence, 0.5)),
    ("eq8", residual, "theorem1_eq8", scaled(residual.theorem1_eq8, 0.5)),
    ("waterfill", families, "waterfill_gates", gate.soft_gates),
    ("flow", flow, "tests_along", lambda budget, d: budget.weights * d <= budget.caps),
    ("allowance", checks_mask, "Budget", InclusiveBudget),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "module", "attribute", "mistake"), PLANTED, ids=[f"{p[0]}-{p[2]}" for p in PLANTED])
def test_a_planted_mistake_is_seen(name, module, attribute, mistake, monkeypatch):
    (statement,) = (s for s in STATEMENTS if s.id == name)
    monkeypatch.setattr(module, attribute, mistake)
    assert not statement.check(Study(repeats=1)).agrees
