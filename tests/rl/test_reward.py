"""The reward: which answer a response states, when it is right, and that nothing in it can crash or stall the judge."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicppo.rl.grading.answers import same_answer
from minicppo.rl.grading.extraction import WINDOW, extract_answer
from minicppo.rl.grading.judge import AnswerTimeout, Judge
from minicppo.rl.grading.reward import Outcome, compute_score, counts, judge_response, math_reward, score_response
from minicppo.rl.grading.tidy import tidy
from tests.rl.answers import KNOWN, PAIRS

STALLING = r"9^{9^{9^9}}"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Answer: 42", "42"),
        ("so\nanswer : 42\n", "42"),
        ("Answer:\n\\[\n\\boxed{42}\n\\]", "\\boxed{42}"),
        ("Answer:\n$$\n42\n$$", "42"),
        ("**Answer:** 42", "** 42"),
        ("Answer: 41\nno,\nAnswer: 42", "42"),
        ("Answer:\n42", "42"),
        (r"Answer: $\frac{1}{2}$", r"$\frac{1}{2}$"),
        (r"hence \boxed{42}", "42"),
        (r"\boxed{1} and \boxed{\frac{1}{\sqrt{2}}}.", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{7}" + "\nAnswer: 42", "42"),
        (r"\boxed{42", None),
        ("42", None),
        ("Answer:", None),
        ("", None),
        ("Answer: 42" + " " * WINDOW, None),
        ("Answer: 41" + " " * WINDOW + "Answer: 42", "42"),
    ],
)
def test_which_answer_a_response_states(response: str, answer: str | None) -> None:
    assert extract_answer(response) == answer


def test_a_response_that_states_two_answers_is_held_to_the_last() -> None:
    assert score_response("Answer: 42\nAnswer: 43", "42") == 0
    assert score_response("Answer: 43\nAnswer: 42", "42") == 1


@given(st.text(max_size=40) | st.text("\\{}[]()$^_,.0123456789 \nAnswer:frac", max_size=40))
def test_tidying_never_fails_and_is_stable_on_plain_numbers(text: str) -> None:
    assert isinstance(tidy(text), str)
    assert isinstance(extract_answer(f"Answer: {text}"), str | None)


@pytest.mark.parametrize(
    ("gold", "answer"), [("25", "025"), ("1,080", "1080"), ("42", "42."), ("3", "3.0"), ("50%", "0.5")]
)
def test_plain_numbers_are_compared_without_a_process(gold: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicppo.rl.grading.answers.judge", None)
    assert same_answer(gold, answer)
    assert same_answer(gold, "17") is False


class TestWithMathVerify:
    @pytest.fixture(autouse=True, scope="class")
    def _impatient(self) -> Iterator[None]:
        pytest.importorskip("math_verify", reason="math-verify is not installed (extra: math)")
        with pytest.MonkeyPatch.context() as patch:
            impatient = Judge(limit=1.0, processes=2)
            patch.setattr("minicppo.rl.grading.answers.judge", impatient)
            yield
            impatient.close()

    @pytest.mark.parametrize("kind", PAIRS)
    def test_answers_are_judged_as_a_person_would(self, kind: str) -> None:
        wrong = []
        for gold, answer, expected in PAIRS[kind]:
            try:
                same = same_answer(gold, answer)
            except AnswerTimeout:
                same = None
            if bool(same) != expected:
                wrong.append((gold, answer, expected))
        assert not wrong

    def test_there_are_enough_pairs_of_both_kinds(self) -> None:
        verdicts = [expected for pairs in PAIRS.values() for *_, expected in pairs]
        assert len(verdicts) >= 200
        assert 0.3 < sum(verdicts) / len(verdicts) < 0.7

    @pytest.mark.parametrize(
        ("gold", "answer", "expected"),
        [pytest.param(*pair, marks=pytest.mark.xfail(reason=reason, strict=True)) for *pair, reason in KNOWN],
    )
    def test_known_disagreements(self, gold: str, answer: str, expected: bool) -> None:
        assert bool(same_answer(gold, answer)) == expected

    def test_what_cannot_be_judged_scores_zero_and_is_counted(self) -> None:
        counts.clear()
        long = "1" * 301
        for answer in ("Answer: 42", "Answer: 43", "42", "Answer: {", f"\\boxed{{{long}", rf"Answer: {STALLING}"):
            score_response(answer, "42")
        assert counts == {
            Outcome.RIGHT: 1,
            Outcome.WRONG: 1,
            Outcome.MISSING: 2,
            Outcome.UNREADABLE: 1,
            Outcome.TIMEOUT: 1,
        }

    @pytest.mark.slow
    def test_the_limit_holds_in_threads_and_the_next_pair_is_judged(self) -> None:
        judge = Judge(limit=0.5, processes=2)
        judge("1", "1")  # started
        stopped = []

        def stall() -> None:
            start = time.perf_counter()
            with pytest.raises(AnswerTimeout):
                judge("4", STALLING)
            stopped.append(time.perf_counter() - start)

        threads = [threading.Thread(target=stall) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert min(stopped) >= 0.45
        assert max(stopped) < 30.0  # it waits for its process to start, and the machine may be busy
        assert judge(r"\frac{1}{2}", "0.5")
        judge.close()
        assert judge("2k+2", "2(k+1)"), "closing is not the end"
        judge.close()

    @pytest.mark.slow
    def test_many_threads_share_few_processes(self) -> None:
        judge = Judge(processes=2)
        with ThreadPoolExecutor(8) as pool:
            verdicts = list(pool.map(lambda i: judge(f"{i}+x", f"x+{i % 5}"), range(10)))
        assert verdicts == [True] * 5 + [False] * 5
        assert len(judge._all) <= 2
        judge.close()

    @pytest.mark.slow
    def test_a_worker_that_dies_is_replaced(self) -> None:
        judge = Judge(processes=1)
        judge("1", "1")
        judge._all[0].process.kill()
        with pytest.raises(Exception, match="-9"):
            judge("1", "1")
        assert judge("x+1", "1+x")
        judge.close()

    @pytest.mark.slow
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_forked_child_has_judges_of_its_own(self) -> None:
        code = (
            "import os, sys\nfrom minicppo.rl.grading.judge import judge\n"
            "assert judge('x+1', '1+x')\n"
            "child = os.fork()\n"
            "assert judge('x+2', '2+x') and not judge('x+2', '3+x')\n"
            "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    @pytest.mark.slow
    def test_spawned_processes_may_judge(self, tmp_path: Path) -> None:
        script = tmp_path / "spawning.py"
        script.write_text(
            "import multiprocessing\nfrom minicppo.rl.grading.reward import score_response\n"
            "def work(n): return score_response(f'Answer: x+{n}', '1+x')\n"
            "if __name__ == '__main__':\n"
            "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
            "        assert pool.map(work, [1, 2]) == [1.0, 0.0]\n"
        )
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    def test_as_a_reward_of_trl(self) -> None:
        chat = [[{"role": "assistant", "content": "Answer: x + 1"}], [{"role": "assistant", "content": "1+x"}]]
        assert math_reward(chat, answer=["1+x", "1+x"], prompts=["a", "b"]) == [1.0, 0.0]
        assert math_reward(["Answer: 5", "Answer: 5"], answer=["5", "6"]) == [1.0, 0.0]

    def test_as_a_reward_of_verl(self) -> None:
        assert compute_score("dapo", "Answer: 5", "5") == {"score": 1.0, "acc": 1.0, "malformed": 0.0}
        assert compute_score("dapo", "5", "5", extra_info={})["malformed"] == 1.0
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(compute_score, "dapo", r"Answer: \sqrt{25}", ground_truth="5")
            assert found.result()["score"] == 1.0


def test_outcomes_read_well() -> None:
    assert judge_response("Answer: 5", "5") is Outcome.RIGHT
    assert f"{Outcome.TIMEOUT}" == "timeout"
