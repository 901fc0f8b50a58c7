"""The folder of an evaluation on whole data sets: problem by problem, so that a stopped one can go on.

DIR/settings.json    what determines the responses, a hash of the weights too; others need another folder
DIR/NAME.jsonl       one line a finished problem: its responses and what became of them
DIR/NAME.parquet     the same, one row a problem, once all are done
DIR/results.json     accuracies with standard errors
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from minicppo.files import atomically, locked, open_in_place, reading, write_atomically
from minicppo.rl.policy import Policy
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
        asked = {(i, each.data["question"], each.answer) for i, each in enumerate(problems)}
        with reading(path, "remove it, or give another folder (--out)"):
            for row in map(json.loads, whole.splitlines()):
                if (row["index"], row["question"], row["answer"]) not in asked:
                    raise ValueError("it was written for other problems")
                self.rows[row["index"]] = row

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
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
                raise ValueError(f"{folder} holds an evaluation with {', '.join(changes)}: give another folder (--out)")
        else:
            write_atomically(path, json.dumps(dict(settings), indent=1).encode())
        yield


def policy_digest(policy: Policy) -> str:
    """A hash of all that determines what a policy answers: weights, settings, tokenizer, chat template and ends."""
    digest, tokenizer = hashlib.sha256(), policy.tokenizer
    for name, tensor in sorted(policy.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    config = policy.model.config.to_diff_dict() if hasattr(policy.model, "config") else {}
    known = {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}
    template = getattr(tokenizer, "chat_template", None) if policy.chat else None
    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    digest.update(json.dumps([known, template, rules, policy.ends], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
