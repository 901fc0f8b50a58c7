"""The walkthroughs' exercises, which mark themselves: `check("2.1", answer)`."""

from minicppo.learn import chapters_0_to_4, chapters_5_to_8  # noqa: F401  (they fill EXERCISES)
from minicppo.learn.exercises import EXERCISES, check, verdict

__all__ = ["EXERCISES", "check", "verdict"]
