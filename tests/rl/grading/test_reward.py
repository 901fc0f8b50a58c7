"""The reward: which answer a response states, when it is right, and that nothing in it can crash or stall the judge."""

import multiprocessing
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.constants import constants
from minicppo.rl.grading.answers import MOST_ASKED, same_answer
from minicppo.rl.grading.confined import ConfinedPool, Unchecked, faults
from minicppo.rl.grading.extraction import WINDOW, extract_answer, last_boxed
from minicppo.rl.grading.reward import Outcome, compute_score, judge_response, math_reward, score_response
from minicppo.rl.grading.tidy import tidy
from tests.rl.conftest import slow_but

# Pairs of a right answer and a given one, judged by hand: would a person accept the second for the first?
ROWS = [line.split("\t") for line in Path("tests/data/answers.tsv").read_text("utf-8").split("\n")[1:-1]]
KNOWN = "known disagreements"  # judged the other way round; the table says why they stay
PAIRS: dict[str, list[tuple[str, str, bool]]] = defaultdict(list)
for _kind, _gold, _answer, _accepted, *_ in ROWS:
    PAIRS[_kind].append((_gold, _answer.replace("<NUL>", "\x00"), (_accepted == "yes") != (_kind == KNOWN)))
SLOW = (
    "adversarial|answers of MATH-500|near misses|many spellings|products|angles and functions|complex|equations again"
    "|other kinds|expressions|extremes|decimals|decimals and roots|sets and intervals"
)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("so\nanswer : 42\n", "42"),
        ("Answer:\n\\[\n\\boxed{42}\n\\]", "\\boxed{42}"),
        ("Answer:\n$$\n42\n$$", "42"),
        ("**Answer:** 42", "** 42"),
        ("_**Answer**_ : 42", "42"),
        (r"\textbf{Answer}: 42", "42"),
        ("Answer：42", "42"),
        ("the answerer: 42", None),
        (r"so \boxed 12.", "12"),
        (r"so \boxed\frac{1}{2} of it", r"\frac{1}{2}"),
        (r"\boxed 1 and \boxed{2}", "2"),
        (r"\boxed there is none", None),
        ("Answer: 41\nno,\nAnswer: 42", "42"),
        (r"Answer: $\frac{1}{2}$", r"$\frac{1}{2}$"),
        (r"\boxed{1} and \boxed{\frac{1}{\sqrt{2}}}.", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{7}" + "\nAnswer: 42", "42"),
        (r"\boxed{42", None),
        ("42", None),
        ("Answer:", None),
        (r"\boxed{}", None),
        ("Answer: 42" + " " * WINDOW, None),
        ("Answer: 41" + " " * WINDOW + "Answer: 42", "42"),
    ],
)
def test_which_answer_a_response_states(response, answer):
    assert extract_answer(response) == answer


@pytest.mark.parametrize(
    "text", [r"\boxed{" * 20_000, "{" * 99_999, r"\boxed" + " " * 99_999, "}" * 99_999 + r"\boxed{1"]
)
def test_a_box_is_sought_in_linear_time(text):
    assert extract_answer(text) is None
    assert last_boxed(text + r"\boxed{7}") == "7"


PIECES = [row[i] for row in ROWS for i in (1, 2) if len(row[i]) < 60] + list(
    r"\{}[]()$^_,.=<>|'!&%;:?/+-* 0123456789abxR"
)


@pytest.fixture(scope="module")
def unasked():
    """No comparison is left to another process: rules alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minicppo.rl.grading.answers.confined", lambda *question: None)
        yield


@given(
    st.text(max_size=40) | st.text("\\{}[]()$^_,.0123456789 \nAnswer:frac", max_size=40),
    st.sampled_from(PIECES),
    st.lists(st.sampled_from(PIECES), max_size=10).map("".join),
)
def test_rules_end_with_a_verdict_whatever_stands_together(unasked, text, gold, answer):
    assert isinstance(tidy(text), str)
    assert isinstance(extract_answer(f"Answer: {text}"), str | None)
    for one, other in ((gold, answer), (answer, gold), (gold, text), (text, gold)):
        assert same_answer(one, other) in (True, False, None)


ODD = ["9" * 5000, "1" + "," * 8000 + "z1", "(" * 2000, "\ud800", ".", "{1}{2}", "(((1)))", "{{{1}}}", "()", "(,)"]
ODD += ["=", "==", "x=", "=1=", "\\pm", "and", ", and", "{"]


@pytest.mark.parametrize("odd", ODD)
def test_what_is_hardly_there_or_cannot_be_read_pays_nobody_and_raises_nothing(unasked, odd):
    for gold in ("12", "(1, 2)", "x = 1, y = 2", "x + y", "even"):
        assert not same_answer(gold, odd)
        assert not same_answer(odd, gold)


def test_the_elements_of_a_list_cost_a_bounded_number_of_questions(monkeypatch):
    asked = []

    def same_root(_, gold, answer):
        asked.append(gold)
        return gold.replace("2^", "3^") == answer

    monkeypatch.setattr("minicppo.rl.grading.answers.confined", same_root)
    gold, given = ([rf"\sqrt{{{base}^{{{i}}}}}" for i in range(12)] for base in (2, 3))
    assert same_answer(", ".join(gold[:5]), ", ".join(given[:5][::-1])) is True
    with pytest.raises(Unchecked, match="timeout"):
        same_answer(", ".join(gold), ", ".join(given[::-1]))
    assert len(asked) == MOST_ASKED + 15


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("25", "025"), ("1,080", "1080"), ("42", "42."), ("3", "3.0"), ("50%", "0.5"), ("42", "**42**.")],
)
def test_plain_numbers_are_compared_without_a_process(gold, answer, monkeypatch):
    monkeypatch.setattr("minicppo.rl.grading.answers.confined", None)
    assert same_answer(gold, answer)
    assert same_answer(gold, "17") is False
    assert f"{judge_response(f'Answer: {answer}', gold)}" == "right"


def test_there_are_enough_pairs_and_few_right_answers_are_refused():
    right = [row for row in ROWS if row[3] == "yes"]
    assert len(ROWS) == 1649
    assert 0.3 < len(right) / len(ROWS) < 0.7
    assert len(PAIRS[KNOWN]) <= 0.01 * len(right)
    assert all(row[4] for row in ROWS if row[0] == KNOWN)


class TestWithMathVerify:
    @pytest.fixture(autouse=True, scope="class")
    def _impatient(self):
        pytest.importorskip("math_verify", reason="math-verify is not installed (extra: math)")
        with pytest.MonkeyPatch.context() as patch:
            impatient = ConfinedPool(limit=1.0, processes=2)
            patch.setattr("minicppo.rl.grading.answers.confined", impatient)
            yield
            impatient.close()

    @pytest.mark.parametrize("kind", slow_but(PAIRS.keys() - SLOW.split("|"), PAIRS))
    def test_answers_are_judged_as_a_person_would(self, kind):
        wrong = []
        for gold, answer, expected in PAIRS[kind]:
            try:
                same = same_answer(gold, answer)
            except Unchecked:
                same = None
            if bool(same) != expected:
                wrong.append((gold, answer, expected))
        assert not wrong

    @pytest.mark.slow
    def test_what_cannot_be_judged_scores_zero_and_is_counted(self):
        before = faults["timeout"]
        long = "1" * 301
        given = ("Answer: 42", "Answer: 43", "42", "Answer: {", f"\\boxed{{{long}", "Answer: 9^{9^{9^9}}")
        outcomes = Counter(judge_response(answer, "42") for answer in given)
        expected = {Outcome.RIGHT: 1, Outcome.WRONG: 1, Outcome.MISSING: 2, Outcome.UNREADABLE: 1, Outcome.TIMEOUT: 1}
        assert outcomes == expected
        assert faults["timeout"] == before + 1
        assert [score_response(answer, "42") for answer in given] == [1, 0, 0, 0, 0, 0]

    @pytest.mark.slow
    def test_no_constant_is_paid_for_more_than_one_gold(self):
        golds = ["42", r"\frac{1}{2}", "(1, 2)", "x + 1", r"\sqrt{2}", "B", r"(-\infty, 3]", "even", "12 cm"]
        for constant in constants():
            assert sum(score_response(f"Answer: {constant}", gold) for gold in golds) <= 1, constant

    @pytest.mark.slow
    def test_spawned_processes_may_judge(self):
        with multiprocessing.get_context("spawn").Pool(1) as processes:
            asked = [("Answer: x+1", "1+x"), ("Answer: x+2", "1+x")]
            assert processes.starmap(score_response, asked) == [1.0, 0.0]

    def test_as_a_reward_of_trl(self):
        chat = [[{"role": "assistant", "content": "Answer: x + 1"}], [{"role": "assistant", "content": "1+x"}]]
        assert math_reward(chat, answer=["1+x", "1+x"], prompts=["a", "b"]) == [1.0, 0.0]
        assert math_reward(["Answer: 5"] * 4, answer=["5", "6", 5, 6.0]) == [1.0, 0.0, 1.0, 0.0]

    def test_as_a_reward_of_verl(self):
        assert compute_score("dapo", "Answer: 5", "5") == {"score": 1.0, "acc": 1.0, "malformed": 0.0}
        assert compute_score("dapo", "5", "5", extra_info={})["malformed"] == 1.0
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(compute_score, "dapo", r"Answer: \sqrt{25}", ground_truth="5")
            assert found.result()["score"] == 1.0
