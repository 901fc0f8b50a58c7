"""`minicppo explain`."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from minicppo.cli.console import console, say
from minicppo.cli.lists import catalogue
from minicppo.cli.options import Json, Plugins, load, pair, require_folders
from minicppo.text import many

LISTS = ("mu", "pi", "advantage", "divergence", "old", "tokens")  # what a JSON file may hold; mu and pi it must


def explain(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Hyper-parameters of the method.")
    ] = None,
    mu: Annotated[str, typer.Option(help="Probabilities, or log-probs, of the sampled tokens when sampled.")] = "",
    pi: Annotated[str, typer.Option(help="The same under the current policy.")] = "",
    advantage: Annotated[str, typer.Option(help="One advantage for all tokens, or one for each.")] = "1",
    divergence: Annotated[str, typer.Option(help="D_t of each token, in the place of the method's own.")] = "",
    old: Annotated[str, typer.Option(help="The same under pi_old, the trainer's before its updates.")] = "",
    file: Annotated[Path | None, typer.Option(help=f"A JSON file with the lists {', '.join(LISTS)}.")] = None,
    run: Annotated[Path | None, typer.Option(help="A run: a response of its last batch, by its own method.")] = None,
    row: Annotated[int, typer.Option(help="With --run: which of its responses.", min=1)] = 1,
    method: Annotated[str | None, typer.Option(help="Any of `minicppo methods`. [default: cppo, or the run's]")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw it to this PNG file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the tokens, coloured, to this HTML file.")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show what a method does to one response, token by token: w, D, Z, S, W, c, the weight g, verdict and reason.

    Negative numbers are log-probs.

    Examples:

    - `minicppo explain --mu .5,.4,.5,.9,.3 --pi .6,.48,.4,.91,.5 --advantage 1 budget=fixed`
    - `minicppo explain --mu .5,.4,.5,.9,.3 --pi .6,.48,.4,.91,.5 --method grpo --plot grpo.png`
    - `minicppo explain --mu .5,.1,.4,.2 --old .5,.3,.1,.25 --pi .6,.3,.1,.4 correction=icepop`
    - `minicppo explain --run runs/stale-cppo-exact --row 3 --html response.html`
    """
    load(plugins)
    require_folders(plot, html)
    if [bool(mu or pi), file is not None, run is not None].count(True) != 1:
        raise ValueError("say what to explain: --mu and --pi, or --file FILE.json, or --run RUN")
    params = dict(pair(text) for text in overrides or [])
    if "method" in params:
        raise ValueError(f"method={params['method']}: here it is an option, --method {params['method']}")
    if run is not None:
        given, name, of_run = _of_run(run, row)
        params = params if method else {**of_run, **params}
        method = method or name
    elif file is not None:
        given = _of_file(file)
    else:
        typed = {"mu": mu, "pi": pi, "advantage": advantage, "divergence": divergence, "old": old}
        given = {key: _numbers(key, text) for key, text in typed.items() if text}
    method = method or "cppo"
    policies = {name: _probabilities(name, given[name]) for name in ("mu", "pi", "old") if given.get(name)}
    rows = _rows({**given, **policies}, method, params)
    tokens = given.get("tokens")
    if tokens is not None and len(tokens) != len(rows):
        raise ValueError(f"there are {many(len(tokens), 'token')} for the {len(rows)} of mu")
    title = " ".join([method, *(overrides or [])])
    from minicppo.plots import explain as shown

    if plot is not None:
        from minicppo.plots.style import save

        say(f"drawn to {save(shown.picture(rows, title), plot)}")
    if html is not None:
        html.write_text(shown.page(rows, tokens, title), encoding="utf-8")
        say(f"written to {html}")
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        console.print(shown.table(rows, title, tokens))
        console.print(shown.legend(rows))


def _rows(given: dict[str, Any], method: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    """By the loop where it has all of the method: PyTorch takes two seconds to import. By the rule otherwise.

    What the loop would have to refuse goes to the rule, too, which says why.
    """
    mu, pi, advantages = given.get("mu", []), given.get("pi", []), given.get("advantage", [1.0])
    divergence, old = given.get("divergence"), given.get("old")
    each = advantages * len(mu) if len(advantages) == 1 else advantages
    D = mu if divergence is None else divergence
    sound = mu and old is None and len(mu) == len(pi) == len(each) == len(D)
    sound = sound and all(0 < p <= 1 for p in [*mu, *pi]) and all(map(math.isfinite, [*each, *D]))
    values = of_loop(method, params) if sound else None
    if values is None or (divergence is None and not values["divergence"].startswith("binary")):
        from minicppo.rules.explained import explain

        return explain(mu, pi, advantages, method, divergence, old, **params)
    from minicppo.reference.explained import explain_cppo
    from minicppo.reference.loops import Response

    return explain_cppo(Response(mu, pi, each, given_divergence=divergence), values)


def of_loop(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """The hyper-parameters of a member of CPPO's family, where they are surely allowed; None for any other method."""
    known = catalogue().get(method, {"family": None})
    if known["family"] != "cppo" or not params.keys() <= known["params"].keys():
        return None
    for name, value in params.items():
        limits = known["params"][name]
        number = isinstance(value, (int, type(limits["value"]))) and not isinstance(value, bool | str)
        low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
        if not (low < value < high if number else value in limits.get("choices", [])):
            return None
    values = {name: float(p["value"]) if p["value"] == "inf" else p["value"] for name, p in known["params"].items()}
    values |= params
    of_rule = values["direction"] != "ratio", values["gate"] == "budget", values["schedule"] == "shuffled"
    return None if any(of_rule) else values


def _of_run(run: Path, row: int) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """A response of the run's trace; the run's method and its hyper-parameters."""
    from minicppo.plots.runs import load_run

    loaded = load_run(run)
    if (trace := loaded.trace) is None:
        raise FileNotFoundError(f"{run} has no trace.safetensors: responses are kept there at its evaluations")
    if row > len(trace.tokens):
        raise ValueError(f"--row {row}: {run} has kept {many(len(trace.tokens), 'response')}")
    valid = trace.response_mask[row - 1]
    arrays = {
        "mu": trace.rollout_log_probs,
        "pi": trace.log_probs,
        "advantage": trace.advantages,
        "divergence": trace.divergence,
        "old": trace.old_log_probs,
    }
    given: dict[str, Any] = {
        name: array[row - 1][valid].tolist() for name, array in arrays.items() if array is not None
    }
    given |= {name: [*map(math.exp, given[name])] for name in ("mu", "pi", "old") if name in given}
    return {**given, "tokens": trace.tokens[row - 1]}, loaded.method, loaded.config["method"].get("params", {})


def _of_file(path: Path) -> dict[str, Any]:
    from minicppo.files import reading

    with reading(path, 'one JSON object such as {"mu": [0.5, 0.4], "pi": [0.6, 0.3], "advantage": [1]}'):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not {"mu", "pi"} <= set(found) <= set(LISTS):
            raise ValueError(f"the lists mu and pi are wanted, perhaps {', '.join(LISTS[2:])}, and nothing else")
        for name, values in found.items():
            kind = str if name == "tokens" else int | float
            if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
                raise ValueError(f"{name} is no list of {'texts' if name == 'tokens' else 'numbers'}")
    return found


def _probabilities(name: str, values: list[float]) -> list[float]:
    """Probabilities as they are; log-probs, known by a negative one among them, through exp."""
    if not any(value < 0 for value in values):
        return values
    if any(value > 0 for value in values):
        raise ValueError(f"{name} has negative numbers, as log-probs are, and positive ones: give one kind")
    return [math.exp(value) for value in values]


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.replace(" ", ",").split(",") if part]
    except ValueError:
        raise ValueError(f"--{name} {text!r} is not a list of numbers like .5,.4,.9") from None
