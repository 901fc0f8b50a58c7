"""What all adapters stand on: layouts that are refused and such that are not. test_drivers.py has the losses."""

import math
from dataclasses import replace

import pytest
import torch

from minicppo.engines.samples import engine_method, token_losses
from minicppo.rules import get_method
from tests.engines.sequences import MISTAKES, sequences, shifted


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_layout_is_named(mistake):
    change, message = MISTAKES[mistake]
    for with_prompt in (True, False):
        with pytest.raises(ValueError, match=message):
            token_losses(get_method("cppo"), [change(sample) for sample in sequences()], with_prompt=with_prompt)


def test_missing_and_misshapen_columns_are_named():
    first, *_ = sequences()
    for sample, message in (
        (replace(first, rollout_log_probs=None), "no log-probs of mu"),
        (replace(first, advantages=torch.ones(3)), r"one length, got .*'advantages': \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            token_losses(get_method("cppo"), [sample], with_prompt=True)


@pytest.mark.parametrize("drift", [0.0, 0.02, 0.25, 3.0])
def test_a_shift_is_told_from_drift(drift):
    """Aligned columns pass however far the policy has drifted; the same columns shifted by one do not."""
    for seed in range(15):
        samples = sequences(seed, drift)
        token_losses(get_method("cppo"), samples, with_prompt=True)
        if drift < 0.3:
            with pytest.raises(ValueError, match=r"one token off|exactly 0 under mu"):
                token_losses(get_method("cppo"), [shifted(sample) for sample in samples], with_prompt=True)


def test_a_certain_token_is_not_a_placeholder():
    first, *_ = sequences()
    mu, pi = first.rollout_log_probs.clone(), first.log_probs.detach().clone()
    mu[5], pi[5] = 0.0, -0.5
    token_losses(get_method("cppo"), [replace(first, rollout_log_probs=mu, log_probs=pi)], with_prompt=True)


@pytest.mark.parametrize("name", ["cppo", "trm-avg-k3"])
def test_a_sample_without_valid_tokens_weighs_nothing(name):
    first, second, *_ = sequences()
    empty = replace(second, mask=torch.zeros_like(second.mask))
    (alone,), _ = token_losses(get_method(name), [first], with_prompt=True)
    (loss, nothing), _ = token_losses(get_method(name), [first, empty], with_prompt=True)
    assert torch.equal(loss, alone)
    assert not nothing.detach().any()
    (nothing,), logged = token_losses(get_method(name), [empty], with_prompt=True)
    nothing.sum().backward()
    assert all(map(math.isfinite, logged.values()))


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("cppo-topk", {}, "the likeliest tokens of mu"),
        ("cppo-exact", {}, "whole distributions of mu"),
        ("cppo-verl", {}, "length=N"),
        ("cpo", {}, "unknown"),
        ("cppo", {"detla": 1}, "did you mean 'delta'"),
    ],
)
def test_methods_that_an_engine_cannot_serve(name, params, message):
    with pytest.raises(ValueError, match=message):
        engine_method(name, params)


def test_methods_that_an_engine_with_more_log_probs_serves():
    assert engine_method("cppo-topk", {"delta": 0.1}, top=True).params["delta"] == 0.1


@pytest.mark.parametrize(
    ("name", "params", "way_out"), [("icepop", {}, "grpo"), ("cppo", {"correction": "icepop"}, "cppo")]
)
def test_a_correction_without_pi_old_would_be_off_in_silence(name, params, way_out):
    samples = [replace(sample, old_log_probs=None) for sample in sequences()]
    with pytest.raises(ValueError, match=f"corrects pi_old.*or {way_out}"):
        token_losses(engine_method(name, params), samples, with_prompt=True)
