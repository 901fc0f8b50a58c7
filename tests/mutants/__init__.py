"""Mutants: one wrong line each, planted to show that the properties would notice. `python -m tests.mutants` runs them."""

from tests.mutants.planted import MUTANTS
from tests.mutants.plant import Mutant, planted

__all__ = ["MUTANTS", "Mutant", "planted"]
