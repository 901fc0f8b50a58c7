"""Responses that later updates reuse, kept with a checkpoint: TRL alone would sample others on resuming."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def save_buffer(path: Path, step: int, parts: Sequence[Mapping[str, Any]]) -> None:
    """Write the trainer's count of micro-batches and the input dictionaries of the current rollout (or none)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{i}/{name}": value.cpu().clone()  # slices of one tensor share memory
        for i, part in enumerate(parts)
        for name, value in part.items()
        if isinstance(value, Tensor)
    }
    save_file(tensors, path, metadata={"step": str(step), "parts": str(len(parts))})


def load_buffer(path: Path, device: str) -> tuple[int, list[dict[str, Tensor]]]:
    """What `save_buffer` wrote."""
    with safe_open(path, "pt", device=device) as file:
        metadata = file.metadata()
        parts: list[dict[str, Tensor]] = [{} for _ in range(int(metadata["parts"]))]
        for key in file.keys():  # noqa: SIM118  (not a dictionary)
            index, _, name = key.partition("/")
            parts[int(index)][name] = file.get_tensor(key)
    return int(metadata["step"]), parts
