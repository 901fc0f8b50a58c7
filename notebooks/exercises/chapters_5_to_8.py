"""Exercises of the walkthroughs 5 to 8. What is right comes from `minicppo.bounds`, or is counted by hand."""

from typing import Any

import numpy as np

from minicppo.bounds import residual

from .marking import Wrong, exercise, function, number

Array = Any  # what NumPy makes an array of

# mu = .5 everywhere, pi = .8 and .9 along `aa`, the only response with a reward
number(
    "5.1", "A number: the residual, with its sign.", -0.25 * 0.6 * 0.8,
    "The residual is minus the probability of `aa` under mu, times x_1, times x_2.",
    (0.12, "Does the surrogate promise too much here, or too little? Delta is L' less the true change."),
    (-0.48, "`aa` is not the only response: how often does mu write it?"),
    (0.47, "That is the true change of J. How much of it does the surrogate promise?"),
    (0.35, "That is what the surrogate promises. What is the true change of J?"),
    (-0.25 * 0.8 * 0.9, "x_t is the ratio less 1, and the ratio is pi over mu."),
)  # fmt: skip


def weights_from_caps(caps: Array) -> Array:
    price = residual.suffix_sums(caps)
    return price / price[0]


function(
    "5.2", "A function (caps) -> weights, one for each token, 1 for the first.", weights_from_caps,
    ("With equal caps the weights are a straight line from 1 to 0.", (np.full(5, 0.125),)),
    ("The price of a token is the sum of the caps behind it, not before it.", (np.array([0.5, 0.25, 0.125]),)),
    ("A token's own cap is not behind it.", (np.array([0.125, 0.125, 0.5]),)),
)  # fmt: skip

price = 1 - (1 - 0.05) ** (1000 - np.arange(1, 1001))
number(
    "5.3", "A number: how many of the 1000 tokens.", int((price < 0.95).sum()),
    "tau_t is below 0.95 where (1 - l)^(T - t) is above 0.05. Count such t.",
    (60, "3 / l is a rule of thumb. Count."),
    (58, "The last token has T - t = 0; it counts, too."),
    (941, "That is how many tokens have a price of 0.95 or more."),
    (950, "With the straight line it would be so many. tau_t is no straight line."),
)  # fmt: skip


def uniform_delta(horizon: int, epsilon: float) -> float:
    return float((epsilon / residual.uniform_rule(horizon, 1.0, 0.5)) ** 0.5)


function(
    "6.1", "A function (horizon, residual) -> delta.", uniform_delta,
    ("For rewards between 0 and 1, xi is one half.", (2, 0.5)),
    ("The bound has T (T - 1), and the cap enters it squared.", (5, 0.5), (5, 0.125)),
    ("It agrees for a short response only.", (8192, 0.5)),
)  # fmt: skip

# T doubled, epsilon halved
number(
    "6.2", "A number: the factor, below 1, to three digits.", 0.5 * 0.5**0.5,
    "For long responses delta_b is the root of epsilon / 2 xi, divided by T.",
    (0.25, "The residual stands under a root."),
    (0.5, "The residual is halved, too."),
    (0.5**0.5, "The response is twice as long, too."),
    (0.125, "It is the residual that stands under the root, not squared."),
)  # fmt: skip

# w = 1, delta_b = 0.02, from c = -0.10 to c >= 0.04
number(
    "6.3", "A number of tokens.", 7,
    "Each quiet token adds w delta_b to c, and draws nothing. A token passes if D <= c.",
    (5, "Then the debt is paid, and c is 0. The token that moves away needs more."),
    (2, "Before it can save, the account has a debt to pay."),
    (8, "A divergence that equals the threshold passes."),
    (6, "Count again: is c as large as D by then?"),
)  # fmt: skip


def interquartile_mean(scores: Array) -> float:
    cut = len(scores) // 4
    return float(np.mean(sorted(scores)[cut : len(scores) - cut]))


function(
    "7.1", "A function (scores) -> their interquartile mean.", interquartile_mean,
    ("The lowest and the highest are dropped, wherever they stand: sort first.", (np.array([9.0, 1, 2, 3]),)),
    ("A quarter goes at each end, and the rest is averaged.", (np.arange(8.0) ** 2,), (np.arange(16.0) ** 3,)),
    ("A quarter of the number of runs is rounded down.", (np.arange(7.0) ** 2,), (np.arange(6.0) ** 2,)),
    ("Of fewer than four runs none is dropped.", (np.array([1.0, 2, 6]),), (np.array([5.0]),)),
)  # fmt: skip

# Three above three: 2 of the 20 ways to hand out the labels
number(
    "7.2", "A number: the p-value.", 0.1,
    "In how many ways can three of six runs be called the first method's? How many are as extreme?",
    (0.05, "The test is two-sided: the other method could have swept, too."),
    (1 / 60, "The order within a method does not matter: count sets of three runs."),
    (0.25, "That is the least of three *pairs*, where each pair's sign is drawn by lot."),
    (1 / 32, "Labels are not tossed run by run: each method keeps its three."),
    (0.0, "By luck alone this happens now and then. How often?"),
)  # fmt: skip


def probability_of_improvement(first: Array, second: Array) -> float:
    return float(np.mean([(x > y) + (x == y) / 2 for x in first for y in second]))


function(
    "7.3", "A function (first, second) -> share of duels that the first wins.", probability_of_improvement,
    (
        "Every run of the first meets every run of the second, not only the one of its own seed.",
        (np.array([1.0, 4, 5]), np.array([3.0, 2, 6])),
    ),
    ("It does not matter by how much a duel is won.", (np.array([1.0, 100]), np.array([2.0, 3]))),
    ("A draw counts half.", (np.array([1.0, 2]), np.array([2.0, 2]))),
    ("The two need not have equally many runs.", (np.array([1.0, 4, 5]), np.array([3.0, 2]))),
)  # fmt: skip

function(
    "8.1", "A function (parameters, gpus) -> bytes on each GPU.", lambda parameters, gpus: 16 * parameters / gpus,
    ("Weights, gradients and two moments: how many numbers of four bytes has each parameter?", (10**9, 1)),
    ("Each GPU holds its share only.", (10**9, 8)),
)  # fmt: skip


@exercise("8.2", "A list of changes, such as ['engine=verl'], with which the plan is what is asked for.")
def top_k_at_8b(answer: Any) -> None:
    """answer: the plan that these changes give."""
    if not all(hasattr(answer, name) for name in ("refusals", "method", "peak", "capacity")):
        raise Wrong("The cell hands over the plan, not the list: leave its last line as it is.")
    if answer.refusals:
        raise Wrong(f"The plan is refused: {answer.refusals[0]}")
    if not answer.method.startswith("cppo-topk"):
        raise Wrong(f"The method is {answer.method}, which does not use the Top-K divergence.")
    if not answer.peak:
        raise Wrong("The GPU or the model is none that the plan has numbers of.")
    if answer.peak["training"] > answer.capacity:
        needed, room = (f"{size / 1e9:.0f} GB" for size in (answer.peak["training"], answer.capacity))
        raise Wrong(f"Training needs {needed} on each GPU, which has {room}. Others are in `GPUS`.")


def mismatch_and_drift(rollout: Array, old: Array, now: Array, response_mask: Array) -> list[float]:
    return [float(abs(a - b)[response_mask].mean()) for a, b in ((old, rollout), (now, old))]


rollout, valid = np.array([[-1.0, -2, -0.5], [-0.25, -1, -3]]), np.ones((2, 3), bool)
old, now = rollout + np.array([0.125, 0.0625, 0.125]), rollout + np.array([0.5, 0.25, 1.5])
function(
    "8.3", "A function (rollout_log_probs, old_log_probs, log_probs, response_mask) -> (mismatch, drift).",
    mismatch_and_drift,
    (
        "Mismatch: the same weights in sampler and trainer. Drift: what updates did to the trainer's log-probs.",
        (rollout, old, now, valid),
    ),
    ("A token that moved up and one that moved down have both moved.", (rollout, 2 * rollout - old, -now, valid)),
    ("Padding is no token, neither in the sum nor in the number.", (rollout, old, now, np.arange(3) < [[3], [1]])),
)  # fmt: skip
