"""The problems of a run as the Parquet files that verl reads: its schema, our prompts and answers."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minicppo.rl.config import ConfigError, RunConfig
from minicppo.rl.data import load_data
from minicppo.rl.evaluate import held_out_problems
from minicppo.rl.tasks.base import Problem
from minicppo.rl.tasks.math import MathTask, as_problem


def rows(problems: Iterable[Problem], source: str) -> Iterator[dict[str, Any]]:
    """verl's columns of each problem; `source` names the set under which verl reports its scores."""
    for index, problem in enumerate(problems):
        yield {
            "data_source": source,
            "prompt": [{"role": "user", "content": problem.prompt}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": problem.answer},
            "extra_info": {"index": index},
        }


def write_data(config: RunConfig, run_dir: Path) -> dict[str, int]:
    """Write RUN/data/train.parquet and eval.parquet; return how many problems each set has.

    Raises:
        ConfigError: a problem of `eval.data` would be trained on, or they are too few for a rollout batch.
        DataError: the data cannot be read.
        ModuleNotFoundError: pyarrow is not installed.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    task = config.make_task()
    assert isinstance(task, MathTask)  # `require_verl` has seen to it
    held_out = held_out_problems(task, config)  # checked against the training problems, as by the other engines
    train = list(rows(task.problems["train"], task.data))
    if len(train) < config.rollout.prompts:
        raise ConfigError(
            f"engine verl: {task.data} has {len(train)} training problems, and verl draws the "
            f"{config.rollout.prompts} of a rollout batch without repetition: a smaller rollout.prompts, or engine trl"
        )
    evaluation = [
        row
        for name in dict.fromkeys(config.eval.data)
        for row in rows((as_problem(each, task.template) for each in load_data(name).problems), name)
    ] or list(rows(held_out, task.data))
    folder = run_dir / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("train", train), ("eval", evaluation)):
        parquet.write_table(pyarrow.Table.from_pylist(table), folder / f"{name}.parquet")
    counts = {"train": len(train)}
    for row in evaluation:
        counts[row["data_source"]] = counts.get(row["data_source"], 0) + 1
    return counts
