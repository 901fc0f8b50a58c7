"""Hypothesis strategies of the whole suite, in one place.

Numbers are dyadic rationals with few bits: every sum and product that the rules form of them is exact in float64, so a
tie is a tie in the loop, in the prefix sum and in `fractions.Fraction` alike, and results are compared to the bit.
The weights of Eq. 9 are dyadic too when T - 1 is a power of two, hence EXACT_LENGTHS.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

EXACT_LENGTHS = (1, 2, 3, 5, 9, 17)
ROLLOUT_LOG_PROB = -4.0  # of every token whose divergence is fed directly: only the ratio's sign matters there
GARBAGE = (math.nan, math.inf, -math.inf, 1e30, -7.0)  # what padding may hold


def multiples(step: float, low: int, high: int) -> st.SearchStrategy[float]:
    """low * step ... high * step."""
    return st.integers(low, high).map(lambda k: k * step)


# --- one response, its divergence given -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Response:
    """Per token: D_t in [0, 1], log pi - log mu, and A_t; all dyadic."""

    divergence: tuple[float, ...]
    log_ratio: tuple[float, ...]
    advantages: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.divergence)

    @property
    def away(self) -> list[bool]:
        return [a * r > 0 for a, r in zip(self.advantages, self.log_ratio, strict=True)]

    def replace(self, **changes: Any) -> Response:
        return dataclasses.replace(self, **{k: tuple(v) for k, v in changes.items()})

    def __getitem__(self, index: slice | list[int]) -> Response:
        """The response's tokens in another selection or order."""
        where = range(len(self))[index] if isinstance(index, slice) else index
        columns = (self.divergence, self.log_ratio, self.advantages)
        return Response(*(tuple(column[i] for i in where) for column in columns))


def drifting(divergence: Sequence[float], *, away: bool = True) -> Response:
    """A response with these divergences whose tokens all move away from mu (or all toward it)."""
    n = len(divergence)
    return Response(tuple(divergence), (0.25,) * n, (1.0 if away else -1.0,) * n)


def divergences() -> st.SearchStrategy[float]:
    """Mostly small, as in training, at times anything up to one."""
    return st.one_of(multiples(1 / 64, 0, 2), multiples(1 / 64, 0, 8), multiples(1 / 64, 0, 64))


def responses(lengths: Sequence[int] = EXACT_LENGTHS, *, all_away: bool = False) -> st.SearchStrategy[Response]:
    """Responses of these lengths; with `all_away` every token moves away from mu, so that the limits decide alone."""
    ratio = multiples(1 / 16, 1, 16) if all_away else multiples(1 / 16, -16, 16)
    advantage = multiples(1 / 4, 1, 8) if all_away else multiples(1 / 4, -8, 8)
    token = st.tuples(divergences(), ratio, advantage)

    def response(drawn: list[tuple[float, float, float]], mood: str) -> Response:
        drift, ratios, advantages = zip(*drawn, strict=True)
        if mood == "calm":  # a quiet prefix pays in, so that the token limit binds alone
            drift = (*(d % (1 / 32) for d in drift[:-1]), drift[-1])
        elif mood == "steady":
            drift = drift[:1] * len(drift)
        return Response(drift, ratios, advantages)

    def of_length(n: int) -> st.SearchStrategy[Response]:
        moods = st.sampled_from(["mixed", "mixed", "calm", "steady"])
        return st.builds(response, st.lists(token, min_size=n, max_size=n), moods)

    return st.sampled_from(list(lengths)).flatmap(of_length)


# --- hyper-parameters -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """Dyadic hyper-parameters of the mask."""

    delta: float
    delta_b: float
    w_min: float

    def __iter__(self) -> Any:
        return iter((self.delta, self.delta_b, self.w_min))

    def replace(self, **changes: float) -> Limits:
        return dataclasses.replace(self, **changes)


def limits(w_min: float | None = None) -> st.SearchStrategy[Limits]:
    weight = multiples(1 / 8, 1, 8) if w_min is None else st.just(w_min)
    budget = st.one_of(multiples(1 / 256, 1, 8), multiples(1 / 64, 1, 8))
    return st.builds(Limits, multiples(1 / 64, 1, 16), budget, weight)


# --- ragged batches, padded with holes or packed ----------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Where the valid tokens of each response stand: one row of booleans a response, of its own width."""

    rows: tuple[tuple[bool, ...], ...]
    width: int

    @property
    def lengths(self) -> Tensor:
        """(B,) slots of each row when packed, holes included."""
        return torch.tensor([len(row) for row in self.rows])

    @property
    def mask(self) -> Tensor:
        """(B, T) true on valid tokens."""
        rows = [list(row) + [False] * (self.width - len(row)) for row in self.rows]
        return torch.tensor(rows).reshape(len(rows), self.width)

    @property
    def packed_mask(self) -> Tensor:
        """(N,) the same of the packed rows."""
        return torch.tensor([slot for row in self.rows for slot in row])

    def spread(self, values: Sequence[Sequence[Any]], dtype: torch.dtype = torch.float64) -> Tensor:
        """(B, T) with each row's values on its valid tokens, garbage elsewhere."""
        mask = self.mask
        garbage = torch.tensor(GARBAGE, dtype=torch.float64).repeat(mask.numel())[: mask.numel()].reshape(mask.shape)
        flat = torch.tensor([v for row in values for v in row], dtype=torch.float64)
        return garbage.masked_scatter(mask, flat).to(dtype)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) -> (N, ...): the rows end to end, each of its own width."""
        return torch.cat([row[: len(slots)] for row, slots in zip(padded, self.rows, strict=True)])

    def gather(self, padded: Tensor) -> list[list[Any]]:
        """The valid entries of each row."""
        return [row[valid].tolist() for row, valid in zip(padded, self.mask, strict=True)]


def layouts(lengths: Sequence[int], *, holes: bool = True) -> st.SearchStrategy[Layout]:
    """Room for responses of these lengths: up to two invalid tokens before each valid one, and padding behind."""

    def row(n: int) -> st.SearchStrategy[tuple[bool, ...]]:
        gaps = st.lists(st.sampled_from([0, 0, 0, 1, 2]) if holes else st.just(0), min_size=n, max_size=n)
        return gaps.map(lambda counts: tuple(slot for c in counts for slot in (*[False] * c, True)))

    def build(rows: tuple[tuple[bool, ...], ...], padding: int) -> Layout:
        return Layout(rows, max(map(len, rows)) + padding)

    return st.builds(build, st.tuples(*map(row, lengths)), st.integers(0, 3))


def tight(lengths: Sequence[int]) -> Layout:
    """The plain layout: no holes, right-padded to the longest."""
    return Layout(tuple((True,) * n for n in lengths), max(lengths))


@dataclass(frozen=True)
class Batch:
    """Responses and where they stand."""

    responses: tuple[Response, ...]
    layout: Layout


@st.composite
def batches(draw: st.DrawFn, *, holes: bool = True, lengths: Sequence[int] = EXACT_LENGTHS) -> Batch:
    rows = tuple(draw(st.lists(responses(lengths), min_size=1, max_size=3)))
    return Batch(rows, draw(layouts([len(r) for r in rows], holes=holes)))


# --- tiny vocabularies with pairs of distributions --------------------------------------------------------------------

Distribution = tuple[float, ...]


def distributions(size: int) -> st.SearchStrategy[Distribution]:
    """Probabilities in multiples of 1/64, none zero: the gaps between distinct cuts of [0, 1]."""
    cuts = st.lists(st.integers(1, 63), min_size=size - 1, max_size=size - 1, unique=True)
    return cuts.map(lambda c: tuple((b - a) / 64 for a, b in zip([0, *sorted(c)], [*sorted(c), 64], strict=True)))


@dataclass(frozen=True)
class Token:
    """One step of a tiny policy: mu's and pi's distribution, the sampled token, A_t."""

    mu: Distribution
    pi: Distribution
    sampled: int
    advantage: float


@st.composite
def tokens(draw: st.DrawFn, size: int) -> Token:
    """pi = (1 - a) mu + a nu, so TV(mu, pi) = a TV(mu, nu), and a = 0 is on-policy."""
    mu, nu = draw(distributions(size)), draw(distributions(size))
    a = draw(st.sampled_from([0, 1, 1, 2, 4, 8, 16])) / 16
    pi = tuple((1 - a) * m + a * n for m, n in zip(mu, nu, strict=True))
    return Token(mu, pi, draw(st.integers(0, size - 1)), draw(multiples(1 / 2, -2, 2)))


Trace = tuple[Token, ...]


@st.composite
def traces(draw: st.DrawFn, size: int = 5, max_responses: int = 3) -> tuple[tuple[Trace, ...], Layout]:
    """A ragged batch of responses over a vocabulary of `size` tokens, and its layout."""
    rows = draw(st.lists(st.lists(tokens(size), min_size=1, max_size=5).map(tuple), min_size=1, max_size=max_responses))
    return tuple(rows), draw(layouts([len(row) for row in rows]))
