"""A linear language-model head, one token after the other: log-probs, entropy, and the gradient of the log-probs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def head_log_probs(hidden: Array, weight: Array, bias: Array, temperature: float) -> Array:
    """(V,) log of softmax((W h + b) / temperature) of one token's (d,) hidden state."""
    logits = (weight @ hidden + bias) / temperature
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def head_entropy(log_probs: Array) -> float:
    """-sum p log p in nats."""
    return -sum(float(np.exp(lp) * lp) for lp in log_probs)


def head_gradients(
    hidden: Array, weight: Array, bias: Array, targets: Sequence[int], temperature: float, upstream: Sequence[float]
) -> tuple[Array, Array, Array]:
    """Gradients of sum_i g_i log p_i(y_i) with respect to hidden (M, d), weight (V, d) and bias (V,).

    By the chain rule: d log p(y) / d logit_v = (1[v = y] - p_v) / temperature.
    """
    of_hidden, of_weight, of_bias = np.zeros_like(hidden), np.zeros_like(weight), np.zeros_like(bias)
    for i, (h, y, g) in enumerate(zip(hidden, targets, upstream, strict=True)):
        slope = -np.exp(head_log_probs(h, weight, bias, temperature))
        slope[y] += 1
        slope *= g / temperature
        of_hidden[i] = weight.T @ slope
        of_weight += np.outer(slope, h)
        of_bias += slope
    return of_hidden, of_weight, of_bias
