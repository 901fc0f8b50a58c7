"""Held-out evaluation: Avg@k with its standard error, greedy accuracy, format rate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from minicppo.rl.config import ConfigError, RunConfig
from minicppo.rl.data import load_data
from minicppo.rl.policy import Policy
from minicppo.rl.sampling import Rollout, sample
from minicppo.rl.seeding import generator_for, rng_for
from minicppo.rl.tasks import Problem, Task, sample_problems
from minicppo.rl.tasks.math import MathTask, as_problem

PIECES = 16  # steps of the progress of an evaluation that is not in batches already


@dataclass(frozen=True)
class Evaluation:
    """Accuracies on held-out problems.

    Attributes:
        accuracy: Avg@k, the mean score of k samples to each problem.
        accuracy_se: its standard error, clustered by problem: samples to one problem are not independent.
        greedy_accuracy: mean score of the likeliest tokens.
        format_rate: share of well-formed samples.
        length: mean tokens of the samples.
    """

    accuracy: float
    accuracy_se: float
    greedy_accuracy: float
    format_rate: float
    length: float

    def as_row(self) -> dict[str, float]:
        """For metrics.jsonl."""
        return asdict(self)


@dataclass(frozen=True)
class Graded:
    """A rollout's decoded texts with their rewards and their lengths in tokens, row by row."""

    texts: list[str]
    rewards: list[float]
    well_formed: list[bool]
    lengths: list[int]

    def __add__(self, other: "Graded") -> "Graded":
        """Both, one after the other."""
        return Graded(**{name: value + vars(other)[name] for name, value in vars(self).items()})


def grade(policy: Policy, task: Task, problems: Sequence[Problem], rollout: Rollout) -> Graded:
    """Decode and score a rollout whose rows are ordered problem by problem."""
    lengths = rollout.response_mask.sum(1).tolist()
    rows = rollout.response_ids.tolist()
    texts = [policy.decode(ids[:length]) for ids, length in zip(rows, lengths, strict=True)]
    samples = len(texts) // len(problems)
    asked = [problem for problem in problems for _ in range(samples)]
    return Graded(
        texts,
        [task.score(problem, text) for problem, text in zip(asked, texts, strict=True)],
        [task.well_formed(problem, text) for problem, text in zip(asked, texts, strict=True)],
        lengths,
    )


def evaluate(
    policy: Policy, task: Task, config: RunConfig, on_progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Evaluate on the held-out problems of `config.eval`: always the same ones, with the same random numbers.

    `on_progress` is called with the problems done and all of them; for its sake the evaluation goes piece by piece.

    Raises:
        ValueError: the task has fewer different held-out problems than asked for.
    """
    settings = config.eval
    problems = held_out_problems(task, config)
    limit = config.max_new_tokens(task)
    generator = generator_for(settings.seed, "eval-samples")
    size = len(problems) if on_progress is None else settings.batch or math.ceil(len(problems) / PIECES)
    graded = greedy = Graded([], [], [], [])
    for start in range(0, len(problems), size):
        part = problems[start : start + size]
        rollout = sample(
            policy,
            [policy.encode(problem.prompt) for problem in part],
            limit,
            settings.temperature,
            generator,
            samples=settings.samples,
            batch=settings.batch,
            top_p=settings.top_p,
            likeliest=True,
        )
        first = torch.arange(len(rollout), device=rollout.log_probs.device) % (settings.samples + 1) == 0
        graded += grade(policy, task, part, rollout.rows(~first))
        greedy += grade(policy, task, part, rollout.rows(first))
        if on_progress is not None:
            on_progress(start + len(part), len(problems))
    accuracy, error = clustered_mean(graded.rewards, settings.samples)
    return Evaluation(
        accuracy=accuracy,
        accuracy_se=error,
        greedy_accuracy=sum(greedy.rewards) / len(problems),
        format_rate=sum(graded.well_formed) / len(graded.well_formed),
        length=sum(graded.lengths) / len(graded.lengths),
    )


def held_out_problems(task: Task, config: RunConfig) -> list[Problem]:
    """The different problems that runs of this configuration are evaluated on: all of `eval.data`, where it is given.

    Raises:
        ConfigError: `eval.data` with another task than math, with problems that the run trains on, or with only one.
    """
    if config.eval.data:
        return _all_of(config.eval.data, task)
    return sample_problems(task, config.eval.problems, rng_for(config.eval.seed, "eval-problems"), "test", unique=True)


def _all_of(names: Sequence[str], task: Task) -> list[Problem]:
    if not isinstance(task, MathTask):
        raise ConfigError(f"eval.data = {list(names)} are mathematics problems: task {task.name!r} cannot score them")
    problems = [as_problem(each, task.template) for name in names for each in load_data(name).problems]
    shared = {each.content for each in problems} & {each.content for each in task.problems["train"]}
    if shared:
        raise ConfigError(
            f"eval.data = {list(names)}: {len(shared)} of the {len(problems)} problems would be trained on. Name these "
            "sets in task.options.test too, which takes them out of the training problems"
        )
    different = list({each.content: each for each in reversed(problems)}.values())[::-1]  # the first of each
    if len(different) < 2:
        raise ConfigError(f"eval.data = {list(names)} holds a single problem: a standard error needs at least 2")
    return different


def clustered_mean(values: Sequence[float], cluster: int) -> tuple[float, float]:
    """Mean of n*k values in clusters of k consecutive ones, and its standard error from the n cluster means (n > 1).

    >>> clustered_mean([1, 1, 0, 0], 2)
    (0.5, 0.5)
    """
    means = [sum(values[i : i + cluster]) / cluster for i in range(0, len(values), cluster)]
    mean = sum(means) / len(means)
    variance = sum((m - mean) ** 2 for m in means) / (len(means) - 1)
    return mean, math.sqrt(variance / len(means))
