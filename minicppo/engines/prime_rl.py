"""Any method as the loss of prime-rl: `[trainer.loss] type = "custom", import_path = "minicppo.engines.prime_rl.loss"`.

prime-rl calls the loss once a sample, adds the sums up and divides by the step's count of tokens: token-mean. It uses
each sample for one optimizer step, so pi_old, the policy before the first update on it, is pi itself.
"""

from collections.abc import Sequence
from typing import Any

from minicppo.engines.samples import Sample, engine_method, token_losses
from minicppo.rules import Method


def loss(
    inputs: Any, *, method: str | Method = "cppo", params: dict[str, Any] | None = None, plugins: Sequence[str] = ()
) -> Any:
    """prime-rl's `LossOutputs` of one sample: the sum of its token losses, and the method's diagnostics.

    inputs: prime-rl's `LossInputs`, columns of one whole sequence, prompt included: trainer_logprobs (pi),
    inference_logprobs (mu), advantages, loss_mask, and loss_weights, which multiply the token losses, or None.
    The keyword arguments are the `kwargs` of `[trainer.loss]`.
    Raises ValueError, saying so, on a layout that is not prime-rl's, and as `engine_method` does.
    """
    from prime_rl.trainer.rl.loss import LossOutputs

    rule = engine_method(method, params, plugins, alone=True)
    pi = inputs.trainer_logprobs
    sample = Sample(pi, inputs.inference_logprobs, inputs.loss_mask, inputs.advantages, pi.detach())
    (losses,), logged = token_losses(rule, [sample], with_prompt=True)
    if inputs.loss_weights is not None:
        losses = losses * inputs.loss_weights
    return LossOutputs(loss=losses.sum(), metrics={key: losses.new_tensor(value) for key, value in logged.items()})
