"""The trace: some responses token by token, as an update with them would see them now, for a closer look."""

import torch

from minicppo.rl.checkpoint import TrainState
from minicppo.rl.config import RunConfig
from minicppo.rl.rollout import Rollout
from minicppo.rl.run_dir import RunDir
from minicppo.rl.update import weigh
from minicppo.rules import Method
from minicppo.rules.rows import join

TRACE_ROWS = 256  # responses kept


def write_trace(run: RunDir, state: TrainState, method: Method, rollout: Rollout, config: RunConfig) -> None:
    """Save per-token tensors of these responses as they are after the updates, and their texts; nothing is updated."""
    with torch.no_grad():
        found = [(batch, out) for _, batch, out in weigh(state, method, rollout, config, config.rows_per_forward)]
    batch, out = (join(parts) for parts in zip(*found, strict=True))
    tensors = {
        "response_ids": rollout.response_ids,
        "response_mask": rollout.response_mask,
        "log_probs": batch.log_probs,
        "rollout_log_probs": batch.rollout_log_probs,
        "advantages": rollout.advantages,
        "weight": out.weight,
        "reason": out.reason,
        "threshold": out.threshold,
        "divergence": out.divergence,
        "position_weight": out.position_weight,
        "delta_b": out.delta_b,
    }
    decode = state.policy.tokenizer.decode
    lengths = rollout.response_mask.sum(1).tolist()
    texts = {
        "iteration": state.iteration,
        "update": state.update,
        "prompts": [problem.prompt for problem in rollout.problems],
        "answers": [problem.answer for problem in rollout.problems],
        "tokens": [
            [decode([token]) for token in ids[:length]]
            for ids, length in zip(rollout.response_ids.tolist(), lengths, strict=True)
        ],
    }
    run.write_trace({name: value for name, value in tensors.items() if value is not None}, texts)
