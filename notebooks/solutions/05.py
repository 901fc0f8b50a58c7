"""Solutions to the exercises of walkthrough 5."""

import numpy as np

# 5.1: x_1 = .8 / .5 - 1 and x_2 = .9 / .5 - 1; mu writes `aa` with probability .25. Delta = -mu x_1 x_2.
answer_1 = -0.25 * 0.6 * 0.8


def answer_2(caps):
    """The price of a token is the sum of the caps behind it."""
    price = caps.sum() - np.cumsum(caps)
    return price / price[0]


# 5.3: 0.95^(T - t) > 0.05 up to T - t = 58, and the last token has T - t = 0.
answer_3 = 59
