"""Runs, checkpoints and models from elsewhere, or damaged: refused in one line that names the file and a way out."""

import json
import os
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from minicppo.cli import main
from minicppo.plots.runs import Trace, load_run
from minicppo.rl.checkpoint import list_checkpoints
from minicppo.rl.eval_store import Store, claimed
from minicppo.rl.gguf import convert_gguf
from minicppo.rl.policy import load_policy
from minicppo.rl.tasks.base import Problem
from minicppo.rl.trainer import resume, train, trained_policy
from tests.command_line import command
from tests.fake_runs import write_run
from tests.rl.test_gguf import needs_readers, write_tiny_gguf

pytestmark = pytest.mark.slow
NEWEST = "checkpoints/000002"
POLICY, COUNTERS = f"{NEWEST}/policy", f"{NEWEST}/state.json"
WEIGHTS = f"{POLICY}/model.safetensors"
MOMENTS = f"{NEWEST}/optimizer.safetensors"
HISTORY = f"{NEWEST}/history.safetensors"
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def stopped(small_config, tmp_path_factory):
    """A run that was stopped after two of its three iterations."""
    config = small_config(train={"iterations": 2, "checkpoint_every": 1, "staleness": 1})
    run = train(config, tmp_path_factory.mktemp("stopped") / "run")
    (run / "summary.json").unlink()
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["train"]["iterations"] = 3
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    return run


@pytest.fixture
def run(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("fake") / "run")


def assert_refused(work, *named):
    with pytest.raises(ValueError, match="Way out: ") as caught:
        work()
    text = str(caught.value)
    assert "\n" not in text
    for name in named:
        assert name in text


def content(new):
    return lambda file: file.write_bytes(new)


def entry(key, value):
    """One of a JSON file; None removes it."""

    def change(file):
        entries = json.loads(file.read_text()) | {key: value}
        file.write_text(json.dumps({k: v for k, v in entries.items() if v is not None}))

    return change


def tensors(damage):
    return lambda file: save_file(damage(load_file(file)), file, {"format": "pt"})


def without(*names):
    return tensors(lambda all: {name: tensor for name, tensor in all.items() if not name.startswith(names)})


def changed(name, new):
    return tensors(lambda all: all | {name: new(all[name]).contiguous()})


def more(name):
    return tensors(lambda all: all | {name: torch.ones(())})


@pytest.mark.parametrize(
    ("file", "damage", "named"),
    [
        (MOMENTS, without(f"{NORM}/exp_avg_sq"), "were saved, three for each"),
        (MOMENTS, without(f"{NORM}/"), "were saved, three for each"),
        (MOMENTS, more("x/step"), "x/step"),
        (MOMENTS, changed(f"{NORM}/exp_avg", lambda t: t[:1]), "/exp_avg is float32 (1,), and not float32 (16,)"),
        (MOMENTS, changed(f"{NORM}/exp_avg", lambda t: t / 0), f"{NORM}/exp_avg has values"),
        (MOMENTS, changed(f"{NORM}/exp_avg_sq", lambda t: -t - 1), f"{NORM}/exp_avg_sq has values"),
        (MOMENTS, changed(f"{NORM}/step", lambda t: t * 0), f"{NORM}/step has values from 0 to 0"),
        (WEIGHTS, without(NORM), f"1 weights are missing, such as {NORM}"),
        (WEIGHTS, more("model.layers.2.x"), "1 weights are unexpected, such as model.layers.2.x"),
        (WEIGHTS, changed(NORM, lambda t: t[:3]), "1 weights are mismatched, such as"),
        (WEIGHTS, changed(NORM, lambda t: t.bfloat16()), f"{NORM} is not of type float32"),
        (WEIGHTS, changed(NORM, lambda t: t * torch.nan), f"{NORM} has values from nan"),
        (HISTORY, without(f"0/{NORM}"), f"0/{NORM} is missing"),
        (HISTORY, more("2/x"), "2/x is none"),
        (HISTORY, changed(f"1/{NORM}", lambda t: t[:, None]), f"1/{NORM} is float32 (16, 1)"),
        (COUNTERS, entry("log_sizes", {"metrics.jsonl": 5}), ""), (COUNTERS, entry("log_sizes", 3), ""),
        (COUNTERS, entry("iteration", None), ""), (COUNTERS, entry("iteration", 1), ""),
        (COUNTERS, entry("update", -1), ""), (COUNTERS, entry("update", True), ""),
        (WEIGHTS, content(b"abcd"), ""), (MOMENTS, content(b""), ""), (HISTORY, content(b"\0" * 8), ""),
        (COUNTERS, content(b"{"), ""), (COUNTERS, content(b"[]"), ""), (COUNTERS, content(b"\xff"), ""),
        (f"{POLICY}/config.json", content(b"{"), ""), (f"{POLICY}/tokenizer.json", content(b"{"), ""),
        (f"{POLICY}/tokenizer.json", content(b""), ""), (f"{POLICY}/tokenizer_config.json", content(b"["), ""),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint(run, file, damage, named):
    damage(run / file)
    before = (run / "metrics.jsonl").read_bytes()
    assert_refused(lambda: resume(run), named, str(run / file), f"remove {run / NEWEST}")
    assert (run / "metrics.jsonl").read_bytes() == before


def test_the_number_of_moments_is_compared_unless_an_older_version_did_not_say_it(run):
    entry("moments", 3)(run / COUNTERS)
    assert_refused(lambda: resume(run), str(run / MOMENTS), "but 3 were saved")
    entry("moments", None)(run / COUNTERS)
    resume(run)


LOGS = ["metrics.jsonl", "timings.jsonl", ".lock"]


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        *product([*LOGS, "checkpoints", NEWEST], [os.symlink], ["a link"]),
        *product(LOGS, [os.link], ["a link"]),
        *product(LOGS, [lambda _, path: os.mkfifo(path)], ["no file"]),
    ],
)
def test_what_a_run_writes_to_has_no_second_name_and_is_no_pipe(run, tmp_path, name, make, says):
    victim = tmp_path / "victim"
    if (run / name).exists():
        (run / name).rename(victim)
    else:
        victim.write_text("mine")
    make(victim, run / name)
    before = {path: path.is_file() and path.read_bytes() for path in [victim, *victim.rglob("*")]}
    assert_refused(lambda: resume(run), f"{run / name} is {says}")
    assert before == {path: path.is_file() and path.read_bytes() for path in [victim, *victim.rglob("*")]}


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_results_of_an_evaluation_are_no_link(tmp_path, link):
    pytest.importorskip("pyarrow")
    (tmp_path / "mine").write_text("half a line")
    link(tmp_path / "mine", tmp_path / "x.jsonl")
    assert_refused(lambda: Store(tmp_path / "x.jsonl", []), "x.jsonl is a link")
    assert (tmp_path / "mine").read_text() == "half a line"
    (tmp_path / "eval").symlink_to(tmp_path)
    assert_refused(lambda: claimed(tmp_path / "eval", {}).__enter__(), "eval is a link")
    assert not (tmp_path / "settings.json").exists()


def test_only_six_digits_are_a_checkpoint(run):
    own = ["000001-best", "000002-best", "000002.bak", "0000001", "99", "best", "٠٠٠٠٠١", " 000001", "000001 "]
    for name in own:
        (run / "checkpoints" / name / "of mine").mkdir(parents=True)
    (run / "checkpoints" / "latest").symlink_to("000002")
    resume(run)
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["000003"]
    assert all((run / "checkpoints" / name / "of mine").is_dir() for name in own)


@pytest.mark.parametrize("rules", [{}, [], {"model": {}}, {"version": "1.0", "model": {"type": "BPE"}}, {"model": 3}])
def test_a_tokenizer_that_is_none(run, rules):
    (run / POLICY / "tokenizer.json").write_text(json.dumps(rules))
    assert_refused(lambda: trained_policy(run), str(run / POLICY))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("timings.jsonl", '{"kind": "iteration"}'), ("timings.jsonl", "{"), ("timings.jsonl", "[1]"),
        ("timings.jsonl", '{"kind": "iteration", "rollout_s": "x", "update_s": 1, "eval_s": 1}'),
        ("metrics.jsonl", '{"kind": "eval"}'), ("metrics.jsonl", '{"iteration": 3}'), ("metrics.jsonl", "\0"),
        ("metrics.jsonl", '{"kind": "eval", "iteration": {}}'), ("metrics.jsonl", '{"kind": 3}'),
        ("config.yaml", "method: {"), ("config.yaml", "- 3"), ("config.yaml", "method: 3"),
        ("config.yaml", "method: {name: no-method}"), ("config.yaml", "method: {name: cppo, params: [3]}"),
    ],
)  # fmt: skip
def test_logs_and_settings_that_are_none(fake, tmp_path, capsys, file, text):
    run = Path(shutil.copytree(fake, tmp_path / "run"))
    (run / file).write_text(text + "\n")
    told = command(main, capsys)("compare", str(run), "--out", str(tmp_path / "out")).refused()
    assert str(run / file) in told
    assert "Way out: " in told


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("trace.safetensors", content(b"cut")),
        ("trace.safetensors", without("reason")),
        ("trace.safetensors", changed("reason", lambda t: t[:, 1:])),
        ("trace.safetensors", changed("advantages", lambda t: t[1:])),
        ("trace.json", content(b"{")),
        ("trace.json", entry("tokens", None)),
        ("trace.json", entry("tokens", [["1"]])),
        ("trace.json", entry("prompts", None)),
        ("trace.json", entry("prompts", [1] * 24)),
    ],
)
def test_a_trace_that_is_none(fake, tmp_path, file, damage):
    run = Path(shutil.copytree(fake, tmp_path / "run"))
    damage(run / file)
    assert_refused(lambda: load_run(run).trace, str(run / file))


def test_the_trace_of_a_run_is_read(stopped):
    assert Trace(stopped).tokens


@needs_readers
@pytest.mark.parametrize("size", [0, 4, 8, 24, 100, 1000, 4000, -64])
def test_a_gguf_file_that_is_cut_off(tmp_path, size):
    write_tiny_gguf(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes((tmp_path / "x.gguf").read_bytes()[:size])
    assert_refused(lambda: convert_gguf(tmp_path / "x.gguf", tmp_path / "folder"), str(tmp_path / "x.gguf"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('two\n lines') }}", "{{ 1 / 0 }}", "{% for %}", "{{ messages[5].content.x }}", "{{ x.y.z }}",
     "{{ messages | nofilter }}", "{{ ''.__class__.__mro__ }}"],
)  # fmt: skip
def test_a_chat_template_that_raises(run, template):
    folder = run / POLICY
    (folder / "chat_template.jinja").write_text(template)
    assert_refused(lambda: load_policy(folder).encode("1+2="), str(folder), "chat template")


@pytest.mark.parametrize(
    "row", ["3", "{}", "{", '{"index": "x"}', '{"index": -1}', '{"index": 7}', '{"index": 0, "question": "q"}']
)
def test_results_that_are_none(tmp_path, row):
    (tmp_path / "x.jsonl").write_text(row + "\n")
    problem = Problem("q", "1", {"question": "q"})
    assert_refused(lambda: Store(tmp_path / "x.jsonl", [problem]), "x.jsonl")
