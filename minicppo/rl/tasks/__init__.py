"""The tasks by name. Modules are imported on first use, so that optional packages stay optional."""

import importlib
import inspect
from typing import Any

from minicppo.rl.tasks.base import Problem, Task, is_held_out, sample_problems
from minicppo.text import nearest

TASKS: dict[str, tuple[str, str]] = {
    "chain": ("minicppo.rl.tasks.chain", "ChainTask"),
    "addition": ("minicppo.rl.tasks.addition", "AdditionTask"),
    "max-of-three": ("minicppo.rl.tasks.small", "MaxOfThreeTask"),
    "letter-count": ("minicppo.rl.tasks.small", "LetterCountTask"),
    "parity": ("minicppo.rl.tasks.small", "ParityTask"),
    "math": ("minicppo.rl.tasks.math", "MathTask"),
    "reasoning-gym": ("minicppo.rl.tasks.reasoning_gym", "ReasoningGymTask"),
}


def make_task(name: str, **options: Any) -> Task:
    """The task of that name, built with its constructor's options.

    Raises:
        ValueError: unknown name or option; the message names the nearest valid one.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}{nearest(name, TASKS)}")
    module, attribute = TASKS[name]
    factory = getattr(importlib.import_module(module), attribute)
    parameters = inspect.signature(factory).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in parameters:
                raise ValueError(f"task {name!r} has no option {option!r}{nearest(option, parameters)}")
    task: Task = factory(**options)
    return task


__all__ = ["TASKS", "Problem", "Task", "is_held_out", "make_task", "nearest", "sample_problems"]
