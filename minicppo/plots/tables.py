"""What a run reached, as a row; rows as a terminal table and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from minicppo.plots.runs import Run, differing_settings, labels


@dataclass(frozen=True)
class Result:
    """One run in numbers: accuracies and shares in [0, 1], `seconds` of training, `peak_memory_mb` of the process.

    `before` and `after` are sampled held-out accuracies at the first and the last evaluation, with standard errors;
    `masked*` are means over all updates, as shares of the response tokens, and `drift` is the mean |log(pi/mu)| of the
    tokens updates were made with. None: the run did not log it.
    """

    label: str
    method: str
    iterations: int
    before: float
    before_se: float
    after: float
    after_se: float
    greedy_after: float | None
    masked: float | None
    masked_token_only: float | None
    masked_prefix_only: float | None
    masked_both: float | None
    drift: float | None
    seconds: float | None
    peak_memory_mb: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def result(run: Run, label: str | None = None) -> Result:
    """Read a run's result off its metrics.

    Raises:
        ValueError: the run has not been evaluated yet.
    """
    evals = run.rows("eval")
    if not evals:
        raise ValueError(f"{run.path} has no evaluation yet: let it run on, or use `minicppo resume {run.path}`")
    first, last = evals[0], evals[-1]

    def mean(key: str) -> float | None:
        _, values = run.series("update", key)
        return float(np.mean(values)) if len(values) else None

    seconds = [row["rollout_s"] + row["update_s"] + row["eval_s"] for row in run.timings]
    return Result(
        label=label or run.method,
        method=run.method,
        iterations=int(last["iteration"]),
        before=first["accuracy"],
        before_se=first["accuracy_se"],
        after=last["accuracy"],
        after_se=last["accuracy_se"],
        greedy_after=last.get("greedy_accuracy"),
        masked=mean("mask/frac"),
        masked_token_only=mean("mask/token_only"),
        masked_prefix_only=mean("mask/prefix_only"),
        masked_both=mean("mask/both"),
        drift=mean("drift"),
        seconds=sum(seconds) if seconds else None,
        peak_memory_mb=max((row["peak_memory_mb"] for row in run.timings), default=None),
    )


def results(runs: Sequence[Run]) -> list[Result]:
    return [result(run, label) for run, label in zip(runs, labels(list(runs)), strict=True)]


COLUMNS = {
    "method": "method",
    "before": "held-out accuracy before (%)",
    "after": "after (%)",
    "greedy": "greedy after (%)",
    "masked": "masked tokens (%)",
    "token": "by the token test alone (%)",
    "prefix": "by the prefix budget alone (%)",
    "both": "by both (%)",
    "drift": "drift: mean abs log(pi/mu)",
    "time": "time (s)",
    "memory": "peak memory (MB)",
}
# A terminal is 80 characters wide: fewer columns, shorter heads.
TERMINAL = {
    "method": "method",
    "before": "before %",
    "after": "after %",
    "greedy": "greedy\n%",
    "masked": "masked\n%",
    "prefix": "by prefix\nalone %",
    "time": "time\ns",
    "memory": "memory\nMB",
}


def cells(row: Result) -> dict[str, str]:
    """The row as text, under the keys of `COLUMNS`; percentages and their standard errors in per cent."""
    return {
        "method": row.label,
        "before": f"{100 * row.before:.1f} ± {100 * row.before_se:.1f}",
        "after": f"{100 * row.after:.1f} ± {100 * row.after_se:.1f}",
        "greedy": _number(row.greedy_after, 1, 100),
        "masked": _number(row.masked, 2, 100),
        "token": _number(row.masked_token_only, 2, 100),
        "prefix": _number(row.masked_prefix_only, 2, 100),
        "both": _number(row.masked_both, 2, 100),
        "drift": _number(row.drift, 4),
        "time": _number(row.seconds, 0),
        "memory": _number(row.peak_memory_mb, 0),
    }


def rich_table(rows: Sequence[Result], title: str | None = None) -> Table:
    """For the terminal: accuracy before and after training with standard errors, and what the mask did."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for key, head in TERMINAL.items():
        name = key == "method"
        table.add_column(head, justify="left" if name else "right", no_wrap=not name, overflow="fold")
    for row in rows:
        table.add_row(*[cells(row)[key] for key in TERMINAL])
    return table


def rich_settings(runs: Sequence[Run]) -> Table | None:
    """For the terminal: in what the runs differ, or None."""
    lines = settings_table(runs)
    if not lines:
        return None
    table = Table(title="Settings that differ", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for head in lines[0]:
        table.add_column(head, overflow="fold")
    for line in lines[1:]:
        table.add_row(*line)
    return table


def markdown_settings(runs: Sequence[Run]) -> str:
    """The same for a file; empty when the runs differ in nothing."""
    lines = settings_table(runs)
    if not lines:
        return ""
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def markdown_table(rows: Sequence[Result]) -> str:
    """All columns, for a file."""
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    lines += ["| " + " | ".join(cells(row)[key] for key in COLUMNS) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def settings_table(runs: Sequence[Run]) -> list[list[str]]:
    """Head and rows of what the runs were told differently; empty when they differ in nothing.

    A setting that some runs lack, such as another method's hyper-parameter, is a dash there.
    """
    found = differing_settings(list(runs))
    if not found:
        return []
    rows = [[key, *("-" if value is None else f"{value}" for value in values)] for key, values in found.items()]
    return [["setting", *labels(list(runs))], *rows]


def _number(value: float | None, digits: int, scale: float = 1.0) -> str:
    return "-" if value is None else f"{scale * value:.{digits}f}"
