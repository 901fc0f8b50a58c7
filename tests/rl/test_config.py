"""Configuration: presets, overrides, and every refusal with its message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from minicppo.rl.config import ConfigError, RunConfig, load_config, preset_names


@pytest.mark.parametrize("name", ["learn", "stale"])
def test_presets_load(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert name in preset_names()


def test_a_config_survives_its_yaml(tmp_path: Path) -> None:
    config = load_config("stale", ["seed=3", "method.params.delta=0.1"])
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert load_config(path) == config


def test_overrides_are_yaml_and_numbers_may_have_exponents() -> None:
    config = load_config(
        "learn", ["train.lr=2e-4", "warmup=null", "method.params.delta=1e-1", "train.betas=[0.9, 0.95]"]
    )
    assert config.train.lr == 2e-4
    assert config.warmup is None
    assert config.method.params == {"delta": 0.1}
    assert config.train.betas == (0.9, 0.95)


def test_naming_another_method_drops_the_parameters_of_the_old() -> None:
    changed = load_config("stale", ["method.params.delta=0.1", "method=grpo"])
    assert changed.method.name == "grpo"
    assert changed.method.params == {}
    assert load_config("stale", ["task=chain", "task.options.steps=2"]).task.options == {"steps": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", r"unknown key 'train\.lrr'; did you mean 'train\.lr'"),
        ("trian.lr=1", "unknown key 'trian'; did you mean 'train'"),
        ("warmup.eror_rate=0.1", r"did you mean 'warmup\.error_rate'"),
        ("method=cpo", "'cpo' is unknown.*did you mean 'cppo'"),
        ("method.params.detla=0.1", "detla.*did you mean 'delta'"),
        ("method.params.delta=0", "delta=0 is outside"),
        ("method.params.delta=-0.1", r"delta=-0\.1 is outside"),
        ("method.params.delta=big", "delta"),
        ("method.params.w_min=1.5", r"w_min=1\.5"),
        ("task=chian", "unknown task 'chian'.*did you mean 'chain'"),
        ("task.options.step=3", "did you mean 'steps'"),
        ("rollout.top_p=0.9", r"top_p = 0\.9.*truncated sampling.*top_p=1"),
        ("rollout.top_k=20", r"top_k = 20.*truncated sampling"),
        ("rollout.temperature=0", r"rollout\.temperature: 0 must be positive"),
        ("rollout.temperature=-1", r"rollout\.temperature: -1 must be positive"),
        ("eval.temperature=0", r"eval\.temperature: 0 must be positive"),
        ("rollout.group_size=1", "group_size = 1.*use 2 or more"),
        ("train.minibatches=5", r"train\.minibatches = 5 must divide rollout\.prompts = 32"),
        ("train.lr=0", r"train\.lr = 0: input should be greater than 0"),
        ("train.lr=fast", r"train\.lr = 'fast': input should be a valid number"),
        ("train.epochs=0", r"train\.epochs = 0"),
        ("train.staleness=-1", r"train\.staleness = -1"),
        ("train.loss_agg_mode=tokenmean", "unknown mode 'tokenmean'.*did you mean 'token-mean'"),
        ("engine=vllm", "engine = 'vllm': input should be 'local'"),
        ("device=cuda:7", r"device = 'cuda:7' is not available here"),
        ("model.hidden_size=63", "hidden_size = 63 must be a multiple"),
        ("model.path=/no/such/model", "'/no/such/model' does not exist"),
        ("train.lr", "must have the form key=value"),
        ("train.lr=[1", "is not a YAML value"),
    ],
)
def test_refusals(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_config("stale", [override])


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("stale", ["train.lrr=1", "train.epochs=0", "rollout.group_size=1"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [("stael", "no preset or file 'stael'; did you mean 'stale'"), ("runs/none.yaml", "no file 'runs/none.yaml'")],
)
def test_missing_presets_and_files(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(source)


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "must hold a mapping"), ("", "mapping")]
)
def test_files_that_hold_no_settings(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_from_scratch_policy_needs_an_alphabet_and_a_warm_up_demonstrations(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from minicppo.rl.tasks.base import Task
    from minicppo.rl.tasks.chain import ChainTask

    with monkeypatch.context() as patch:
        patch.setattr(ChainTask, "alphabet", "")
        with pytest.raises(ConfigError, match=r"no alphabet for a policy from scratch: set model\.path"):
            small_config()
    monkeypatch.setattr(ChainTask, "demonstration", Task.demonstration)
    with pytest.raises(ConfigError, match="no demonstrations to warm up on: set warmup to null"):
        small_config()


@pytest.mark.parametrize("native", [True, False])
def test_native_is_bfloat16_where_the_processor_multiplies_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicppo.rl.config.has_native_bfloat16", lambda: native)
    config = load_config("smollm2-demo", ["device=cpu"])
    assert config.train.autocast == "native"
    assert config.autocast_dtype() is config.rollout_dtype() is (torch.bfloat16 if native else None)
    assert load_config("learn", ["device=cpu"]).autocast_dtype() is None


@pytest.mark.parametrize(("text", "value"), [("off", "off"), ("'off'", "off"), ("bfloat16", "bfloat16")])
def test_off_is_a_word_and_true_a_boolean(text: str, value: str) -> None:
    config = load_config("learn", [f"train.autocast={text}", "train.normalize_std=true"])
    assert config.train.autocast == value
    assert config.train.normalize_std is True
