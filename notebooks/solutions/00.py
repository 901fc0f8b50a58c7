"""Solutions to the exercises of walkthrough 0."""

# 0.1: the ratio is 2, beyond PPO's 1.28, but the difference is only 0.02.
answer_1 = ["PPO"]

# 0.2: A (rho - 1) is -0.2, 0, 0.2, -0.1.
answer_2 = [False, False, True, False]

# 0.3: min(0.15, 0.15 + 3 * 0.02 - 0.25). The account is overdrawn: no token that moves away passes.
answer_3 = -0.04
