"""Hyper-parameters that know their source and their limits: annotate once, check everywhere."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, get_type_hints

from minicppo.text import nearest

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Hyper:
    """Annotation of one hyper-parameter: where its default comes from, and which values are allowed.

    low, high: limits, exclusive on the low side unless `closed`. choices: the allowed names; with a `low`, numbers
    are allowed beside them.
    """

    source: str
    low: float = -math.inf
    high: float = math.inf
    closed: bool = False
    choices: tuple[Any, ...] = ()

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


def hypers(function: Callable[..., Any]) -> dict[str, tuple[Any, Hyper]]:
    """The annotated hyper-parameters of a function: name -> (default, Hyper)."""
    hints = get_type_hints(inspect.unwrap(function), include_extras=True)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        notes = [m for m in getattr(hints.get(name), "__metadata__", ()) if isinstance(m, Hyper)]
        if notes:
            found[name] = (parameter.default, notes[0])
    return found


def check_hypers(function: Callable[..., Any], values: dict[str, Any]) -> None:
    """Check values against a function's annotations; unknown names raise and name the nearest."""
    known = hypers(function)
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{function.__name__} has no hyper-parameter {name!r}{nearest(name, known)}")
        known[name][1].check(name, value)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the annotated keyword arguments at every call, before any work."""
    known = hypers(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in kwargs.items():
            if name in known:
                known[name][1].check(name, value)
        return function(*args, **kwargs)

    return wrapper
