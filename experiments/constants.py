"""Is any constant answer paid, does any answer do harm? Every data set of reasoning-gym is tried with some four hundred
constants and two hundred hostile answers: `python -m experiments.constants` prints the table that is kept as
`tests/data/reasoning_gym.tsv`.

A constant may earn the share of the commonest right answer, its chance level, and nothing more: a policy that is
rewarded finds whatever earns more. Each constant first answers FEW problems; those that were paid answer MANY.
"""

import contextlib
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from string import ascii_letters, punctuation
from typing import Any

from minicppo.rl.grading.confined import faults
from minicppo.rl.tasks import Problem
from minicppo.rl.tasks.reasoning_gym import ReasoningGymTask

FEW, MANY = 8, 100
MIXED = "coin_flip complex_arithmetic game_of_life_halting gcd n_queens simple_integration".split()  # each has a guard
OPTIONS: dict[str, dict[str, Any]] = {"composite": {"datasets": [{"name": name} for name in MIXED]}}
WORDS = """
yes no Yes No true false True False TRUE FALSE none None null NULL nan NaN inf -inf Infinity -Infinity undefined unknown
nothing empty impossible valid invalid answer even odd same different left right up down north south east west heads
tails win lose draw red green blue yellow black white knight knave hero villain truth lie day Monday Tuesday Wednesday
Thursday Friday Saturday Sunday January December AM PM hello the and or not pi oo zoo sin(x) x**2 x+1 x**2/2+C 0*x 1j 0j
1+1j 0+0i nan+nanj infj nanj [] {} () [[]] [{}] {"a":1} {"0":0} [0] [1] [0,0] [[0]] [[0,0],[0,0]] [""] ["a"] ['a'] ('',)
(0,0) (1,1) (0,) {1} {0:0} [null] [true] [[[]]] "" '' "a" '0' "0" <answer></answer> \\boxed{} \\boxed{0} $$ $0$ [1,2,3]
1,2,3 a,b,c [nan] [inf] [NaN] {"a":NaN} [[NaN]] [Infinity] (nan,nan) nan,nan 00:00 00:00:00 12:00 2000-01-01 01/01/2000
0% 100% 50% 0.0.0 -0 +0 00 0.0 1.0 0.5 1/2 0/1 1/1 1e0 1e9 1e-9 1e308 1e309 -1e309 0x0 0b0 1_0 ½ ٠ ∞ −1 é 🙂
""".split()
LINES = (
    """
0 0|0 0;0 0|1 1;1 1|a b|a;b|. .|_ _|Q _;_ Q|True True|no answer|I do not know|I think|the answer|0 days|x = 0|x = 1|
0 or 1|yes or no|yes no|not possible|No solution
""".replace("\n", "")
    .replace(";", "\n")
    .split("|")
)
ODD = ["\x00", "\u200b", "\u202e", *(sign * 50 for sign in ("a", "0", "9", "()", "[", ",")), "1" * 400]
CODE = """
{}|'{}'|"{}"|['{}']|('{}',)|{{'{}': 1}}|x + '{}'|cos('{}')|eval('{}')|[{}][0]|f'{{{}}}'|{} or 1|lambda: {}|str({})|
'%s' % {}|$({})|`{}`|{{"a": "{}"}}|1;{}|diff('{}')|Integral('{}')|x.subs(x, '{}')|[i for i in [{}]]|(y := {})|print({})
""".replace("\n", "").split("|")
BOMBS = """
exp(9**64)|(x+y+z+w)**64|1/(x+y)**64|1e999999999|9**9**9|10**10**10|factorial(10**9)|99999!|[0]*10**9|'a'*10**10|range(10**12)|
x**64**2|sinh(9**64)|1e400|-1e400|sum(iter(int, 1))
""".replace("\n", "").split("|")
PARTS = ["9", "(", "[", "{", "-", "1,", "a ", "\x00", "\u202e", "<answer>", "\\boxed{", '{"a":', "٣", "[]"]
LONG = [part * 5000 for part in PARTS]
BROKEN = ["\ud800", "\udfff9", "[" * 900 + "]" * 900, "0x" + "f" * 5000]


def hostile(mark: Path) -> list[str]:
    """Answers that make a folder, if they are run, or that cost time and memory without end."""
    code = [form.format(f'__import__("os").mkdir("{mark}")') for form in CODE]
    wrapped = [wrap.format(each) for each in code for wrap in ("{}", "x = {}", "[{}, 0]", "{} + 1")]
    return wrapped + [wrap.format(each) for each in (*BOMBS, *LONG, *BROKEN) for wrap in ("{}", "[{}]", "{} ?")]


def constants() -> list[str]:
    """The answers that are tried, each once."""
    numbers = [str(n) for n in (*range(-10, 61), 64, 99, 100, 101, 128, 256, 360, 365, 1000, 1024, 10**6, -100, 10**12)]
    fractions = [f"{a / 10:g}" for a in range(1, 20)] + [f"{a}/{b}" for a, b in product((1, 2, 3), (2, 3, 4, 8))]
    tried = [*numbers, *fractions, *WORDS, *LINES, *ODD, *ascii_letters, *punctuation]
    return list(dict.fromkeys(tried))


def examined(name: str) -> dict[str, object]:
    """A row of the table: what a data set's own answers earn, and the best constant beside its chance level."""
    task = ReasoningGymTask(name, **OPTIONS.get(name, {}))
    problems = [task.problem(random.Random(seed)) for seed in range(MANY)]
    golds = Counter(problem.answer for problem in problems if problem.data["answer"] is not None)
    own = sum(task.score(problem, tagged(problem.answer)) for problem in problems[:FEW]) / FEW if golds else None
    before, best = faults.copy(), ("", 0.0)
    for constant in constants():
        if earned(task, problems[:FEW], constant):
            best = max(best, (constant, earned(task, problems, constant)), key=lambda pair: pair[1])
    constant_faults, before = faults - before, faults.copy()
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "mark"
        paid = sum(earned(task, problems[:1], answer) for answer in hostile(mark))
        assert not mark.exists(), f"{name} ran an answer"
    return {
        "data set": name,
        "own answers": "none stored" if own is None else f"{own:.2f}",
        "chance": f"{max(golds.values(), default=0) / MANY:.2f}",
        "best constant": f"{best[1]:.2f}",
        "which": ascii(best[0]) if best[1] else "",
        "constant faults": _counts(constant_faults),
        "hostile paid": f"{paid:g}",
        "hostile faults": _counts(faults - before),
    }


def _counts(faults: Counter[str]) -> str:
    return " ".join(f"{name}:{count}" for name, count in sorted(faults.items()))


def tagged(answer: str) -> str:
    """As an answer that nothing is left out of."""
    return f"<answer>{answer}</answer>"


def earned(task: ReasoningGymTask, problems: list[Problem], answer: str) -> float:
    """Mean score of one answer to all the problems."""
    return sum(task.score(problem, tagged(answer)) for problem in problems) / len(problems)


def names() -> list[str]:
    """All data sets."""
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)


def table(chosen: list[str]) -> Iterator[str]:
    """The lines of the table."""
    for name in chosen:
        with contextlib.redirect_stdout(sys.stderr):  # some generators print
            row = examined(name)
        if name == names()[0]:
            yield "\t".join(row)
        yield "\t".join(map(str, row.values()))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for line in table(sys.argv[1:] or names()):
        print(line, flush=True)
