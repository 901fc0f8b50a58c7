"""Settings for verl: composed by Hydra against verl's own configuration, accepted by verl's own validation."""

import shutil
import sys
from pathlib import Path

import pytest

from minicppo.engines.refusals import ANCHOR
from minicppo.engines.verl_settings import loss_mode, render, verl_methods, verl_overrides
from minicppo.plugins import load_plugins
from minicppo.reference import LOOPS
from minicppo.rl.config import ConfigError, RunConfig, load_config, preset_names
from minicppo.rules import FAMILIES, METHODS
from tests.engines.stale import ROOT

pytest.importorskip("math_verify", reason="task math needs math-verify: pip install -e '.[math]'")

PRESETS = [name for name in preset_names() if name.startswith("qwen3-")]
RUN = Path("/runs/an example")


def of(preset: str, *overrides: str) -> RunConfig:
    return load_config(preset, ["engine=verl", "method=cppo", *overrides])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("preset", PRESETS)
def test_verl_accepts_every_plan(preset):
    """The preset's settings composed once; then each method's, through Hydra's own parser of overrides."""
    from tests.engines.verl_setup import OmegaConf, accepted, composed, instantiated

    first = verl_overrides(of(preset), RUN)
    config = composed(first)
    accepted(config)
    assert config.data.train_files == "/runs/an example/data/train.parquet"
    assert {key: OmegaConf.select(config, key) for key in ANCHOR} == ANCHOR
    for method in verl_methods():
        chosen = of(preset, f"method={method}")
        actor = instantiated(config, [text for text in verl_overrides(chosen, RUN) if text not in first])
        assert actor.policy_loss.loss_mode == loss_mode(method)
        assert actor.policy_loss.params == chosen.make_method().params
        assert actor.loss_scale_factor == chosen.rollout.max_new_tokens
        assert actor.ppo_mini_batch_size == chosen.train.minibatch_prompts
    kind = "McoreActorConfig" if preset == "qwen3-30b-a3b-base" else "FSDPActorConfig"
    assert type(actor).__name__ == kind


def test_a_harmless_override_comes_last_and_a_refused_one_nowhere():
    config = of("qwen3-8b-base", "cluster.overrides=['trainer.logger=[console,wandb]', trainer.use_v1=True]")
    assert verl_overrides(config, RUN)[-2:] == ["trainer.logger=[console,wandb]", "trainer.use_v1=True"]
    with pytest.raises(ConfigError, match=r"set device=auto\nengine verl: .* set train.staleness=0"):
        verl_overrides(of("qwen3-8b-base", "train.staleness=1", "device=cpu"), RUN)


def test_derived_values(tmp_path, monkeypatch):
    def told(*overrides):
        return dict(text.split("=", 1) for text in verl_overrides(of("qwen3-8b-base", *overrides), RUN))

    actor, settings = "actor_rollout_ref.actor", told("train.lr_warmup=10")
    assert settings[f"{actor}.optim.lr_warmup_steps"] == "3"  # a step a rollout batch of 4 updates
    assert settings[f"{actor}.ppo_max_token_len_per_gpu"] == str(1024 + 8192)
    assert (settings["data.train_batch_size"], settings["trainer.total_training_steps"]) == ("128", "490")
    share = told("train.micro_batch=null")[f"{actor}.ppo_max_token_len_per_gpu"]
    assert share == str(32 * (1024 + 8192))  # a rank's, of the minibatch
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert told("model.path=~/mine")["actor_rollout_ref.model.path"] == str(tmp_path / "mine")


@pytest.mark.filterwarnings("ignore")
def test_a_plugin_reaches_verls_workers(tmp_path):
    file = shutil.copy(ROOT / "tests/rules/widening_clip.py", tmp_path / "mine.py")
    load_plugins([file])
    try:
        chosen = load_config("qwen3-8b-base", [f"plugins=['{file}']", "engine=verl", "method=widening-clip"])
        overrides = verl_overrides(chosen, RUN)
        assert f"+actor_rollout_ref.actor.policy_loss.plugins=[{file}]" in overrides
        from tests.engines.verl_setup import composed, instantiated

        del METHODS["widening-clip"]  # a worker begins without it
        sys.modules.pop(next(name for name in sys.modules if name.startswith("minicppo_plugin_mine")))
        del LOOPS["widening-clip"], FAMILIES["widening-clip"]
        assert instantiated(composed(overrides), []).policy_loss.loss_mode == "widening-clip"
    finally:
        for table in (LOOPS, METHODS, FAMILIES):
            table.pop("widening-clip", None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "value",
    [0.5, 1e-6, float("inf"), -1, True, None, "", "plain", "/a/b c", "it's", "{x}=,", [1, "a"], {"k": {"j": [None]}}],
)
def test_hydra_reads_what_is_rendered(value):
    from tests.engines.verl_setup import composed

    assert composed([f"+some_key={render(value)}"]).some_key == value
