"""The `minicppo` command. One file a group of commands; this one puts them together.

Nothing heavy is imported before a command runs, so that `minicppo --help` answers at once.
"""

import difflib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from minicppo import __version__
from minicppo.cli.compare import compare
from minicppo.cli.console import errors, fail
from minicppo.cli.evaluate import evaluate
from minicppo.cli.explain import explain
from minicppo.cli.inspect import inspect
from minicppo.cli.lists import config, methods, presets, tasks
from minicppo.cli.plan import plan
from minicppo.cli.thresholds import thresholds
from minicppo.cli.train import resume, train
from minicppo.cli.watch import watch

UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # Typer gives no other name to it
IN_A_CLONE = ("demo", "demo-llm", "study", "paper")  # what makes this repository's own results

app = typer.Typer(
    name="minicppo",
    help="CPPO (arXiv 2606.10968) to learn, check, use and reproduce: train small language-model policies with it and "
    "with the rules it is compared with.",
    epilog="New here? `minicppo train learn` trains a tiny policy in two minutes; in a clone, `make demo` trains four "
    "methods side by side. Every command explains itself: `minicppo train --help`.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train, plan, resume, watch, compare, inspect, methods, tasks, presets, config, explain, thresholds):
    app.command()(command)
app.command("eval")(evaluate)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"minicppo {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show an error's traceback; works anywhere.")] = False,
) -> None:
    """Options that come before a command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `minicppo`."""
    run(app, "minicppo", arguments)


def run(app: typer.Typer, program: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command line; an error that the user can mend is one line and exit status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    told = [argument for argument in arguments if argument != "--debug"]
    try:
        status = app(told, prog_name=program, obj=arguments, standalone_mode=False)
    except UsageError as error:
        fail(ValueError(_usage(error)))
    except (ValueError, TypeError, OSError, RuntimeError, ArithmeticError, ImportError) as error:
        if debug:
            raise
        fail(error)
    if status == 130:  # Ctrl-C where no command waits for it
        errors.print("\nStopped before anything was begun.")
    raise SystemExit(status or 0)  # a status where the command left by typer.Exit


def _usage(error: Any) -> str:
    """A mistake in options or arguments in one line, with the value where Typer leaves it out."""
    if type(error).__name__ == "NoArgsIsHelpError":  # the help has been shown
        raise SystemExit(2)
    text = str(error.format_message())
    if (name := text.removeprefix("No such command '").partition("'")[0]) in IN_A_CLONE:
        return f"minicppo {name} makes this repository's own results: in a clone, python -m experiments {name}"
    if text.startswith("No such option") and any(each.name == "overrides" for each in error.ctx.command.params):
        near = difflib.get_close_matches(error.option_name, error.possibilities or [], 1, 0.8)
        meant = f"; did you mean {near[0]}?" if near else _as_setting(error.option_name, error.ctx.obj)
        text = f"No such option: {error.option_name}{meant}"
    if isinstance(error.__cause__, ValidationError):
        text = text.replace("Invalid value", f"Invalid value {error.__cause__.errors()[0]['input']!r}", 1)
    return f"{text.rstrip('.')} (see {error.ctx.command_path} --help)" if error.ctx else text


def _as_setting(option: str, typed: Sequence[str]) -> str:
    """Which setting an option that does not exist means, with the value that follows it."""
    from minicppo.rl.config import RunConfig
    from minicppo.rl.keys import keys, meant

    name = option.lstrip("-").replace("-", "_")
    if name in {key.name for key in keys(RunConfig)} or name.startswith("method.params."):
        after = [value for before, value in zip(typed, typed[1:], strict=False) if before == option]
        return f": it is a setting, {name}={after[0] if after else 'VALUE'}"
    (line,) = meant(RunConfig, name, None)
    return line.removeprefix(f"unknown key {name!r}")
