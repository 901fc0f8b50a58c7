"""`minicppo inspect`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from minicppo.cli.console import console, errors, say, stopped, table
from minicppo.cli.options import Json, Plugins, load, pair, require_folders


def inspect(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders or patterns of one log.")],
    form: Annotated[str | None, typer.Option("--format", help="In the place of the format that is detected.")] = None,
    method: Annotated[str, typer.Option(help="The rule whose mask is looked at.")] = "cppo",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A hyper-parameter of it; repeatable.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer's folder, for logs with token numbers.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the page, one HTML file.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Each PATH is a log: set them side by side.")] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave broken records out, count them.")] = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Tell from a log what happened in a run: is the log right, mismatch or drift, what is masked, what else would be.

    Reads prime-rl, NeMo-RL, slime, OpenAI-compatible and Inspect logs, runs of ours, and the neutral format.

    Examples: `minicppo inspect runs/demo/cppo`, `minicppo inspect 'token_exports/**/*.jsonl' --out report.html`,
    `minicppo inspect --compare before.jsonl after.jsonl`
    """
    from minicppo.cli.progress import Lines
    from minicppo.inspect import inspect as read
    from minicppo.inspect.log import Log
    from minicppo.inspect.sections import compared, sections
    from minicppo.inspect.tokens import decoder
    from minicppo.rules import get_method

    load(plugins)
    if out is not None and out.is_dir():
        raise ValueError(f"--out {out} is a folder: name the page's file, such as {out / 'report.html'}")
    if out is not None and out.exists() and b"<title>Inspected: " not in out.read_bytes()[:1000]:
        raise FileExistsError(f"--out {out} is no page of this command: name another file, or remove it first")
    require_folders(out)
    rule = get_method(method, **dict(pair(text) for text in settings or []))
    if rule.needs != "log_probs":
        raise ValueError(f"{rule.name} needs {rule.needs} of both policies, which no log has. Way out: --method cppo")
    decode = decoder(tokenizer) if tokenizer else None
    found = []
    for group in [[path] for path in paths] if compare else [paths]:
        with Lines(errors) as lines:

            def progress(log: Log, tokens: int, show: Callable[..., None] = lines.show) -> None:
                done, total = (-(-count // 1_000_000) for count in (log.done, log.total))
                show("reading, MB", done, total, f"{tokens / 1e6:.1f} M tokens")

            found.append(read(group, form, skip_broken, decode, rule, progress))
    reports = [each.report for each in found]
    if out is not None:
        from minicppo.inspect.page import write_page

        old = out.exists()
        write_page(found, out)
        where = f"over the old one to {out}" if old else f"to {out}"
        errors.print(f"page written {where}, {out.stat().st_size / 1e3:,.0f} kB", soft_wrap=True)
    if as_json:
        print(json.dumps(reports if compare else reports[0], indent=1, allow_nan=False))
    for section in () if as_json else compared(reports) if compare else sections(reports[0]):
        if section.rows:
            console.print(table(section.heads, section.rows, section.title, words=section.words))
        elif section.notes:
            say(section.title)
        say(*(f"  {note}" for note in section.notes), *[""] * bool(section.notes))
    if any(report["partial"] for report in reports):
        stopped("The report is of what had been read by then")
