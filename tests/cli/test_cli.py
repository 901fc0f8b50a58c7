"""The command line: every command runs, every error is one clear line."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from minicppo.cli import IN_A_CLONE
from minicppo.cli.console import program
from minicppo.cli.progress import EVERY, RunProgress
from minicppo.cli.train import train
from minicppo.rl.config import preset_names
from minicppo.rules import METHODS
from tests.command_line import TINY
from tests.fake_runs import begin, write_run

COMMANDS = tuple("train resume eval compare methods tasks presets config explain thresholds plan".split())


def test_every_command_explains_itself(minicppo):
    every = minicppo("--help").done()
    assert "--install-completion" in every
    for name in COMMANDS:
        assert f" {name} " in every
        assert f"minicppo {name}" in minicppo(name, "--help").done()
    shown = minicppo("explain", "--help").out
    assert "KEY=VALUE" in shown
    assert "Example" in minicppo("train", "--help").out
    assert all(f"`{name}`" in (train.__doc__ or "") for name in preset_names() if not name.startswith("qwen3-"))
    assert minicppo("--version").done().startswith("minicppo 0.")
    bare = minicppo()
    assert (bare.status, "error" in bare.err) == (2, False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "stal"], "did you mean 'stale'"),
        (["train", "missing.yaml"], "missing.yaml"),
        (["train", "stale", "train.lrr=1"], "did you mean 'train.lr'"),
        (["train", "stale", "seed"], "key=value"),
        (["train", "stale", "--method", "cpo"], "error: method 'cpo' is unknown; did you mean 'cppo'"),
        (["train", "stale", "method.params.delta=-1"], "error: method.params.delta=-1 is outside"),
        (["train", "stale", "method.params.delta=abc"], "error: method.params.delta must be a number"),
        (["plan", "qwen3-8b-base", "--engine", "prime"], "--engine prime is unknown; did you mean 'prime-rl'"),
        (["plan", "qwen3-8b"], "did you mean 'qwen3-8b-base'"),
        (["train", "stale", "rollout.top_p=0.9"], "top_p=1"),
        (["train", "stale", "rollout.group_size=1"], "use 2 or more"),
        (["train", "stale", "--recipe", "dr-grpo", "--method", "grpo"], "recipe 'dr-grpo' has a method of its own"),
        (["train", "stale", "--recipe", "dr-grpo", "method.name=grpo"], "leave it out, or method 'grpo'"),
        (["methods", "cpo"], "did you mean 'cppo'"),
        (["resume", "nowhere"], "nowhere holds no run"),
        (["eval", "nowhere"], "nowhere holds no run"),
        (["compare", "nowhere"], "nowhere holds no run"),
        (["trian"], "No such command 'trian'. Did you mean 'train'"),
        (["train"], "Missing argument 'PRESET_OR_YAML'"),
        (["train", "stale", "--methode", "grpo"], "--methode; did you mean --method?"),
        (["train", "stale", "--run_dir", "x"], "did you mean --run-dir?"),
        (["train", "stale", "--out", "x"], "the run's folder is an option: --run-dir FOLDER"),
        (["train", "stale", "out=x"], "the run's folder is an option: --run-dir FOLDER"),
        (["train", "stale", "output_dir=x"], "the run's folder is an option: --run-dir FOLDER"),
        (["train", "stale", "--method.params.delta", "0.1"], "it is a setting, method.params.delta=0.1"),
        (["train", "stale", "--method", "CPPO"], "did you mean 'cppo'"),
        (
            ["train", "stale", "model=Qwen/Qwen3-0.6B"],
            "this is a section, whose keys are set one by one, as model.path=",
        ),
        (["train", "stale", "warmup=off"], "or warmup=null for none"),
        (["train", "stale", "log=tensorboard"], "a list is wanted, as log=[tensorboard]"),
        (["train", "stale", "--seed", "3"], "No such option: --seed: it is a setting, seed=3"),
        (["train", "stale", "--learning-rate=1e-4"], "No such option: --learning-rate: here it is train.lr"),
        (["explain", "--delta", ".1"], "here it is method.params.delta"),
        (["train", "learn", "task=addition", "eval.problems=900"], "lower eval.problems"),
        (["thresholds", "--plot", "nowhere/p.png"], "there is no folder nowhere to write p.png to"),
        (["thresholds", "--horizon", "abc"], "--horizon"),
        (["eval", "runs/x", "--batch", "0"], "--batch"),
        *(([name, *more], f"in a clone, python -m experiments {name}") for name in IN_A_CLONE for more in ([], ["-h"])),
    ],
)
def test_a_mistake_gets_one_clear_line(minicppo, arguments, says):
    assert says in minicppo(*arguments).refused()
    assert not Path("runs").exists(), "nothing is written before the settings are known to be good"


def test_where_there_is_no_run_those_beside_it_are_named(minicppo):
    for name in ("stale-grpo", "stale-ppo"):
        begin(Path("runs") / name)
    for command in ("resume", "eval", "compare"):
        assert minicppo(command, "runs/nope").err.endswith("; in runs there are stale-grpo, stale-ppo\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# Notes\n\na: b\nwith a word\nand: another\n", "line 5: could not find expected ':'\n"),
        ("task:\n\tname: chain\n", "line 2: found character '\\t'"),
    ],
)
def test_a_file_that_is_no_yaml_is_one_line(minicppo, text, says):
    Path("notes.md").write_text(text)
    assert minicppo("train", "notes.md").refused().startswith(f"error: notes.md is not valid YAML: {says}")


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
    seen = []
    train = lambda config, folder, *_: seen.append(config) or write_run(folder, "grpo")  # noqa: E731
    monkeypatch.setattr("minicppo.rl.trainer.train", train)
    Path("mine.py").write_text(
        "from minicppo.rules import register\nfrom minicppo.rules.methods.dppo import DPPO\n"
        "register(DPPO(delta=0.3, name='mine', summary='DPPO, wider'))\n"
    )
    try:
        assert "DPPO, wider" in minicppo("methods", "mine", "--plugin", "mine.py").done()
        row = ["explain", "--mu", ".5", "--pi", ".7", "--method", "mine", "--plugin", "mine.py"]
        assert "keep, inside" in minicppo(*row).done()
        minicppo("train", "stale", "--method", "mine", "--plugin", "mine.py").done()
        assert (seen[0].method.name, seen[0].plugins) == ("mine", [str(Path("mine.py").resolve())])
    finally:
        METHODS.pop("mine", None)
    Path("theirs.py").write_text("open('ran', 'w').close()")
    Path("theirs.yaml").write_text("plugins: [theirs.py]")
    assert "if you trust it, --plugin" in minicppo("train", "theirs.yaml").refused()
    assert not Path("ran").exists()
    assert "there is no such Python file" in minicppo("methods", "--plugin", "yours.py").refused()


def test_compare_prints_a_table_and_writes_a_report(minicppo, tmp_path, monkeypatch):
    monkeypatch.setattr("minicppo.plots.report.write_report", lambda runs, out: [out / f"{len(runs)}.png"])
    for name in ("cppo-exact", "none"):
        write_run(tmp_path / name, name)
    shown = minicppo("compare", "cppo-exact", "none", "--out", "side-by-side").done()
    assert "31.0 ± 2.0" in shown
    assert "from one seed, settle nothing" in shown
    assert "method.name" in shown
    assert "side-by-side/2.png" in shown


def test_a_recipe_is_said_and_names_the_folder(minicppo, monkeypatch):
    monkeypatch.setattr("minicppo.rl.trainer.train", lambda config, folder, *_: write_run(folder, config.method.name))
    for number, typed in enumerate((["--recipe", "dr-grpo"], ["recipe=dr-grpo"])):
        outcome = minicppo("train", "stale", *typed, f"name=try{number}")
        assert outcome.out.startswith("ppo by recipe dr-grpo on chain")
        assert Path(f"runs/try{number}-dr-grpo/config.yaml").exists()
    folders = []
    monkeypatch.setattr("minicppo.engines.preconditions.preconditions", lambda *args: folders.append(args[2]) or [])
    assert minicppo("plan", "stale", "recipe=dr-grpo").status == 0
    assert folders == [Path("runs/stale-dr-grpo")]


@pytest.mark.slow
def test_train_resume_eval_from_the_command_line(minicppo, tmp_path, monkeypatch):
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path / "cache"))  # so that a warm-up is seen
    typed = ("train", "stale", "--method", "grpo", *TINY, "--run-dir", "runs/stale-grpo")
    shown = minicppo(*typed).done()
    assert "warm-up" in shown
    assert "stale-grpo: iteration 2 of 2" in shown
    run = tmp_path / "runs" / "stale-grpo"
    assert (run / "summary.json").exists()

    again = minicppo(*typed)
    assert "already holds a run: minicppo resume runs/stale-grpo" in again.refused()
    assert again.out == "", "no progress is shown of what is refused"

    metrics = (run / "metrics.jsonl").read_bytes()
    (run / "summary.json").unlink()
    assert minicppo("resume", "runs/stale-grpo").status == 0
    assert (run / "metrics.jsonl").read_bytes() == metrics

    judged = minicppo("eval", "runs/stale-grpo", "eval.problems=4", "--json")
    assert 0 <= json.loads(judged.out)["accuracy"] <= 1
    assert "Avg@2 %" in minicppo("eval", "runs/stale-grpo").done()
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
    assert ("0.01", "0.001", "1", "100", "307", "991", "991") in cells
    assert ("0.15", "0.02", "0.8", "5", "7", "16", "24") in cells  # half the range: Theorem 1's premise by T2
    assert ("0.01", "0.001", "1", "71", "215", "491", "698") in cells
    by_horizon = next(i for i, line in enumerate(cells) if line[:3] == ("delta", "by", "horizon"))
    assert ("path", "0.000647", "8.62e-05") in cells[:by_horizon], "the two numbers that were asked for come first"
    assert shown.count("is VACUOUS at T = 8192") == 2
    assert Path("frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "certifies nothing" not in shown
    assert "certifies nothing" in minicppo("thresholds", "--horizon", "64", "--residual", "1").out
    assert "certifies 0.556: not vacuous at T = 8" in minicppo("thresholds", "--horizon", "8").out
    assert minicppo("thresholds", "--horizon", "1").err.startswith("error: horizon=1: thresholds need at least 2")
    assert "is above 1048576; thresholds scale as 1/T" in minicppo("thresholds", "--horizon", "100000000").refused()


def test_after_ctrl_c_it_says_where_the_run_goes_on(minicppo, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    for name in ("train", "resume"):
        monkeypatch.setattr(f"minicppo.rl.trainer.{name}", interrupt)
    outcome = minicppo("train", "stale")
    assert outcome.status == 130
    assert "No run had begun" in outcome.err
    assert "checkpoint" not in outcome.err

    begin(Path("runs/stale-grpo"), 10, 20)
    outcome = minicppo("resume", "runs/stale-grpo")
    assert outcome.status == 130
    assert outcome.err.endswith("stale-grpo at iteration 20: minicppo resume runs/stale-grpo\n")


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


def test_a_warm_up_has_no_end_until_it_is_there():
    display = shown_of(WARMING_UP)
    line = display.progress.tasks[-1]
    assert line.total is None, "so no time left is guessed"
    assert line.fields["note"] == "at most 3200, greedy accuracy 50 %"
    display.handle("cppo", {"kind": "iteration", "iteration": 1})
    assert (line.total, line.finished) == (250, True)


def test_during_a_long_first_evaluation_the_run_and_not_its_warm_up_is_spoken_of():
    assert told(shown_of(WARMING_UP, {"kind": "start"}), looks=1).splitlines()[-1].startswith("cppo: 0 of 9")


def test_iterations_without_an_update_are_told_once_and_a_collapse_is_called_one():
    rollouts = [{"kind": "rollout", "reward": reward} for reward in (0.5, 0.0, 0.0)]
    ends = [{"kind": "iteration", "iteration": i} for i in (1, 2, 3)]
    text = told(shown_of(rollouts[0], {"kind": "update"}, ends[0], rollouts[1], ends[1], rollouts[2], ends[2]))
    assert text.count("made no update") == 1
    assert "Every reward was 0, after 0.50 on average at best: the policy has collapsed" in text
    assert "the task is too hard" in told(shown_of(rollouts[1], ends[0]))
