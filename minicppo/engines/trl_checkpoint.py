"""What our checkpoints have beside TRL's, and which of them are whole.

rollout_R.safetensors  the responses that process R still reuses, and its count of micro-batches: TRL alone would sample
                       others on resuming in the middle of a rollout
minicppo.json          bytes of the run's logs; written last, so that a checkpoint without it is not whole
"""

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from trl.trainer.utils import RepeatSampler

from minicppo.files import reading
from minicppo.rl.checkpoint import way_out
from minicppo.rl.run_dir import LOGS, RunDir

DONE = "minicppo.json"
# Entries of TRL's input dictionary under the names that runs of older versions saved them with.
RENAMED = {"rollout_cell_log_probs": "rollout_top_log_probs", "rollout_cell_ids": "rollout_top_ids"}


def saved_checkpoints(run: RunDir) -> list[Path]:
    """The folders RUN/trl/checkpoint-N, by N. What has another name, or is a link, is no checkpoint: it is left alone.

    Raises ValueError where RUN/trl or RUN/checkpoints is a link: what is removed or written there would lie elsewhere.
    """
    for link in (run.path / "trl", run.checkpoints):
        if link.is_symlink():
            raise ValueError(f"{link} is a link out of the run. Way out: put the folder itself in its place")
    found = [path for path in (run.path / "trl").glob("checkpoint-*") if re.fullmatch(r"checkpoint-[0-9]+", path.name)]
    found = [path for path in found if path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def whole_checkpoint(run: RunDir, remove: bool = False) -> Path | None:
    """The newest checkpoint that was written to its end; ValueError where a file of it is damaged.

    remove: those that were not, for the holder of the run's lock.
    """
    found = None
    for folder in saved_checkpoints(run):
        if (folder / DONE).is_file():
            found = folder
        elif remove:
            shutil.rmtree(folder)
    if found:
        _require_readable(found)
    return found


def log_sizes(checkpoint: Path | None) -> dict[str, int]:
    """Bytes that each log had at a checkpoint; None: at the start."""
    return dict.fromkeys(LOGS, 0) if checkpoint is None else json.loads((checkpoint / DONE).read_text())


def _require_readable(folder: Path) -> None:
    """Raise ValueError, naming the file, where the header or the index of one is not what it should be."""
    for file in sorted(folder.iterdir()):
        with reading(file, way_out(folder)):
            if file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
            elif file.suffix in (".pt", ".pth"):  # PyTorch's own files, which transformers writes, are zip archives
                zipfile.ZipFile(file).close()
            elif file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
    with reading(folder / DONE, way_out(folder)):
        sizes = [log_sizes(folder)[log] for log in LOGS]
        if not all(type(size) is int and size >= 0 for size in sizes):
            raise ValueError(f"{sizes} are no sizes of the logs")


def save_rollout(path: Path, step: int, parts: Sequence[Mapping[str, Any]]) -> None:
    """Write the trainer's count of micro-batches and the current rollout's input dictionaries (or none).

    What is no tensor goes as JSON; TypeError where that cannot be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {f"{i}/{name}": value for i, part in enumerate(parts) for name, value in part.items()}
    tensors = {k: v.cpu().clone() for k, v in values.items() if isinstance(v, Tensor)}  # slices would share memory
    others = {k: v for k, v in values.items() if k not in tensors}
    save_file(tensors, path, {"step": str(step), "parts": str(len(parts)), "others": json.dumps(others)})


def require_rollouts(folder: Path, processes: int) -> None:
    """Raise ValueError unless the checkpoint holds a rollout for each process."""
    if (found := len(list(folder.glob("rollout_*.safetensors")))) != processes:
        raise ValueError(
            f"{folder} has the rollouts of {found} processes, not {processes}: it was saved by GRPOTrainer, or by "
            "another number of processes. Way out: as many as then; or begin anew from its weights, with that folder as"
            " the model"
        )


def load_rollout(path: Path, device: str) -> tuple[int, list[dict[str, Any]]]:
    """What `save_rollout` wrote. Raises ValueError where it is damaged."""
    with reading(path, way_out(path.parent)):
        with safe_open(path, "pt", device=device) as file:
            metadata = file.metadata()
            values = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dictionary)
        values |= json.loads(metadata.get("others", "{}"))
        parts: list[dict[str, Any]] = [{} for _ in range(int(metadata["parts"]))]
        for key, value in values.items():
            index, _, name = key.partition("/")
            parts[int(index)][RENAMED.get(name, name)] = value
        return int(metadata["step"]), parts


class PromptOrder(RepeatSampler):
    """TRL's order of prompts; also in a run resumed in a later epoch, which TRL shuffles like the first.

    epoch: how many are behind when a new one begins.
    """

    def __init__(self, of: RepeatSampler, epoch: Callable[[], int]):
        self.__dict__.update(vars(of))
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(self.epoch()):
                torch.randperm(self.num_samples, generator=self.generator)
        return super().__iter__()
