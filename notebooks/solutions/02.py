"""Solutions to the exercises of walkthrough 2."""

import numpy as np

# 2.1: only token 3 moves away when A is negative, and 0.090 > c_3 = 0.014.
answer_1 = [1, 1, 0, 1, 1]

# 2.2: token 2 needs 0.026, token 4 more: 0.15 + 2.85 delta_b - 0.266 >= 0.0085.
answer_2 = (0.266 + 0.0085 - 0.15) / 2.85


def answer_3(divergence, away, delta, delta_b, w_min):
    """Sums "before t" are cumulative sums less the token's own term."""
    w = np.linspace(1, w_min, len(divergence))
    Z = w * divergence
    account = delta + delta_b * (np.cumsum(w) - w) - (np.cumsum(Z) - Z)
    return ~away | (Z <= np.minimum(delta, account))
