"""`minicppo explain`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from minicppo.cli.console import console, say
from minicppo.cli.options import Json, Plugins, load


def explain(
    mu: Annotated[str, typer.Option(help="Probabilities of the sampled tokens under the rollout policy.")],
    pi: Annotated[str, typer.Option(help="Their probabilities under the current policy.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Hyper-parameters of the method.")
    ] = None,
    advantage: Annotated[str, typer.Option(help="One advantage for all tokens, or one for each.")] = "1",
    method: Annotated[str, typer.Option(help="Any of `minicppo methods`.")] = "cppo",
    divergence: Annotated[str, typer.Option(help="D_t of each token, in the place of the method's own.")] = "",
    plot: Annotated[Path | None, typer.Option(help="Also draw it to this PNG file.")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show what a method does to one response, token by token: w, D, Z, S, W, c, the weight g, verdict and reason.

    Examples:

    `minicppo explain --mu .5,.4,.5,.9,.3 --pi .6,.48,.4,.91,.5 --advantage 1 budget=fixed`

    `minicppo explain --mu .5,.4,.5,.9,.3 --pi .6,.48,.4,.91,.5 --method grpo --plot grpo.png`
    """
    from minicppo.plots import explain as shown
    from minicppo.plots.style import save

    load(plugins)
    rows = shown.explain(
        _numbers("mu", mu),
        _numbers("pi", pi),
        _numbers("advantage", advantage),
        method,
        _numbers("divergence", divergence) if divergence else None,
        **dict(_pair(text) for text in overrides or []),
    )
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        console.print(shown.table(rows, " ".join([method, *(overrides or [])])))
        console.print(shown.legend(rows))
    if plot is not None:
        say(f"drawn to {save(shown.picture(rows, method), plot)}")


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.replace(" ", ",").split(",") if part]
    except ValueError:
        raise ValueError(f"--{name} {text!r} is not a list of numbers like .5,.4,.9") from None


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} must have the form key=value, e.g. budget=fixed or delta=0.2")
    return key, yaml.safe_load(value)
