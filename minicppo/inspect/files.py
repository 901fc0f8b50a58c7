"""The files of a log: found by path, folder or pattern, and read line by line whatever their size, packed or not."""

import glob
import gzip
import importlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minicppo.text import optional, short

fast = importlib.import_module("orjson" if find_spec("orjson") else "json").loads
KINDS = (".jsonl", ".ndjson", ".json", ".parquet", ".pt", ".eval")
PACKED = (".gz", ".zst")
DIGITS = re.compile(r"(\d+)")
LONGEST_LINE = 1 << 28  # bytes: one response and all that is known of it
WHOLE = 1 << 30  # bytes of a file that can only be read whole


class Broken(ValueError):
    """A line, or a record of a file, that is not what its format says; the text names the place."""


def size(file: Path) -> int:
    """Bytes of a file, or of the trace of a run."""
    return (file / "trace.safetensors" if file.is_dir() else file).stat().st_size


def kind(path: Path) -> str:
    """The suffix that says how a file is read, without that of packing; "run" for a run of ours, "" for neither."""
    if path.is_dir():
        return "run" if (path / "trace.safetensors").is_file() else ""
    bare = path.with_suffix("") if path.suffix in PACKED else path
    return bare.suffix if bare.suffix in KINDS else ""


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
                raise ValueError(f"{each} is no log that can be read: {', '.join(KINDS)}, also packed as .gz or .zst")
    if not found:
        raise FileNotFoundError(f"no log in {', '.join(map(str, paths))}: {', '.join(KINDS)}, or a run of ours")
    return list(dict.fromkeys(found))


class Place:
    """How many bytes of all files are behind the reader."""

    def __init__(self, files: Sequence[Path]):
        self.total = sum(size(file) for file in files)
        self.before = 0
        self.within: Callable[[], int] = lambda: 0

    @property
    def done(self) -> int:
        return min(self.before + self.within(), self.total)

    def at(self, file: Path, number: int, of: int) -> None:
        """Record `number` of so many is reached, in a file that is read whole."""
        read = size(file) * number // max(of, 1)
        self.within = lambda: read

    def leave(self, file: Path) -> None:
        self.within = lambda: 0
        self.before += size(file)


@contextmanager
def opened(path: Path, place: Place) -> Iterator[Any]:
    """The bytes of a file as a stream, unpacked."""
    with open(path, "rb") as raw:
        place.within = raw.tell
        if path.suffix == ".zst":
            zstandard = optional("zstandard", "reading .zst files", "inspect")
            with zstandard.ZstdDecompressor().stream_reader(raw) as stream:
                yield io.BufferedReader(stream, 1 << 20)
        elif path.suffix == ".gz":
            with gzip.open(raw) as stream:
                yield stream
        else:
            yield raw


def lines(path: Path, place: Place) -> Iterator[tuple[str, Any]]:
    """What each line that is not empty says, with its place as "FILE, line N". Raises Broken where unpacking fails."""
    with opened(path, place) as stream:
        for number in range(1, 1 << 62):
            where = f"{path}, line {number}"
            try:
                line = stream.readline(LONGEST_LINE)
            except Exception as error:  # each way of packing has its own
                raise Broken(f"{where}: cannot be unpacked ({error})") from error
            if not line:
                return
            if len(line) >= LONGEST_LINE:
                raise Broken(f"{where}: longer than {LONGEST_LINE >> 20} MiB")
            if not line.isspace():
                yield where, parse(where, line)


def parse(where: str, text: bytes) -> Any:
    """What the JSON says, or why it says nothing, a `Broken`. What `orjson` refuses, such as NaN, `json` may read."""
    try:
        try:
            return fast(text)
        except ValueError:
            return json.loads(text)
    except (ValueError, RecursionError) as error:
        return Broken(f"{where}: no JSON ({short(' '.join(str(error).split()))})")
