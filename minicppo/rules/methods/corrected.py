"""Decoupled methods: a trust region of pi around pi_old, times a weight for what lies between pi_old and mu."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from minicppo.rules.batch import held
from minicppo.rules.hyper import Hyper
from minicppo.rules.method import METHODS, Method, Reason, TokenBatch, TokenWeights, hyper, register

WEIGHTS, ESTIMATES = ("off", "token", "sequence"), ("ratio", "k2", "k3")
REJECTS = {"off": "", "token": "w", "any": "every w", "sum": "prod w", "mean": "prod w^(1/T)"}  # what is tested


@dataclass(frozen=True)
class Corrected(Method):
    """Any rule's weight times a correction c of w = pi_old / mu, of a token or multiplied up over the response.

    c = min(w, cap) where w lies in [low, high], else 0. anchor "old": the rule sees pi / pi_old, and g = g_rule c.
    anchor "rollout": the rule sees rho = pi / mu, which holds w already, and g = g_rule c / w. With pi_old = mu both
    are the rule's g to the bit.
    """

    family = "corrected"
    corrects = True
    source: str = field(default="arXiv 2110.00641 (decoupled PPO)", kw_only=True)  # type: ignore[misc]

    rule: Method = field(default=METHODS["grpo"], kw_only=True)  # its hyper-parameters are this method's too
    weigh: str = hyper("token", "w is a token's, or the product over the response", choices=WEIGHTS)
    cap: float = hyper(math.inf, "truncated importance sampling: verl 2, TRL 3", low=1, closed=True)
    reject: str = hyper(
        "off", "what must lie in [low, high]: each w, every w, their product, geometric mean", choices=tuple(REJECTS)
    )
    estimate: str = hyper("ratio", "or k2 = log(w)^2 / 2, k3 = w - 1 - log w, as in verl", choices=ESTIMATES)
    low: float = hyper(0.0, "of what is tested", low=0, closed=True)
    high: float = hyper(math.inf, "of what is tested", low=0)
    anchor: str = hyper("old", "what the rule bounds pi against; 'rollout' is mu", choices=("old", "rollout"))

    @property
    def hypers(self) -> dict[str, tuple[Any, Hyper]]:
        return self.rule.hypers | super().hypers

    @property
    def overrides(self) -> dict[str, Any]:
        return self.rule.overrides | super().overrides

    @property
    def needs(self) -> str:
        return self.rule.needs

    @property
    def level(self) -> str:  # type: ignore[override]
        whole = self.reject in ("any", "sum", "mean") and self.rule.level != "batch"
        return "sequence" if whole else self.rule.level

    @property
    def formula(self) -> str:  # type: ignore[override]
        g = self.rule.formula.replace("rho", "r") if self.anchor == "old" else self.rule.formula
        w = {"off": "", "token": " w", "sequence": " prod w"}[self.weigh]
        if w and self.cap < math.inf:
            w = f" min({w.strip()}, C)"
        tested = REJECTS[self.reject]
        if self.estimate != "ratio":
            tested = tested.replace("prod w^(1/T)", "mean w").replace("prod w", "sum w")
            tested = tested.replace("w", f"{self.estimate}(w)")
        return f"{g}{w}{f', {tested} in [low, high]' if tested else ''}"

    def having(self, **params: Any) -> Method:
        self.require_known(params)
        inner = {key: value for key, value in params.items() if key not in super(Corrected, self).hypers}
        own = {key: value for key, value in params.items() if key not in inner}
        return replace(self, rule=self.rule.having(**inner), **own)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        if self.anchor == "old" and self.needs != "log_probs" and batch.old_log_probs is not None:
            raise ValueError(
                f"{self.rule.name} compares more than the sampled token, and a batch has no more of pi_old: use "
                "anchor='rollout', or a binary divergence"
            )
        out, accepted = self.rule(batch.since_old if self.anchor == "old" else batch), self.accepts(batch)
        s = batch.log_mismatch
        s = {"off": torch.zeros_like(s), "token": s, "sequence": s.sum(1, keepdim=True)}[self.weigh]
        w = held(s).exp()
        c = w.clamp(max=self.cap)
        if self.anchor == "rollout":  # rho holds w already
            c, w = c / w, torch.ones_like(w)
        alone = out.token_mask & ~accepted
        return replace(
            out,
            weight=(out.weight * c * accepted).float(),
            token_mask=out.token_mask & accepted,
            reason=out.reason.masked_fill(alone, int(Reason.MISMATCH)),
            raw_weight=out.raw_weight * w,
            sequence_level=self.level == "sequence",
            stats=out.stats | {"mask/mismatch": alone},
        )

    def accepts(self, batch: TokenBatch) -> Tensor:
        """(B, T): is the token, or its whole response, near enough to mu?"""
        x = batch.log_mismatch
        if self.reject == "off":
            return batch.mask
        if self.estimate != "ratio":
            x = x.square() / 2 if self.estimate == "k2" else held(x).expm1() - held(x)
        if self.reject in ("sum", "mean"):
            x = x.sum(1, keepdim=True) / (1 if self.reject == "sum" else batch.lengths.clamp(min=1)[:, None])
        x = x.exp() if self.estimate == "ratio" else x
        inside = (x >= self.low) & (x <= self.high)
        if self.reject == "any":
            inside = (inside | ~batch.mask).all(1, keepdim=True)
        return inside & batch.mask


TIS: dict[str, Any] = {"cap": 2.0}
GEOMETRIC: dict[str, Any] = {"reject": "mean", "low": 0.999, "high": 1.001}
VERL, COLLAPSE = "verl's rollout correction", "richardli.xyz/rl-collapse"
VARIANTS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("tis", "each token's mismatch truncated", "fengyao.notion.site/off-policy-rl", TIS),
    ("icepop", "tokens of a large mismatch masked", "arXiv 2510.18855", {"reject": "token", "low": 0.5, "high": 2.0}),
    ("seq-tis", "the response's mismatch truncated", COLLAPSE, {"weigh": "sequence"} | TIS),
    ("seq-mask", "TRL's default: responses masked", "TRL 1.16", {"weigh": "sequence", "reject": "sum", "high": 3.0}),
    ("seq-mask-tis", "responses in a band, tokens truncated", VERL, {"reject": "sum", "low": 0.5, "high": 2.0} | TIS),
    ("geo-mask", "responses in a band of the geometric mean", COLLAPSE, {"weigh": "off"} | GEOMETRIC),
    ("geo-mask-tis", "the same, tokens truncated", VERL, GEOMETRIC | TIS),
    ("k3-mask", "responses with a small k3", VERL, {"weigh": "off", "reject": "mean", "estimate": "k3", "high": 0.01}),
    ("outlier-mask", "no extreme token", "SkyRL 0.3", {"weigh": "off", "reject": "any", "low": 1e-4, "high": 100.0}),
)
for _name, _summary, _source, _values in VARIANTS:
    register(Corrected(name=_name, summary=_summary, source=_source, **_values))
