"""Two variants of CPPO that theory/steps.md asks for: T2's price as position weight, T3's gate on the policy."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from minicppo.rules.gates import charge_what_passes
from minicppo.rules.mask import mask_rows
from minicppo.rules.method import register
from minicppo.rules.methods.cppo import CPPO
from minicppo.rules.outputs import CPPOMask
from minicppo.rules.position_weights import position_weights


@dataclass(frozen=True)
class Shadow(CPPO):
    """CPPO with w_t = w_min + (1 - w_min) p_t / p_1, p_t = 1 - (1 - l)^(T - t), l = min(1, delta / w_min).

    p is what a token's drift costs in T2: flat but for the last 3 / l tokens. As l -> 0 this is the linear schedule.
    """

    family = "shadow"
    formula = "M_CPPO rho, w_t of T2"
    source = "ours, after arXiv 2606.10968"

    schedule: str = field(default="shadow", init=False)
    seed: int = field(default=0, init=False)

    def weights(self, valid: Tensor, dtype: torch.dtype) -> Tensor:
        left = position_weights(valid, 0.0, length=self.length, dtype=dtype)  # (T - t) / (T - 1)
        if isinstance(self.length, int):
            total = left.new_tensor(self.length)
        else:
            total = left.new_tensor(valid.shape[1]) if self.length == "padded" else valid.sum(1, keepdim=True).to(dtype)
        keep = 1 - min(1.0, self.delta / self.w_min if self.w_min else 1.0)
        price = (1 - keep ** (left * (total - 1))) / (1 - keep ** (total - 1).clamp(min=1))
        price = torch.where(total > 1, price, 1.0)  # of a single token, as in every schedule
        return (self.w_min + (1 - self.w_min) * price) * valid


@dataclass(frozen=True)
class PolicyGate(CPPO):
    """The gradient of T3's gated surrogate in the sampled token: rho where the water-filling gate is open, 0 where not.

    g_t (rho_t - 1) with g_t = c_t / Z_t does not change with pi_t once g_t < 1 (Binary TV), so such a token is masked,
    where the gate on the gradient goes on pushing. Tokens toward mu keep rho: that only lowers T3's bound. Left out:
    how a token's own spending narrows the gates after it.
    """

    family = "policy-gate"
    formula = "rho [g_t = 1], g_t of water-filling"
    source = "ours, after arXiv 2606.10968"

    gate: str = field(default="hard", init=False)

    def decide(self, valid: Tensor, D: Tensor, away: Tensor) -> CPPOMask:
        return charge_what_passes(mask_rows(valid, D, away, self))


register(
    Shadow(name="cppo-shadow", summary="position weights that follow T2's price (ours)"),
    PolicyGate(name="cppo-policy-gate", summary="gate on the policy, not on the gradient: T3 (ours)"),
)
