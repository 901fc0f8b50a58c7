"""One registry of every statement: where it comes from, what it needs, what was found, and what shows it.

`python -m theory.verify` runs every check; `theory/README.md` carries the same rows as a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from theory import checks_mask as mask
from theory import checks_ours as ours
from theory import checks_paper as paper
from theory.study import Evidence, Study

Verdict = Literal["holds", "holds with caveat", "refuted"]


@dataclass(frozen=True)
class Statement:
    """id: stable name. source: the paper's number, "ours", or where else it was said. premise, verdict: in
    one phrase.

    page: file#anchor of the derivation. function, test: where it is computed and tested.
    """

    id: str
    title: str
    source: str
    premise: str
    verdict: Verdict
    page: str
    function: str
    test: str
    check: Callable[[Study], Evidence]

    @property
    def notebook(self) -> str:
        """The walkthrough that shows it, "-" for none."""
        return next((file for file, ids in NOTEBOOKS.items() if self.id in ids.split()), "-")


NOTEBOOKS = {
    "01_the_identity_and_the_bound.ipynb": (
        "lemma2 prop4 b9-bound cor67 trm-bounds F1 F2 F3 F4 F5 F6 F7 eq8 eq8-path"
    ),
    "02_deriving_thresholds.ipynb": "design",
    "03_the_mask_step_by_step.ipynb": "allowance dynamic",
}

H: Verdict = "holds"
C: Verdict = "holds with caveat"
R: Verdict = "refuted"

STATEMENTS: tuple[Statement, ...] = (
    # -- the paper
    Statement("lemma2", "J(pi) - J(mu) = L' - Delta, Delta = E_mu[R sum x_t (1 - rho_{t+1:T})]", "Lemma 2",
              "pi << mu", C, "identity.md#the-identity", "residual.identity_residual", "test_tabular.py",
              paper.lemma2),
    Statement("lemma3", "Suffix TV <= 1 - prod (1 - l_j) <= sum l_j", "Lemma 3", "D_j <= l_j at every state",
              H, "residual.md#suffixes", "residual.suffix_products", "test_residual.py", paper.lemma3),
    Statement("prop4", "|Delta| <= 4 xi sum u_t sum_{j>t} l_j", "Prop. 4", "pi << mu, caps l_j", H,
              "residual.md#proposition-4", "residual.proposition4", "test_residual.py", paper.proposition4),
    Statement("theorem1", "|Delta| <= 2 xi T (T-1) lbar delta_b", "Theorem 1",
              "Eq. 5, monotone ratio, fixed weights", C, "cppo-bound.md#theorem-1", "residual.theorem1",
              "test_residual.py", paper.theorem1),
    Statement("monotone", "Theorem 1 for any weights", "Theorem 1 without its ratio hypothesis", "Eq. 5", R,
              "errata.md#the-monotone-ratio-is-needed", "residual.theorem1_monotone", "test_residual.py",
              paper.monotone_ratio),
    Statement("prop5", "(T-t)/w_t falls for linear weights", "Prop. 5", "T >= 2, w_min > 0", C,
              "cppo-bound.md#the-linear-schedule", "budget.linear_weights", "test_budget.py",
              paper.proposition5),
    Statement("cor67", "CPPO's bound is delta_b / (delta w_min) of the uniform rule's", "Cor. 6, 7",
              "a ratio of upper bounds", C, "cppo-bound.md#against-the-uniform-rule",
              "residual.improvement_ratio", "test_residual.py", paper.corollaries),
    Statement("prop8", "With slack: 2 xi (T-1) lbar (T delta_b + 2 delta)", "Prop. 8",
              "Eq. 8, premises of Theorem 1", C, "cppo-bound.md#the-initial-slack", "residual.proposition8",
              "test_residual.py", paper.proposition8),
    Statement("b8-factor", "A sequence budget costs a factor 2 - 2/T", "B.8", "budget to T-1; upper bounds",
              C, "errata.md#the-factor-2---2t", "programs.greedy", "test_programs.py", paper.sequence_factor),
    Statement("b8-means", "Sequence mean <= largest prefix mean <= largest token", "B.8", "positive weights",
              H, "cppo-bound.md#sequence-rules", "-", "test_theory.py", paper.prefix_average),
    Statement("b9-bound", "|Delta| <= 4 xi sum u_t (1 - prod_{j>t}(1 - l_j))", "B.9", "caps l_j", H,
              "residual.md#product-form", "residual.product_form", "test_residual.py", paper.product_branch),
    Statement("b9-monotone", "The product ratio falls with t", "B.9", "small T lbar only", R,
              "errata.md#the-product-branch", "residual.suffix_products", "test_residual.py",
              paper.product_monotone),
    Statement("b10", "Theorem 1's programme is saturated by u_t = delta_b", "B.10", "delta_b <= delta, w = 1",
              C, "cppo-bound.md#sharpness", "programs.greedy", "test_programs.py", paper.sharpness),
    Statement("c1-score", "x_t <= 1 if and only if token t passes", "C.1", "exact arithmetic, delta > 0", C,
              "mask.md#the-violation-score", "gate.violation_score", "test_gate.py", mask.violation_score),
    Statement("c1-gate", "x g(x) <= 1 keeps g Z <= delta", "C.1", "any admissible gate", H,
              "mask.md#the-violation-score", "gate.soft_gates", "test_gate.py", mask.gate_admissible),
    Statement("c2-mixture", "D(mu + g (pi - mu)) = g D(pi)", "C.2", "none", H, "mask.md#mixtures",
              "families.apply_gate", "test_tabular.py", paper.mixture),
    Statement("c3-soft", "Any admissible gate keeps the formal guarantee", "C.3", "prefix part", R,
              "errata.md#soft-gates-and-the-prefix-budget", "gate.soft_gates", "test_gate.py",
              mask.soft_gate_prefix),
    Statement("fig1", "Figure 1's prefix test is Eq. 10's", "Figure 1", "-", R,
              "errata.md#figure-1-and-equation-10", "gate.keeps", "test_theory.py", mask.figure1_rule),
    Statement("kept-sum", "A kept token's prefix sum is within budget", "a natural reading",
              "kept AWAY tokens only", R, "errata.md#what-a-kept-token-says", "gate.keeps", "test_theory.py",
              mask.kept_sum),
    Statement("allowance", "The allowance shrinks along the response", "released code's notes", "-", R,
              "errata.md#the-allowance-is-a-queue", "budget.Budget.limits", "test_budget.py", mask.allowance),
    Statement("dynamic", "Theorem 1 extends to the dynamic budget", "Eq. 22",
              "delta_b -> 2 delta_b, fixed weights", C, "mask.md#the-dynamic-budget", "flow.tests_along",
              "test_theory.py", mask.dynamic_budget),
    Statement("topk", "The guarantee extends to Top-K scores", "a natural reading", "needs min(rest masses) added", R,
              "mask.md#scores-that-see-part-of-the-vocabulary", "-", "test_theory.py", mask.topk_score),
    Statement("binary", "The guarantee extends to Binary scores", "a natural reading", "-", R,
              "mask.md#scores-that-see-part-of-the-vocabulary", "-", "test_theory.py", mask.binary_score),
    Statement("length", "Weights may use the realised length", "as implemented", "needs a fixed T_max schedule", C,
              "mask.md#the-realised-length", "budget.linear_weights", "test_theory.py", mask.realised_length),
    Statement("projection", "Masking keeps the policy inside the budget", "a natural reading", "-", R,
              "mask.md#a-mask-is-not-a-projection", "flow.shared_parameter_flow", "test_flow.py",
              mask.projection),
    Statement("toward", "Updates toward mu reduce the divergence", "a natural reading", "V = 2 or one logit", R,
              "mask.md#toward-is-not-closer", "flow.toward_step_tv_rate", "test_flow.py", mask.toward_terms),
    Statement("trm-reject", "Rejecting sequences certifies the step", "a natural reading",
              "only if the FINAL policy is accepted", C, "mask.md#rejecting-sequences", "-", "test_theory.py",
              mask.sequence_rejection),
    Statement("trm-bounds", "Five KL and TV bounds of TRM", "TRM, re-derived", "pi << mu", H,
              "residual.md#trust-region-masking", "residual.trm_bounds", "test_residual.py", ours.trm),
    # -- ours
    Statement("F1", "sup over |R| <= xi of |Delta| is xi ||K||_1; xi may be half the range", "ours", "none",
              H, "sharper.md#f1-the-worst-reward", "sharper.worst_reward", "test_sharper.py",
              ours.worst_reward),
    Statement("F2", "|Delta| <= xi sum_{t<j} E_mu |x_t x_j|", "ours", "pi << mu", H,
              "sharper.md#f2-the-pair-certificate", "sharper.pair_certificate", "test_sharper.py",
              ours.pair_certificate),
    Statement("F3", "|Delta| <= 2 xi sum l_t (1 - prod_{j!=t}(1 - l_j)), the exact supremum", "ours",
              "caps l_t, pathwise", H, "sharper.md#f3-the-cap-theorem", "sharper.cap_theorem",
              "test_sharper.py", ours.cap_theorem),
    Statement("F4", "|Delta| <= 2 xi B min(1, B)", "ours", "sum D_t <= B, pathwise", H,
              "sharper.md#f4-the-path-budget", "sharper.path_budget", "test_sharper.py", ours.path_budget),
    Statement("F5", "|Delta| <= 2 xi (U + min(1, U))", "ours", "U = E_mu sum D_t", H,
              "sharper.md#f5-the-expected-budget", "sharper.expected_budget", "test_sharper.py",
              ours.expected_budget),
    Statement("F6", "Exact supremum of any causal budget rule", "ours", "pathwise; grid value", H,
              "sharper.md#f6-the-exact-programme", "programs.exact_supremum", "test_programs.py",
              ours.exact_programme),
    Statement("F7", "|Delta| <= xi sqrt(e^C - 1 - C)", "ours", "sum chi2_t <= C, pathwise", H,
              "sharper.md#f7-the-chi-square-budget", "sharper.chi_square_budget", "test_sharper.py",
              ours.chi_square),
    Statement("eq8", "Theorem 1 as implemented, closed form", "ours", "Eq. 8, premises of Theorem 1", H,
              "cppo-bound.md#the-initial-slack", "residual.theorem1_eq8", "test_programs.py",
              ours.theorem1_eq8),
    Statement("eq8-path", "F4 as implemented: B fills the budget from the end", "ours", "Eq. 8, pathwise", H,
              "thresholds.md#the-path-budget-of-eq-8", "budget.fill_from_end", "test_budget.py",
              ours.path_budget_eq8),
    Statement("B", "J(pi_g) >= J(mu) + masked surrogate - 2 xi B min(1, B)", "ours",
              "exact TV, fixed delta_b and w; any pi", H, "mask.md#theorem-b", "gate.gated_lower_bound",
              "test_gate.py", ours.theorem_b),
    Statement("waterfill", "g = min(1, c_t / Z_t) on the gated sum keeps Eq. 8", "ours", "causal score", H,
              "mask.md#mixtures", "families.waterfill_gates", "test_gate.py", ours.waterfill),
    Statement("flow", "The budget stops a late token that drags an early one under DPPO", "ours",
              "shared slopes (4, .2)", H, "mask.md#two-parameter-sharing-examples",
              "flow.shared_parameter_flow", "test_flow.py", mask.budget_holds),
    Statement("design", "Largest thresholds for a residual, and the inverse", "ours", "per method", H,
              "thresholds.md#frontiers", "design.design_thresholds", "test_design.py", ours.thresholds),
    Statement("certificate", "L', F2, F5 from rollouts with bootstrap intervals", "ours",
              "pi << mu, fresh responses, ratios not heavy tailed", C, "thresholds.md#a-live-certificate",
              "certificate.certify", "test_certificate.py", ours.certificate),
)  # fmt: skip


def index_table() -> str:
    """The index of theory/README.md: one Markdown row a statement."""
    lines = [
        "| id | statement | source | premise | verdict | proof | function | test | notebook |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for s in STATEMENTS:
        title, premise = (text.replace("|", "\\|").replace("<", "&lt;") for text in (s.title, s.premise))
        page = f"[{s.page.split('#')[0]}]({s.page})"
        function = f"`{s.function}`" if s.function != "-" else "-"
        test = f"[{s.test}](../tests/bounds/{s.test})"
        notebook = f"[{s.notebook}](../notebooks/{s.notebook})" if s.notebook != "-" else "-"
        lines.append(
            f"| {s.id} | {title} | {s.source} | {premise} | {s.verdict} | {page} | {function} | {test} | {notebook} |"
        )
    return "\n".join(lines)
