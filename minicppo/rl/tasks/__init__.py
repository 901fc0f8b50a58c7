"""The tasks by name: every class in this folder, or in a plugin, that `register_task` decorates."""

import importlib
import pkgutil

from minicppo.rl.tasks.base import TASKS, Problem, Task, is_held_out, judged, make_task, register_task, sample_problems

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["TASKS", "Problem", "Task", "is_held_out", "judged", "make_task", "register_task", "sample_problems"]
