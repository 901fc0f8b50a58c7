"""Wrong answers to the exercises 5.1 to 8.3: what a student may well write."""

from typing import Any

WRONG: dict[str, list[Any]] = {}
