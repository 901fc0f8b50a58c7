"""`make fuzz`: odd settings, answers, rows, run folders, texts, models and log-probs, full disks and killed runs.

`python -m experiments.fuzz [SEED [SHARE]]` tries 13,190 cases, or a share of them, in some minutes, prints how many of
each kind and what was found, and ends with status 1 on a finding: an error that is not the one-line error meant for it,
a score outside [0, 1], work beyond the limit, a text that is more than a text, a model on which sampler and scorer
disagree, a run that ends otherwise. The same seed tries the same cases.
"""

import contextlib
import json
import math
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from experiments.constants import BOMBS, CODE, constants, names, tagged
from experiments.fuzz_models import TINY, Case, full_disk, killed, log_probs, models
from minicppo.cli.console import Terminal, say
from minicppo.cli.options import default_folder
from minicppo.engines.plan import plan_files
from minicppo.plots.runs import load_run
from minicppo.plots.style import literal, new_figure, save
from minicppo.rl.config import RunConfig, load_config, preset_names, recipe_names
from minicppo.rl.data import DataError, _load_file, load_data
from minicppo.rl.grading.confined import LIMIT
from minicppo.rl.grading.reward import score_response
from minicppo.rl.settings_file import ConfigError
from minicppo.rl.tasks import TASKS, Problem, judged
from minicppo.rl.tasks.reasoning_gym import ReasoningGymTask
from minicppo.rl.trainer import resume, train, trained_policy
from minicppo.rules import METHODS
from minicppo.text import HIDDEN, markdown_cell, printable

LONGEST_LINE = 1500  # characters of an error
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 7, 64, 0.5, 1.0, 1e-3, -0.0, 1e308, 1e-320, 2**31, 2**63, 10**400),
    *(float("inf"), float("nan"), "", " ", "x", "x" * 20_000, "\n", "../../x", "\0", "~", "~nobody", "/"),
    *("{}", "$(id)", "auto", "cuda:0", "off", "null", ".inf", "nan", "1e999", "9" * 5000, "hub:a/b", "no.yaml"),
    *("\ud800", "٣", [], {}, [[]], [None], [0.9], {"": 1}, {"name": "cppo"}, {"steps": 2}, [1] * 3000, "[" * 2000),
    *TASKS, *METHODS, *preset_names(), *recipe_names(),
]  # fmt: skip
KEYS = ["recipe", "warmup.lr", "task.options.steps", "method.params.delta", "method.params.x", "a.b", ""]
for _name, _part in RunConfig().model_dump().items():
    KEYS += [_name, *(f"{_name}.{key}" for key in (_part if isinstance(_part, dict) else ()))]
PIECES = r"""Answer: |\boxed{|}|{|$|$$|42|-|/|\frac|^|_|(|)|[|]|,|;| |\sqrt|\text{|e|E|.|%|x|=|\infty|9999999999
|<answer>|1e9|±|½|²|°|million|'|"|\|&|#|[/b]|<script>|**|`|![|](|٣|</answer>""".replace("\n", "").split("|")
PIECES += ["\n", "|", "\0", "\x1b[2J", "\u202e", "\ud800", "\u2028"]
CONSTANTS = constants()[:200]
GOLDS = ["42", "\\frac{1}{2}", "x^2+1", "(0,1]", "\\{1,2\\}", "3\\sqrt{2}", "-0.5", "\\text{red}", "10\\%", "x=3"]


def mixed(rng: random.Random) -> str:
    """A text of pieces, now and then a very long one or one that is known to be bad."""
    if rng.random() < 0.2:
        return rng.choice([*BOMBS, *CODE])
    text = "".join(rng.choices([*PIECES, *CONSTANTS], k=rng.randint(0, 12)))
    return text * (rng.choice([100, 2000]) if rng.random() < 0.1 else 1)


def settings(rng: random.Random, folder: Path) -> Case:
    """A configuration and dotted overrides: valid, or refused in short lines."""
    overrides = []
    for _ in range(rng.randint(0, 3)):
        value = rng.choice(VALUES)
        overrides.append(f"{rng.choice(KEYS)}={value if isinstance(value, str) else json.dumps(value, default=str)}")
    tree: Any = {key: rng.choice(VALUES) for key in rng.choices([key for key in KEYS if "." not in key], k=2)}
    text = rng.choice([yaml.safe_dump(tree), damaged(RunConfig().to_yaml().encode(), rng).decode(errors="replace")])
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice([*PIECES, "&a ", "*a", "!!int ", "!!timestamp ", "\t", ": ", "- "]) + text[at:]
    source = folder / "settings.yaml" if rng.random() < 0.5 else rng.choice([*preset_names(), mixed(rng)])

    def check() -> None:
        (folder / "settings.yaml").write_bytes(text.encode(errors="surrogatepass"))
        try:
            config = load_config(source, overrides)
        except ConfigError as error:
            return one_error(error, most=21)
        (folder / "again.yaml").write_text(config.to_yaml())
        assert load_config(folder / "again.yaml") == config, "it does not survive its YAML"
        assert default_folder(config, []).resolve().parent == Path("runs").resolve(), "it leads out of runs/"
        plan_files(config)

    return (text if isinstance(source, Path) else source, overrides), check


def answers(rng: random.Random, folder: Path) -> Case:
    """An answer through the judge, or through a set of reasoning-gym."""
    text, wrap = mixed(rng), rng.choice(["Answer: {}", "so\nAnswer: ${}$", "\\boxed{{{}}}", "{}"])
    if rng.random() < 0.5:
        gold = rng.choice(GOLDS)
        return (gold, text), lambda: in_range(score_response(wrap.format(text), gold))
    name = rng.choice([name for name in names() if name != "composite"])  # it is of others
    task, problem = problem_of(name)
    return (name, text), lambda: in_range(judged(task, problem, tagged(text))[0])


@lru_cache
def problem_of(name: str) -> tuple[ReasoningGymTask, Problem]:
    """One problem of a data set."""
    with contextlib.redirect_stdout(StringIO()):  # some generators print
        task = ReasoningGymTask(name)
        return task, task.problem(random.Random(0))


def rows(rng: random.Random, folder: Path) -> Case:
    """A file of data: loaded, or refused with its name and the row."""
    suffix = rng.choice([".jsonl", ".jsonl", ".parquet"])
    columns = ["question", "problem", "prompt", "answer", "solution", "ref_answer", "reward_model", "x" * 9000]
    lines = []
    for _ in range(rng.randint(0, 4)):
        row: Any = {"question": "What?", "answer": "1"} if rng.random() < 0.5 else {}
        for column in rng.choices(columns, k=rng.randint(0, 3)):
            row[column] = rng.choice([mixed(rng), rng.choice(VALUES), [{"role": "user", "content": rng.choice(VALUES)}],
                                      {"ground_truth": rng.choice(VALUES)}])  # fmt: skip
        line = json.dumps(row if rng.random() < 0.9 else rng.choice(VALUES))
        lines.append(line if rng.random() < 0.8 else line[: rng.randint(0, len(line))])
    content = damaged("\n".join(lines).encode(), rng) if rng.random() < 0.2 else "\n".join(lines).encode()

    def check() -> None:
        path = folder / f"rows{suffix}"
        path.write_bytes(content)
        _load_file.cache_clear()
        try:
            load_data(str(path))
        except DataError as error:
            one_error(error, path.name, longest=3 * LONGEST_LINE)
            if "cannot be used" in str(error):
                one_error(error, ": row ", longest=3 * LONGEST_LINE)

    return content[:3000], check


def folders(rng: random.Random, folder: Path) -> Case:
    """A run that was stopped, with one file of it damaged: resumed, or refused in a line with its name."""
    whole = folder / "whole"
    if not whole.exists():
        with contextlib.suppress(KeyboardInterrupt):
            train(load_config("learn", TINY), whole, stop)
    file = rng.choice(sorted(path for path in whole.rglob("*") if path.is_file()))
    how, seed = rng.choice(["gone", "folder", "link", "damaged", "damaged", "damaged", "json"]), rng.random()

    def check() -> None:
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        target = run / file.relative_to(whole)
        old = target.read_bytes()
        target.unlink()
        if how == "folder":
            target.mkdir()
        elif how == "link":
            target.symlink_to(folder / "elsewhere")
        elif how != "gone":
            target.write_bytes((other_json if how == "json" else damaged)(old, random.Random(seed)))
        for act in (load_run, trained_policy, resume):
            try:
                act(run)
            except (ValueError, OSError) as error:
                one_error(error, "" if act is resume else "run", most=21)  # settings may be whole, and ask too much
        assert not (folder / "elsewhere").exists(), "it wrote through a link"

    return f"{file.relative_to(whole)} {how} {seed}", check


def stop(event: Any) -> None:
    """Stop the run after its first iteration."""
    if event["kind"] == "iteration":
        raise KeyboardInterrupt


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content cut off, or with some bytes changed or put in."""
    at, size = rng.randint(0, len(content)), rng.choice([1, 4, 200])
    return content[:at] + rng.choice([b"", rng.randbytes(size), b"\0" * size]) + rng.choice([b"", content[at + size :]])


def other_json(content: bytes, rng: random.Random) -> bytes:
    """The same JSON or YAML with another value somewhere, or damaged where it is neither."""
    try:
        tree = yaml.safe_load(content)
        key = rng.choice(sorted(tree))
        tree[key] = rng.choice(VALUES[:20])
        return json.dumps(tree).encode()
    except Exception:
        return damaged(content, rng)


def texts(rng: random.Random, folder: Path) -> Case:
    """A text on the terminal, in a table and in a figure: shown, and nothing else."""
    text, draw = mixed(rng)[:2000], rng.random() < 0.1

    def check() -> None:
        shown, cell, told = printable(text), markdown_cell(text), StringIO()
        assert not HIDDEN.search(shown) and printable(shown) == shown, "hidden characters"  # noqa: PT018
        assert len(cell.splitlines()) <= 1 and not set("<>") & set(cell), "markup in a cell"  # noqa: PT018
        assert "|" not in cell.replace("\\\\", "").replace("\\|", ""), "a cell ends early"
        Terminal(file=told, force_terminal=True, color_system=None).print(text)
        assert "\x1b" not in told.getvalue(), "a control sequence"
        if draw:
            figure = new_figure(3, 2)
            figure.suptitle(literal(text[:60]))
            figure.subplots().set_xlabel(literal(text[-60:]))
            save(figure, folder / "text.png")

    return text, check


def one_error(error: Exception, names: str = "", most: int = 1, longest: int = LONGEST_LINE) -> None:
    """An error is of few and short lines, and says where."""
    lines = str(error).splitlines()
    assert 0 < len(lines) <= most, f"{len(lines)} lines: {str(error)[:300]}"
    assert max(map(len, lines)) <= longest, f"{max(map(len, lines))} characters"
    assert names in lines[0], f"it names no {names}: {lines[0][:300]}"


def in_range(score: float) -> None:
    assert 0 <= score <= 1, f"a score of {score}"


COUNTS = {settings: 1500, answers: 1500, rows: 3000, folders: 250, texts: 1500, models: 400, log_probs: 5000}
COUNTS |= {full_disk: 20, killed: 20}  # so many moments of a run
SLOW = (folders, models, full_disk, killed)  # whose settings may ask for more than an answer may


def main(seed: float = 0, share: float = 1.0) -> int:
    """Try a share of the cases of each kind; returns the status."""
    warnings.simplefilter("ignore")
    findings, total = dict[str, str](), 0
    with tempfile.TemporaryDirectory() as name:
        for kind, count in COUNTS.items():
            rng, slowest, before, tried = random.Random(seed), 0.0, len(findings), math.ceil(share * count)
            for _ in range(tried):
                case, check = kind(rng, Path(name))
                start = time.process_time()
                try:
                    check()
                except Exception as error:
                    place = traceback.extract_tb(error.__traceback__)[-1]
                    where = f"{kind.__name__}: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
                    findings.setdefault(where, f"{str(error)[:300]}\n    of {ascii(case)[:600]}")
                took = time.process_time() - start
                if took > LIMIT and kind not in SLOW:
                    findings.setdefault(f"{kind.__name__}: {took:.1f} s", ascii(case)[:600])
                slowest = max(slowest, took)
            total += tried
            say(f"{kind.__name__}: {tried} cases, {len(findings) - before} findings, slowest {slowest:.1f} s of CPU")
    say(f"{total:,} cases, {len(findings)} findings")
    for where, what in findings.items():
        say(f"{where}: {what}")
    return int(bool(findings))


if __name__ == "__main__":
    raise SystemExit(main(*map(float, sys.argv[1:])))
