"""Mutants: one wrong line each, to show that the properties would notice. Run `python -m tests.mutants`."""

from tests.mutants.plant import Mutant, planted
from tests.mutants.planted import MUTANTS

__all__ = ["MUTANTS", "Mutant", "planted"]
