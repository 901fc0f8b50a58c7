"""What the site's training explorer plays: `python -m docs.tools.explorer` records the demo's four runs.

It trains them, which takes some minutes, and writes docs/site/run.json. After every third iteration the run's trace
says how far each token has moved from the policy that sampled it, which tokens the rule masks, and why.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from experiments.demo import METHODS, PRESET, PRESSURE, with_kept_starts
from minicppo.files import write_atomically
from minicppo.rl.config import RunConfig, load_config
from minicppo.rl.trainer import train
from minicppo.rules import Reason

PATH = Path(__file__).parents[1] / "site" / "run.json"
EVERY, SHOWN = 3, 4  # iterations a frame, responses a frame
MASKED = (Reason.TOKEN, Reason.PREFIX, Reason.BOTH)


def record(config: RunConfig) -> list[dict[str, Any]]:
    """One run's frames: accuracy, drift and masked tokens by position, and some responses token by token."""
    frames: list[dict[str, Any]] = []
    accuracy = 0.0
    with tempfile.TemporaryDirectory() as folder:

        def on_event(row: Mapping[str, Any]) -> None:
            nonlocal accuracy
            if row["kind"] == "eval":
                accuracy = row["accuracy"]
            if row["kind"] == "iteration" and row["iteration"] % EVERY == 0:
                frames.append(frame(Path(folder) / "run", row["iteration"], accuracy))

        train(config, Path(folder) / "run", on_event)
    return frames


def frame(run: Path, iteration: int, accuracy: float) -> dict[str, Any]:
    """What the trace of a run says now."""
    trace, texts = load_file(run / "trace.safetensors"), json.loads((run / "trace.json").read_text(encoding="utf-8"))
    mask, reason = trace["response_mask"], np.where(trace["response_mask"], trace["reason"], 0)
    mu, pi = np.exp(trace["rollout_log_probs"]), np.exp(trace["log_probs"])
    tokens = np.maximum(mask.sum(0), 1)
    shares = {code.name.lower(): rounded(((reason == code) & mask).sum(0) / tokens) for code in MASKED}
    masked = np.isin(reason, MASKED)
    drift = np.where(mask, np.abs(pi - mu), 0)
    chosen = np.lexsort((-drift.sum(1), -masked.sum(1)))[:SHOWN]  # most masked, then most drift
    return {
        "iteration": iteration,
        "accuracy": accuracy,
        "drift": rounded(drift.sum(0) / tokens),
        "masked": shares,
        "share": round(float(masked.sum() / mask.sum()), 5),
        "responses": [
            {
                "prompt": texts["prompts"][i],
                "answer": texts["answers"][i],
                "tokens": texts["tokens"][i],
                "advantage": round(float(trace["advantages"][i]), 3),
                "mu": rounded(mu[i][mask[i]]),
                "pi": rounded(pi[i][mask[i]]),
                "reason": reason[i][mask[i]].tolist(),
            }
            for i in chosen
        ],
    }


def rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def main() -> None:
    runs = {}
    with tempfile.TemporaryDirectory() as cache:
        with_kept_starts(Path(cache))
        for name in METHODS:
            print(name, flush=True)
            runs[name] = record(load_config(PRESET, [*PRESSURE, f"method={name}", f"eval.every={EVERY}"]))
    write_atomically(PATH, json.dumps(runs, separators=(",", ":")).encode())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
