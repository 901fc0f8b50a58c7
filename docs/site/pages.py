"""The site's generated pages: methods and configuration from the records themselves, the API from docstrings."""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

import minicppo
from minicppo.bounds.design import certified_residual, design_thresholds
from minicppo.rl.config import RunConfig, load_config, preset_names
from minicppo.rl.keys import keys
from minicppo.rl.tasks import TASKS
from minicppo.rules import METHODS, get_method

MODULES = (
    *("rules", "reference", "bounds", "inspect", "learn"),
    *("rl.config", "rl.tasks", "rl.trainer", "engines.trl", "engines.verl"),
)
METHODS_PAGE = """# Hyper-parameters

Every method by name: what it is, what it needs of the policy that sampled, and each hyper-parameter with its default
and where that comes from. `get_method("cppo", delta=0.2)` sets one, and so does `method.params.delta=0.2` after
`minicppo train`. [Methods](../docs/methods.md) has all of them in one table.
"""
CONFIGURATION_PAGE = """# Configuration

Values are given as `KEY=VALUE` after `minicppo train PRESET`, or in a YAML file.
"""
THRESHOLDS_PAGE = r"""# Thresholds by horizon

Two questions hide behind "which thresholds?". The paper **trains** with $\delta = 0.15$ (0.20 for its largest model),
$\delta_b = 0.02$ and $w_{min} = 0.8$, whatever the length, and so do the presets here: start there. What a bound
**certifies** is far smaller. The table gives, for each number of tokens $T$, the largest $\delta$ and $\delta_b$ (with
$\delta / \delta_b = 7.5$, $w_{min} = 1$ and rewards between 0 and 1) that guarantee a residual of at most 0.5, that is:
the surrogate is wrong by at most 0.5. The last column is the residual that the path budget allows with the paper's
values; above 1 it says nothing, because rewards differ by no more. [How they are derived](../theory/thresholds.md);
another residual: `minicppo thresholds --horizon 4096 --residual 0.2`.
"""
HORIZONS = (64, 256, 1024, 2048, 4096, 8192, 16384, 32768)


def generated() -> dict[str, str]:
    """Every generated page by its path in the site."""
    found = {f"api/minicppo-{name.replace('.', '-')}.md": api(f"minicppo.{name}") for name in MODULES}
    names = ", ".join(f"`{name}`" for name in minicppo.__all__)
    found["api/minicppo.md"] = f"# `minicppo`\n\n{names} of [minicppo.rules](minicppo-rules.md).\n"
    found |= {"reference/hyper-parameters.md": methods(), "reference/configuration.md": configuration()}
    return found | {"reference/thresholds.md": thresholds()}


def api(name: str) -> str:
    """One module's page, for autodoc: what the module lists as its own, from wherever it comes."""
    listed = "   :imported-members:\n" if hasattr(importlib.import_module(name), "__all__") else ""
    return f"# `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n{listed}```\n"


def methods() -> str:
    """Every method with its hyper-parameters."""
    lines = [METHODS_PAGE]
    for name in METHODS:
        method = get_method(name)
        needs = method.needs.replace("_", "-")
        lines += [f"## {name}", "", f"{_cell(method.summary)}. Token weight `{method.formula}`, decided by"]
        lines += [f"{method.level}; needs {needs}. Source: {_cell(method.source)}.", ""]
        rows = [(f"`{key}`", f"`{value}`", _limits(note), note.source) for key, (value, note) in method.hypers.items()]
        if rows:
            lines += [*_table(("name", "default", "allowed", "source"), rows), ""]
    return "\n".join(lines)


def configuration() -> str:
    """Every key of a run's configuration, every task and every preset."""
    lines = [CONFIGURATION_PAGE]
    sections: dict[str, list[tuple[Any, ...]]] = {}
    for key in (vars(each) for each in keys(RunConfig)):
        section = key["name"].partition(".")[0] if "." in key["name"] else "the run"
        row = (f"`{key['name']}`", key["type"], f"`{_plain(key['default'])}`", key["limits"], key["text"])
        sections.setdefault(section, []).append(row)
    for section, rows in sections.items():
        lines += [f"## {section}", "", *_table(("key", "type", "default", "limits", "what it is"), rows), ""]
    tasks = [(f"`{name}`", (task.__doc__ or "").partition("\n")[0]) for name, task in sorted(TASKS.items())]
    lines += ["## Tasks", "", *_table(("task", "what it is"), tasks), "", "## Presets", ""]
    presets = [(f"`{name}`", config.engine, config.task.name, config.method.name, config.train.iterations)
               for name in preset_names() for config in [load_config(name)]]  # fmt: skip
    return "\n".join([*lines, *_table(("preset", "engine", "task", "method", "iterations"), presets), ""])


def thresholds() -> str:
    """What certifies a residual at common lengths, by Theorem 1 and by the path budget."""
    rows = []
    for horizon in HORIZONS:
        found = design_thresholds(horizon, 0.5, method="theorem1"), design_thresholds(horizon, 0.5)
        told = (f"{each.delta:.2g} / {each.delta_b:.2g}" for each in found)
        rows.append((f"{horizon:,}", *told, f"{certified_residual(horizon, 0.15, 0.02, 0.8):.3g}"))
    head = ("T", "Theorem 1", "path budget (F4)", "residual of the paper's values, path budget")
    return "\n".join([THRESHOLDS_PAGE, *_table(head, rows), ""])


def _limits(note: Any) -> str:
    if note.choices:
        return ", ".join(f"`{choice}`" for choice in note.choices)
    return f"{'[' if note.closed else '('}{note.low:g}, {note.high:g}]"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]


def _row(cells: Any) -> str:
    return "| " + " | ".join(_cell(str(cell)) for cell in cells) + " |"


def _cell(text: str) -> str:
    """Text in a cell: without the marks that Markdown would read as markup, outside of code."""
    parts = re.split(r"(`[^`]+`)", text.replace("|", r"\|"))
    return "".join(part if part.startswith("`") else re.sub(r"([*_$<\[])", r"\\\1", part) for part in parts)
