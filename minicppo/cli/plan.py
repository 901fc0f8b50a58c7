"""`minicppo plan`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from minicppo.cli.console import console, say, table
from minicppo.cli.options import Folder, Json, Method, Overrides, Plugins, Preset, default_folder, settings

if TYPE_CHECKING:
    from rich.table import Table

    from minicppo.engines.plan import Plan
    from minicppo.engines.preconditions import Check
    from minicppo.rl.config import RunConfig

BINARY = (
    "cppo is the Binary divergence, which the paper reports as an ablation; its main results use Top-K: --method "
    "cppo-topk, which engine trl carries and engine verl does not."
)
ASSUMED = (
    "Assumed: responses {mean_length:.0%} of the longest on average, prompts of {mean_prompt} tokens; training at "
    "{training_utilisation:.0%} of the GPU's bfloat16 peak with 6 FLOPs an active parameter and token and "
    "{recomputation:.0f} for recomputation; decoding at {bandwidth_utilisation:.0%} of the memory bandwidth, each "
    "step reading the weights and the cache, and 2 FLOPs an active parameter and token; under TRL no step is "
    "shorter than {launch_seconds} s. Attention, start-up, weight transfer and checkpoints are left out."
)


def plan(
    preset: Preset,
    overrides: Overrides = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", help="local, trl, verl; only planned: prime-rl, skyrl, nemo-rl. [default: the preset's]"
        ),
    ] = None,
    method: Method = None,
    run_dir: Folder = None,
    plugins: Plugins = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="Leave settings, a launch script, a SLURM and a Ray job in a folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what --write left before.")] = False,
    as_json: Json = False,
) -> None:
    """What a run would start, hold in memory and cost, and what it still lacks here. Starts nothing, needs no GPU.

    Examples:

    - `minicppo plan qwen3-8b-base --engine verl --method cppo`
    - `minicppo plan qwen3-1.7b cluster.gpu=h200-141gb cluster.gpus_per_node=4`
    - `minicppo plan qwen3-30b-a3b-base --write jobs/30b`
    - `minicppo plan qwen3-8b-base train.loss_agg_mode=token-mean --engine prime-rl --write jobs/8b`

    Memory and hours are estimates from the model's architecture; the assumptions are printed with them.
    """
    from minicppo.engines.elsewhere import TARGETS
    from minicppo.engines.plan import make_plan, write_plan
    from minicppo.engines.preconditions import preconditions
    from minicppo.rl.config import Engine, load_config
    from minicppo.text import nearest

    if engine and engine not in (known := [*get_args(Engine), *TARGETS]):
        raise ValueError(f"--engine {engine} is unknown{nearest(engine, known)}")
    if engine in TARGETS:
        config = load_config(preset, settings(overrides, plugins, method=method))
        return _elsewhere(config, engine, write, force, as_json)
    given = settings(overrides, plugins, engine=engine, method=method)
    config = load_config(preset, given)
    folder = run_dir or default_folder(config, given)
    options = [*(("--plugin", path) for path in plugins or []), ("--engine", engine), ("--method", method)]
    typed = [preset, *(str(part) for pair in options if pair[1] for part in pair), *(overrides or [])]
    made = make_plan(config, folder, [*typed, *(["--run-dir", str(run_dir)] if run_dir else [])])
    checks = preconditions(config, made, folder)
    written = write_plan(config, write, force) if write is not None and not made.refusals else []
    if as_json:
        print(json.dumps({**vars(made), "preconditions": [vars(check) for check in checks]}, indent=1))
        return
    for part in (*describe(made), *([checks_table(checks)] if checks else [])):
        say(part) if isinstance(part, str) else console.print(part)
    failing = sum(not check.passed for check in checks)
    say(f"{failing} of {len(checks)} preconditions fail" if failing else "All preconditions hold")
    say(*(f"wrote {path}" for path in written))


def _elsewhere(config: RunConfig, engine: str, write: Path | None, force: bool, as_json: bool) -> None:
    """The file of an engine that only its own command starts, printed or written; or why there can be none."""
    from minicppo.engines.elsewhere import TARGETS, refusals_elsewhere
    from minicppo.engines.plan import write_files

    target, refused = TARGETS[engine], refusals_elsewhere(config, engine)
    text = "" if refused else target.text(config)
    written = write_files({target.file: text}, write, force) if write is not None and text else []
    if as_json:
        about = {"engine": engine, "method": config.method.name, "refusals": refused}
        print(json.dumps(about | {"file": target.file, "command": target.command, "text": text}, indent=1))
        return
    say(*refused, *(f"wrote {path}" for path in written))
    if text and not written:
        print(text)
    if text:
        say(f"In a clone of {engine}, with minicppo installed there: {target.command}")


def describe(made: Plan) -> list[Any]:
    """The plan as lines and tables, in the order to print them."""
    where = "on this machine" if made.engine == "local" else f"{made.gpus} x {made.gpu}"
    parts: list[Any] = [f"{made.method} on {made.name}, engine {made.engine}, {where}", ""]
    if made.method == "cppo" and made.engine != "local":
        parts += [BINARY, ""]
    parts += made.refusals or [shlex.join(made.command)]
    if made.settings and made.resolved != made.command:
        parts.append(f"which starts: {shlex.join(made.resolved[:3])} with")
    parts += [f"  {key}={value}" for key, value in made.settings.items()]
    parts.append(table(("step", "count"), [(key, _count(value)) for key, value in made.tokens.items()]))
    if not made.peak:
        how = f"{shlex.join(made.command)} --dry-run measures both here"
        unknown = "the model or the GPU is not one of the table's"
        return [*parts, f"No estimate of memory and time: {how if made.engine == 'local' else unknown}.", ""]
    memory = [*_sizes("state: ", made.state), *_sizes("training: ", made.training), *_sizes("most while ", made.peak)]
    parts.append(table(("memory on each GPU", "bytes"), [*memory, ("of", _bytes(made.capacity))]))
    held = [(key, _count(made.model[key])) for key in ("parameters", "active a token")]
    for key, value in made.cache.items():
        held.append((f"KV cache: {key}", _count(value) if key == "at a time" else _bytes(value)))
    parts.append(table(("model and caches", ""), [*held, *_sizes("Top-K of a rollout batch ", made.top_log_probs)]))
    parts.append(table(("time, estimated", ""), [(key, f"{value:,.0f}") for key, value in made.hours.items()]))
    return [*parts, ASSUMED.format(**made.assumptions), ""]


def checks_table(checks: list[Check]) -> Table:
    """Each precondition, what was found, and the remedy where it fails."""
    rows = []
    for check in checks:
        verdict = "ok" if check.passed else "FAILS" if check.required else "later"
        rows.append((verdict, check.name, check.found, "" if check.passed else check.remedy))
    return table(("", "precondition", "found", "remedy"), rows)


def _sizes(what: str, sizes: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(f"{what}{key}", _bytes(value)) for key, value in sizes.items()]


def _count(value: float) -> str:
    for limit, unit in ((1e9, " billion"), (1e6, " million")):
        if value >= limit:
            return f"{value / limit:,.2f}{unit}"
    return f"{value:,.0f}"


def _bytes(value: float) -> str:
    return f"{value / 1e9:,.1f} GB" if value >= 1e8 else f"{value / 1e6:,.1f} MB"
