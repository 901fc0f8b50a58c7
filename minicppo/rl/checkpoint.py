"""Checkpoints: the policy as a Hugging Face folder, optimiser and staleness snapshots as safetensors, counters as JSON.

A folder with a checkpoint's name, six digits, is always whole. Random numbers need no state: they are derived from
the seed and the iteration.
"""

import copy
import json
import shutil
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from minicppo.files import atomically, reading
from minicppo.rl.config import RunConfig
from minicppo.rl.policy import Policy, save_policy
from minicppo.rl.pretrained import require_finite
from minicppo.rl.run_dir import LOGS

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

    @torch.no_grad()
    def sampling_policy(self) -> Policy:
        """The sampler, with the weights of `staleness` updates ago, or the first where there were fewer."""
        if self.history:
            for name, parameter in self.sampler.model.named_parameters():
                parameter.copy_(self.history[0][name])
        return self.sampler


def save_checkpoint(root: Path, state: TrainState, log_sizes: dict[str, int], keep: int) -> None:
    """Write `root/NNNNNN` for `state.iteration` and remove all but the newest `keep` checkpoints."""
    final = root / f"{state.iteration:06d}"
    if final in list_checkpoints(root):
        shutil.rmtree(final)
    with atomically(final) as folder:
        folder.mkdir()
        save_policy(state.policy, folder / "policy")
        moments = {
            f"{name}/{key}": value
            for name, parameter in state.policy.model.named_parameters()
            for key, value in state.optimizer.state.get(parameter, {}).items()
        }
        save_file(moments, folder / "optimizer.safetensors")
        if state.history:
            snapshots = {f"{i}/{k}": v for i, weights in enumerate(state.history) for k, v in weights.items()}
            save_file(snapshots, folder / "history.safetensors")
        counters = {"iteration": state.iteration, "update": state.update, "moments": len(moments)}
        (folder / "state.json").write_text(json.dumps({**counters, "log_sizes": log_sizes}))
    for old in list_checkpoints(root)[:-keep]:
        shutil.rmtree(old)


def list_checkpoints(root: Path) -> list[Path]:
    """All whole checkpoints, oldest first. What is not named by six digits is none, and is left alone.

    Raises ValueError: one of them, or their folder, is a link: what would be removed here lies elsewhere.
    """
    found = sorted(path for path in root.glob("[0-9]" * 6) if path.is_dir())
    for path in (root, *found):
        if path.is_symlink():
            raise ValueError(f"{path} is a link, and checkpoints are removed here. Way out: the folder in its place")
    return found


def way_out(folder: Path) -> str:
    """What to do about a damaged checkpoint."""
    return f"remove {folder}, and resume from the checkpoint before"


def load_checkpoint(folder: Path, state: TrainState) -> dict[str, int]:
    """Set `state`, begun from this checkpoint's policy, to all else in it, to the bit, and return the logs' sizes then.

    Raises ValueError: a file is damaged, or its tensors have not the names, shapes, types or values of this run's.
    """
    with reading(folder / "state.json", way_out(folder)):
        saved = json.loads((folder / "state.json").read_text())
        sizes = {log: saved["log_sizes"][log] for log in LOGS}
        numbers = (saved["iteration"], saved["update"], saved.get("moments", 0), *sizes.values())
        if any(type(number) is not int or number < 0 for number in numbers) or numbers[0] != int(folder.name):
            raise ValueError(f"{numbers} are no counts, or another iteration's")
    state.iteration, state.update, moments = saved["iteration"], saved["update"], saved.get("moments")
    parameters = dict(state.policy.model.named_parameters())
    for file in sorted((folder / "policy").glob("*.safetensors")):
        with reading(file, way_out(folder)), safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118  (not a dictionary)
                if weights.get_slice(name).get_dtype() != "F32":
                    raise ValueError(f"{name} is not of type float32")
    like = {f"{k}/{key}": p for k, p in parameters.items() for key in ("exp_avg", "exp_avg_sq")}
    like |= {f"{name}/step": torch.zeros((), dtype=torch.float32) for name in parameters}
    file = folder / "optimizer.safetensors"
    found = _load(file, like, state.policy.device)
    with reading(file, way_out(folder)):
        owners = {name.rpartition("/")[0] for name in found}
        if len(found) != 3 * len(owners) or moments not in (None, len(found)):  # None: of an old file
            raise ValueError(
                f"{len(found)} tensors for {len(owners)} parameters, but {moments} were saved, three for each"
            )
        for key, low in {"exp_avg_sq": 0, "step": 1}.items():
            require_finite({name: tensor for name, tensor in found.items() if name.endswith(f"/{key}")}, low)
    for name in owners:
        state.optimizer.state[parameters[name]] = {
            key: found[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
        }
    if state.history.maxlen:
        snapshots = range(min(state.update + 1, state.history.maxlen))
        like = {f"{i}/{name}": p for i in snapshots for name, p in parameters.items()}
        kept = _load(folder / "history.safetensors", like, state.policy.device, exactly=True)
        state.history.clear()
        state.history.extend({name: kept[f"{i}/{name}"] for name in parameters} for i in snapshots)
    return sizes


def _load(file: Path, like: Mapping[str, Tensor], device: torch.device, exactly: bool = False) -> Weights:
    """The tensors of a file: each is to have its fellow's shape and type, and finite values. exactly: all are there.

    Raises ValueError with the file's name and the tensor's.
    """
    with reading(file, way_out(file.parent)):
        tensors = load_file(file, device=str(device))
        for name, tensor in tensors.items():
            if name not in like:
                raise ValueError(f"{name} is none of this run's tensors")
            if (tensor.shape, tensor.dtype) != (like[name].shape, like[name].dtype):
                have, want = (f"{t.dtype} {tuple(t.shape)}".removeprefix("torch.") for t in (tensor, like[name]))
                raise ValueError(f"{name} is {have}, and not {want}")
        if exactly and (missing := like.keys() - tensors):
            raise ValueError(f"{min(missing)} is missing")
        require_finite(tensors)
    return tensors
