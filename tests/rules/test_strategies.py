"""How often the strategies reach the hard places. (That numbers are dyadic, test_loop_runs_in_fractions notices.)"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given

from tests.rules.strategies import Drawn, Response, Token, batches, responses, traces

pytestmark = pytest.mark.slow  # tests of the tests


def of(drawn: Drawn) -> list[Token]:
    return [token for row in drawn[0] for token in row]


def ratios(drawn: Drawn) -> list[float]:
    return [t.pi[t.sampled] / t.mu[t.sampled] for t in of(drawn)]


IN_TRACES: dict[str, tuple[Callable[[Drawn], bool], float]] = {  # and the least share of the examples
    "holes": (lambda d: any(not all(row) for row in d[1].rows), 0.5),
    "left padding": (lambda d: not all(row[0] for row in d[1].rows), 0.3),
    "width beyond every length": (lambda d: d[1].width > max(map(len, d[0])), 0.6),
    "a single token": (lambda d: min(map(len, d[0])) == 1, 0.05),
    "eight tokens": (lambda d: max(map(len, d[0])) == 8, 0.05),
    "pi = mu": (lambda d: any(t.mu == t.pi for t in of(d)), 0.3),
    "rho = 1 but drift": (lambda d: any(t.mu != t.pi and t.mu[t.sampled] == t.pi[t.sampled] for t in of(d)), 0.1),
    "both signs of A": (lambda d: len({t.advantage > 0 for t in of(d)}) == 2, 0.5),
    "A = 0": (lambda d: any(t.advantage == 0 for t in of(d)), 0.3),
    "a ratio above 4": (lambda d: max(ratios(d)) > 4, 0.2),
    "a ratio below 1/4": (lambda d: min(ratios(d)) < 1 / 4, 0.1),
    "mu ties at rank 2": (lambda d: any(sorted(t.mu)[-2] == sorted(t.mu)[-3] for t in of(d)), 0.4),
    "garbage that is no number": (lambda d: not torch.isfinite(d[1].spread([[0.0] * len(r) for r in d[0]])).all(), 0.5),
}
IN_RESPONSES: dict[str, tuple[Callable[[Response], bool], float]] = {
    "17 tokens": (lambda r: len(r) == 17, 0.05),
    "a large divergence": (lambda r: max(r.divergence) > 0.5, 0.1),
    "ties of the divergence": (lambda r: len(set(r.divergence)) < len(r), 0.3),
    "one divergence throughout": (lambda r: len(r) > 2 and len(set(r.divergence)) == 1 and r.divergence[0] > 0, 0.04),
    "toward and away": (lambda r: len(set(r.away)) == 2, 0.4),
}
IN_BATCHES = {"a response without a token": (lambda b: not all(map(len, b.responses)), 0.1)}


@pytest.mark.parametrize(
    ("strategy", "places"), [(traces(), IN_TRACES), (responses(), IN_RESPONSES), (batches(), IN_BATCHES)]
)
def test_hard_places_are_reached_often(strategy, places):
    examples = []
    given(strategy)(lambda drawn: examples.append(drawn))()
    shares = {name: sum(map(wanted, examples)) / len(examples) for name, (wanted, _) in places.items()}
    assert {name: share for name, share in shares.items() if share < places[name][1]} == {}
