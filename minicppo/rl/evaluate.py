"""Evaluation: Avg@k with its standard error, on the held-out problems of a run or on whole data sets."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minicppo.files import write_atomically
from minicppo.rl.config import ConfigError, EvalConfig, RunConfig
from minicppo.rl.data import load_data
from minicppo.rl.eval_store import Store, claimed, policy_digest
from minicppo.rl.grading.confined import take_faults
from minicppo.rl.grading.reward import MALFORMED, Outcome, judge_response, require_math_verify
from minicppo.rl.log_probs import require_agreement
from minicppo.rl.policy import Policy
from minicppo.rl.sampling import sample
from minicppo.rl.seeding import generator_for, rng_for
from minicppo.rl.tasks import Problem, Task, judged, sample_problems
from minicppo.rl.tasks.math import TEMPLATES, MathTask, as_problem

PIECES = 16  # steps of the progress of an evaluation that is not in batches already
ROW = ("accuracy", "accuracy_se", "greedy_accuracy", "format_rate", "length")
RESULT = ("problems", "accuracy", "accuracy_se", "outcomes", "length", "unfinished")
Check = Callable[[Problem, str], tuple[float, str]]  # the score of a response, and a word for what became of it
OnProgress = Callable[[int, int, float | None], object]  # problems done, all of them, accuracy so far


@dataclass(frozen=True)
class DataSettings:
    """What determines the responses to data sets, besides the policy; the defaults are the paper's sampling.

    `batch` problems are sampled together; their random numbers come from the seed, the data set and the first of them.
    """

    model: str
    samples: int = 16
    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 1024
    template: str = TEMPLATES["steps"]
    seed: int = 0
    batch: int = 1

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature = {self.temperature:g} must be positive and top_p = {self.top_p:g} in (0, 1]: Avg@k "
                "is of samples; the paper's are 0.7 and 0.95"
            )


@dataclass(frozen=True)
class Evaluation:
    """Of problems of equal weight; accuracies and shares are in [0, 1]."""

    problems: int
    accuracy: float  # Avg@k, the mean score of k samples to each problem
    accuracy_se: float | None  # its standard error, from the problems' own means; None for a single problem
    greedy_accuracy: float | None  # mean score of the likeliest tokens, where they were asked for
    format_rate: float  # share of well-formed samples
    outcomes: dict[str, int]  # how many samples were right, wrong, or malformed in which way
    length: float  # mean tokens of a sample
    unfinished: float  # share of samples that were cut off at the limit
    faults: dict[str, int] = field(default_factory=take_faults, compare=False)  # answers without a verdict, by name

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> "Evaluation":
        """The means over the rows of `answer`."""
        outcomes, lengths, finished = (
            [each for row in rows for each in row[key]] for key in ("outcomes", "lengths", "finished")
        )
        accuracy, error = mean_and_error([row["accuracy"] for row in rows])
        return cls(
            problems=len(rows),
            accuracy=accuracy,
            accuracy_se=error,
            greedy_accuracy=sum(row["greedy"] for row in rows) / len(rows) if "greedy" in rows[0] else None,
            format_rate=sum(outcome not in MALFORMED for outcome in outcomes) / len(outcomes),
            outcomes=dict(Counter(outcomes)),
            length=sum(lengths) / len(lengths),
            unfinished=finished.count(False) / len(finished),
        )

    def as_row(self) -> dict[str, Any]:
        """For metrics.jsonl."""
        return {name: getattr(self, name) for name in ROW} | self.faults

    def as_result(self) -> dict[str, Any]:
        """For results.json."""
        return {name: getattr(self, name) for name in RESULT}


def answer(
    policy: Policy,
    problems: Sequence[Problem],
    check: Check,
    settings: EvalConfig | DataSettings,
    max_new_tokens: int,
    generator: Callable[[int], torch.Generator],
    size: int,
    store: Store | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """`settings.samples` responses to each problem, `size` problems at a time; what `store` holds is not asked again.

    The random numbers of the problems from index i on come from `generator(i)`. Without a store, each is answered
    by the likeliest tokens too. A stored row has the problem, its responses, and what became of them.
    """
    done, greedy = ({}, True) if store is None else (store.rows, False)
    each = settings.samples + greedy  # responses to a problem

    def report() -> None:
        if on_progress:
            accuracies = [row["accuracy"] for row in done.values()]
            on_progress(len(done), len(problems), mean_and_error(accuracies)[0] if accuracies else None)

    report()
    for start in range(0, len(problems), size):
        indices = range(len(problems))[start : start + size]
        missing = [index for index in indices if index not in done]
        if not missing:
            continue
        rollout = sample(
            policy,
            [policy.encode(problems[index].prompt) for index in indices],
            max_new_tokens,
            settings.temperature,
            generator(start),
            samples=settings.samples,
            batch=settings.batch,
            top_p=settings.top_p,
            likeliest=greedy,
        )
        require_agreement(policy, policy, rollout, settings.temperature)
        lengths = rollout.response_mask.sum(1).tolist()
        ids = [row[:length] for row, length in zip(rollout.response_ids.tolist(), lengths, strict=True)]
        rows = []
        for index in missing:
            problem, first = problems[index], (index - start) * each
            responses = ids[first + greedy : first + each]
            texts = [policy.decode(response) for response in responses]
            scores, outcomes = zip(*(check(problem, text) for text in texts), strict=True)
            row = {
                "index": index,
                "question": problem.data.get("question", problem.prompt),
                "answer": problem.answer,
                "accuracy": sum(scores) / len(scores),
                "outcomes": list(outcomes),
                "lengths": [len(response) for response in responses],
                "finished": [response[-1] in policy.ends for response in responses],
                "responses": texts,
            }
            if greedy:
                row["greedy"] = check(problem, policy.decode(ids[first]))[0]
            rows.append(row)
        if store is not None:
            store.add(rows)
        done |= {row["index"]: row for row in rows}
        report()
    return Evaluation.of([done[index] for index in range(len(problems))])


def evaluate(policy: Policy, task: Task, config: RunConfig, on_progress: OnProgress | None = None) -> Evaluation:
    """On the held-out problems of `config.eval`, always with the same random numbers; see `held_out_problems`."""
    problems, settings, limit = held_out_problems(task, config), config.eval, config.max_new_tokens(task)
    generator = generator_for(settings.seed, "eval-samples")

    def check(problem: Problem, response: str) -> tuple[float, str]:
        score, well_formed = judged(task, problem, response)
        return score, "well-formed" if well_formed else Outcome.MALFORMED

    size = len(problems) if on_progress is None else settings.batch or math.ceil(len(problems) / PIECES)
    return answer(policy, problems, check, settings, limit, lambda _: generator, size, on_progress=on_progress)


def evaluate_data(
    policy: Policy,
    names: Sequence[str],
    settings: DataSettings,
    folder: Path,
    on_progress: Callable[[str, int, int, float | None], None] | None = None,
) -> dict[str, Evaluation]:
    """On all problems of each data set, whose name `on_progress` is told; what `folder` holds is not sampled again.

    Raises BlockingIOError, ValueError: the folder holds another evaluation, or one of other problems or weights (a
    policy is known by its content). DataError: the data cannot be read. ModuleNotFoundError: no math-verify, pyarrow.
    """
    require_math_verify()
    sets = {data.name: data.problems for data in map(load_data, names)}
    if len(sets) != len(names):
        raise ValueError(f"two of {', '.join(names)} share a name, and so a file: evaluate them one by one")

    def check(problem: Problem, response: str) -> tuple[float, str]:
        outcome = judge_response(response, problem.answer)
        return float(outcome is Outcome.RIGHT), str(outcome)

    found = {}
    with claimed(folder, asdict(settings) | {"weights": policy_digest(policy)}):
        for name, bare in sets.items():
            problems = [as_problem(problem, settings.template) for problem in bare]
            store = Store(folder / f"{name}.jsonl", problems)
            found[name] = answer(
                *(policy, problems, check, settings, settings.max_new_tokens),
                generator=partial(generator_for, settings.seed, f"eval-{name}"),
                size=settings.batch,
                store=store,
                on_progress=on_progress and partial(on_progress, name),
            )
            store.write_parquet()
        of_sets = {name: each.as_result() for name, each in found.items()}
        results: dict[str, Any] = {"settings": asdict(settings), "data": of_sets}
        if len(found) > 1:
            results["mean"] = dict(zip(("accuracy", "accuracy_se"), mean_accuracy(list(found.values())), strict=True))
        write_atomically(folder / "results.json", json.dumps(results, indent=1).encode())
    return found


def mean_accuracy(evaluations: Sequence[Evaluation]) -> tuple[float, float | None]:
    """The mean accuracy over data sets of equal weight (as in the paper's tables), and its standard error."""
    n, errors = len(evaluations), [each.accuracy_se for each in evaluations if each.accuracy_se is not None]
    return sum(each.accuracy for each in evaluations) / n, math.hypot(*errors) / n if len(errors) == n else None


def held_out_problems(task: Task, config: RunConfig) -> list[Problem]:
    """The different problems that runs of this configuration are evaluated on: all of `eval.data`, where it is given.

    Raises ConfigError, ValueError: `eval.data` of another task, of problems to train on, or of one; too few problems.
    """
    settings, names = config.eval, config.eval.data
    if not names:
        return sample_problems(task, settings.problems, rng_for(settings.seed, "eval-problems"), "test", unique=True)
    if not isinstance(task, MathTask):
        raise ConfigError(f"eval.data = {names} are mathematics problems: task {task.name!r} cannot score them")
    problems = [as_problem(each, task.template) for name in names for each in load_data(name).problems]
    shared = task.trained_on(names)
    if shared:
        raise ConfigError(
            f"eval.data = {names}: {shared} of the {len(problems)} problems would be trained on. Name these "
            "sets in task.options.test too, which takes them out of the training problems"
        )
    different = list({each.content: each for each in reversed(problems)}.values())[::-1]  # the first of each
    if len(different) < 2:
        raise ConfigError(f"eval.data = {names} holds a single problem: a standard error needs at least 2")
    return different


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean of independent values (say, of each problem's own mean), and its standard error; None for a single one.

    >>> mean_and_error([1, 0])
    (0.5, 0.5)
    """
    mean, n = sum(values) / len(values), len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n) if n > 1 else None
