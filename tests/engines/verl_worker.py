"""One rank of the FSDP2 tests, started by torchrun: `verl_worker.py FOLDER MODE PARAMS`.

Takes one training step with verl's own engine and a registered loss, and writes loss, masked share, whole gradients.
"""

import functools
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import verl.plugin.platform as platform
from verl.plugin.platform.platform_base import PlatformBase


class Cpu(PlatformBase):
    """A platform without an accelerator: what the engine asks of one, answered for the CPU."""

    device_name = vendor_name = "cpu"
    device_module = torch.cpu
    is_available = lambda self: True  # noqa: E731
    current_device = lambda self: torch.device("cpu")  # noqa: E731
    device_count = lambda self: 1  # noqa: E731
    communication_backend_name = lambda self: "gloo"  # noqa: E731
    get_device_capability = lambda self, device_index=0: (None, None)  # noqa: E731


def _nothing(self: Any, *_: Any, **__: Any) -> None:
    """What only an accelerator has."""


for _name in PlatformBase.__abstractmethods__ - set(vars(Cpu)):
    setattr(Cpu, _name, _nothing)
Cpu.__abstractmethods__ = frozenset()
platform.set_platform(Cpu())

ours = ModuleType("tests")  # some installed package has a `tests` of its own
ours.__path__ = [str(Path(__file__).resolve().parents[1])]
sys.modules["tests"] = ours

from safetensors.torch import save_file  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from verl.models.transformers import monkey_patch  # noqa: E402
from verl.trainer.config import CheckpointConfig  # noqa: E402
from verl.utils import tensordict_utils  # noqa: E402
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig  # noqa: E402
from verl.workers.engine.base import EngineRegistry  # noqa: E402
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead  # noqa: E402
from verl.workers.utils.losses import ppo_loss  # noqa: E402

from minicppo.rl.rollout import Rollout  # noqa: E402
from tests.engines.stale import ADVANTAGES, HORIZON, TEMPERATURE, stale_rollout, tiny_policy  # noqa: E402
from tests.engines.verl_setup import actor_config, nested  # noqa: E402


def engine_of(model: Path) -> Any:
    """verl's FSDP2 engine in float32, clipping nothing."""
    monkey_patch.is_trl_available = lambda: False  # it asks any TRL it finds for a class that TRL 1.16 dropped
    EngineRegistry.register("language_model", ["fsdp2"], "cpu")(FSDPEngineWithLMHead)
    precision = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=HFModelConfig(
            path=str(model),
            override_config={"attn_implementation": "eager"},
            use_remove_padding=False,
            enable_gradient_checkpointing=False,
        ),
        engine_config=FSDPEngineConfig(strategy="fsdp2", mixed_precision=precision, use_torch_compile=False),
        optimizer_config=FSDPOptimizerConfig(lr=1e-2, clip_grad=1e9, total_training_steps=1),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    return engine


def batch_of(rollout: Rollout, rows: list[int]) -> TensorDict:
    """Some rows of a padded rollout in verl's nested layout."""
    prompts = [rollout.prompt_ids[i][rollout.prompt_mask[i]] for i in rows]
    lengths = [int(rollout.response_mask[i].sum()) for i in rows]
    parts = list(zip(rows, lengths, strict=True))
    responses = [rollout.response_ids[i, :n] for i, n in parts]
    whole = [torch.cat(pair) for pair in zip(prompts, responses, strict=True)]
    masks = [torch.arange(len(ids)) >= len(ids) - n for ids, n in zip(whole, lengths, strict=True)]
    data = TensorDict(
        {
            "input_ids": nested(whole),
            "position_ids": nested([torch.arange(len(ids)) for ids in whole]),
            "loss_mask": nested([mask.long() for mask in masks]),
            "prompts": nested(prompts),
            "responses": nested(responses),
            "response_mask": nested([torch.ones(n, dtype=torch.long) for n in lengths]),
            "old_log_probs": nested([rollout.log_probs[i, :n] for i, n in parts]),
            "advantages": nested([ADVANTAGES.repeat(2)[i].expand(n) for i, n in parts]),
        },
        batch_size=[len(rows)],
    )
    tensordict_utils.assign_non_tensor(
        data,
        temperature=TEMPERATURE,
        global_batch_size=len(rollout.response_ids),
        micro_batch_size_per_gpu=2,
        use_dynamic_bsz=False,
        use_remove_padding=False,
        use_fused_kernels=False,
        calculate_entropy=False,
    )
    return data


def main(folder: Path, mode: str, params: str) -> None:
    torch.distributed.init_process_group("gloo")
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    rollout = stale_rollout(tiny_policy(), rows=8)
    engine = engine_of(folder / "policy")
    rows = list(range(rank, len(rollout.response_ids), ranks))
    config = actor_config("cppo", mode, horizon=HORIZON, **json.loads(params))
    gradients, sharded = {}, 0
    with engine.train_mode():  # whose end drops the gradients
        output = engine.train_batch(batch_of(rollout, rows), functools.partial(ppo_loss, config))
        for name, parameter in engine.module.named_parameters():
            sharded += isinstance(parameter.grad, DTensor)
            gradients[name] = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
    mine = {key: output["metrics"][key].aggregate() for key in ("actor/pg_loss", "actor/mask/frac")}
    everyone: list[Any] = [None] * ranks
    torch.distributed.all_gather_object(everyone, mine)
    if rank == 0:
        means = {key: sum(each[key] for each in everyone) / ranks for key in mine}
        (folder / f"{ranks}.json").write_text(json.dumps({**means, "sharded": sharded, "parameters": len(gradients)}))
        save_file(gradients, folder / f"{ranks}.safetensors")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
