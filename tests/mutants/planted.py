"""All mutants. A killer must fail on its mutant; every property is the killer of at least one."""

from __future__ import annotations

from tests.mutants.of_loss import OF_LOSS
from tests.mutants.of_mask import OF_MASK
from tests.mutants.of_methods import OF_METHODS

MUTANTS = [*OF_MASK, *OF_METHODS, *OF_LOSS]
