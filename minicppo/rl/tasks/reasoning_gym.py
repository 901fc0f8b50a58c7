"""The data sets of the `reasoning-gym` package, with their own generators; its checkers run in a confined process."""

import math
import random
import re
from typing import Any

from minicppo.rl.grading.check_reasoning_gym import may_be_read
from minicppo.rl.grading.confined import REASONING_GYM, Unchecked, confined, faults
from minicppo.rl.tasks.base import Problem, Task, register_task
from minicppo.text import nearest, optional, short

NUMBER = r"[-+]?\d(?:[\d,]*\d)?(?:\.\d+)?"
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
LONGEST = 20_000  # characters of an answer worth checking


@register_task
class ReasoningGymTask(Task):
    """Problems of one data set; every other option goes to the data set's own configuration.

    A response may give its answer between `<answer>` and `</answer>`; else it is the last number where a number is
    asked for, and all of it otherwise. The package pays small partial scores (for an answer that merely contains the
    right one, say), whose mean would not be an accuracy: below the full score is 0 unless `partial_credit` is set.

    `composite` mixes others, `datasets=[{name: gcd, weight: 2, config: {max_value: 99}}, ...]`: each is a task here, so
    that its options are checked, and its answers meet the guards and the rules of its own.
    """

    name = "reasoning-gym"

    def __init__(
        self,
        dataset: str = "chain_sum",
        instruction: str = "",
        partial_credit: bool = False,
        max_new_tokens: int | None = None,
        **options: Any,
    ):
        """`instruction` is appended to every question. Raises ValueError for what the data set refuses."""
        DATASETS = optional("reasoning_gym.factory", "the task 'reasoning-gym'", "tasks").DATASETS
        if dataset not in DATASETS:
            raise ValueError(f"reasoning-gym has no data set {dataset!r}{nearest(dataset, sorted(DATASETS))}")
        self.instruction, self.partial_credit = instruction, partial_credit
        self._parts: dict[str, tuple[ReasoningGymTask, float]] = {}  # of a mixture, with their weights
        if dataset == "composite":
            self._parts = _parts(**options, instruction=instruction, max_new_tokens=max_new_tokens)
            self.max_new_tokens = max(part.max_new_tokens for part, _ in self._parts.values())
            return
        self._dataset_class, self._config_class = DATASETS[dataset]
        valid = [name for name in self._config_class.__dataclass_fields__ if name not in ("seed", "size")]
        for option in options:
            if option not in valid:
                raise ValueError(f"reasoning-gym data set {dataset!r} has no option {option!r}{nearest(option, valid)}")
        self.dataset, self.options = dataset, options
        self.max_new_tokens = max_new_tokens or (32 if dataset == "countdown" else 16)
        try:
            first = self._entry(seed=0)
        except (AssertionError, TypeError) as error:
            raise ValueError(f"reasoning-gym data set {dataset!r} refuses {options}: {error}") from error
        if dataset == "chain_sum":
            self.alphabet = "".join(sorted({*self._question(first), *"0123456789+-"}))

    def problem(self, rng: random.Random) -> Problem:
        if self._parts:
            parts, weights = zip(*self._parts.values(), strict=True)
            return rng.choices(parts, weights)[0].problem(rng)
        entry = self._entry(seed=rng.getrandbits(31))
        orderless = self.dataset in ("gcd", "lcm")  # the same numbers in any order are one problem, in one split
        content = f"{self.dataset} {sorted(entry['metadata']['numbers'])}" if orderless else None
        return Problem(self._question(entry), str(entry["answer"]), entry, content)

    def score(self, problem: Problem, response: str) -> float:
        """The data set's own `score_answer`, in a confined process; 0, and counted, where it comes to no score."""
        own, numeric, score = self._part(problem), _is_number(problem.answer), None
        answer = extract_answer(response, numeric)
        if numeric and THOUSANDS.fullmatch(answer):
            answer = answer.replace(",", "")
        if 0 < len(answer) <= LONGEST:
            try:
                score = confined(REASONING_GYM, own.dataset, own.options, problem.data, answer)
            except Unchecked as fault:
                faults[str(fault)] += 1
        return score if score and self.partial_credit and 0 <= score <= 1 else float(score == 1)

    def well_formed(self, problem: Problem, response: str) -> bool:
        """Whether the answer, bare or tagged, could be right."""
        answer = extract_answer(response)
        if _is_number(problem.answer):
            return _is_number(answer)
        readable = answer == problem.answer or may_be_read(self._part(problem).dataset, answer)
        return 0 < len(answer) <= LONGEST and readable

    def demonstration(self, problem: Problem, rng: random.Random, error_rate: float) -> str:
        """For chain_sum alone: the result, or with probability `error_rate` one that is off by up to 9."""
        if not self.alphabet:
            return super().demonstration(problem, rng, error_rate)
        if rng.random() >= error_rate:
            return problem.answer
        return str(int(problem.answer) + rng.choice([-1, 1]) * rng.randint(1, 9))

    def _part(self, problem: Problem) -> "ReasoningGymTask":
        """What drew a problem: the part of a mixture, or the task itself."""
        return self._parts[problem.data["metadata"]["source_dataset"]][0] if self._parts else self

    def _entry(self, seed: int) -> dict[str, Any]:
        return _plain(self._dataset_class(self._config_class(seed=seed, size=1, **self.options))[0])

    def _question(self, entry: dict[str, Any]) -> str:
        return f"{entry['question']} {self.instruction}".strip()


def _parts(datasets: Any = (), **shared: Any) -> dict[str, tuple[ReasoningGymTask, float]]:
    """The tasks of a mixture by name, and their weights. Raises ValueError."""
    parts: dict[str, tuple[ReasoningGymTask, float]] = {}
    for each in datasets if datasets and isinstance(datasets, list) else [None]:
        match {"weight": 1, "config": {}} | each if isinstance(each, dict) else None:
            case {"name": str(name), "weight": int() | float() as weight, "config": dict(options), **others} if (
                name not in ("composite", *parts) and 0 < weight < math.inf and not others
            ):
                parts[name] = ReasoningGymTask(name, **options, **shared), weight
            case _:
                raise ValueError(
                    "reasoning-gym data set 'composite' needs datasets=[{name: ..., weight: 1, config: {...}}, ...]: "
                    f"others, each once, with weights above 0, got {short(each if each else datasets)}"
                )
    return parts


def extract_answer(response: str, numeric: bool = False) -> str:
    """What the last pair of answer tags encloses, else the last number (if `numeric`) or the whole response, stripped.

    >>> extract_answer("so <answer> 12 </answer>."), extract_answer("3-5 is -2.", numeric=True), extract_answer("a b ")
    ('12', '-2', 'a b')
    """
    start = response.rfind("<answer>", 0, max(response.rfind("</answer>"), 0))
    if start >= 0:
        return response[start + len("<answer>") : response.find("</answer>", start)].strip()
    found = re.findall(rf"(?<!\d){NUMBER}", response) if numeric else []
    return str(found[-1] if found else response).strip()


def _is_number(text: str) -> bool:
    return re.fullmatch(NUMBER, text) is not None


def _plain(value: Any) -> Any:
    """Without NumPy's types of numbers and texts: as Python literals, which another process can be given."""
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(map(_plain, value))
    return value.tolist() if type(value).__module__ == "numpy" else value
