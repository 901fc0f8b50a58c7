"""A study's table without its runs: plausible curves from a few lines of NumPy."""

from __future__ import annotations

import json

import numpy as np

from experiments.study.plan import Cell
from experiments.study.table import NUMBERS, Row
from minicppo.rules import get_method


def fake_rows(cell: Cell, level: float | None = None) -> list[Row]:
    """A run that climbs from 0.33 to `level` (by default one that the method and the seed decide), or falls to 0.05."""
    method = get_method(cell.config.method.name, **cell.config.method.params)
    rng = np.random.default_rng([cell.seed, *cell.arm.encode(), *cell.setting.encode()])
    if level is None:
        level = 0.05 if method.name == "none" or rng.random() < 0.08 else rng.uniform(0.75, 0.98)
    n, every = cell.config.train.iterations, cell.config.eval.every
    rows: list[Row] = []
    for i in range(n + 1):
        height = float(np.clip(level + (0.33 - level) * np.exp(-4 * i / n) + rng.normal(0, 0.03), 0, 1))
        row: Row = {
            "part": cell.part,
            "setting": cell.setting,
            "arm": cell.arm,
            "method": method.name,
            "params": json.dumps(dict(method.params), default=str, sort_keys=True),
            "run": cell.run,
            "status": "finished",
            "seed": cell.seed,
            "iteration": i,
            "updates": 16,
            **dict.fromkeys(NUMBERS),
        }
        if i % every == 0 or i == n:
            row |= {"accuracy": height, "accuracy_se": 0.03, "greedy": min(1.0, height + 0.1)}
            if i:
                row |= {"surrogate": 0.1, "gain": -1.0 - height, "gain_low": -2.0}
        if i < n:
            masked = 0.0 if method.name == "none" else 0.03 * rng.uniform(0.5, 1.5)
            row |= {"reward": height, "format_rate": 1.0, "length": 51.0, "entropy": 0.3, "drift": 0.02 + 0.01 * height}
            row |= {"masked": masked, "masked_token_only": masked, "masked_prefix_only": 0.0, "masked_both": 0.0}
            if method.params.get("budget") == "dynamic":
                row |= {"delta_b": 0.02 + 0.02 * rng.random(), "masked_prefix_only": 0.7 * masked}
        if i:
            row["seconds"] = 0.5
        rows.append(row)
    return rows
