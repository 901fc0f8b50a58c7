"""Exact gradient ascent on two objectives of the same small tasks (ours): the masked one, and T3's water-filled one.

The mask is held while a step is taken, as in every trainer; the water-filled objective is continuous in pi, so its
whole gradient may be followed, the gates' included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from minicppo.bounds.budget import Budget
from minicppo.bounds.sharper import path_budget
from theory.tabular import Array

Levels = list[torch.Tensor]
"""One tensor (tasks, V**t, V) per token position."""


@dataclass(frozen=True)
class Trace:
    """By step and task, (steps + 1, tasks): the objective, J(policy that it speaks of) - J(mu), and U of pi itself."""

    objective: Array
    gain: Array
    drift: Array
    residual: float

    @property
    def guaranteed(self) -> Array:
        """Objective less residual: what the theorem promises."""
        return np.asarray(self.objective - self.residual)


def ascend(
    kind: str, steps: int, budget: Budget, tasks: int = 40, vocab: int = 3, rate: float = 1.0, seed: int = 0
) -> Trace:
    """Ascend from pi = mu, random rewards in [0, 1]; xi = 1/2. kind: "masked" (CPPO's mask), "waterfilled" (T3), or
    "gradient", whose gradient is multiplied by T3's gate, which is itself held.

    One logit a state and token, so nothing is shared. The gain is that of the policy each theorem speaks of.
    """
    rng = np.random.default_rng(seed)
    horizon = budget.horizon
    start = [torch.from_numpy(np.log(rng.dirichlet(np.ones(vocab), (tasks, vocab**t)))) for t in range(horizon)]
    rewards = torch.from_numpy(rng.uniform(0, 1, (tasks, vocab**horizon)))
    mu = [level.exp() for level in start]
    base = _value(mu, rewards)
    advantages = rewards - base[:, None]
    logits = [level.clone().requires_grad_() for level in start]
    rows = []
    for _ in range(steps + 1):
        pi = [level.softmax(-1) for level in logits]
        objective, gated = _objective(kind, mu, pi, advantages, budget)
        divergences = [(p - m).abs().sum(-1) / 2 for m, p in zip(mu, pi, strict=True)]
        drift = sum((_reach(mu[:t], tasks) * d).sum(1) for t, d in enumerate(divergences))
        found = (objective, _value(gated, rewards) - base, torch.as_tensor(drift))
        rows.append(tuple(value.detach().numpy() for value in found))
        gradients = torch.autograd.grad(objective.sum(), logits)
        with torch.no_grad():
            for level, gradient in zip(logits, gradients, strict=True):
                level += rate * gradient
    objectives, gains, drifts = (np.array(column) for column in zip(*rows, strict=True))
    return Trace(objectives, gains, drifts, path_budget(budget.path_divergence, 0.5))


def _objective(
    kind: str, mu: Levels, pi: Levels, advantages: torch.Tensor, budget: Budget
) -> tuple[torch.Tensor, Levels]:
    """The objective of every task, (tasks,), and the policy that its theorem speaks of."""
    spent = torch.zeros_like(advantages[:, :1])
    leaves, gated, terms = advantages.shape[1], [], []
    for t, (m, p) in enumerate(zip(mu, pi, strict=True)):
        z = float(budget.weights[t]) * (p - m).abs().sum(-1) / 2
        room = (float(budget.limits[t]) - spent).clamp(0, float(budget.caps[t]))
        inside = z <= room
        gate = inside.double() if kind == "masked" else torch.where(inside, 1.0, room / z.clamp(min=1e-12))
        spent = (spent + z * (1 if kind == "masked" else gate)).repeat_interleave(m.shape[-1], 1)
        gated.append(m + gate[..., None] * (p - m))
        repeats = leaves // (m.shape[1] * m.shape[2])
        x = (p / m - 1).flatten(1).repeat_interleave(repeats, 1)
        along = gate.repeat_interleave(leaves // m.shape[1], 1)
        toward = (x * advantages <= 0).double()  # kept by the mask, wherever they are
        terms.append(x * (along if kind == "waterfilled" else torch.maximum(along, toward).detach()))
    chance = _reach(mu)
    return (chance * advantages * torch.stack(terms).sum(0)).sum(1), gated


def _reach(policy: Levels, tasks: int = 0) -> torch.Tensor:
    """Probability of every text of as many tokens as levels, (tasks, texts); tasks: where there is no level."""
    out = torch.ones(len(policy[0]) if policy else tasks, 1, dtype=torch.float64)
    for level in policy:
        out = (out[..., None] * level).flatten(1)
    return out


def _value(policy: Levels, rewards: torch.Tensor) -> torch.Tensor:
    return (_reach(policy) * rewards).sum(1)
