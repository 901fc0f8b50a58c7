"""The strategies deliver what the properties rely on, and reach the hard places often."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minicppo.rules.packing import pad_packed
from tests.strategies import (
    EXACT_LENGTHS,
    Batch,
    Drawn,
    batches,
    drifting,
    layouts,
    limits,
    responses,
    simplex,
    tight,
    traces,
)


def few_bits(value: float, bits: int = 20) -> bool:
    """A dyadic rational on a coarse grid: sums and products of a few hundred of these are exact."""
    return (Fraction(value) * 2**bits).denominator == 1


@given(responses(), limits())
def test_responses_are_dyadic(response, lim):
    n = len(response)
    assert n in EXACT_LENGTHS
    assert all(few_bits(x) for x in (*response.divergence, *response.log_ratio, *response.advantages, *lim))
    assert all(0 <= d <= 1 for d in response.divergence)
    weights = [1 - (1 - lim.w_min) * t / max(n - 1, 1) for t in range(n)]
    assert all(few_bits(w) for w in weights)
    exact = sum((Fraction(w) * Fraction(d) for w, d in zip(weights, response.divergence, strict=True)), Fraction(0))
    assert sum(w * d for w, d in zip(weights, response.divergence, strict=True)) == exact


@given(responses(all_away=True))
def test_all_away(response):
    assert all(response.away)
    assert response[::-1].divergence == response.divergence[::-1]
    assert response[[0]].divergence == response.divergence[:1]
    assert drifting([0.1, 0.2], away=False).away == [False, False]


@given(batches())
def test_layouts_hold_what_they_are_given(batch):
    layout, values = batch.layout, [r.divergence for r in batch.responses]
    padded = layout.spread(values)
    assert padded.shape == layout.mask.shape == (len(values), layout.width)
    assert layout.mask.sum(1).tolist() == [len(r) for r in batch.responses]
    assert layout.gather(padded) == [list(v) for v in values]
    packed = layout.pack(padded)
    assert torch.equal(packed[layout.packed_mask], padded[layout.mask])
    rebuilt = pad_packed(packed, layout.lengths)
    assert torch.equal(rebuilt[layout.mask[:, : rebuilt.shape[1]]], padded[layout.mask])


@given(traces())
def test_traces_are_of_dyadic_distributions(drawn):
    rows, layout = drawn
    assert layout.mask.sum(1).tolist() == [len(row) for row in rows]
    for token in (t for row in rows for t in row):
        assert sum(token.pi) == sum(token.mu) == 1
        assert all(few_bits(p) and p > 0 for p in (*token.mu, *token.pi))
        assert token.sampled in range(len(token.mu))
    assert len(set(simplex(5))) > 90


# --- how often --------------------------------------------------------------------------------------------------------


def ratios(drawn: Drawn) -> list[float]:
    return [t.pi[t.sampled] / t.mu[t.sampled] for row in drawn[0] for t in row]


def tied(d: Batch) -> bool:
    return any(len(set(r.divergence)) < len(r) for r in d.responses)


REACHED: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], bool], float]] = {  # in which share of the examples
    "holes": (traces(), lambda d: any(not all(row) for row in d[1].rows), 0.5),
    "left padding": (traces(), lambda d: not all(row[0] for row in d[1].rows), 0.3),
    "width beyond every length": (traces(), lambda d: d[1].width > max(map(len, d[0])), 0.7),
    "a single token": (traces(), lambda d: min(map(len, d[0])) == 1, 0.2),
    "eight tokens": (traces(), lambda d: max(map(len, d[0])) == 8, 0.2),
    "pi = mu": (traces(), lambda d: any(t.mu == t.pi for row in d[0] for t in row), 0.3),
    "pi = mu on the sampled token alone": (
        traces(),
        lambda d: any(t.mu != t.pi and t.mu[t.sampled] == t.pi[t.sampled] for row in d[0] for t in row),
        0.1,
    ),
    "both signs of A": (traces(), lambda d: len({t.advantage > 0 for row in d[0] for t in row}) == 2, 0.5),
    "A = 0": (traces(), lambda d: any(t.advantage == 0 for row in d[0] for t in row), 0.3),
    "a ratio above 4": (traces(), lambda d: max(ratios(d)) > 4, 0.3),
    "a ratio below 1/4": (traces(), lambda d: min(ratios(d)) < 1 / 4, 0.2),
    "mu ties in its top 2": (
        traces(),
        lambda d: any(sorted(t.mu)[-2] == sorted(t.mu)[-3] for row in d[0] for t in row),
        0.1,
    ),
    "a response without a token": (batches(), lambda b: not all(map(len, b.responses)), 0.1),
    "ties of the divergence": (batches(), tied, 0.5),
    "garbage that is no number": (
        layouts([3, 1]),
        lambda x: not torch.isfinite(x.spread([[0.0] * 3, [0.0]])).all(),
        0.5,
    ),
    "17 tokens": (responses(), lambda r: len(r) == 17, 0.1),
    "a large divergence": (responses(), lambda r: max(r.divergence) > 0.5, 0.3),
    "toward and away": (responses(), lambda r: len(set(r.away)) == 2, 0.4),
    "one divergence throughout": (
        responses(),
        lambda r: len(r) > 2 and len(set(r.divergence)) == 1 and r.divergence[0] > 0,
        0.08,
    ),
}


@pytest.mark.parametrize("name", REACHED)
def test_hard_places_are_reached_often(name):
    strategy, wanted, share = REACHED[name]
    found: list[bool] = []
    given(strategy)(lambda drawn: found.append(wanted(drawn)))()
    assert sum(found) >= share * len(found), f"{name}: in {sum(found)} of {len(found)} examples"


def test_the_plain_layout():
    assert tight([3, 1]).mask.tolist() == [[True] * 3, [True, False, False]]
