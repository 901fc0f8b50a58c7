"""Solutions to the exercises of walkthrough 3."""

# 3.1: all that moves, moves between the two tokens that were not sampled.
answer_1 = ([0.2, 0.6, 0.2], [0.2, 0.2, 0.6])


def answer_2(mu, pi, sampled, k):
    """The k likeliest tokens of mu, the sampled one, and one cell for all others."""
    cells = sorted({*(-mu).argsort(kind="stable")[:k], sampled})
    rest = abs(mu[cells].sum() - pi[cells].sum())
    return (abs(mu[cells] - pi[cells]).sum() + rest) / 2


# 3.3: TV <= sqrt(KL / 2)
answer_3 = (0.02 / 2) ** 0.5
