"""`python -m experiments study`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from minicppo.cli.console import console, errors, say, stopped


def study(
    config: Annotated[Path, typer.Argument(metavar="YAML", help="The study, e.g. configs/study.yaml.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where runs go. [default: runs/NAME]")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time. [default: one a core, or one on a GPU]")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="A part by name; may be repeated.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also run what the table of results has already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is to do, and do nothing.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write figures and page from the table; run nothing.")
    ] = False,
) -> None:
    """Run a grid of methods, seeds and settings, and write its table, figures and page.

    What is finished, here or in the committed table, is not run again; killed or interrupted, it goes on where it
    stopped when called again. Tuning parts run before the parts that use what they choose. Needs pandas and pyarrow:
    `pip install -c constraints.txt -e '.[study]'`.

    Examples:

    - `python -m experiments study configs/study.yaml --dry-run`
    - `python -m experiments study configs/study.yaml --only tune --only headline --workers 2`
    - `python -m experiments study configs/study.yaml --again` makes all results anew
    - `python -m experiments study configs/study.yaml --report-only`
    """
    from experiments.study.plan import load_study
    from experiments.study.study import claimed, device_of, plan_table, run_study, write_report

    loaded = load_study(config)
    folder = out or Path("runs") / loaded.name
    if dry_run:
        console.print(plan_table(loaded, folder, only or []))
        return
    # a warm-up rounds differently on another processor: the policies that runs start from stay with the results
    os.environ.setdefault("MINICPPO_CACHE", f"{loaded.results}/starts")
    failed: dict[str, str] = {}
    with claimed(loaded, folder):
        if not report_only:
            at_once = workers or (1 if device_of(loaded).type == "cuda" else os.cpu_count() or 1)
            try:
                failed = run_study(loaded, folder, at_once, only or [], console, again=again)
            except KeyboardInterrupt:
                stopped("Type the same command again to go on.")
        say(*write_report(loaded, f"python -m experiments study {config}"))
    for run, reason in failed.items():
        errors.print(f"{run} could not start: {reason}", soft_wrap=True)
    if failed:
        raise typer.Exit(1)
