"""Synthetic run directories: what the trainer would write, from a few lines of NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import save_file

DELTA, DELTA_B, W_MIN = 0.15, 0.02, 0.8


def fake_trace(
    method: str, rows: int = 24, length: int = 40, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, list]]:
    """Token tensors of one update, masked by the CPPO rule ("cppo...") or by a uniform threshold (else)."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(length // 2, length + 1, rows)
    valid = np.arange(length) < lengths[:, None]
    mu = rng.uniform(0.2, 0.9, (rows, length)).astype(np.float32)
    outlier = 1 + 6 * (rng.random((rows, length)) < 0.06)
    pi = np.clip(mu + outlier * rng.laplace(0, 0.015, (rows, length)), 0.02, 0.99).astype(np.float32)
    advantages = np.where(rng.random(rows) < 0.5, 0.7, -0.3).astype(np.float32)
    divergence = np.abs(pi - mu) * valid
    cppo = method.startswith("cppo")
    steps = np.arange(length) / np.maximum(lengths - 1, 1)[:, None]
    weight = (np.where(cppo, 1 - (1 - W_MIN) * steps, 1.0) * valid).astype(np.float32)
    score = weight * divergence
    credit = np.cumsum(weight * (DELTA_B - divergence), axis=1)
    slack = DELTA + np.pad(credit[:, :-1], ((0, 0), (1, 0))) if cppo else np.full_like(score, np.inf)
    away = advantages[:, None] * (pi / mu - 1) > 0
    token, prefix = score > DELTA, score > slack
    reason = np.select([~valid, ~away, token & prefix, token, prefix], [0, 1, 5, 3, 4], 2).astype(np.int8)
    arrays = {
        "response_ids": rng.integers(0, 15, (rows, length)),
        "response_mask": valid,
        "log_probs": np.log(pi) * valid,
        "rollout_log_probs": np.log(mu) * valid,
        "advantages": advantages,
        "divergence": divergence.astype(np.float32),
        "position_weight": weight,
        "threshold": np.minimum(DELTA, slack).astype(np.float32),
        "reason": reason,
        "weight": (pi / mu * (reason < 3)).astype(np.float32),
    }
    if method in ("none", "grpo"):
        for name in ("divergence", "position_weight", "threshold"):
            del arrays[name]
    characters = "0123456+*-=;#"
    ids = arrays["response_ids"]
    texts = {
        "prompts": ["3+5*2="] * rows,
        "tokens": [[characters[i % 13] for i in row[:n]] for row, n in zip(ids, lengths, strict=True)],
    }
    return arrays, texts


def write_run(path: Path, method: str = "cppo-exact", final: float = 0.9, iterations: int = 12, seed: int = 0) -> Path:
    """A finished run of `method` whose held-out accuracy goes from 0.31 to `final`."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    masked = {"none": 0.0, "grpo": 0.02}.get(method, 0.04)
    prefix = 0.8 * masked if method.startswith("cppo") else 0.0
    rows: list[dict] = []
    for i in range(iterations + 1):
        accuracy = 0.31 + (final - 0.31) * i / iterations
        if i % 4 == 0:
            rows.append(
                {"kind": "eval", "iteration": i, "update": 4 * i, "accuracy": accuracy, "accuracy_se": 0.02,
                 "greedy_accuracy": 0.97, "format_rate": 1.0, "length": 51.0}
            )  # fmt: skip
        if i == iterations:
            break
        rows.append({"kind": "rollout", "iteration": i, "reward": accuracy, "format_rate": 1.0, "length": 51.0})
        for u in range(4):
            share = u / 3 * rng.uniform(0.8, 1.2)
            rows.append(
                {"kind": "update", "iteration": i, "update": 4 * i + u, "loss": 0.0, "grad_norm": 1.0, "entropy": 0.3,
                 "mask/frac": masked * share, "mask/token_only": (masked - prefix) * share,
                 "mask/prefix_only": prefix * share, "mask/both": 0.0, "drift": 0.01 * share}
            )  # fmt: skip
    (path / "config.yaml").write_text(yaml.safe_dump({"name": path.name, "method": {"name": method, "params": {}}}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seconds = {"rollout_s": 0.5, "update_s": 1.0, "eval_s": 0.0}
    timings = [{"kind": "iteration", **seconds, "peak_memory_mb": 500.0 + i} for i in range(iterations)]
    (path / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in timings))
    (path / "summary.json").write_text(json.dumps({"iterations": iterations}))
    arrays, texts = fake_trace(method, seed=seed)
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, path / "trace.safetensors")
    (path / "trace.json").write_text(json.dumps(texts))
    return path
