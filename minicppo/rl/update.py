"""One optimiser step: score, weigh every token by the method, step; and what to keep of it for a closer look."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minicppo.rl.checkpoint import TrainState
from minicppo.rl.config import RunConfig
from minicppo.rl.log_probs import score
from minicppo.rl.run_dir import RunDir
from minicppo.rl.sampling import Keep, Rollout
from minicppo.rl.tasks import Problem, Task
from minicppo.rules import Method, TokenBatch, TokenWeights, TopLogProbs, diagnostics, policy_loss
from minicppo.rules.rows import join


@dataclass(frozen=True)
class Minibatch:
    """The (B,) responses of one optimiser step, their (B,) advantages, and the indices of their groups in the batch."""

    rollout: Rollout
    advantages: Tensor
    groups: list[int]


class Updater:
    """Makes optimiser steps; calling it with a minibatch returns the row for the log."""

    def __init__(self, config: RunConfig, method: Method, keep: Keep, task: Task, state: TrainState):
        self.config, self.method, self.keep, self.state = config, method, keep, state
        self.horizon = config.train.horizon or config.max_new_tokens(task)

    def __call__(self, minibatch: Minibatch) -> dict[str, Any]:
        """One step. Micro-batches share the denominators of the whole minibatch, so their size changes no gradient.

        Raises:
            FloatingPointError: a log-prob, the loss or the gradient is not finite.
        """
        settings, state = self.config.train, self.state
        rollout, n = minibatch.rollout, len(minibatch.rollout)
        losses, entropies, batches, results = [], [], [], []
        for rows in torch.arange(n, device=rollout.log_probs.device).split(settings.micro_batch or n):
            part = rollout if len(rows) == n else rollout.rows(rows)
            scores = score(state.policy, part, self.config.rollout.temperature, self.keep)
            self._require_finite("log-prob", scores.log_probs[part.response_mask])
            batch = token_batch(part, minibatch.advantages[rows], scores.log_probs, scores.cell_log_probs)
            result = self.method(batch)
            loss = policy_loss(
                scores.log_probs,
                result.weight,
                batch.advantages,
                batch.mask,
                loss_agg_mode=settings.loss_agg_mode,
                horizon=self.horizon,
                total_tokens=int(rollout.response_mask.sum()),
                total_sequences=n,
            )
            self._require_finite("loss", loss)
            loss.backward()
            losses.append(loss.detach())
            entropies.append(scores.entropy[part.response_mask])
            batches.append(dataclasses.replace(batch, top=None))
            results.append(result)
        grad_norm = torch.nn.utils.clip_grad_norm_(state.policy.model.parameters(), settings.grad_clip)
        self._require_finite("gradient norm", grad_norm)
        lr = settings.lr * min(1.0, (state.update + 1) / max(settings.lr_warmup, 1))
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        state.optimizer.step()
        state.optimizer.zero_grad()  # now, so that no gradient takes memory while the next batch is sampled
        state.update += 1
        batch, result = join(batches), join(results)
        return {
            "loss": float(torch.stack(losses).sum()),
            "grad_norm": float(grad_norm),
            "lr": lr,
            "entropy": float(torch.cat(entropies).mean()),
            "drift": float(batch.log_ratio[batch.mask].abs().mean()),
            **diagnostics(batch, result),
        }

    @torch.no_grad()
    def weigh(self, minibatch: Minibatch, rows_per_forward: int) -> tuple[TokenBatch, TokenWeights]:
        """What an update with these responses would see now; nothing is updated."""
        rollout, batches, results = minibatch.rollout, [], []
        for rows in torch.arange(len(rollout), device=rollout.log_probs.device).split(rows_per_forward):
            part = rollout.rows(rows)
            scores = score(self.state.policy, part, self.config.rollout.temperature, self.keep)
            batch = token_batch(part, minibatch.advantages[rows], scores.log_probs, scores.cell_log_probs)
            results.append(self.method(batch))
            batches.append(dataclasses.replace(batch, top=None))
        return join(batches), join(results)

    def write_trace(self, run: RunDir, minibatch: Minibatch, problems: list[Problem], rows_per_forward: int) -> None:
        """Save the per-token tensors of a batch as `weigh` finds it, and the texts of its responses."""
        batch, result = self.weigh(minibatch, rows_per_forward)
        policy, rollout, group_size = self.state.policy, minibatch.rollout, self.config.rollout.group_size
        tensors = {
            "response_ids": rollout.response_ids,
            "response_mask": rollout.response_mask,
            "log_probs": batch.log_probs,
            "rollout_log_probs": batch.rollout_log_probs,
            "advantages": minibatch.advantages,
            "weight": result.weight,
            "reason": result.reason,
            "threshold": result.threshold,
            "divergence": result.divergence,
            "position_weight": result.position_weight,
            "delta_b": result.delta_b,
        }
        asked = [problems[group] for group in minibatch.groups for _ in range(group_size)]
        lengths = rollout.response_mask.sum(1).tolist()
        texts = {
            "iteration": self.state.iteration,
            "update": self.state.update,
            "prompts": [problem.prompt for problem in asked],
            "answers": [problem.answer for problem in asked],
            "tokens": [
                [policy.tokenizer.decode([token]) for token in ids[:length]]
                for ids, length in zip(rollout.response_ids.tolist(), lengths, strict=True)
            ],
        }
        run.write_trace({name: value for name, value in tensors.items() if value is not None}, texts)

    def _require_finite(self, name: str, value: Tensor) -> None:
        if not bool(torch.isfinite(value).all()):
            raise FloatingPointError(
                f"iteration {self.state.iteration}, update {self.state.update}: a {name} is not finite; "
                "lower train.lr or train.grad_clip, and resume from the last checkpoint"
            )


def token_batch(rollout: Rollout, advantages: Tensor, log_probs: Tensor, cell_log_probs: Tensor | None) -> TokenBatch:
    """What the rules read: pi's log-probs beside the rollout's own."""
    top = None
    if cell_log_probs is not None:
        assert rollout.cell_log_probs is not None
        top = TopLogProbs(cell_log_probs, rollout.cell_log_probs, rollout.response_ids, rollout.cell_ids)
    return TokenBatch(log_probs, rollout.log_probs, advantages, rollout.response_mask, top)
