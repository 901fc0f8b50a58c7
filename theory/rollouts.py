"""Rollouts sampled from a tabular policy, to compare the certificate with what it estimates."""

from __future__ import annotations

import numpy as np

from minicppo.bounds.certificate import Certificate, certify
from theory import families as fam
from theory import pair_bounds as pb
from theory import tabular as tab
from theory.tabular import Array, Pair


def sample_paths(pair: Pair, rng: np.random.Generator, groups: int, group_size: int) -> tuple[Array, Array]:
    """Leaf numbers of sampled responses and their group ids, both (groups * group_size,)."""
    prompts = rng.choice(len(pair.prior), size=groups, p=pair.prior)
    per_prompt = pair.reach_mu[-1].reshape(len(pair.prior), -1) / pair.prior[:, None]
    leaves = [p * per_prompt.shape[1] + rng.choice(per_prompt.shape[1], group_size, p=per_prompt[p]) for p in prompts]
    return np.concatenate(leaves), np.repeat(np.arange(groups), group_size)


def certify_rollout(
    pair: Pair,
    rewards: Array,
    rng: np.random.Generator,
    groups: int,
    group_size: int,
    exact_divergence: bool = True,
) -> Certificate:
    """The certificate of one sampled batch; rewards (leaves,) in [0, 1]."""
    leaves, ids = sample_paths(pair, rng, groups, group_size)
    log_ratio = np.log1p(pair.path_excess[:, leaves].T)
    divergence = pair.path_divergence[:, leaves].T if exact_divergence else None
    return certify(
        log_ratio, np.zeros_like(log_ratio), rewards[leaves], np.ones_like(log_ratio), ids, divergence,
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def coverage(draws: int, seed: int = 0, groups: int = 200, group_size: int = 4) -> dict[str, float]:
    """How often, over sampled batches, a 95 % interval contains the exact surrogate, pair certificate and divergence.

    "gain": how often its lower limit is below the exact J(pi) - J(mu), at least 97.5 % if the certificate is honest.
    """
    rng = np.random.default_rng(seed)
    pair = fam.mixture(fam.random_pair(rng, 5, 3, prompts=4, concentration=2.0), 0.3)
    rewards = rng.integers(0, 2, len(pair.reach_mu[-1])).astype(float)
    exact = {
        "surrogate": float(tab.surrogate(pair, rewards)),
        "pair": float(pb.pair_certificate(pair, 0.5)),
        "divergence": float(pair.drift.sum()),
    }
    change = float(tab.improvement(pair, rewards))
    hits = dict.fromkeys([*exact, "gain"], 0)
    for _ in range(draws):
        found = certify_rollout(pair, rewards, rng, groups, group_size)
        for name, truth in exact.items():
            hits[name] += getattr(found, name).low <= truth <= getattr(found, name).high
        hits["gain"] += found.gain.low <= change
    return {name: count / draws for name, count in hits.items()}
