"""One registry of every statement: where it comes from, what it needs, what was found, and what shows it.

`python -m theory.verify` runs every check; `theory/README.md` carries the same rows as a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from minicppo.bounds import residual as res
from minicppo.bounds import sharper as sh
from minicppo.bounds.budget import Budget, fill_from_end, linear_weights
from minicppo.bounds.certificate import certify
from minicppo.bounds.design import design_thresholds
from minicppo.bounds.limits import betting_limit
from minicppo.bounds.mean_program import mean_budget_eq8
from minicppo.bounds.step import best_budget, best_chi_square
from theory import attack, flow, long
from theory import checks_corrections as fixes
from theory import checks_mask as mask
from theory import checks_ours as ours
from theory import checks_paper as paper
from theory import checks_theorems as new
from theory import families as fam
from theory import gate as gt
from theory import pair_bounds as pb
from theory import programs as prog
from theory import tabular as tab
from theory.ascent import ascend
from theory.study import Evidence, Study

Verdict = Literal["holds", "holds with caveat", "refuted"]


@dataclass(frozen=True)
class Statement:
    """id: stable name. source: the paper's number, "ours", or where else it was said. premise: in one phrase.

    page: file#anchor of the derivation. function: what computes it, None where the check does. check: its test.
    """

    id: str
    title: str
    source: str
    premise: str
    verdict: Verdict
    page: str
    function: Callable[..., Any] | None
    check: Callable[[Study], Evidence]

    @property
    def notebook(self) -> str:
        """The walkthrough that shows it, "-" for none."""
        return next((file for file, ids in NOTEBOOKS.items() if self.id in ids.split()), "-")


NOTEBOOKS = {
    "02_the_mask_step_by_step.ipynb": "allowance dynamic",
    "05_why_early_tokens_cost_more.ipynb": "lemma2 prop4 prop5 cor67 F1 F3 F4 F6 T2 eq8",
    "06_deriving_thresholds.ipynb": "theorem1 eq8-path design",
}

H: Verdict = "holds"
C: Verdict = "holds with caveat"
R: Verdict = "refuted"

STATEMENTS: tuple[Statement, ...] = (
    # -- the paper
    Statement("lemma2", "J(pi) - J(mu) = L' - Delta, Delta = E_mu[R sum x_t (1 - rho_{t+1:T})]", "Lemma 2", "pi << mu",
              C, "identity.md#the-identity", pb.identity_residual, paper.lemma2),
    Statement("lemma3", "Suffix TV <= 1 - prod (1 - l_j) <= sum l_j", "Lemma 3", "D_j <= l_j at every state", H,
              "residual.md#suffixes", res.suffix_products, paper.lemma3),
    Statement("prop4", "|Delta| <= 4 xi sum u_t sum_{j>t} l_j", "Prop. 4", "pi << mu, caps l_j", H,
              "residual.md#proposition-4", res.proposition4, paper.proposition4),
    Statement("theorem1", "|Delta| <= 2 xi T (T-1) lbar delta_b", "Theorem 1", "pi << mu, Eq. 5, monotone ratio, w",
              C, "cppo-bound.md#theorem-1", res.theorem1, paper.theorem1),
    Statement("monotone", "Theorem 1 for any weights", "Theorem 1 without its ratio hypothesis", "Eq. 5", R,
              "errata.md#the-monotone-ratio-is-needed", res.theorem1_monotone, paper.monotone_ratio),
    Statement("prop5", "(T-t)/w_t falls for linear weights", "Prop. 5", "T >= 2, w_min > 0", C,
              "cppo-bound.md#the-linear-schedule", linear_weights, paper.proposition5),
    Statement("cor67", "CPPO's bound is delta_b / (delta w_min) of the uniform rule's", "Cor. 6, 7",
              "a ratio of upper bounds", C, "cppo-bound.md#against-the-uniform-rule", res.improvement_ratio,
              paper.corollaries),
    Statement("prop8", "With slack: 2 xi (T-1) lbar (T delta_b + 2 delta)", "Prop. 8", "Eq. 8, premises of Theorem 1",
              C, "cppo-bound.md#the-initial-slack", res.proposition8, paper.proposition8),
    Statement("b8-factor", "A sequence budget costs a factor 2 - 2/T", "B.8", "budget to T-1; upper bounds", C,
              "errata.md#the-factor-2---2t", prog.greedy, paper.sequence_factor),
    Statement("b8-means", "Sequence mean <= largest prefix mean <= largest token", "B.8", "positive weights", H,
              "cppo-bound.md#sequence-rules", None, paper.prefix_average),
    Statement("b9-bound", "|Delta| <= 4 xi sum u_t (1 - prod_{j>t}(1 - l_j))", "B.9", "pi << mu, caps l_j", H,
              "residual.md#product-form", res.product_form, paper.product_branch),
    Statement("b9-monotone", "The product ratio falls with t", "B.9", "small T lbar only", R,
              "errata.md#the-product-branch", res.suffix_products, paper.product_monotone),
    Statement("b10", "Theorem 1's programme is saturated by u_t = delta_b", "B.10", "delta_b <= delta, w = 1", C,
              "cppo-bound.md#sharpness", prog.greedy, paper.sharpness),
    Statement("c1-score", "x_t <= 1 if and only if token t passes", "C.1", "exact arithmetic, delta > 0", C,
              "mask.md#the-violation-score", gt.violation_score, mask.violation_score),
    Statement("c1-gate", "x g(x) <= 1 keeps g Z <= delta", "C.1", "any admissible gate", H,
              "mask.md#the-violation-score", gt.soft_gates, mask.gate_admissible),
    Statement("c2-mixture", "D(mu + g (pi - mu)) = g D(pi)", "C.2", "none", H, "mask.md#mixtures", fam.apply_gate,
              paper.mixture),
    Statement("c3-soft", "Any admissible gate keeps the formal guarantee", "C.3", "prefix part", R,
              "errata.md#soft-gates-and-the-prefix-budget", gt.soft_gates, mask.soft_gate_prefix),
    Statement("fig1", "Figure 1's prefix test is Eq. 10's", "Figure 1", "-", R, "errata.md#figure-1-and-equation-10",
              gt.keeps, mask.figure1_rule),
    Statement("kept-sum", "A kept token's prefix sum is within budget", "a natural reading", "kept AWAY tokens only", R,
              "errata.md#what-a-kept-token-says", gt.keeps, mask.kept_sum),
    Statement("allowance", "The allowance shrinks along the response", "released code's notes", "-", R,
              "errata.md#the-allowance-is-a-queue", Budget, mask.allowance),
    Statement("dynamic", "Theorem 1 extends to the dynamic budget", "Eq. 22", "delta_b -> 2 delta_b, fixed weights", C,
              "mask.md#the-dynamic-budget", flow.tests_along, mask.dynamic_budget),
    Statement("topk", "The guarantee extends to Top-K scores", "a natural reading", "needs min(rest masses) added", R,
              "mask.md#scores-that-see-part-of-the-vocabulary", None, mask.topk_score),
    Statement("binary", "The guarantee extends to Binary scores", "a natural reading", "-", R,
              "mask.md#scores-that-see-part-of-the-vocabulary", None, mask.binary_score),
    Statement("length", "Weights may use the realised length", "as implemented", "needs a fixed T_max schedule", C,
              "mask.md#the-realised-length", linear_weights, mask.realised_length),
    Statement("projection", "Masking keeps the policy inside the budget", "a natural reading", "-", R,
              "mask.md#a-mask-is-not-a-projection", flow.shared_parameter_flow, mask.projection),
    Statement("toward", "Updates toward mu reduce the divergence", "a natural reading", "V = 2 or one logit", R,
              "mask.md#toward-is-not-closer", flow.toward_step_tv_rate, mask.toward_terms),
    Statement("trm-reject", "Rejecting sequences certifies the step", "a natural reading",
              "only if the FINAL policy is accepted", C, "mask.md#rejecting-sequences", None, mask.sequence_rejection),
    Statement("trm-bounds", "Five KL and TV bounds of TRM", "TRM, re-derived", "pi << mu", H,
              "residual.md#trust-region-masking", pb.trm_bounds, ours.trm),
    # -- ours
    Statement("F1", "sup over |R| <= xi of |Delta| is xi ||K||_1; xi may be half the range", "ours", "pi << mu", H,
              "sharper.md#f1-the-worst-reward", pb.worst_reward, ours.worst_reward),
    Statement("F2", "|Delta| <= xi sum_{t<j} E_mu |x_t x_j|", "ours", "pi << mu", H,
              "sharper.md#f2-the-pair-certificate", pb.pair_certificate, ours.pair_certificate),
    Statement("F3", "|Delta| <= 2 xi sum l_t (1 - prod_{j!=t}(1 - l_j)), the exact supremum", "ours",
              "pi << mu, caps l_t, pathwise", H, "sharper.md#f3-the-cap-theorem", sh.cap_theorem, ours.cap_theorem),
    Statement("F4", "|Delta| <= 2 xi B min(1, B)", "ours", "pi << mu, sum D_t <= B, pathwise", H,
              "sharper.md#f4-the-path-budget",              sh.path_budget, ours.path_budget),
    Statement("F5", "|Delta| <= 2 xi (U + min(1, U))", "ours", "pi << mu, U = E_mu sum D_t", H,
              "sharper.md#f5-the-expected-budget", sh.expected_budget, ours.expected_budget),
    Statement("F6", "Exact supremum of any causal budget rule", "ours", "pi << mu, pathwise; grid value", H,
              "sharper.md#f6-the-exact-programme", prog.exact_supremum, ours.exact_programme),
    Statement("F7", "|Delta| <= xi sqrt(e^C - 1 - C)", "ours", "pi << mu, sum chi2_t <= C, pathwise", H,
              "sharper.md#f7-the-chi-square-budget", sh.chi_square_budget, ours.chi_square),
    Statement("eq8", "Theorem 1 as implemented, closed form", "ours", "pi << mu, Eq. 8, premises of Theorem 1", H,
              "cppo-bound.md#the-initial-slack", res.theorem1_eq8, ours.theorem1_eq8),
    Statement("eq8-path", "F4 as implemented: B fills the budget from the end", "ours", "pi << mu, Eq. 8, pathwise", H,
              "thresholds.md#the-path-budget-of-eq-8", fill_from_end, ours.path_budget_eq8),
    Statement("B", "J(pi_g) >= J(mu) + masked surrogate - 2 xi B min(1, B)", "ours",
              "pi << mu, exact TV, fixed delta_b, w, b", H, "mask.md#theorem-b", gt.gated_lower_bound, ours.theorem_b),
    Statement("waterfill", "g = min(1, c_t / Z_t) on the gated sum keeps Eq. 8", "ours", "causal score", H,
              "mask.md#mixtures", fam.waterfill_gates, ours.waterfill),
    Statement("flow", "The budget stops a late token that drags an early one under DPPO", "ours",
              "shared slopes (4, .2)", H, "mask.md#two-parameter-sharing-examples", flow.shared_parameter_flow,
              mask.budget_holds),
    Statement("design", "Largest thresholds for a residual, and the inverse", "ours", "per method", H,
              "thresholds.md#frontiers", design_thresholds, ours.thresholds),
    Statement("certificate", "L', F2, F5 from rollouts with bootstrap intervals", "ours",
              "pi << mu, fresh responses, ratios not heavy tailed", C, "thresholds.md#a-live-certificate", certify,
              ours.certificate),
    # -- sharper theorems (ours)
    Statement("T1", "E_mu |m - 1 - sum x| xi is the worst residual, below F2 and F5", "ours", "pi << mu", H,
              "certificates.md#t1-the-residual-itself", pb.worst_reward, new.exact_residual),
    Statement("T1-moment", "E (m - 1 - sum x)^2 = chi2 + E_mu sum v - 2 E_pi sum v", "ours", "pi << mu", H,
              "certificates.md#t1-the-residual-itself", pb.residual_moment, new.second_moment),
    Statement("T1-truncated", "J(pi) - J(mu) >= E_mu[(min(m, c) - 1) R]", "ours", "R >= 0; not even pi << mu", H,
              "certificates.md#a-limit-without-tails", betting_limit, new.truncated),
    Statement("T1-coverage", "The four limits hold at their rate, T = 4 .. 8,192", "ours", "fresh groups", H,
              "certificates.md#four-limits-by-name", long.coverage, new.certificate_coverage),
    Statement("T1-long", "At T = 8,192 the limits find most of the gain", "ours", "fresh independent groups", H,
              "certificates.md#eight-thousand-tokens", long.limits_of, new.long_table),
    Statement("T2", "|Delta| <= 2 xi sum (tau_j u_j + (1 - tau_j) min(u_j, l_j r_j)) <= 2 xi U", "ours",
              "pi << mu; first form: caps l_t", H, "steps.md#t2-one-theorem-for-four", sh.mean_caps, new.mean_bound),
    Statement("T2-reach", "T2 under Theorem 1's premise in expectation: T = 16 and 491", "ours",
              "pi << mu, Eq. 8 in mean, caps", H, "steps.md#how-far-it-reaches", mean_budget_eq8, new.mean_reach),
    Statement("T3", "J(pi_w) >= J(mu) + E_mu sum g_t x_t A - 2 xi B min(1, B)", "ours",
              "pi << mu, exact TV, fixed delta_b, w, b", H, "steps.md#t3-a-gate-on-the-policy",
              gt.waterfilled_lower_bound, new.waterfilled),
    Statement("T4", "The best budget solves (1 - B) e^-B = 1 - alpha", "ours", "pi << mu, small caps, pathwise", H,
              "steps.md#t4-the-best-step", best_budget, new.best_step),
    Statement("T4-chi2", "The best chi-square budget is .384 at alpha = 1", "ours", "pi << mu, pathwise", H,
              "steps.md#t4-the-best-step", best_chi_square, new.best_chi_square),
    Statement("T5", "L' <= sigma_R sqrt(E_mu sum v), attained", "ours", "pi << mu", H, "steps.md#t5-where-to-spend",
              pb.action_variances, new.variance_budget),
    Statement("T5-share", "A uniform budget earns sqrt(f) if a share f of the tokens decides", "ours", "pi << mu", H,
              "steps.md#t5-where-to-spend", pb.action_values, new.deciding_tokens),
    Statement("T5-band", "|Delta| <= xi sqrt(e^2cB - 1 - 2cB)", "ours", "|rho - 1| <= c, sum D_t <= B, pathwise", H,
              "steps.md#t5-where-to-spend", sh.ratio_band, new.ratio_band),
    Statement("F4-exact", "|Delta| <= 4 xi (B - 1 + e^-B) for B <= 1", "ours", "pi << mu, sum D_t <= B, pathwise", H,
              "sharper.md#f4-the-path-budget", sh.path_budget_exact, new.path_exact),
    Statement("F4-capped", "|Delta| <= 2 xi B (1 - (1 - l)^(B / l))", "ours", "and D_t <= l, pathwise", H,
              "sharper.md#f4-the-path-budget", sh.path_budget_capped, new.path_capped),
    Statement("F6-attained", "F6 is attained by three tokens", "ours", "pi << mu, V >= 3", H,
              "sharper.md#f6-the-exact-programme", prog.worst_pair, new.three_tokens),
    Statement("ascent", "1,000 climbs find no |Delta| above its bound", "ours", "each bound's own", H,
              "README.md#adversarial-ascent", attack.attack, new.adversarial_ascent),
    # -- corrections of our own pages
    Statement("D1", "L' less F2 certifies wherever ratios look tame", "our own page", "the mean ratio must be 1", R,
              "errata.md#a-certificate-that-saw-too-little", certify, fixes.hidden_branch),
    Statement("D2", "Maximising the masked objective is maximising a lower bound", "our own page", "-", R,
              "errata.md#the-masked-objective-jumps", gt.masked_surrogate, fixes.masked_objective),
    Statement("D3", "F1's half range, F3, F4 and Theorem B need no pi << mu", "our own page", "-", R,
              "errata.md#absolute-continuity", pb.require_support, fixes.missing_support),
    Statement("D4", "In expectation Theorem 1 is sharp", "our own page", "T l << 1 only", R,
              "errata.md#sharp-in-expectation", mean_budget_eq8, fixes.sharp_in_mean),
    Statement("D8", "|J(pi) - J(pi_g)| <= 2 xi E_pi sum (1 - g_t) D_t", "ours", "any gates in [0, 1]", H,
              "mask.md#theorem-b", gt.closed_divergence, fixes.closed_gates),
    Statement("D9", "The exact worst case grows linearly with T", "our own page", "B > 1 only", C,
              "errata.md#linear-from-where", prog.exact_supremum, fixes.linearly),
    Statement("D10", "Theorem B covers the advantages trainers use", "a natural reading", "A = R - b, b fixed", R,
              "errata.md#what-theorem-b-leaves-out", gt.gated_lower_bound, fixes.outside_theorem_b),
    Statement("gate-gradient", "A gate on the gradient keeps pi inside the budget", "a natural reading",
              "only the gated policy", R, "steps.md#t3-a-gate-on-the-policy", ascend, fixes.gate_on_the_gradient),
    # -- what a strong reader asks next
    Statement("sampled", "|rho - 1| / 2 is unbiased for D_t; Binary is too low", "ours", "pi << mu", H,
              "README.md#what-a-strong-reader-asks-next", None, fixes.sampled_divergence),
    Statement("one-step", "A step of logit span omega moves TV by at most tanh(omega / 4)", "ours", "none", H,
              "README.md#what-a-strong-reader-asks-next", None, fixes.one_step),
    Statement("BH", "TV <= sqrt(1 - e^-KL) over responses", "Bretagnolle, Huber", "pi << mu", H,
              "README.md#what-a-strong-reader-asks-next", tab.sequence_kl, fixes.bretagnolle_huber),
)  # fmt: skip


def index_table() -> str:
    """The index of theory/README.md: one Markdown row a statement."""
    lines = [
        "| id | statement | source | premise | verdict | proof | function | check | notebook |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for s in STATEMENTS:
        title, premise = (text.replace("|", "\\|").replace("<", "&lt;") for text in (s.title, s.premise))
        page = f"[{s.page.split('#')[0]}]({s.page})"
        check = s.check.__module__.removeprefix("theory.")
        links = f"{page} | {_link(s.function)} | [{check}.{s.check.__name__}]({check}.py)"
        notebook = f"[{s.notebook}](../notebooks/{s.notebook})" if s.notebook != "-" else "-"
        lines.append(f"| {s.id} | {title} | {s.source} | {premise} | {s.verdict} | {links} | {notebook} |")
    return "\n".join(lines)


def _link(function: Callable[..., Any] | None) -> str:
    """`module.name` with a link to the file, seen from theory/."""
    if function is None:
        return "-"
    *folders, module = function.__module__.split(".")
    path = f"{module}.py" if folders == ["theory"] else f"../{'/'.join(folders)}/{module}.py"
    return f"[`{module}.{function.__name__}`]({path})"
