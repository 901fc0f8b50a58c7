"""The numbers that Algorithm 1 depends on, as one record that everything of the mask is handed."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minicppo.rules.budget import BUDGETS, clamped_quantile
from minicppo.rules.hyper import Record, hyper
from minicppo.rules.position_weights import SCHEDULES, position_weights


@dataclass(frozen=True)
class MaskRule(Record):
    """Limits, position weights and budget of the CPPO mask. Raises ValueError on a value outside its limits."""

    delta: float = hyper(0.15, "paper Table 3 (0.20 for 30B-A3B)", low=0)
    delta_b: float = hyper(0.02, "paper Table 3: floor of the dynamic budget, or the fixed value", low=0)
    w_min: float = hyper(0.8, "paper Table 3", low=0, high=1)
    budget: str = hyper("dynamic", "paper Eq. 22; fixed for the post-trained 1.7B", choices=BUDGETS)
    schedule: str = hyper("linear", "paper Eq. 9; 'constant' and 'shuffled' are its ablations", choices=SCHEDULES)
    length: str | int = hyper(
        "own", "paper: own; the authors' verl branch: padded", low=1, closed=True, choices=("own", "padded")
    )
    cap_factor: float = hyper(2.0, "paper Eq. 22: 2 (the authors' verl branch: 5)", low=1, closed=True)
    quantile: float = hyper(0.9, "paper Eq. 22", low=0, high=1)
    seed: int = hyper(0, "ours: draws the shuffled schedule", low=0, closed=True)

    @property
    def cap(self) -> float:
        """The most that the dynamic budget may become."""
        return self.cap_factor * self.delta_b

    def weights(self, valid: Tensor, dtype: torch.dtype) -> Tensor:
        """w_t of a (B, T) mask of valid tokens; see `position_weights`."""
        return position_weights(
            valid, self.w_min, schedule=self.schedule, length=self.length, seed=self.seed, dtype=dtype
        )

    def budgets(self, divergence: Tensor, counts: Tensor) -> Tensor | None:
        """Each response's delta_b, (B,), from its D_t (0 where invalid) and its number of valid tokens.

        "dynamic": P90 of the unweighted D_t within [delta_b, cap], paper Eq. 22. None without a budget, or an infinite.
        """
        if self.budget == "off" or math.isinf(self.delta_b):
            return None
        if self.budget == "fixed":
            return divergence.new_full(counts.shape, self.delta_b)
        return clamped_quantile(divergence, counts, self.quantile, self.delta_b, self.cap)
