"""Mutants of the loss, the advantages and the reference loops."""

from __future__ import annotations

from tests.mutants.plant import mutants_of

LOSS = mutants_of(
    "rules/loss.py",
    (
        "denominator from the algorithm's mask",
        "counts = response_mask.sum(1)",
        "counts = (response_mask & (values != 0)).sum(1)",
        "masking_keeps_the_denominator masked_tokens_have_no_gradient",
    ),
    ("the step's tokens are ignored", "if total_tokens is None else total_tokens", "", "micro_batches_add_up"),
    (
        "the step's responses are ignored",
        "len(values) if total_sequences is None else total_sequences",
        "len(values)",
        "micro_batches_add_up",
    ),
    (
        "token mean over the width",
        "values.sum(1) / counts.clamp(min=1)",
        "values.mean(1)",
        "aggregation_equals_its_loop padding_never_reaches_the_gradient",
    ),
    (
        "the horizon is the width",
        "(sequences * horizon)",
        "(sequences * response_mask.shape[1])",
        "aggregation_equals_its_loop",
    ),
    (
        "loss of the wrong sign",
        "-weight.detach() *",
        "weight.detach() *",
        "gradient_is_frozen_finite_difference value_is_minus_weighted_advantage ppo_native",
    ),
    ("gradient flows through g", "-weight.detach() *", "-weight *", "value_is_minus_weighted_advantage"),
    (
        "unit without its stop",
        "log_probs - log_probs.detach()",
        "log_probs",
        "gradient_is_frozen_finite_difference sapo_native drpo_native gspo_native",
    ),
    (
        "padding reaches the exponential",
        "log_probs = log_probs.masked_fill(~response_mask, 0.0)",
        "log_probs = log_probs + 0.0",
        "padding_never_reaches_the_gradient",
    ),
    (
        "a packed batch's advantages stay packed",
        "if advantages.shape != lengths.shape:",
        "if False:",
        "packed_loss_equals_padded",
    ),
)

ADVANTAGES = mutants_of(
    "rules/advantages.py",
    (
        "groups interleaved",
        "rewards.reshape(-1, group_size)",
        "rewards.reshape(group_size, -1).T",
        "advantages_equal_their_loop",
    ),
    ("ddof ignored", "correction=ddof", "correction=0", "advantages_equal_their_loop"),
    (
        "always divided by the deviation",
        "if normalize_std:",
        "if True:",
        "advantages_are_relative advantages_equal_their_loop",
    ),
    (
        "no centring",
        "groups - groups.mean(1, keepdim=True)",
        "groups - 0 * groups.mean(1, keepdim=True)",
        "advantages_are_relative",
    ),
    ("no group is dropped", "dropped_groups=int((~alive).sum())", "dropped_groups=0", "advantages_equal_their_loop"),
)

REFERENCE = [
    *mutants_of(
        "reference/algorithm1.py",
        (
            "loop: strict test",
            "elif Z <= c:",
            "elif Z < c:",
            "both_tests_are_inclusive loop_equals_prefix_sum the_first_token_is_dppo",
        ),
        (
            "loop: deposits without weight",
            "        W += w\n",
            "        W += 1\n",
            "scaling_weights_and_delta smaller_w_min_may_mask",
        ),
        (
            "loop: charged before judged",
            "        Z = w * D\n",
            "        Z = w * D\n        S += Z\n",
            "the_first_token_is_dppo figure_1_is_not_equation_10",
        ),
        (
            "loop: kept tokens alone are charged",
            "        S += Z\n",
            "        S += Z * (not moves_away or Z <= c)\n",
            "masked_tokens_consume_budget an_outlier_blocks_for_long",
        ),
        ("loop: no cap", "c = min(delta, slack)", "c = slack", "without_weights_below_dppo"),
        ("loop: no toward clause", "if not moves_away:", "if False:", "toward_is_always_kept"),
        (
            "loop: weights in floats",
            "return [1 - (1 - w_min) * t / (length - 1)",
            "return [float(1 - (1 - w_min) * t / (length - 1))",
            "loop_runs_in_fractions",
        ),
        ("loop: reasons without a budget", "slack = math.inf if", "slack = delta if", "loop_equals_prefix_sum"),
        (
            "loop: lower quantile",
            "return ordered[below] + (position - below) * (ordered[above] - ordered[below])",
            "return ordered[below]",
            "dynamic_budget_is_sandwiched",
        ),
        ("loop: soft gate is 1 / x^2", "gates.append(1 / x)", "gates.append(1 / x**2)", "soft_gate_is_one_where_kept"),
        (
            "loop: the soft gate keeps a budget",
            "x = max(x, (step.score_before + step.score)",
            "x = 2 * max(x, (step.score_before + step.score)",
            "soft_gate_overruns_the_budget",
        ),
        (
            "loop: the budget gate charges all",
            "spent += gate * step.score",
            "spent += step.score",
            "water_filling_keeps_the_budget",
        ),
    ),
    *mutants_of(
        "reference/divergence.py",
        (
            "loop: TV without the half",
            "zip(mu, pi, strict=True)) / 2",
            "zip(mu, pi, strict=True))",
            "expectations_under_mu",
        ),
        (
            "loop: predicted drift of the wrong sign",
            "a * (b - a) for a, b",
            "a * (a - b) for a, b",
            "predicted_drift_is_a_derivative",
        ),
        ("loop: replace-last in the union", 'if variant == "union"', "if False", "divergences_equal_their_loop"),
    ),
    *mutants_of(
        "reference/loss.py",
        ("loop: token mean of means", 'if mode == "token-mean":', 'if mode == "no":', "aggregation_equals_its_loop"),
        ("loop: population deviation", "ddof=ddof", "ddof=0", "advantages_equal_their_loop"),
    ),
    *mutants_of(
        "reference/methods.py",
        (
            "loop: MinPRO's inclusive minimum",
            "        prefix = 1.0 if smallest == math.inf else smallest\n",
            "        smallest = min(smallest, rho)\n        prefix = smallest\n",
            "every_method_equals_its_loop",
        ),
        (
            "loop: TRM by the last token",
            "max(div) <= delta_max",
            "div[-1] <= delta_max",
            "every_method_equals_its_loop",
        ),
    ),
]

OF_LOSS = [*LOSS, *ADVANTAGES, *REFERENCE]
