"""One optimiser step: log-probs of the responses now, a weight for every token by the method, a step; and its trace."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from minicppo.rl.checkpoint import TrainState
from minicppo.rl.config import RunConfig
from minicppo.rl.lm_head import LogProbs
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.rollout import Rollout
from minicppo.rl.run_dir import RunDir
from minicppo.rules import Method, TokenBatch, TokenWeights, diagnostics, policy_loss
from minicppo.rules.rows import join

TRACE_ROWS = 256  # responses kept, token by token


def update(state: TrainState, method: Method, minibatch: Rollout, config: RunConfig) -> dict[str, Any]:
    """One step with a minibatch; returns the row for the log.

    Micro-batches share the denominators of the whole minibatch, so their size changes no gradient. Raises
    FloatingPointError where a log-prob, the loss or the gradient is not finite.
    """
    settings, losses, entropies, batches, weights = config.train, [], [], [], []
    total_tokens = int(minibatch.response_mask.sum())
    for found, batch, out in weigh(state, method, minibatch, config, settings.micro_batch):
        loss = policy_loss(
            found.log_probs,
            out.weight,
            batch.advantages,
            batch.mask,
            loss_agg_mode=settings.loss_agg_mode,
            horizon=config.horizon,
            total_tokens=total_tokens,
            total_sequences=len(minibatch),
        )
        _require_finite(state, "loss", loss)
        loss.backward()
        losses.append(loss.detach())
        entropies.append(found.entropy[batch.mask])
        batches.append(batch)
        weights.append(out)
    grad_norm = torch.nn.utils.clip_grad_norm_(state.policy.model.parameters(), settings.grad_clip)
    _require_finite(state, "gradient norm", grad_norm)
    lr = settings.lr * min(1.0, (state.update + 1) / max(settings.lr_warmup, 1))
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.step()
    state.optimizer.zero_grad()  # now, so that no gradient takes memory while the next batch is sampled
    state.update += 1
    state.remember()
    whole = join(batches)
    return {
        "loss": float(torch.stack(losses).sum()),
        "grad_norm": float(grad_norm),
        "lr": lr,
        "entropy": float(torch.cat(entropies).mean()),
        "drift": float(whole.since_old.log_ratio[whole.mask].abs().mean()),
        **diagnostics(whole, join(weights)),
    }


def weigh(
    state: TrainState, method: Method, rollout: Rollout, config: RunConfig, size: int | None
) -> Iterator[tuple[LogProbs, TokenBatch, TokenWeights]]:
    """What a step with these responses sees now, `size` of them at a time; the batch is left without its top tokens."""
    for part in rollout.split(size):
        found = response_log_probs(state.policy, part, config.rollout.temperature, part.needs)
        _require_finite(state, "log-prob", found.log_probs[part.response_mask])
        batch = part.token_batch(found.log_probs, found.top_log_probs)
        yield found, dataclasses.replace(batch, top=None), method(batch)


def _require_finite(state: TrainState, name: str, value: Tensor) -> None:
    if not bool(torch.isfinite(value).all()):
        raise FloatingPointError(
            f"iteration {state.iteration}, update {state.update}: a {name} is not finite; "
            "lower train.lr or train.grad_clip, and resume from the last checkpoint"
        )


def write_trace(run: RunDir, state: TrainState, method: Method, rollout: Rollout, config: RunConfig) -> None:
    """Save per-token tensors of these responses as they are after the updates, and their texts; nothing is updated."""
    with torch.no_grad():
        found = [(batch, out) for _, batch, out in weigh(state, method, rollout, config, config.rows_per_forward)]
    batch, out = (join(parts) for parts in zip(*found, strict=True))
    sources: tuple[tuple[Any, str], ...] = (
        (rollout, "response_ids response_mask advantages"),
        (batch, "log_probs rollout_log_probs old_log_probs"),
        (out, "weight reason threshold divergence position_weight delta_b"),
    )
    tensors = {name: getattr(source, name) for source, names in sources for name in names.split()}
    decode = state.policy.tokenizer.decode
    valid = zip(rollout.response_ids, rollout.response_mask, strict=True)
    texts = {
        "iteration": state.iteration,
        "update": state.update,
        "prompts": [problem.prompt for problem in rollout.problems],
        "answers": [problem.answer for problem in rollout.problems],
        "tokens": [[decode([token]) for token in ids[mask].tolist()] for ids, mask in valid],
    }
    run.write_trace({name: value for name, value in tensors.items() if value is not None}, texts)
