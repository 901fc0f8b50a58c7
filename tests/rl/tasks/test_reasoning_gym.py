"""The adaptor to reasoning-gym: its generators, its checkers, and what of a response may reach them."""

import inspect
import random
import re
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from experiments.constants import names, table
from minicppo.rl.grading.check_reasoning_gym import ARITHMETIC, LITERAL, is_arithmetic, is_no_code
from minicppo.rl.grading.confined import ConfinedPool, faults
from minicppo.rl.tasks import Problem, make_task, sample_problems
from minicppo.rl.tasks.reasoning_gym import ReasoningGymTask, extract_answer
from tests.rl.conftest import slow_but

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (extra: tasks)")
TABLE = [line.split("\t") for line in Path("tests/data/reasoning_gym.tsv").read_text().splitlines()[1:]]
EVALUATED = sorted(ARITHMETIC | LITERAL)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -c constraints\.txt -e '\.\[tasks\]'"):
        make_task("reasoning-gym")


CODE = "__import__('os').system('x')|().__class__|open('x')|x[0]|[i for i in x]|lambda: 1|__import__('os')".split("|")


def test_only_cheap_arithmetic_may_be_evaluated():
    cheap = ["3*(39 - 61 + 76)", "x**2/2 + C", "-x*cos(x) + sin(x)", "x**-2", "12", "1.5*y"]
    costly = [
        *("9**9**9", "(9**64)**64", "2**65", "2**-99", "exp(exp(9**64))", "exp(x, evaluate=1)", "99999!"),
        *("", "1;2", "(1", "x**(65/2)", "x**(3/2/2**9)", "9**(9**9/9)"),
    ]
    strings = [
        *("'a'*10**9", "[0]*9**9", "'open(1)'", "['open(1)']", "('open(1)',)", "{'open(1)': 1}", "{1: 'open(1)'}"),
        *("b'open(1)'", "f'{x}'", "r'open(1)'", "'open' '(1)'", "x + 'open(1)'", "-'1'", "cos('open(1)')", "(1, 2)"),
        *("True", "None", "...", "2j"),
    ]
    assert [text for text in [*CODE, *cheap, *costly, *strings] if is_arithmetic(text)] == cheap


def test_only_a_literal_or_no_expression_may_be_evaluated():
    literal = ["[[0, 1], ['Q']]", "('a',)", "-3", "Q _\n_ Q", "1;2", "", "(" * 999]
    code = [*CODE, " open('x')", "x", "2*3", "cos(1)", "f'{x}'", "'a'*10**9", "[open]"]
    assert [text for text in [*literal, *code] if is_no_code(text)] == literal


@pytest.mark.parametrize(
    ("response", "numeric", "answer"),
    [
        (" 12\n", False, "12"),
        ("1+1 <answer>3</answer> no: <answer> 2 </answer>.", False, "2"),
        ("<answer>2</answer> is it</answer>", False, "2"),
        ("<answer>2", False, "<answer>2"),
        ("<answer>" * 50_000 + "2", False, "<answer>" * 50_000 + "2"),
        ("The GCD of 6 and 26 is 2.", True, "2"),
        ("3 - 5 = -2", True, "-2"),
        ("7-5", True, "5"),
        ("it is 1,234.50, I think", True, "1,234.50"),
        ("9 <answer>4</answer> 5", True, "4"),
        ("1," * 50_000, True, "1," * 49_999 + "1"),
    ],
)
def test_an_answer_is_tagged_or_the_last_number_asked_for_or_all(response, numeric, answer):
    assert extract_answer(response, numeric) == answer


def test_thousands_may_be_set_apart_by_commas():
    task, problem = make_task("reasoning-gym", dataset="lcm"), Problem("", "1234", {"answer": "1234"})
    assert [task.score(problem, response) for response in ("It is 1,234.", "12,34")] == [1, 0]


@pytest.mark.parametrize("dataset", ["chain_sum", "countdown", "gcd", "number_sorting", "binary_matrix"])
def test_problems_come_from_the_seed_and_their_own_answers_score_one(dataset):
    task = make_task("reasoning-gym", dataset=dataset)
    problems = sample_problems(task, 5, random.Random(1), "train")
    assert problems == sample_problems(task, 5, random.Random(1), "train")
    assert len({problem.prompt for problem in problems}) > 1
    for problem in problems:
        assert task.score(problem, problem.answer) == 1
        assert task.score(problem, f"I think <answer>{problem.answer}</answer>") == 1
        assert task.well_formed(problem, problem.answer)
        assert task.score(problem, "") == 0
        assert not task.well_formed(problem, "")


@pytest.mark.parametrize("dataset", ["gcd", "lcm"])
def test_the_same_numbers_in_another_order_are_the_same_problem(dataset):
    task = make_task("reasoning-gym", dataset=dataset, max_value=12)
    problems = [task.problem(random.Random(seed)) for seed in range(100)]
    numbers = {tuple(sorted(problem.data["metadata"]["numbers"])) for problem in problems}
    assert len({problem.identity for problem in problems}) == len(numbers) < len({each.prompt for each in problems})


def test_partial_credit_is_off_unless_asked_for():
    problem = Problem("6 + 2 =", "8", {"answer": "8", "metadata": {}})
    task = make_task("reasoning-gym")
    assert task.score(problem, "<answer>8 or 9</answer>") == 0
    assert task.well_formed(problem, "-1,234.5")
    assert not task.well_formed(problem, "The answer is 8"), "a number is asked for"
    assert 0 < make_task("reasoning-gym", partial_credit=True).score(problem, "<answer>8 or 9</answer>") < 1


@pytest.mark.parametrize("dataset", slow_but(EVALUATED[:1], EVALUATED))
@pytest.mark.parametrize("form", ["{}", "'{}'", "['{}']", "('{}',)", "{{'{}': 1}}", "x + '{}'", "cos('{}')"])
def test_code_inside_a_string_is_not_run(tmp_path, dataset, form):
    task = ReasoningGymTask(dataset=dataset)
    mark = tmp_path / "ran"
    code = form.format(f'__import__("os").mkdir("{mark}")')
    problem = task.problem(random.Random(0))
    assert task.score(problem, code) == 0
    assert not mark.exists()
    if form == "{}":
        assert not task.well_formed(problem, code)
        own = task._dataset_class(task._config_class(seed=0, size=1))
        own.score_answer(f"{code} or 1", dict(problem.data))  # the package itself runs it
        assert mark.exists() or dataset == "polynomial_multiplication" or "integration" in dataset


@pytest.mark.parametrize(
    ("dataset", "answer", "name"),
    [
        ("prime_factorization", "I think", "ValueError"),
        ("boxnet", "0", "TypeError"),
        ("game_of_life", "{}", "KeyError"),
        ("coin_flip", "<answer>1e400</answer>", None),
        ("calendar_arithmetic", "1" * 401, None),
        ("binary_matrix", "\ud800", None),
        ("n_queens", "\ud800", None),
    ],
)
def test_an_exception_about_an_answer_scores_zero_and_is_counted(dataset, answer, name):
    task, before = ReasoningGymTask(dataset=dataset), faults.copy()
    for seed in range(8):
        problem = task.problem(random.Random(seed))
        assert task.score(problem, answer) == 0
        assert isinstance(task.well_formed(problem, answer), bool)
    assert name is None or (faults - before)[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "answer"),
    [
        ("puzzle24", "exp(9**64)"),
        ("puzzle24", "sinh(9**64)"),
        ("intermediate_integration", "(x+y+z+w)**64"),
        ("intermediate_integration", "1/(x+y)**64"),
        ("coin_flip", "<answer>1e999999999</answer>"),
    ],
)
def test_unbounded_work_ends_at_the_limit(dataset, answer, monkeypatch):
    task, before, start = ReasoningGymTask(dataset=dataset), faults.copy(), time.process_time()
    with closing(ConfinedPool(limit=1.0)) as impatient:
        monkeypatch.setattr("minicppo.rl.tasks.reasoning_gym.confined", impatient)
        assert task.score(task.problem(random.Random(0)), answer) == 0
    assert time.process_time() - start < 1, "none of it in this process"
    assert set(faults - before) <= {"timeout", "MemoryError"}


PARTS = "simple_integration intermediate_integration n_queens coin_flip complex_arithmetic game_of_life_halting".split()


@pytest.mark.slow
def test_a_mixture_guards_each_part_as_it_is_guarded_alone(tmp_path):
    mixture = make_task("reasoning-gym", dataset="composite", datasets=[{"name": name} for name in PARTS])
    code = f'__import__("os").mkdir("{tmp_path / "ran"}")'
    tried = [code, f"'{code}'", f"x + '{code}'", f"[{code}]", "nan+nanj", "0", "1/2", "True", "x**2", "['Q']"]
    seen = set()
    for problem in sample_problems(mixture, 40, random.Random(0), "train"):
        alone = make_task("reasoning-gym", dataset=problem.data["metadata"]["source_dataset"])
        seen.add(alone.dataset)
        for answer in [*tried, problem.answer]:
            response = f"<answer>{answer}</answer>"
            assert mixture.score(problem, response) == alone.score(problem, response)
            assert mixture.well_formed(problem, response) == alone.well_formed(problem, response)
        assert mixture.score(problem, f"<answer>{problem.answer}</answer>") == 1
    assert seen == set(PARTS)
    assert not (tmp_path / "ran").exists()


def test_a_mixture_has_weights_and_options_of_its_parts():
    parts = [{"name": "gcd", "weight": 9, "config": {"max_value": 9}}, {"name": "countdown"}]
    task = make_task("reasoning-gym", dataset="composite", datasets=parts, instruction="Be brief.")
    problems = sample_problems(task, 50, random.Random(0), "train")
    small = [problem for problem in problems if problem.data["metadata"]["source_dataset"] == "gcd"]
    assert 40 <= len(small) < 50
    assert max(number for problem in small for number in problem.data["metadata"]["numbers"]) <= 9
    assert all(problem.prompt.endswith(" Be brief.") for problem in problems)
    assert task.max_new_tokens == 32


def test_every_data_set_that_evaluates_is_named():
    from reasoning_gym.factory import DATASETS

    sources = {name: inspect.getsource(dataset.score_answer) for name, (dataset, _) in DATASETS.items()}
    evaluates = re.compile(r"\beval\(|\bexec\(|\bsympify\(|\b(?:sympy\.|sp\.)?parse_expr\(")
    evaluating = {name for name, source in sources.items() if evaluates.search(source)}
    no_response = {"number_sorting", "propositional_logic"}  # these two evaluate, but no response
    assert evaluating - no_response <= ARITHMETIC | LITERAL


def test_a_policy_from_scratch_can_try_chain_sum_alone():
    task, rng = make_task("reasoning-gym", dataset="chain_sum", max_digits=1), random.Random(0)
    for _ in range(20):
        problem = task.problem(rng)
        right, wrong = (task.demonstration(problem, rng, error_rate) for error_rate in (0.0, 0.999999))
        assert (task.score(problem, right), task.score(problem, wrong)) == (1, 0)
        assert set(problem.prompt + right + wrong) <= set(task.alphabet)
    task = make_task("reasoning-gym", dataset="gcd")
    assert task.alphabet == ""
    with pytest.raises(NotImplementedError, match="pretrained"):
        task.demonstration(task.problem(rng), rng, error_rate=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "countdwon"}, "'countdown'"),
        ({"dataset": "gcd", "max_vlaue": 9}, "'max_value'"),
        ({"dataset": "gcd", "max_value": 0}, "refuses"),
        ({"dataset": "composite", "datasets": {"name": "gcd"}}, "needs datasets="),
        ({"dataset": "composite", "datasets": ["gcd"]}, "got 'gcd'"),
        ({"dataset": "composite", "datasets": [{"name": "gcd"}] * 2}, "each once"),
        ({"dataset": "composite", "datasets": [{"name": "gcd", "weight": 0}]}, "weights above 0"),
        ({"dataset": "composite", "datasets": [{"name": "gcd", "weight": "2"}]}, "weights above 0"),
        ({"dataset": "composite", "datasets": [{"name": "gcd", "wieght": 2}]}, "wieght"),
        ({"dataset": "composite", "datasets": [{"name": "composite", "config": {}}]}, "needs datasets="),
        ({"dataset": "composite", "datasets": []}, "needs datasets="),
        ({"dataset": "composite", "datasets": [{"name": "gcd", "config": {"seed": 1}}]}, "no option 'seed'"),
        ({"dataset": "composite", "datasets": [{"name": "gcd", "config": ["max_value"]}]}, "needs datasets="),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_task("reasoning-gym", **options)


def test_the_table_has_all_data_sets_and_no_constant_is_paid_above_chance():
    """See `experiments/constants.py`."""
    assert [row[0] for row in TABLE] == names()
    for name, own, chance, best, _, _, hostile, _ in TABLE:
        assert own in ("1.00", "none stored"), name
        assert float(best) <= float(chance), name
        assert hostile == "0", name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coin_flip", "complex_arithmetic", "game_of_life_halting", "n_queens", "gcd"])
def test_the_table_is_made_again(name):
    (line,) = list(table([name]))[-1:]
    assert line.split("\t") == next(row for row in TABLE if row[0] == name)
