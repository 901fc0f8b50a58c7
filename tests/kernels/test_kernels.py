"""Each kernel beside its twin in plain PyTorch: fresh random inputs, poisoned outputs, the same results."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from minicppo import CPPOMask, cppo_mask, kernels
from minicppo.rl import lm_head
from minicppo.rl.decoding import JOIN, DirectDecoder, GeneralDecoder
from minicppo.rl.lm_head import token_log_probs
from minicppo.rules import TokenBatch, get_method
from tests.kernels.conftest import DEVICE
from tests.rl.test_decoding import DIRECT, build, steps

EMPTY, EMPTY_LIKE = torch.empty, torch.empty_like


def poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An allocation full of junk: what a kernel forgets to write is seen."""

    def full_of_junk(*args: Any, **kwargs: Any) -> Tensor:
        made = make(*args, **kwargs)
        return made.fill_(math.nan) if made.is_floating_point() else made.fill_(1 if made.dtype == torch.bool else 77)

    return full_of_junk


def both(function: Callable[[], Any]) -> tuple[Any, Any]:
    """What PyTorch's operations find, and what the kernels do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "usable", lambda tensor: False)
        expected = function()
        patch.setattr(kernels, "usable", lambda tensor: True)
        patch.setattr(torch, "empty_like", poisoned(EMPTY_LIKE))
        patch.setattr(torch, "empty", poisoned(EMPTY))
        found = function()
    return expected, found


def batch(seed: int, rows: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs of pi and mu, advantages and mask: drifts of 0.2x to 9x, ties, holes, padding with junk in it."""
    rng = torch.Generator().manual_seed(seed)
    mu = 2 * torch.rand(rows, width, generator=rng).log().clamp(min=-6)
    pi = (mu + 0.03 * torch.logspace(-0.7, 0.95, rows)[:, None] * torch.randn(rows, width, generator=rng)).clamp(max=0)
    if seed % 3 == 0:
        pi, mu = ((20 * x).round() / 20 for x in (pi, mu))
    advantages = torch.randn((rows, width) if seed % 2 else (rows,), generator=rng)
    valid = torch.arange(width) < torch.randint(0, width + 1, (rows,), generator=rng)[:, None]
    if seed % 4 == 1:
        valid = torch.rand(rows, width, generator=rng) < 0.8
    pi, mu = pi.masked_fill(~valid, math.nan), mu.masked_fill(~valid, 7.0)
    return pi.to(DEVICE), mu.to(DEVICE), advantages.to(DEVICE), valid.to(DEVICE)


def same_mask(expected: CPPOMask, found: CPPOMask) -> None:
    """Off ties to the token: where reasons differ, the score stands on its limit."""
    assert torch.equal(found.token_mask, (found.reason == 1) | (found.reason == 2))
    for name in ("divergence", "threshold", "delta_b"):
        mine, twin = getattr(found, name), getattr(expected, name)
        assert (mine is None) == (twin is None)
        if twin is not None:
            torch.testing.assert_close(mine, twin, rtol=1e-5, atol=1e-5)  # float32 sums of up to 600 x 0.05
    differ = expected.reason != found.reason
    Z = expected.weighted_divergence
    gaps = torch.minimum((Z - expected.slack).abs(), (Z - expected.delta).abs())
    assert (gaps[differ] < 1e-5).all()
    torch.testing.assert_close(found.position_weight, expected.position_weight)


@pytest.mark.parametrize("budget", ["dynamic", "fixed", "off"])
@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 5),
    width=st.sampled_from([1, 2, 31, 128, 129, 600]),
    delta_b=st.sampled_from([0.02, 0.001, math.inf]),
    cap_factor=st.sampled_from([1.0, 2.0, 50.0]),
    quantile=st.sampled_from([0.9, 0.5, 1.0]),
    schedule=st.sampled_from(["linear", "constant"]),
    length=st.sampled_from(["own", "padded", 1000]),
)
def test_the_mask(budget, seed, rows, width, length, **rule):
    pi, mu, advantages, valid = batch(seed, rows, width)
    rule |= {"budget": budget, "delta": 0.1, "w_min": 0.5}
    same_mask(*both(lambda: cppo_mask(pi, mu, advantages, valid, **rule, length=length)))
    assume(advantages.ndim == 1 or valid.sum() != rows)  # else refused: one a token, or one a response?
    packed = pi[valid], mu[valid], advantages[:, None] if advantages.ndim == 1 else advantages[valid]
    same_mask(*both(lambda: cppo_mask(*packed, lengths=valid.sum(1), **rule, length=length)))


@pytest.mark.parametrize("width", [2048, 8192])
def test_the_mask_of_long_responses(width):
    inputs = batch(5, 3, width)
    same_mask(*both(lambda: cppo_mask(*inputs)))


def test_the_mask_of_a_divergence_of_any_size():
    """A large D among small ones must not cancel what the sum held before it."""
    _, _, _, valid = batch(2, 4, 300)
    D = torch.rand(4, 300, generator=torch.Generator().manual_seed(0)).to(DEVICE) * 0.1
    D[:, ::37] = 1e6
    log_probs = torch.full_like(D, -1.0)
    moved = log_probs + 0.1
    same_mask(*both(lambda: cppo_mask(moved, log_probs, torch.ones(4, device=DEVICE), valid, divergence=D)))


@pytest.mark.parametrize("name", ["cppo", "cppo-soft", "cppo-decoupled"])
def test_methods_find_the_same_weights(name):
    pi, mu, advantages, valid = batch(4, 5, 200)
    expected, found = both(lambda: get_method(name)(TokenBatch(pi, mu, advantages, valid)))
    torch.testing.assert_close(found.weight, expected.weight, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.reason, expected.reason)


@pytest.mark.parametrize("seed", [2, 4])
@pytest.mark.parametrize("wrong", [math.nan, -math.inf, 0.5])
def test_a_wrong_number_is_named_as_ever(monkeypatch, seed, wrong):
    inputs = batch(seed, 4, 150)
    row, column = inputs[3].nonzero()[5].tolist()
    for position in (0, 1):
        broken = [x.clone() for x in inputs]
        broken[position][row, column] = wrong
        monkeypatch.setattr(kernels, "usable", lambda tensor: True)
        with pytest.raises(ValueError, match=rf"log_probs\[{row}, {column}\] is"):
            cppo_mask(*broken)


def test_a_wrong_advantage_is_named_as_ever(monkeypatch):
    pi, mu, advantages, valid = batch(2, 4, 150)
    advantages[2] = math.inf
    monkeypatch.setattr(kernels, "usable", lambda tensor: True)
    with pytest.raises(ValueError, match=r"advantages\[2, 0\] is inf"):
        cppo_mask(pi, mu, advantages, valid)


def test_float64_beside_float32_reaches_the_kernel_as_divergence_and_direction():
    pi, mu, advantages, valid = batch(2, 4, 150)
    same_mask(*both(lambda: cppo_mask(pi, mu, advantages.double(), valid)))
    same_mask(*both(lambda: cppo_mask(pi, mu.double(), advantages, valid)))


def test_what_the_kernel_does_not_know_goes_the_other_way(monkeypatch):
    """Half of Triton's cases would be wrong in silence: float64, permuted weights, horizons that are too short."""
    monkeypatch.setattr(kernels, "usable", lambda tensor: True)
    monkeypatch.setattr("minicppo.rules.mask.mask_in_one_kernel", lambda *_, **__: pytest.fail("the kernel"))
    pi, mu, advantages, valid = batch(2, 4, 150)
    cppo_mask(pi.double(), mu.double(), advantages.double(), valid)
    cppo_mask(pi, mu, advantages, valid, schedule="shuffled")
    cppo_mask(pi[:0], mu[:0], advantages[:0], valid[:0])
    with pytest.raises(ValueError, match="length=3 is shorter than a response"):
        cppo_mask(pi, mu, advantages, valid, length=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "entries", "cells"), [(7, 300, 4), (5, 5000, 21), (3, 128, 1)])
def test_the_passes_of_the_head(dtype, tokens, entries, cells):
    """A tile and a narrower one after it; the wanted tokens are in either, or in none."""
    from minicppo.kernels import lm_head as head

    rng = torch.Generator().manual_seed(tokens)
    wanted = torch.randint(3 * entries, (tokens, cells), generator=rng).to(DEVICE)
    tiles = [(3 * torch.randn(tokens, n, generator=rng)).to(DEVICE, dtype) for n in (entries, entries - 37)]
    states = []
    for passes in (lm_head, head):
        state = [torch.full((tokens,), x, device=DEVICE) for x in (-math.inf, 0.0, 0.0)]
        state.append(torch.full((tokens, cells), math.nan, device=DEVICE))
        for i, z in enumerate(tiles):
            passes.fold(z.clone(), wanted, i * entries, 0.7, *state)
        states.append(state)
    for expected, found in zip(*states, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    lse = states[0][0] + states[0][1].log()
    for i, z in enumerate(tiles):
        expected, found = (
            passes.softmax_(z.clone(), lse, wanted[:, 0], i * entries, 0.7) for passes in (lm_head, head)
        )
        torch.testing.assert_close(found, expected, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-7)


def test_the_head_as_a_whole():
    rng = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 16, generator=rng).to(DEVICE).requires_grad_() for n in (9, 700))
    bias = torch.randn(700, generator=rng).to(DEVICE).requires_grad_()
    targets, cells = (torch.randint(700, shape, generator=rng).to(DEVICE) for shape in ((9,), (9, 5)))

    def scores():
        found = token_log_probs(hidden, weight, bias, targets, cells, 0.8, (4, 256))
        return *vars(found).values(), *torch.autograd.grad(found.log_probs.square().sum(), (hidden, weight, bias))

    for expected, found in zip(*both(scores), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "join"), [*((name, JOIN) for name in DIRECT), (DIRECT[0], 0), (DIRECT[2], 0)])
def test_the_attention_of_a_step(monkeypatch, name, join):
    """Heads of six channels, one to four queries a key, ragged prompts, closing ranks, junk in unfilled columns."""
    model = build(name).model.to(DEVICE)
    expected = steps(GeneralDecoder(model))
    monkeypatch.setattr(kernels, "usable", lambda tensor: True)
    monkeypatch.setattr("minicppo.rl.decoding.JOIN", join)
    for mine, twin in zip(steps(DirectDecoder(model), math.nan), expected, strict=True):
        torch.testing.assert_close(mine, twin, atol=1e-5, rtol=1e-5)
