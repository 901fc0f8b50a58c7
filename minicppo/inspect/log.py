"""A log as a stream of rows: its files one after the other, each record read by its format."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minicppo.inspect.files import Broken, find, records, size
from minicppo.inspect.formats import FORMATS, Record, detect
from minicppo.inspect.table import Row
from minicppo.text import nearest, short

STEP = re.compile(r"step[_-]?(\d{1,9})")
SPARED = {"advantages": 0.0, "token_ids": None, "response_ids": None, "tokens": None}  # of those not looked at
NAMED = 20  # broken records of which the place is kept


class Log:
    """What is read, and what was met on the way.

    total, done: bytes, of all files and of what is behind the reader. formats: records of each. skipped, broken: how
    many were left out, and the first NAMED of them. other: files in a folder that are no logs. partial: the reading was
    ended before the end. rate: the share of responses that is looked at, and so read in full.
    """

    def __init__(self, paths: Sequence[str | Path], form: str | None = None, skip_broken: bool = False):
        if form is not None and form not in FORMATS:
            raise ValueError(f"--format {form!r} is unknown{nearest(form, FORMATS)}")
        self.files, self.form, self.skip_broken = find(paths), form, skip_broken
        self.asked = {Path(path) for path in paths}  # what else a folder holds need not be a log
        self.total, self.done = sum(map(size, self.files)), 0
        self.formats: Counter[str] = Counter()
        self.broken: list[str] = []
        self.other: list[str] = []
        self.skipped, self.partial, self.rate = 0, False, 1.0
        self._count = 0

    @property
    def pi(self) -> str:
        """Which policy pi is: "current", "old", "none", or "mixed"."""
        kinds = {FORMATS[name].pi for name in self.formats}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    def rows(self) -> Iterator[Row]:
        """Every response. Raises Broken, naming file and line, unless such records are to be left out."""
        for file in self.files:
            before, stepped = self.done, STEP.findall(str(file))
            for i, (where, record, read) in enumerate(records(file)):
                self.done = min(before + read, self.total)  # it may be growing
                try:
                    found = self._read(where, record, {"step": int(stepped[-1])} if stepped else {})
                except Broken as error:
                    if i == 0 and file not in self.asked:
                        self.other.append(str(file))
                        break
                    if not self.skip_broken:
                        way_out = ". Way out: --skip-broken leaves such records out, and counts them"
                        raise Broken(f"{error}{'' if 'Way out: ' in str(error) else way_out}") from error
                    self.skipped += 1
                    self.broken += [str(error)] * (self.skipped <= NAMED)
                else:
                    yield from found
            self.done = before + size(file)

    def _read(self, where: str, record: Any, known: Record) -> list[Row]:
        if isinstance(record, Broken):
            raise record
        try:
            if not isinstance(record, dict):
                raise Broken(f"a JSON object was expected, not {short(record, 40)}")
            name = self.form or detect(record)
            self._count += 1
            looked = int(self._count * self.rate) > int((self._count - 1) * self.rate)
            found = list(FORMATS[name].rows(known | record | ({} if looked else SPARED)))
            for row in found:
                row.looked = looked
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Broken(f"{where}: {short(error) if not isinstance(error, Broken) else error}") from error
        self.formats[name] += 1
        return found
