"""Solutions to the exercises of walkthrough 1."""


def answer_1(rewards):
    """A reward less the mean of its own group."""
    return rewards - rewards.mean(axis=1, keepdims=True)


def answer_2(weight, advantages, response_mask):
    """All valid tokens are below the line, the masked ones too."""
    terms = weight * advantages[:, None] * response_mask
    return -terms.sum() / response_mask.sum()


# 1.3: four passes over four minibatches are 16 updates, and only the very first begins at mu.
answer_3 = 4 * 4 - 1
