"""Mismatch against drift: trust regions and corrections on one run of each kind, over many seeds.

    python -m experiments.benchmarks.corrections [--seeds 20] [--methods tis grpo]

A run that the results file holds is not made again, so that a stopped measurement goes on where it was.
"mismatch": rollouts in bfloat16 from the weights of 24 updates ago, each used once: pi_old is far from mu, pi is not.
"drift": fresh rollouts in float32, each used for eight epochs at a high rate: pi_old is mu, pi goes far from it.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.common import parser_of
from minicppo.files import write_atomically
from minicppo.rl.checkpoint import TrainState
from minicppo.rl.config import RunConfig, validate
from minicppo.rl.trainer import learn, starting_policy

RESULTS = Path(__file__).parent / "results" / "corrections.json"
COMMON: dict[str, Any] = {
    "task": {"name": "chain", "options": {"steps": 2}},
    "model": {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 2},
    "rollout": {"prompts": 16, "group_size": 8},
    "eval": {"every": 1000, "problems": 64, "samples": 4},
    "warmup": {"error_rate": 0.2, "target": 0.6, "check_every": 50, "anneal": 50, "max_steps": 4000, "lr": 8e-3},
}
TRAIN: dict[str, dict[str, Any]] = {
    "mismatch": {"iterations": 30, "minibatches": 2, "epochs": 1, "lr": 2e-3, "staleness": 24},
    "drift": {"iterations": 8, "minibatches": 2, "epochs": 8, "lr": 1e-3, "staleness": 0},
}
TRUST_REGIONS = ("none", "grpo", "dppo", "cppo")  # all that is to tell apart where pi_old is mu
METHODS: dict[str, dict[str, Any]] = {  # as they are called in the table, and what they are
    "none": {"name": "none"},
    "grpo": {"name": "grpo"},
    "grpo, pi_old for mu": {"name": "grpo", "params": {"correction": "k3-mask", "reject": "off"}},
    "tis": {"name": "tis"},
    "icepop": {"name": "icepop"},
    "seq-mask": {"name": "seq-mask"},
    "geo-mask": {"name": "geo-mask"},
    "dppo": {"name": "dppo"},
    "cppo": {"name": "cppo"},
    "cppo + icepop": {"name": "cppo", "params": {"correction": "icepop"}},
    "cppo + icepop, anchor mu": {"name": "cppo", "params": {"correction": "icepop", "anchor": "rollout"}},
}


def configuration(setting: str, method: str, seed: int) -> RunConfig:
    rollout = {**COMMON["rollout"], "autocast": "bfloat16" if setting == "mismatch" else "float32"}
    train = {**TRAIN[setting], "lr_warmup": 4, "old_log_probs": "recompute", "autocast": "off"}
    return validate({**COMMON, "rollout": rollout, "train": train, "method": METHODS[method], "seed": seed})


def measure(setting: str, method: str, seed: int) -> dict[str, float]:
    """One run: accuracy before and after, its lowest mean reward, and means over its updates."""
    config, rows = configuration(setting, method, seed), []
    torch.set_num_threads(1)
    state = TrainState.begin(config, starting_policy(config))
    learn(config, config.make_task(), config.make_method(), state, lambda row: rows.append(dict(row)))
    evals = [row["accuracy"] for row in rows if row["kind"] == "eval"]
    updates = [row for row in rows if row["kind"] == "update"]
    means = {key: statistics.fmean(row[key] for row in updates) for key in ("mismatch/mean", "drift/mean", "mask/frac")}
    lowest = min(row["reward"] for row in rows if row["kind"] == "rollout")
    return {"before": evals[0], "after": evals[-1], "lowest_reward": lowest, **means}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    given = parser.parse_args()
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for seed in range(given.seeds):
        for setting in TRAIN:
            for method in given.methods:
                key = f"{setting}/{method}/{seed}"
                if key not in found and (setting == "mismatch" or method in TRUST_REGIONS):
                    found[key] = {name: round(value, 6) for name, value in measure(setting, method, seed).items()}
                    write_atomically(RESULTS, f"{json.dumps(found, indent=1, sort_keys=True)}\n".encode())
                    print(key, found[key], flush=True)


if __name__ == "__main__":
    main()
