"""Configuration: presets, recipes, overrides, plugins, keys, and every refusal with its message."""

import re
import time
from math import inf
from operator import attrgetter
from pathlib import Path

import pytest
import torch
import yaml

from experiments.study.plan import load_study
from minicppo.cli.options import default_folder
from minicppo.cli.train import train
from minicppo.plugins import load_plugins
from minicppo.rl.config import PRESETS, ConfigError, RunConfig, load_config, preset_names, recipe_names, validate
from minicppo.rl.keys import foreign_names, keys, meant
from minicppo.rl.sections import MethodConfig
from minicppo.rl.tasks import Task
from minicppo.rl.tasks.chain import ChainTask


def test_a_config_survives_its_yaml(tmp_path):
    config = load_config("stale", ["seed=3", "method.params.delta=0.1"])
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert load_config(path) == config
    assert config.name in preset_names()


@pytest.mark.parametrize(
    ("preset", "overrides", "key", "value"),
    [
        ("learn", "train.lr=2e-4", "train.lr", 2e-4),
        ("learn", "warmup=null", "warmup", None),
        ("learn", "method.params.delta=1e-1", "method.params", {"delta": 0.1}),
        ("learn", "train.betas=[0.9,0.95]", "train.betas", (0.9, 0.95)),
        ("learn", "train.autocast=off", "train.autocast", "off"),
        ("learn", "train.normalize_std=true", "train.normalize_std", True),
        ("learn", "rollout.cells=7", "rollout.top_log_probs", 7),  # the old name
        ("stale", "method.params.delta=0.1 method=grpo", "method", MethodConfig(name="grpo")),  # of another family
        ("stale", "task=chain task.options.steps=2", "task.options", {"steps": 2}),
        ("stale", "recipe=dppo method.params.delta=0.1", "method.params", {"delta": 0.1, "ratio_cap": 5.0}),
        ("stale", "recipe=dppo train.loss_agg_mode=token-mean", "train.loss_agg_mode", "token-mean"),
        ("learn", "method=icepop", "recomputes_old", True),  # it corrects for the mismatch
        ("learn", "method=icepop train.old_log_probs=rollout", "recomputes_old", False),
        ("learn", "method=grpo", "recomputes_old", False),
        ("learn", "method=grpo train.old_log_probs=recompute", "recomputes_old", True),
        ("learn", "recipe=dppo method.params.ratio_cap=.inf", "method.params", {"delta": 0.2, "ratio_cap": inf}),
    ],
)
def test_overrides(preset, overrides, key, value):
    assert attrgetter(key)(load_config(preset, overrides.split())) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", r"unknown key 'train\.lrr'; did you mean 'train\.lr'"),
        ("trian.lr=1", r"unknown key 'trian\.lr'; did you mean 'train\.lr'"),
        ("actor_rollout_ref.actor.optim.lr=1e-6", r"unknown key .*here it is train\.lr"),
        (
            "actor_rollout_ref={model: {path: x}, rollout: {n: 8}}",
            r"unknown key .*here it is model\.path\n.*here it is rollout\.group_size",
        ),
        ("temperature=1", r"unknown key .*did you mean 'rollout\.temperature' or 'eval\.temperature'"),
        ("method.delta=.1", r"unknown key .*here it is method\.params\.delta"),
        ("xyzzy=1", "unknown key .*minicppo config lists all"),
        ("method=cpo", "'cpo' is unknown.*did you mean 'cppo'"),
        ("method.params.detla=0.1", "detla.*did you mean 'delta'"),
        ("method.params.delta=0", "delta=0 is outside"),
        ("task=chian", "unknown task 'chian'.*did you mean 'chain'"),
        ("task.options.step=3", "did you mean 'steps'"),
        ("rollout.top_p=0.9", r"top_p = 0\.9.*truncated sampling.*top_p=1"),
        ("rollout.top_k=20", r"top_k = 20.*truncated sampling"),
        ("rollout.temperature=0", r"rollout\.temperature: 0 must be positive"),
        ("eval.temperature=0", r"eval\.temperature: 0 must be positive"),
        ("rollout.group_size=1", "group_size = 1.*use 2 or more"),
        ("train.minibatches=5", r"train\.minibatches = 5 must divide rollout\.prompts = 32"),
        ("train.lr=0", r"train\.lr = 0: input should be greater than 0"),
        ("train.loss_agg_mode=tokenmean", "unknown mode 'tokenmean'.*did you mean 'token-mean'"),
        ("engine=vllm", "engine = 'vllm': input should be 'local'"),
        ("device=cuda:7", r"device = 'cuda:7' is not available here"),
        ("model.hidden_size=63", "hidden_size = 63 must be a multiple"),
        ("model.path=/no/such/model", "'/no/such/model' does not exist"),
        ("train.lr", "must have the form key=value"),
        ("train.lr=[1", "is not a YAML value"),
        ("recipe=dr-gpro", "no recipe 'dr-gpro'; did you mean 'dr-grpo'"),
        ("rollout={cells: 7, top_log_probs: 7}", "cells is the old name of top_log_probs: give one of them"),
        ("plugins=3", r"plugins = 3: a list is wanted, as plugins=\[3\]"),
    ],
)
def test_refusals(override, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_config("stale", [override])


def test_every_mistake_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        load_config("stale", ["train.lrr=1", "train.epochs=0", "rollout.group_size=1"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("source", "text", "message"),
    [
        ("stael", None, "no preset or file 'stael'; did you mean 'stale'"),
        ("none.yaml", None, "no file 'none.yaml'"),
        ("broken.yaml", "a: [", "not valid YAML"),
        ("broken.yaml", "- 1", "must hold a mapping"),
        ("broken.yaml", "", "is empty"),
    ],
)
def test_presets_and_files_that_hold_no_settings(source, text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(source).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(source)


ODD_NAMES = ["a\nmkdir b", "../../away", "a/b", ".", "-rf", "$(id)", "a b", "", "a" * 101, "é" * 60, "a\0b"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_no_path_and_no_command(name, tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)^name: .* is no name: up to 100 letters") as caught:
        validate({"name": name})
    assert len(str(caught.value)) < 250
    study = {"name": name, "preset": "learn", "results": "here", "parts": {}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(ConfigError, match="is no name"):
        load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize("name", ["learn", "qwen3-1.7b", "größe_2", "a+b", "7", "a" * 100])
def test_plain_names(name):
    assert default_folder(validate({"name": name}), []).parts == ("runs", f"{name}-cppo")


NUMBERS = ["train.lr", "train.betas", "eval.top_p", "seed", "task.options.steps", "method.params.w_min"]


@pytest.mark.parametrize("number", ["-.inf", ".nan", "1e999", "9" * 30, "'-inf'"])
@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_are_finite(key, number):
    with pytest.raises(ConfigError, match=f"^({key}|task.options|steps)"):
        load_config("learn", [f"{key}={f'[0.9, {number}]' if key == 'train.betas' else number}"])


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 10}]\n" for i in range(1, 9))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases that stand for more"),
        ("a: &a [*a]", "aliases that stand for more"),
        (f"a: &a {'x' * 1000}\nb: [{'*a,' * 1000}]", "aliases that stand for more"),
        ("a: &a {b: 1}\n" + "c: {<<: [" + "*a," * 50_000 + "]}", "too many for settings|aliases"),
        ("name: " + "x" * 200_000, "too many for settings"),
        ("name: " + "x" * 20_000, r"^name: a text of 20,000 characters"),
        ("[" * 3000, "too deep|not valid YAML"),
        ("a: " + "[" * 50 + "]" * 50, "more than 16 levels"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: !!int x", "not valid YAML"),
        ("a: !!timestamp 7", "not valid YAML"),
        ("a: !!float [1]", "not valid YAML"),
        ("1: 2", "1 under settings: keys are texts"),
        ("task: {options: {1: 2}}", r"1 under task\.options: keys are texts"),
        ("train: {" + ", ".join(f"k{i}: 1" for i in range(2000)) + "}", "and 1980 more"),
        ("wrong: {" + ", ".join(f"k{i}: 1" for i in range(2000)) + "}", r"wrong\.k19"),
        ("seed: " + "9" * 5000, "not valid YAML: Exceeds the limit"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_what_a_file_may_not_do(text, message, tmp_path):
    (tmp_path / "odd.yaml").write_text(text)
    start = time.process_time()
    for read in (load_config, load_study):
        with pytest.raises(ConfigError) as caught:
            read(tmp_path / "odd.yaml")
        assert re.search(message, str(caught.value)) or read is load_study
        assert len(str(caught.value)) < 5000
    assert time.process_time() - start < 10  # on a busy machine; a second or two, of a text that would go on for ever


@pytest.mark.slow
@pytest.mark.parametrize("key", "train.lr task.name method model.path device x recipe engine plugins".split())
def test_no_error_repeats_a_long_value(key):
    for value in ("x" * 9000, "[" + "y, " * 9000 + "]", "~" + "z" * 300):
        with pytest.raises(ConfigError) as caught:
            load_config("learn", [f"{key}={value}"])
        assert len(str(caught.value)) < 1500


def test_aliases_for_a_few_settings_and_dates_are_texts(tmp_path):
    (tmp_path / "own.yaml").write_text("name: 2026-02-31\neval: &few {problems: 4}\nrollout: {prompts: 8}\n")
    assert load_config(tmp_path / "own.yaml").name == "2026-02-31"
    (tmp_path / "own.yaml").write_text("rollout: {batch: &n 8, prompts: *n}")
    assert load_config(tmp_path / "own.yaml").rollout.prompts == 8


def test_a_from_scratch_policy_needs_an_alphabet_and_a_warm_up_demonstrations(small_config, monkeypatch):
    with pytest.raises(ConfigError, match=r"task 'math' has no alphabet for a policy from scratch: set model\.path"):
        small_config(task={"name": "math"}, warmup=None)
    monkeypatch.setattr(ChainTask, "demonstration", Task.demonstration)
    with pytest.raises(ConfigError, match="no demonstrations to warm up on: set warmup to null"):
        small_config()


@pytest.mark.parametrize("native", [True, False])
def test_native_is_bfloat16_where_the_processor_multiplies_it(native, monkeypatch):
    monkeypatch.setattr("minicppo.rl.config.has_native_bfloat16", lambda: native)
    config = load_config("smollm2-demo", ["device=cpu"])
    assert config.train.autocast == "native"
    assert config.autocast_dtype() is config.rollout_dtype() is (torch.bfloat16 if native else None)
    assert load_config("learn", ["device=cpu"]).autocast_dtype() is None


PLUGIN = """
from minicppo.rl.tasks import register_task
from minicppo.rl.tasks.chain import ChainTask

@register_task
class Mine(ChainTask):
    name = "mine-of-{name}"
"""


def test_a_plugin_is_loaded_before_its_task_is_looked_up(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(PLUGIN.format(name=tmp_path.name))
    (tmp_path / "own.yaml").write_text(f"plugins: [mine.py]\ntask: mine-of-{tmp_path.name}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"mine\.py is code, .* --plugin {tmp_path}/mine\.py"):
        load_config("own.yaml")  # naming a file does not run it
    load_plugins(["mine.py"])
    config = load_config("own.yaml", ["task.options.steps=2"])
    assert config.plugins == [str(tmp_path / "mine.py")]  # absolute: a run resumes from anywhere
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "config.yaml") == config
    assert config.make_task().max_new_tokens == 15
    with pytest.raises(ConfigError, match=r"none\.py is code"):
        load_config("learn", ["plugins=[none.py]"])


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_sets_the_method_and_its_normalisation_alone(name):
    base, config = load_config("stale"), load_config("stale", [f"recipe={name}"])
    changed = {key for key, value in config.train if value != getattr(base.train, key)}
    assert changed <= {"loss_agg_mode", "normalize_std"}
    assert config.method.name.split("-")[0] in name or name in ("dr-grpo", "grpo-original")
    assert (config.task, config.rollout, config.eval) == (base.task, base.rollout, base.eval)
    text = (PRESETS / "recipes" / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert "normalize_std:" in text  # both said outright, so that a recipe means the same over any preset
    assert "loss_agg_mode:" in text


def test_the_help_lists_all_recipes():
    listed = re.search(r"recipes: ([^)]*)\)", train.__doc__ or "")
    assert re.split(r",\s+", listed[1]) == recipe_names()


KNOWN = {key.name for key in keys(RunConfig)}


def test_every_key_says_what_it_is():
    assert len(KNOWN) > 60
    for key in keys(RunConfig):
        assert "" not in (key.text, key.type), key
    limits = {key.name: key.limits for key in keys(RunConfig)}
    assert (limits["train.lr"], limits["eval.top_p"]) == ("> 0", "> 0, <= 1")


def test_foreign_names_mean_keys_that_exist():
    ours, absent = foreign_names()
    assert len(ours) > 150
    assert not ours.keys() & absent.keys()
    for meaning in ours.values():
        key = meaning.partition(" ")[0]
        assert key in KNOWN or key.startswith(("task.options.", "method.params.")), key


def test_a_foreign_name_is_answered_with_ours():
    ours, absent = foreign_names()
    for name, answer in ({name: f"here it is {key}" for name, key in ours.items()} | absent).items():
        assert meant(RunConfig, name, 1) == [f"unknown key {name!r}: {answer}"]
