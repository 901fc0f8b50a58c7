"""`minicppo train` and `minicppo resume`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from minicppo.cli.console import console, stopped

Handler = Callable[[Mapping[str, Any]], None]


def train(
    preset: Annotated[str, typer.Argument(metavar="PRESET_OR_YAML", help="A preset's name or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, as dotted keys.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="Any name that `minicppo methods` lists.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="A method with its own paper's normalisation and aggregation.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", "-o", help="Where to write. [default: runs/PRESET-METHOD]")
    ] = None,
) -> None:
    """Train a policy.

    Presets: `learn` (little drift, the token masks are nearly idle), `stale` (four epochs a batch: the masks bind, and
    without one training collapses), `smollm2-135m` (a pretrained model; first `make setup-llm`).

    Examples:

    - `minicppo train learn`
    - `minicppo train stale --method grpo seed=1`
    - `minicppo train stale method.params.delta=0.1 train.lr=3e-4 --run-dir runs/tight`
    - `minicppo train stale --recipe dr-grpo` (recipes: cispo, cppo, dppo, dr-grpo, drpo, grpo, grpo-original, gspo,
      minpro, ppo, sapo, trm)
    - `minicppo train my.yaml train.iterations=100`

    The run directory holds the resolved settings, every diagnostic, checkpoints and the tokens of the last update.
    A stopped run goes on with `minicppo resume`.
    """
    from minicppo.rl.config import load_config
    from minicppo.rl.trainer import train as start

    # the recipe, then the method: naming one resets its parameters, which later overrides may set
    first = [f"{key}={value}" for key, value in (("recipe", recipe), ("method", method)) if value]
    config = load_config(preset, [*first, *(overrides or [])])
    folder = run_dir or Path("runs") / f"{config.name}-{config.method.name}"
    console.print(
        f"[bold]{config.method.name}[/] on {config.task.name}, {config.train.iterations} iterations of "
        f"{config.rollout.prompts} x {config.rollout.group_size} responses, {config.resolved_device()} -> {folder}"
    )
    _follow(folder, config.train.iterations, 0, lambda handler: start(config, folder, handler))


def resume(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]) -> None:
    """Continue a stopped run from its newest checkpoint, as if it had never stopped.

    On a CPU the result is the same to the bit. Rows logged after that checkpoint are computed again.

    Example: `minicppo resume runs/stale-cppo-exact`
    """
    from minicppo.rl.checkpoint import list_checkpoints
    from minicppo.rl.rundir import RunDir
    from minicppo.rl.trainer import resume as go_on

    folder = RunDir.open(run)
    total = folder.config().train.iterations
    saved = list_checkpoints(folder.checkpoints)
    done = int(saved[-1].name) if saved else 0
    console.print(f"{run} is finished." if folder.finished else f"{run}: on from iteration {done} of {total}")
    _follow(run, total, done, lambda handler: go_on(run, handler))


def _follow(folder: Path, iterations: int, done: int, work: Callable[[Handler], object]) -> None:
    """Run `work` under a progress bar, then show what came out."""
    from minicppo.report.progress import RunProgress
    from minicppo.report.runs import load_run
    from minicppo.report.tables import results, rich_table

    try:
        with RunProgress(console) as display:
            display.add(folder.name, iterations, done)
            work(lambda event: display.handle(folder.name, event))
    except KeyboardInterrupt:
        if not (folder / "config.yaml").exists():
            stopped("It was still warming up and nothing is lost but that: type the same command again")
        stopped(f"Continue from the last checkpoint with: minicppo resume {folder}")
    console.print(rich_table(results([load_run(folder)])))
    console.print(f"Figures: minicppo compare {folder} [OTHER RUNS]", markup=False)
