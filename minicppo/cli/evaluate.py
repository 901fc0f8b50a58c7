"""`minicppo eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from minicppo.cli.console import console


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, e.g. eval.problems=256.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate a run's newest checkpoint on held-out problems.

    Sampled accuracy is the mean over several answers a problem (Avg@k), its standard error is clustered by problem.

    Examples:

    - `minicppo eval runs/stale-cppo-exact`
    - `minicppo eval runs/stale-cppo-exact eval.problems=512 eval.samples=8 eval.seed=1`
    """
    import dataclasses

    import torch

    from minicppo.rl.config import load_config
    from minicppo.rl.evaluate import evaluate as judge
    from minicppo.rl.rundir import RunDir
    from minicppo.rl.trainer import trained_policy

    config = load_config(RunDir.open(run).path / "config.yaml", overrides)
    torch.set_num_threads(config.threads)
    policy = dataclasses.replace(trained_policy(run), autocast=config.autocast_dtype())
    policy.model.to(config.resolved_device())
    answers = config.eval.problems * config.eval.samples
    with console.status(f"{config.eval.problems} held-out problems, {answers} answers ..."):
        found = judge(policy, config.make_task(), config)
    if as_json:
        print(json.dumps({"run": str(run), **found.as_row()}))
        return
    console.print(f"sampled accuracy  {100 * found.accuracy:.1f} ± {100 * found.accuracy_se:.1f} %")
    console.print(f"greedy accuracy   {100 * found.greedy_accuracy:.1f} %")
    console.print(f"well formed       {100 * found.format_rate:.1f} %")
    console.print(f"mean length       {found.length:.1f} tokens")
