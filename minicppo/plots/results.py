"""What a run reached, as a row; rows of several runs, and the settings in which they differ, as tables."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from minicppo.plots.runs import Run, labels
from minicppo.rl.settings_file import flat
from minicppo.text import markdown_cell


@dataclass(frozen=True)
class Result:
    """One run in numbers: accuracies and shares in [0, 1], `seconds` of training, `peak_memory_mb` of the process.

    `before` is the sampled held-out accuracy at the first evaluation, `after` the mean of the evaluations in the last
    two fifths of the run (one alone reads the noise of a plateau), both with the standard error of one evaluation: all
    ask the same problems. `greedy_*` are the same of the greedy accuracy. `masked*` are means over all updates, as
    shares of the response tokens, and `drift` is the mean |log(pi/mu)| of the tokens updates were made with. None: the
    run did not log it.
    """

    label: str
    method: str
    iterations: int
    before: float
    before_se: float
    after: float
    after_se: float
    greedy_before: float | None
    greedy_after: float | None
    masked: float | None
    masked_token_only: float | None
    masked_prefix_only: float | None
    masked_both: float | None
    drift: float | None
    seconds: float | None
    peak_memory_mb: float | None


def result(run: Run, label: str | None = None) -> Result:
    """Read a run's result off its metrics.

    Raises ValueError: the run has not been evaluated yet.
    """
    evals = run.rows("eval")
    if not evals:
        raise ValueError(f"{run.path} has no evaluation yet: let it run on, or use `minicppo resume {run.path}`")
    first, last = evals[0], evals[-1]
    late = [row for row in evals[1:] if 5 * row["iteration"] >= 3 * last["iteration"]] or [last]
    greedy = [row["greedy_accuracy"] for row in late if row.get("greedy_accuracy") is not None]

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
        after=float(np.mean([row["accuracy"] for row in late])),
        after_se=float(np.mean([row["accuracy_se"] for row in late])),
        greedy_before=first.get("greedy_accuracy"),
        greedy_after=float(np.mean(greedy)) if greedy else None,
        masked=mean("mask/frac"),
        masked_token_only=mean("mask/token_only"),
        masked_prefix_only=mean("mask/prefix_only"),
        masked_both=mean("mask/both"),
        drift=mean("drift"),
        seconds=sum(seconds) if seconds else None,
        peak_memory_mb=max((row["peak_memory_mb"] for row in run.timings), default=None),
    )


def results(runs: Sequence[Run]) -> list[Result]:
    return [result(run, label) for run, label in zip(runs, labels(runs), strict=True)]


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def percent(share: float | None, error: float | None = None, digits: int = 1) -> str:
    """A share, with its standard error where there is one, in per cent; a dash for None."""
    text = _number(None if share is None else 100 * share, digits)
    return text if error is None else f"{text} ± {100 * error:.{digits}f}"


# head in a file, head in a terminal of 80 characters (None: left out there), text of the cell
COLUMNS: list[tuple[str, str | None, Callable[[Result], str]]] = [
    ("method", "method", lambda row: row.label),
    ("held-out accuracy before (%)", "before %", lambda row: percent(row.before, row.before_se)),
    ("after, mean of the last two fifths (%)", "after %", lambda row: percent(row.after, row.after_se)),
    ("greedy before (%)", "greedy\nbefore", lambda row: percent(row.greedy_before)),
    ("greedy after (%)", "greedy\nafter", lambda row: percent(row.greedy_after)),
    ("masked tokens (%)", "masked\n%", lambda row: percent(row.masked, digits=2)),
    ("by the token test alone (%)", None, lambda row: percent(row.masked_token_only, digits=2)),
    ("by the prefix budget alone (%)", "by prefix\nalone %", lambda row: percent(row.masked_prefix_only, digits=2)),
    ("by both (%)", None, lambda row: percent(row.masked_both, digits=2)),
    ("drift: mean abs log(pi/mu)", None, lambda row: _number(row.drift, 4)),
    ("time (s)", "time\ns", lambda row: _number(row.seconds)),
    ("peak memory (MB)", None, lambda row: _number(row.peak_memory_mb)),
]


def result_rows(rows: Iterable[Result], short: bool = False) -> list[list[str]]:
    """Heads, then a row of text for each result; short: the columns and heads for a terminal."""
    shown = [(brief if short else head, text) for head, brief, text in COLUMNS if brief or not short]
    return [[str(head) for head, _ in shown], *([text(row) for _, text in shown] for row in rows)]


def setting_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Heads, then a row for each dotted setting in which the runs differ; a dash where a run has no such setting."""
    told = [dict(flat({**run.config, "method": {"name": run.method, "params": run.params}})) for run in runs]
    rows = [["setting", *labels(runs)]]
    for key in dict.fromkeys(key for settings in told for key in settings if key != "name"):
        values = [settings.get(key) for settings in told]
        if any(value != values[0] for value in values):
            rows.append([key, *("-" if value is None else str(value) for value in values)])
    return rows


def markdown(rows: Sequence[Sequence[str]], numbers: bool = False) -> str:
    """A Markdown table, its heads the first row; numbers: all columns but the first stand right."""
    rule = ["---", *["---:" if numbers else "---"] * (len(rows[0]) - 1)]
    heads, *cells = ([markdown_cell(cell) for cell in row] for row in rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in [heads, rule, *cells])
