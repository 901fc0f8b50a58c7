"""Plans: every preset on both engines with every method holds together, two of them word for word."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from minicppo.cli import main
from minicppo.cli.plan import describe
from minicppo.engines import memory
from minicppo.engines.memory import load_of
from minicppo.engines.plan import SIZES, Plan, make_plan
from minicppo.engines.plan_files import plan_files, write_plan
from minicppo.engines.preconditions import Check, preconditions
from minicppo.engines.refusals import closest_variant
from minicppo.engines.split import method_of
from minicppo.engines.verl_settings import loss_mode, render
from minicppo.rl.config import ConfigError, RunConfig, load_config, preset_names
from minicppo.rl.run_dir import RunDir
from minicppo.rules import METHODS, get_method

pytest.importorskip("math_verify", reason="task math needs math-verify: pip install -e '.[math]'")

PRESETS = [name for name in preset_names() if name.startswith("qwen3-")]
RUN = Path("/runs/example")
GOLDEN = Path(__file__).parent / "golden"


def of(preset: str, *overrides: str) -> RunConfig:
    return load_config(preset, list(overrides))


def plan_of(preset: str, *overrides: str) -> Plan:
    return make_plan(of(preset, *overrides), RUN, [preset])


def checks_of(config: RunConfig, folder: Path = RUN) -> dict[str, Check]:
    """The preconditions by name, without the numbers in it."""
    return {check.name.split(",")[0]: check for check in preconditions(config, make_plan(config, folder, []), folder)}


@pytest.mark.parametrize(("preset", "engine"), [("qwen3-8b-base", "verl"), ("qwen3-1.7b", "trl")])
def test_two_plans_word_for_word(preset: str, engine: str) -> None:
    """After a deliberate change: MINICPPO_GOLDEN=write pytest tests/engines/test_plan.py, then read the difference."""
    method = {"verl": "cppo", "trl": "cppo-topk"}[engine]
    made = make_plan(of(preset, f"engine={engine}", f"method={method}"), RUN, [preset, "--engine", engine])
    console = Console(width=120, record=True, file=io.StringIO(), highlight=False)
    for part in describe(made):
        console.print(part, soft_wrap=isinstance(part, str), markup=not isinstance(part, str))
    text = "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"
    path = GOLDEN / f"plan-{preset}-{engine}-{method}.txt"
    if os.environ.get("MINICPPO_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("engine", ["trl", "verl"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_method_is_planned_or_refused_with_a_way_out(preset: str, engine: str) -> None:
    plans = {method: plan_of(preset, f"engine={engine}", f"method={method}") for method in METHODS}
    for name, made in plans.items():
        config = of(preset, f"engine={engine}", f"method={name}")
        method = method_of(config)
        tables = (made.model, made.state, made.training, made.peak, made.cache, made.tokens, made.hours)
        assert all(math.isfinite(value) and value >= 0 for table in tables for value in table.values())
        assert bool(made.cells) == (method.needs == "topk")
        if preset == "qwen3-30b-a3b-base" and engine == "trl":
            assert any("--engine verl" in text for text in made.refusals)
        elif method.needs == "log_probs" or (engine == "trl" and method.needs == "topk"):
            assert made.refusals == []
            if engine == "trl":
                assert (made.settings["method"], made.settings["method_params"]) == (name, str(config.method.params))
            else:
                assert made.settings["actor_rollout_ref.actor.policy_loss.loss_mode"] == loss_mode(name)
                assert made.settings["+actor_rollout_ref.actor.policy_loss.params"] == render(dict(method.params))
        else:
            (refusal,) = made.refusals
            assert (made.settings, made.resolved) == ({}, [])
            assert plans[refusal.rpartition("--method ")[2]].refusals == [], "the way out must lead out"
        json.dumps(made.as_json(), allow_nan=False)


def test_a_family_without_a_variant_that_fits_is_shown_to_cppo() -> None:
    name = next(name for name in METHODS if get_method(name).needs == "topk")
    assert closest_variant(name, "nothing") == "cppo"


@pytest.mark.parametrize(
    ("preset", "prompts", "group", "minibatch", "updates", "longest", "delta", "delta_b", "budget"),
    [
        ("qwen3-1.7b", 64, 8, 32, 2, 8192, 0.15, 0.015, "fixed"),
        ("qwen3-1.7b-base", 64, 8, 32, 2, 8192, 0.15, 0.020, "dynamic"),
        ("qwen3-8b-base", 128, 8, 32, 4, 8192, 0.15, 0.020, "dynamic"),
        ("qwen3-30b-a3b-base", 256, 16, 32, 8, 16384, 0.20, 0.020, "dynamic"),
    ],
)
def test_presets_are_table_3(
    preset: str, prompts: int, group: int, minibatch: int, updates: int, longest: int, delta: float, delta_b: float,
    budget: str,
) -> None:  # fmt: skip
    config = of(preset)
    method = get_method(config.method.name, **config.method.params)
    rollout = config.rollout
    assert (rollout.prompts, rollout.group_size, rollout.max_new_tokens) == (prompts, group, longest)
    assert (config.train.minibatch_prompts, config.train.minibatches) == (minibatch, updates)
    assert (method.params["delta"], method.params["delta_b"], method.params["w_min"]) == (delta, delta_b, 0.8)
    assert method.params["budget"] == budget
    assert (config.train.lr, config.rollout.cells, config.rollout.temperature) == (1e-6, 20, 1.0)
    assert (config.eval.samples, config.eval.temperature, config.eval.top_p) == (16, 0.7, 0.95)
    assert config.eval.data == ["aime24", "aime25", "aime26"]
    assert config.task.options["data"] == "dapo-math-17k"


def test_a_method_of_the_family_keeps_the_presets_thresholds() -> None:
    assert of("qwen3-30b-a3b-base", "method=cppo-topk").method.params["delta"] == 0.2
    assert of("qwen3-1.7b", "method=cppo").method.params == of("qwen3-1.7b").method.params
    assert "budget" not in of("qwen3-1.7b", "method=cppo-no-budget").method.params
    assert of("qwen3-30b-a3b-base", "method=cppo-topk-kl").method.params == {"w_min": 0.8}
    assert of("qwen3-30b-a3b-base", "method=dppo").method.params == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["engine=local"], "is a name on the Hugging Face hub.*hf download Qwen/Qwen3-8B-Base.*engine=trl or verl"),
        (["model.path=hub:Qwen3"], "not of the form hub:OWNER/NAME"),
        (["train.minibatch_prompts=48"], "minibatch_prompts = 48 does not fit rollout.prompts = 128"),
        (["train.minibatches=8"], "and train.minibatches = 8: .*set one of the two to null"),
        (["cluster.tensor_parallel=3"], r"cluster: .*tensor_parallel \* pipeline_parallel = 3 must divide .* = 8"),
        (["cluster.node=2"], r"did you mean 'cluster\.nodes'"),
        (["engine=vllm"], "input should be 'local', 'trl' or 'verl'"),
        (["rollout.prompts=many"], r"rollout.prompts = 'many': input should be"),
        (["rollout=64"], "rollout = 64: input should be"),
    ],
)
def test_refused_configurations(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        of("qwen3-8b-base", *overrides)


def test_a_resolved_configuration_loads_again(tmp_path: Path) -> None:
    config = of("qwen3-8b-base", "rollout.prompts=64")
    assert config.train.minibatches == 2
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "config.yaml") == config


# --- the arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", memory.ARCHITECTURES)
def test_parameters_are_those_of_the_model(name: str) -> None:
    from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

    a = memory.ARCHITECTURES[name]
    sizes = {
        "hidden_size": a.hidden,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "vocab_size": a.vocabulary,
        "tie_word_embeddings": a.tied,
    }
    experts = {"num_experts": a.experts, "moe_intermediate_size": a.intermediate}
    config = Qwen3MoeConfig(**sizes, **experts) if a.experts else Qwen3Config(**sizes, intermediate_size=a.intermediate)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert a.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "billions", "active"),
    [("0.6B", 0.596, 0.596), ("1.7B", 1.72, 1.72), ("8B", 8.19, 7.57), ("30B-A3B", 30.5, 3.04)],
)
def test_parameters_are_the_published_ones(name: str, billions: float, active: float) -> None:
    assert memory.ARCHITECTURES[name].parameters / 1e9 == pytest.approx(billions, rel=5e-3)
    assert memory.ARCHITECTURES[name].active / 1e9 == pytest.approx(active, rel=5e-3)


def test_memory_by_hand() -> None:
    """8B on 8 GPUs: 16 bytes a parameter in eighths; 147,456 bytes of cache a token; 12 bytes a cell."""
    load = load_of(of("qwen3-8b-base"))
    assert load is not None
    assert sum(memory.state_bytes(load).values()) == 16 * load.model.parameters / 8
    assert memory.cache(load)["a sequence"] == 147456 * (1024 + 8192)
    assert memory.training_bytes(load)["logits"] == 6 * 9216 * 151936
    topk = load_of(of("qwen3-8b-base", "engine=trl", "method=cppo-topk"))
    assert topk is not None
    assert sum(memory.state_bytes(topk).values()) == 16 * load.model.parameters
    assert memory.top_log_prob_bytes(topk) == {
        "as tensors": 1024 * 8192 * 20 * 12,
        "as Python objects": 1024 * 8192 * 20 * 60,
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_more_gpus_never_need_more_memory_or_time(preset: str) -> None:
    config = of(preset)
    small, large = load_of(config), load_of(of(preset, f"cluster.nodes={2 * config.cluster.nodes}"))
    assert small is not None
    assert large is not None
    assert sum(memory.state_bytes(large).values()) <= sum(memory.state_bytes(small).values())
    assumed = memory.Assumptions()
    assert memory.training_seconds(large, 1, assumed) == memory.training_seconds(small, 1, assumed) / 2
    assert memory.generation_seconds(large, large.responses, assumed) <= memory.generation_seconds(
        small, small.responses, assumed
    )


def test_every_preset_fits_the_gpus_it_names() -> None:
    for preset in PRESETS:
        made = make_plan(of(preset), RUN, [preset])
        checks = {check.name.split(",")[0]: check for check in preconditions(of(preset), made, RUN)}
        assert made.refusals == []
        assert checks["GPU memory"].passed, preset
        assert checks["KV cache"].passed, preset
        if made.engine == "trl":  # alone, the first process evaluates
            assert checks["KV cache of an evaluation"].passed, preset


def test_trl_evaluates_on_one_gpu_while_the_others_wait() -> None:
    hours = {gpus: plan_of("qwen3-1.7b", f"cluster.gpus_per_node={gpus}").hours for gpus in (1, 8)}
    assert hours[1]["seconds of an evaluation"] == hours[8]["seconds of an evaluation"]
    # 48 batches (1,440 samples and 90 greedy answers, 32 at a time) of 8,192 steps of at least 0.03 s
    assert hours[8]["seconds of an evaluation"] >= 48 * 8192 * 0.03
    config = of("qwen3-1.7b", "eval.batch=null")
    checks = preconditions(config, make_plan(config, RUN, []), RUN)
    (check,) = [check for check in checks if "of an evaluation" in check.name]
    assert (check.passed, check.remedy) == (False, "eval.batch=2")


def test_a_smaller_gpu_than_is_planned_with_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SimpleNamespace(total_memory=24e9, name="a small one")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: small)
    config = of("qwen3-8b-base")
    checks = {c.name.split(",")[0]: c for c in preconditions(config, make_plan(config, RUN, []), RUN)}
    assert not checks["GPU memory"].passed
    assert checks["GPU memory"].found == "24 GB of a small one"


def test_the_last_evaluation_counts() -> None:
    for iterations, evaluations in ((100, 11), (101, 12), (5, 2)):
        made = plan_of("qwen3-8b-base", f"train.iterations={iterations}", "eval.every=10")
        assert made.hours["evaluations"] == evaluations


def test_trl_offloads_nothing() -> None:
    stays, wished = plan_of("qwen3-1.7b"), plan_of("qwen3-1.7b", "cluster.offload=true")
    assert wished.peak == stays.peak
    assert any("cluster.offload = true" in text for text in wished.refusals)


def test_sizes_of_the_test_sets() -> None:
    from minicppo.rl.data import SOURCES

    assert set(SIZES) <= set(SOURCES)


# --- preconditions, files and the command -----------------------------------------------------------------------------


def test_each_failing_precondition_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINICPPO_DATA", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for preset in PRESETS:
        for engine in ("trl", "verl"):
            config = of(preset, f"engine={engine}", "method=cppo-topk")
            for check in preconditions(config, make_plan(config, tmp_path, [preset]), tmp_path):
                assert check.passed or check.remedy, check.name
                if check.name.startswith("data "):
                    assert not check.passed
                    assert str(tmp_path) in check.remedy


def test_data_in_the_folder_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINICPPO_DATA", str(tmp_path))
    (tmp_path / "aime24.parquet").touch()
    config = of("qwen3-8b-base")
    found = {c.name: c.passed for c in preconditions(config, make_plan(config, tmp_path, []), tmp_path)}
    assert found["data aime24"]
    assert not found["data aime25"]
    config = of("qwen3-8b-base", "eval.data=[]", "task.options={test: [aime26]}")
    found = {c.name: c.passed for c in preconditions(config, make_plan(config, tmp_path, []), tmp_path)}
    assert (found["data gsm8k"], found["data aime26"]) == (False, False), "the default and a list are looked for, too"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("engine", ["trl", "verl"])
def test_scripts_are_sound(preset: str, engine: str, tmp_path: Path) -> None:
    config = of(preset, f"engine={engine}", "method=cppo")
    paths = write_plan(config, tmp_path)
    assert load_config(tmp_path / "config.yaml") == config
    scripts = [str(path) for path in paths if path.suffix == ".sh"]
    assert len(scripts) == 3
    for script in scripts:
        assert os.access(script, os.X_OK)
        subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", *scripts], check=True)
    slurm = (tmp_path / "slurm.sh").read_text()
    assert slurm.index("#SBATCH") < slurm.index("set -euo")  # sbatch stops reading at the first command
    assert ("ray start" in slurm) == (engine == "verl" and config.cluster.nodes > 1)
    with pytest.raises(FileExistsError, match=r"launch\.sh.*--force"):
        write_plan(config, tmp_path)
    assert write_plan(config, tmp_path, force=True) == paths
    assert set(plan_files(config)) == {path.name for path in paths}


def test_the_launch_script_starts_and_goes_on(tmp_path: Path) -> None:
    write_plan(of("qwen3-0.6b-base"), tmp_path / "a folder")
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "minicppo").write_text('#!/bin/sh\necho "$@"\n')
    (bin_dir / "minicppo").chmod(0o755)
    environment = {"PATH": f"{bin_dir}:{os.environ['PATH']}", "RUN_DIR": str(tmp_path / "my run")}

    def launch() -> str:
        script = tmp_path / "a folder" / "launch.sh"
        return subprocess.run(
            ["bash", script], env=environment, capture_output=True, text=True, check=True, cwd="/"
        ).stdout.strip()

    assert launch() == f"train {tmp_path}/a folder/config.yaml --run-dir {tmp_path}/my run"
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "config.yaml").touch()
    assert launch() == f"resume {tmp_path}/my run"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "qwen3-8b-base", "--engine", "verl", "--method", "dppo", "train.lr=2e-6"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--write", str(tmp_path / "jobs")])
    assert ended.value.code in (0, None)
    shown = capsys.readouterr().out
    assert "minicppo train qwen3-8b-base --engine verl --method dppo train.lr=2e-6" in shown
    assert "actor_rollout_ref.actor.optim.lr=2e-06" in shown
    assert "preconditions fail" in shown
    assert load_config(tmp_path / "jobs" / "config.yaml").train.lr == 2e-6
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json", "--run-dir", str(tmp_path / "run")])
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "dppo"
    assert found["command"][-2:] == ["--run-dir", str(tmp_path / "run")]
    assert {"name", "passed", "found", "remedy", "required"} == set(found["preconditions"][0])


def test_a_plan_of_the_local_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "learn"])
    shown = capsys.readouterr().out
    assert "minicppo train learn" in shown
    assert "No estimate" in shown


def test_training_refuses_what_it_cannot_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.device_count() >= 8:
        pytest.skip("here it could start")
    with pytest.raises(SystemExit) as ended:
        main(["train", "qwen3-8b-base", "--engine", "verl", "--method", "cppo-topk", "-o", str(tmp_path / "run")])
    assert ended.value.code == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "Engine verl cannot start here" in shown
    assert "8 GPUs" in shown
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit):
        main(["train", "qwen3-1.7b", "-o", str(tmp_path / "run")])
    assert "torchrun --nproc-per-node=8 --no-python minicppo train" in " ".join(capsys.readouterr().err.split())


def test_the_ray_job_takes_the_data_folder_along(tmp_path: Path) -> None:
    write_plan(of("qwen3-8b-base"), tmp_path / "a folder")
    (tmp_path / "ray").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "ray").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "RUN_DIR": "/shared/run",
        "MINICPPO_DATA": "/shared/the data",
    }
    job = ["bash", str(tmp_path / "a folder" / "ray-job.sh")]
    shown = subprocess.run(job, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown[-4:] == ["RUN_DIR=/shared/run", "MINICPPO_DATA=/shared/the data", "bash", "launch.sh"]


def test_resuming_wants_the_same_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On one, a run of eight would go on with a rollout of its own."""
    RunDir.create(tmp_path / "run", of("qwen3-1.7b"))
    with pytest.raises(SystemExit) as ended:
        main(["resume", str(tmp_path / "run")])
    assert ended.value.code not in (0, None)
    shown = "".join(capsys.readouterr().err.split())
    assert f"torchrun--nproc-per-node=8--no-pythonminicpporesume{tmp_path / 'run'}" in shown


def test_minibatches_may_be_null_where_minibatch_prompts_are_given() -> None:
    assert of("qwen3-8b-base", "train.minibatches=null").train.minibatches == 4
