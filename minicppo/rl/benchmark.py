"""Avg@k of a policy on whole mathematics data sets, problem by problem, so that a stopped evaluation can go on.

DIR/settings.json    what determines the responses; another evaluation needs another folder
DIR/NAME.jsonl       one line a finished problem: its responses and what became of them
DIR/NAME.parquet     the same, one row a problem, once all are done
DIR/results.json     accuracies with standard errors
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minicppo.files import write_atomically
from minicppo.rl.data import MathProblem, load_data
from minicppo.rl.evaluate import clustered_mean
from minicppo.rl.data import INSTALL
from minicppo.rl.grading.reward import MALFORMED, Outcome, judge_response, require_math_verify
from minicppo.rl.policy import Policy
from minicppo.rl.sampling import sample
from minicppo.rl.seeding import generator_for
from minicppo.rl.tasks.math import TEMPLATES, as_problem

OnProgress = Callable[[str, int, int, float | None], None]


@dataclass(frozen=True)
class BenchmarkSettings:
    """What determines the responses, besides the policy. The sampling is the paper's: temperature 0.7, top-p 0.95.

    `batch` problems are sampled together, `samples` times each; their random numbers come from the seed, the data set
    and the first of them.
    """

    model: str
    samples: int = 16
    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 1024
    template: str = TEMPLATES["steps"]
    seed: int = 0
    batch: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError where nothing could be sampled, before a folder is claimed for it."""
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature = {self.temperature:g} must be positive and top_p = {self.top_p:g} in (0, 1]: Avg@k "
                "is of samples; the paper's are 0.7 and 0.95"
            )


@dataclass(frozen=True)
class Score:
    """Of one data set, or the mean of several.

    Attributes:
        accuracy: Avg@k in [0, 1]. accuracy_se: its standard error, clustered by problem; None for a single problem.
        outcomes: how many responses were right, wrong, or malformed in which way.
        length: mean tokens of a response. unfinished: share that were cut off at the limit.
    """

    problems: int
    accuracy: float
    accuracy_se: float | None
    outcomes: dict[str, int]
    length: float
    unfinished: float

    @property
    def malformed(self) -> float:
        """Share of responses without an answer that could be judged."""
        return sum(self.outcomes.get(kind, 0) for kind in MALFORMED) / sum(self.outcomes.values())


def evaluate_data(
    policy: Policy,
    names: list[str],
    settings: BenchmarkSettings,
    folder: Path,
    on_progress: OnProgress | None = None,
) -> dict[str, Score]:
    """Evaluate on all problems of each data set; problems that `folder` holds already are not sampled again.

    `on_progress` is called with a set's name, its problems done, all of them, and the accuracy so far (None: none yet).

    Raises:
        DataError: the data cannot be read.
        ModuleNotFoundError: math-verify or pyarrow is not installed.
        ValueError: the folder holds an evaluation with other settings, or of other problems.
    """
    require_math_verify()
    _require_pyarrow()
    sets = {data.name: data.problems for data in map(load_data, names)}
    if len(sets) != len(names):
        raise ValueError(f"two of {', '.join(names)} share a name, and so a file: evaluate them one by one")
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, settings)
    scores = {}
    for name, problems in sets.items():
        record = _Record(folder / f"{name}.jsonl", problems)
        for done in _sample_missing(policy, name, record, settings):
            if on_progress is not None:
                on_progress(name, done, len(problems), record.accuracy())
        rows = record.in_order()
        _write_parquet(rows, folder / f"{name}.parquet")
        scores[name] = _score(rows, settings)
    results = {"settings": asdict(settings), "data": {name: asdict(score) for name, score in scores.items()}}
    if len(scores) > 1:
        mean, error = mean_score(list(scores.values()))
        results["mean"] = {"accuracy": mean, "accuracy_se": error}
    write_atomically(folder / "results.json", json.dumps(results, indent=1).encode())
    return scores


def mean_score(scores: list[Score]) -> tuple[float, float | None]:
    """The mean accuracy over data sets of equal weight (as in the paper's tables), and its standard error."""
    errors = [score.accuracy_se for score in scores]
    mean = sum(score.accuracy for score in scores) / len(scores)
    if any(error is None for error in errors):
        return mean, None
    return mean, math.hypot(*(error for error in errors if error is not None)) / len(scores)


class _Record:
    """The finished problems of one data set, in a file that grows by whole lines."""

    def __init__(self, path: Path, problems: tuple[MathProblem, ...]):
        self.path, self.problems = path, problems
        self.rows: dict[int, dict[str, Any]] = {}
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):  # the last line was cut off when the writer was stopped
            os.truncate(path, len(whole))
        for line in whole.splitlines():
            row = json.loads(line)
            asked = problems[row["index"]] if row["index"] < len(problems) else None
            if asked is None or (row["question"], row["answer"]) != (asked.question, asked.answer):
                raise ValueError(f"{path} was written for other problems: remove it, or give another folder (--out)")
            self.rows[row["index"]] = row

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write rows to the disk; until they are there, they do not count."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        self.rows |= {row["index"]: row for row in rows}

    def accuracy(self) -> float | None:
        """Mean accuracy of the finished problems, if there are any."""
        return sum(row["accuracy"] for row in self.rows.values()) / len(self.rows) if self.rows else None

    def in_order(self) -> list[dict[str, Any]]:
        """All rows by index."""
        return [self.rows[index] for index in sorted(self.rows)]


def _sample_missing(policy: Policy, name: str, record: _Record, settings: BenchmarkSettings) -> Iterator[int]:
    """Sample and judge what is not on record, batch by batch; yields how many problems are done, at the start too."""
    yield len(record.rows)
    for start in range(0, len(record.problems), settings.batch):
        indices = range(start, min(start + settings.batch, len(record.problems)))
        missing = [index for index in indices if index not in record.rows]
        if not missing:
            continue
        prompts = [policy.encode(as_problem(record.problems[i], settings.template).prompt) for i in indices]
        rollout = sample(
            policy,
            prompts,
            settings.max_new_tokens,
            settings.temperature,
            generator_for(settings.seed, f"eval-{name}", start),
            samples=settings.samples,
            top_p=settings.top_p,
        )
        lengths = rollout.response_mask.sum(1).tolist()
        ids = [row[:length] for row, length in zip(rollout.response_ids.tolist(), lengths, strict=True)]
        rows = []
        for index in missing:
            first = (index - start) * settings.samples
            rows.append(_judged(policy, index, record.problems[index], ids[first : first + settings.samples]))
        record.add(rows)
        yield len(record.rows)


def _judged(policy: Policy, index: int, problem: MathProblem, responses: list[list[int]]) -> dict[str, Any]:
    """One row of the record."""
    texts = [policy.decode(ids) for ids in responses]
    outcomes = [judge_response(text, problem.answer) for text in texts]
    return {
        "index": index,
        "question": problem.question,
        "answer": problem.answer,
        "accuracy": outcomes.count(Outcome.RIGHT) / len(outcomes),
        "outcomes": [str(outcome) for outcome in outcomes],
        "lengths": [len(ids) for ids in responses],
        "finished": [ids[-1] == policy.eos_id for ids in responses],
        "responses": texts,
    }


def _score(rows: list[dict[str, Any]], settings: BenchmarkSettings) -> Score:
    right = [float(outcome == Outcome.RIGHT) for row in rows for outcome in row["outcomes"]]
    single = len(rows) == 1
    accuracy, error = (right.count(1.0) / len(right), None) if single else clustered_mean(right, settings.samples)
    lengths = [length for row in rows for length in row["lengths"]]
    finished = [done for row in rows for done in row["finished"]]
    return Score(
        problems=len(rows),
        accuracy=accuracy,
        accuracy_se=error,
        outcomes=dict(Counter(outcome for row in rows for outcome in row["outcomes"])),
        length=sum(lengths) / len(lengths),
        unfinished=finished.count(False) / len(finished),
    )


def _claim(folder: Path, settings: BenchmarkSettings) -> None:
    """Note the settings in a new folder; refuse one that holds an evaluation with others."""
    path, mine = folder / "settings.json", asdict(settings)
    if not path.is_file():
        write_atomically(path, json.dumps(mine, indent=1).encode())
        return
    theirs = json.loads(path.read_text())
    different = [key for key in mine if mine[key] != theirs.get(key)]
    if different:
        changes = ", ".join(f"{key} = {theirs.get(key)!r} and not {mine[key]!r}" for key in different)
        raise ValueError(f"{folder} holds an evaluation with {changes}: give this one another folder (--out)")


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"writing results as Parquet needs the package 'pyarrow': {INSTALL}") from error


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    scratch = path.with_name(f".{path.name}.tmp")
    parquet.write_table(pyarrow.Table.from_pylist(rows), scratch)
    os.replace(scratch, path)
