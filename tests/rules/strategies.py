"""Hypothesis strategies of the whole suite, in one place.

Numbers are dyadic rationals with few bits: every sum and product that the rules form of them is exact in float64, so a
tie is a tie in the loop, in the prefix sum and in `fractions.Fraction` alike, and results are compared to the bit.
The weights of Eq. 9 are dyadic too when T - 1 is a power of two, hence EXACT_LENGTHS.

The hard places are built, not hoped for: holes, left padding, width > length, T = 1, empty rows, ties, pi = mu,
ratios from 1/60 to 60, both signs of the advantage, advantages by token. `tests/rules/test_strategies.py` counts them.
Numbers are drawn as bytes that pick from a table, simplest entry first: fast, and a failure shrinks to the simplest.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

EXACT_LENGTHS = (1, 2, 3, 5, 9, 17)
ROLLOUT_LOG_PROB = -4.0  # of every token whose divergence is fed directly: only the ratio's sign matters there
GARBAGE = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -7.0], dtype=torch.float64)  # what padding may hold


def multiples(step: float, low: int, high: int) -> st.SearchStrategy[float]:
    """low * step ... high * step."""
    return st.integers(low, high).map(lambda k: k * step)


CHUNK = 64  # bytes that one response is made of


def chunks(count: int = 1) -> st.SearchStrategy[bytes]:
    """Raw bytes for so many responses: one draw an example, whose size does not depend on what is drawn."""
    return st.binary(min_size=count * CHUNK, max_size=count * CHUNK)


BYTES = chunks()


def picks(table: Sequence[Any], raw: bytes) -> tuple[Any, ...]:
    """One entry of a table (of at most 256) for each byte."""
    return tuple(table[byte % len(table)] for byte in raw)


def signed(step: float, most: int) -> tuple[float, ...]:
    """0, step, -step, 2 step, ..."""
    return (0.0, *(sign * k * step for k in range(1, most + 1) for sign in (1, -1)))


# --- one response, its divergence given -------------------------------------------------------------------------------

DRIFTS = tuple(k / 64 for k in [*range(3)] * 24 + [*range(9)] * 8 + [*range(65)])  # mostly small, as in training
RATIOS, ADVANTAGES = signed(1 / 16, 16), signed(1 / 4, 8)
MOODS = ("mixed", "mixed", "calm", "steady")


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
        return Response(*(tuple(column[i] for i in where) for column in vars(self).values()))


def drifting(divergence: Sequence[float]) -> Response:
    """A response with these divergences whose tokens all move away from mu."""
    n = len(divergence)
    return Response(tuple(divergence), (0.25,) * n, (1.0,) * n)


def response_of(raw: bytes, lengths: Sequence[int], all_away: bool = False) -> Response:
    (n,), (mood,) = picks(lengths, raw[60:61]), picks(MOODS, raw[61:62])
    drift, ratio = picks(DRIFTS, raw[:n]), picks(RATIOS, raw[20 : 20 + n])
    advantage = picks(ADVANTAGES, raw[40 : 40 + n])
    if all_away:
        ratio, advantage = tuple(abs(x) or 0.25 for x in ratio), tuple(abs(a) or 1.0 for a in advantage)
    if mood == "calm":  # a quiet prefix pays in, so that the token limit binds alone
        drift = (*(d % (1 / 32) for d in drift[:-1]), *drift[-1:])
    elif mood == "steady":
        drift = drift[:1] * n
    return Response(drift, ratio, advantage)


def responses(lengths: Sequence[int] = EXACT_LENGTHS, *, all_away: bool = False) -> st.SearchStrategy[Response]:
    """Responses of these lengths; with `all_away` every token moves away from mu, so that the limits decide alone."""
    return BYTES.map(lambda raw: response_of(raw, lengths, all_away))


# --- hyper-parameters -------------------------------------------------------------------------------------------------


class Limits(NamedTuple):
    """Dyadic hyper-parameters of the mask."""

    delta: float
    delta_b: float
    w_min: float


def limits(w_min: float | None = None) -> st.SearchStrategy[Limits]:
    def some(raw: bytes) -> Limits:
        delta, budget, weight = raw[:3]
        few = (budget % 8 + 1) / (256 if budget < 128 else 64)
        return Limits((delta % 16 + 1) / 64, few, (weight % 8 + 1) / 8 if w_min is None else w_min)

    return BYTES.map(some)


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

    @functools.cached_property
    def mask(self) -> Tensor:
        """(B, T) true on valid tokens."""
        rows = [list(row) + [False] * (self.width - len(row)) for row in self.rows]
        return torch.tensor(rows, dtype=torch.bool).reshape(len(rows), self.width)

    @property
    def packed_mask(self) -> Tensor:
        """(N,) the same of the packed rows."""
        return torch.tensor([slot for row in self.rows for slot in row], dtype=torch.bool)

    @functools.cached_property
    def garbage(self) -> Tensor:
        """(B, T) what may stand on invalid positions."""
        count = self.mask.numel()
        return GARBAGE.repeat(count // len(GARBAGE) + 1)[:count].reshape(self.mask.shape)

    def spread(self, values: Sequence[Sequence[Any]], dtype: torch.dtype = torch.float64) -> Tensor:
        """(B, T) with each row's values on its valid tokens, garbage elsewhere."""
        flat = torch.tensor([v for row in values for v in row], dtype=torch.float64)
        return self.garbage.masked_scatter(self.mask, flat).to(dtype)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) -> (N, ...): the rows end to end, each of its own width."""
        return torch.cat([row[: len(slots)] for row, slots in zip(padded, self.rows, strict=True)])

    def gather(self, padded: Tensor) -> list[list[Any]]:
        """The valid entries of each row."""
        return [row[valid].tolist() for row, valid in zip(padded, self.mask, strict=True)]


def layout_of(raw: bytes, lengths: Sequence[int]) -> Layout:
    """Room for responses of these lengths: up to two invalid tokens before each valid one, and padding behind."""
    gaps = iter(picks((0, 0, 0, 1, 2), raw[1:]))
    rows = tuple(tuple(slot for _ in range(n) for slot in (*[False] * next(gaps), True)) for n in lengths)
    return Layout(rows, max(map(len, rows)) + raw[0] % 4)


@functools.cache
def tight(*lengths: int) -> Layout:
    """The plain layout: no holes, right-padded to the longest."""
    return Layout(tuple((True,) * n for n in lengths), max(lengths))


def several(of: Callable[[bytes], Any], most: int) -> st.SearchStrategy[Any]:
    """One to `most` responses, each made of its bytes by `of`, and their layout."""

    def some(raw: bytes) -> tuple[tuple[Any, ...], Layout]:
        count = 1 + raw[CHUNK - 1] % most
        rows = tuple(of(raw[i * CHUNK : (i + 1) * CHUNK]) for i in range(1, count + 1))
        return rows, layout_of(raw[: CHUNK - 1], [len(row) for row in rows])

    return chunks(most + 1).map(some)


class Batch(NamedTuple):
    """Responses and where they stand."""

    responses: tuple[Response, ...]
    layout: Layout


def batches() -> st.SearchStrategy[Batch]:
    """One to three responses, at times one without a valid token."""
    return several(lambda raw: response_of(raw, (*EXACT_LENGTHS, 0)), 3).map(lambda drawn: Batch(*drawn))


# --- tiny vocabularies with pairs of distributions --------------------------------------------------------------------

Distribution = tuple[float, ...]
MIXES = [k / 16 for k in (0, 1, 2, 4, 8, 16, 16)]


@functools.cache
def simplex(size: int) -> list[Distribution]:
    """128 distributions in multiples of 1/64, none zero: even, peaked at each token, with ties, and at random."""
    rng, rest = random.Random(size), 64 - (size - 1)
    found = [[64 - (size - 1) * (64 // size), *[64 // size] * (size - 1)]]
    found += [[rest if i == peak else 1 for i in range(size)] for peak in range(size)] * 6
    while len(found) < 128:
        cuts = sorted(rng.sample(range(1, 64), size - 1))
        found.append([b - a for a, b in zip([0, *cuts], [*cuts, 64], strict=True)])
    return [tuple(k / 64 for k in counts) for counts in found]


@dataclass(frozen=True)
class Token:
    """One step of a tiny policy: mu's and pi's distribution, the sampled token, A_t; pi_old's, None for mu's."""

    mu: Distribution
    pi: Distribution
    sampled: int
    advantage: float
    old: Distribution | None = None


Trace = tuple[Token, ...]
Drawn = tuple[tuple[Trace, ...], Layout]


def trace_of(raw: bytes, size: int, lengths: Sequence[int]) -> Trace:
    """pi = (1 - a) mu + a nu, so TV(mu, pi) = a TV(mu, nu), and a = 0 is on-policy; pi_old the same with another nu."""
    table, signs = simplex(size), signed(1 / 2, 4)

    def mixed(mu: int, nu: int, a: int) -> Distribution:
        mix = MIXES[a % len(MIXES)]
        return tuple((1 - mix) * m + mix * n for m, n in zip(table[mu % 128], table[nu % 128], strict=True))

    def token(mu: int, nu: int, a: int, sampled: int, advantage: int, other: int, b: int) -> Token:
        old = mixed(mu, other, b)
        return Token(table[mu % 128], mixed(mu, nu, a), sampled % size, signs[advantage % len(signs)], old)

    (count,) = picks(lengths, raw[63:])
    return tuple(token(*raw[i : i + 7]) for i in range(0, 7 * count, 7))


def traces(size: int = 5, most: int = 3, lengths: Sequence[int] = (1, 2, 3, 4, 5, 8)) -> st.SearchStrategy[Drawn]:
    """A ragged batch of one to `most` responses over a vocabulary of `size` tokens, and its layout."""
    return several(lambda raw: trace_of(raw, size, lengths), most)
