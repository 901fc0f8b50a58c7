"""What happened in a run, told from its log, anybody's: `minicppo inspect`; and a recorder for who has none."""

from minicppo.inspect.inspection import Inspection, inspect

__all__ = ["Inspection", "inspect"]
