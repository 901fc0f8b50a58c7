"""Checkpoints: the policy as a Hugging Face folder, optimiser and staleness snapshots as safetensors, counters as JSON.

A folder with a checkpoint's name is always whole. Random numbers need no state: they are derived from the seed and the
iteration.
"""

import copy
import json
import shutil
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minicppo.files import atomically
from minicppo.rl.config import RunConfig
from minicppo.rl.policy import Policy, load_policy, save_policy

Weights = dict[str, Tensor]


@dataclass
class TrainState:
    """All that a run's future depends on, besides its configuration.

    Attributes:
        policy: the policy being optimised.
        optimizer: its AdamW.
        sampler: what samples: the same weights at its own precision, or a second model where rollouts are stale.
        history: the weights after each of the last `staleness` updates and now, oldest first; empty without staleness.
        iteration: rollout batches done.
        update: optimiser steps done.
    """

    policy: Policy
    optimizer: torch.optim.Optimizer
    sampler: Policy
    history: deque[Weights] = field(default_factory=lambda: deque(maxlen=0))
    iteration: int = 0
    update: int = 0

    @classmethod
    def begin(cls, config: RunConfig, start: Policy) -> "TrainState":
        """Before the first iteration; the model of `start` is moved to the run's device and will be trained."""
        settings, model = config.train, start.model.to(config.resolved_device())
        policy = replace(start, autocast=config.autocast_dtype())
        sampler = replace(start, model=copy.deepcopy(model) if settings.staleness else model)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        history: deque[Weights] = deque(maxlen=settings.staleness + 1 if settings.staleness else 0)
        state = cls(policy, optimizer, replace(sampler, autocast=config.rollout_dtype()), history)
        state.remember()
        return state

    def remember(self) -> None:
        """Keep the weights as they are now for the rollouts to come, where these are stale."""
        if self.history.maxlen:
            self.history.append({k: v.detach().clone() for k, v in self.policy.model.named_parameters()})

    def count_update(self) -> None:
        """After an optimiser step."""
        self.update += 1
        self.remember()

    @torch.no_grad()
    def sampling_policy(self) -> Policy:
        """The sampler, with the weights of `staleness` updates ago, or the first where there were fewer."""
        if self.history:
            for name, parameter in self.sampler.model.named_parameters():
                parameter.copy_(self.history[0][name])
        return self.sampler


def save_checkpoint(root: Path, state: TrainState, log_sizes: dict[str, int], keep: int) -> Path:
    """Write `root/NNNNNN` for `state.iteration` and remove all but the newest `keep` checkpoints."""
    final = root / f"{state.iteration:06d}"
    shutil.rmtree(final, ignore_errors=True)
    with atomically(final) as folder:
        folder.mkdir()
        save_policy(state.policy, folder / "policy")
        save_file(_optimizer_tensors(state), folder / "optimizer.safetensors")
        if state.history:
            snapshots = {f"{i}/{k}": v for i, weights in enumerate(state.history) for k, v in weights.items()}
            save_file(snapshots, folder / "history.safetensors")
        counters = {"iteration": state.iteration, "update": state.update, "log_sizes": log_sizes}
        (folder / "state.json").write_text(json.dumps(counters))
    for old in list_checkpoints(root)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(root: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    return sorted(path for path in root.glob("[0-9]*") if path.is_dir())


def load_checkpoint(folder: Path, state: TrainState) -> dict[str, int]:
    """Set `state` to a checkpoint's, to the bit, and return the sizes that the logs had."""
    saved = load_policy(folder / "policy", chat=state.policy.chat)
    state.policy.model.load_state_dict(saved.model.state_dict())
    tensors = load_file(folder / "optimizer.safetensors", device=str(state.policy.device))
    for name, parameter in state.policy.model.named_parameters():
        moments = {
            key: tensors[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}/{key}" in tensors
        }
        if moments:
            state.optimizer.state[parameter] = moments
    state.history.clear()
    history = folder / "history.safetensors"
    if history.is_file():
        snapshots = load_file(history, device=str(state.policy.device))
        for i in range(1 + max(int(key.partition("/")[0]) for key in snapshots)):
            state.history.append({k.partition("/")[2]: v for k, v in snapshots.items() if k.startswith(f"{i}/")})
    counters = json.loads((folder / "state.json").read_text())
    state.iteration, state.update = counters["iteration"], counters["update"]
    sizes: dict[str, int] = counters["log_sizes"]
    return sizes


def _optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    """AdamW's moments under the names of their parameters."""
    return {
        f"{name}/{key}": value
        for name, parameter in state.policy.model.named_parameters()
        for key, value in state.optimizer.state.get(parameter, {}).items()
    }
