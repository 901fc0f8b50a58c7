"""What several commands are told: arguments and options stated once, and the settings that they amount to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from minicppo.rl.config import RunConfig

Preset = Annotated[str, typer.Argument(metavar="PRESET_OR_YAML", help="A preset's name or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, as dotted keys.")
]
Method = Annotated[str | None, typer.Option("--method", "-m", help="Any name that `minicppo methods` lists.")]
Engine = Annotated[
    str | None, typer.Option("--engine", help="Where it runs: local, trl or verl. [default: the preset's]")
]
Folder = Annotated[
    Path | None,
    typer.Option("--run-dir", "-o", help="Where the run writes. [default: runs/PRESET-METHOD, or -RECIPE]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def settings(overrides: Sequence[str] | None, **named: str | None) -> list[str]:
    """Options as settings, and then the overrides, which may set what naming a method or a recipe resets."""
    return [*(f"{key}={value}" for key, value in named.items() if value), *(overrides or [])]


def recipes_in(given: Sequence[str]) -> list[str]:
    """The recipes that are named among settings."""
    return [value for key, _, value in (text.partition("=") for text in given) if key == "recipe"]


def default_folder(config: RunConfig, given: Sequence[str]) -> Path:
    """Where a run goes unless told: named after the recipe, as two of them may share a method, or after the method."""
    return Path("runs") / f"{config.name}-{[config.method.name, *recipes_in(given)][-1]}"
