"""What each program writes, as rows: a table of the names of its fields, and what its records need before."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from minicppo.inspect.files import Broken
from minicppo.inspect.table import LARGEST, Column, Row
from minicppo.text import short

Record = dict[str, Any]
Part = tuple[Record, list[int]]  # lists of one length, and where its responses begin and end
LONGEST = 1 << 24  # tokens of one response


def prime(record: Record) -> Iterator[Part]:
    """prime-rl's token export; sequences packed into one line are told apart by positions that begin again."""
    positions, cuts = record.get("position_ids"), [0, LONGEST]
    if isinstance(positions, list) and positions[-1:] != [len(positions) - 1]:
        n = len(numbers(record, "inference_logprobs", needed=True))
        cuts = [*np.flatnonzero(numbers(record, "position_ids", n) == 0), n]
    yield record, cuts


def nemo(record: Record) -> Iterator[Part]:
    """NeMo-RL's train_data_step*.jsonl: values in lists of one (or of several responses), padded on the right.

    A log-prob stands at its own token; the first token of a sequence has none.
    """
    mus = record.get("generation_logprobs")
    if not isinstance(mus, list):
        raise Broken("generation_logprobs is no list")
    for i in range(len(mus)):
        one = {k: v[i] if isinstance(v, list) and len(v) == len(mus) else v for k, v in record.items()}
        if number(one, "sample_loss_mask", missing=1) != 0:  # else left out of the loss, as overlong ones are
            yield one, [0, int(number(one, "input_lengths", missing=LONGEST))]


def slime(record: Record) -> Iterator[Part]:
    """A response of slime's or miles' dumps: tokens with the prompt, everything else of the response alone."""
    n, ids = len(numbers(record, "rollout_log_probs", needed=True)), numbers(record, "tokens")
    yield record | {"tokens": None if ids is None or len(ids) < n else ids[len(ids) - n :]}, [0, n]


def neutral(record: Record) -> Iterator[Part]:
    """The neutral format, docs/inspect.md."""
    tokens, ids = record.get("tokens"), record.get("response_ids")
    if isinstance(tokens, list) and tokens and isinstance(tokens[0], str):
        yield record | {"tokens": [str(text) for text in tokens]}, [0, LONGEST]
    else:
        yield record | {"tokens": None, "response_ids": tokens if ids is None else ids}, [0, LONGEST]


def responses(record: Record) -> Iterator[Part]:
    """OpenAI-compatible responses (vLLM, SGLang), bare or in a batch's output, and samples of Inspect: mu alone."""
    for name in ("response", "body", "output"):
        if isinstance(record.get(name), dict):
            yield from responses({k: record[k] for k in ("step", "group") if k in record} | record[name])
            return
    choices = record.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        found = choice.get("logprobs") if isinstance(choice, dict) else None
        if not isinstance(found, dict):
            continue
        content = found.get("content")
        if isinstance(content, list) and all(isinstance(each, dict) for each in content):
            texts: Any = [each.get("token") for each in content]
            values: Any = [each.get("logprob") for each in content]
        else:  # the older completions
            texts, values = found.get("tokens"), found.get("token_logprobs")
        fit = isinstance(texts, list) and isinstance(values, list) and len(texts) == len(values)
        yield record | {"logprob": values, "tokens": [str(text) for text in texts] if fit else None}, [0, LONGEST]


COLUMNS = {"mu": np.float64, "pi": np.float64, "old": np.float64, "ids": np.int64, "texts": object}


@dataclass(frozen=True)
class Format:
    """What is done to a record first; whose its pi is: "current", "old" or "none"; the fields that hold COLUMNS.

    headed: sequences hold prompts, so that there must be a mask. key: by what it is known, if not by its mu.
    """

    parts: Callable[[Record], Iterator[Part]]
    pi: str
    fields: tuple[str, ...]
    mask: str = ""
    headed: bool = False
    key: str = ""

    def rows(self, record: Record) -> Iterator[Row]:
        """Each response: of its tokens those that count. Raises Broken."""
        for one, cuts in self.parts(record):
            mu = numbers(one, self.fields[0], needed=True)
            n, one[self.fields[0]] = len(mu), mu
            named = zip(COLUMNS.items(), self.fields, strict=False)
            columns: Record = {name: numbers(one, field, n, dtype) for (name, dtype), field in named}
            columns["advantages"] = advantages(one, n)
            counts = mask_of(one, self.mask, n, needed=self.headed)
            for start, stop in pairwise(cuts):
                at = np.flatnonzero(counts[start:stop]) + start
                turn = (np.diff(at, prepend=at[:1]) > 1).cumsum()  # a hole begins a new one
                kept: Record = {k: v[at] if isinstance(v, np.ndarray) else v for k, v in columns.items()}
                headed = self.headed and bool(counts[start : start + 1].any())
                yield Row(**kept, turn=turn, headed=headed, **origin(one))


PRIME = ("inference_logprobs", "trainer_logprobs", "", "token_ids")
NEMO = ("generation_logprobs", "prev_logprobs", "prev_logprobs", "token_ids")
SLIME = ("rollout_log_probs", "log_probs", "", "tokens")
NEUTRAL = ("rollout_log_probs", "log_probs", "old_log_probs", "response_ids", "tokens")
FORMATS = {
    "prime-rl": Format(prime, "current", PRIME, "loss_mask", headed=True),
    "nemo-rl": Format(nemo, "old", NEMO, "token_loss_mask", headed=True),
    "slime": Format(slime, "current", SLIME, "loss_mask", key="response_length"),
    "minicppo": Format(neutral, "current", NEUTRAL, key="minicppo"),
    "neutral": Format(neutral, "current", NEUTRAL, "response_mask"),
    "responses": Format(responses, "none", ("logprob", "", "", "", "tokens"), key="choices"),
}


def detect(record: Record) -> str:
    """The format of a record, by its keys. Raises Broken."""
    for name, form in FORMATS.items():
        if (form.key or form.fields[0]) in record:
            return name
    if any(isinstance(record.get(name), dict) for name in ("response", "output")):
        return "responses"
    raise Broken(f"unknown format, keys {short(sorted(record)[:8], 120)}; if you know it: --format {'|'.join(FORMATS)}")


def numbers(record: Record, name: str, length: int | None = None, dtype: Any = np.float64, needed: bool = False) -> Any:
    """A list of numbers as (T,); None where it is not given and not needed; null is NaN. Raises Broken."""
    values = record.get(name)
    if values is None:
        if needed:
            raise Broken(f"there is no {name}")
        return None
    try:
        array = np.asarray(values, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise Broken(f"{name} is no list of numbers: {short(values, 60)}") from error
    if array.ndim != 1 or len(array) > LONGEST:
        raise Broken(f"{name} is of shape {array.shape}, where one number a token is expected")
    if length is not None and len(array) != length:
        raise Broken(f"{name} has {len(array)} values for {length} tokens")
    return array


def mask_of(record: Record, name: str, length: int, needed: bool) -> Column:
    """(T,) bool, all true where it is not given and not needed. Raises Broken."""
    values = record.get(name)
    with suppress(TypeError, ValueError):  # a list of true and false alone is read several times as fast
        if isinstance(values, list) and len(values) == length:
            return np.frombuffer(bytes(values), np.uint8) > 0
    mask = numbers(record, name, length, needed=needed)
    return np.ones(length, bool) if mask is None else mask > 0


def number(record: Record, *names: str, missing: float = float("nan")) -> float:
    """The first of the values that is given, a number or a list of one. Raises Broken."""
    value = next((record[name] for name in names if record.get(name) is not None), missing)
    while isinstance(value, (list, np.ndarray)) and len(value) == 1:
        value = value[0]
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise Broken(f"{' or '.join(names)} is {short(value, 40)}, where one number is expected") from error


def advantages(record: Record, length: int) -> Column | float:
    """One a token, or one."""
    value = record.get("advantages")
    several = isinstance(value, (list, np.ndarray)) and len(value) > 1
    return numbers(record, "advantages", length) if several else number(record, "advantages", "advantage")


def origin(record: Record) -> dict[str, Any]:
    """Reward, step and group."""
    named = map(record.get, ("group", "group_id", "group_index", "example_id", "problem_id"))
    group = next((value for value in named if isinstance(value, (str, int))), None)
    step, reward = number(record, "step", missing=0), number(record, "rewards", "reward")
    known = {"reward": reward if abs(reward) <= LARGEST else np.nan, "step": int(step) if abs(step) < 1e15 else 0}
    return {**known, "group": group}
