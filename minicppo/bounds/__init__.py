"""The theory as functions of numbers and arrays: the paper's bounds, sharper ones, thresholds, a live certificate.

Statements, proofs, verdicts and the tabular policies that check them are in the repository's theory/.
"""

from minicppo.bounds.budget import Budget, linear_weights
from minicppo.bounds.certificate import Certificate, certify
from minicppo.bounds.design import Design, certified_residual, design_thresholds, largest_horizon

__all__ = [
    "Budget",
    "Certificate",
    "Design",
    "certified_residual",
    "certify",
    "design_thresholds",
    "largest_horizon",
    "linear_weights",
]
