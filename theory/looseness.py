"""How loose every bound is on the shared instances: `python -m theory.looseness` (median / largest ratio, xi = 1)."""

from __future__ import annotations

import argparse

import numpy as np
from rich.table import Table

from minicppo.cli import console
from theory.study import Study

FAMILIES = ("dirichlet", "logit noise", "capped", "path budget", "rare token", "budget, algorithm")
TITLES = {
    "uniform": "uniform rule, true cap (Cor. 6)",
    "theorem1_eq8": "Theorem 1 as implemented",
    "prop4": "Prop. 4, true u and l",
    "product": "B.9 product, true u and l",
    "trm_classical": "TRM classical",
    "trm_pinsker": "TRM Pinsker-marginal",
    "trm_mixed": "TRM mixed",
    "trm_coupling": "TRM coupling",
    "trm_adaptive": "TRM adaptive",
    "pair": "F2 pair certificate",
    "caps": "F3 cap theorem",
    "path": "F4 path budget",
    "path_finite": "F4, B^2 (1 - 1/T)",
    "path_algorithm": "F4, B of Eq. 8",
    "path_exact": "F4 without caps, exact form",
    "path_capped": "F4 with the largest cap",
    "expected": "F5 expected budget",
    "mean": "T2, 2 xi U",
    "mean_caps": "T2, true u and l",
    "unrolled": "T2, unrolled",
    "band": "T5, true ratio band",
    "chi2": "F7 chi-square",
}


def ratios(study: Study) -> dict[str, dict[str, tuple[float, float]]]:
    """bound -> family -> (median, largest) of sup |Delta| / bound, over instances whose bound is not rounding noise."""
    found: dict[str, dict[str, list[float]]] = {}
    for item, worst, bounds in zip(study.pool, study.worst, study.bounds_per_instance, strict=True):
        for name, bound in bounds.items():
            if bound > 1e-9:
                found.setdefault(name, {}).setdefault(item.family, []).append(worst / bound)
    return {
        name: {family: (float(np.median(r)), max(r)) for family, r in families.items()}
        for name, families in found.items()
    }


def table(study: Study) -> Table:
    """The ratios for a terminal: 1 is attained, 0.01 is a hundred times too large."""
    found, rows = ratios(study), []
    for name, title in TITLES.items():
        cells = (found[name].get(family) for family in FAMILIES)
        rows.append([title, *("-" if cell is None else f"{cell[0]:.3f} / {cell[1]:.3f}" for cell in cells)])
    return console.table(["bound", *FAMILIES], rows, "sup |Delta| / bound, median / largest", words=1)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    console.console.print(table(Study()))
