"""The verl engine: verl's own trainer in processes of its own, with our settings, data and policy losses.

To use the losses with a trainer script of one's own, import `minicppo.engines.verl_loss`, or set
`policy_loss._target_` as `verl_overrides` does.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from minicppo.engines.verl_settings import loss_mode, verl_methods, verl_overrides
from minicppo.files import atomically
from minicppo.rl.config import ConfigError, RunConfig
from minicppo.rl.data import load_data
from minicppo.rl.evaluate import held_out_problems
from minicppo.rl.run_dir import RunDir
from minicppo.rl.tasks.base import Problem
from minicppo.rl.tasks.math import MathTask, as_problem

__all__ = ["command", "loss_mode", "train", "verl_methods", "verl_overrides", "write_data"]


def command(config: RunConfig, run_dir: Path) -> list[str]:
    """What starts verl, argument by argument. Raises ConfigError on a setting that verl cannot carry out."""
    return [sys.executable, "-m", "verl.trainer.main_ppo", *verl_overrides(config, run_dir)]


def train(config: RunConfig, run_dir: Path, say: Callable[[str], None] = print) -> int:
    """Write the run's settings and data, start verl, pass on its output, and return its exit status.

    The output also goes to RUN/verl.log. Called again with the same settings, verl goes on from its newest checkpoint.
    Raises ConfigError where the folder holds a run with other settings, or verl cannot carry these out.
    """
    arguments = command(config, run_dir)
    settings = run_dir / "config.yaml"
    if settings.exists() and settings.read_text(encoding="utf-8") != config.to_yaml():
        raise ConfigError(f"{run_dir} holds a run with other settings: remove it, or give this one another --run-dir")
    run = RunDir.open(run_dir) if settings.exists() else RunDir.create(run_dir, config)
    with run.locked():
        for name, count in write_data(config, run_dir).items():
            say(f"{name}: {count} problems")
        return stream(arguments, run_dir / "verl.log", say)


def stream(arguments: list[str], log: Path, say: Callable[[str], None]) -> int:
    """Run a command, its lines to `say` and appended to `log`; its exit status, as a shell would give it."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with (
        open(log, "a", encoding="utf-8", opener=lambda path, how: os.open(path, how | os.O_NOFOLLOW, 0o644)) as file,
        subprocess.Popen(arguments, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **pipes) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                say(line.rstrip("\n"))
        except KeyboardInterrupt:  # the terminal has sent it to verl too, which now shuts its workers down
            process.wait()
            raise
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def write_data(config: RunConfig, run_dir: Path) -> dict[str, int]:
    """Write RUN/data/train.parquet and eval.parquet, our problems in verl's columns; how many each set has.

    Raises ConfigError where a problem of `eval.data` would be trained on, or they are too few for a rollout batch,
    DataError where the data cannot be read, and ModuleNotFoundError without pyarrow.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    task = config.make_task()
    assert isinstance(task, MathTask)  # the others are refused
    held_out = held_out_problems(task, config)  # checked against the training problems, as by the other engines
    train = _rows(task.problems["train"], task.data)
    if len(train) < config.rollout.prompts:
        raise ConfigError(
            f"engine verl: {task.data} has {len(train)} training problems, and verl draws the "
            f"{config.rollout.prompts} of a rollout batch without repetition: a smaller rollout.prompts, or engine trl"
        )
    evaluation = []
    for name in dict.fromkeys(config.eval.data):
        evaluation += _rows((as_problem(each, task.template) for each in load_data(name).problems), name)
    evaluation = evaluation or _rows(held_out, task.data)
    (run_dir / "data").mkdir(parents=True, exist_ok=True)
    for name, table in (("train", train), ("eval", evaluation)):
        with atomically(run_dir / "data" / f"{name}.parquet") as scratch:
            parquet.write_table(pyarrow.Table.from_pylist(table), scratch)
    return {"train": len(train), **Counter(row["data_source"] for row in evaluation)}


def _rows(problems: Iterable[Problem], source: str) -> list[dict[str, Any]]:
    """verl's columns of each problem; `source` names the set under which verl reports its scores."""
    return [
        {
            "data_source": source,
            "prompt": [{"role": "user", "content": problem.prompt}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": problem.answer},
            "extra_info": {"index": index},
        }
        for index, problem in enumerate(problems)
    ]
