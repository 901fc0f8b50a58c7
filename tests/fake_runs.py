"""Synthetic run directories: what the trainer would write, from made-up tokens and the real rules."""

import json
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.numpy import save_file

from minicppo.rl.config import load_config
from minicppo.rl.run_dir import RunDir
from minicppo.rules import TokenBatch, get_method

DELTA, W_MIN = 0.15, 0.8


def fake_trace(method: str, rows: int = 24, length: int = 40, seed: int = 0) -> tuple[dict[str, np.ndarray], dict]:
    """Token tensors of one update under a method, and its texts."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(length // 2, length + 1, rows)
    valid = np.arange(length) < lengths[:, None]
    mu = rng.uniform(0.2, 0.9, (rows, length)).astype(np.float32)
    outlier = 1 + 6 * (rng.random((rows, length)) < 0.06)
    pi = np.clip(mu + outlier * rng.laplace(0, 0.015, (rows, length)), 0.02, 0.99).astype(np.float32)
    given = {
        "log_probs": np.log(pi) * valid,
        "rollout_log_probs": np.log(mu) * valid,
        "advantages": np.where(rng.random(rows) < 0.5, 0.7, -0.3).astype(np.float32),
        "response_mask": valid,
    }
    params = {"delta": DELTA, "w_min": W_MIN, "budget": "fixed"} if method.startswith("cppo") else {}
    batch = TokenBatch(*map(torch.tensor, given.values()), divergence=torch.tensor(np.abs(pi - mu) * valid))
    out = get_method(method, **params)(batch)
    found = {name: getattr(out, name) for name in ("divergence", "position_weight", "threshold", "reason", "weight")}
    arrays = given | {name: tensor.numpy() for name, tensor in found.items() if tensor is not None}
    arrays["response_ids"] = rng.integers(0, 13, (rows, length))
    words = [["0123456+*-=;#"[i] for i in row[:n]] for row, n in zip(arrays["response_ids"], lengths, strict=True)]
    return arrays, {"prompts": ["3+5*2="] * rows, "tokens": words}


def begin(folder: Path, *saved: int) -> None:
    """A run's folder as an interruption leaves it, with a checkpoint after each of these iterations."""
    run = RunDir.create(folder, load_config("stale"))
    for iteration in saved:
        (run.checkpoints / f"{iteration:06d}").mkdir(parents=True)


def write_run(path: Path, method: str = "cppo-exact", final: float = 0.9, iterations: int = 12, seed: int = 0) -> Path:
    """A finished run of `method` whose held-out accuracy goes from 0.31 to `final`."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    masked = {"none": 0.0, "grpo": 0.02}.get(method, 0.04)
    prefix = 0.8 * masked if method.startswith("cppo") else 0.0
    shares = {"frac": masked, "token_only": masked - prefix, "prefix_only": prefix, "both": 0.0}
    rows: list[dict] = []
    for i in range(iterations + 1):
        accuracy = 0.31 + (final - 0.31) * i / iterations
        responses = {"iteration": i, "format_rate": 1.0, "length": 51.0}
        if i % 4 == 0:
            found = {"accuracy": accuracy, "accuracy_se": 0.02, "greedy_accuracy": 0.97}
            rows.append({"kind": "eval", "update": 4 * i, **responses, **found})
        if i == iterations:
            break
        rows.append({"kind": "rollout", **responses, "reward": accuracy})
        for u in range(4):
            share = u / 3 * rng.uniform(0.8, 1.2)
            update = {"kind": "update", "iteration": i, "update": 4 * i + u, "drift": 0.01 * share}
            update |= {"loss": 0.0, "grad_norm": 1.0, "entropy": 0.3}
            rows.append(update | {f"mask/{name}": part * share for name, part in shares.items()})
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
