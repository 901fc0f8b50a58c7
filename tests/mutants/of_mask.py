"""Mutants of the CPPO mask: prefix sum, weights, budget, batch."""

from __future__ import annotations

from tests.mutants.plant import mutants_of

MASK = mutants_of(
    "rules/cppo.py",
    (
        "strict prefix test",
        "flags(torch.lt, slack, score)",
        "flags(torch.le, slack, score)",
        "both_tests_are_inclusive",
    ),
    (
        "strict token test",
        "flags(torch.gt, score, delta)",
        "flags(torch.ge, score, delta)",
        "the_first_token_is_dppo dppo_without_weights_and_budget",
    ),
    (
        "no token test",
        "flags(torch.gt, score, delta)",
        "flags(torch.gt, -score, delta)",
        "without_weights_below_dppo kept_means_both_limits_hold",
    ),
    (
        "inverted prefix test",
        "flags(torch.lt, slack, score)",
        "flags(torch.gt, slack, score)",
        "more_drift_keeps_less capping_outliers_keeps_more lower_scores_keep_more",
    ),
    (
        "no prefix test",
        "flags(torch.lt, slack, score)",
        "flags(torch.lt, slack, -1e9)",
        "budget_above_delta_is_not_dppo kept_drift_stays_in_budget few_large_tokens_are_kept "
        "charging_only_kept_keeps_more constant_drift_closed_form",
    ),
    (
        "no toward clause",
        ".mul_(away.view(torch.int8))",
        "",
        "toward_is_always_kept sign_flip_swaps_roles",
    ),
    (
        "toward tokens are not charged",
        "prefix_slack(w, divergence, ",
        "prefix_slack(w, divergence * away, ",
        "masked_tokens_consume_budget loop_equals_prefix_sum",
    ),
    (
        "masked tokens are not charged",
        "prefix_slack(w, divergence, ",
        "prefix_slack(w, divergence * (w * divergence <= delta), ",
        "masked_tokens_consume_budget an_outlier_blocks_for_long capping_outliers_changes_the_mask",
    ),
    (
        "score without weight",
        "verdicts(divergence * w, ",
        "verdicts(divergence, ",
        "late_tokens_may_exceed_dppo order_matters_with_weights",
    ),
    (
        "invalid tokens are kept",
        ".mul_(valid.view(torch.int8))",
        "",
        "right_padding_changes_nothing a_masked_token_has_a_reason",
    ),
    (
        "invalid positions have a threshold",
        "zero_invalid(slack.clamp_(max=delta), valid)",
        "slack.clamp_(max=delta)",
        "holes_hold_zeros",
    ),
    ("a block's advantages are the first's", "A[rows] if", "A[: len(valid)] if", "blocks_change_nothing"),
)

SLACK = mutants_of(
    "rules/result.py",
    (
        "inclusive prefix sum: token t is charged before it is judged",
        "return slack.cumsum_(1)",
        "return slack.cumsum_(1) + weight * (delta_b[:, None] - divergence)",
        "the_first_token_is_dppo slack_is_a_queue causal_with_fixed_budget figure_1_is_not_equation_10",
    ),
    (
        "deposits without weight",
        "divergence[:, :-1], out=slack[:, 1:]).mul_(weight[:, :-1])",
        "(divergence * weight)[:, :-1], out=slack[:, 1:])",
        "smaller_w_min_may_mask loop_equals_prefix_sum",
    ),
    (
        "inverted deposits",
        "torch.sub(delta_b[:, None]",
        "torch.sub(-delta_b[:, None]",
        "no_drift_keeps_all larger_budget_keeps_more quiet_tail_gives_room masking_may_end the_allowance_may_grow",
    ),
    (
        "inverted charges",
        "divergence[:, :-1], out",
        "-divergence[:, :-1], out",
        "slack_is_a_queue the_threshold_may_be_negative",
    ),
    (
        "no initial slack",
        "slack[:, :1] = delta",
        "slack[:, :1] = 0",
        "figure_1_is_not_equation_10 below_budget_the_cap_decides figure_1_is_stricter",
    ),
    ("inverted slack", "slack[:, :1] = delta", "slack[:, :1] = -delta", "larger_delta_keeps_more no_drift_keeps_all"),
    (
        "slack does not scale with delta",
        "slack[:, :1] = delta",
        "slack[:, :1] = 0.125",
        "scaling_divergence_and_limits",
    ),
    (
        "credit is capped",
        "return slack.cumsum_(1)",
        "return slack.cumsum_(1).clamp_(max=delta)",
        "slack_is_a_queue prefix_enters_by_its_sums",
    ),
    (
        "debt is forgiven",
        "return slack.cumsum_(1)",
        "return slack.cumsum_(1).clamp_(min=0)",
        "the_threshold_may_be_negative an_outlier_blocks_for_long masked_responses_overrun_the_budget",
    ),
    (
        "only the last token is charged",
        "return slack.cumsum_(1)",
        "return torch.cat([slack[:, :1], slack[:, 1:] + delta], 1)",
        "order_blind_without_weights prefix_enters_by_its_sums constant_drift_closed_form",
    ),
    (
        "prefix sums run over the batch",
        "return slack.cumsum_(1)",
        "return slack.cumsum_(0)",
        "rows_do_not_see_each_other order_of_responses_is_free every_method_is_free_of_layout",
    ),
    (
        "half-precision prefix sums",
        "return slack.cumsum_(1)",
        "return slack.bfloat16().cumsum(1).to(slack)",
        "single_precision_suffices",
    ),
    (
        "a token's own drift sets its budget",
        "slack[:, :1] = delta",
        "slack[:, :1] = delta + divergence.amax(1, keepdim=True)",
        "causal_with_fixed_budget",
    ),
    (
        "without a budget, no slack",
        "slack.fill_(math.inf)",
        "slack.fill_(0.0)",
        "the_budget_only_masks",
    ),
    (
        "tokens the prefix masks count as kept",
        "from_toward, 2)",
        "from_toward, 4)",
        "kept_means_both_limits_hold loop_equals_prefix_sum",
    ),
)

WEIGHTS = mutants_of(
    "rules/weights.py",
    (
        "padded length",
        "        total = own\n    elif",
        "        total = torch.full_like(own, response_mask.shape[1])\n    elif",
        "holes_change_nothing",
    ),
    (
        "rank off by one",
        "torch.arange(valid.shape[1], dtype",
        "torch.arange(1, valid.shape[1] + 1, dtype",
        "weights_fall_from_one_to_w_min the_first_token_is_dppo",
    ),
    ("rank off by one behind holes", "cumsum(1).sub_(1)", "cumsum(1)", "holes_change_nothing"),
    (
        "position counts invalid tokens",
        "if rises.numel() and rises.max():",
        "if False:",
        "holes_change_nothing every_method_is_free_of_layout",
    ),
    ("T in the place of T - 1", "(total - 1).clamp(min=1)", "total", "weights_fall_from_one_to_w_min"),
    (
        "a single token weighs w_min",
        ".add_(1).mul_(",
        ".add_(torch.where(total == 1, w_min, 1.0)).mul_(",
        "weights_fall_from_one_to_w_min",
    ),
    (
        "weights rise",
        "rank * (w_min - 1)",
        "rank * (1 - w_min)",
        "smaller_w_min_relaxes_the_cap the_allowance_may_grow truncation_moves_the_own_schedule",
    ),
    (
        "no weights",
        'if schedule == "constant"',
        "if True",
        "late_tokens_may_exceed_dppo order_matters_with_weights truncation_moves_the_own_schedule "
        "off_policy_all_methods_differ smaller_w_min_may_mask",
    ),
    (
        "the horizon is ignored",
        "total = torch.full_like(own, length)",
        "total = own",
        "truncation_agrees_on_a_horizon",
    ),
    ("each row shuffles anew", "1_000_003 + n", "1_000_003 + n + row", "shuffling_permutes_the_weights"),
)

BUDGET = mutants_of(
    "rules/budget.py",
    (
        "no floor",
        "low: float, high: float\n",
        "zero: float, high: float, low: float = 1e-9\n",
        "dynamic_budget_is_sandwiched",
    ),
    ("the cap is five times the floor", "cap_factor * delta_b)", "5 * delta_b)", "dynamic_budget_is_sandwiched"),
    (
        "quantile off by one",
        "position = q * last",
        "position = q * (last - 1).clamp(min=0)",
        "the_quantile_ignores_position",
    ),
    (
        "no interpolation",
        "below + fraction.to(below) * (beyond - below)",
        "below",
        "the_quantile_ignores_position the_search_equals_the_sort",
    ),
    ("no interpolation of the sorted", "low + fraction.to(low) * (high - low)", "low", "the_search_equals_the_sort"),
    ("an unfinished search is believed", "(low == high) & (k > 0)", "k > 0", "the_search_equals_the_sort"),
    ("the maximum is searched", "(low == high) & (k > 0)", "low == high", "the_search_equals_the_sort"),
    (
        "the dynamic budget is fixed",
        'if budget == "fixed"',
        'if budget != "off"',
        "dynamic_budget_is_not_causal dynamic_budget_is_sandwiched",
    ),
    (
        "the fixed budget is dynamic",
        'if budget == "fixed"',
        "if False",
        "causal_with_fixed_budget slack_is_a_queue",
    ),
    (
        "no budget means a budget",
        'budget == "off" or ',
        "",
        "capping_above_the_allowance_is_free water_filling_fills_the_room dppo_is_cppo_unweighted_unbudgeted",
    ),
)

BATCH = mutants_of(
    "rules/batch.py",
    (
        "direction without the advantage",
        ".mul_(advantages), 0.0)",
        ", 0.0)",
        "sign_flip_swaps_roles only_the_sign_matters ppo_clips_only_away",
    ),
    (
        "standing still is moving away",
        "flags(torch.gt, (log_probs",
        "flags(torch.ge, (log_probs",
        "toward_is_always_kept",
    ),
    (
        "small advantages have no direction",
        ".mul_(advantages), 0.0)",
        ".mul_(advantages), 1e-3)",
        "size_of_the_advantage_is_free",
    ),
    (
        "ratio held within e^0.1",
        "LOG_RATIO_LIMIT = 20.0",
        "LOG_RATIO_LIMIT = 0.1",
        "every_method_equals_its_loop gspo_shares_one_weight expectations_under_mu",
    ),
    (
        "the packed mask is ignored",
        'padded.get("response_mask", layout.slots).bool() & layout.slots',
        "layout.slots",
        "every_method_is_free_of_layout",
    ),
    (
        "rows lose their order",
        "getattr(self, k)[index]",
        "getattr(self, k)[index.sort().values]",
        "every_method_is_free_of_layout",
    ),
)

LAYOUT = mutants_of(
    "rules/layout.py",
    (
        "packed tokens end up reversed",
        "masked_scatter(slots, values)",
        "masked_scatter(slots, values.flip(0))",
        "packed_equals_padded packed_loss_equals_padded",
    ),
    (
        "every block begins at the first token",
        "first, width, offset = row, n, end",
        "first, width = row, n",
        "blocks_change_nothing",
    ),
    (
        "a row of each block is lost",
        "rows = slice(start, start + step)",
        "rows = slice(start, start + step - 1)",
        "blocks_change_nothing",
    ),
)

OF_MASK = [*MASK, *SLACK, *WEIGHTS, *BUDGET, *BATCH, *LAYOUT]
