"""`python -m experiments paper`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import typer
from rich.table import Table

from experiments.paper import PROBLEMS, TABLES, Beside, beside, inconsistencies, paper_table
from minicppo.cli.console import console, say, table

paper = typer.Typer(help="What the paper reports, and what of ours stands beside it.", no_args_is_help=True)


@paper.callback()
def group() -> None:
    """What the paper reports, and what of ours stands beside it."""


@paper.command()
def tables(
    others: Annotated[
        list[str] | None,
        typer.Option("--beside", metavar="RUN_OR_RESULTS", help="An evaluation of yours to print below; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the paper's Tables 1, 3 and 4, and where their numbers do not agree with each other.

    Nothing here was measured by this project: the numbers are the paper's, but for the rows of --beside.

    Examples:

    - `python -m experiments paper tables`
    - `minicppo eval runs/mine --data aime24,aime25,aime26`, then
      `python -m experiments paper tables --beside runs/mine`
    """
    mine = [beside(other) for other in others or []]
    if as_json:
        everything: dict[str, Any] = {name: paper_table(name) for name in TABLES}
        everything["inconsistencies"] = inconsistencies()
        everything["beside"] = [dataclasses.asdict(each) for each in mine]
        print(json.dumps(everything, indent=1))
        return
    console.print("Table 3: the paper's configurations (Qwen3; n responses to a prompt; mini: prompts)")
    console.print(_configurations())
    for model in paper_table("table4")["rows"]:
        steps = paper_table("table1")["steps"][model]
        console.print(f"Tables 1 and 4: Qwen3-{model}, Avg@16 in %, best of the first {steps} steps")
        console.print(_accuracies(model, mine))
    if mine:
        say(
            f"In brackets: problems x answers to each. The paper's are {PROBLEMS} x 16, of the best of many "
            "checkpoints by these very problems; yours are of the one that was evaluated, which nothing chose."
        )
    console.print("Not consistent, as printed in the paper:")
    say(*(f"  {line}" for line in inconsistencies()))


def _configurations() -> Table:
    heads, rows = "model prompts n mini updates tokens delta delta_b w_min".split(), []
    for model, row in paper_table("table3")["rows"].items():
        sizes = [row[key] for key in ("prompts", "group_size", "minibatch", "updates", "max_new_tokens")]
        budget = f"{row['delta_b']:g}" + (" fixed" if row["budget"] == "fixed" else "")
        rows.append([model, *sizes, f"{row['delta']:g}", budget, f"{row['w_min']:g}"])
    return table(heads, rows, words=1)


def _accuracies(model: str, mine: list[Beside]) -> Table:
    means, per_benchmark = paper_table("table1")["rows"], paper_table("table4")
    names, rows = per_benchmark["benchmarks"], []
    for method, row in means.items():
        values, mean = per_benchmark["rows"][model].get(method), row[model]
        shown = [f"{value:.2f}" for value in values] if values else ["-"] * len(names)
        rows.append([method, *shown, mean if isinstance(mean, str) else f"{mean:.2f}"])
    for each in mine:
        scores = [_score(score, each.samples) for score in [*map(each.scores.get, names), each.mean]]
        rows.append([each.label, *scores])
    found = table(["method", *names, "mean"], rows, words=1)
    found.rows[len(means) - 1].end_section = True
    for row in found.rows[len(means) :]:
        row.style = "green"
    return found


def _score(score: tuple[float, float | None] | None, samples: int) -> str:
    """An accuracy with its standard error, the problems and the answers to each: `30.00 ± 2.00 (30 x 4)`."""
    if score is None:
        return "-"
    value, error = score
    return f"{value:.2f}{'' if error is None else f' ± {error:.2f}'} ({PROBLEMS} x {samples})"
