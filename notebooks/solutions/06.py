"""Solutions to the exercises of walkthrough 6."""


def answer_1(horizon, residual):
    """2 xi T (T - 1) delta^2 = residual with xi = 1/2."""
    return (residual / (horizon * (horizon - 1))) ** 0.5


# 6.2: a half for the length; the residual is under a root.
answer_2 = 0.5 / 2**0.5

# 6.3: -0.10 + 0.02 n >= 0.04; a divergence that equals the threshold passes.
answer_3 = 7
