"""The theory as functions: exact tabular policies, the paper's bounds, sharper ones, thresholds, a live
certificate.

Statements, proofs and verdicts: theory/README.md.
"""

from minicppo.bounds.budget import Budget, linear_weights
from minicppo.bounds.certificate import Certificate, certify
from minicppo.bounds.design import Design, certified_residual, design_thresholds, largest_horizon
from minicppo.bounds.tabular import Pair

__all__ = [
    "Budget",
    "Certificate",
    "Design",
    "Pair",
    "certified_residual",
    "certify",
    "design_thresholds",
    "largest_horizon",
    "linear_weights",
]
