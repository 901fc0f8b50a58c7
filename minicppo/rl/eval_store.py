"""The folder of an evaluation on whole data sets: problem by problem, so that a stopped one can go on.

DIR/settings.json    what determines the responses, a hash of the weights too; others need another folder
DIR/NAME.jsonl       one line a finished problem: its responses and what became of them
DIR/NAME.parquet     the same, one row a problem, once all are done
DIR/results.json     accuracies with standard errors
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minicppo.files import atomically, locked, open_in_place, reading, write_atomically
from minicppo.rl.tasks.base import Problem
from minicppo.text import optional


class Store:
    """The finished problems of one data set, in a file of lines. Raises ValueError: it is there, for other problems."""

    def __init__(self, path: Path, problems: Sequence[Problem]):
        self.path = path
        self.rows: dict[int, dict[str, Any]] = {}
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):  # the last line was cut off when the writer was stopped
            with open_in_place(path, "a") as file:
                file.truncate(len(whole))
        with reading(path, "remove it, or give another folder (--out)"):
            for row in map(json.loads, whole.splitlines()):
                asked = problems[row["index"]] if row["index"] in range(len(problems)) else None
                if asked is None or (row["question"], row["answer"]) != (asked.data["question"], asked.answer):
                    raise ValueError("it was written for other problems")
                self.rows[row["index"]] = row

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write to the disk."""
        with open_in_place(self.path, "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())

    def write_parquet(self) -> None:
        """All rows by index, in a file beside."""
        import pyarrow
        import pyarrow.parquet as parquet

        with atomically(self.path.with_suffix(".parquet")) as scratch:
            parquet.write_table(pyarrow.Table.from_pylist([self.rows[i] for i in sorted(self.rows)]), scratch)


@contextmanager
def claimed(folder: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Hold a folder for one evaluation, its settings noted. Raises BlockingIOError, ValueError: it is another's."""
    optional("pyarrow", "writing results as Parquet", "math")
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link, and would be written to. Way out: give another folder (--out)")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "evaluation: wait for it, or give another folder (--out)"):
        path = folder / "settings.json"
        if path.is_file():
            with reading(path, "give another folder (--out)"):
                theirs = dict(json.loads(path.read_text()))
            compared = {k: v for k, v in settings.items() if k != "model"}  # the weights say which, and not their path
            changes = [f"{k} = {theirs.get(k)!r} and not {v!r}" for k, v in compared.items() if theirs.get(k) != v]
            if changes:
                with_these = ", ".join(changes)
                raise ValueError(f"{folder} holds an evaluation with {with_these}: give another folder (--out)")
        else:
            write_atomically(path, json.dumps(dict(settings), indent=1).encode())
        yield
