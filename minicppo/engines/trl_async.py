"""Any method as the loss of TRL's asynchronous trainer, which has no correction for its stale rollouts but a clip.

It uses each sample for one optimizer step, so pi_old, the policy before the first update on it, is pi itself.
"""

from typing import Any

import torch
from torch import Tensor, nn
from trl.experimental.async_grpo import AsyncGRPOTrainer

from minicppo.engines.samples import Sample, engine_method, token_losses
from minicppo.rules import Method


class AsyncCPPOTrainer(AsyncGRPOTrainer):
    """`AsyncGRPOTrainer` whose token weights are a method's. Takes its arguments, and the method with its `params`.

    mu is vLLM's: TRL's "old_log_probs" are the log-probs that the token was sampled with. The denominator is TRL's, the
    step's tokens. TRL packs the completions of a rank into one row; the budget is each completion's own.
    Raises ValueError as `engine_method` does, and in training where mu is missing or one token off.
    """

    def __init__(self, *args: Any, method: str | Method = "cppo", params: dict[str, Any] | None = None, **kwargs: Any):
        self.method = engine_method(method, params)
        super().__init__(*args, **kwargs)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """TRL's own pass for its metrics and counts, then the method's loss on the log-probs of that pass."""
        passes = []

        def forward(**kwargs: Any) -> Any:
            passes.append(model(**kwargs))
            return passes[-1]

        super().compute_loss(forward, inputs, return_outputs, num_items_in_batch)
        metrics = self._metrics["train"]
        for key in [key for key in metrics if key.startswith("clip_ratio/")]:
            del metrics[key]  # of a clip that is not used
        selected = inputs["token_index"] >= 0
        columns = [passes[0].log_probs.flatten()[inputs["token_index"][selected]]]
        columns += [inputs[name][selected] for name in ("old_log_probs", "advantages")]
        counts = torch.bincount(inputs["segment_id"][selected]).tolist()  # tokens of each completion, one after another
        samples = [
            Sample(log_probs, mu, torch.ones_like(mu, dtype=torch.bool), advantages, log_probs.detach())
            for log_probs, mu, advantages in zip(*(column.split(counts) for column in columns), strict=True)
        ]
        losses, logged = token_losses(self.method, samples, with_prompt=False)
        for key, value in logged.items():
            metrics[key].append(value)
        tokens = (inputs["global_n_tokens"][0] / self.accelerator.num_processes).clamp(min=1.0)
        loss = torch.cat(losses).sum() / tokens
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * passes[0].aux_loss
        return loss / self.current_gradient_accumulation_steps
