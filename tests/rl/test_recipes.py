"""Recipes: one small file a method, laid over any preset."""

from __future__ import annotations

import re

import pytest

from minicppo.cli.train import train
from minicppo.rl.config import PRESETS, ConfigError, load_config, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_sets_the_method_and_its_normalisation_alone(name: str) -> None:
    base, config = load_config("stale"), load_config("stale", [f"recipe={name}"])
    changed = {key for key, value in config.train if value != getattr(base.train, key)}
    assert changed <= {"loss_agg_mode", "normalize_std"}
    assert config.method.name.split("-")[0] in name or name in ("dr-grpo", "grpo-original")
    assert (config.task, config.rollout, config.eval) == (base.task, base.rollout, base.eval)
    text = (PRESETS / "recipes" / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert "normalize_std:" in text  # both said outright, so that a recipe means the same over any preset
    assert "loss_agg_mode:" in text


def test_later_overrides_win() -> None:
    config = load_config("stale", ["recipe=dppo", "method.params.delta=0.1", "train.loss_agg_mode=token-mean"])
    assert config.method.params == {"delta": 0.1, "ratio_cap": 5.0}
    assert config.train.loss_agg_mode == "token-mean"


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no recipe 'dr-gpro'; did you mean 'dr-grpo'"):
        load_config("stale", ["recipe=dr-gpro"])


def test_the_help_lists_them_all() -> None:
    listed = re.search(r"recipes: ([^)]*)\)", train.__doc__ or "")
    assert listed is not None
    assert re.split(r",\s+", listed[1]) == recipe_names()
