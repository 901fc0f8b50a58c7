"""Planted artefacts are named, and right logs show none."""

import numpy as np
import pytest

from minicppo.inspect.artefacts import Artefacts, representable
from minicppo.inspect.shape import Shape
from minicppo.inspect.shift import misfit
from minicppo.inspect.table import Row, joined, portions, table
from tests.inspect.made import PLANTED, made


def rows(log) -> list[Row]:
    columns = zip(log["mu"], log["pi"], log["advantages"], log["ids"], strict=True)
    return [Row(mu, pi, advantages=A, ids=ids) for mu, pi, A, ids in columns]


def cleaned(log, size: int = 1 << 18, own: bool = False):
    """What is left of a log that is read in portions, and the artefacts that were found in it."""
    artefacts = Artefacts(own)
    return joined([artefacts.clean(part) for part in portions(rows(log), size)]), artefacts.found()


def kinds(log, **options) -> list[str]:
    return [row["kind"] for row in cleaned(log, **options)[1]]


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_artefact_is_named_and_nothing_else(kind):
    assert kinds(made(kind, 3)) == [kind]


def test_in_a_run_of_our_own_there_is_no_temperature_and_nothing_is_put_back():
    """Its sampler and its trainer share one temperature, and draw from whole distributions."""
    assert kinds(made("temperature", 3), own=True) == [], "a policy that became sharper"
    log = made("shifted", 3)
    clean, found = cleaned(log, own=True)
    assert np.array_equal(clean.pi, np.concatenate(log["pi"]))
    assert "shifted" not in [row["kind"] for row in found]


def test_training_that_makes_each_place_as_sure_as_the_next_was_is_no_shift():
    rng = np.random.default_rng(0)
    sure, own = np.linspace(-4, -0.5, 8), rng.normal(0, 0.1, (40, 7))
    log = {"mu": sure[:-1] + own, "pi": sure[1:] + own, "advantages": rng.normal(size=40), "ids": [None] * 40}
    assert "shifted" not in kinds(log)


def test_a_shift_of_a_single_response_is_found():
    rng = np.random.default_rng(0)
    mu = -rng.exponential(1, 200)
    pi = np.minimum(mu + rng.normal(0, 0.1, 200), -1e-3)
    assert kinds({"mu": [mu[1:]], "pi": [pi[:-1]], "advantages": [1.0], "ids": [None]}) == ["shifted"]


def test_probabilities_in_the_place_of_log_probs_are_told():
    mu, pi = np.array([0.5, 0.4, 0.9]), np.array([0.6, 0.3, 0.8])
    _, (found,) = cleaned({"mu": [mu], "pi": [pi], "advantages": [1.0], "ids": [None]})
    assert found["kind"] == "positive"
    assert "If they are probabilities, write their logs" in found["evidence"]


@pytest.mark.parametrize("seed", range(2))
def test_a_right_log_shows_none(seed):
    assert kinds(made("clean", seed)) == []
    assert kinds(made("clean", seed), size=1500) == [], "in portions"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "least"),
    [("clean", 1.0), *((kind, 0.85 if kind in ("truncated", "temperature") else 0.95) for kind in PLANTED)],
)
def test_how_often_artefacts_are_found_in_logs_of_many_shapes(kind, least):
    """Strong drift hides truncation and temperatures; a right log never shows anything."""
    found = [kinds(made(kind, seed)) for seed in range(100, 300 if kind == "clean" else 120)]
    wanted = [] if kind == "clean" else [kind]
    assert sum(names == wanted for names in found) >= least * len(found), found


def test_log_probs_are_put_back():
    log = made("clean", 0)
    right = np.concatenate(log["pi"])
    early = {**log, "pi": [np.concatenate([p[1:], p[-1:]]) for p in log["pi"]]}
    found, _ = cleaned(early)
    firsts = np.cumsum([0, *map(len, log["pi"])])[:-1]
    assert found.pi.tolist() == np.delete(right, firsts).tolist(), "the first of each response is lost"


def test_some_shifted_responses_are_found_and_the_others_left_alone():
    log = made("clean", 5)
    chosen = range(0, len(log["pi"]), 4)
    for i in chosen:
        log["pi"][i] = np.concatenate([log["pi"][i][1:], log["pi"][i][-1:]])
    clean, (row,) = cleaned(log)
    assert row["kind"] == "shifted"
    assert all(clean.pi[clean.row == i].tolist() == pi.tolist() for i, pi in enumerate(log["pi"]) if i not in chosen)
    assert 0.7 <= row["count"] / sum(len(log["pi"][i]) for i in chosen) <= 1


def test_placeholders_are_left_out_and_counted():
    log = made("clean", 4)
    for mu in log["mu"]:
        mu[::9] = 0.0
    planted = sum((pi[::9] < -0.01).sum() for pi in log["pi"])  # elsewhere 0 may well be right
    clean, (row,) = cleaned(log)
    assert (row["kind"], row["count"]) == ("placeholder", planted)
    assert len(clean) == sum(map(len, log["mu"])) - row["count"]


def test_misfit():
    t = table([Row(np.full(9, -1.0), np.r_[-2.0, -9.0, np.full(7, -1.0)]), Row(np.array([-5.0]), np.array([-4.0]))])
    assert [misfit(t, shift)[0] for shift in (0, 1, -1)] == pytest.approx([4 / 9, 4 / 8, 3 / 8]), "8 nats count 3"
    assert np.isnan(misfit(t, 0)[1]), "of too few tokens"


@pytest.mark.parametrize("seed", range(4))
def test_a_shift_is_found_however_far_the_policy_has_drifted(seed):
    log, rng = made("clean", seed), np.random.default_rng(seed)
    log["pi"] = [np.minimum(pi + rng.normal(0, 2, len(pi)), -1e-6) for pi in log["pi"]]
    assert "shifted" not in kinds(log)
    for moved_log in ([np.append(p[1:], p[-1]) for p in log["pi"]], [np.append(p[0], p[:-1]) for p in log["pi"]]):
        assert "shifted" in kinds({**log, "pi": moved_log})


def test_representable():
    bf16 = np.array([-0.76953125, -1.328125, -13.25])
    assert representable(bf16.round(6), 8).all(), "as six decimals say them"
    assert not representable(bf16 - 1e-4, 8).any()


def test_missing_mass_is_what_was_cut_off():
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.3, 0.15, 0.05])
    y = rng.choice(2, 4000, p=p[:2] / 0.8)
    shape = Shape()
    shape.add(table([Row(np.log(p[y] / 0.8), np.log(p[y]), advantages=1.0)]))
    lack, errors = shape.missing_mass()
    assert lack == pytest.approx(0.2)
    assert errors > 50


def test_an_empty_response_and_one_token_are_fine():
    none, ids = np.array([]), np.array([3])
    log = {"mu": [none, ids - 4.0], "pi": [none, ids - 4.1], "advantages": [none, 1.0], "ids": [ids[:0], ids]}
    clean, found = cleaned(log)
    assert (len(clean), found) == (1, [])


def contexts(seed: int, temperature: float = 1.0, drift: float = 0.15, missing: float | None = None) -> list[str]:
    """Artefacts in a log of a policy that meets sixty contexts again and again; mu may have a temperature, or gaps."""
    rng, size = np.random.default_rng(seed), 60
    scores = rng.normal(0, 2, (size, size))
    drifted = scores + rng.normal(0, drift, (size, size))
    mu, pi = (table - np.log(np.exp(table).sum(1, keepdims=True)) for table in (scores / temperature, drifted))
    at = rng.integers(size, size=7000)
    ids = (np.exp(mu).cumsum(1)[at] < rng.random((7000, 1))).sum(1).clip(0, size - 1)
    log_mu, log_pi = mu[at, ids], pi[at, ids]
    if missing is not None:
        log_mu[rng.random(len(at)) < 0.01] = missing
    return kinds({"mu": [log_mu], "pi": [log_pi], "advantages": [1.0], "ids": [None]})


def test_few_contexts_that_drift_are_no_temperature_and_hide_no_placeholder():
    assert sum(bool(contexts(seed)) for seed in range(20)) <= 1
    for power in (0.8, 1.25):
        assert sum(contexts(seed, power) == ["temperature"] for seed in range(5)) >= 4
    assert {kind for seed in range(3) for kind in contexts(seed, missing=-100.0)} == {"placeholder"}
