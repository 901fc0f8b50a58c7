"""Named properties that can be counted, listed and run against any subject: the package itself or a mutant of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.twins import Subject


@dataclass(frozen=True)
class Property:
    """check(subject, *drawn) raises when the statement (its docstring) fails."""

    name: str
    source: str  # "theory 13", "methods P7"; "refuted" for a false statement with its counterexample
    check: Callable[..., None]
    strategies: tuple[st.SearchStrategy[Any], ...]
    examples: int

    @property
    def statement(self) -> str:
        return (self.check.__doc__ or "").strip().splitlines()[0]

    def run(self, subject: Subject, *, examples: int | None = None, fixed: bool = True, shrink: bool = True) -> None:
        """Raise unless the property holds. fixed: the same examples every time; otherwise new ones."""
        if not self.strategies:
            self.check(subject)
            return
        phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)

        @settings(
            max_examples=examples or self.examples,
            derandomize=fixed,
            database=None,
            deadline=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.tuples(*self.strategies))
        def holds(drawn: tuple[Any, ...]) -> None:
            self.check(subject, *drawn)

        holds()


PROPERTIES: dict[str, Property] = {}


def prop(source: str, *strategies: st.SearchStrategy[Any], examples: int = 8) -> Callable[..., Any]:
    """Register the decorated check under its own name."""

    def register(check: Callable[..., None]) -> Callable[..., None]:
        name = check.__name__
        assert name not in PROPERTIES, f"two properties are called {name}"
        assert check.__doc__, f"property {name} does not say what it states"
        PROPERTIES[name] = Property(name, source, check, strategies, examples)
        return check

    return register
