"""verl's own configuration and loss with our methods in it; sequences in its nested layout."""

import functools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minicppo.engines.samples import Sample
from tests.engines.sequences import HORIZON, leaf

with warnings.catch_warnings():  # of verl's own imports
    warnings.simplefilter("ignore")
    pytest.importorskip("verl", reason="verl is not installed: pip install -c constraints-verl.txt -e '.[verl]'")
    import hydra
    import verl.trainer
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf
    from tensordict import TensorDict
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils import tensordict_utils
    from verl.utils.config import omega_conf_to_dataclass, validate_config
    from verl.workers.utils.losses import ppo_loss

    from minicppo.engines import verl_loss as verl_loss
    from minicppo.engines.refusals import VERL
    from minicppo.engines.verl_settings import loss_mode

CONFIGS = str(Path(next(iter(verl.trainer.__path__))) / "config")


def composed(overrides: list[str]) -> Any:
    """verl's configuration, composed by Hydra as its command line would."""
    with hydra.initialize_config_dir(CONFIGS, version_base=None):
        return hydra.compose("ppo_trainer", overrides=overrides)


def accepted(config: Any) -> None:
    """verl's own validation, as its `main` calls it."""
    validate_config(config, need_reference_policy(config), need_critic(config))


def instantiated(config: Any, changes: list[str]) -> Any:
    """The actor of a composed configuration with further overrides, parsed by Hydra and validated by verl."""
    config = config.copy()
    for override in OverridesParser.create().parse_overrides(changes):
        OmegaConf.update(config, override.key_or_group, override.value(), merge=False, force_add=True)
    accepted(config)
    return omega_conf_to_dataclass(config.actor_rollout_ref.actor)


@functools.cache
def _actor() -> Any:
    return composed(["actor_rollout_ref.actor.strategy=fsdp2", "actor_rollout_ref.actor.use_dynamic_bsz=true"])


def actor_config(name: str, mode: str = "seq-mean-token-sum-norm", horizon: int = HORIZON, **params: Any) -> Any:
    """An actor's configuration with one of our losses, through verl's own instantiation."""
    settings = OmegaConf.create(OmegaConf.to_container(_actor(), resolve=False)).actor_rollout_ref.actor
    settings.loss_agg_mode, settings.loss_scale_factor = mode, horizon
    settings.policy_loss.update(
        {
            "_target_": VERL["settings"]["actor_rollout_ref.actor.policy_loss._target_"],
            "loss_mode": loss_mode(name),
            "params": params,
        }
    )
    return omega_conf_to_dataclass(settings)


def nested(rows: list[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def verl_loss_of(
    config: Any, samples: list[Sample], step: list[Sample] | None = None, ranks: int = 1
) -> tuple[Tensor, list[Tensor], dict[str, Any]]:
    """verl's `ppo_loss` on a micro-batch: loss, its gradient by sequence, metrics.

    step: all sequences of the step, whose totals verl hands over, by default the micro-batch; no totals if empty.
    """
    samples, step = leaf(samples), samples if step is None else step
    prompts = [int(sample.mask.long().argmax()) for sample in samples]

    def responses(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        columns = [getattr(sample, name) for sample in samples]
        return nested([column[n:].to(dtype) for column, n in zip(columns, prompts, strict=True)])

    td = TensorDict(
        {
            "prompts": nested([torch.ones(n, dtype=torch.long) for n in prompts]),
            "responses": responses("mask", torch.long),  # any ids
            "response_mask": responses("mask", torch.long),
            "old_log_probs": responses("rollout_log_probs"),
            "advantages": responses("advantages"),
        },
        batch_size=[len(samples)],
    )
    tokens = sum(int(sample.mask.sum()) for sample in step)
    totals = {"batch_num_tokens": tokens or None, "global_batch_size": len(step) or None}
    tensordict_utils.assign_non_tensor(td, dp_size=ranks, **totals)
    # model outputs stand one token early: position t holds the log-prob of token t + 1
    early = nested([torch.cat([sample.log_probs[1:], torch.zeros(1)]) for sample in samples])
    loss, metrics = ppo_loss(config, {"log_probs": early}, td)
    loss.backward()
    return loss.detach(), [sample.log_probs.grad for sample in samples], metrics
