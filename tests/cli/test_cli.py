"""The command line: every command runs, every error is one clear line."""

import io
import json
import sys
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console

from minicppo.cli import app
from minicppo.cli.console import program
from minicppo.cli.progress import EVERY, RunProgress
from minicppo.cli.train import train
from minicppo.rl.config import preset_names
from minicppo.rules import METHODS
from tests.command_line import TINY
from tests.fake_runs import begin, write_run


def test_every_command_explains_itself(minicppo):
    shown = minicppo("--help").done()
    assert "--install-completion" in shown
    for command in app.registered_commands:
        assert f" {command.name or command.callback.__name__} " in shown
        assert "Example" in command.callback.__doc__
    shown = minicppo("train", "--help").done()
    assert all(words in shown for words in ("Usage: minicppo train", "KEY=VALUE", "Example"))
    assert all(f"`{name}`" in (train.__doc__ or "") for name in preset_names() if not name.startswith("qwen3-"))
    assert minicppo("--version").done().startswith("minicppo 0.")
    bare = minicppo()
    assert (bare.status, "error" in bare.err) == (2, False)


TOKEN = "explain --mu .5 --pi .5"
MISTAKES = {  # what is typed, and of what it is answered with
    "train stale train.lrr=1": "did you mean 'train.lr'",
    "train stale --method CPPO": "error: method 'CPPO' is unknown; did you mean 'cppo'",
    "train stale --recipe dr-grpo --method grpo": "recipe 'dr-grpo' has a method of its own",
    "train stale --recipe dr-grpo method.name=grpo": "leave it out, or method 'grpo'",
    "train stale --engine vllm": "engine = 'vllm': input should be 'local'",
    "train stale --methode grpo": "--methode; did you mean --method?",
    "explain --mu .5 --pi .6 method=gspo": "method=gspo: here it is an option, --method gspo",
    "train stale --method grpo method.params.delta=0.1": "grpo has no hyper-parameter 'delta'",
    "train stale --out x": "No such option: --out: the run's folder is an option: --run-dir FOLDER",
    "train stale --method.params.delta 0.1": "it is a setting, method.params.delta=0.1",
    "train stale --seed 3": "No such option: --seed: it is a setting, seed=3",
    "train stale --learning-rate=1e-4": "No such option: --learning-rate: here it is train.lr",
    "train stale model=Qwen/Qwen3-0.6B": "a section, whose keys are set one by one, as model.path=",
    "train stale warmup=off": "or warmup=null for none",
    "train learn task=addition eval.problems=900": "lower eval.problems",
    "train": "Missing argument 'PRESET_OR_YAML'",
    "trian": "No such command 'trian'. Did you mean 'train'",
    "demo": "minicppo demo makes this repository's own results: in a clone, python -m experiments demo",
    "study -h": "in a clone, python -m experiments study",
    "methods cpo": "did you mean 'cppo'",
    "plan qwen3-8b-base --engine prime": "--engine prime is unknown; did you mean 'prime-rl'",
    "thresholds --plot nowhere/p.png": "there is no folder nowhere to write p.png to",
    "eval runs/x --batch 0": "Invalid value '0'",
    "explain": "say what to explain: --mu and --pi, or --file FILE.json, or --run RUN",
    "explain --mu .5": "pi has 0 values for the 1 tokens of mu",
    "explain --mu .5,-1 --pi .5,.5": "mu has negative numbers, as log-probs are, and positive ones",
    "explain --mu 1.5 --pi .5": "mu has the value 1.5: the probability of a sampled token is in (0, 1]",
    "explain --mu half --pi .5": "'half' is not a list of numbers",
    f"{TOKEN} --method cppo-topk": "give its D_t with --divergence",
    f"{TOKEN} detla=1": "did you mean 'delta'?",
    f"{TOKEN} delta": "must have the form key=value",
    f"{TOKEN} delta=[1": "line 1: expected ',' or ']'",
    f"{TOKEN} method.params.delta=0": "delta=0 is outside (0, inf]",
    f"{TOKEN} delta=true": "delta must be a number, got True",
    f"{TOKEN} budget=of": "did you mean 'off'",
    f"{TOKEN} length=0": "length=0 is outside [1, inf]",
    f"{TOKEN} --advantage nan": "a finite number is wanted",
    f"{TOKEN} --divergence nan": "a finite number is wanted",
    f"{TOKEN} --plot nowhere/p.png": "there is no folder nowhere to write p.png to",
    f"{TOKEN} --plot picture.jpg": "it must end in .png",
    "inspect nowhere.jsonl": "no such file, folder or pattern",
    "inspect log.jsonl --format primerl": "did you mean 'prime-rl'?",
    "inspect log.jsonl --method cppo-topk": "needs topk of both policies",
    "inspect log.jsonl --tokenizer nowhere": "there is no such folder",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_gets_one_clear_line(minicppo, typed):
    Path("log.jsonl").write_text("{}\n")
    assert MISTAKES[typed] in minicppo(*typed.split()).refused()
    assert not Path("runs").exists(), "nothing is written before the settings are known to be good"


def test_where_there_is_no_run_those_beside_it_are_named(minicppo):
    for name in ("stale-grpo", "stale-ppo"):
        begin(Path("runs") / name)
    for command in ("resume", "eval", "compare"):
        said = minicppo(command, "runs/nope").refused()
        assert said.startswith("error: runs/nope holds no run")
        assert said.endswith("; in runs there are stale-grpo, stale-ppo\n")
    assert minicppo("eval", "runs").refused().endswith("; in runs there are stale-grpo, stale-ppo\n")


def test_no_room_is_checked_for_a_model_of_unknown_size(minicppo):
    for arguments in (["stale"], ["qwen3-1.7b", "task=chain", "eval.data=[]", "cluster.gpu=mine"]):
        assert "disk" not in minicppo("plan", *arguments).done()


def test_debug_shows_the_traceback(minicppo):
    with pytest.raises(ValueError, match="did you mean 'stale'"):
        minicppo("train", "stal", "--debug")


def test_methods_as_table_entry_and_json(minicppo):
    assert "cppo-exact" in minicppo("methods").out
    one = minicppo("methods", "cppo").out
    assert "method.params.w_min" in one
    assert "paper Table 3" in one
    rows = json.loads(minicppo("methods", "--json").out)
    assert [row["name"] for row in rows] == list(METHODS)
    assert all(entry["source"] for row in rows for entry in row["params"].values())


def test_a_plugin_is_known_to_the_commands_that_look_names_up(minicppo, monkeypatch):
    train = mock.Mock(side_effect=lambda config, folder, *_: write_run(folder, "grpo"))
    monkeypatch.setattr("minicppo.rl.trainer.train", train)
    Path("mine.py").write_text(
        "from minicppo.rules import register\nfrom minicppo.rules.methods.dppo import DPPO\n"
        "register(DPPO(delta=0.3, name='mine', summary='DPPO, wider'))\n"
    )
    with mock.patch.dict(METHODS):
        assert "DPPO, wider" in minicppo("methods", "mine", "--plugin", "mine.py").done()
        row = ["explain", "--mu", ".5", "--pi", ".7", "--method", "mine", "--plugin", "mine.py"]
        assert "keep, inside" in minicppo(*row).done()
        minicppo("train", "stale", "--method", "mine", "--plugin", "mine.py").done()
    config = train.call_args.args[0]
    assert (config.method.name, config.plugins) == ("mine", [str(Path("mine.py").resolve())])
    Path("theirs.py").write_text("open('ran', 'w').close()")
    Path("theirs.yaml").write_text("plugins: [theirs.py]")
    assert "if you trust it, --plugin" in minicppo("train", "theirs.yaml").refused()
    assert not Path("ran").exists()


def test_a_recipe_is_said_and_names_the_folder(minicppo, monkeypatch):
    monkeypatch.setattr("minicppo.rl.trainer.train", lambda config, folder, *_: write_run(folder, config.method.name))
    shown = minicppo("train", "stale", "--recipe", "dr-grpo").done()
    assert shown.startswith("ppo by recipe dr-grpo on chain")
    assert Path("runs/stale-dr-grpo/config.yaml").exists()
    folders = []
    monkeypatch.setattr("minicppo.engines.preconditions.preconditions", lambda *args: folders.append(args[2]) or [])
    assert minicppo("plan", "stale", "recipe=dr-grpo").status == 0
    assert folders == [Path("runs/stale-dr-grpo")]


@pytest.mark.slow
def test_train_and_resume_from_the_command_line(minicppo, tmp_path, monkeypatch):
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path / "cache"))  # so that a warm-up is seen
    shown = minicppo("train", "stale", "--method", "grpo", *TINY, "--run-dir", "runs/stale-grpo").done()
    assert "warm-up" in shown
    assert "stale-grpo: iteration 2 of 2" in shown
    run = Path("runs/stale-grpo")
    metrics = (run / "metrics.jsonl").read_bytes()
    (run / "summary.json").unlink()
    assert minicppo("resume", "runs/stale-grpo").status == 0
    assert (run / "metrics.jsonl").read_bytes() == metrics
    assert minicppo("compare", "runs/stale-grpo").status == 0


@pytest.mark.slow
def test_thresholds_prints_the_horizons_and_says_what_is_vacuous_and_what_certifies_nothing(minicppo):
    more = ("--alpha", "1", "--kappa", "4", "--plot", "frontier.png")
    shown = minicppo("thresholds", "--horizon", "8192", "--residual", "0.5", *more).done()
    assert "B = 1, which guarantees a gain of 0.368; of chi-square C = 0.384" in shown
    assert "(0.032)" in shown  # half of what kappa = 1 permits at T = 64
    assert "alpha=2.0 must lie in [0, 1]" in minicppo("thresholds", "--alpha", "2").refused()
    cells = [tuple(line.split()) for line in shown.splitlines()]
    assert ("0.15", "0.02", "0.8", "7", "11", "38", "37") in cells
    assert ("0.15", "0.02", "0.8", "5", "7", "16", "24") in cells  # half the range: Theorem 1's premise by T2
    by_horizon = next(i for i, line in enumerate(cells) if line[:3] == ("delta", "by", "horizon"))
    assert ("path", "0.000647", "8.62e-05") in cells[:by_horizon], "the two numbers that were asked for come first"
    assert shown.count("is VACUOUS at T = 8192") == 2
    assert Path("frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "certifies nothing" not in shown
    assert "certifies nothing" in minicppo("thresholds", "--horizon", "64", "--residual", "1").out
    assert "certifies 0.556: not vacuous at T = 8" in minicppo("thresholds", "--horizon", "8").out
    assert minicppo("thresholds", "--horizon", "1").err.startswith("error: horizon=1: thresholds need at least 2")
    assert "is above 1048576; thresholds scale as 1/T" in minicppo("thresholds", "--horizon", "100000000").refused()


@pytest.mark.parametrize(
    ("interrupted", "typed", "says"),
    [
        ("config.load_config", ["train", "learn"], "before anything was begun."),
        ("trainer.train", ["train", "stale"], "No run had begun, so nothing is lost but a warm-up: type the same"),
        ("trainer.resume", ["resume", "runs/mine"], "mine at iteration 20: minicppo resume runs/mine\n"),
        ("evaluate.evaluate", ["eval", "TRAINED"], "Nothing of it is kept: the same command starts over."),
    ],
)
def test_after_ctrl_c_it_says_where_the_work_goes_on(minicppo, trained, monkeypatch, interrupted, typed, says):
    begin(Path("runs/mine"), 10, 20)
    monkeypatch.setattr(f"minicppo.rl.{interrupted}", mock.Mock(side_effect=KeyboardInterrupt))
    outcome = minicppo(*(trained if word == "TRAINED" else word for word in typed))
    assert (outcome.status, outcome.err.startswith("\nStopped")) == (130, True)
    assert says in outcome.err


def test_the_program_is_called_as_it_can_be_called_again(tmp_path, monkeypatch):
    script = tmp_path / "minicppo"
    script.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    for folder, typed, here, called in (
        ("elsewhere", str(script), sys.executable, str(script)),
        ("", str(script), sys.executable, "minicppo"),
        ("", "/a/clone/experiments/__main__.py", f"{tmp_path}/my env/python", "'my env/python' -m experiments"),
        ("", "/a/clone/minicppo/__main__.py", "/usr/bin/python3", "/usr/bin/python3 -m minicppo"),
    ):
        monkeypatch.setenv("PATH", str(tmp_path / folder))
        monkeypatch.setattr(sys, "argv", [typed])
        monkeypatch.setattr(sys, "executable", here)
        assert program() == called


def shown_of(*events: dict) -> RunProgress:
    """What displays a run's events, away from a terminal."""
    display = RunProgress(Console(file=io.StringIO(), width=200))
    display.add("cppo", 9)
    for event in events:
        display.handle("cppo", event)
    return display


def told(display: RunProgress, looks: int = 0) -> str:
    """All that is printed, in the end after as many looks, much later, at a run that goes on."""
    waits = iter([*[False] * looks, True])
    display._end.wait = lambda _: next(waits)
    display._printed -= 2 * EVERY
    display._keep_printing()
    return display.console.file.getvalue()


WARMING_UP = {"kind": "warmup", "step": 250, "max_steps": 3200, "accuracy": 0.5}


def test_away_from_a_terminal_it_never_is_silent_for_long():
    assert told(shown_of({"kind": "iteration", "iteration": 1}), looks=2).count("cppo: 1 of 9") == 1
    assert EVERY <= 15
    text = told(shown_of(WARMING_UP, {"kind": "start"}), looks=1)  # as long as the first evaluation takes
    assert text.splitlines()[-1].startswith("cppo: 0 of 9")


def test_a_warm_up_has_no_end_until_it_is_there():
    display = shown_of(WARMING_UP)
    line = display.progress.tasks[-1]
    assert line.total is None, "so no time left is guessed"
    assert line.fields["note"] == "at most 3200, greedy accuracy 50 %"
    display.handle("cppo", {"kind": "iteration", "iteration": 1})
    assert (line.total, line.finished) == (250, True)


def test_iterations_without_an_update_are_told_once_and_a_collapse_is_called_one():
    rollouts = [{"kind": "rollout", "reward": reward} for reward in (0.5, 0.0, 0.0)]
    ends = [{"kind": "iteration", "iteration": i} for i in (1, 2, 3)]
    text = told(shown_of(rollouts[0], {"kind": "update"}, ends[0], rollouts[1], ends[1], rollouts[2], ends[2]))
    assert text.count("made no update") == 1
    assert "Every reward was 0, after 0.50 on average at best: the policy has collapsed" in text
    assert "the task is too hard" in told(shown_of(rollouts[1], ends[0]))
