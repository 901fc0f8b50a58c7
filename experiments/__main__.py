"""`python -m experiments`: the demos, the study, and the paper's tables."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from experiments.commands.demo import demo
from experiments.commands.demo_llm import demo_llm
from experiments.commands.paper import paper
from experiments.commands.study import study
from minicppo.cli import run

app = typer.Typer(
    name="experiments",
    help="What makes this repository's own results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(demo_llm)
app.command()(study)
app.add_typer(paper, name="paper")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m experiments`."""
    run(app, "python -m experiments", arguments)


if __name__ == "__main__":
    main()
