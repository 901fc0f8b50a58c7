"""One rank of the two-rank tests, started by torchrun: `trl_worker.py FOLDER`.

Takes one training step for each case with the real Trainer, under DDP and under FSDP2, and compares loss, masked share
and whole gradients with those of one process; of the first a recorder writes what the loss saw.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from minicppo.engines.trl import LOSS_TYPES
from minicppo.inspect import Recorder
from minicppo.rules import get_method, group_advantages
from tests.engines.stale import assert_close, reference, stale_rollout, tiny_policy
from tests.engines.trl_setup import no_reward, top_inputs, trainer_of

CASES = [("cppo", "dapo"), ("cppo-topk", "dr_grpo"), ("pdm", "grpo")]

SHARDED = {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["Qwen3DecoderLayer"]}}


def shard_on_the_cpu() -> None:
    """Accelerate takes FSDP for a GPU matter and falls back to DDP on a CPU without a word."""
    initialise = AcceleratorState.__init__

    def patched(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        initialise(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = patched


class Capture(TrainerCallback):
    """Whole gradients, before the optimiser uses them, and what was logged."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}
        self.logs: dict[str, float] = {}
        self.sharded = False

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for name, parameter in kwargs["model"].named_parameters():
            grad = parameter.grad
            self.sharded |= isinstance(grad, DTensor)
            whole = grad.full_tensor() if isinstance(grad, DTensor) else grad
            self.gradients[name.removeprefix("module.")] = whole.clone()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        self.logs = {**(logs or {}), **self.logs}


def one_step(folder: Path, engine: str, name: str, loss_type: str) -> None:
    policy, method = tiny_policy(), get_method(name)
    whole = stale_rollout(policy, rows=8, needs=method.needs)

    def rollout_func(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        part = whole.rows(torch.arange(4) + 4 * trainer.accelerator.process_index)
        trainer._top = top_inputs(part)

        def lists(values: torch.Tensor, mask: torch.Tensor) -> list[list[Any]]:
            return [row[valid].tolist() for row, valid in zip(values, mask, strict=True)]

        return {
            "prompt_ids": lists(part.prompt_ids, part.prompt_mask),
            "completion_ids": lists(part.response_ids, part.response_mask),
            "logprobs": lists(part.log_probs, part.response_mask),
        }

    settings: dict[str, Any] = {"max_steps": 1, "max_grad_norm": 0.0, "logging_steps": 1, "loss_type": loss_type}
    settings |= {"mismatch_limit": float("inf")}  # the rollout is another policy's on purpose
    settings |= SHARDED if engine == "fsdp2" else {}
    trainer = trainer_of(policy, folder / "out", rollout_func=rollout_func, **settings)
    trainer.method = method  # past the check: this rollout_func does return Top-K
    capture = Capture()
    trainer.add_callback(capture)
    if (engine, name) == ("ddp", "cppo"):
        Recorder(folder / "log", every=1, rows=None).attach(trainer)
    trainer.train()
    assert trainer.accelerator.num_processes == 2
    assert capture.sharded == (engine == "fsdp2")
    rewards = torch.tensor(no_reward([[0] * n for n in whole.response_mask.sum(1).tolist()]))
    advantages = group_advantages(rewards, 2).advantages
    loss, wanted, masked = reference(tiny_policy(), whole, method, LOSS_TYPES[loss_type], advantages)
    assert masked > 0.04, "the mask is idle"
    assert_close(capture.gradients, wanted)
    if trainer.accelerator.is_main_process:
        assert capture.logs["mask/frac"] == pytest.approx(masked, rel=1e-5)
        assert capture.logs["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
        (folder / f"{engine}-{name}").write_text(str(masked))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in CASES:
        one_step(Path(sys.argv[1]), "ddp", *case)
    AcceleratorState._reset_state(reset_partial_state=True)
    shard_on_the_cpu()
    for case in CASES:
        one_step(Path(sys.argv[1]), "fsdp2", *case)
    torch.distributed.destroy_process_group()
