"""Commands run in this process: what they print and how they end; and the smallest run that they can make."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import typer

TINY = [
    "model.hidden_size=32", "model.intermediate_size=32", "model.layers=1", "model.heads=2", "task.options.steps=1",
    "rollout.prompts=4", "rollout.group_size=4", "train.minibatches=2", "train.iterations=2", "train.epochs=1",
    "eval.problems=8", "eval.samples=2", "eval.every=1", "train.checkpoint_every=1",
    "warmup.target=0.2", "warmup.check_every=25", "warmup.anneal=0", "warmup.error_rate=0.3", "warmup.batch=16",
]  # fmt: skip


class Outcome(NamedTuple):
    status: int
    out: str
    err: str

    def done(self) -> str:
        """What was printed; the command must have succeeded."""
        assert self.status == 0, self.err
        return self.out

    def refused(self) -> str:
        """The error; it must be one line."""
        assert (self.status, self.err[:7], self.err.count("\n")) == (2, "error: ", 1), self.err
        return self.err


typer.main.get_command = functools.cache(typer.main.get_command)  # built once for all command lines of one program


def command(main: Callable[[Sequence[str]], None], capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`main` as a function of the words typed."""

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        try:
            main(arguments)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return Outcome(status, *capsys.readouterr())

    return call
