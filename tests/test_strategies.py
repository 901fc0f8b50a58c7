"""The strategies deliver what the properties rely on."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from minicppo.rules.packing import pad_packed
from tests.strategies import (
    EXACT_LENGTHS,
    Batch,
    Layout,
    Limits,
    Response,
    Token,
    Trace,
    batches,
    distributions,
    drifting,
    layouts,
    limits,
    responses,
    tight,
    tokens,
    traces,
)

few = settings(max_examples=30)
once = settings(database=None, derandomize=True, max_examples=2000, phases=[Phase.generate])  # any example will do


def few_bits(value: float, bits: int = 20) -> bool:
    """A dyadic rational on a coarse grid: sums and products of a few hundred of these are exact."""
    return (Fraction(value) * 2**bits).denominator == 1


@few
@given(responses(), limits())
def test_responses_are_dyadic(response: Response, lim: Limits) -> None:
    n = len(response)
    assert n in EXACT_LENGTHS
    assert len(response.log_ratio) == len(response.advantages) == len(response.away) == n
    assert all(few_bits(x) for x in (*response.divergence, *response.log_ratio, *response.advantages, *lim))
    assert all(0 <= d <= 1 for d in response.divergence)
    weights = [1 - (1 - lim.w_min) * t / max(n - 1, 1) for t in range(n)]
    assert all(few_bits(w) for w in weights)
    exact = sum((Fraction(w) * Fraction(d) for w, d in zip(weights, response.divergence, strict=True)), Fraction(0))
    assert sum(w * d for w, d in zip(weights, response.divergence, strict=True)) == exact


@few
@given(responses(all_away=True))
def test_all_away(response: Response) -> None:
    assert all(response.away)
    assert response[::-1].divergence == response.divergence[::-1]
    assert response[[0]].divergence == response.divergence[:1]


def test_away_and_toward() -> None:
    assert drifting([0.1, 0.2]).away == [True, True]
    assert drifting([0.1, 0.2], away=False).away == [False, False]


def test_responses_reach_every_kind_of_token() -> None:
    for wanted in (
        lambda r: any(d > 0.5 for d in r.divergence),
        lambda r: len(r) == 17,
        lambda r: any(r.away) and not all(r.away),
        lambda r: len(r) > 2 and len(set(r.divergence)) == 1 and r.divergence[0] > 0,
    ):
        find(responses(), wanted, settings=once)


@few
@given(batches())
def test_layouts_hold_what_they_are_given(batch: Batch) -> None:
    layout = batch.layout
    values = [r.divergence for r in batch.responses]
    padded = layout.spread(values)
    assert padded.shape == layout.mask.shape == (len(batch.responses), layout.width)
    assert layout.mask.sum(1).tolist() == [len(r) for r in batch.responses]
    assert layout.gather(padded) == [list(v) for v in values]
    packed = layout.pack(padded)
    assert packed.shape == layout.packed_mask.shape == (int(layout.lengths.sum()),)
    assert torch.equal(packed[layout.packed_mask], padded[layout.mask])
    rebuilt = pad_packed(packed, layout.lengths)
    assert torch.equal(rebuilt[layout.mask[:, : rebuilt.shape[1]]], padded[layout.mask])


def test_layouts_reach_holes_padding_and_garbage() -> None:
    strategy = layouts([3, 1])
    find(strategy, lambda x: not all(x.rows[0]), settings=once)
    find(strategy, lambda x: not x.rows[0][0], settings=once)
    found: Layout = find(strategy, lambda x: x.width >= max(map(len, x.rows)) + 3, settings=once)
    assert not torch.isfinite(found.spread([[0.0] * 3, [0.0]])).all()
    assert tight([3, 1]).mask.tolist() == [[True] * 3, [True, False, False]]
    find(layouts([2], holes=False), lambda x: x.rows == ((True, True),), settings=once)


@few
@given(distributions(5), st.data())
def test_distributions_sum_to_one(mu: tuple[float, ...], data: st.DataObject) -> None:
    assert len(mu) == 5
    assert sum(mu) == 1
    assert all(p >= 1 / 64 for p in mu)
    token: Token = data.draw(tokens(5))
    assert sum(token.pi) == sum(token.mu) == 1
    assert all(few_bits(p) for p in (*token.mu, *token.pi))
    assert 0 <= token.sampled < 5


@few
@given(traces())
def test_traces_fit_their_layout(drawn: tuple[tuple[Trace, ...], Layout]) -> None:
    rows, layout = drawn
    assert layout.mask.sum(1).tolist() == [len(row) for row in rows]


def test_traces_reach_on_and_off_policy() -> None:
    find(tokens(4), lambda t: t.mu == t.pi, settings=once)
    find(tokens(4), lambda t: abs(math.log(t.pi[t.sampled] / t.mu[t.sampled])) > 0.5, settings=once)
