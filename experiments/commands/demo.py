"""`python -m experiments demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minicppo.cli.console import again, console, stopped_runs


def demo(
    context: typer.Context,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of keeping finished runs.")] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("runs/demo"),
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time, each with one thread.")] = 2,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings of preset `misled` to change.")
    ] = None,
) -> None:
    """Train CPPO, DPPO, GRPO and no mask from one warm-up, side by side; under four minutes on two cores.

    Ends with a table, figures and `summary.json`. Interrupted, it goes on where it stopped when called again.

    Example: `python -m experiments demo --out runs/long train.iterations=100`
    """
    from experiments.demo import METHODS, run_demo

    for override in overrides or []:
        if override.partition("=")[0] in ("method", "method.name", "recipe", "name"):
            raise ValueError(
                f"{override} is not for the demo, which trains {', '.join(METHODS)}: minicppo train misled {override}"
            )
    try:
        run_demo(out, console, fresh=fresh, workers=workers, overrides=overrides or [])
    except KeyboardInterrupt:
        stopped_runs([out / name for name in METHODS], again(context))
