"""Answers before and after, side by side; and one answer with every token in the colour of its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from minicppo.plots.response import LOOKS, choose_response
from minicppo.plots.runs import Trace
from minicppo.plots.style import GREEN, GREY
from minicppo.rl.config import RunConfig
from minicppo.rl.evaluate import held_out_problems
from minicppo.rl.policy import Policy
from minicppo.rl.rollout import grade
from minicppo.rl.sampling import sample
from minicppo.rl.seeding import generator_for
from minicppo.rules import Reason
from minicppo.text import markdown_cell, printable

WORDS = {
    Reason.TOWARD: "kept, moves back",
    Reason.INSIDE: "kept, inside both limits",
    Reason.TOKEN: "masked by the token test",
    Reason.PREFIX: "masked by the prefix budget",
    Reason.BOTH: "masked by both (underlined)",
    Reason.SEQUENCE: "masked with the whole response",
}
KEPT = {Reason.TOWARD: GREEN, Reason.INSIDE: GREY}


@dataclass(frozen=True)
class Answer:
    """One sampled answer to a held-out problem, and whether it is right."""

    prompt: str
    expected: str
    text: str
    right: bool


def answers(policy: Policy, config: RunConfig, n: int) -> list[Answer]:
    """One sample to each of the first `n` held-out problems, with the same random numbers for every policy."""
    task = config.make_task()
    problems = held_out_problems(task, config)[:n]
    rollout = sample(
        policy,
        [policy.encode(problem.prompt) for problem in problems],
        config.max_new_tokens(task),
        config.eval.temperature,
        generator_for(config.eval.seed, "shown-answers"),
        batch=config.eval.batch,
    )
    graded = grade(policy, task, problems, rollout)
    found = zip(problems, graded.texts, graded.rewards.tolist(), strict=True)
    return [Answer(problem.prompt, problem.answer, text, reward == 1.0) for problem, text, reward in found]


def side_by_side(before: Sequence[Answer], after: Sequence[Answer]) -> Table:
    """For the terminal: the problem, its answer, and what the policy said."""
    table = Table(title="Held-out problems, one sample each", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for head, width in (("problem", 26), ("answer", 6), ("before", 22), ("after", 22)):
        table.add_column(head, max_width=width, overflow="fold")
    for old, new in zip(before, after, strict=True):
        table.add_row(Text(printable(old.prompt)), Text(printable(old.expected)), _graded(old), _graded(new))
    return table


def side_by_side_markdown(before: Sequence[Answer], after: Sequence[Answer]) -> str:
    """The same for a file; right answers in bold."""
    lines = ["| problem | answer | before | after |", "|---|---:|---|---|"]
    for old, new in zip(before, after, strict=True):
        said = [f"**{_cell(answer.text)}**" if answer.right else _cell(answer.text) for answer in (old, new)]
        lines.append(f"| {_cell(old.prompt)} | {_cell(old.expected)} | {' | '.join(said)} |")
    return "\n".join(lines) + "\n"


def coloured(trace: Trace, row: int | None = None) -> Text:
    """One traced response: a token's colour is the verdict on it, and the darker, the larger its divergence.

    Below it stand the verdicts that occur, each with its number of tokens and their largest divergence.
    """
    row = choose_response(trace) if row is None else row
    reasons, divergence = trace.reason[row], trace.divergence[row]
    valid = reasons != Reason.PAD
    top = float(divergence[valid].max()) or 1.0
    text = Text()
    for token, reason, value in zip(trace.tokens[row], reasons[valid], divergence[valid], strict=True):
        text.append(printable(token.replace("\n", "⏎")), _style(Reason(reason), float(value) / top))
    text.append(f"\n  after {trace.prompts[row]!r}, advantage {float(trace.advantages[row, 0]):+.2f}\n")
    for reason, words in WORDS.items():
        chosen = reasons == reason
        if chosen.any():
            text.append("  ■ ", Style(color=_face(reason)))
            text.append(f"{words}: {int(chosen.sum())}, divergence up to {float(divergence[chosen].max()):.3f}\n")
    return text


def write_html(text: Text, path: Path) -> Path:
    """The coloured answer as a page that needs nothing else."""
    page = Console(record=True, file=StringIO(), width=100, color_system="truecolor")
    page.print(text)
    path.write_text(page.export_html(inline_styles=True), encoding="utf-8")
    return path


def _graded(answer: Answer) -> Text:
    mark = Text("✓ ", "green") if answer.right else Text("✗ ", "red")
    return mark.append(printable(" ".join(answer.text.split())), "default")


def _cell(text: str) -> str:
    return markdown_cell(text) or "(nothing)"


def _face(reason: Reason) -> str:
    """The colour that the figures use, and one for what they leave white."""
    return KEPT.get(reason) or LOOKS[reason][1]


def _style(reason: Reason, share: float) -> Style:
    """The verdict's colour mixed into white, at least a fifth of it; the letters stay legible on any mixture."""
    face = np.array([int(_face(reason)[i : i + 2], 16) for i in (1, 3, 5)])
    mixed = (255 + (0.2 + 0.8 * share) * (face - 255)).round().astype(int)
    dark = float(mixed @ [0.299, 0.587, 0.114]) < 128
    ground = "#" + "".join(f"{value:02x}" for value in mixed)
    return Style(color="white" if dark else "black", bgcolor=ground, underline=reason == Reason.BOTH)
