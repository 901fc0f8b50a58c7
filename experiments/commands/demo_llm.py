"""`python -m experiments demo-llm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minicppo.cli.console import again, console, stopped_runs


def demo_llm(
    context: typer.Context,
    method: Annotated[str, typer.Option("--method", "-m", help="Any name that `minicppo methods` lists.")] = "cppo",
    out: Annotated[Path, typer.Option("--out", "-o", help="The run goes to OUT/METHOD.")] = Path("runs/demo-llm"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of keeping a finished run.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings of preset `smollm2-demo` to change.")
    ] = None,
) -> None:
    """Let a real pretrained model, SmolLM2-135M, learn sums on a CPU; under ten minutes on two cores, under 4 GB.

    Ends with held-out accuracy before and after, answers side by side, figures, and one answer with every token in the
    colour of its verdict. Needs the model: `make setup-llm`. Interrupted, it goes on from its last checkpoint when
    called again.

    Examples:

    - `python -m experiments demo-llm`
    - `python -m experiments demo-llm --method cppo-topk`
    - `python -m experiments demo-llm model.path=my-model.gguf`
    - `minicppo compare runs/demo-llm/cppo runs/demo-llm/grpo` puts two of them side by side
    """
    from experiments.demo_llm import PRESET, run_demo_llm

    for override in overrides or []:
        key, _, value = override.partition("=")
        if key in ("method", "method.name"):
            raise ValueError(f"{override} would train in the folder of {method}: say --method {value}")
        if key == "recipe":
            raise ValueError(
                f"{override} is not for the demo, which trains a method: minicppo train {PRESET} {override}"
            )
    try:
        run_demo_llm(out, console, method=method, fresh=fresh, overrides=overrides or [])
    except KeyboardInterrupt:
        stopped_runs([out / method], again(context))
