"""Held-out evaluation: Avg@k with its standard error, greedy accuracy, format rate."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from minicppo.rl.config import RunConfig
from minicppo.rl.policy import Policy
from minicppo.rl.sampling import Rollout, sample
from minicppo.rl.seeding import generator_for, rng_for
from minicppo.rl.tasks import Problem, Task, sample_problems


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
    """A rollout's decoded texts with their rewards, row by row."""

    texts: list[str]
    rewards: list[float]
    well_formed: list[bool]


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
    )


def evaluate(policy: Policy, task: Task, config: RunConfig) -> Evaluation:
    """Evaluate on the held-out problems of `config.eval`: always the same ones, with the same random numbers.

    Raises:
        ValueError: the task has fewer different held-out problems than asked for.
    """
    settings = config.eval
    problems = held_out_problems(task, config)
    prompts = [policy.encode(problem.prompt) for problem in problems]
    limit = config.max_new_tokens(task)
    generator = generator_for(settings.seed, "eval-samples")
    sampled = sample(
        policy, prompts, limit, settings.temperature, generator, samples=settings.samples, batch=settings.batch
    )
    graded = grade(policy, task, problems, sampled)
    greedy = sample(policy, prompts, limit, settings.temperature, None, batch=settings.batch)
    accuracy, error = clustered_mean(graded.rewards, settings.samples)
    return Evaluation(
        accuracy=accuracy,
        accuracy_se=error,
        greedy_accuracy=sum(grade(policy, task, problems, greedy).rewards) / len(problems),
        format_rate=sum(graded.well_formed) / len(graded.well_formed),
        length=float(sampled.response_mask.sum()) / len(sampled),
    )


def held_out_problems(task: Task, config: RunConfig) -> list[Problem]:
    """The different problems that runs of this configuration are evaluated on and never trained on."""
    return sample_problems(task, config.eval.problems, rng_for(config.eval.seed, "eval-problems"), "test", unique=True)


def clustered_mean(values: Sequence[float], cluster: int) -> tuple[float, float]:
    """Mean of n*k values in clusters of k consecutive ones, and its standard error from the n cluster means.

    >>> clustered_mean([1, 1, 0, 0], 2)
    (0.5, 0.5)
    """
    means = [sum(values[i : i + cluster]) / cluster for i in range(0, len(values), cluster)]
    mean = sum(means) / len(means)
    variance = sum((m - mean) ** 2 for m in means) / (len(means) - 1)
    return mean, math.sqrt(variance / len(means))
