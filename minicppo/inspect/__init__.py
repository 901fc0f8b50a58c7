"""What happened in a run, told from its log, anybody's: `minicppo inspect`; and a recorder for who has none."""

from typing import Any

from minicppo.inspect.inspection import Inspection, inspect

__all__ = ["Inspection", "Recorder", "inspect"]


def __getattr__(name: str) -> Any:
    if name == "Recorder":  # it needs transformers' trainer, which nothing else here does
        from minicppo.inspect.recorder import Recorder

        return Recorder
    raise AttributeError(name)
