"""CPPO: weight the divergence by position and budget its prefix sum; and an ablation with two weights."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from minicppo.rules.gates import GATES, charge_what_passes, gate_values
from minicppo.rules.mask import mask_rows
from minicppo.rules.mask_rule import MaskRule
from minicppo.rules.method import Reason, TokenBatch, TokenWeights, hyper, register
from minicppo.rules.methods.dppo import DPPO
from minicppo.rules.outputs import CPPOMask


@dataclass(frozen=True)
class CPPO(DPPO, MaskRule):
    """Weight the divergence by position and budget its prefix sum (paper Algorithm 1); see `minicppo.cppo_mask`."""

    family = "cppo"
    formula = "M_CPPO rho"
    source = "arXiv 2606.10968"

    delta: float = hyper(0.15, "paper Table 3 (0.20 for 30B-A3B)", low=0)  # not the limit of DPPO
    gate: str = hyper(
        "hard", "Algorithm 1 is hard, App. C.1 reciprocal; 'sigmoid' and 'budget' are ours", choices=GATES
    )

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        D, away, ratio, stats = self.read(batch)
        mask = self.decide(batch.mask, D, away)
        passed = gate_values(mask, self.gate)
        if self.budget == "dynamic" and mask.delta_b is not None:  # None: an infinite floor
            floor, cap = mask.delta_b.new_tensor([self.delta_b, self.cap])
            stats |= {"budget/at_floor": mask.delta_b <= floor, "budget/at_cap": mask.delta_b >= cap}
        return TokenWeights(
            weight=(passed * ratio).float() * batch.mask,
            token_mask=(passed > 0) & batch.mask,
            reason=mask.reason,
            raw_weight=batch.ratio * batch.mask,
            threshold=mask.threshold,
            divergence=D,
            position_weight=mask.position_weight,
            delta_b=mask.delta_b,
            stats=stats,
        )

    def decide(self, valid: Tensor, D: Tensor, away: Tensor) -> CPPOMask:
        """Algorithm 1 on (B, T) tensors: D_t, and who moves away from mu."""
        mask = mask_rows(valid, D, away, self)
        return charge_what_passes(mask) if self.gate == "budget" else mask


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

    def decide(self, valid: Tensor, D: Tensor, away: Tensor) -> CPPOMask:
        cap = mask_rows(valid, D, away, replace(self, budget="off"))
        prefix = mask_rows(valid, D, away, replace(self, w_min=self.budget_w_min))
        token = cap.reason == Reason.TOKEN
        spent = (prefix.reason == Reason.PREFIX) | (prefix.reason == Reason.BOTH)
        reason = cap.reason.masked_fill(spent, int(Reason.PREFIX)).masked_fill(spent & token, int(Reason.BOTH))
        room = prefix.slack * cap.position_weight / prefix.position_weight.masked_fill(~valid, 1.0)
        threshold = torch.where(valid, room.clamp(max=self.delta), 0.0)
        return replace(cap, reason=reason, threshold=threshold, delta_b=prefix.delta_b)


KL: dict[str, Any] = {"delta": 0.1, "delta_b": 0.002}  # the paper's limits with a KL

register(
    CPPO(summary="Binary TV, dynamic budget: the released code's divergence"),
    CPPO(name="cppo-kl", summary="Binary KL", divergence="binary_kl", **KL),
    CPPO(name="cppo-topk", summary="Top-K TV: the paper's main results", divergence="topk_tv"),
    CPPO(name="cppo-topk-kl", summary="Top-K KL: the paper's KL ablation", divergence="topk_kl", **KL),
    CPPO(name="cppo-exact", summary="exact TV (small vocabularies)", divergence="exact_tv"),
    CPPO(name="cppo-exact-kl", summary="exact KL", divergence="exact_kl", **KL),
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
        summary="the authors' verl branch: padded length, budget cap 5x, ratio cap 20",
        length="padded",
        cap_factor=5.0,
        ratio_cap=20.0,
    ),
    Decoupled(name="cppo-decoupled", summary="ablation: weighted token limit, unweighted budget (ours)"),
)
