"""A task of one's own: the worked example of CONTRIBUTING.md, what is refused, and a checker that fails."""

import re
from pathlib import Path

import pytest

from minicppo.plugins import load_plugins
from minicppo.rl.config import load_config
from minicppo.rl.grading.confined import faults, take_faults
from minicppo.rl.run_dir import RunDir
from minicppo.rl.tasks import TASKS, Problem, Task, judged, make_task, register_task
from minicppo.rl.trainer import train

TINY = [
    "task={name: doubling, options: {high: 40}}",
    "model={hidden_size: 16, intermediate_size: 16, layers: 1, heads: 2}",
    "rollout={prompts: 2, group_size: 2}",
    "train={iterations: 2, minibatches: 1}",
    "eval={every: 2, problems: 2, samples: 2}",
    "warmup=null",
]


@pytest.fixture
def example(tmp_path):
    text = Path("CONTRIBUTING.md").read_text().split("### Add a task")[1]
    path = tmp_path / "doubling.py"
    path.write_text(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0])
    faults.clear()
    yield path
    TASKS.pop("doubling", None)


def test_the_worked_example_trains_and_a_checker_that_fails_pays_nothing_and_is_counted(example, tmp_path, monkeypatch):
    load_plugins([example])
    assert judged(make_task("doubling", high=9), Problem("4=", "8"), "8") == (1.0, True)
    monkeypatch.setattr(TASKS["doubling"], "score", lambda self, problem, response: int(problem.answer + "no"))
    run = RunDir.open(train(load_config("learn", TINY), tmp_path / "run"))
    assert len(run.rows(kind="rollout")) == 2
    for row in run.rows(kind="rollout"):
        assert row["reward"] == 0
        assert row["faults/ValueError"] >= 4
    assert run.rows(kind="eval")[-1]["faults/ValueError"] == 6
    assert take_faults() == {}, "each is told once"


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.1, 1.5, 1e300])
def test_a_score_that_is_none_pays_nothing(example, score, monkeypatch):
    load_plugins([example])
    monkeypatch.setattr(TASKS["doubling"], "score", lambda self, problem, response: score)
    faults.clear()
    assert judged(make_task("doubling"), Problem("1=", "2"), "2") == (0.0, True)
    assert faults == {"OutOfRange": 1}


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match=r"task 'chain' is minicppo\.rl\.tasks\.chain\.ChainTask: give yours another"):

        @register_task
        class Mine(Task):
            name = "chain"
