"""Every method as plain data, kept for the next call: PyTorch, which the rules import, takes two seconds."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicppo.files import kept

if TYPE_CHECKING:
    from minicppo.rules import Method


def catalogue() -> dict[str, Any]:
    """Every method by name: from the user's own folder, unless the rules are loaded already, maybe with a plugin's."""
    if "minicppo.rules" in sys.modules:
        return _anew()
    rules = Path(__file__).parents[1] / "rules"
    return kept("methods", [Path(__file__), *sorted(rules.rglob("*.py"))], _anew)


def _anew() -> dict[str, Any]:
    from minicppo.rules import METHODS

    return {method.name: _data(method) for method in METHODS.values()}


def _data(method: Method) -> dict[str, Any]:
    """JSON has no infinity: a limit there is left out, a value is the word."""
    entry = {
        name: getattr(method, name) for name in ("name", "family", "summary", "formula", "level", "needs", "source")
    }
    params = {}
    for key, (value, note) in method.hypers.items():
        limits = {name: limit for name in ("low", "high") if math.isfinite(limit := getattr(note, name))}
        choices = {"choices": note.choices} if note.choices else {}
        params[key] = {"value": "inf" if value == math.inf else value, "source": note.source, **limits, **choices}
    return {**entry, "params": params}
