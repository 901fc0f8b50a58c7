"""The files of engines that only their own commands start: what they say, that the engines know it, what is refused."""

import ast
import json
import shlex
import stat
import tomllib
from pathlib import Path

import pytest
import yaml

from minicppo.cli import main
from minicppo.engines.elsewhere import TARGETS, refusals_elsewhere
from minicppo.engines.samples import engine_method
from minicppo.engines.skyrl import split_arguments
from minicppo.rl.config import load_config
from tests.command_line import command
from tests.engines.drivers import clone

MEAN = "train.loss_agg_mode=token-mean"


def of(*overrides: str):
    return load_config("qwen3-8b-base", [MEAN, *overrides])


def flat(settings: dict, prefix: str = "") -> dict:
    """Nested settings by dotted key; of a list of tables the first."""
    found = {}
    for key, value in settings.items():
        value = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
        nested = isinstance(value, dict) and key not in ("params", "kwargs")
        found |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return found


def read(engine: str, config) -> dict:
    text = TARGETS[engine].text(config)
    if engine == "prime-rl":
        return flat(tomllib.loads(text))
    if engine == "nemo-rl":
        return flat(yaml.safe_load(text))
    arguments = shlex.split(text.split("main_base", 1)[1].replace("\\\n", ""))
    return dict(argument.split("=", 1) for argument in arguments if argument != "$@")


def loss_of(engine: str, found: dict) -> dict:
    """Method, hyper-parameters and plugins, as the engine hands them to our adapter."""
    if engine == "prime-rl":
        return found["trainer.loss.kwargs"]
    if engine == "nemo-rl":
        return {key: found[f"loss_fn.{key}"] for key in ("method", "params")}
    ours, _, name = split_arguments([f"{key}={value}" for key, value in found.items()])
    return {"method": name, **ours}


CORRECTED = ["method=cppo", "method.params={correction: icepop, delta: 0.1}"]


@pytest.mark.parametrize("change", [[], ["method=dppo"], ["method=icepop"], CORRECTED])
@pytest.mark.parametrize("engine", TARGETS)
def test_the_loss_is_the_runs_method(engine, change):
    config = of(*change)
    assert refusals_elsewhere(config, engine) == []
    loss = loss_of(engine, read(engine, config))
    assert engine_method(loss["method"], loss["params"]) == config.make_method()


def test_sizes_are_the_runs():
    """128 prompts of 8 responses, 32 prompts an update: 256 responses an update, four of them."""
    prime, nemo = (read(engine, of()) for engine in ("prime-rl", "nemo-rl"))
    shell = read("skyrl", of("train.loss_agg_mode=seq-mean-token-sum-norm"))
    assert (prime["orchestrator.batch_size"], prime["max_steps"]) == (256, 4 * 490)
    assert prime["orchestrator.max_off_policy_steps"] == 3
    assert (nemo["policy.train_global_batch_size"], nemo["grpo.num_prompts_per_step"]) == (256, 128)
    assert (shell["trainer.train_batch_size"], shell["trainer.policy_mini_batch_size"]) == ("128", "32")
    assert shell["trainer.algorithm.max_seq_len"] == "8192"
    assert json.loads(shell["trainer.policy.optimizer_config.lr"]) == 1e-6


def annotations(*files: Path) -> dict[str, dict[str, str]]:
    """Of every class in these files the annotation of each field, its bases' among them."""
    classes = [node for file in files for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    found: dict[str, dict[str, str]] = {}
    for node in classes:
        own = {each.target.id: ast.unparse(each.annotation) for each in node.body if isinstance(each, ast.AnnAssign)}
        found[node.name] = {**{k: v for base in node.bases for k, v in found.get(ast.unparse(base), {}).items()}, **own}
    return found


@pytest.mark.parametrize("engine", TARGETS)
def test_every_key_is_the_engines_own(engine):
    """Against the configuration classes, or the example file, of a clone in MINICPPO_ENGINES."""
    keys = read(engine, of("method=dppo"))
    if engine == "nemo-rl":
        base = flat(yaml.safe_load((clone("RL") / "examples/configs/grpo_math_1B.yaml").read_text()))
        ours = {"defaults", "loss_fn.method", "loss_fn.params", "loss_fn.loss_agg_mode", "loss_fn.horizon"}
        known = set(base) | ours | {"policy.scheduler.name", "policy.scheduler.kwargs"}
        assert not {key for key in keys if key not in known and not key.startswith("policy.scheduler")}
        return
    if engine == "skyrl":
        files, root = [clone("SkyRL") / "skyrl/train/config/config.py"], "SkyRLTrainConfig"
        own = {"trainer.override_entrypoint", "minicppo.params"}  # read before the classes are
    else:
        folder = clone("prime-rl") / "packages/prime-rl-configs/src/prime_rl/configs"
        files = [folder / f"{name}.py" for name in ("shared", "trainer", "inference", "orchestrator", "rl")]
        root = "RLConfig"
        own = {key for key in keys if ".source.env." in key}  # of another package
    classes = annotations(*files)
    union = {"deployment": "SingleNodeDeploymentConfig", "loss": "CustomLossConfig", "optim": "AdamWConfig"}
    for key in set(keys) - own:
        kind = root
        for part in key.split("."):
            assert part in classes[kind], f"{key}: {kind} has no {part}"
            kind = union.get(part) or next((name for name in classes if name in classes[kind][part]), "")
            if part == "source":
                kind = "TrainSourceConfig"


def test_the_command_writes_or_prints(tmp_path, capsys):
    run = command(main, capsys)
    plan = ["plan", "qwen3-8b-base", MEAN, "--engine"]
    assert "skyrl.sh" in run(*plan, "skyrl", "--write", str(tmp_path)).done()
    assert (tmp_path / "skyrl.sh").read_text() == TARGETS["skyrl"].text(of())
    assert (tmp_path / "skyrl.sh").stat().st_mode & stat.S_IXUSR
    assert TARGETS["prime-rl"].text(of()) in run(*plan, "prime-rl").done()
    found = json.loads(run(*plan, "nemo-rl", "--json", "train.epochs=2").done())
    assert found["text"] == ""
    assert "train.epochs" in found["refusals"][0]
