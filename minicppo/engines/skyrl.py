"""Any method as a policy loss of SkyRL, registered as `minicppo-NAME`.

SkyRL finds it through its own hook: `python -m skyrl.train.entrypoints.main_base
trainer.override_entrypoint=minicppo.engines.skyrl trainer.algorithm.policy_loss_type=minicppo-cppo ...` calls `main`
here. Hyper-parameters stand beside, as JSON: `minicppo.params={"delta": 0.1}`, `minicppo.plugins=["FILE.py"]`.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minicppo.engines.samples import Sample, engine_method, token_losses

PREFIX = "minicppo-"
OURS = ("minicppo.params", "minicppo.plugins")  # arguments that SkyRL does not know
CORRECTIONS = ["tis_ratio_type", "sequence_mask_metric"]
CORRECTIONS += [f"{kind}_is_threshold_{end}" for kind in ("outlier_token", "token_mask") for end in ("low", "high")]


def method_loss(
    log_probs: Tensor,
    old_log_probs: Tensor | None,
    advantages: Tensor,
    config: Any,
    loss_mask: Tensor | None = None,
    rollout_logprobs: Tensor | None = None,
    *,
    method: str,
    params: dict[str, Any] | None = None,
    plugins: Sequence[str] = (),
) -> tuple[Tensor, dict[str, float]]:
    """The sum of a micro-batch's token losses and the method's diagnostics, in SkyRL's calling convention.

    log_probs, old_log_probs, rollout_logprobs, loss_mask, advantages: (B, T), response tokens alone. SkyRL has divided
    the advantages by the step's denominator, which is why a sum is wanted, and why a method that reads their
    size is refused.
    Raises ValueError, saying so, where mu is missing or laid out otherwise than pi, and beside SkyRL's own corrections.
    """
    correction = getattr(config, "off_policy_correction", None)
    if active := [name for name in CORRECTIONS if getattr(correction, name, None) is not None]:
        raise ValueError(
            f"trainer.algorithm.off_policy_correction.{active[0]} would not be applied: this loss is anchored at mu. "
            "Way out: set it to null"
        )
    mask = torch.ones_like(log_probs, dtype=torch.bool) if loss_mask is None else loss_mask.bool()
    none = [None] * len(log_probs)
    mu, old = (none if column is None else column for column in (rollout_logprobs, old_log_probs))
    samples = [Sample(*row) for row in zip(log_probs, mu, mask, advantages, old, strict=True)]
    losses, logged = token_losses(engine_method(method, params, plugins, divided=True), samples, with_prompt=False)
    return torch.stack(losses).sum(), logged


def register(name: str, params: dict[str, Any] | None = None, plugins: Sequence[str] = ()) -> str:
    """Register a method with SkyRL, which passes it on to its workers; returns the name for `policy_loss_type`.

    Raises ValueError as `engine_method` does, and where the name is registered already.
    """
    from skyrl.backends.skyrl_train.utils.ppo_utils import PolicyLossRegistry

    engine_method(name, params, plugins, divided=True)  # its errors belong here, not in a worker
    PolicyLossRegistry.register(PREFIX + name, partial(method_loss, method=name, params=params, plugins=plugins))
    return PREFIX + name


def split_arguments(arguments: list[str]) -> tuple[dict[str, Any], list[str], str]:
    """What `register` takes, the arguments that are SkyRL's, and the method's name.

    Raises ValueError where no `trainer.algorithm.policy_loss_type` names one of ours.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments)
    loss = given.get("trainer.algorithm.policy_loss_type", "")
    if not loss.startswith(PREFIX):
        raise ValueError(f"trainer.algorithm.policy_loss_type={loss or '?'} is not ours: {PREFIX}cppo, for example")
    ours = {key.partition(".")[2]: json.loads(given[key]) for key in OURS if key in given}
    return ours, [a for a in arguments if a.partition("=")[0] not in OURS], loss.removeprefix(PREFIX)


def main() -> None:
    """SkyRL's own entry point with the method registered first."""
    import ray
    from skyrl.train.config import SkyRLTrainConfig
    from skyrl.train.entrypoints.main_base import skyrl_entrypoint, validate_cfg
    from skyrl.train.utils import initialize_ray

    ours, arguments, name = split_arguments(sys.argv[1:])
    register(name, **ours)
    config = SkyRLTrainConfig.from_cli_overrides(arguments)
    validate_cfg(config)
    initialize_ray(config)
    ray.get(skyrl_entrypoint.remote(config))
