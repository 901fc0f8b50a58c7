"""What each program writes, as rows: one function a format, from a record of its file to the responses in it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicppo.inspect.files import Broken
from minicppo.inspect.table import LARGEST, Column, Row
from minicppo.text import short

Record = dict[str, Any]
LONGEST = 1 << 24  # tokens of one response


@dataclass(frozen=True)
class Format:
    """How its records become rows; the key by which it is known; and whose its pi is: "current", "old" or "none"."""

    rows: Callable[[Record], Iterator[Row]]
    key: str
    pi: str


def numbers(record: Record, name: str, length: int | None = None, dtype: Any = np.float64) -> Column | None:
    """A list of numbers as (T,); None where it is not given; what is null in it is NaN. Raises Broken."""
    values = record.get(name)
    if values is None:
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


def needed(record: Record, name: str, length: int | None = None) -> Column:
    found = numbers(record, name, length)
    if found is None:
        raise Broken(f"there is no {name}")
    return found


def whole(record: Record, name: str, length: int) -> Column | None:
    """Numbers of tokens, (T,) int64."""
    return numbers(record, name, length, np.int64)


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
    return needed(record, "advantages", length) if several else number(record, "advantages", "advantage")


def origin(record: Record) -> dict[str, Any]:
    """Reward, step and group."""
    named = [record.get(name) for name in ("group", "group_id", "group_index", "example_id", "problem_id")]
    group = next((value for value in named if isinstance(value, (str, int))), None)
    step = number(record, "step", missing=0)
    reward = number(record, "rewards", "reward")
    known = abs(reward) <= LARGEST
    return {"reward": reward if known else np.nan, "step": int(step) if abs(step) < 1e15 else 0, "group": group}


def masked(mask: Column, columns: Record, **more: Any) -> Row:
    """The row of the tokens that count, out of columns over a whole sequence."""
    at: Any = np.flatnonzero(mask > 0)
    turn = None
    if len(at) and at[-1] - at[0] + 1 == len(at):
        at = slice(at[0], at[-1] + 1)  # no holes, as nearly always
    elif len(at):
        turn = np.concatenate([[0], (np.diff(at) > 1).cumsum()])
    tokens: Record = {name: value[at] if isinstance(value, np.ndarray) else value for name, value in columns.items()}
    return Row(**tokens, turn=turn, **more)


def prime(record: Record) -> Iterator[Row]:
    """prime-rl's token export; sequences packed into one line are told apart by positions that begin again."""
    mu = needed(record, "inference_logprobs")
    n = len(mu)
    columns: Record = {"mu": mu, "pi": numbers(record, "trainer_logprobs", n), "ids": whole(record, "token_ids", n)}
    columns["advantages"], mask = advantages(record, n), needed(record, "loss_mask", n)
    positions, cuts = record.get("position_ids"), [0, n]
    if isinstance(positions, list) and positions.count(0) > 1:
        cuts = [*np.flatnonzero(needed(record, "position_ids", n) == 0), n]
    for start, stop in zip(cuts, cuts[1:], strict=False):
        yield masked(*_cut(mask, columns, start, stop), headed=bool(mask[start : start + 1].any()), **origin(record))


def nemo(record: Record) -> Iterator[Row]:
    """NeMo-RL's train_data_step*.jsonl: values in lists of one (or of several responses), padded on the right.

    A log-prob stands at its own token; the first token of a sequence has none.
    """
    mus = record.get("generation_logprobs")
    if not isinstance(mus, list):
        raise Broken("generation_logprobs is no list")
    for i in range(len(mus)):
        one = {k: v[i] if isinstance(v, list) and len(v) == len(mus) else v for k, v in record.items()}
        if number(one, "sample_loss_mask", missing=1) == 0:  # left out of the loss, as overlong ones are
            continue
        mu = needed(one, "generation_logprobs")
        n = len(mu)
        columns: Record = {"mu": mu, "pi": numbers(one, "prev_logprobs", n), "ids": whole(one, "token_ids", n)}
        columns |= {"old": columns["pi"], "advantages": advantages(one, n)}
        mask = needed(one, "token_loss_mask", n)
        used = int(number(one, "input_lengths", missing=n))
        yield masked(*_cut(mask, columns, 0, used), headed=bool(mask[:1].any()), **origin(one))


def _cut(mask: Column, columns: Record, start: int, stop: int) -> tuple[Column, Record]:
    return mask[start:stop], {k: v[start:stop] if isinstance(v, np.ndarray) else v for k, v in columns.items()}


def neutral(record: Record) -> Iterator[Row]:
    """The neutral format, docs/inspect.md."""
    mu = needed(record, "rollout_log_probs")
    n = len(mu)
    ids, texts = record.get("response_ids"), record.get("tokens")
    if isinstance(texts, list) and texts and isinstance(texts[0], str):
        if len(texts) != n:
            raise Broken(f"tokens has {len(texts)} values for {n} tokens")
        texts = np.array([str(text) for text in texts], object)
    else:
        ids, texts = texts if ids is None else ids, None
    columns: Record = {"mu": mu, "pi": numbers(record, "log_probs", n), "old": numbers(record, "old_log_probs", n)}
    columns |= {"ids": whole({"ids": ids}, "ids", n), "advantages": advantages(record, n), "texts": texts}
    mask = numbers(record, "response_mask", n)
    yield masked(np.ones(n) if mask is None else mask, columns, **origin(record))


def slime(record: Record) -> Iterator[Row]:
    """A response of slime's or miles' dumps: tokens with the prompt, everything else of the response alone."""
    mu = needed(record, "rollout_log_probs")
    n = len(mu)
    ids, mask = numbers(record, "tokens"), numbers(record, "loss_mask", n)
    columns: Record = {"mu": mu, "pi": numbers(record, "log_probs", n), "advantages": advantages(record, n)}
    columns["ids"] = None if ids is None or len(ids) < n else ids[len(ids) - n :].astype(np.int64)
    yield masked(np.ones(n) if mask is None else mask, columns, **origin(record))


def responses(record: Record) -> Iterator[Row]:
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
        mu = needed({"logprob": values}, "logprob")
        fit = isinstance(texts, list) and len(texts) == len(mu)
        yield Row(mu, texts=np.array([str(text) for text in texts], object) if fit else None, **origin(record))


FORMATS = {
    "prime-rl": Format(prime, "inference_logprobs", "current"),
    "nemo-rl": Format(nemo, "generation_logprobs", "old"),
    "slime": Format(slime, "response_length", "current"),
    "neutral": Format(neutral, "rollout_log_probs", "current"),
    "responses": Format(responses, "choices", "none"),
}


def detect(record: Record) -> str:
    """The format of a record, by its keys. Raises Broken."""
    for name, form in FORMATS.items():
        if form.key in record:
            return name
    if any(isinstance(record.get(name), dict) for name in ("response", "output")):
        return "responses"
    raise Broken(f"unknown format, keys {short(sorted(record)[:8], 120)}; if you know it: --format {'|'.join(FORMATS)}")
