"""`minicppo train` and `minicppo resume`."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from minicppo.cli.console import console, errors, program, results_table, say, stopped, stopped_runs, table
from minicppo.cli.options import Folder, Method, Overrides, Plugins, Preset, default_folder, load, recipes_in, settings
from minicppo.text import many

if TYPE_CHECKING:
    from minicppo.rl.config import RunConfig
    from minicppo.rl.run_dir import RunDir


def train(
    preset: Preset,
    overrides: Overrides = None,
    method: Method = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="A method with its own paper's normalisation and aggregation.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="Where it runs: local, trl or verl. [default: the preset's]")
    ] = None,
    run_dir: Folder = None,
    plugins: Plugins = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every setting, minutes and memory, and train nothing.")
    ] = False,
) -> None:
    """Train a policy.

    Presets: `learn` (little drift, the token masks are nearly idle), `stale` (four epochs a batch: the masks bind, and
    without one training collapses), `misled` (greedy answers wrong at first), `smollm2-135m` and `smollm2-demo` (a
    pretrained model; first `make setup-llm`), and `qwen3-...`, the paper's runs on engines trl and verl (first
    `minicppo plan`, which says what they take).

    Examples:

    - `minicppo train learn`
    - `minicppo train stale --method grpo seed=1`
    - `minicppo train stale method.params.delta=0.1 train.lr=3e-4 --run-dir runs/tight`
    - `minicppo train stale --recipe dr-grpo` (recipes: cispo, cppo, dppo, dr-grpo, drpo, grpo, grpo-original, gspo,
      luspo, minpro, ppo, sapo, trm)
    - `minicppo train my.yaml train.iterations=100`
    - `minicppo train stale --plugin mine.py --method mine`
    - `minicppo train qwen3-8b-base --engine verl --method cppo`

    The run directory holds the resolved settings, every diagnostic, checkpoints and the tokens of the last update.
    A stopped run goes on with `minicppo resume`.
    """
    from minicppo.rl.config import load_config
    from minicppo.rl.run_dir import RunDir

    given = settings(overrides, plugins, engine=engine, recipe=recipe, method=method)
    config = load_config(preset, given)
    folder = run_dir or default_folder(config, given)
    if dry_run:
        return _rehearse(config, folder)
    runner = _engine(config, folder, ["train", "..."])
    if _speaks():
        RunDir(folder).require_vacant(config)  # before anything is shown
        by_recipe = "".join(f" by recipe {name}" for name in recipes_in(given)[-1:])
        say(
            f"{config.method.name}{by_recipe} on {config.task.name}, {config.train.iterations} iterations of "
            f"{config.rollout.prompts} x {config.rollout.group_size} responses, {config.resolved_device()} -> {folder}"
        )
        if config.model.path is None and config.warmup is None:
            say("There is no warm-up: a policy from scratch rarely gets a reward, and learns nothing until it does.")
    _follow(folder, config.train.iterations, 0, partial(runner.train, config, folder))


def resume(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="A run; none: list the unfinished.")] = None,
    plugins: Plugins = None,
) -> None:
    """Continue a stopped run from its newest checkpoint, as if it had never stopped.

    On a CPU the result is the same to the bit. Rows logged after that checkpoint are computed again.

    Examples: `minicppo resume` lists the unfinished runs below runs/, `minicppo resume runs/stale-cppo-exact`
    """
    from minicppo.rl.checkpoint import list_checkpoints
    from minicppo.rl.run_dir import RunDir

    load(plugins)
    if run is None:
        found = (RunDir(path.parent) for path in sorted(Path("runs").glob("**/config.yaml")))
        rows = [_begun(each) for each in found if not each.finished]
        heads = ("unfinished run", "iterations", "")
        console.print(table(heads, rows) if rows else "No run below runs/ is unfinished.")
        return
    folder = RunDir.open(run)
    config = folder.config()
    runner = _engine(config, run, ["resume", str(run)], finished=folder.finished)
    total = config.train.iterations
    saved = list_checkpoints(folder.checkpoints)
    done = int(saved[-1].name) if saved else 0
    if _speaks():
        console.print(f"{run} is finished." if folder.finished else f"{run}: on from iteration {done} of {total}")
    _follow(run, total, done, partial(runner.resume, run))


def _begun(run: RunDir) -> tuple[Path, int | str, str]:
    """A run, its iterations so far, and why it cannot go on, if so."""
    from minicppo.rl.settings_file import read_settings

    try:
        read_settings(run.path / "config.yaml")
        return run.path, len(run.rows("timings.jsonl")), ""
    except ValueError as error:
        return run.path, "-", f"cannot go on: {error}"


def _engine(config: RunConfig, folder: Path, typed: list[str], finished: bool = False) -> ModuleType:
    """Where `train` and `resume` of an engine are that runs in this process; verl runs to its end here, in others.

    typed: what followed `minicppo`. Leaves with status 2, each remedy named, where the engine cannot start here.
    """
    if config.engine != "local" and not finished:
        _require(config, folder, typed)
    if config.engine == "verl":
        _run_verl(config, folder)
    if config.engine == "trl":
        from minicppo.engines import trl

        return trl
    from minicppo.rl import trainer

    return trainer


def _require(config: RunConfig, folder: Path, typed: list[str]) -> None:
    from minicppo.cli.plan import checks_table
    from minicppo.engines.plan import launch_command, make_plan
    from minicppo.engines.preconditions import preconditions

    if config.engine == "trl" and config.cluster.gpus > 1 and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            f"engine trl wants a process for each of the {config.cluster.gpus} GPUs: start it as "
            f"{shlex.join(launch_command(config, typed))}, or set cluster.gpus_per_node=1"
        )
    checks = preconditions(config, make_plan(config, folder, ["..."]), folder)
    failing = [check for check in checks if check.required and not check.passed]
    if failing:
        errors.print(checks_table(failing))
        unmet = many(len(failing), "precondition")
        errors.print(f"Engine {config.engine} cannot start here: {unmet} not met", soft_wrap=True)
        raise typer.Exit(2)


def _run_verl(config: RunConfig, folder: Path) -> None:
    """Start verl, pass on what it prints, and leave with its exit status."""
    from minicppo.engines.verl import command, train

    say(shlex.join(command(config, folder)))
    try:
        status = train(config, folder, say)
    except KeyboardInterrupt:
        stopped("The same command again goes on from the newest checkpoint.")
    if status:
        errors.print(f"verl ended with status {status}; its output is in {folder}/verl.log")
    raise typer.Exit(status)


def _rehearse(config: RunConfig, folder: Path) -> None:
    """Print the settings, and what one iteration takes here: for the local engine measured, for the others planned."""
    say(config.to_yaml())
    if config.engine != "local":
        say(f"Estimates for engine {config.engine}: minicppo plan")
        return
    from minicppo.rl.trainer import rehearse

    seconds, megabytes = rehearse(config)
    warm_up = "" if config.warmup is None else ", after the warm-up unless it is cached (about a minute for `learn`)"
    say(
        f"-> {folder}: about {seconds / 60:.1f} minutes and {megabytes:,.0f} MB{warm_up}; measured by one iteration, "
        "with as long responses as the untrained policy gives. Nothing was written."
    )


def _speaks() -> bool:
    """Whether this process prints: under torchrun only the first does."""
    return os.environ.get("RANK", "0") == "0"


def _follow(folder: Path, iterations: int, done: int, work: Callable[..., object]) -> None:
    """Run `work` under a progress bar, then show what came out."""
    from minicppo.cli.progress import RunProgress, no_contrast
    from minicppo.plots.results import results
    from minicppo.plots.runs import load_run

    if not _speaks():
        work(None)
        return
    try:
        name = folder.name if len(folder.name) <= 30 else f"{folder.name[:29]}…"
        with RunProgress(console) as display:
            display.add(name, iterations, done)
            work(partial(display.handle, name))
    except KeyboardInterrupt:
        stopped_runs([folder], f"{program()} resume {folder}")
    run = load_run(folder)
    console.print(results_table(results([run])))
    if not run.rows("update"):
        reward = sum(row["reward"] for row in run.rows("rollout")) / max(1, len(run.rows("rollout")))
        say(f"No update was made: this is the policy that it started from. {no_contrast(reward)}.")
    faults = Counter[str]()
    for row in run.rows("rollout"):
        faults.update({key: int(row[key]) for key in row if key.startswith("faults/")})
    if faults:
        told = ", ".join(f"{key.removeprefix('faults/')} {count:,} times" for key, count in faults.most_common())
        say(f"Scored 0 because their answers could not be judged: {told}. If that is your own task: look at its score.")
    say(f"Figures: minicppo compare {folder} [OTHER RUNS]")
