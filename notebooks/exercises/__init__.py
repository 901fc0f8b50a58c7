"""The walkthroughs' exercises, which mark themselves: `check("2.1", answer)`."""

from . import chapters_0_to_4, chapters_5_to_8  # noqa: F401  (they fill EXERCISES)
from .marking import EXERCISES, check, verdict

__all__ = ["EXERCISES", "check", "verdict"]
