"""The live certificate: exact on an exhaustive batch, unbiased in groups, hard to misuse (its rate: theory/)."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicppo.bounds import sharper as sh
from minicppo.bounds.certificate import KINDS, certify
from minicppo.bounds.limits import betting_limit
from theory import families as fam
from theory import tabular as tab
from theory.pair_bounds import pair_certificate
from theory.rollouts import certify_rollout, sample_paths
from theory.tabular import Array, Pair


@pytest.fixture
def exhaustive():
    """mu uniform over 2^4 responses, so that one of each is exactly representative."""
    rng = np.random.default_rng(5)
    mu = tuple(np.full((2**t, 2), 0.5) for t in range(4))
    pi = tuple(np.stack([p, 1 - p], axis=1) for p in (rng.uniform(0.3, 0.7, 2**t) for t in range(4)))
    return Pair(mu, pi, np.ones(1)), rng.integers(0, 2, 16).astype(float)


@pytest.fixture
def batch(exhaustive):
    """One response of each."""
    pair, rewards = exhaustive
    return moved(np.log1p(pair.path_excess.T), mu=-1.0) | {"rewards": rewards}


def moved(log_ratio: Array, mu: float = 0.0) -> dict[str, Array]:
    """Log-probs that differ by so much, of as many valid tokens."""
    valid = np.ones_like(log_ratio)
    return {"log_probs": log_ratio + mu, "rollout_log_probs": mu * valid, "response_mask": valid}


@pytest.mark.parametrize("with_divergence", [True, False])
def test_an_exhaustive_batch_gives_the_exact_values(exhaustive, batch, with_divergence):
    pair, rewards = exhaustive
    divergence = pair.path_divergence.T if with_divergence else None
    found = certify(**batch, divergence=divergence)
    assert found.surrogate.estimate == pytest.approx(tab.surrogate(pair, rewards))
    assert found.pair.estimate == pytest.approx(pair_certificate(pair, 0.5))
    assert found.divergence.estimate == pytest.approx(pair.drift.sum())
    assert found.expected.estimate == pytest.approx(sh.expected_budget(pair.drift.sum(), 0.5))
    assert found.largest_change == pytest.approx(sh.largest_change(pair.drift.sum(), 0.5))
    exact = tab.improvement(pair, rewards)
    assert abs(exact) <= found.largest_change
    assert found.residual.estimate == pytest.approx(0.5 * abs(tab.kernel(pair)).sum())
    assert found.importance_gain.estimate == pytest.approx(exact)
    assert found.residual_gain.estimate == pytest.approx(found.surrogate.estimate - found.residual.estimate)
    assert found.gain.estimate <= found.residual_gain.estimate <= exact
    assert max(found.lower_limits.values()) <= exact
    assert not found.refused


def test_padding_does_not_matter(batch):
    padded = {name: np.pad(array, ((0, 0), (0, 3))) for name, array in batch.items() if name != "rewards"}
    padded["log_probs"][:, 4:] = np.nan
    assert certify(**batch | padded) == certify(**batch)


def test_the_leave_one_out_baseline_is_unbiased():
    rng = np.random.default_rng(2)
    pair = fam.mixture(fam.random_pair(rng, 3, 2, prompts=2), 0.5)
    rewards = rng.integers(0, 2, 16).astype(float)
    found = certify_rollout(pair, rewards, rng, groups=4000, group_size=4)
    exact = tab.surrogate(pair, rewards)
    assert found.surrogate.low <= exact <= found.surrogate.high
    assert found.surrogate.high - found.surrogate.low < 0.03
    assert abs(exact) > 0.1  # the plain group mean would be a quarter lower


def test_groups_are_resampled_whole():
    """Copies of one response add nothing: the interval is that of the distinct ones."""
    rng = np.random.default_rng(0)
    arrays = moved(rng.normal(0, 0.1, (40, 6)))
    rewards = rng.integers(0, 2, 40).astype(float)
    once = certify(**arrays, rewards=rewards)
    copies = {name: np.repeat(array, 5, axis=0) for name, array in arrays.items()}
    grouped = certify(**copies, rewards=np.repeat(rewards, 5), groups=np.repeat(np.arange(40), 5))
    assert grouped.pair == once.pair
    assert (grouped.groups, grouped.responses) == (40, 200)


def test_a_small_good_step_is_certified_and_a_large_one_is_not():
    rng = np.random.default_rng(4)
    mu = tuple(np.full((2**t, 2), 0.5) for t in range(3))
    rewards = np.array([sum(map(int, f"{leaf:03b}")) / 3 for leaf in range(8)])

    def step(size):
        pi = tuple(np.tile([0.5 - size, 0.5 + size], (2**t, 1)) for t in range(3))
        pair = Pair(mu, pi, np.ones(1))
        return certify_rollout(pair, rewards, rng, groups=3000, group_size=1), float(tab.improvement(pair, rewards))

    small, gained = step(0.03)
    assert small.certified
    assert small.verdict == "improvement certified"
    assert small.gain.low <= gained
    large, _ = step(0.3)
    assert not large.certified
    assert large.verdict == "not certified"


def test_the_same_seed_gives_the_same_interval(batch):
    assert certify(**batch, seed=3) == certify(**batch, seed=3)
    assert certify(**batch, seed=3) != certify(**batch, seed=4)


def test_rare_branches_are_invisible():
    """The rare-token pair: a batch shows no drift toward the rare branch and the estimate falls far short."""
    pair = fam.rare_token(np.full(3, 0.3), 2.0**-20)
    leaves, _ = sample_paths(pair, np.random.default_rng(0), groups=500, group_size=1)
    assert (leaves == 0).all()
    drawn = {"groups": 500, "group_size": 1, "exact_divergence": False}
    found = certify_rollout(pair, np.zeros(8), np.random.default_rng(0), **drawn)
    assert found.pair.high < 0.3 * pair_certificate(pair, 0.5)
    assert found.divergence.estimate == pytest.approx(0.45)  # half of the true .9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_probs": np.zeros((4, 2))}, r"log_probs has shape \(4, 2\)"),
        ({"rollout_log_probs": np.full((4, 3), -np.inf)}, "rollout_log_probs is not finite"),
        ({"divergence": np.full((4, 3), np.nan)}, "divergence is not finite"),
        ({"rewards": np.array([0, 1, 2, 3.0])}, "rewards span 3, above reward_range=1"),
        ({"rewards": np.zeros(3)}, "4 responses need"),
        ({"confidence": 1.0}, "confidence=1.0 must lie"),
        ({"kind": "bayes"}, "kind='bayes' must be one of pair, residual"),
        (moved(np.zeros((1, 3))) | {"rewards": np.zeros(1)}, "1 response: a bootstrap needs at least 2"),
    ],
)
def test_wrong_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        certify(**(moved(np.zeros((4, 3))) | {"rewards": np.zeros(4)} | change))


def test_one_group_speaks_of_its_prompt(batch):
    found = certify(**batch, groups=np.full(16, 7))
    assert found.pair == certify(**batch).pair
    assert found.surrogate.low < found.surrogate.estimate < found.surrogate.high


def test_a_policy_fitted_to_the_batch_is_certified_wrongly_there_and_not_on_fresh_responses():
    """Rewards that no policy can influence: a gradient step on the batch looks like an improvement on that batch."""
    rng = np.random.default_rng(0)
    count, horizon = 64, 6
    in_sample = fresh = 0
    for _ in range(20):
        tokens, rewards = rng.integers(0, 2, (2, count, horizon)), rng.integers(0, 2, (2, count)).astype(float)
        states = np.cumsum(tokens * 2 ** np.arange(horizon), axis=2) - tokens * 2 ** np.arange(horizon)
        signs = 2.0 * tokens - 1
        step = np.zeros((horizon, 2**horizon))
        for row, reward in enumerate(rewards[0]):
            step[np.arange(horizon), states[0, row]] += 0.02 * (reward - rewards[0].mean()) * signs[0, row]
        verdicts = []
        for batch_states, batch_signs, batch_rewards in zip(states, signs, rewards, strict=True):
            log_ratio = np.log1p(step[np.arange(horizon), batch_states] * batch_signs)
            verdicts.append(certify(**moved(log_ratio), rewards=batch_rewards - 0.5).certified)
        in_sample, fresh = in_sample + verdicts[0], fresh + verdicts[1]
    assert in_sample >= 18
    assert fresh <= 2


def hidden_branch(rng, count=800):
    """J falls by .05 through a token that mu hardly ever shows: a batch that seems to gain by .05."""
    mu, pi, values = np.array([0.5, 0.5, 0.0]), np.array([0.45, 0.35, 0.2]), np.array([1.0, 0.0, 0.0])
    token = rng.choice(3, count, p=mu)  # a third token of mass 1e-9 would not be drawn either
    return moved(np.log(pi / np.maximum(mu, 1e-9))[token][:, None]) | {"rewards": values[token]}


def test_a_batch_that_misses_where_pi_went_is_refused():
    rng = np.random.default_rng(0)
    for _ in range(200):
        found = certify(**hidden_branch(rng), groups=np.arange(800) // 8, resamples=50)
        assert found.gain.low > 0  # all that was looked at before
        assert found.refused
        assert not any(map(found.certifies, KINDS))
        assert found.lower_limits["betting"] < -0.05
    assert "pi moved where no response is" in found.verdict
    assert found.unseen == pytest.approx(0.2, abs=0.01)


def test_a_branch_missed_at_one_position_of_many_is_refused():
    rng = np.random.default_rng(1)
    x = rng.choice([-0.1, 0.1], (800, 64))
    x[:, 40] = -0.01
    rewards = (x[:, :3].sum(axis=1) > 0).astype(float)
    found = certify(**moved(np.log1p(0.01 * x)), rewards=rewards)
    assert not found.refused  # too little is missing to matter
    found = certify(**moved(np.log1p(np.where(np.arange(64) == 40, 20, 0.1) * x)), rewards=rewards)
    assert found.unseen == pytest.approx(0.2)
    assert found.refused


def test_the_verdict_goes_by_the_kind_asked_for():
    x = np.where(np.arange(2000) % 2, 0.1, -0.1)[:, None] * np.ones(30) * np.where(np.arange(30) < 1, 1, 0.001)
    found = [certify(**moved(np.log1p(x)), rewards=(x[:, 0] > 0).astype(float), kind=kind) for kind in KINDS]
    assert all(each.certified for each in found)
    noisy = {k: certify(**moved(np.log1p(3 * x)), rewards=np.arange(2000) % 4 / 3.0, kind=k) for k in KINDS}
    assert {kind: noisy[kind].certified for kind in KINDS} == {k: noisy["pair"].certifies(k) for k in KINDS}


def test_rows_are_flat_floats_whatever_the_ratios(batch):
    beyond = np.where(np.arange(40) % 2, 40.0, -40.0)[:, None] * np.ones(50)
    for each in (batch, moved(beyond) | {"rewards": np.arange(40) % 2.0}):
        row = certify(**each).rows()
        assert all(name.startswith("certificate/") and type(value) is float for name, value in row.items())
        assert {"certificate/surrogate", "certificate/gain_low", "certificate/certified"} <= row.keys()
        assert all(map(math.isfinite, row.values()))


@given(st.integers(2, 60), st.integers(0, 9))
def test_a_betting_limit_stays_below_the_mean_and_asks_nothing_of_tails(count, seed):
    values = np.random.default_rng(seed).pareto(1.1, (4, count))
    limits = betting_limit(values)
    assert ((0 <= limits) & (limits <= values.mean(axis=1))).all()
    assert betting_limit(values[2]) == pytest.approx(limits[2])
    shrunk = betting_limit(values, confidence=0.99)
    assert (shrunk <= limits + 1e-9).all()
