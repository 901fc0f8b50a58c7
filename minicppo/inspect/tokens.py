"""Which strings are masked, how often, by sign of advantage and reason; and how token numbers become strings."""

from collections.abc import Callable
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from minicppo.files import reading
from minicppo.inspect.table import Column, Table
from minicppo.rules import Reason

MOST = 1 << 20  # token numbers, or strings, that are told apart
REASONS = (Reason.TOKEN, Reason.PREFIX, Reason.BOTH, Reason.SEQUENCE)
Decode = Callable[[int], str]


class Strings:
    """Counts of tokens, and of masked ones by reason, (2 numbers of tokens, 1 + len(REASONS)), by sign of advantage."""

    def __init__(self, decode: Decode | None = None):
        self.decode = decode
        self.counts = np.zeros((0, 1 + len(REASONS)), np.int64)
        self.texts: dict[int, str] = {}
        self.known: dict[str, int] = {}  # numbers of strings, where the log has no others

    def numbers(self, table: Table) -> Column:
        """(N,) the number of each token: its own, or that of its string; -1 unknown."""
        numbers = table.ids
        if table.texts is not None:
            texts = [text[:200] for text in table.texts.tolist()]
            if (numbers < 0).any():
                numbers = np.array([self.known.setdefault(text, len(self.known)) for text in texts], np.int64)
            if len(self.texts) < MOST:
                told = compress(zip(numbers.tolist(), texts, strict=True), texts)
                self.texts |= told  # without "", which stands for a response without texts, too
                self.texts |= dict.fromkeys(set(numbers.tolist()) - self.texts.keys(), "")
        return np.where(numbers < MOST, numbers, -1)

    def add(self, table: Table, reason: Column) -> None:
        numbers = self.numbers(table)
        known = (numbers >= 0) & (table.advantages != 0)
        code, reason = 2 * numbers[known] + (table.advantages[known] > 0), reason[known]
        size = max(2 * int(numbers.max(initial=-1)) + 2, len(self.counts))
        chosen = (reason >= 0, *(reason == each for each in REASONS))
        counts = np.stack([np.bincount(code[of], minlength=size) for of in chosen], axis=1)
        counts[: len(self.counts)] += self.counts
        self.counts = counts

    def rows(self) -> list[dict[str, Any]]:
        """The strings masked most, 60 of each sign; `of_masked`: its share of all that is masked of that sign."""
        rows: list[dict[str, Any]] = []
        for up in (1, 0):
            counts = self.counts[up::2]
            masked = counts[:, 1:].sum(1)
            for number in np.argsort(-masked, kind="stable")[:60].tolist():
                n, *by = counts[number].tolist()
                if sum(by):
                    row = {"text": self.text(number), "id": number, "sign": 2 * up - 1, "tokens": n}
                    row |= {"masked": sum(by), "share": sum(by) / n, "of_masked": sum(by) / int(masked.sum())}
                    rows.append({**row, **{r.name.lower(): count for r, count in zip(REASONS, by, strict=True)}})
        return rows

    def text(self, number: int) -> str:
        if number not in self.texts and self.decode and number >= 0:
            return self.decode(number)
        return self.texts.get(number, f"#{number}")


def decoder(path: str | Path) -> Decode:
    """One token's text by a tokenizer in a folder here; nothing is fetched and no code of it is run.

    Raises FileNotFoundError where there is no such folder, ValueError where it holds no tokenizer.
    """
    from transformers import AutoTokenizer

    if not Path(path).is_dir():
        raise FileNotFoundError(f"--tokenizer {path}: there is no such folder")
    with reading(Path(path), "a folder with a tokenizer that needs no code of its own"):
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    return lambda number: str(tokenizer.decode([number])) if number < len(tokenizer) else f"#{number}"
