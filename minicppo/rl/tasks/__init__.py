"""The tasks by name: every class in this folder, or in a plugin, that `register_task` decorates."""

import importlib
import inspect
import pkgutil
from typing import Any

from minicppo.rl.tasks.base import TASKS, Problem, Task, is_held_out, judged, register_task, sample_problems
from minicppo.text import nearest

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def make_task(name: str, **options: Any) -> Task:
    """The task of that name, built with these options. Raises ValueError: unknown name or option, or a bad value."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}{nearest(name, TASKS)}")
    parameters = inspect.signature(TASKS[name]).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in parameters:
                raise ValueError(f"task {name!r} has no option {option!r}{nearest(option, parameters)}")
    missing = getattr(TASKS[name], "__abstractmethods__", ())
    if missing:
        raise ValueError(f"task {name!r} is not whole: its class has no {', '.join(sorted(missing))}")
    try:
        task = TASKS[name](**options)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"task.options of {name!r}: {error}") from error
    if not hasattr(task, "max_new_tokens"):
        raise ValueError(
            f"task {name!r} has no max_new_tokens: set it, in the class or in __init__, to the longest response"
        )
    return task


__all__ = ["TASKS", "Problem", "Task", "is_held_out", "judged", "make_task", "register_task", "sample_problems"]
