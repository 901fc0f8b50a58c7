"""Wrong behaviour is noticed: a function of the rules or of the loops is replaced, and the named property must fail.

These mutants say what each property is for. `make mutants` makes many more of them, line by line.
"""

import math
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import settings

from minicppo import rules
from tests.rules import test_budget as budget
from tests.rules import test_diagnostics as diagnostics
from tests.rules import test_divergence as divergence
from tests.rules import test_families as families
from tests.rules import test_gates as gates
from tests.rules import test_loss as loss
from tests.rules import test_mask as mask
from tests.rules import test_methods as methods
from tests.rules import test_packing as packing
from tests.rules import test_position_weights as position_weights
from tests.rules import test_refuted as refuted
from tests.rules.twins import token_batch

pytestmark = pytest.mark.slow  # tests of the tests
Function = Callable[..., Any]
Mutant = tuple[str, Function, Function]  # where a function stands, what makes the wrong one of it, who notices
R = "minicppo.rules"


def argument(where: str, index: int, change: Function, noticed_by: Function) -> Mutant:
    """One positional argument changed; change(argument, *all)."""

    def mutate(right: Function) -> Function:
        return lambda *a, **options: right(*a[:index], change(a[index], *a), *a[index + 1 :], **options)

    return f"{R}.{where}", mutate, noticed_by


def option(where: str, noticed_by: Function, **forced: Any) -> Mutant:
    """A keyword argument forced."""
    return f"{R}.{where}", lambda right: lambda *a, **options: right(*a, **{**options, **forced}), noticed_by


def result(where: str, change: Function, noticed_by: Function) -> Mutant:
    """The result changed; change(result, *arguments)."""
    return f"{R}.{where}", lambda right: lambda *a, **options: change(right(*a, **options), *a), noticed_by


def slack(change: Function, noticed_by: Function) -> Mutant:
    """`prefix_slack` with its result changed, where there is a budget; change(slack, w, D, delta, delta_b)."""
    return result(
        "outputs.prefix_slack",
        lambda s, w, D, delta, b: s if b is None else change(s, w, D, delta, b[:, None]),
        noticed_by,
    )


def it_is_false(statement: str) -> Function:
    return partial(refuted.test_it_is_false, statement)


def clips_both_ways(out: rules.TokenWeights, method: Any, batch: rules.TokenBatch) -> rules.TokenWeights:
    inside = (batch.ratio <= 1 + method.clip_high) & (batch.ratio >= 1 - method.clip_low)
    return replace(out, weight=out.weight * inside, token_mask=out.token_mask & inside)


def turned_round(batch: rules.TokenBatch, *_: Any) -> rules.TokenBatch:
    top = batch.top
    turned = top and replace(top, log_probs=top.rollout_log_probs, rollout_log_probs=top.log_probs)
    return replace(batch, top=turned)


def charges_what_it_keeps(right: Function) -> Function:
    def steps(divergences: Any, away: Any, **options: Any) -> Any:
        charged, found = list(divergences), []
        for t, D in enumerate(divergences):
            found = right(charged, away, **options)
            charged[t] = D if found[t].keep else 0 * D
        return found

    return steps


def bfloat16(s: Any) -> Any:
    """The prefix sums s, summed again with too few digits."""
    return s.diff(dim=1, prepend=0 * s[:, :1]).bfloat16().cumsum(1).to(s)


MUTANTS: dict[str, Mutant] = {
    "inclusive prefix sum": slack(lambda s, w, D, delta, b: s + w * (b - D), mask.test_below_budget_the_cap_decides),
    "no initial slack": slack(lambda s, w, D, delta, b: s - delta, budget.test_figure_1_is_stricter),
    "deposits without weight": slack(
        lambda s, w, D, delta, b: s + b * ((1 - w).cumsum(1) - (1 - w)), it_is_false("a smaller w_min only relaxes")
    ),
    "credit is capped": slack(lambda s, w, D, delta, b: s.clamp(max=delta), budget.test_prefix_enters_by_its_sums),
    "debt is forgiven": slack(lambda s, w, D, delta, b: s.clamp(min=0), it_is_false("an outlier is soon forgotten")),
    "sums run over the batch": slack(lambda s, *_: s.cumsum(0), packing.test_loop_equals_prefix_sum),
    "half-precision sums": slack(lambda s, *_: bfloat16(s), mask.test_single_precision_suffices),
    "strict tests": argument("mask.verdicts", 0, lambda Z, *_: Z + 2.0**-40, mask.test_both_tests_are_inclusive),
    "no token test": argument("mask.verdicts", 2, lambda *_: math.inf, mask.test_the_budget_only_masks),
    "toward tokens are judged": result(
        "batch.moves_away", lambda away, *_: torch.ones_like(away), mask.test_toward_is_always_kept
    ),
    "direction without A": argument("batch.moves_away", 2, lambda A, *_: A.abs(), mask.test_sign_flip_swaps_roles),
    "toward tokens are not charged": argument(
        "mask.mask_rows", 1, lambda D, _, __, away, ___: D * away, refuted.test_toward_tokens_cost_too
    ),
    "padded for own length": option(
        "position_weights.position_weights", packing.test_loop_equals_prefix_sum, length="padded"
    ),
    "holes count as positions": (
        f"{R}.position_weights.position_weights",
        lambda right: lambda mask, *a, **options: right(torch.ones_like(mask), *a, **options) * mask,
        position_weights.test_weights_fall_from_one_to_w_min,
    ),
    "no weights": option(
        "position_weights.position_weights", it_is_false("the last verdict does not see the order"), schedule="constant"
    ),
    "the dynamic budget stays at its floor": result(
        "budget.clamped_quantile",
        lambda found, values, counts, q, low, high: torch.full_like(found, low),
        budget.test_dynamic_budget_is_sandwiched,
    ),
    "no interpolation": result(
        "budget.clamped_quantile",
        lambda found, values, counts, q, low, high: (values * (values <= found[:, None])).amax(1).clamp(low, high),
        budget.test_the_search_equals_the_sort,
    ),
    "half the Binary TV": result(
        "divergence.binary_tv", lambda D, *_: D / 2, divergence.test_divergences_equal_their_loop
    ),
    "KL turned round": argument("divergence.token_divergence", 0, turned_round, divergence.test_expectations_under_mu),
    "a gate on toward tokens": result(
        "gates.gate_values", lambda g, *_: g.clamp(max=0.5), gates.test_water_filling_fills_the_room
    ),
    "loss of the wrong sign": result(
        "loss.policy_loss", lambda loss, *_: -loss, loss.test_gradient_is_frozen_finite_difference
    ),
    "the mask's denominator": argument(
        "loss.aggregate", 1, lambda mask, values, *_: mask & (values != 0), loss.test_masking_keeps_the_denominator
    ),
    "the step's tokens are ignored": option("loss.aggregate", loss.test_micro_batches_add_up, total_tokens=None),
    "always divided by the deviation": option(
        "loss.group_advantages", loss.test_advantages_are_relative, normalize_std=True
    ),
    "PPO clips both ways": result("methods.grpo.PPO.__call__", clips_both_ways, families.test_ppo_clips_only_away),
    "a method without its ratio": result(
        "methods.grpo.Unmasked.__call__",
        lambda out, method, batch: replace(out, weight=batch.mask.float()),
        methods.test_every_method_equals_its_loop,
    ),
    "gated tokens are logged as masked": result(
        "diagnostics.diagnostics",
        lambda row, *_: row | {"mask/frac": row["mask/frac"] + row["gate/frac"]},
        diagnostics.test_gates_are_logged_apart_from_masks,
    ),
    "the loop charges only what it keeps": (
        "minicppo.reference.mask.cppo_steps",
        charges_what_it_keeps,
        packing.test_loop_equals_prefix_sum,
    ),
}


def plant(patch: pytest.MonkeyPatch, path: str, mutate: Function) -> None:
    """Replace a function wherever the library or the tests have imported it; a method, in its class."""
    where, name = path.rsplit(".", 1)
    owner = pkgutil.resolve_name(where)
    right = getattr(owner, name)
    wrong = mutate(right)
    for place in [owner, *(m for key, m in sys.modules.items() if key.startswith(("minicppo.r", "tests.rules")))]:
        if vars(place).get(name) is right:
            patch.setattr(place, name, wrong)


@pytest.fixture(autouse=True)
def fresh_batches():
    """Nothing that a mutant has computed of a batch is kept."""
    token_batch.cache_clear()
    yield
    token_batch.cache_clear()


@pytest.mark.parametrize("mutant", MUTANTS)
def test_it_is_noticed(mutant, monkeypatch):
    path, mutate, noticing = MUTANTS[mutant]
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # by what it does, not by its types
    if hasattr(noticing, "hypothesis"):
        monkeypatch.setattr(noticing, "_hypothesis_internal_use_settings", settings.get_profile("unshrunk"))
    plant(monkeypatch, path, mutate)
    with pytest.raises(AssertionError):
        noticing()
