"""What each other reading of the paper changes, on the batches of one small run.

    python -m experiments.benchmarks.readings [--iterations 12] [--json experiments/benchmarks/results/readings.json]

Trains the `stale` preset with CPPO. At every update the two readings of each pair weigh the very same tokens,
and four numbers are averaged: the masked share of either, the share of tokens whose verdict differs, and how far the
gradient with respect to the tokens' log-probs turns, in degrees (0: the same direction; scale does not count, AdamW
divides it out). REPRODUCTION.md's table is made from the result.
"""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.common import parser_of
from minicppo.rl.checkpoint import TrainState
from minicppo.rl.config import load_config
from minicppo.rl.trainer import learn, starting_policy
from minicppo.rules import Method, TokenBatch, TokenWeights, TopLogProbs, get_method, group_advantages, policy_loss

RESULT = Path(__file__).parent / "results" / "readings.json"
TOP_K = 4  # of the tiny task's 15 tokens; the paper's 20 of 152k


@dataclass(frozen=True)
class Reading:
    """One way to weigh a batch: a method, how its loss is aggregated, and how advantages are scaled."""

    method: str = "cppo-exact"
    params: dict[str, Any] = field(default_factory=dict)
    loss_agg_mode: str = "seq-mean-token-sum-norm"
    normalize_std: bool = False

    def __str__(self) -> str:
        words = [self.method, *(f"{key}={value}" for key, value in self.params.items())]
        if self.loss_agg_mode != Reading.loss_agg_mode:
            words.append(self.loss_agg_mode)
        return " ".join([*words, *(["normalize_std"] if self.normalize_std else [])])


OURS = Reading()
BINARY = Reading("cppo")
TOPK = Reading("cppo-topk")
PAIRS: dict[str, tuple[Reading, Reading]] = {
    "length": (OURS, Reading(params={"length": 4 * 51})),
    "cap": (OURS, Reading(params={"cap_factor": 5.0})),
    "fixed": (OURS, Reading(params={"budget": "fixed"})),
    "no-budget": (OURS, Reading(params={"budget": "off"})),
    "no-weight": (OURS, Reading(params={"schedule": "constant"})),
    "binary": (OURS, BINARY),
    "topk": (OURS, TOPK),
    "replace-last": (TOPK, Reading("cppo-topk", {"topk_variant": "replace_last"})),
    "kl": (OURS, Reading("cppo-exact-kl")),
    "std": (OURS, Reading(normalize_std=True)),
    "token-mean": (OURS, Reading(loss_agg_mode="token-mean")),
    "ratio-cap": (OURS, Reading(params={"ratio_cap": 20.0})),
    "soft": (OURS, Reading(params={"gate": "reciprocal"})),
    "direction": (OURS, Reading(params={"direction": "predicted"})),
    "dppo-delta": (Reading("dppo-exact"), Reading("dppo-exact", {"delta": 0.2})),
    "grpo-clip": (Reading("grpo"), Reading("grpo", {"clip_high": 0.27})),
    "cispo-max": (Reading("cispo"), Reading("cispo-verl")),
    "minpro-low": (Reading("minpro"), Reading("minpro", {"w_low": 0.8})),
    "trm-estimator": (Reading("trm-avg-exact"), Reading("trm-avg-k3")),
    "trm-max-estimator": (Reading("trm-max-exact"), Reading("trm-max-logratio")),
    "trm-threshold": (Reading("trm-avg-exact"), Reading("trm-avg-exact", {"delta_avg": 0.002})),
}


def apply(reading: Reading, batch: TokenBatch, group_size: int) -> tuple[TokenWeights, Tensor]:
    """The weights, and the loss's gradient with respect to each token's log-prob."""
    method = get_method(reading.method, **reading.params)
    assert batch.top is not None
    if method.needs == "topk":  # mu's likeliest tokens out of full distributions
        full, top = batch.top, batch.top.rollout_log_probs.topk(TOP_K, dim=-1)
        kept = TopLogProbs(full.log_probs.gather(-1, top.indices), top.values, full.token_ids, top.indices)
        batch = replace(batch, top=kept)
    if reading.normalize_std:
        rewards = batch.advantages[:, 0]  # centred rewards: the same up to the group's mean, which drops out
        scaled = group_advantages(rewards, group_size, normalize_std=True).advantages
        batch = replace(batch, advantages=scaled)
    out = method(batch)
    log_probs = batch.log_probs.clone().requires_grad_()
    loss = policy_loss(
        log_probs, out.weight, batch.advantages, batch.mask, loss_agg_mode=reading.loss_agg_mode, horizon=51
    )
    (gradient,) = torch.autograd.grad(loss, log_probs)
    return out, gradient


def angle(a: Tensor, b: Tensor) -> float:
    """Between two gradients, in degrees; 90 when one of them is zero."""
    a, b = a.double().flatten(), b.double().flatten()
    norm = float(a.norm() * b.norm())
    if not math.isfinite(norm):
        return math.nan
    if not norm:
        return 90.0 if (a != b).any() else 0.0
    return math.degrees(math.acos(max(-1.0, min(1.0, float(a @ b) / norm))))


class Recorder:
    """Stands in for the run's method, and puts every pair of readings to each batch that comes by."""

    def __init__(self, method: Method, group_size: int):
        self.method, self.needs, self.group_size = method, method.needs, group_size
        self.sums: dict[str, list[float]] = {name: [0.0] * 4 for name in PAIRS}
        self.updates = 0

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        self.updates += 1
        for name, pair in PAIRS.items():
            (ours, g), (other, h) = (apply(reading, batch, self.group_size) for reading in pair)
            valid = batch.mask.sum()
            row = (
                float((batch.mask & ~ours.token_mask).sum() / valid),
                float((batch.mask & ~other.token_mask).sum() / valid),
                float((ours.token_mask != other.token_mask).sum() / valid),
                angle(g, h),
            )
            self.sums[name] = [a + b for a, b in zip(self.sums[name], row, strict=True)]
        return self.method(batch)

    def rows(self) -> dict[str, dict[str, Any]]:
        keys = ("masked_first", "masked_second", "verdicts_differ", "gradient_turns_degrees")
        return {
            name: {
                "first": str(PAIRS[name][0]),
                "second": str(PAIRS[name][1]),
                **dict(zip(keys, (x / self.updates for x in sums), strict=True)),
            }
            for name, sums in self.sums.items()
        }


def measure(iterations: int, seed: int) -> dict[str, Any]:
    config = load_config("stale", [f"train.iterations={iterations}", f"seed={seed}", f"eval.every={iterations}"])
    recorder = Recorder(config.make_method(), config.rollout.group_size)
    state = TrainState.begin(config, starting_policy(config))
    learn(config, config.make_task(), recorder, state, log=lambda row: None)  # type: ignore[arg-type]
    return {
        "preset": "stale",
        "iterations": iterations,
        "seed": seed,
        "updates": recorder.updates,
        "rows": recorder.rows(),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULT, help="where the rows go")
    args = parser.parse_args()
    result = measure(args.iterations, args.seed)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in result["rows"].items():
        print(f"{name:18}", *(f"{value:9.4f}" for value in row.values() if isinstance(value, float)))


if __name__ == "__main__":
    main()
