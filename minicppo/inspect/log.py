"""A log as a stream of rows: its files one after the other, each record read by its format."""

import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minicppo.files import Damaged, reading
from minicppo.inspect.files import WHOLE, Broken, Place, find, kind, lines, opened, parse, size
from minicppo.inspect.formats import FORMATS, Record, detect
from minicppo.inspect.table import Row
from minicppo.text import nearest, optional, short

STEP = re.compile(r"step[_-]?(\d{1,9})")
SPARED = {"advantages": 0.0, "token_ids": None, "response_ids": None, "tokens": None}  # of those not looked at
NAMED = 20  # broken records of which the place is kept
Records = Iterator[tuple[str, Any]]  # each with its place; a `Broken` where one cannot be read


class Log:
    """What is read, and what was met on the way.

    formats: records of each. skipped, broken: how many were left out, and the first NAMED of them. other: files in a
    folder that are no logs. partial: the reading was ended before the end.
    """

    def __init__(self, paths: Sequence[str | Path], form: str | None = None, skip_broken: bool = False):
        if form is not None and form not in FORMATS:
            raise ValueError(f"--format {form!r} is unknown{nearest(form, FORMATS)}")
        self.files, self.form, self.skip_broken = find(paths), form, skip_broken
        self.asked = {Path(path) for path in paths}  # what else a folder holds need not be a log
        self.place = Place(self.files)
        self.formats: Counter[str] = Counter()
        self.broken: list[str] = []
        self.other: list[str] = []
        self.skipped, self.partial = 0, False
        self.rate = 1.0  # the share of responses that is looked at, and so read in full
        self._count = 0

    @property
    def pi(self) -> str:
        """Which policy pi is: "current", "old", "none", or "mixed"."""
        kinds = {FORMATS[name].pi for name in self.formats}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    def rows(self) -> Iterator[Row]:
        """Every response. Raises Broken, naming file and line, unless such records are to be left out."""
        for file in self.files:
            stepped = STEP.findall(str(file))
            for i, (where, record) in enumerate(_records(file, self.place)):
                try:
                    found = self._read(where, record, {"step": int(stepped[-1])} if stepped else {})
                except Broken as error:
                    if i == 0 and file not in self.asked:
                        self.other.append(str(file))
                        break
                    if not self.skip_broken:
                        text = f"{error}. Way out: --skip-broken leaves such records out, and counts them"
                        raise Broken(text) from error
                    self.skipped += 1
                    self.broken += [str(error)] * (self.skipped <= NAMED)
                else:
                    yield from found
            self.place.leave(file)

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


def _records(file: Path, place: Place) -> Records:
    try:
        yield from _READERS[kind(file)](file, place)
    except (Broken, Damaged) as error:
        yield str(file), Broken(str(error))


def _json(file: Path, place: Place) -> Records:
    """One document: an Inspect log, a response, or a list of records; or lines after all."""
    if size(file) > WHOLE:
        raise Broken(f"{file} is {size(file) >> 20} MiB in one document: write one record a line, .jsonl")
    with opened(file, place) as stream:
        text = stream.read(WHOLE)
    document = parse(str(file), text)
    if isinstance(document, Broken):
        yield from lines(file, place)
        return
    if isinstance(document, dict) and isinstance(document.get("samples"), list):
        document = document["samples"]
    records = document if isinstance(document, list) else [document]
    for i, record in enumerate(records, 1):
        place.at(file, i, len(records))
        yield f"{file}, record {i}", record


def _archive(file: Path, place: Place) -> Records:
    """Inspect's .eval: an archive with one JSON file a sample."""
    with reading(file), zipfile.ZipFile(file) as archive:
        for i, item in enumerate(archive.infolist(), 1):
            place.at(file, i, len(archive.infolist()))
            if item.filename.startswith("samples/") and item.file_size <= WHOLE:
                where = f"{file}, {item.filename}"
                yield where, parse(where, archive.read(item))


def _parquet(file: Path, place: Place) -> Records:
    parquet = optional("pyarrow.parquet", "reading Parquet", "inspect")
    with reading(file):
        source, done = parquet.ParquetFile(file), 0
        for batch in source.iter_batches(batch_size=64):
            columns = {name: _cells(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
            for i in range(batch.num_rows):
                done += 1
                yield f"{file}, row {done}", {name: cells[i] for name, cells in columns.items()}
            place.at(file, done, source.metadata.num_rows)


def _cells(column: Any) -> list[Any]:
    """One value a row; lists of numbers as arrays, without making an object of every number."""
    if str(column.type).startswith("list<") and not column.null_count:
        flat = column.flatten()
        if str(flat.type) in ("float", "double", "int64", "int32", "int16", "int8", "bool"):
            ends = np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False))
            return np.split(flat.to_numpy(zero_copy_only=False), ends[:-1]) if len(ends) else []
    cells: list[Any] = column.to_pylist()
    return cells


def _pt(file: Path, place: Place) -> Records:
    """slime and miles: {"rollout_data": {name: a list over responses}} or {"samples": [one dict a response]}."""
    import torch

    with reading(file, "a file of tensors and plain values alone; whatever else it holds is not loaded"):
        found = torch.load(file, map_location="cpu", weights_only=True)
    found = found if isinstance(found, dict) else {}
    data, records = found.get("rollout_data", found), found.get("samples")
    if not isinstance(records, list):
        if not isinstance(data, dict) or not isinstance(data.get("rollout_log_probs"), (list, torch.Tensor)):
            raise Broken(f"{file}: neither rollout_data with rollout_log_probs nor samples in it")
        count = len(data["rollout_log_probs"])
        lists = {k: v for k, v in data.items() if isinstance(v, (list, torch.Tensor)) and len(v) == count}
        records = [{name: values[i] for name, values in lists.items()} for i in range(count)]
    names: dict[Any, str] = {"loss_masks": "loss_mask", "response_lengths": "response_length"}
    for i, record in enumerate(records, 1):
        place.at(file, i, len(records))
        one: dict[str, Any] = {"response_length": None, "step": found.get("rollout_id", 0)}
        for key, value in (record if isinstance(record, dict) else {}).items():
            one[names.get(key, str(key))] = value.numpy() if isinstance(value, torch.Tensor) else value
        yield f"{file}, response {i}", one


def _run(folder: Path, place: Place) -> Records:
    """The trace of one of our runs: the last batch, as one more update would see it."""
    from safetensors.numpy import load_file

    with reading(folder, "a trace as it was written, with its trace.json"):
        arrays = load_file(folder / "trace.safetensors")
        texts = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
        found = []
        for i, valid in enumerate(arrays["response_mask"].astype(bool)):
            names = ("response_ids", "log_probs", "rollout_log_probs")
            A = arrays["advantages"][i]
            one: Record = {name: arrays[name][i][valid] for name in names} | {"tokens": texts["tokens"][i]}
            one |= {"advantages": A[valid] if A.ndim else float(A)}
            found.append(one | {"minicppo": True, "step": texts["iteration"], "group": str(texts["prompts"][i])})
    yield from ((f"{folder}, response {i}", one) for i, one in enumerate(found, 1))


_READERS = {
    ".jsonl": lines,
    ".ndjson": lines,
    ".json": _json,
    ".parquet": _parquet,
    ".pt": _pt,
    ".eval": _archive,
    "run": _run,
}
