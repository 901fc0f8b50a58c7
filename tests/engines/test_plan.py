"""Plans: every preset on both engines with every method holds together, two of them word for word."""

import io
import itertools
import json
import math
import os
import re
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
from minicppo.engines.plan import SIZES, Plan, make_plan, write_plan
from minicppo.engines.preconditions import Check, preconditions
from minicppo.engines.refusals import closest_variant
from minicppo.engines.verl_settings import loss_mode, render
from minicppo.rl.config import ConfigError, RunConfig, load_config, preset_names
from minicppo.rl.data import SOURCES
from minicppo.rl.run_dir import RunDir
from minicppo.rules import METHODS
from tests.command_line import command

pytest.importorskip("math_verify", reason="task math needs math-verify: pip install -e '.[math]'")

PRESETS = [name for name in preset_names() if name.startswith("qwen3-")]
RUN = Path("/runs/example")
GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).resolve().parents[2]


def of(preset: str, *overrides: str) -> RunConfig:
    return load_config(preset, list(overrides))


def plan_of(preset: str, *overrides: str) -> Plan:
    return make_plan(of(preset, *overrides), RUN, [preset])


def checks_of(config: RunConfig, folder: Path = RUN) -> dict[str, Check]:
    """The preconditions by name, without the numbers in it."""
    return {check.name.split(",")[0]: check for check in preconditions(config, make_plan(config, folder, []), folder)}


@pytest.mark.parametrize(("preset", "engine"), [("qwen3-8b-base", "verl"), ("qwen3-1.7b", "trl")])
def test_two_plans_word_for_word(preset, engine):
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


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["trl", "verl"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_method_is_planned_or_refused_with_a_way_out(preset, engine):
    configs = {name: of(preset, f"engine={engine}", f"method={name}") for name in METHODS}
    plans = {name: make_plan(config, RUN, [preset]) for name, config in configs.items()}
    for name, made in plans.items():
        config, method = configs[name], configs[name].make_method()
        tables = (made.model, made.state, made.training, made.peak, made.cache, made.tokens, made.hours)
        assert all(math.isfinite(value) and value >= 0 for table in tables for value in table.values())
        assert bool(made.top_log_probs) == (method.needs == "topk")
        if preset == "qwen3-30b-a3b-base" and engine == "trl":
            assert any("--engine verl" in text for text in made.refusals)
        elif (method.needs == "log_probs" and not method.corrects) or (engine == "trl" and method.needs == "topk"):
            assert made.refusals == []
            if engine == "trl":
                assert (made.settings["method"], made.settings["method_params"]) == (name, str(config.method.params))
            else:
                loss, params = "actor_rollout_ref.actor.policy_loss", dict(sorted(method.params.items()))
                assert made.settings[f"{loss}.loss_mode"] == loss_mode(name)
                assert made.settings[f"+{loss}.params"] == render(params)
        else:
            (refusal,) = made.refusals
            assert (made.settings, made.resolved) == ({}, [])
            assert plans[refusal.rpartition("--method ")[2]].refusals == [], "the way out must lead out"
        json.dumps(vars(made), allow_nan=False)
        assert closest_variant(name, "nothing") == "cppo"


def test_a_method_of_the_family_keeps_the_presets_thresholds():
    assert of("qwen3-30b-a3b-base", "method=cppo-topk").method.params["delta"] == 0.2
    assert of("qwen3-1.7b", "method=cppo").method.params == of("qwen3-1.7b").method.params
    assert "budget" not in of("qwen3-1.7b", "method=cppo-no-budget").method.params
    assert of("qwen3-30b-a3b-base", "method=cppo-topk-kl").method.params == {"w_min": 0.8}
    assert of("qwen3-30b-a3b-base", "method=dppo").method.params == {}
    assert of("qwen3-8b-base", "train.minibatches=null").train.minibatches == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine=local", "is a name on the Hugging Face hub.*hf download Qwen/Qwen3-8B-Base.*engine=trl or verl"),
        ("model.path=hub:Qwen3", "not of the form hub:OWNER/NAME"),
        ("train.minibatch_prompts=48", "minibatch_prompts = 48 does not fit rollout.prompts = 128"),
        ("train.minibatches=8", "and train.minibatches = 8: .*set one of the two to null"),
        ("cluster.tensor_parallel=3", r"cluster: .*tensor_parallel \* pipeline_parallel = 3 must divide .* = 8"),
        ("cluster.node=2", r"did you mean 'cluster\.nodes'"),
    ],
)
def test_refused_configurations(override, message):
    with pytest.raises(ConfigError, match=message):
        of("qwen3-8b-base", override)


@pytest.mark.parametrize(
    ("name", "billions", "active"),
    [("0.6B", 0.596, 0.596), ("1.7B", 1.72, 1.72), ("8B", 8.19, 7.57), ("30B-A3B", 30.5, 3.04)],
)
def test_parameters_are_those_of_the_model_and_the_published_ones(name, billions, active):
    from transformers import AutoConfig, AutoModelForCausalLM

    a = memory.ARCHITECTURES[name]
    sizes = {"hidden_size": a.hidden, "num_hidden_layers": a.layers, "head_dim": a.head_dim, "vocab_size": a.vocabulary}
    sizes |= {"num_attention_heads": a.heads, "num_key_value_heads": a.kv_heads, "tie_word_embeddings": a.tied}
    mlp = {"intermediate_size": a.intermediate}
    experts = {"num_experts": a.experts, "moe_intermediate_size": a.intermediate}
    config = AutoConfig.for_model("qwen3_moe" if a.experts else "qwen3", **sizes, **(experts if a.experts else mlp))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert a.parameters == sum(p.numel() for p in model.parameters())
    assert (a.parameters / 1e9, a.active / 1e9) == pytest.approx((billions, active), rel=5e-3)


def test_memory_by_hand():
    """8B on 8 GPUs: 16 bytes a parameter in eighths; 147,456 bytes of cache a token; 12 bytes a kept log-prob."""
    load, topk = load_of(of("qwen3-8b-base")), load_of(of("qwen3-8b-base", "engine=trl", "method=cppo-topk"))
    assert sum(memory.state_bytes(load).values()) == 16 * load.model.parameters / 8
    assert memory.cache(load)["a sequence"] == 147456 * (1024 + 8192)
    assert memory.training_bytes(load)["logits"] == 6 * 9216 * 151936
    assert sum(memory.state_bytes(topk).values()) == 16 * load.model.parameters
    offloaded = load_of(of("qwen3-8b-base", "engine=trl", "method=cppo-topk", "cluster.offload=true"))
    assert memory.peak_bytes(offloaded) == memory.peak_bytes(topk), "TRL offloads nothing"
    kept = 1024 * 8192 * 20
    assert memory.top_log_prob_bytes(topk) == {"as tensors": 12 * kept, "as Python objects": 60 * kept}


@pytest.mark.parametrize("preset", PRESETS)
def test_more_gpus_never_need_more_memory_or_time(preset):
    small, large = plan_of(preset), plan_of(preset, f"cluster.nodes={2 * of(preset).cluster.nodes}")
    assert sum(large.state.values()) <= sum(small.state.values())
    assert large.hours["seconds of updates with it"] == small.hours["seconds of updates with it"] / 2
    assert large.hours["seconds of sampling a rollout batch"] <= small.hours["seconds of sampling a rollout batch"]


def test_evaluations_in_a_plan():
    for iterations, evaluations in ((100, 11), (101, 12), (5, 2)):  # the last counts
        made = plan_of("qwen3-8b-base", f"train.iterations={iterations}", "eval.every=10")
        assert made.hours["evaluations"] == evaluations
    seconds = [plan_of("qwen3-1.7b", f"cluster.gpus_per_node={n}").hours["seconds of an evaluation"] for n in (1, 8)]
    assert seconds[0] == seconds[1], "under TRL one GPU evaluates while the others wait"
    # 48 batches (1,440 samples and 90 greedy answers, 32 at a time) of 8,192 steps of at least 0.03 s
    assert seconds[1] >= 48 * 8192 * 0.03
    check = checks_of(of("qwen3-1.7b", "eval.batch=null"))["KV cache of an evaluation"]
    assert (check.passed, check.remedy) == (False, "eval.batch=2")
    assert set(SIZES) <= set(SOURCES)


# --- preconditions, files and the command -----------------------------------------------------------------------------


def test_every_preset_fits_the_gpus_it_names():
    for preset in PRESETS:
        checks = checks_of(of(preset))
        assert "engine" not in checks
        assert all(checks[name].passed for name in checks if name.startswith(("GPU memory", "KV cache"))), preset


def test_a_smaller_gpu_than_is_planned_with_counts(monkeypatch):
    small = SimpleNamespace(total_memory=24e9, name="a small one")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: small)
    check = checks_of(of("qwen3-8b-base"))["GPU memory"]
    assert (check.passed, check.found) == (False, "24 GB of a small one")


def test_each_failing_precondition_has_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("MINICPPO_DATA", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for preset, engine in itertools.product(PRESETS, ("trl", "verl")):
        for name, check in checks_of(of(preset, f"engine={engine}", "method=cppo-topk"), tmp_path).items():
            assert check.passed or check.remedy, name
            if name.startswith("data "):
                assert not check.passed
                assert str(tmp_path) in check.remedy
    (tmp_path / "aime24.parquet").touch()
    found = checks_of(of("qwen3-8b-base"), tmp_path)
    assert (found["data aime24"].passed, found["data aime25"].passed) == (True, False)
    found = checks_of(of("qwen3-8b-base", "eval.data=[]", "task.options={test: [aime26]}"), tmp_path)
    assert {"data gsm8k", "data aime26"} <= found.keys(), "the default and a list are looked for, too"


# By what scripts differ in: one process or torchrun, one node or Ray over several.
LAUNCHED = [("qwen3-8b-base", "verl"), ("qwen3-30b-a3b-base", "verl"), ("qwen3-1.7b", "trl")]


@pytest.mark.parametrize(("preset", "engine"), LAUNCHED)
def test_scripts_are_sound(preset, engine, tmp_path):
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
    launch, slurm = ((tmp_path / f"{name}.sh").read_text() for name in ("launch", "slurm"))
    assert slurm.index("#SBATCH") < slurm.index("set -euo")  # sbatch stops reading at the first command
    assert ("torchrun --nproc" in launch) == (engine == "trl")
    assert ("ray start" in slurm) == (engine == "verl" and config.cluster.nodes > 1)
    if "ray start" in slurm:  # ray is the environment's, which is found as by the launch script, before any use
        (found,) = [line for line in launch.splitlines() if "command -v minicppo" in line]
        assert found in slurm[: slurm.index("srun")]
    with pytest.raises(FileExistsError, match=r"launch\.sh.*--force"):
        write_plan(config, tmp_path)
    assert write_plan(config, tmp_path, force=True) == paths


NAMES = ["a\n: >PROOF #", "$(: >PROOF)", "`: >PROOF`", "';: >PROOF;'", "a\r: >PROOF", "a\u2028: >PROOF"]


@pytest.mark.parametrize("name", NAMES)
def test_a_runs_name_is_never_a_command(name, tmp_path):
    config, bash = of("qwen3-30b-a3b-base").model_copy(update={"name": name}), str(shutil.which("bash"))
    for path in write_plan(config, tmp_path):
        if path.suffix == ".sh":
            alone = {"PATH": "", "ENVIRONMENT": str(tmp_path)}  # it finds no minicppo to start
            subprocess.run([bash, path], cwd=tmp_path, env=alone, capture_output=True, check=False)
            heads = [line for line in path.read_text().splitlines() if "PROOF" in line]
            assert all(re.fullmatch(r"#[\w .:,+=/-]*", line) for line in heads), "in comments alone, without its markup"
    assert not (tmp_path / "PROOF").exists()


def test_the_scripts_start_and_go_on(tmp_path):
    folder, run, bin_ = tmp_path / "a folder", tmp_path / "my run", tmp_path / "my env" / "bin"
    write_plan(of("qwen3-0.6b-base"), folder)
    bin_.mkdir(parents=True)
    for program in ("minicppo", "ray"):  # stand-ins that show their arguments, one a line
        (bin_ / program).write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
        (bin_ / program).chmod(0o755)

    def shown_by(script: str, **variables: str) -> list[str]:
        call = ["bash", str(folder / script)]
        return subprocess.check_output(call, env=variables, text=True, cwd="/").splitlines()

    there = {"PATH": f"{bin_}:/usr/bin:/bin", "RUN_DIR": str(run)}
    elsewhere = there | {"PATH": "/usr/bin:/bin", "ENVIRONMENT": str(bin_.parent)}  # no minicppo is on this path
    for variables in (there, elsewhere):
        started = shown_by("launch.sh", **variables)
        assert started == ["train", f"{folder}/config.yaml", "--run-dir", str(run)]
    run.mkdir()
    (run / "config.yaml").touch()
    assert shown_by("launch.sh", **there) == ["resume", str(run)]
    job = shown_by("ray-job.sh", **there, MINICPPO_DATA="/shared/the data")
    assert job[-4:] == [f"RUN_DIR={run}", "MINICPPO_DATA=/shared/the data", "bash", "launch.sh"]


def test_the_command(tmp_path, capsys):
    minicppo = command(main, capsys)
    arguments = ["plan", "qwen3-8b-base", "--engine", "verl", "--method", "dppo", "train.lr=2e-6"]
    shown = minicppo(*arguments, "--write", str(tmp_path / "jobs")).done()
    assert "minicppo train qwen3-8b-base --engine verl --method dppo train.lr=2e-6" in shown
    assert "actor_rollout_ref.actor.optim.lr=2e-06" in shown
    assert "preconditions fail" in shown
    assert load_config(tmp_path / "jobs" / "config.yaml").train.lr == 2e-6
    found = json.loads(minicppo(*arguments, "--json", "--run-dir", str(tmp_path / "run")).out)
    assert found["method"] == "dppo"
    assert found["command"][-2:] == ["--run-dir", str(tmp_path / "run")]
    assert {"name", "passed", "found", "remedy", "required"} == set(found["preconditions"][0])
    shown = " ".join(minicppo("plan", "learn").out.split())
    assert "cppo-exact on learn, engine local, on this machine" in shown
    assert "No estimate of memory and time: minicppo train learn --dry-run measures both here." in shown
    assert "GPU" not in shown
    assert "All preconditions hold" in shown, "none of another engine's is counted"


def test_training_refuses_what_it_cannot_start(tmp_path, capsys):
    if torch.cuda.device_count() >= 8:
        pytest.skip("here it could start")
    run, torchrun = str(tmp_path / "run"), "torchrun --nproc-per-node=8 --no-python minicppo"
    minicppo = command(main, capsys)
    refused = minicppo("train", "qwen3-8b-base", "--engine", "verl", "--method", "cppo-topk", "-o", run)
    assert refused.status == 2
    assert "Engine verl cannot start here" in refused.err
    assert "8 GPUs" in refused.err
    assert not (tmp_path / "run").exists()
    assert f"{torchrun} train" in " ".join(minicppo("train", "qwen3-1.7b", "-o", run).err.split())
    RunDir.create(run, of("qwen3-1.7b"))  # on one process, a run of eight would go on with a rollout of its own
    refused = minicppo("resume", run)
    assert refused.status != 0
    assert f"{torchrun} resume {run}".replace(" ", "") in "".join(refused.err.split())


def test_the_pages_name_the_plans_gpu_hours():
    """To two digits, in the table of the presets, which walkthrough 8 computes as well."""
    pages = "".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    rows = re.findall(r"^\| (`qwen3-[^|]*) \| \w+, [^|]* \| ([\d, ]+) \|$", pages, re.M)
    told = {name: hours for names, each in rows
            for name, hours in zip(re.findall(r"`([^`]+)`", names), each.split(", "), strict=True)}  # fmt: skip
    assert len(told) == 5
    for name, hours in told.items():
        estimated = make_plan(load_config(name), Path("runs"), [name]).hours["GPU-hours in all"]
        assert hours == f"{float(f'{estimated:.2g}'):,.0f}"
