"""The tidy table of a log: one row a token that counts, responses end to end, in portions of bounded size."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

PORTION = 1 << 18  # tokens of a portion
MOST_GROUPS = 1 << 20  # names of groups that are told apart
LARGEST = 1e6  # nats, advantages and rewards beyond it are no numbers of a run
Column = NDArray[Any]
TOKENS: dict[str, tuple[Any, Any]] = {  # columns of tokens: what stands where a row gives nothing, and type
    **dict.fromkeys(("mu", "pi", "old", "advantages"), (np.nan, np.float64)),
    **{"ids": (-1, np.int64), "turn": (0, np.int64), "texts": ("", object)},
}
RESPONSES = ("lengths", "rewards", "groups", "steps", "headed", "looked")


@dataclass
class Row:
    """One response as a reader gives it: arrays over its T tokens that count, in order.

    mu, pi, old: log-probs of the sampler, the trained policy and the trainer's before the first update. reward: NaN
    where unknown. turn: of each token, from 0. texts: of the tokens. headed: the mask begins with the whole sequence.
    looked: figures are made of it.
    """

    mu: Column
    pi: Column | None = None
    old: Column | None = None
    advantages: Column | float = float("nan")
    ids: Column | None = None
    texts: Column | None = None
    reward: float = float("nan")
    group: str | int | None = None
    step: int = 0
    turn: Column | None = None
    headed: bool = False
    looked: bool = True


@dataclass
class Table:
    """Columns over N tokens of B responses. What a log does not have is None, or NaN within a column.

    Of tokens, (N,): mu, pi, old (float64 log-probs), advantages, ids (-1: unknown), turn, texts. Of responses, (B,):
    lengths, rewards, groups (-1: none), steps, headed, looked.
    """

    lengths: Column
    rewards: Column
    groups: Column
    steps: Column
    headed: Column
    looked: Column
    mu: Column
    advantages: Column
    ids: Column
    turn: Column
    pi: Column | None = None
    old: Column | None = None
    texts: Column | None = None

    def __len__(self) -> int:
        return len(self.mu)

    @cached_property
    def starts(self) -> Column:
        return self.lengths.cumsum() - self.lengths

    @cached_property
    def row(self) -> Column:
        """Of each token, its response."""
        return self.spread(np.arange(len(self.lengths)))

    @cached_property
    def position(self) -> Column:
        """Of each token, how many of its response stand before it."""
        return np.arange(len(self)) - self.spread(self.starts)

    @cached_property
    def log_ratio(self) -> Column:
        """log pi - log mu, held within +-20 as by the rules; zeros without pi."""
        return np.zeros(len(self)) if self.pi is None else np.clip(self.pi - self.mu, -20, 20)

    def spread(self, values: Column) -> Column:
        """(N,) of (B,): each response's value at its tokens."""
        return np.repeat(values, self.lengths)

    def sums(self, values: Column) -> Column:
        """(B,) sums over the tokens of each response."""
        out, filled = np.zeros(len(self.lengths)), self.lengths > 0
        out[filled] = np.add.reduceat(values, self.starts[filled], dtype=np.float64)
        return out

    def only(self, keep: Column) -> "Table":
        """The table of some tokens; responses that lose all of theirs stay, with length 0."""
        if keep.all():
            return self
        left: dict[str, Any] = {k: v[keep] for k in TOKENS if (v := getattr(self, k)) is not None}
        return replace(self, lengths=np.bincount(self.row[keep], minlength=len(self.lengths)), **left)

    def responses(self, chosen: Column) -> "Table":
        """The table of some responses, (B,) bool."""
        found = self.only(self.spread(chosen))
        return replace(found, **{name: getattr(found, name)[chosen] for name in RESPONSES})


def joined(tables: Sequence[Table]) -> Table:
    """One table of several, with the columns that all of them have."""
    names = [name for name in (*TOKENS, *RESPONSES) if all(getattr(table, name) is not None for table in tables)]
    return Table(**{name: np.concatenate([getattr(table, name) for table in tables]) for name in names})


def portions(rows: Iterable[Row], size: int = PORTION) -> Iterator[Table]:
    """Tables of about `size` tokens each, whole responses; no more of them than fit into 8 `size` when padded."""
    held: list[Row] = []
    groups: dict[Any, int] = {None: -1}
    count = width = 0
    for row in rows:
        width = max(width, len(row.mu))
        if held and (count >= size or (len(held) + 1) * width > 8 * size):
            yield table(held, groups)
            held, count, width = [], 0, len(row.mu)
        held.append(row)
        count += len(row.mu) + 16  # an empty response takes room too
    if held:
        yield table(held, groups)


def table(rows: Sequence[Row], groups: dict[Any, int] | None = None) -> Table:
    """The table of these responses. groups: the numbers of the groups met so far, None being -1."""
    groups = {None: -1} if groups is None else groups
    lengths = np.array([len(row.mu) for row in rows])

    def number(name: Any) -> int:
        return groups.setdefault(name, len(groups) - 1) if len(groups) < MOST_GROUPS else groups.get(name, -1)

    columns = {}
    for name, (missing, dtype) in TOKENS.items():
        given = [getattr(row, name) for row in rows]
        if name in ("ids", "turn") or any(values is not None for values in given):
            filled = zip((missing if values is None else values for values in given), lengths, strict=True)
            parts = [v if isinstance(v, np.ndarray) else np.full(n, v, dtype) for v, n in filled]
            columns[name] = np.concatenate(parts).astype(dtype, copy=False)
    return Table(
        lengths=lengths,
        rewards=np.array([row.reward for row in rows], np.float64),
        groups=np.array([number(row.group) for row in rows]),
        steps=np.array([row.step for row in rows], np.int64),
        headed=np.array([row.headed for row in rows], bool),
        looked=np.array([row.looked for row in rows], bool),
        **columns,
    )
