"""Hyper-parameters that know their source and their limits: fields of frozen records, checked when one is made."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from minicppo.text import nearest


@dataclass(frozen=True)
class Hyper:
    """What is known of one hyper-parameter: where its default comes from, and which values are allowed."""

    source: str
    low: float = -math.inf  # excluded unless `closed`
    high: float = math.inf
    closed: bool = False
    choices: tuple[Any, ...] = ()  # the allowed names; with a `low`, numbers are allowed beside them

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError, naming the value, the limit and the way out."""
        if self.choices and (isinstance(value, str) or self.low == -math.inf):
            if value not in self.choices:
                raise ValueError(f"{name}={value!r} is unknown{nearest(str(value), [str(c) for c in self.choices])}")
            return
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if not (self.low <= value <= self.high) or (value == self.low and not self.closed):
            left = "[" if self.closed else "("
            raise ValueError(f"{name}={value} is outside {left}{self.low:g}, {self.high:g}]")


def hyper(default: Any, source: str, **limits: Any) -> Any:
    """A dataclass field that is a hyper-parameter. limits: `low`, `high`, `closed` and `choices` of `Hyper`."""
    return field(default=default, metadata={"hyper": Hyper(source, **limits)})


@dataclass(frozen=True)
class Record:
    """A frozen record of hyper-parameters. Making one, also by `dataclasses.replace`, checks every value."""

    __no_type_check__ = True  # for type checkers at run time: a value of the wrong type gets a better message here

    def __post_init__(self) -> None:
        kinds = {f.name: f.type for f in fields(self)}
        for name, (value, note) in self.hypers.items():
            note.check(name, value)
            if kinds.get(name) in (int, "int") and isinstance(value, float) and not value.is_integer():
                raise ValueError(f"{name}={value} must be a whole number")

    @property
    def hypers(self) -> dict[str, tuple[Any, Hyper]]:
        """Each hyper-parameter's value, and what is known of it."""
        return {f.name: (getattr(self, f.name), f.metadata["hyper"]) for f in fields(self) if "hyper" in f.metadata}

    @property
    def params(self) -> dict[str, Any]:
        """Every hyper-parameter by name."""
        return {name: value for name, (value, _) in self.hypers.items()}
