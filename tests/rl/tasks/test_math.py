"""The mathematics task: splits by content, prompts, filters, and a training step on it."""

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from minicppo.rl.config import ConfigError, EvalConfig
from minicppo.rl.evaluate import held_out_problems
from minicppo.rl.tasks import make_task, sample_problems
from minicppo.rl.tasks.math import TEMPLATES
from tests.rl.test_data import write_jsonl

pytest.importorskip("math_verify", reason="math-verify is not installed (extra: math)")


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    return str(write_jsonl(path, [{"question": question, "answer": answer} for question, answer in rows]))


@pytest.fixture
def sums(tmp_path):
    """200 sums with a worked line each."""
    return write(tmp_path / "sums.jsonl", [(f"What is {i} + {i}?", f"twice {i}\n#### {2 * i}") for i in range(200)])


def test_a_tenth_is_held_out_by_content(sums):
    task = make_task("math", data=sums)
    prompts = {split: {problem.prompt for problem in problems} for split, problems in task.problems.items()}
    assert len(prompts["train"] | prompts["test"]) == len(prompts["train"]) + len(prompts["test"]) == 200
    assert 8 <= len(prompts["test"]) <= 35
    for split, expected in prompts.items():
        assert {problem.prompt for problem in sample_problems(task, 2000, random.Random(0), split)} == expected


def test_a_second_data_set_is_held_out_whole_and_never_trained_on(tmp_path, sums):
    test = write(tmp_path / "test.jsonl", [("What is  3 + 3?", "6"), ("What is 1000 + 1?", "1001")])
    third = write(tmp_path / "third.jsonl", [("What is 4 + 4?", "8")])
    assert len(make_task("math", data=sums, test=[test, third]).problems["train"]) == 198
    task = make_task("math", data=sums, test=test)
    assert len(task.problems["train"]) == 199
    assert {problem.answer for problem in task.problems["test"]} == {"6", "1001"}


NEAR = r"If $m$ and $n$ are integers with $3m + 4n = %d$, what is the smallest possible value of $%s$ ?%s"


def test_what_nearly_repeats_a_held_out_problem_is_not_trained_on(tmp_path, capsys):
    asked = [(NEAR % (n, "|m - n|", ""), str(n)) for n in range(100, 160)]
    again = [(NEAR % (n, r"\left| m - n \right|", "."), str(n)) for n in range(100, 160)]
    both = write(tmp_path / "both.jsonl", [*asked, *again])
    task = make_task("math", data=both)
    answers = {split: {problem.answer for problem in task.problems[split]} for split in ("train", "test")}
    assert len(task.problems["train"]) + len(task.problems["test"]) == 120
    assert not answers["train"] & answers["test"]
    assert " problems of " in capsys.readouterr().err
    few = write(tmp_path / "few.jsonl", again[:7])
    assert len(make_task("math", data=both, test=few).problems["train"]) == 120 - 14
    assert "math: 14 problems of" in capsys.readouterr().err
    data, test = write(tmp_path / "asked.jsonl", asked), write(tmp_path / "x.jsonl", [("1?", "1")])
    task = make_task("math", data=data, test=test)
    assert (task.trained_on([few]), task.trained_on([test, few])) == (7, 7)


def test_prompts_follow_the_template(sums):
    for name, words in TEMPLATES.items():
        problem = make_task("math", data=sums, template=name).problems["train"][0]
        assert problem.prompt == words.replace("{problem}", " ".join(problem.content.split()))
        assert "Answer:" in problem.prompt
    assert "Answer: $Answer" in TEMPLATES["steps"]
    own = make_task("math", data=sums, template="Q: {problem}").problems["train"][0]
    assert own.prompt.startswith("Q: What is")


def test_limits_drop_longer_problems(sums, tmp_path):
    task = make_task("math", data=sums, max_answer_chars=2)
    assert {len(problem.answer) for split in task.problems.values() for problem in split} == {1, 2}
    worked = write(tmp_path / "w.jsonl", [(f"{i}?", "line\n" * (1 + i % 3) + f"#### {i}") for i in range(90)])
    task = make_task("math", data=worked, max_solution_lines=1)
    assert sum(len(split) for split in task.problems.values()) == 30
    with pytest.raises(ValueError, match=r"no test problem .* is left: relax the max_\.\.\. options"):
        make_task("math", data=sums, max_question_chars=3).draw(random.Random(0), "test")


def test_scores_and_form(sums):
    task = make_task("math", data=sums)
    problem = next(each for each in task.problems["train"] if each.answer == "42")
    for response, judged in (("so\nAnswer: 42", (1, True)), ("so\nAnswer: 43", (0, True)), ("42", (0, False))):
        assert (task.score(problem, response), task.well_formed(problem, response)) == judged


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": "gsm8"}, "did you mean 'gsm8k'"),
        ({"template": "step"}, r"must be one of steps, short or contain \{problem\}"),
        ({"tests": "gsm8k-test"}, "no option 'tests'.*did you mean 'test'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(options, says):
    with pytest.raises(ValueError, match=says):
        make_task("math", **options)


def test_a_run_may_be_evaluated_on_whole_data_sets(sums, tmp_path):
    def problems(task, *names):
        return held_out_problems(task, SimpleNamespace(eval=EvalConfig(data=list(names))))

    new = write(tmp_path / "new.jsonl", [("What is 1000 + 1?", "1001"), ("What is 1000 + 2?", "1002")])
    old = write(tmp_path / "old.jsonl", [("What is 3 + 3?", "6")])
    task = make_task("math", data=sums, template="Q: {problem}")
    assert [each.prompt for each in problems(task, new)] == ["Q: What is 1000 + 1?", "Q: What is 1000 + 2?"]
    with pytest.raises(ConfigError, match=r"1 of the 3 problems would be trained on.*task\.options\.test"):
        problems(task, new, old)
    assert len(problems(make_task("math", data=sums, test=[new, old]), new, old)) == 3
    assert [each.answer for each in problems(task, new, new)] == ["1001", "1002"], "none counts twice"
    lone = write(tmp_path / "lone.jsonl", [("What is 2000 + 1?", "2001")])
    with pytest.raises(ConfigError, match="holds a single problem"):
        problems(task, lone)
    with pytest.raises(ConfigError, match="task 'chain' cannot score them"):
        problems(make_task("chain"), new)


def test_without_math_verify_it_says_what_to_install(sums, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -c constraints\.txt -e '\.\[math\]'"):
        make_task("math", data=sums).problem(random.Random(0))
