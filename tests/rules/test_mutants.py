"""Wrong behaviour is noticed: a function of the rules or of the loops is replaced, and the named property must fail.

These mutants say what each property is for. `make mutants` makes many more of them, line by line.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings

from minicppo import rules
from tests.rules import (
    test_advantages,
    test_budget,
    test_diagnostics,
    test_divergence,
    test_families,
    test_gates,
    test_loss,
    test_mask,
    test_methods,
    test_packing,
    test_position_weights,
    test_refuted,
)

Function = Callable[..., Any]


def slack(change: Function) -> Function:
    """`prefix_slack` with its result changed; change(slack, w, D, delta, delta_b)."""
    return lambda right: (
        lambda w, D, delta, b: (
            right(w, D, delta, b) if b is None else change(right(w, D, delta, b), w, D, delta, b[:, None])
        )
    )


def argument(index: int, change: Function) -> Function:
    """A function with one of its positional arguments changed; change(argument, *all)."""
    return lambda right: (
        lambda *given, **options: right(*given[:index], change(given[index], *given), *given[index + 1 :], **options)
    )


def options(**fixed: Any) -> Function:
    """A function with some of its keyword arguments forced."""
    return lambda right: lambda *given, **others: right(*given, **{**others, **fixed})


def result(change: Function) -> Function:
    """A function with its result changed; change(result, *arguments)."""
    return lambda right: lambda *given, **others: change(right(*given, **others), *given)


def clips_both_ways(out: rules.TokenWeights, method: Any, batch: rules.TokenBatch) -> rules.TokenWeights:
    inside = (batch.ratio <= 1 + method.clip_high) & (batch.ratio >= 1 - method.clip_low)
    return replace(out, weight=out.weight * inside, token_mask=out.token_mask & inside)


def charges_what_it_keeps(right: Function) -> Function:
    def steps(divergences: Any, away: Any, **options: Any) -> Any:
        charged, found = list(divergences), []
        for t, D in enumerate(divergences):
            found = right(charged, away, **options)
            charged[t] = D if found[t].keep else 0 * D
        return found

    return steps


R = "minicppo.rules"
MUTANTS: dict[str, tuple[str, Function, Function]] = {  # the function, what it becomes, the property that fails
    "inclusive prefix sum": (
        f"{R}.outputs.prefix_slack",
        slack(lambda s, w, D, delta, b: s + w * (b - D)),
        test_mask.test_the_first_token_is_dppo,
    ),
    "no initial slack": (
        f"{R}.outputs.prefix_slack",
        slack(lambda s, w, D, delta, b: s - delta),
        test_budget.test_figure_1_is_stricter,
    ),
    "deposits without weight": (
        f"{R}.outputs.prefix_slack",
        slack(lambda s, w, D, delta, b: s + (b * (1 - w)).cumsum(1) - b * (1 - w)),
        test_refuted.test_smaller_w_min_may_mask,
    ),
    "credit is capped": (
        f"{R}.outputs.prefix_slack",
        slack(lambda s, w, D, delta, b: s.clamp(max=delta)),
        test_budget.test_prefix_enters_by_its_sums,
    ),
    "debt is forgiven": (
        f"{R}.outputs.prefix_slack",
        slack(lambda s, w, D, delta, b: s.clamp(min=0)),
        test_refuted.test_an_outlier_blocks_for_long,
    ),
    "prefix sums run over the batch": (
        f"{R}.outputs.prefix_slack",
        slack(lambda s, w, D, delta, b: s.cumsum(0)),
        test_packing.test_rows_do_not_see_each_other,
    ),
    "half-precision prefix sums": (
        f"{R}.outputs.prefix_slack",
        slack(lambda s, w, D, delta, b: s.diff(dim=1, prepend=0 * s[:, :1]).bfloat16().cumsum(1).to(s)),
        test_mask.test_single_precision_suffices,
    ),
    "strict tests": (
        f"{R}.mask.verdicts",
        argument(0, lambda Z, *_: Z + 2.0**-40),
        test_mask.test_both_tests_are_inclusive,
    ),
    "no token test": (
        f"{R}.mask.verdicts",
        argument(2, lambda delta, *_: math.inf),
        test_mask.test_without_weights_below_dppo,
    ),
    "toward tokens are judged": (
        f"{R}.batch.moves_away",
        result(lambda away, *_: torch.ones_like(away)),
        test_mask.test_toward_is_always_kept,
    ),
    "direction without the advantage": (
        f"{R}.batch.moves_away",
        argument(2, lambda A, *_: A.abs()),
        test_mask.test_sign_flip_swaps_roles,
    ),
    "toward tokens are not charged": (
        f"{R}.mask.mask_rows",
        argument(1, lambda D, valid, _, away, rule: D * away),
        test_refuted.test_masked_tokens_consume_budget,
    ),
    "the padded length for the own": (
        f"{R}.position_weights.position_weights",
        options(length="padded"),
        test_packing.test_holes_change_nothing,
    ),
    "invalid tokens count as positions": (
        f"{R}.position_weights.position_weights",
        lambda right: lambda mask, *given, **more: right(torch.ones_like(mask), *given, **more) * mask,
        test_position_weights.test_weights_fall_from_one_to_w_min,
    ),
    "no weights": (
        f"{R}.position_weights.position_weights",
        options(schedule="constant"),
        test_refuted.test_order_matters_with_weights,
    ),
    "the dynamic budget stays at its floor": (
        f"{R}.budget.clamped_quantile",
        result(lambda found, values, counts, q, low, high: torch.full_like(found, low)),
        test_budget.test_dynamic_budget_is_sandwiched,
    ),
    "no interpolation of the quantile": (
        f"{R}.budget.searched_quantile",
        lambda right: lambda values, k, fraction, *given: right(values, k, 0 * fraction, *given),
        test_budget.test_the_search_equals_the_sort,
    ),
    "half the Binary TV": (
        f"{R}.divergence.binary_tv",
        result(lambda D, *_: D / 2),
        test_divergence.test_divergences_equal_their_loop,
    ),
    "exact KL the wrong way round": (
        f"{R}.divergence.exact_kl",
        argument(0, lambda t, *_: replace(t, log_probs=t.rollout_log_probs, rollout_log_probs=t.log_probs)),
        test_divergence.test_expectations_under_mu,
    ),
    "a gate on toward tokens": (
        f"{R}.gates.gate_values",
        result(lambda passed, mask, gate: passed.clamp(max=0.5)),
        test_gates.test_water_filling_fills_the_room,
    ),
    "loss of the wrong sign": (
        f"{R}.loss.policy_loss",
        result(lambda loss, *_: -loss),
        test_loss.test_gradient_is_frozen_finite_difference,
    ),
    "the denominator is the algorithm's mask": (
        f"{R}.loss.aggregate",
        argument(1, lambda mask, values, *_: mask & (values != 0)),
        test_loss.test_masking_keeps_the_denominator,
    ),
    "the step's tokens are ignored": (
        f"{R}.loss.aggregate",
        options(total_tokens=None),
        test_loss.test_micro_batches_add_up,
    ),
    "always divided by the deviation": (
        f"{R}.advantages.group_advantages",
        options(normalize_std=True),
        test_advantages.test_advantages_are_relative,
    ),
    "PPO clips both ways": (f"{R}.methods.grpo.PPO.__call__", result(clips_both_ways), test_families.test_ppo_native),
    "a method without its ratio": (
        f"{R}.methods.policy_gradient.Unmasked.__call__",
        result(lambda out, method, batch: replace(out, weight=batch.mask.float())),
        test_methods.test_every_method_equals_its_loop,
    ),
    "gated tokens are logged as masked": (
        f"{R}.diagnostics.diagnostics",
        result(lambda row, *_: row | {"mask/frac": row["mask/frac"] + row["gate/frac"]}),
        test_diagnostics.test_gates_are_logged_apart_from_masks,
    ),
    "the loop charges only what it keeps": (
        "minicppo.reference.mask.cppo_steps",
        charges_what_it_keeps,
        test_packing.test_loop_equals_prefix_sum,
    ),
}


def plant(patch: pytest.MonkeyPatch, path: str, mutate: Function) -> None:
    """Replace a function wherever the library or the tests have imported it; a method, in its class."""
    where, name = path.rsplit(".", 1)
    if where.rsplit(".", 1)[1][0].isupper():
        module, kind = where.rsplit(".", 1)
        found = getattr(importlib.import_module(module), kind)
        return patch.setattr(found, name, mutate(getattr(found, name)))
    right = getattr(importlib.import_module(where), name)
    wrong = mutate(right)
    for module in [m for key, m in sys.modules.items() if key.startswith(("minicppo.r", "tests.rules"))]:
        if vars(module).get(name) is right:
            patch.setattr(module, name, wrong)
    return None


@pytest.mark.parametrize("mutant", MUTANTS)
def test_it_is_noticed(mutant, monkeypatch):
    path, mutate, noticing = MUTANTS[mutant]
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # by what it does, not by its types
    if hasattr(noticing, "hypothesis"):
        quick = settings(settings.get_profile("minicppo"), phases=[Phase.generate], database=None)
        monkeypatch.setattr(noticing, "_hypothesis_internal_use_settings", quick)  # unshrunk
    plant(monkeypatch, path, mutate)
    with pytest.raises(AssertionError):
        noticing()
