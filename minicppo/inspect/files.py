"""The files of a log: found by path, folder or pattern, and read record by record, packed or not."""

import glob
import gzip
import importlib
import io
import itertools
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from minicppo.files import Damaged, reading
from minicppo.text import optional, short

fast = importlib.import_module("orjson" if find_spec("orjson") else "json").loads
KINDS = ".jsonl, .ndjson, .json, .parquet, .pt, .eval"
DIGITS = re.compile(r"(\d+)")
LONGEST_LINE = 1 << 28  # bytes: one response and all that is known of it
WHOLE = 1 << 30  # bytes of a file that can only be read whole
# each with its place, and how many bytes of the file are read by then; a `Broken` where one cannot be read
Records = Iterator[tuple[str, Any, int]]


class Broken(ValueError):
    """A line, or a record of a file, that is not what its format says; the text names the place."""


def size(file: Path) -> int:
    """Bytes of a file, or of the trace of a run."""
    return (file / "trace.safetensors" if file.is_dir() else file).stat().st_size


def find(paths: Sequence[str | Path]) -> list[Path]:
    """The files behind paths, folders (searched to any depth) and patterns, step_2 before step_10.

    Raises FileNotFoundError where there is none, ValueError for a file of a kind that is not read.
    """
    found: list[Path] = []
    for path in map(str, paths):
        here = [Path(path)] if Path(path).exists() else [Path(hit) for hit in sorted(glob.glob(path, recursive=True))]
        if not here:
            raise FileNotFoundError(f"{path}: no such file, folder or pattern")
        for each in here:
            if kind(each):
                found.append(each)
            elif each.is_dir():
                runs = [run.parent for run in each.rglob("trace.safetensors")]
                inside = [p for p in each.rglob("*") if kind(p) and not any(run in p.parents for run in runs)]
                found += sorted(inside, key=lambda p: [int(x) if x.isdigit() else x for x in DIGITS.split(str(p))])
            else:
                raise ValueError(f"{each} is no log that can be read: {KINDS}, also packed as .gz or .zst")
    if not found:
        raise FileNotFoundError(f"no log in {', '.join(map(str, paths))}: {KINDS}, or a run of ours")
    return list(dict.fromkeys(found))


def kind(path: Path) -> str:
    """Which of READERS reads it: by the suffix without that of packing, or "run" for a run of ours; "" for none."""
    if path.is_dir():
        return "run" if (path / "trace.safetensors").is_file() else ""
    bare = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    return bare.suffix if bare.suffix in READERS else ""


def records(file: Path) -> Records:
    """The records of a file that `find` has found."""
    try:
        yield from READERS[kind(file)](file)
    except (Broken, Damaged) as error:
        yield str(file), Broken(str(error)), size(file)


def unpacked(raw: BinaryIO, path: Path) -> Any:
    """The bytes of an open file as a stream."""
    if path.suffix == ".zst":
        zstandard = optional("zstandard", "reading .zst files", "inspect")
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw), 1 << 20)
    return gzip.open(raw) if path.suffix == ".gz" else raw


def parse(where: str, text: bytes) -> Any:
    """What the JSON says, or why it says nothing, a `Broken`. What `orjson` refuses, such as NaN, `json` may read."""
    try:
        try:
            return fast(text)
        except ValueError:
            return json.loads(text)
    except (ValueError, RecursionError) as error:
        return Broken(f"{where}: no JSON ({short(' '.join(str(error).split()))})")


def _lines(file: Path) -> Records:
    with open(file, "rb") as raw, unpacked(raw, file) as stream:
        for number in itertools.count(1):
            where = f"{file}, line {number}"
            try:
                line = stream.readline(LONGEST_LINE)
            except Exception as error:  # each way of packing has its own
                raise Broken(f"{where}: cannot be unpacked ({error})") from error
            if not line:
                return
            if len(line) >= LONGEST_LINE:
                raise Broken(f"{where}: longer than {LONGEST_LINE >> 20} MiB")
            if not line.isspace():
                yield where, parse(where, line), raw.tell()


def _numbered(file: Path, what: str, found: Sequence[Any]) -> Records:
    """Of a file that was read whole."""
    for i, record in enumerate(found, 1):
        yield f"{file}, {what} {i}", record, size(file) * i // len(found)


def _json(file: Path) -> Records:
    """One document: an Inspect log, a response, or a list of records; or lines after all."""
    if size(file) > WHOLE:
        raise Broken(f"{file} is {size(file) >> 20} MiB in one document: write one record a line, .jsonl")
    with reading(file), open(file, "rb") as raw, unpacked(raw, file) as stream:
        document = parse(str(file), stream.read(WHOLE))
    if isinstance(document, Broken):
        return _lines(file)
    if isinstance(document, dict) and isinstance(document.get("samples"), list):
        document = document["samples"]
    return _numbered(file, "record", document if isinstance(document, list) else [document])


def _archive(file: Path) -> Records:
    """Inspect's .eval: an archive with one JSON file a sample."""
    with reading(file), zipfile.ZipFile(file) as archive:
        for i, item in enumerate(archive.infolist(), 1):
            if item.filename.startswith("samples/") and item.file_size <= WHOLE:
                where = f"{file}, {item.filename}"
                yield where, parse(where, archive.read(item)), size(file) * i // len(archive.infolist())


def _parquet(file: Path) -> Records:
    parquet = optional("pyarrow.parquet", "reading Parquet", "inspect")
    with reading(file):
        source, done = parquet.ParquetFile(file), 0
        for batch in source.iter_batches(batch_size=64):
            read = size(file) * done // source.metadata.num_rows
            for cells in zip(*map(_cells, batch.columns), strict=True):
                done += 1
                yield f"{file}, row {done}", dict(zip(batch.schema.names, cells, strict=True)), read


def _cells(column: Any) -> list[Any]:
    """One value a row; lists of numbers as arrays, without making an object of every number."""
    from pyarrow import types

    if types.is_list(column.type) and types.is_primitive(column.type.value_type):
        return list(column.to_numpy(zero_copy_only=False))
    return column.to_pylist()


def _pt(file: Path) -> Records:
    """slime and miles: {"rollout_data": {name: a list over responses}} or {"samples": [one dict a response]}."""
    import torch

    def array(values: torch.Tensor) -> Any:
        values = values.detach()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # NumPy has no bfloat16

    with reading(file, "a file of tensors and plain values alone; whatever else it holds is not loaded"):
        found = torch.load(file, map_location="cpu", weights_only=True)
    found = found if isinstance(found, dict) else {}
    data, samples = found.get("rollout_data", found), found.get("samples")
    if not isinstance(samples, list):
        if not isinstance(data, dict) or not isinstance(data.get("rollout_log_probs"), (list, torch.Tensor)):
            raise Broken(f"{file}: neither rollout_data with rollout_log_probs nor samples in it")
        count = len(data["rollout_log_probs"])
        lists = {k: v for k, v in data.items() if isinstance(v, (list, torch.Tensor)) and len(v) == count}
        samples = [{name: values[i] for name, values in lists.items()} for i in range(count)]
    named = []
    for sample in samples:
        given = sample.items() if isinstance(sample, dict) else ()
        one = {str(key): array(value) if isinstance(value, torch.Tensor) else value for key, value in given}
        known = {"response_length": None, "loss_mask": one.get("loss_masks"), "step": found.get("rollout_id", 0)}
        named.append(known | one)
    return _numbered(file, "response", named)


def _run(folder: Path) -> Records:
    """The trace of one of our runs: the last batch, as one more update would see it."""
    from safetensors.numpy import load_file

    found = []
    with reading(folder, "a trace as it was written, with its trace.json"):
        arrays = load_file(folder / "trace.safetensors")
        texts = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
        for i, valid in enumerate(arrays["response_mask"].astype(bool)):
            A = arrays["advantages"][i]
            one = {name: arrays[name][i][valid] for name in ("response_ids", "log_probs", "rollout_log_probs")}
            one |= {"advantages": A[valid] if A.ndim else float(A), "tokens": texts["tokens"][i], "minicppo": True}
            found.append(one | {"step": texts["iteration"], "group": str(texts["prompts"][i])})
    return _numbered(folder, "response", found)


READERS: dict[str, Callable[[Path], Records]] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json,
    ".parquet": _parquet,
    ".pt": _pt,
    ".eval": _archive,
    "run": _run,
}
