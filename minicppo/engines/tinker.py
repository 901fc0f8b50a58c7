"""Any method as a loss of Tinker's `TrainingClient.forward_backward_custom`.

Tinker's server computes pi's log-probs, this loss runs in your process, and its gradient goes back to the server.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minicppo.engines.samples import Sample, engine_method, token_losses
from minicppo.rules import Method, TopLogProbs, aggregate

KEYS = ("logprobs", "advantages", "mask")
CustomLoss = Callable[[list[Any], list[Tensor]], tuple[Tensor, dict[str, float]]]


def custom_loss(
    method: str | Method = "cppo", *, loss_agg_mode: str = "token-mean", horizon: int | None = None, **params: Any
) -> CustomLoss:
    """The function that `forward_backward_custom(data, fn)` wants. params: the method's hyper-parameters.

    Each `Datum` is one sequence, its `loss_fn_inputs` aligned with "target_tokens" (the input moved left by one):
    "logprobs", mu's of the target tokens, 0 on the prompt's; "advantages"; "mask", 1 on the tokens that mu sampled.
    Optional: "old_logprobs", pi_old's (`TrainingClient.forward` before the first update), for methods that correct it.
    For Top-K methods "target_tokens" and "logprobs" are (N, 1 + K): the sampled token, then mu's K likeliest.
    The denominator is that of all data of the call, which is one optimiser step.
    Raises ValueError as `engine_method` does; the loss itself where a column is missing or the layout is another.
    """
    rule = engine_method(method, params, top=True)

    def loss(data: list[Any], logprobs: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
        samples = [_sample(*pair) for pair in zip(data, logprobs, strict=True)]
        losses, logged = token_losses(rule, samples, with_prompt=False)
        mask = pad_sequence([sample.mask for sample in samples], batch_first=True)
        values = pad_sequence(losses, batch_first=True)
        return aggregate(values, mask, loss_agg_mode, horizon=horizon), logged

    return loss


def _sample(datum: Any, log_probs: Tensor) -> Sample:
    given = {key: value.to_torch().to(log_probs.device) for key, value in datum.loss_fn_inputs.items()}
    if missing := [key for key in KEYS if key not in given]:
        raise ValueError(
            f"a Datum has no {', '.join(missing)} in loss_fn_inputs. Way out: one number a target token of each of "
            f"{', '.join(KEYS)}, 0 on the prompt's"
        )
    mu, advantages, mask = (given[key] for key in KEYS)
    old = given.get("old_logprobs")
    if log_probs.ndim == 1:
        return Sample(log_probs, mu, mask.bool(), advantages, old)
    ids = given["target_tokens"]
    top = TopLogProbs(log_probs[:, 1:], mu[:, 1:], ids[:, 0], ids[:, 1:])
    return Sample(log_probs[:, 0], mu[:, 0], mask.bool(), advantages, old, top)
