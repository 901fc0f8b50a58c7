"""Solutions to the exercises of walkthrough 4."""

import numpy as np


def answer_1(divergence):
    """Sorted, the last tenth; a fraction of a token does not count."""
    tenth = len(divergence) // 10
    return np.sort(divergence)[-tenth:].sum() / divergence.sum()


def answer_2(divergence, response_mask):
    """Sums over valid tokens, divided by their number at each position."""
    return (divergence * response_mask).sum(axis=0) / response_mask.sum(axis=0)


def answer_3(divergence, floor):
    """The 90th percentile of the unweighted divergences, from the floor to twice the floor."""
    return np.clip(np.quantile(divergence, 0.9), floor, 2 * floor)
