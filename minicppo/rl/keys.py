"""The keys of a configuration: what each of them is, and which of them an unknown one means."""

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from minicppo.rl.settings_file import flat, read_settings
from minicppo.rules import METHODS
from minicppo.text import short

FOREIGN = Path(__file__).with_name("foreign_names.yaml")
SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class Key:
    """One key: its dotted name, type and limits of its values, its default, what it is, where the default is from."""

    name: str
    type: str
    default: Any
    limits: str
    text: str
    source: str = "ours"


def keys(section: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """Every key of a section and of the sections in it, in their order."""
    for name, field in section.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        if inner := [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]:
            yield from keys(inner[0], f"{prefix}{name}.")
            continue
        found = [(sign, getattr(rule, limit, None)) for rule in field.metadata for limit, sign in SIGNS.items()]
        limits = ", ".join(f"{sign} {most}" for sign, most in found if most is not None)
        yield Key(prefix + name, _type(field.annotation), field.default, limits, field.description or "")


def hyper_keys(method: str) -> list[Key]:
    """The hyper-parameters of a method as keys, with the sources of their defaults."""
    found = []
    for name, (value, note) in METHODS[method].hypers.items():
        low = "" if note.low == -math.inf else f"{'>=' if note.closed else '>'} {note.low:g}"
        limits = ", ".join(filter(None, (low, "" if note.high == math.inf else f"<= {note.high:g}")))
        kind = " | ".join([*map(str, note.choices), *["number"] * (not note.choices or note.low > -math.inf)])
        default = ".inf" if value == math.inf else value  # as YAML has it, and JSON has not
        found.append(Key(f"method.params.{name}", kind, default, limits, f"of {method}", note.source))
    return found


def meant(section: type[BaseModel], typed: str, value: Any) -> list[str]:
    """What to say of a key that does not exist: for it, or for the first keys under it, a line with what each means.

    First by meaning (what TRL, verl, OpenRLHF and others call it), then by its last word, then by its letters.
    """
    known = [key.name for key in keys(section)]
    names = [name for name, _ in flat({typed: value})] or [typed]
    return [f"unknown key {short(name)}{_one_meant(known, name)}" for name in names[:20]]


@cache
def foreign_names() -> tuple[dict[str, str], dict[str, str]]:
    """Names of other libraries: the key that each means here, and why those that mean none are not here."""
    table = read_settings(FOREIGN)
    return tuple({name: ours for ours, names in table[part].items() for name in names} for part in ("keys", "absent"))  # type: ignore[return-value]


def _one_meant(known: list[str], typed: str) -> str:
    ours, absent = foreign_names()
    for name in sorted([*ours, *absent], key=lambda name: (name == typed, len(name)), reverse=True):  # the longest one
        ends = len(name) > 2 and f".{typed}".endswith(f".{name}")  # `n` alone is a group's size, `val.n` is not
        if typed == name or ends or ("." in typed and name.endswith(f".{typed}")):
            return f": here it is {ours[name]}" if name in ours else f": {absent[name]}"
    same = [name for name in known if name.endswith(f".{typed}")]
    param = typed.removeprefix("method.").removeprefix("params.")
    if not same and any(param in method.params for method in METHODS.values()):
        return f": here it is method.params.{param}"
    like = same or difflib.get_close_matches(typed, [*known, *{name.partition(".")[0] for name in known}], 1)
    return f"; did you mean {' or '.join(map(repr, like))}?" if like else "; minicppo config lists all"


def _type(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if get_origin(kind) is list and get_origin(get_args(kind)[0]) is Literal:
        return f"list of {_type(get_args(kind)[0])}"
    if get_origin(kind) in (list, tuple, dict):
        return {list: "list", tuple: "pair of numbers", dict: "mapping"}[get_origin(kind)]
    if inner := get_args(kind):  # a union
        return " | ".join(map(_type, inner))
    return {NoneType: "null", str: "text", int: "whole number", float: "number", bool: "true | false"}[kind]
