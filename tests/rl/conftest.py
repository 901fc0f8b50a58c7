"""Runs of a second: a one-step chain, a policy of five thousand parameters, one shared warm-up."""

import random
from collections.abc import Collection, Iterable
from typing import Any

import pytest
import torch

from minicppo.rl.config import ModelConfig, validate
from minicppo.rl.policy import build_policy
from minicppo.rl.tasks import make_task

SMALL_MODEL = {"hidden_size": 16, "intermediate_size": 32, "layers": 2, "heads": 2}
SMALL_RUN: dict[str, Any] = {
    "task": {"name": "chain", "options": {"steps": 1}},
    "method": {"name": "cppo-exact", "params": {"delta": 0.05, "delta_b": 0.005}},
    "model": SMALL_MODEL,
    "rollout": {"prompts": 8, "group_size": 4},
    "train": {"iterations": 4, "minibatches": 2, "epochs": 2, "lr": 3e-3, "lr_warmup": 2, "checkpoint_every": 2},
    "eval": {"every": 4, "problems": 6, "samples": 2},
    "warmup": {"target": 0.0, "check_every": 90, "anneal": 10, "batch": 16, "lr": 1e-2},
}


def slow_but(quick: Collection[str], names: Iterable[str]) -> list[Any]:
    """The names as parameters of a test, marked slow but for the quick ones."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="session", autouse=True)
def _shared_cache(tmp_path_factory):
    """All runs of these tests share one warm-up, outside the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINICPPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="session")
def small_config():
    """`small_config(train={"epochs": 1}, seed=3)`: the small run with some settings changed."""

    def make(**changes):
        settings = dict(SMALL_RUN)
        for key, value in changes.items():
            whole = not isinstance(value, dict) or key in ("method", "task")
            settings[key] = value if whole else {**settings.get(key, {}), **value}
        return validate(settings)

    return make


@pytest.fixture
def policy():
    """An untrained policy over the chain's alphabet, sharp enough that its tokens differ in probability."""
    policy = build_policy(ModelConfig(**SMALL_MODEL), make_task("chain"), seed=0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(3.0)
    return policy


@pytest.fixture
def ragged_prompts(policy):
    """Prompts of 4 to 18 tokens."""
    rng = random.Random(0)
    return [policy.encode(make_task("chain", steps=n).problem(rng).prompt) for n in (1, 8, 3, 5)]
