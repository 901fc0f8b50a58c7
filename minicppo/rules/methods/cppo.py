"""CPPO: weight the divergence by position and budget its prefix sum; and an ablation with two weights."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from minicppo.rules.batch import TokenBatch
from minicppo.rules.divergence import away_from_mu, token_divergence
from minicppo.rules.gates import GATES, charge_what_passes, gate_values
from minicppo.rules.hyper import hyper
from minicppo.rules.mask import mask_rows
from minicppo.rules.mask_rule import MaskRule
from minicppo.rules.method import DIRECTION, DIVERGENCE, RATIO_CAP, TOPK_VARIANT, Method, above_cap, register
from minicppo.rules.outputs import CPPOMask, Reason, TokenWeights


@dataclass(frozen=True)
class CPPO(Method, MaskRule):
    """Weight the divergence by position and budget its prefix sum (paper Algorithm 1); see `minicppo.cppo_mask`."""

    family = "cppo"
    formula = "M_CPPO rho"
    source = "arXiv 2606.10968"

    divergence: str = hyper("binary_tv", **DIVERGENCE)
    gate: str = hyper(
        "hard", "Algorithm 1 is hard, App. C.1 reciprocal; 'sigmoid' and 'budget' are ours", choices=GATES
    )
    ratio_cap: float = hyper(math.inf, **RATIO_CAP)
    direction: str = hyper("ratio", **DIRECTION)
    topk_variant: str = hyper("union", **TOPK_VARIANT)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        D = token_divergence(batch, self.divergence, topk_variant=self.topk_variant)
        mask = mask_rows(batch.mask, D, away_from_mu(batch, self.direction), self)
        if self.gate == "budget":
            mask = charge_what_passes(mask)
        passed = gate_values(mask, self.gate)
        return TokenWeights(
            weight=(passed * batch.ratio.clamp(max=self.ratio_cap)).float() * batch.mask,
            token_mask=(passed > 0) & batch.mask,
            reason=mask.reason,
            raw_weight=batch.ratio * batch.mask,
            threshold=mask.threshold,
            divergence=D,
            position_weight=mask.position_weight,
            delta_b=mask.delta_b,
            stats=self.stats(batch, mask),
        )

    def stats(self, batch: TokenBatch, mask: CPPOMask) -> dict[str, Tensor]:
        """What to log: ratios above the cap, and how often the dynamic budget stands at either end."""
        found = above_cap(batch, self.ratio_cap)
        if self.budget == "dynamic" and mask.delta_b is not None:  # not of an infinite floor
            floor, cap = mask.delta_b.new_tensor([self.delta_b, self.cap])
            found |= {"budget/at_floor": mask.delta_b <= floor, "budget/at_cap": mask.delta_b >= cap}
        return found


@dataclass(frozen=True)
class Decoupled(CPPO):
    """The two tests of CPPO with a weight each: w_t D_t <= delta, v_t D_t <= delta + sum_{j<t} v_j (delta_b - D_j).

    v falls from 1 to budget_w_min; in CPPO v = w. `threshold` is the limit that both together put on w_t D_t.
    """

    family = "decoupled"
    formula = "M_CPPO rho, two weights"
    source = "ours, after arXiv 2606.10968"

    budget_w_min: float = hyper(1.0, "ours: the pathwise bound is tightest at 1", low=0, high=1)
    gate: str = field(default="hard", init=False)  # these three are no choices here
    schedule: str = field(default="linear", init=False)
    seed: int = field(default=0, init=False)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        D = token_divergence(batch, self.divergence, topk_variant=self.topk_variant)
        away = away_from_mu(batch, self.direction)
        cap = mask_rows(batch.mask, D, away, replace(self, budget="off"))
        prefix = mask_rows(batch.mask, D, away, replace(self, w_min=self.budget_w_min))
        token = cap.reason == Reason.TOKEN
        spent = (prefix.reason == Reason.PREFIX) | (prefix.reason == Reason.BOTH)
        keep = batch.mask & ~token & ~spent
        room = prefix.slack * cap.position_weight / prefix.position_weight.masked_fill(~batch.mask, 1.0)
        return TokenWeights(
            weight=(batch.ratio.clamp(max=self.ratio_cap) * keep).float(),
            token_mask=keep,
            reason=cap.reason.masked_fill(spent, int(Reason.PREFIX)).masked_fill(spent & token, int(Reason.BOTH)),
            raw_weight=batch.ratio * batch.mask,
            threshold=torch.where(batch.mask, room.clamp(max=self.delta), 0.0),
            divergence=D,
            position_weight=cap.position_weight,
            delta_b=prefix.delta_b,
            stats=self.stats(batch, prefix),
        )


register(
    CPPO(summary="Binary TV, dynamic budget: the released code's divergence"),
    CPPO(name="cppo-kl", summary="Binary KL", divergence="binary_kl", delta=0.1, delta_b=0.002),
    CPPO(name="cppo-topk", summary="Top-K TV: the paper's main results", divergence="topk_tv"),
    CPPO(
        name="cppo-topk-kl",
        summary="Top-K KL: the paper's KL ablation",
        divergence="topk_kl",
        delta=0.1,
        delta_b=0.002,
    ),
    CPPO(name="cppo-exact", summary="exact TV (small vocabularies)", divergence="exact_tv"),
    CPPO(name="cppo-exact-kl", summary="exact KL", divergence="exact_kl", delta=0.1, delta_b=0.002),
    CPPO(name="cppo-fixed", summary="fixed budget: the post-trained 1.7B's row", budget="fixed", delta_b=0.015),
    CPPO(name="cppo-no-budget", summary="ablation: position weights alone", budget="off"),
    CPPO(name="cppo-no-weight", summary="ablation: budget alone", schedule="constant"),
    CPPO(
        name="cppo-shuffled",
        summary="ablation: weights in a random order, no budget",
        budget="off",
        schedule="shuffled",
    ),
    CPPO(name="cppo-soft", summary="soft gate min(1, 1/x), App. C", gate="reciprocal"),
    CPPO(name="cppo-soft-sigmoid", summary="soft gate with SAPO's shape (ours)", gate="sigmoid"),
    CPPO(name="cppo-budget-gate", summary="causal water-filling gate, keeps the budget (ours)", gate="budget"),
    CPPO(
        name="cppo-predicted",
        summary="Top-K TV, predicted direction (ours)",
        divergence="topk_tv",
        direction="predicted",
    ),
    CPPO(
        name="cppo-verl",
        summary="the authors' verl branch: padded length, budget cap 5x",
        length="padded",
        cap_factor=5.0,
    ),
    Decoupled(name="cppo-decoupled", summary="ablation: weighted token limit, unweighted budget (ours)"),
)
