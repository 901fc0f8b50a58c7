"""What several commands are told: arguments and options stated once, and the settings that they amount to."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from minicppo.rl.config import RunConfig

Preset = Annotated[str, typer.Argument(metavar="PRESET_OR_YAML", help="A preset's name or a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, as dotted keys.")]
Method = Annotated[str | None, typer.Option("--method", "-m", help="Any name that `minicppo methods` lists.")]
Folder = Annotated[
    Path | None,
    typer.Option("--run-dir", "-o", help="Where the run writes. [default: runs/PRESET-METHOD, and the settings given]"),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", help="A file with methods or tasks of your own; repeatable."),
]
UNNAMED = "plugins engine recipe method method.name name device".split()  # settings no folder is named after
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load(plugins: Sequence[Path] | None) -> None:
    """Import plugins, so that what they add is known by name."""
    from minicppo.plugins import load_plugins

    load_plugins(plugins or [])


def settings(overrides: Sequence[str] | None, plugins: Sequence[Path] | None = None, **named: str | None) -> list[str]:
    """Options as settings, and then the overrides, which may set what naming a method or a recipe resets."""
    load(plugins)
    first = [f"plugins={json.dumps([*map(str, plugins)])}"] if plugins else []
    return [*first, *(f"{key}={value}" for key, value in named.items() if value), *(overrides or [])]


def recipes_in(given: Sequence[str]) -> list[str]:
    """The recipes that are named among settings."""
    return [value for key, _, value in (text.partition("=") for text in given) if key == "recipe"]


def default_folder(config: RunConfig, given: Sequence[str]) -> Path:
    """Where a run goes unless told: PRESET-METHOD, or -RECIPE, and the settings that were given, as in -seed-1."""
    told = (text.partition("=") for text in given)
    parts = [f"{key.rpartition('.')[2]}-{value}" for key, _, value in told if key not in UNNAMED]
    name = "-".join([config.name, [config.method.name, *recipes_in(given)][-1], *parts])
    name = re.sub(r"[^\w.+-]+", "_", name)
    return Path("runs") / (name if len(name) <= 120 else f"{name[:110]}-{zlib.crc32(name.encode()):08x}")


def require_folders(*files: Path | None) -> None:
    """Before any work. Raises FileNotFoundError: a file is to be written where there is no folder."""
    for path in files:
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to: make it first")


def pair(text: str) -> tuple[str, Any]:
    """A hyper-parameter's KEY=VALUE, or method.params.KEY=VALUE, as a name and a value. Raises ValueError."""
    from minicppo.rl.settings_file import parse_yaml

    key, equals, value = text.removeprefix("method.params.").partition("=")
    if not equals:
        raise ValueError(f"{text!r} must have the form key=value, e.g. budget=fixed or delta=0.2")
    return key, parse_yaml(value)
