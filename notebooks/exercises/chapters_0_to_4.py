"""Exercises of the walkthroughs 0 to 4. What is right comes from `minicppo.reference`."""

from typing import Any

import numpy as np

from minicppo import reference

from .marking import Wrong, exercise, function, number

Array = Any  # what NumPy makes an array of


@exercise("0.1", "A list of the rules that mask the token: none, one or more of 'PPO' and 'DPPO'.")
def small_token_doubles(answer: Any) -> None:
    """mu = 0.02, pi = 0.04, A = +1; PPO clips at 1.28, DPPO's delta is 0.15."""
    if not isinstance(answer, list | tuple | set) or not set(answer) <= {"PPO", "DPPO"}:
        raise Wrong("A list with none, one or two of the names 'PPO' and 'DPPO' is asked for.")
    if "PPO" not in answer:
        raise Wrong("PPO compares pi / mu with 1.28. Divide.")
    if "DPPO" in answer:
        raise Wrong("DPPO compares the difference of pi and mu with 0.15. Subtract.")


# Ratios 1.2, 1.0, 0.8, 1.1 and A = -1
number(
    "0.2", "Four times True or False: does this token move away from mu?", [0, 0, 1, 0],
    "Four truth values are asked for: is A (rho - 1) above 0 for each token?",
    ([1, 0, 0, 1], "These tokens moved away under a positive advantage; now it is negative."),
    ([0, 1, 1, 0], "What does a token with rho = 1 do? It has not moved at all."),
    ([1, 0, 1, 1], "Not every token that moved moves away: look at the sign of A (rho - 1)."),
)  # fmt: skip

# delta = 0.15, delta_b = 0.02, w = 1 and D = 0.10, 0.10, 0.05
number(
    "0.3", "A number: the threshold that the fourth token meets.", -0.04,
    "c_t is the smaller of delta and of the account: delta, plus deposits, less withdrawals.",
    (0.15, "That is the ceiling. Is there so much left in the account?"),
    (0.0, "A threshold may be below zero: the account is then overdrawn."),
    (-0.10, "Each of the three tokens before also deposits w delta_b."),
    (-0.02, "Four tokens would deposit so much. The fourth itself is not yet among them."),
    (0.01, "Withdrawals of three tokens, not of two."),
)  # fmt: skip


def group_advantages(rewards: Array) -> Array:
    return [reference.group_advantages(list(row)) or [0.0] * len(row) for row in rewards]


two = np.array([[1.0, 0, 0, 1], [1, 1, 1, 0]])
function(
    "1.1", "A function (rewards) -> advantages; both have one row for each prompt.", group_advantages,
    ("The advantage of a response is its reward less the mean of its group.", (two[:1],)),
    ("Each row is a group of its own, with a mean of its own.", (two,), (two[:, :2],)),
    ("Rewards need not be 0 or 1, and no standard deviation divides.", (two / 4 + 1,), (two * 4,)),
    ("Where all rewards of a group are equal there is nothing to learn from.", (two * 0 + 1,)),
)  # fmt: skip


def token_mean_loss(weight: Array, advantages: Array, response_mask: Array) -> float:
    terms = -weight * advantages[:, None]
    return reference.aggregate([list(r[m]) for r, m in zip(terms, response_mask, strict=True)], "token-mean")


weight, valid, one = np.array([[1.0, 1.5, 0.5, 1], [1, 2, 1, 1]]), np.ones((2, 4), bool), np.ones(2)
short, kept = np.arange(4) < [[4], [2]], np.array([[1, 0, 1, 1], [1, 1, 1, 0]])
function(
    "1.2", "A function (weight, advantages, response_mask) -> loss, a number; weight is 0 where masked.",
    token_mean_loss,
    ("Descent makes a loss smaller: which sign must a good response have in it?", (weight, one, valid)),
    ("A response's advantage belongs to each of its tokens.", (weight, one - [0, 1.5], valid)),
    ("Padding is no token: neither above nor below the line.", (weight, one, short)),
    ("A masked token adds 0, but it is counted: a mask changes no denominator.", (weight * kept, one, valid)),
)  # fmt: skip

# 4 passes over a batch that is cut into 4 minibatches
number(
    "1.3", "A number: how many of the updates on one batch see ratios other than 1.", 15,
    "Passes times minibatches is the number of updates; when does the policy first differ from mu?",
    (16, "That is all of them. With which policy does the first one begin?"),
    (12, "The first pass is not fresh as a whole: after its first update the policy has moved."),
    (3, "That counts passes. Each pass makes an update for each minibatch."),
)  # fmt: skip

# The five tokens of the walkthrough with A = -1
number(
    "2.1", "Five times 1 (kept) or 0 (masked).", [1, 1, 0, 1, 1],
    "Only tokens that move away can be masked. Which do, now that A is negative?",
    ([1, 0, 1, 0, 0], "That is the good response's mask. The sign of A decides which tokens move away."),
    ([0, 1, 0, 1, 1], "A mask is not turned round: a token that moves back is always kept."),
    ([1, 1, 1, 1, 1], "One token moves away now. Compare its Z with c at its place; c does not change with A."),
)  # fmt: skip

number(
    "2.2", "A number: the smallest delta_b, to three digits, at which tokens 1 to 4 all pass.",
    (0.266 + 0.0085 - 0.15) / 2.85, "Solve delta + delta_b W - S = Z for delta_b, at tokens 2 and 4.",
    (0.026, "With it token 2 passes. Does token 4?"),
    (0.1245 / 3, "The deposit of a token is w delta_b, not delta_b."),
    (0.116 / 2.85, "Now the account is just empty before token 4, which still has its own Z to pay."),
    (0.2745 / 2.85, "The account does not open empty."),
)  # fmt: skip


def without_a_loop(D: Array, away: Array, delta: float, delta_b: float, w_min: float) -> Array:
    return reference.cppo_token_mask(list(D), list(away), delta=delta, delta_b=delta_b, w_min=w_min)


def case(*D: float, delta: float = 0.125, w_min: float = 1.0, back: int = -1) -> tuple[Any, ...]:
    return np.array(D), np.arange(len(D)) != back, delta, 1 / 64, w_min


rng = np.random.default_rng(0)
drawn = rng.integers(0, 16, (1000, 17)) * (rng.random((1000, 17)) < 0.5) / 64
function(
    "2.3", "A function (divergence, away, delta, delta_b, w_min) -> mask of one response, by cumulative sums.",
    without_a_loop,
    ("A token that moves back is always kept.", case(0, 0.5, back=1)),
    ("A token that moves away must pass the token test, also with a full account.", case(*[0] * 20, 0.1875)),
    ("The account opens with delta.", case(0.0625, 0)),
    ("Token t meets what the tokens before it have left: it is not itself in S or W.", case(0.0625, 0.0625, 0)),
    ("What earlier tokens have drawn is missing from the account.", case(0.09375, 0.09375)),
    ("A divergence that equals the threshold passes.", case(0.125, 1 / 64)),
    ("Masked tokens and tokens that move back are charged, too.", case(0.25, 0.0625, back=0), case(0.25, 0.0625)),
    ("The account may be overdrawn, and a debt is paid back in full.", case(0.5, 0, 0, 0, 0.03125)),
    ("Savings have no ceiling; only c has.", case(*[0] * 9, 0.125, 0.125, 0.0625)),
    ("What is tested is w D, and the last w is w_min.", case(*[0] * 9, 0.375, w_min=0.25)),
    ("A deposit is w delta_b, not delta_b.", case(0.25, *[0] * 15, 0.25, w_min=0.25)),
    ("A withdrawal is w D, not D.", case(*[0] * 8, 0.125, 0.125, 0.125, w_min=0.25)),
    ("A single token weighs 1.", case(0.25, w_min=0.25)),
    ("It differs in one of a thousand random cases.", *((D, rng.random(17) < 0.6, 0.125, 1 / 64, 0.75) for D in drawn)),
)  # fmt: skip


@exercise("3.1", "Two lists (mu, pi) of three probabilities: Binary TV 0 if token 0 is sampled, exact TV at least 0.3.")
def blind_spot(answer: Any) -> None:
    try:
        mu, pi = (np.asarray(each, float) for each in answer)
    except (TypeError, ValueError):
        raise Wrong("A pair is asked for: (mu, pi), each a list of three probabilities.") from None
    if mu.shape != (3,) or pi.shape != (3,) or min(*mu, *pi) < 0 or max(abs(mu.sum() - 1), abs(pi.sum() - 1)) > 1e-6:
        raise Wrong("Each list has three probabilities, none below 0, whose sum is 1.")
    if abs(mu[0] - pi[0]) > 1e-9:
        raise Wrong("Binary TV sees only the sampled token, and here it sees a difference.")
    if reference.total_variation(list(mu), list(pi)) < 0.3 - 1e-9:
        raise Wrong("Exact TV is half the sum of all differences; here it is smaller than asked.")


def top_k(mu: Array, pi: Array, sampled: int, k: int) -> float:
    cells = reference.topk_partition(list(mu), k, sampled)
    return reference.total_variation(reference.coarsen(mu, cells), reference.coarsen(pi, cells))


mu, pi, other = (np.array(each) / 16 for each in ([8, 4, 2, 1, 1], [4, 2, 3, 3, 4], [4, 3, 3, 6, 0]))
function(
    "3.2", "A function (mu, pi, sampled, k) -> Top-K total variation.", top_k,
    ("Total variation is half the sum of absolute differences.", (mu, pi, 0, 4)),
    ("What is left over is one more cell, with the rest of both masses.", (mu, pi, 0, 1)),
    ("The likeliest tokens are those of mu, not of pi.", (mu, pi, 0, 2), (pi, mu, 4, 2)),
    ("A sampled token outside the top k is a further cell; nothing leaves for it.", (mu, pi, 4, 2), (mu, other, 4, 2)),
)  # fmt: skip

number(
    "3.3", "A number: the largest total variation, by Pinsker's inequality, that a KL of 0.02 nats allows.", 0.1,
    "Pinsker's inequality is KL >= 2 TV squared. Solve it for TV.",
    (0.02**0.5, "The 2 of the inequality is missing."),
    (0.2, "The 2 stands on the other side: solve KL = 2 TV squared for TV."),
    (0.01, "TV appears squared."),
)  # fmt: skip


def largest_tenth(divergence: Array) -> float:
    ordered = sorted(divergence)
    return sum(ordered[-(len(ordered) // 10) :]) / sum(ordered)


flat, rising = np.ones(20), np.arange(20) / 4
function(
    "4.1", "A function (divergence) -> the share of the total that its largest tenth holds; 10 or more tokens.",
    largest_tenth,
    ("In a flat response every tenth holds the same: count tokens, not values.", (flat,)),
    ("The largest stand last only once the tokens are sorted.", (rising,), (rising[::-1],)),
    ("It is a share of the sum over all tokens.", (rising**4,), (np.arange(40) / 8,)),
)  # fmt: skip


def by_position(divergence: Array, response_mask: Array) -> list[float]:
    columns = zip(divergence.T, response_mask.T, strict=True)
    return [sum(D[valid]) / len(D[valid]) for D, valid in columns]


D, valid = np.array([[0.5, 0.25, 0.75], [0, 0.25, 0.5]]), np.ones((2, 3), bool)
function(
    "4.2", "A function (divergence, response_mask) -> mean of the valid tokens at each position.", by_position,
    ("One number for each position: an average over responses, not over tokens.", (D, valid)),
    ("At late positions fewer responses are left; only they count.", (D, np.arange(3) < [[3], [2]])),
)  # fmt: skip

floor, ramp = 1 / 64, np.arange(11) / 512
function(
    "4.3", "A function (divergence, floor) -> the dynamic budget of one response.", reference.dynamic_budget,
    ("Between its two limits it is the response's 90th percentile.", (ramp + 1 / 128, floor)),
    ("A quiet response gets the floor.", (ramp / 8, floor)),
    ("Nobody gets more than twice the floor.", (ramp * 8, floor), (ramp * 8, floor / 2)),
    ("A percentile between two tokens is interpolated, as by np.quantile.", (np.arange(8) / 256, floor)),
)  # fmt: skip
