"""A study of seconds, and its table without its runs: plausible curves from a few lines of NumPy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from experiments.study.plan import Cell, StudyConfig, load_study
from experiments.study.table import NUMBERS
from minicppo.rules import get_method

SMALL = """
    device=cpu task.options.steps=1 model.hidden_size=16 model.intermediate_size=32 model.heads=2 model.layers=1
    rollout.prompts=8 rollout.group_size=4 train.iterations=4 train.minibatches=2 train.epochs=2 train.lr=3e-3
    train.lr_warmup=2 train.checkpoint_every=1 train.micro_batch=null train.autocast="off" eval.every=2 eval.problems=6
    eval.samples=2 eval.batch=null warmup.target=0 warmup.check_every=90 warmup.anneal=10 warmup.batch=16 warmup.lr=1e-2
""".split()
TINY: dict[str, Any] = {
    "name": "tiny",
    "preset": "stale",
    "settings": SMALL,
    "results": "results",
    "parts": {
        "tune": {
            "title": "Thresholds",
            "question": "Which?",
            "seeds": {"first": 100, "count": 1},
            "arms": {"CPPO": {"method": "cppo-exact", "candidates": [{"delta": 0.02}, {"delta": 0.15}]}},
        },
        "headline": {
            "title": "The comparison",
            "question": "Who?",
            "seeds": {"count": 2},
            "compare": {"CPPO": ["none"]},
            "arms": {
                "none": {"method": "none"},
                "CPPO": {"method": "cppo-exact"},
                "CPPO, tuned": {"method": "cppo-exact", "tuned": "tune"},
            },
        },
    },
}


def study_at(folder: Path, **changes: Any) -> StudyConfig:
    """The tiny study, or another, with its file and its results in `folder`."""
    path = folder / "study.yaml"
    settings = {**TINY, "results": str(folder / "results"), **changes}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return load_study(path)


def fake_rows(cell: Cell) -> pd.DataFrame:
    """A run that climbs from 0.33, or falls to 0.05, as method and seed decide; of part `tune` the first arm wins."""
    method = get_method(cell.config.method.name, **cell.config.method.params)
    rng = np.random.default_rng([cell.seed, *cell.arm.encode(), *cell.setting.encode()])
    level = 0.05 if method.name == "none" or rng.random() < 0.08 else rng.uniform(0.75, 0.98)
    if cell.part == "tune":
        level = 0.9 if cell.config.method.params else 0.8
    n, every = cell.config.train.iterations, cell.config.eval.every
    i = np.arange(n + 1)
    height = np.clip(level + (0.33 - level) * np.exp(-4 * i / n) + rng.normal(0, 0.03, n + 1), 0, 1)
    height[0] = 0.33
    rows = pd.DataFrame({"iteration": i, "updates": 16, **dict.fromkeys(NUMBERS, np.nan)})
    evaluated, rolled = (i % every == 0) | (i == n), i < n
    rows.loc[evaluated, ["accuracy", "accuracy_se", "greedy"]] = np.stack([height, 0 * i + 0.03, height], 1)[evaluated]
    rows.loc[evaluated & (i > 0), ["surrogate", "gain", "gain_low"]] = [0.1, -1.5, -2.0]
    masked = 0.0 if method.name == "none" else 0.03 * rng.uniform(0.5, 1.5)
    rows.loc[rolled, ["drift", "masked", "masked_token_only", "masked_prefix_only"]] = [0.03, masked, masked, 0.0]
    rows.loc[rolled, "reward"] = height[rolled]
    if method.params.get("budget") == "dynamic":
        rows.loc[rolled, ["delta_b", "masked_prefix_only"]] = [0.03, 0.7 * masked]
    rows.loc[i > 0, "seconds"] = 0.5
    place = {"part": cell.part, "setting": cell.setting, "arm": cell.arm, "seed": cell.seed}
    params = json.dumps(dict(method.params), default=str, sort_keys=True)
    return rows.assign(**place, method=method.name, params=params, run=cell.run, status="finished")
