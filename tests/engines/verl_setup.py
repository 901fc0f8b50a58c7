"""Responses of varying length in verl's nested layout, from a rollout policy so different that every mask is active."""

import functools
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minicppo.rules import Method, TokenBatch, policy_loss

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

HORIZON = 40
CONFIGS = str(Path(next(iter(verl.trainer.__path__))) / "config")
PROMPTS, RESPONSES = (3, 1, 5, 2, 4, 2), (17, 40, 1, 9, 28, 33)


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


@dataclass
class Sample:
    """Ragged responses: log-probs of both policies, advantages and masks, one tensor a response, float64."""

    log_probs: list[Tensor]
    rollout: list[Tensor]
    advantages: list[Tensor]
    masks: list[Tensor]

    def __len__(self) -> int:
        return len(self.log_probs)

    @property
    def tokens(self) -> int:
        return int(sum(mask.sum() for mask in self.masks))


def sample(seed: int = 0) -> Sample:
    """Six responses; two of them have tool tokens in the middle, and their masked values are garbage."""
    generator = torch.Generator().manual_seed(seed)
    random = partial(torch.rand, generator=generator, dtype=torch.float64)
    rollout = [(0.05 + 0.9 * random(n)).log() for n in RESPONSES]
    log_probs = [(x + 0.25 * torch.randn(len(x), generator=generator)).clamp(max=-1e-3) for x in rollout]
    values = (1, -1, 0.5, -0.25, 0.75, 0)
    advantages = [torch.full((n,), a, dtype=torch.float64) for n, a in zip(RESPONSES, values, strict=True)]
    masks = [torch.ones(n, dtype=torch.bool) for n in RESPONSES]
    masks[1][10:14] = masks[4][3] = False
    return Sample(log_probs, rollout, advantages, masks)


def nested(rows: list[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def verl_loss_of(
    config: Any, data: Sample, rows: list[int], totals: bool = True, ranks: int = 1
) -> tuple[Tensor, list[Tensor], dict[str, Any]]:
    """verl's `ppo_loss` on some of the responses, as a micro-batch: loss, its gradient by response, metrics."""
    leaves = [data.log_probs[i].float().requires_grad_() for i in rows]
    # model outputs stand one token early: position t holds the log-prob of token t + 1
    prompts = [torch.zeros(PROMPTS[i] - 1) for i in rows]
    flat = [torch.cat([prompt, leaf, torch.zeros(1)]) for prompt, leaf in zip(prompts, leaves, strict=True)]
    td = TensorDict(
        {
            "prompts": nested([torch.ones(PROMPTS[i], dtype=torch.long) for i in rows]),
            "responses": nested([torch.ones(len(data.masks[i]), dtype=torch.long) for i in rows]),
            "response_mask": nested([data.masks[i].long() for i in rows]),
            "old_log_probs": nested([data.rollout[i].float() for i in rows]),
            "advantages": nested([data.advantages[i].float() for i in rows]),
        },
        batch_size=[len(rows)],
    )
    tensordict_utils.assign_non_tensor(
        td,
        dp_size=ranks,
        batch_num_tokens=data.tokens if totals else None,
        global_batch_size=len(data) if totals else None,
    )
    loss, metrics = ppo_loss(config, {"log_probs": nested(flat)}, td)
    loss.backward()
    return loss.detach(), [leaf.grad for leaf in leaves], metrics


def reference_of(data: Sample, method: Method, mode: str) -> tuple[float, list[Tensor], float]:
    """Loss, its gradient by response and the masked share by the rules on a padded batch."""
    padded = partial(pad_sequence, batch_first=True)
    log_probs = padded(data.log_probs).requires_grad_()
    batch = TokenBatch(log_probs, padded(data.rollout), padded(data.advantages), padded(data.masks))
    out = method(batch)
    loss = policy_loss(log_probs, out.weight, batch.advantages, batch.mask, loss_agg_mode=mode, horizon=HORIZON)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    masked = float((batch.mask & (out.weight == 0)).sum() / data.tokens)
    return float(loss), [row[: len(mask)] for row, mask in zip(gradient, data.masks, strict=True)], masked
