"""The methods as policy losses of verl: importing this module registers them wherever verl builds its actor.

The override `actor_rollout_ref.actor.policy_loss._target_=minicppo.engines.verl_loss.CPPOPolicyLossConfig` does that
import in every worker, so verl needs no fork and no environment variable.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, register_policy_loss
from verl.workers.config import ActorConfig, PolicyLossConfig

from minicppo.engines.samples import engine_method
from minicppo.engines.verl_settings import loss_mode, verl_methods
from minicppo.inspect import Recorder
from minicppo.plugins import load_plugins
from minicppo.rules import TokenBatch, diagnostics, get_method, policy_loss

LOSS_MODES: dict[str, str] = {}  # what is registered with verl, and which method it is
recorder = functools.cache(Recorder)  # one a process


@dataclass
class CPPOPolicyLossConfig(PolicyLossConfig):
    """verl's policy-loss settings with the hyper-parameters of our method.

    loss_mode: a key of `LOSS_MODES`. params: hyper-parameters, those left out have the registry's defaults; never
    verl's `clip_ratio_*`, whose defaults would pass for thresholds. plugins: files with methods of one's own.
    record: folder, every and rows of a `minicppo.inspect.Recorder`; of nothing, none.
    Raises ValueError on an unknown loss mode or hyper-parameter, and on one that verl's log-probs cannot serve.
    """

    loss_mode: str = "cppo"
    params: dict[str, Any] = field(default_factory=dict)
    plugins: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        load_plugins(self.plugins)
        register_losses()
        if self.loss_mode not in LOSS_MODES:
            raise ValueError(f"loss_mode={self.loss_mode!r} is not ours; known: {', '.join(LOSS_MODES)}")
        method = engine_method(LOSS_MODES[self.loss_mode], self.params)
        if method.corrects:  # it would be off in silence
            raise ValueError(f"{method.name} corrects pi_old, which is the rollout's here: leave its correction out")


def method_loss(
    name: str,
    *,
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str,
    config: ActorConfig,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """A method's loss and diagnostics on one micro-batch, in verl's calling convention.

    old_log_prob, log_prob, advantages, response_mask: (B, T); `old_log_prob` is the rollout's own (bypass mode).
    The denominators are those of the whole optimiser step, out of `config.global_batch_info`, times the number of
    data-parallel ranks, whose gradients verl averages. Masked tokens stay in them.
    Raises ValueError for NaN or infinite log-probs, an unknown aggregation, a missing horizon or total and decoupled
    weights, TypeError for log-probs in half precision.
    """
    if rollout_is_weights is not None:
        raise ValueError(
            "rollout_is_weights are given, so old_log_prob is not the rollout's: "
            "set algorithm.rollout_correction.bypass_mode=True"
        )
    if log_prob.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"log_prob is {log_prob.dtype}: its rounding exceeds the thresholds. Install flash-attn, whose "
            "cross-entropy gives float32"
        )
    info = config.global_batch_info
    ranks = info.get("dp_size") or 1
    tokens, sequences = info.get("batch_num_tokens"), info.get("global_batch_size")
    if ranks > 1 and (tokens if loss_agg_mode == "token-mean" else sequences) is None:
        raise ValueError(f"{loss_agg_mode} over {ranks} ranks needs the totals of the step in config.global_batch_info")
    method = get_method(name, **config.policy_loss.params)
    batch = TokenBatch(log_prob, old_log_prob, advantages, response_mask)
    out = method(batch)
    if config.policy_loss.record:
        recorder(**config.policy_loss.record).micro_batch(batch)
    loss = policy_loss(
        log_prob,
        out.weight,
        advantages,
        batch.mask,
        loss_agg_mode=loss_agg_mode,
        horizon=config.loss_scale_factor,
        total_tokens=tokens,
        total_sequences=sequences,
    )
    # verl averages each key over micro-batches and ranks, which must therefore all have it: none by response length
    logged = {f"actor/{key}": value for key, value in diagnostics(batch, out).items() if "/len_" not in key}
    return loss * ranks, logged


def register_losses() -> None:
    """Register with verl every method it can carry that is not yet: all there are, later those of plugins."""
    for name in verl_methods():
        mode = loss_mode(name)
        if mode not in LOSS_MODES:
            if mode in POLICY_LOSS_REGISTRY:
                raise RuntimeError(f"verl already has a policy loss {mode!r}: another plugin took the name; remove it")
            LOSS_MODES[mode] = name
            register_policy_loss(mode)(functools.partial(method_loss, name))


register_losses()
