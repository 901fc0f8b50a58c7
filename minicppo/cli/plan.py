"""`minicppo plan`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minicppo.cli.console import console
from minicppo.cli.train import default_folder

if TYPE_CHECKING:
    from rich.table import Table

    from minicppo.engines.plan import Plan
    from minicppo.engines.preconditions import Check


def plan(
    preset: Annotated[str, typer.Argument(metavar="PRESET_OR_YAML", help="A preset's name or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, as dotted keys.")
    ] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="local, trl or verl. [default: the preset's]")] = None,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="Any name that `minicppo methods` lists.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", "-o", help="Where the run would write. [default: runs/PRESET-METHOD]")
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="Leave settings, a launch script, a SLURM and a Ray job in a folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what --write left before.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What a run would start, hold in memory and cost, and what it still lacks here. Starts nothing, needs no GPU.

    Examples:

    - `minicppo plan qwen3-8b-base --engine verl --method cppo`
    - `minicppo plan qwen3-1.7b cluster.gpu=h200-141gb cluster.gpus_per_node=4`
    - `minicppo plan qwen3-30b-a3b-base --write jobs/30b`

    Memory and hours are estimates from the model's architecture; the assumptions are printed with them.
    """
    from minicppo.engines.plan import make_plan
    from minicppo.engines.plan_files import write_plan
    from minicppo.engines.preconditions import preconditions
    from minicppo.rl.config import load_config

    given = [f"{key}={value}" for key, value in (("engine", engine), ("method", method)) if value]
    given += overrides or []
    config = load_config(preset, given)
    folder = run_dir or default_folder(config, given)
    typed = [preset, *(["--engine", engine] if engine else []), *(["--method", method] if method else [])]
    typed += [*(overrides or []), *(["--run-dir", str(run_dir)] if run_dir else [])]
    made = make_plan(config, folder, typed)
    checks = preconditions(config, made, folder)
    written = write_plan(config, write, force) if write is not None and not made.refusals else []
    if as_json:
        print(json.dumps({**made.as_json(), "preconditions": [vars(check) for check in checks]}, indent=1))
        return
    for part in (*describe(made), *([checks_table(checks)] if checks else [])):
        console.print(part, soft_wrap=isinstance(part, str), markup=not isinstance(part, str))
    failing = sum(not check.passed for check in checks)
    console.print(f"{failing} of {len(checks)} preconditions fail" if failing else "All preconditions hold")
    for path in written:
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def describe(made: Plan) -> list[Any]:
    """The plan as lines and tables, in the order to print them."""
    from minicppo.engines.plan import as_shell

    parts: list[Any] = [f"{made.method} on {made.name}, engine {made.engine}, {made.gpus} x {made.gpu}", ""]
    parts += made.refusals or [as_shell(made.command)]
    if made.settings:
        if made.resolved != made.command:
            parts.append(f"which starts: {as_shell(made.resolved[:3])} with")
        parts += [f"  {key}={value}" for key, value in made.settings.items()]
    parts.append(_table(("step", "count"), [(key, _count(value)) for key, value in made.tokens.items()]))
    if not made.peak:
        return [*parts, "No estimate of memory and time: the model or the GPU is not one of the table's.", ""]
    memory = [(f"state: {key}", _bytes(value)) for key, value in made.state.items()]
    memory += [(f"training: {key}", _bytes(value)) for key, value in made.training.items()]
    memory += [(f"most while {key}", _bytes(value)) for key, value in made.peak.items()]
    memory.append(("of", _bytes(made.capacity)))
    parts.append(_table(("memory on each GPU", "bytes"), memory))
    held = [(key, _count(made.model[key])) for key in ("parameters", "active a token")]
    for key, value in made.cache.items():
        held.append((f"KV cache: {key}", _count(value) if key == "at a time" else _bytes(value)))
    held += [(f"Top-K of a rollout batch {key}", _bytes(value)) for key, value in made.cells.items()]
    parts.append(_table(("model and caches", ""), held))
    parts.append(_table(("time, estimated", ""), [(key, f"{value:,.0f}") for key, value in made.hours.items()]))
    parts.append(
        "Assumed: responses {mean_length:.0%} of the longest on average, prompts of {mean_prompt} tokens; training at "
        "{training_utilisation:.0%} of the GPU's bfloat16 peak with 6 FLOPs an active parameter and token and "
        "{recomputation:.0f} for recomputation; decoding at {bandwidth_utilisation:.0%} of the memory bandwidth, each "
        "step reading the weights and the cache, and 2 FLOPs an active parameter and token; under TRL no step is "
        "shorter than {launch_seconds} s. Attention, start-up, weight transfer and checkpoints are left out.".format(
            **made.assumptions
        )
    )
    return [*parts, ""]


def checks_table(checks: list[Check]) -> Table:
    """Each precondition, what was found, and the remedy where it fails."""
    rows = [
        (
            "ok" if check.passed else "FAILS" if check.required else "later",
            check.name,
            check.found,
            "" if check.passed else check.remedy,
        )
        for check in checks
    ]
    return _table(("", "precondition", "found", "remedy"), rows)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def _count(value: float) -> str:
    for limit, unit in ((1e9, " billion"), (1e6, " million")):
        if value >= limit:
            return f"{value / limit:,.2f}{unit}"
    return f"{value:,.0f}"


def _bytes(value: float) -> str:
    return f"{value / 1e9:,.1f} GB" if value >= 1e8 else f"{value / 1e6:,.1f} MB"
