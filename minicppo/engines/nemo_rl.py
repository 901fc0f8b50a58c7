"""Any method as a `LossFunction` of NeMo-RL, for its `grpo_train(loss_fn=...)`.

`python -m minicppo.engines.nemo_rl examples/run_grpo.py --config grpo.yaml`, in NeMo-RL's clone, runs its own script
with this loss in the place of its clipped one; the configuration names the method under `loss_fn`.
"""

import runpy
import sys
from collections.abc import Sequence
from typing import Any

import torch
from nemo_rl.algorithms.loss.interfaces import LossInputType, LossType
from torch import Tensor

from minicppo.engines.samples import Sample, engine_method, token_losses
from minicppo.rules import Method, aggregate

COLUMNS = ("advantages", "generation_logprobs", "prev_logprobs")
# NeMo-RL adds metrics up over micro-batches: those that are means over all tokens
MEANS = "mask/frac mask/token_only mask/prefix_only mask/both gate/frac weight/mean ratio/mean kl/k3 div/mean".split()


class MethodLoss:
    """A method's loss on a padded micro-batch, with the denominators of NeMo-RL's whole step.

    method: a name, with params and plugins, or a record. loss_agg_mode, horizon: see `minicppo.rules.aggregate`.
    Raises ValueError as `engine_method` does.
    """

    input_type = LossInputType.LOGPROB

    def __init__(
        self,
        method: str | Method = "cppo",
        params: dict[str, Any] | None = None,
        plugins: Sequence[str] = (),
        loss_agg_mode: str = "token-mean",
        horizon: int | None = None,
    ) -> None:
        self.method = engine_method(method, params, plugins, alone=True)  # packed sequences come one by one
        self.loss_agg_mode, self.horizon = loss_agg_mode, horizon
        self.loss_type = LossType.TOKEN_LEVEL if loss_agg_mode == "token-mean" else LossType.SEQUENCE_LEVEL

    def __call__(
        self, next_token_logprobs: Tensor, data: Any, global_valid_seqs: Tensor, global_valid_toks: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss and metrics, each metric already divided so that the sum over micro-batches is the step's mean.

        next_token_logprobs: (B, L-1), pi's of the tokens after the first. data: (B, L) input_ids, token_mask,
        advantages, generation_logprobs (mu), prev_logprobs (pi_old), zeros on the prompt; (B,) sample_mask.
        Raises ValueError, saying so, where mu is missing or laid out otherwise than pi.
        """
        mask = (data["token_mask"][:, 1:] * data["sample_mask"].unsqueeze(-1)).bool()
        none = [None] * len(mask)
        advantages, mu, old = (data[key][:, 1:] if key in data else none for key in COLUMNS)
        rows = zip(next_token_logprobs, mu, mask, advantages, old, strict=True)
        losses, logged = token_losses(self.method, [Sample(*row) for row in rows], with_prompt=False)
        counts: dict[str, Any] = {"total_tokens": int(global_valid_toks), "total_sequences": int(global_valid_seqs)}
        loss = aggregate(torch.stack(losses), mask, self.loss_agg_mode, horizon=self.horizon, **counts)
        share = float(mask.sum()) / max(float(global_valid_toks), 1.0)
        metrics = {key: logged[key] * share for key in MEANS if key in logged}
        if "prev_logprobs" in data:  # which NeMo-RL's own loop reads
            apart = (data["prev_logprobs"][:, 1:] - data["generation_logprobs"][:, 1:]).abs()
            metrics["token_mult_prob_error"] = float(apart[mask].exp().sum()) / max(float(global_valid_toks), 1.0)
        return loss, {"loss": float(loss.detach()), "num_valid_samples": float(data["sample_mask"].sum()), **metrics}


def of_config(config: Any, **kwargs: Any) -> MethodLoss:
    """What stands for NeMo-RL's `ClippedPGLossFn(config)`: the loss that the section `loss_fn` names."""
    names = ("method", "params", "plugins", "loss_agg_mode", "horizon")
    return MethodLoss(**{name: getattr(config, name) for name in names if hasattr(config, name)})


if __name__ == "__main__":
    import nemo_rl.algorithms.grpo as grpo

    grpo.ClippedPGLossFn = of_config  # goes to the workers by value, as everything of `__main__`
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
