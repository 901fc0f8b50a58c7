"""Mathematics problems from local files (JSON lines or Parquet) or from the Hugging Face hub.

A known name, say `aime24`, is looked for in the folder that the environment variable MINICPPO_DATA names, or on the
hub where that is not set. No row is skipped: one that cannot be read stops the loading, by number.
"""

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from minicppo.rl.grading.answers import DEEPEST, LONGEST_GOLD, depths
from minicppo.rl.grading.extraction import last_boxed
from minicppo.rl.grading.tidy import tidy
from minicppo.text import cut, nearest, optional

FOLDER_VARIABLE = "MINICPPO_DATA"
SUFFIXES = (".jsonl", ".parquet")
SHOWN = 5  # broken rows named in an error
LONGEST_QUESTION = 100_000  # characters
LONGEST_WORDS = 20  # words of an answer
Row = Mapping[str, Any] | str  # a string says why it is broken


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the row and the way out."""


@dataclass(frozen=True)
class Source:
    """A known data set; `only` is the value of `data_source` to keep, in a file that holds several sets."""

    file: str
    hub: str
    split: str
    configuration: str | None = None
    only: str | None = None


SOURCES = {
    "dapo-math-17k": Source("dapo_math_17k.parquet", "open-r1/DAPO-Math-17k-Processed", "train", "all"),
    "aime24": Source("aime24.parquet", "math-ai/aime24", "test"),
    "aime25": Source("aime25.parquet", "math-ai/aime25", "test"),
    "aime26": Source("aime26.parquet", "math-ai/aime26", "test"),
    "math-500": Source("math500_aime_eval.jsonl", "HuggingFaceH4/MATH-500", "test", only="MATH-500"),
    "gsm8k": Source("gsm8k_train.jsonl", "openai/gsm8k", "train", "main"),
    "gsm8k-test": Source("gsm8k_test.jsonl", "openai/gsm8k", "test", "main"),
}


@dataclass(frozen=True)
class MathProblem:
    """One problem. `row` counts from 1 in its file; `solution` is the worked one, where there is one."""

    question: str
    answer: str
    row: int
    solution: str | None = None


@dataclass(frozen=True)
class MathData:
    """Each question once, in order. `rows` were read; `conflicts` repeat a question with an answer that is not kept."""

    name: str
    problems: tuple[MathProblem, ...]
    rows: int
    conflicts: int


def check_name(name_or_path: str) -> None:
    """Raises DataError, without reading anything: it can be neither a known name nor a file nor a hub name."""
    if name_or_path in SOURCES or name_or_path.endswith(SUFFIXES) or re.fullmatch(r"[\w.-]+/[\w.-]+", name_or_path):
        return
    raise DataError(
        f"data = {name_or_path!r} is no known name, no .jsonl or .parquet file and no hub name OWNER/NAME"
        f"{nearest(name_or_path, SOURCES)}"
    )


def load_data(name_or_path: str) -> MathData:
    """The problems of a known data set, a local file, or (as OWNER/NAME, split "train") any set on the hub.

    Raises DataError: an unknown name, a file that is missing or cut off, a missing column, a broken row.
    ModuleNotFoundError: Parquet files and the hub need optional packages.
    """
    check_name(name_or_path)
    name, folder, source = name_or_path, os.environ.get(FOLDER_VARIABLE), SOURCES.get(name_or_path)
    if not (source and folder) and not name.endswith(SUFFIXES):
        return _load_hub(name, source or Source("", name, "train"))
    path = (Path(folder, source.file) if source and folder else Path(name)).expanduser()
    if source and not path.is_file():
        raise DataError(
            f"{name}: the folder {FOLDER_VARIABLE} = {folder!r} has no {source.file}: put it there, give its path, "
            f"or unset {FOLDER_VARIABLE} to fetch it from the hub"
        )
    if not path.is_file():
        raise DataError(f"there is no file {name!r}")
    return _load_file(name if source else path.stem, path, path.stat().st_mtime_ns, source and source.only)


@lru_cache(maxsize=8)
def _load_file(name: str, path: Path, mtime: int, only: str | None) -> MathData:
    return collect(name, str(path), (_read_jsonl if path.suffix == ".jsonl" else _read_parquet)(path), only)


@lru_cache(maxsize=8)
def _load_hub(name: str, source: Source) -> MathData:
    instead = f"set {FOLDER_VARIABLE} to a folder that holds"
    datasets = optional("datasets", f"{source.hub}, from the hub (or {instead} it),", "math")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries: what they came to is said below
    try:
        rows = datasets.load_dataset(source.hub, source.configuration, split=source.split)
    except Exception as error:  # of many libraries: no network, no such set, a set that asks for a login
        why = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{source.hub} could not be fetched from the hub ({why}): give a local file, or {instead} it"
        ) from error
    return collect(name, source.hub, enumerate(rows, 1), None)


def collect(name: str, origin: str, rows: Iterable[tuple[int, Row]], only: str | None) -> MathData:
    """Check numbered rows and drop repeated questions. Raises DataError: how many are broken, and the first of them."""
    kept: dict[str, MathProblem] = {}
    broken: list[str] = []
    count = conflicts = 0
    for number, row in rows:
        if only is not None and isinstance(row, Mapping) and row.get("data_source", only) != only:
            continue  # of another set in the same file; a row that does not say is this one's
        count += 1
        try:
            problem = parse_row(number, row)
            conflicts += kept.setdefault(problem.question, problem).answer != problem.answer
        except DataError as error:
            broken.append(f"row {number}: {error}")
    if broken:
        more = f"; and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        raise DataError(
            f"{origin}: {len(broken)} of {count} rows cannot be used: {'; '.join(broken[:SHOWN])}{more}. Mend or "
            "remove them: none is skipped silently"
        )
    if not kept:
        raise DataError(f"{origin} holds no problems" + (f" with data_source = {only!r}" if only else ""))
    return MathData(name, tuple(kept.values()), count, conflicts)


def parse_row(number: int, row: Row) -> MathProblem:
    """One problem from a row in any of the usual layouts.

    The question is `question`, `problem` or `prompt` (a text, or chat messages of which the last of the user's counts);
    the answer `reward_model.ground_truth`, `ref_answer`, `answer` (after `####`, if there is one) or `solution` (what
    it boxes). Raises DataError without the number of the row, which `collect` adds.
    """
    if isinstance(row, str):
        raise DataError(row)
    columns = f"the columns {cut(', '.join(map(str, row)), 300)}" if row else "no columns"
    question: Any = next((row[key] for key in ("question", "problem", "prompt") if row.get(key) is not None), None)
    if isinstance(question, list):
        turns = [turn for turn in question if isinstance(turn, Mapping) and turn.get("role") == "user"]
        question = turns[-1].get("content") if turns else None
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"no question (column question, problem or prompt) among {columns}")
    answer, solution = _answer(row)
    if not answer:
        raise DataError(
            "no answer, or a solution that boxes none (column reward_model.ground_truth, ref_answer, answer or "
            f"solution) among {columns}"
        )
    for what, size, most in (
        ("a question of {:,} characters", len(question), LONGEST_QUESTION),
        ("an answer of {:,} characters", len(answer), LONGEST_GOLD),
        ("an answer with brackets {} deep", max(depths(answer)), DEEPEST),
    ):
        if size > most:
            raise DataError(f"{what.format(size)}, more than {most:,}")
    if not any(map(str.isalnum, answer)) and not tidy(answer):
        raise DataError(f"no answer but typography, {answer!r}")
    try:
        (question + answer).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"no text ({error.reason})") from None
    return MathProblem(_without_instructions(question), answer, number, solution)


def _answer(row: Mapping[str, Any]) -> tuple[str, str | None]:
    """The final answer ("" if there is none) and the worked solution."""
    reward_model = row.get("reward_model")
    stated = reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None
    for value in (stated, row.get("ref_answer"), row.get("answer")):
        if isinstance(value, str) and "####" in value:
            worked, _, final = value.rpartition("####")
            return final.strip(), worked.strip()
        if isinstance(value, float) and not math.isfinite(value):
            continue  # how a table of numbers writes a missing one
        if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
            return _final(str(value)), None
    solution = row.get("solution")
    return (_final(solution, worked=True), solution) if isinstance(solution, str) else ("", None)


def _final(text: str, worked: bool = False) -> str:
    """The answer in a text: what it boxes, else all of it, but "" where that is a solution and no answer."""
    if (boxed := last_boxed(text)) is not None:
        return boxed.strip()
    words = re.search(r"(?<![\\A-Za-z{])[A-Za-z]{2,}", text)
    sentences = re.search(r"\n\s*\S|[.!?:]\s+[A-Z\d$\\]", text) or len(text.split()) > LONGEST_WORDS
    derived = worked and (words or re.search(r"\n\s*\S|=.*=", text))
    return "" if derived or (words and sentences) else text.strip()


def _without_instructions(question: str) -> str:
    """The bare question: some copies of DAPO-Math carry their answer instructions in the first and last paragraph."""
    first, _, rest = question.partition("\n\n")
    if not rest or "Answer: $Answer" not in first:
        return question
    body, _, last = rest.rpartition("\n\n")
    return body if '"Answer:"' in last else rest


def _read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """Numbered lines; blank ones count but are passed over."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
                yield number, row if isinstance(row, dict) else f"a JSON object is wanted, not {type(row).__name__}"
            except (ValueError, RecursionError) as error:
                yield number, f"not a line of JSON ({error})"


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    pyarrow, number = optional("pyarrow", f"reading {path.name}", "math"), 0
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet after row {number} ({error}): it may be cut off, copy it again"
        ) from error
