"""The demo with a real pretrained model: SmolLM2-135M learns sums, under CPPO or any other method of the registry.

The preset `smollm2-demo` uses every batch of responses for two epochs, so the policy drifts and the mask has work.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.demo import claim, present
from experiments.demo_llm_answers import answers, coloured, side_by_side, side_by_side_markdown, write_html
from minicppo.cli.progress import RunProgress
from minicppo.files import reading
from minicppo.plots.results import Result, result
from minicppo.plots.runs import Run, load_run
from minicppo.rl.checkpoint import list_checkpoints
from minicppo.rl.config import ConfigError, RunConfig, load_config
from minicppo.rl.gguf import folder_of
from minicppo.rl.policy import Policy, is_gguf
from minicppo.rl.run_dir import peak_memory_mb
from minicppo.rl.trainer import starting_policy, train_or_resume, trained_policy
from minicppo.rules import get_method

PRESET = "smollm2-demo"
SHOWN = 10  # answers side by side
ROWS_MB = 256  # most log-probs of whole vocabularies kept with a rollout batch


def run_demo_llm(
    out: Path, console: Console, *, method: str = "cppo", fresh: bool = False, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Train the preset's model under `method` in `out/METHOD` and write everything there; returns the summary.

    A finished run is kept and an unfinished one goes on from its last checkpoint, unless `fresh`.

    Raises:
        FileNotFoundError, ModuleNotFoundError: the model or what reads it is not installed; the message says how.
        ConfigError: the method would keep more whole rows of the vocabulary than fit.
        ValueError: the folder holds a run of other settings.
    """
    started = time.perf_counter(), time.process_time()
    config = load_config(PRESET, [f"method={method}"] * (method != "cppo") + list(overrides))
    folder = out / method
    claim(folder, config, fresh)
    with console.status("Reading the model (the first time it is converted, which takes half a minute) ..."):
        if is_gguf(config.model.path or ""):
            folder_of(str(config.model.path), apart=True)
        start = _ready(starting_policy(config), config)
    require_room(config, int(start.model.config.vocab_size))
    before = answers(start, config, SHOWN)
    precision = str(start.autocast or start.model.dtype).removeprefix("torch.")
    del start
    console.print(
        f"{method}, {config.train.iterations} iterations of {config.rollout.prompts} x "
        f"{config.rollout.group_size} answers in {precision}, each batch used for {config.train.epochs} epochs -> "
        f"{folder}; first and last, {config.eval.problems} held-out problems are answered"
    )
    _train(config, folder, console)
    after = answers(_ready(trained_policy(folder), config), config, SHOWN)
    run = load_run(folder)
    row = result(run)
    shown: list[object] = [side_by_side(before, after)]
    if run.trace is not None:
        shown.append(coloured(run.trace))
        write_html(coloured(run.trace), folder / "answer.html")
    cost = {
        "wall_s": time.perf_counter() - started[0],
        "cpu_s": time.process_time() - started[1],
        "precision": precision,
        "load": os.getloadavg()[0],
        "process_peak_memory_mb": peak_memory_mb(),
    }
    record = folder / "demo.json"
    if record.exists():  # this call trained nothing: the run cost what it cost then
        with reading(record):
            earlier = json.loads(record.read_text(encoding="utf-8"))
            cost = {key: earlier[key] for key in cost}
    summary = {
        "preset": PRESET,
        **vars(row),
        "greedy_before": run.rows("eval")[0]["greedy_accuracy"],
        "held_out_problems": config.eval.problems,
        **cost,
    }
    notes = f"## Answers\n\n{side_by_side_markdown(before, after)}"
    present([run], folder, what_to_look_at(run, row), console, {record.name: summary}, shown, notes)
    console.print(
        f"{summary['wall_s']:.0f} s, {summary['cpu_s']:.0f} s of CPU time, {summary['process_peak_memory_mb']:.0f} MB. "
        f"Beside another: python -m experiments demo-llm --method grpo; minicppo compare {folder} {out / 'grpo'}",
    )
    return summary


def require_room(config: RunConfig, vocabulary: int) -> None:
    """Refuse methods that look at whole distributions where those of a rollout batch do not fit.

    Raises:
        ConfigError: they take more than `ROWS_MB`.
    """
    if get_method(config.method.name, **config.method.params).needs != "full":
        return
    responses = config.rollout.prompts * config.rollout.group_size
    tokens = config.max_new_tokens(config.make_task())
    size = 4 * responses * tokens * vocabulary / 2**20
    if size > ROWS_MB:
        raise ConfigError(
            f"{config.method.name} keeps a row of {vocabulary} log-probs for each token: {responses} responses of "
            f"{tokens} tokens are {size:.0f} MB, over {ROWS_MB}. Use its Top-K form (cppo-topk, dppo-topk), which "
            "keeps 20 of a row, or a smaller batch, e.g. rollout.prompts=4"
        )


def what_to_look_at(run: Run, row: Result) -> str:
    """How to read the result, with this run's own numbers, and what it does not show; lines fit a terminal."""
    first, last = run.rows("eval")[0], run.rows("eval")[-1]
    mismatch = run.series("rollout", "mismatch")[1].mean()

    def percent(value: float, digits: int = 0) -> str:
        return f"{100 * value:.{digits}f}"

    sampled = [
        f"{percent(value, 1)} ± {percent(error, 1)} %"
        for value, error in ((row.before, row.before_se), (row.after, row.after_se))
    ]
    greedy = [percent(evaluation["greedy_accuracy"], 1) for evaluation in (first, last)]
    return f"""What to look at

- Problems that were never trained on: {sampled[0]} of the sampled answers right
  before, {sampled[1]} after; of the likeliest ones {greedy[0]} and {greedy[1]} %.
  Part of this is form: the answers above show how it comes to state a sum at
  once and stop. A number and nothing else were {percent(first["format_rate"])} % before,
  {percent(last["format_rate"])} % after, in {first["length"]:.1f} and {last["length"]:.1f} tokens.
- curves.png, reasons.png: {percent(row.masked or 0.0, 2)} % of the tokens were masked.
- drift.png: where in a response the policies had moved apart.
- answer.html, response.png: one answer, token by token.
- Right after sampling, scoring the same tokens again gives log-probs that
  differ by {mismatch:.1e} on average: the precision of sampler and scorer.

What this does not show: which method is best. One seed ranks nothing."""


def _train(config: RunConfig, folder: Path, console: Console) -> None:
    """Bring the run to its end; the optimiser's state, which only an unfinished run needs, goes then."""
    saved = list_checkpoints(folder / "checkpoints")
    with RunProgress(console) as display:
        display.add(folder.name, config.train.iterations, int(saved[-1].name) if saved else 0)
        train_or_resume(config, folder, lambda event: display.handle(folder.name, event))
    for checkpoint in list_checkpoints(folder / "checkpoints"):
        (checkpoint / "optimizer.safetensors").unlink(missing_ok=True)


def _ready(policy: Policy, config: RunConfig) -> Policy:
    """The policy as the run samples from it."""
    policy.model.to(config.resolved_device())
    return replace(policy, autocast=config.rollout_dtype())
