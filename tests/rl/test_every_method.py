"""Every method of the registry trains through the same trainer, sampler and data, and logs what it should."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from minicppo.rl.config import RunConfig
from minicppo.rl.run_dir import RunDir
from minicppo.rl.trainer import train
from minicppo.rules import METHODS, get_method

MakeConfig = Callable[..., RunConfig]
EVERY_ROW = {"loss", "grad_norm", "mask/frac", "ratio/mean", "kl/k3", "weight/mean", "weight/raw_mean"}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_trains_twenty_updates(name: str, small_config: MakeConfig, run_folder: Path) -> None:
    settings = {"iterations": 9, "minibatches": 2, "epochs": 2, "lr": 1e-3, "checkpoint_every": 9}
    config = small_config(
        method={"name": name},
        train=settings,
        rollout={"prompts": 16, "group_size": 8, "cells": 4},
        eval={"every": 9, "problems": 4, "samples": 2},
    )
    run = RunDir.open(train(config, run_folder))
    rows = [row for row in run.rows() if row["kind"] == "update"]
    assert len(rows) >= 20  # dropped groups may leave an iteration a minibatch short
    method = get_method(name)
    wanted = set(EVERY_ROW)
    if "divergence" in method.params:
        wanted |= {"div/mean", "div/p90", "div/p99", "div/max", "div/decile_0"}
    if method.family == "cppo":
        wanted |= {"prefix/ratio_mean", "budget/seq_bound", "budget/negative"}
        wanted |= {"budget/at_floor", "budget/at_cap"} if method.params["budget"] == "dynamic" else set()
    wanted |= {"accept/rate"} if method.level == "sequence" else set()
    wanted |= {"minpro/rho_min"} if name == "minpro" else set()
    for row in rows:
        assert wanted <= row.keys()
        assert all(math.isfinite(row[key]) for key in wanted)
        assert row["mask/token_only"] + row["mask/prefix_only"] + row["mask/both"] <= 1 + 1e-9
    assert rows[0]["ratio/mean"] == pytest.approx(1, abs=1e-4)
    assert max(row["grad_norm"] for row in rows) > 0
    assert rows[-1]["kl/k3"] > 0
