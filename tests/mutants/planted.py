"""The mutants, file by file. A killer must fail on its mutant; every property is the killer of at least one."""

from __future__ import annotations

from tests.mutants.plant import Mutant


def _in(file: str, *lines: tuple[str, str, str, str]) -> list[Mutant]:
    return [Mutant(name, file, old, new, tuple(killers.split())) for name, old, new, killers in lines]


MASK = _in(
    "rules/cppo.py",
    (
        "inclusive prefix sum: token t is charged before it is judged",
        "        slack.cumsum_(1)\n",
        "        slack.cumsum_(1)\n        slack += w * allowed[:, None] - Z\n",
        "the_first_token_is_dppo slack_is_a_queue causal_with_fixed_budget figure_1_is_not_equation_10",
    ),
    ("strict prefix test", "(slack < Z)", "(slack <= Z)", "both_tests_are_inclusive"),
    ("strict token test", ".add_(delta < Z)", ".add_(delta <= Z)", "the_first_token_is_dppo dppo_without_weights_and_budget"),
    (
        "no token test",
        ".add_(delta < Z)",
        ".add_(Z < 0)",
        "without_weights_below_dppo kept_means_both_limits_hold",
    ),
    (
        "inverted prefix test",
        "(slack < Z)",
        "(slack > Z)",
        "more_drift_keeps_less capping_outliers_keeps_more lower_scores_keep_more",
    ),
    (
        "no prefix test",
        "(slack < Z)",
        "(slack < -1e9)",
        "budget_above_delta_is_not_dppo kept_drift_stays_in_budget few_large_tokens_are_kept "
        "charging_only_kept_keeps_more constant_drift_closed_form",
    ),
    ("no toward clause", "~away", "~valid", "toward_is_always_kept sign_flip_swaps_roles"),
    (
        "toward tokens are not charged",
        ".sub_(Z[:, :-1])",
        ".sub_((Z * away)[:, :-1])",
        "slack_is_a_queue masked_tokens_consume_budget",
    ),
    (
        "masked tokens are not charged",
        ".sub_(Z[:, :-1])",
        ".sub_((Z * (Z <= delta))[:, :-1])",
        "masked_tokens_consume_budget an_outlier_blocks_for_long masked_responses_overrun_the_budget "
        "the_threshold_may_be_negative capping_outliers_changes_the_mask",
    ),
    (
        "deposits without weight",
        "torch.mul(w[:, :-1], allowed[:, None]",
        "torch.mul(valid[:, :-1], allowed[:, None]",
        "smaller_w_min_may_mask loop_equals_prefix_sum",
    ),
    (
        "inverted deposits",
        "torch.mul(w[:, :-1], allowed[:, None]",
        "torch.mul(w[:, :-1], -allowed[:, None]",
        "no_drift_keeps_all larger_budget_keeps_more quiet_tail_gives_room masking_may_end the_allowance_may_grow",
    ),
    (
        "inverted charges",
        ".sub_(Z[:, :-1])",
        ".add_(Z[:, :-1])",
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
        "        slack.cumsum_(1)\n",
        "        slack.cumsum_(1).clamp_(max=delta)\n",
        "slack_is_a_queue prefix_enters_by_its_sums",
    ),
    (
        "debt is forgiven",
        "        slack.cumsum_(1)\n",
        "        slack.cumsum_(1).clamp_(min=0)\n",
        "the_threshold_may_be_negative an_outlier_blocks_for_long masked_responses_overrun_the_budget",
    ),
    (
        "only the last token is charged",
        "        slack.cumsum_(1)\n",
        "        slack[:, 1:] += delta\n",
        "order_blind_without_weights prefix_enters_by_its_sums constant_drift_closed_form",
    ),
    (
        "prefix sums run over the batch",
        "slack.cumsum_(1)",
        "slack.cumsum_(0)",
        "rows_do_not_see_each_other order_of_responses_is_free every_method_is_free_of_layout",
    ),
    (
        "half-precision prefix sums",
        "        slack.cumsum_(1)\n",
        "        slack = slack.bfloat16().cumsum(1).to(slack)\n",
        "single_precision_suffices",
    ),
    (
        "score without weight",
        "    Z = w * divergence\n",
        "    Z = divergence\n",
        "late_tokens_may_exceed_dppo order_matters_with_weights",
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
    ("invalid tokens are kept", ".mul_(valid)", "", "right_padding_changes_nothing a_masked_token_has_a_reason"),
)

WEIGHTS = _in(
    "rules/weights.py",
    (
        "padded length",
        "        total = own\n    elif",
        "        total = torch.full_like(own, response_mask.shape[1])\n    elif",
        "holes_change_nothing",
    ),
    (
        "rank off by one",
        "dtype=dtype).sub_(1)",
        "dtype=dtype)",
        "weights_fall_from_one_to_w_min the_first_token_is_dppo",
    ),
    (
        "position counts invalid tokens",
        "rank = response_mask.cumsum(",
        "rank = torch.ones_like(response_mask).cumsum(",
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
        "rank.mul_(w_min - 1)",
        "rank.mul_(1 - w_min)",
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

BUDGET = _in(
    "rules/budget.py",
    ("no floor", "low: float, high: float\n", "zero: float, high: float, low: float = 1e-9\n", "dynamic_budget_is_sandwiched"),
    ("the cap is five times the floor", "cap_factor * delta_b)", "5 * delta_b)", "dynamic_budget_is_sandwiched"),
    ("quantile off by one", "position = q * last", "position = q * (last - 1).clamp(min=0)", "the_quantile_ignores_position"),
    ("no interpolation", "low + fraction.to(low) * (high - low)", "low", "the_quantile_ignores_position"),
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

BATCH = _in(
    "rules/batch.py",
    (
        "direction without the advantage",
        ".mul_(self.advantages) > 0",
        " > 0",
        "sign_flip_swaps_roles only_the_sign_matters ppo_clips_only_away",
    ),
    ("standing still is moving away", ".mul_(self.advantages) > 0", ".mul_(self.advantages) >= 0", "toward_is_always_kept"),
    (
        "small advantages have no direction",
        ".mul_(self.advantages) > 0",
        ".mul_(self.advantages) > 1e-3",
        "size_of_the_advantage_is_free",
    ),
    (
        "ratio held within e^0.1",
        "LOG_RATIO_LIMIT = 20.0",
        "LOG_RATIO_LIMIT = 0.1",
        "every_method_equals_its_loop gspo_shares_one_weight expectations_under_mu",
    ),
    ("packed tokens end up reversed", "padded[slots] = values", "padded[slots] = values.flip(0)", "packed_equals_padded packed_loss_equals_padded"),
    (
        "the packed mask is ignored",
        'padded["response_mask"].bool() & slots if "response_mask" in padded else slots',
        "slots",
        "packed_equals_padded",
    ),
    ("rows lose their order", "getattr(self, k)[index]", "getattr(self, k)[index.sort().values]", "every_method_is_free_of_layout"),
)

DIVERGENCE = _in(
    "rules/divergence.py",
    (
        "half the Binary TV",
        ".sub_(rollout_log_probs.exp()).abs_()",
        ".sub_(rollout_log_probs.exp()).abs_().div_(2)",
        "divergences_equal_their_loop",
    ),
    ("twice the exact TV", "return 0.5 * (cells", "return 1.0 * (cells", "expectations_under_mu"),
    (
        "exact KL the wrong way round",
        "    mu = cells.rollout_log_probs.exp()\n    terms = mu * (cells.rollout_log_probs - cells.log_probs)",
        "    mu = cells.log_probs.exp()\n    terms = mu * (cells.log_probs - cells.rollout_log_probs)",
        "expectations_under_mu divergences_equal_their_loop trm_native",
    ),
    (
        "Binary KL the wrong way round",
        "log_pi, log_mu = log_probs.double(), rollout_log_probs.double()",
        "log_mu, log_pi = log_probs.double(), rollout_log_probs.double()",
        "finer_partitions_see_more divergences_equal_their_loop",
    ),
    (
        "Top-K KL the wrong way round",
        "(mu * (mu.log() - pi.log()))",
        "(pi * (pi.log() - mu.log()))",
        "finer_partitions_see_more divergences_equal_their_loop",
    ),
    (
        "the sampled token is not a cell",
        "(cells.ids != cells.token_ids[..., None]).all(-1, keepdim=True)",
        "(cells.ids != cells.ids).all(-1, keepdim=True)",
        "divergences_equal_their_loop finer_partitions_see_more",
    ),
    (
        "union and replace-last swapped",
        'if variant == "replace_last":',
        'if variant == "union":',
        "divergences_equal_their_loop finer_partitions_see_more",
    ),
    (
        "no other cell",
        "torch.cat([single, own, rest], -1)",
        "torch.cat([single, own], -1)",
        "divergences_equal_their_loop",
    ),
    (
        "k1 in the place of k3",
        "return batch.log_ratio.expm1() - batch.log_ratio",
        "return -batch.log_ratio",
        "divergences_equal_their_loop",
    ),
    (
        "tool rows keep a divergence",
        "return clean_tokens(kind, value.to(batch.log_probs.dtype), batch.mask)",
        "return value.to(batch.log_probs.dtype) + ~batch.mask",
        "divergences_equal_their_loop",
    ),
    ("predicted drift of the wrong sign", "(pi * (mu - pi)).sum(-1)", "(pi * (pi - mu)).sum(-1)", "predicted_drift_is_a_derivative"),
)

RATIO = _in(
    "rules/methods/ratio.py",
    (
        "masked tokens keep their weight",
        "weight=weight.float() * keep",
        "weight=weight.float() * batch.mask",
        "a_masked_token_has_a_reason ppo_native trm_keeps_or_rejects_whole",
    ),
    ("g in the input's precision", "weight=weight.float() * keep", "weight=weight * keep", "single_precision_weights"),
    ("reasons swapped", "torch.where(batch.away, int(Reason.INSIDE), int(Reason.TOWARD))", "torch.where(batch.away, int(Reason.TOWARD), int(Reason.INSIDE))", "a_masked_token_has_a_reason"),
    (
        "PPO clips both ways",
        "clipped = ((A > 0) & (rho > 1 + clip_high)) | ((A < 0) & (rho < 1 - clip_low))",
        "clipped = (rho > 1 + clip_high) | (rho < 1 - clip_low)",
        "ppo_clips_only_away ppo_native",
    ),
    ("PPO keeps only the clipped", "return masked_weights(batch, ~clipped, rho)", "return masked_weights(batch, clipped, rho)", "on_policy_all_methods_agree some_gradient_is_left"),
    ("PPO is not a clip", "return masked_weights(batch, ~clipped, rho)", "return masked_weights(batch, batch.mask, rho)", "ppo_native"),
    ("CISPO's maximum is 1 + w_max", "batch.ratio.clamp(w_low, w_max)", "batch.ratio.clamp(w_low, 1 + w_max)", "cispo_bounds_every_weight clipped_weight_native"),
    (
        "MinPRO's minimum includes the token",
        "before[:, 1:] = running[:, :-1].nan_to_num(posinf=0.0)",
        "before = running.nan_to_num(posinf=0.0)",
        "minpro_looks_back_only clipped_weight_native",
    ),
    (
        "MinPRO's prefix factor never exceeds 1",
        "before[:, 1:] = running[:, :-1].nan_to_num(posinf=0.0)",
        "before[:, 1:] = running[:, :-1].nan_to_num(posinf=0.0).clamp(max=0)",
        "clipped_weight_native",
    ),
    (
        "tool tokens enter MinPRO's minimum",
        "masked_fill(~batch.mask, math.inf)",
        "masked_fill(~batch.mask, -3.0)",
        "clipped_weight_native",
    ),
    (
        "GSPO's mean is over the padded width",
        "batch.lengths.clamp(min=1)[:, None]",
        "batch.mask.shape[1]",
        "gspo_shares_one_weight",
    ),
    ("GSPO's weight is the token's", "mean.exp().expand_as(batch.ratio)", "batch.ratio", "gspo_shares_one_weight gspo_native"),
    ("SAPO's temperatures swapped", "torch.where(batch.advantages > 0, tau_pos, tau_neg)", "torch.where(batch.advantages > 0, tau_neg, tau_pos)", "sapo_native sapo_peaks_on_policy"),
    ("SAPO without the factor 4", "4 * p * (1 - p) * batch.ratio", "p * (1 - p) * batch.ratio", "on_policy_all_methods_agree sapo_peaks_on_policy"),
    ("SAPO without the ratio", "4 * p * (1 - p) * batch.ratio", "4 * p * (1 - p)", "sapo_native"),
    ("DRPO pushes away", "(1 - sign * excess / delta)", "(1 + sign * excess / delta)", "drpo_pulls_back drpo_native"),
    ("DRPO is SPO", "    if mu_weighted:", "    if False:", "drpo_native drpo_pulls_back off_policy_all_methods_differ"),
)

BY_DIVERGENCE = _in(
    "rules/methods/divergence.py",
    ("DPPO masks both directions", "keep = ~(away & (", "keep = ~(batch.mask & (", "dppo_masks_only_far_and_away"),
    ("DPPO never masks", "keep = ~(away & (", "keep = batch.mask | ~(away & (", "dppo_is_cppo_unweighted_unbudgeted dppo_masks_only_far_and_away"),
    (
        "DPPO ignores its cap",
        "batch, keep, batch.ratio.clamp(max=ratio_cap), divergence=D",
        "batch, keep, batch.ratio, divergence=D",
        "the_ratio_cap_bounds_the_weight",
    ),
    ("the share above the cap counts padding", "((batch.ratio > ratio_cap) & batch.mask).sum() / batch.mask.sum()", "((batch.ratio > ratio_cap) | ~batch.mask).sum() / batch.mask.sum()", "the_ratio_cap_bounds_the_weight"),
    ("TRM-Max sees the first token", "D.amax(1) <= delta_max", "D[:, 0] <= delta_max", "trm_native"),
    ("TRM-Avg sums", "delta_avg * batch.lengths", "delta_avg", "trm_native"),
    ("TRM asks for either limit", "accepted &= ", "accepted |= ", "trm_both_is_the_conjunction"),
    ("TRM spares tokens that move toward mu", "expand_as(batch.mask)\n", "expand_as(batch.mask) | ~batch.away\n", "trm_keeps_or_rejects_whole trm_native"),
    ("CPPO without the ratio", "(passed * batch.ratio.clamp(max=ratio_cap))", "passed", "cppo_native"),
    ("the soft gate's S_t excludes token t", "spent = limit - mask.slack + Z", "spent = limit - mask.slack", "soft_gate_is_one_where_kept"),
    ("the soft gate takes the laxer test", "x = torch.maximum(", "x = torch.minimum(", "soft_gate_is_one_where_kept"),
    ("gates act on toward tokens", "return torch.where(toward, 1.0, passed)", "return passed", "water_filling_keeps_the_budget"),
    (
        "the budget gate charges what it refused",
        "demand = mask.score.clamp(max=mask.delta)",
        "demand = mask.score",
        "water_filling_keeps_the_budget",
    ),
    (
        "the budget gate forgets what it passed",
        "before[:, 1:] = spent[:, :-1]",
        "before[:, 1:] = demand[:, :-1]",
        "water_filling_keeps_the_budget",
    ),
)

LOSS = _in(
    "rules/loss.py",
    (
        "denominator from the algorithm's mask",
        "counts = response_mask.sum(1)",
        "counts = (response_mask & (values != 0)).sum(1)",
        "masking_keeps_the_denominator masked_tokens_have_no_gradient",
    ),
    ("the step's tokens are ignored", "if total_tokens is None else total_tokens", "", "micro_batches_add_up"),
    ("the step's responses are ignored", "len(values) if total_sequences is None else total_sequences", "len(values)", "micro_batches_add_up"),
    ("token mean over the width", "values.sum(1) / counts.clamp(min=1)", "values.mean(1)", "aggregation_equals_its_loop padding_never_reaches_the_gradient"),
    ("the horizon is the width", "(sequences * horizon)", "(sequences * response_mask.shape[1])", "aggregation_equals_its_loop"),
    ("loss of the wrong sign", "-weight.detach() *", "weight.detach() *", "gradient_is_frozen_finite_difference value_is_minus_weighted_advantage ppo_native"),
    ("gradient flows through g", "-weight.detach() *", "-weight *", "value_is_minus_weighted_advantage"),
    ("unit without its stop", "log_probs - log_probs.detach()", "log_probs", "gradient_is_frozen_finite_difference sapo_native drpo_native gspo_native"),
    (
        "padding reaches the exponential",
        "log_probs = log_probs.masked_fill(~response_mask, 0.0)",
        "log_probs = log_probs + 0.0",
        "padding_never_reaches_the_gradient",
    ),
    ("a packed batch's advantages stay packed", "if advantages.shape != lengths.shape:", "if False:", "packed_loss_equals_padded"),
)

ADVANTAGES = _in(
    "rules/advantages.py",
    ("groups interleaved", "rewards.reshape(-1, group_size)", "rewards.reshape(group_size, -1).T", "advantages_equal_their_loop"),
    ("ddof ignored", "correction=ddof", "correction=0", "advantages_equal_their_loop"),
    ("always divided by the deviation", "if normalize_std:", "if True:", "advantages_are_relative advantages_equal_their_loop"),
    ("no centring", "groups - groups.mean(1, keepdim=True)", "groups - 0 * groups.mean(1, keepdim=True)", "advantages_are_relative"),
    ("no group is dropped", "dropped_groups=int((~alive).sum())", "dropped_groups=0", "advantages_equal_their_loop"),
)

REFERENCE = [
    *_in(
        "reference/algorithm1.py",
        ("loop: strict test", "elif Z <= c:", "elif Z < c:", "both_tests_are_inclusive loop_equals_prefix_sum the_first_token_is_dppo"),
        ("loop: deposits without weight", "        W += w\n", "        W += 1\n", "scaling_weights_and_delta smaller_w_min_may_mask"),
        ("loop: charged before judged", "        Z = w * D\n", "        Z = w * D\n        S += Z\n", "the_first_token_is_dppo figure_1_is_not_equation_10"),
        ("loop: kept tokens alone are charged", "        S += Z\n", "        S += Z * (not moves_away or Z <= c)\n", "masked_tokens_consume_budget an_outlier_blocks_for_long"),
        ("loop: no cap", "c = min(delta, slack)", "c = slack", "without_weights_below_dppo"),
        ("loop: no toward clause", "if not moves_away:", "if False:", "toward_is_always_kept"),
        ("loop: weights in floats", "return [1 - (1 - w_min) * t / (length - 1)", "return [float(1 - (1 - w_min) * t / (length - 1))", "loop_runs_in_fractions"),
        ("loop: reasons without a budget", "slack = math.inf if", "slack = delta if", "loop_equals_prefix_sum"),
        ("loop: lower quantile", "return ordered[below] + (position - below) * (ordered[above] - ordered[below])", "return ordered[below]", "dynamic_budget_is_sandwiched"),
        ("loop: soft gate is 1 / x^2", "gates.append(1 / x)", "gates.append(1 / x**2)", "soft_gate_is_one_where_kept"),
        ("loop: the soft gate keeps a budget", "x = max(x, (step.score_before + step.score)", "x = 2 * max(x, (step.score_before + step.score)", "soft_gate_overruns_the_budget"),
        ("loop: the budget gate charges all", "spent += gate * step.score", "spent += step.score", "water_filling_keeps_the_budget"),
    ),
    *_in(
        "reference/divergence.py",
        ("loop: TV without the half", "zip(mu, pi, strict=True)) / 2", "zip(mu, pi, strict=True))", "expectations_under_mu"),
        ("loop: predicted drift of the wrong sign", "a * (b - a) for a, b", "a * (a - b) for a, b", "predicted_drift_is_a_derivative"),
        ("loop: replace-last in the union", 'if variant == "union"', "if False", "divergences_equal_their_loop"),
    ),
    *_in(
        "reference/loss.py",
        ("loop: token mean of means", 'if mode == "token-mean":', 'if mode == "no":', "aggregation_equals_its_loop"),
        ("loop: population deviation", "ddof=ddof", "ddof=0", "advantages_equal_their_loop"),
    ),
    *_in(
        "reference/methods.py",
        ("loop: MinPRO's inclusive minimum", "        prefix = 1.0 if smallest == math.inf else smallest\n", "        smallest = min(smallest, rho)\n        prefix = smallest\n", "every_method_equals_its_loop"),
        ("loop: TRM by the last token", "max(div) <= delta_max", "div[-1] <= delta_max", "every_method_equals_its_loop"),
    ),
]

MUTANTS = [*MASK, *WEIGHTS, *BUDGET, *BATCH, *DIVERGENCE, *RATIO, *BY_DIVERGENCE, *LOSS, *ADVANTAGES, *REFERENCE]
