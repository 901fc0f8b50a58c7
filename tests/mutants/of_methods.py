"""Mutants of the divergences and the methods."""

from __future__ import annotations

from tests.mutants.plant import mutants_of

DIVERGENCE = mutants_of(
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
    (
        "predicted drift of the wrong sign",
        "(pi * (mu - pi)).sum(-1)",
        "(pi * (pi - mu)).sum(-1)",
        "predicted_drift_is_a_derivative",
    ),
)

RATIO = mutants_of(
    "rules/methods/ratio.py",
    (
        "masked tokens keep their weight",
        "weight=weight.float() * keep",
        "weight=weight.float() * batch.mask",
        "a_masked_token_has_a_reason ppo_native trm_keeps_or_rejects_whole",
    ),
    ("g in the input's precision", "weight=weight.float() * keep", "weight=weight * keep", "single_precision_weights"),
    (
        "reasons swapped",
        "away, int(Reason.INSIDE), int(Reason.TOWARD))",
        "away, int(Reason.TOWARD), int(Reason.INSIDE))",
        "a_masked_token_has_a_reason",
    ),
    (
        "PPO clips both ways",
        "clipped = ((A > 0) & (rho > 1 + clip_high)) | ((A < 0) & (rho < 1 - clip_low))",
        "clipped = (rho > 1 + clip_high) | (rho < 1 - clip_low)",
        "ppo_clips_only_away ppo_native",
    ),
    (
        "PPO keeps only the clipped",
        "return masked_weights(batch, ~clipped, rho)",
        "return masked_weights(batch, clipped, rho)",
        "on_policy_all_methods_agree some_gradient_is_left",
    ),
    (
        "PPO is not a clip",
        "return masked_weights(batch, ~clipped, rho)",
        "return masked_weights(batch, batch.mask, rho)",
        "ppo_native",
    ),
    (
        "CISPO's maximum is 1 + w_max",
        "batch.ratio.clamp(w_low, w_max)",
        "batch.ratio.clamp(w_low, 1 + w_max)",
        "cispo_bounds_every_weight clipped_weight_native",
    ),
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
    (
        "GSPO's weight is the token's",
        "mean.exp().expand_as(batch.ratio)",
        "batch.ratio",
        "gspo_shares_one_weight gspo_native",
    ),
    (
        "SAPO's temperatures swapped",
        "torch.where(batch.advantages > 0, tau_pos, tau_neg)",
        "torch.where(batch.advantages > 0, tau_neg, tau_pos)",
        "sapo_native sapo_peaks_on_policy",
    ),
    (
        "SAPO without the factor 4",
        "4 * p * (1 - p) * batch.ratio",
        "p * (1 - p) * batch.ratio",
        "on_policy_all_methods_agree sapo_peaks_on_policy",
    ),
    ("SAPO without the ratio", "4 * p * (1 - p) * batch.ratio", "4 * p * (1 - p)", "sapo_native"),
    ("DRPO pushes away", "(1 - sign * excess / delta)", "(1 + sign * excess / delta)", "drpo_pulls_back drpo_native"),
    (
        "DRPO is SPO",
        "    if mu_weighted:",
        "    if False:",
        "drpo_native drpo_pulls_back off_policy_all_methods_differ",
    ),
)

BY_DIVERGENCE = mutants_of(
    "rules/methods/divergence.py",
    ("DPPO masks both directions", "keep = ~(away & (", "keep = ~(batch.mask & (", "dppo_masks_only_far_and_away"),
    (
        "DPPO never masks",
        "keep = ~(away & (",
        "keep = batch.mask | ~(away & (",
        "dppo_is_cppo_unweighted_unbudgeted dppo_masks_only_far_and_away",
    ),
    (
        "DPPO ignores its cap",
        "batch, keep, batch.ratio.clamp(max=ratio_cap), away=away",
        "batch, keep, batch.ratio, away=away",
        "the_ratio_cap_bounds_the_weight",
    ),
    (
        "the share above the cap is that of all away from 1",
        "batch.ratio > ratio_cap}",
        "batch.ratio >= 1}",
        "the_ratio_cap_bounds_the_weight",
    ),
    ("TRM-Max sees the first token", "D.amax(1) <= delta_max", "D[:, 0] <= delta_max", "trm_native"),
    ("TRM-Avg sums", "delta_avg * batch.lengths", "delta_avg", "trm_native"),
    ("TRM asks for either limit", "accepted &= ", "accepted |= ", "trm_both_is_the_conjunction"),
    (
        "TRM spares tokens that move toward mu",
        "expand_as(batch.mask)\n",
        "expand_as(batch.mask) | ~batch.away\n",
        "trm_keeps_or_rejects_whole trm_native",
    ),
    ("CPPO without the ratio", "(passed * batch.ratio.clamp(max=ratio_cap))", "passed", "cppo_native"),
    (
        "the soft gate's S_t excludes token t",
        "spent = limit - mask.slack + Z",
        "spent = limit - mask.slack",
        "soft_gate_is_one_where_kept",
    ),
    ("the soft gate takes the laxer test", "x = torch.maximum(", "x = torch.minimum(", "soft_gate_is_one_where_kept"),
    (
        "gates act on toward tokens",
        "return torch.where(mask.token_mask, 1.0, cut)",
        "return cut",
        "water_filling_keeps_the_budget",
    ),
    (
        "the budget gate charges what it refused",
        "total = mask.score.clamp(max=mask.delta).cumsum(1)",
        "total = mask.score.cumsum(1)",
        "water_filling_keeps_the_budget",
    ),
    (
        "the budget gate forgets what it passed",
        "slack[:, 1:] -= spent[:, :-1]",
        "slack[:, 1:] -= mask.score[:, :-1]",
        "water_filling_keeps_the_budget",
    ),
    (
        "both tests take the token limit's weight",
        "rows(w_min=budget_w_min, budget=budget)",
        "rows(w_min=w_min, budget=budget)",
        "decoupled_weights_act_on_their_own_test",
    ),
    (
        "the decoupled limit is told in the budget's units",
        "room = prefix.slack * cap.weight / ",
        "room = prefix.slack + 0 * cap.weight / ",
        "decoupled_weights_act_on_their_own_test",
    ),
)

LOG = mutants_of(
    "rules/diagnostics.py",
    (
        "gated tokens are logged as masked",
        "masked & (out.reason == code)",
        "out.reason == code",
        "gates_are_logged_apart_from_masks",
    ),
    (
        "the first column is taken for the first token",
        "out.threshold.amax(1, keepdim=True)",
        "out.threshold[:, :1]",
        "diagnostics_do_not_see_padding",
    ),
    (
        "padding counts for the quantiles",
        "int(batch.lengths.sum())",
        "out.divergence.numel()",
        "diagnostics_do_not_see_padding",
    ),
    (
        "deciles count invalid tokens",
        "torch.searchsorted(batch.mask.cumsum(",
        "torch.searchsorted(torch.ones_like(batch.mask).cumsum(",
        "diagnostics_do_not_see_padding",
    ),
)

OF_METHODS = [*DIVERGENCE, *RATIO, *BY_DIVERGENCE, *LOG]
