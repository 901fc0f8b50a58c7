"""Made logs of many shapes: right ones, and such with one planted artefact each. Nothing of the inspector is used."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

PLANTED = (
    "shifted truncated temperature placeholder prompt equal half_precision advantages per_token_advantages duplicates "
    "positive nan"
).split()


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def kept(rng: np.random.Generator, log_mu: np.ndarray) -> np.ndarray:
    """What top-p or top-k leaves of each distribution."""
    order = np.argsort(-log_mu, 1)
    ranked = np.exp(np.take_along_axis(log_mu, order, 1))
    if rng.random() < 0.5:
        inside = ranked.cumsum(1) - ranked < rng.choice([0.8, 0.9, 0.95])
    else:
        k = rng.choice([2, 5, max(3, log_mu.shape[1] // 10)])
        inside = np.broadcast_to(np.arange(log_mu.shape[1]) < k, ranked.shape)
    out = np.zeros(log_mu.shape, bool)
    np.put_along_axis(out, order, inside, 1)
    return out


def made(kind: str, seed: int) -> dict[str, Any]:
    """One log: lists over its responses of mu, pi, ids and advantages, as six decimals say them; and its traits."""
    rng = np.random.default_rng(seed)
    B, mean = int(rng.choice([4, 12, 48, 128])), int(rng.choice([12, 40, 120, 400]))
    while B * mean > 6000:
        mean //= 2
    while B * mean < 600:
        B *= 2
    lengths = np.maximum(rng.poisson(mean, B) if rng.random() < 0.5 else rng.geometric(1 / mean, B), 3)
    N, V, shape = int(lengths.sum()), int(rng.choice([12, 60, 300])), str(rng.choice(["flat", "mixed", "sure"]))
    scale = {
        "flat": np.full(N, 1.5),
        "mixed": rng.uniform(0.5, 5, N),
        "sure": np.where(rng.random(N) < 0.7, rng.uniform(6, 30, N), rng.uniform(1, 4, N)),
    }[shape]
    z = rng.standard_normal((N, V)) * scale[:, None]
    A = np.repeat(rng.standard_normal(B), lengths)
    power = float(rng.choice([0.6, 0.7, 0.8, 1.25, 1.4])) if kind == "temperature" else 1.0
    on_mu = bool(rng.random() < 0.5)
    log_mu = log_softmax(z / power if on_mu else z)
    if kind == "truncated":
        log_mu = log_softmax(np.where(kept(rng, log_mu), log_mu, -np.inf))
    total = np.exp(log_mu).cumsum(1)
    y = (total < (rng.random(N) * total[:, -1])[:, None]).sum(1).clip(0, V - 1)
    drift = str(rng.choice(["none", "sparse", "sparse", "dense", "strong", "gradient"]))
    size = {"none": 0.0, "sparse": rng.uniform(0.3, 1.2), "dense": rng.uniform(0.05, 0.4), "strong": 0.8, "gradient": 0}
    moved = rng.standard_normal((N, V)) * size[drift]
    if drift == "sparse":
        moved *= (rng.random(N) < 0.1)[:, None]
    if drift == "gradient":  # trained on these very tokens
        moved = rng.uniform(0.05, 0.6) * A[:, None] * (np.eye(V)[y] - np.exp(log_mu))
    noise = float(rng.choice([1e-5, 3e-3, 0.02]))
    z_pi = z + moved + rng.standard_normal((N, V)) * noise
    log_pi = log_softmax(z_pi if on_mu else z_pi / power)
    at = np.arange(N)
    flat = {"mu": log_mu[at, y].round(6) + 0.0, "pi": log_pi[at, y].round(6) + 0.0, "ids": y, "advantages": A}
    cuts = lengths.cumsum()[:-1]
    log: dict[str, Any] = {name: [part.copy() for part in np.split(value, cuts)] for name, value in flat.items()}
    plant(kind, rng, log)
    return {**log, "like": (shape, drift, noise, B, mean, V)}


def plant(kind: str, rng: np.random.Generator, log: dict[str, Any]) -> None:
    """Put the artefact into a right log."""
    mu, pi, A, ids = log["mu"], log["pi"], log["advantages"], log["ids"]
    if kind == "shifted":
        step = int(rng.choice([-1, 1]))
        log["pi"] = [np.concatenate([p[1:], p[-1:]] if step > 0 else [p[:1], p[:-1]]) for p in pi]
    elif kind in ("placeholder", "positive", "nan"):
        value, share = {"positive": (0.7, 0.05), "nan": (np.nan, 0.02)}.get(kind, (0.0, 0.0))
        if kind == "placeholder":
            value, share = float(rng.choice([0.0, 0.0, -1.0, -100.0])), rng.choice([0.03, 0.08, 0.2])
        for m in mu:
            m[rng.random(len(m)) < share] = value
    elif kind == "prompt":
        n, known = int(rng.integers(2, 12)), rng.random() < 0.5
        for i in range(len(mu)):
            extra = -rng.exponential(1.5, n) if known else np.zeros(n)  # the trainer scores prompts too, or does not
            mu[i], pi[i] = np.concatenate([np.zeros(n), mu[i]]), np.concatenate([extra.round(6) + 0.0, pi[i]])
            ids[i], A[i] = np.concatenate([rng.integers(0, 300, n), ids[i]]), np.full(len(mu[i]), A[i][0])
    elif kind == "equal":
        log["pi"] = [m.copy() for m in mu]
    elif kind == "half_precision":
        name, bits = str(rng.choice(["mu", "pi"])), int(rng.choice([8, 11]))
        log[name] = [rounded(x, bits) for x in log[name]]
    elif kind == "advantages":
        log["advantages"] = [np.full(len(a), 0.5) for a in A]
    elif kind == "per_token_advantages":
        log["advantages"] = [a + rng.standard_normal(len(a)) for a in A]
    elif kind == "duplicates":
        for i in range(1, len(mu), 3):
            for name in ("mu", "pi", "ids", "advantages"):
                log[name][i] = log[name][0]


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """To so many binary digits, and then to six decimals, as a log is written."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 2.0**bits) / 2.0**bits, exponent).round(6) + 0.0


def records(log: dict[str, Any], form: str = "neutral", step: int = 0) -> list[dict[str, Any]]:
    """The log as records of a format, to be written one a line."""
    out = []
    for mu, pi, ids, A in zip(log["mu"], log["pi"], log["ids"], log["advantages"], strict=True):
        m, p, i = mu.tolist(), pi.tolist(), ids.tolist()
        if form == "neutral":
            one: dict[str, Any] = {"response_ids": i, "rollout_log_probs": m, "log_probs": p}
            one |= {"advantages": A.tolist(), "step": step, "rewards": float(A[0] > 0)}
        elif form == "prime-rl":
            one = {"token_ids": [7, 8, *i], "loss_mask": [False] * 2 + [True] * len(i), "step": step}
            one |= {"inference_logprobs": [0.0, 0.0, *m], "trainer_logprobs": [0.0, 0.0, *p]}
            one |= {"advantages": [A[0], A[0], *A.tolist()], "position_ids": list(range(len(i) + 2))}
        else:
            one = {"token_ids": [[7, 8, *i, 0]], "token_loss_mask": [[0, 0, *[1] * len(i), 0]]}
            one |= {"sample_loss_mask": [1.0]}
            one |= {"generation_logprobs": [[0.0, 0.0, *m, 0.0]], "prev_logprobs": [[0.0, 0.0, *p, 0.0]]}
            one |= {"advantages": [[A[0], A[0], *A.tolist(), 0.0]], "input_lengths": [len(i) + 2]}
            one |= {"rewards": [float(A[0] > 0)]}
        out.append(one)
    return out


def written(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """A file of records, one a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
