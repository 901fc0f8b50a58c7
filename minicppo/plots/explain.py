"""One response, one method, token by token: every quantity of the rule, as a table and as a picture."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.table import Table

from minicppo.rules import Method, Reason, TokenBatch, get_method
from minicppo.text import WHITE, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERDICTS = {
    Reason.TOWARD: "keep, toward",
    Reason.INSIDE: "keep, inside",
    Reason.TOKEN: "MASK, token",
    Reason.PREFIX: "MASK, prefix",
    Reason.BOTH: "MASK, both",
    Reason.SEQUENCE: "MASK, response",
    Reason.MISMATCH: "MASK, mismatch",
}
COLUMNS = ("t", "mu", "old", "pi", "rho", "mismatch", "drift", "A", "w", "D", "Z", "S", "W", "c", "g", "verdict")
HEADS = {"mismatch": "old/mu", "drift": "pi/old"}  # where eighty columns have to do
MEANINGS = {
    "rho": "pi / mu",
    "mismatch": "its mismatch, pi_old / mu",
    "drift": "its drift, pi / pi_old",
    "w": "position weight",
    "D": "divergence",
    "Z": "w D",
    "S": "sum of Z so far, this token included",
    "W": "sum of w so far, this token included",
    "c": "limit on Z, min(delta, delta + delta_b W - S) with the sums before this token",
    "g": "weight of A grad log pi",
}
REASONS = {
    Reason.TOWARD: "toward: the update brings pi no further from mu, always kept",
    Reason.INSIDE: "inside: within the limits",
    Reason.TOKEN: "token: beyond the token's own limit",
    Reason.PREFIX: "prefix: beyond what the prefix leaves",
    Reason.BOTH: "both: beyond the token's limit and what the prefix leaves",
    Reason.SEQUENCE: "response: all of it is rejected",
    Reason.MISMATCH: "mismatch: pi_old is too far from mu",
}
# what a method compares with its limit, as a column, in words and on an axis; of the first that it has
TESTED = {
    "Z": r"weighted divergence $Z_t = w_t D_t$",
    "D": r"divergence $D_t$",
    "|log rho|": r"$|\log\,(\pi/\mu)|$",
}


def explain(
    mu: Sequence[float],
    pi: Sequence[float],
    advantages: Sequence[float],
    method: str = "cppo",
    divergence: Sequence[float] | None = None,
    old: Sequence[float] | None = None,
    **params: Any,
) -> list[dict[str, Any]]:
    """One row a token, keys as in COLUMNS plus "reason" and "delta_b"; None where the method has no such quantity.

    mu, pi: the sampled tokens' probabilities under the rollout and the current policy, each in (0, 1], of one response.
    advantages: one for each token, or one for all. divergence: D_t, in the place of the method's own; needed by methods
    whose divergence looks beyond the sampled token. old: the probabilities under pi_old; without them it is mu.
    params: the method's hyper-parameters.
    Raises ValueError on an unknown method, a probability outside (0, 1], or lists of different lengths.
    """
    rule = get_method(method, **params)
    if not mu:
        raise ValueError("mu is empty: give at least one token's probability")
    advantages = list(advantages) * len(mu) if len(advantages) == 1 else list(advantages)
    for name, values in (("pi", pi), ("advantage", advantages), ("divergence", divergence), ("old", old)):
        if values is not None and len(values) != len(mu):
            raise ValueError(f"{name} has {len(values)} values for the {len(mu)} tokens of mu")
    for name, value in [(name, x) for name, values in (("mu", mu), ("pi", pi), ("old", old or [])) for x in values]:
        if not 0 < value <= 1:
            raise ValueError(f"{name} has the value {value}: the probability of a sampled token is in (0, 1]")
    if rule.params.get("direction") == "predicted":
        raise ValueError(f"method {method!r} predicts its direction from whole distributions: explain cannot show it")
    if rule.needs != "log_probs" and divergence is None:
        raise ValueError(f"method {method!r} looks beyond the sampled token: give its D_t with --divergence")
    row = [torch.tensor([list(x)], dtype=torch.float64) for x in (pi, mu, advantages)]
    given = None if divergence is None else torch.tensor([list(divergence)], dtype=torch.float64)
    before = None if old is None else torch.tensor([list(old)], dtype=torch.float64).log()
    batch = TokenBatch(row[0].log(), row[1].log(), row[2], divergence=given, old_log_probs=before)
    out = rule(batch)
    found = {"rho": batch.ratio, "D": out.divergence, "c": out.threshold, "g": out.weight}
    if out.position_weight is not None and out.divergence is not None:
        w, Z = out.position_weight, out.position_weight * out.divergence
        found |= {"w": w, "Z": Z}
        if "budget_w_min" not in rule.params:  # whose S and W have weights of their own
            found |= {"S": Z.cumsum(1), "W": w.cumsum(1)}
    columns: dict[str, Sequence[Any]] = {"mu": mu, "pi": pi, "A": advantages}
    if old is not None:
        columns["old"] = old
        found |= {"mismatch": batch.log_mismatch.exp(), "drift": batch.since_old.ratio}
    columns |= {name: value[0].tolist() for name, value in found.items() if value is not None}
    columns.setdefault("c", _limits(rule, advantages))
    codes = [Reason(code) for code in out.reason[0].tolist()]
    pairs = zip(codes, columns["g"], strict=True)  # a weight that is scaled rather than zeroed is a gate
    words = [VERDICTS[code].replace("MASK", "gate" if g else "MASK") for code, g in pairs]
    columns |= {"verdict": words, "reason": [code.name.lower() for code in codes], "t": range(1, len(mu) + 1)}
    columns["delta_b"] = [None if out.delta_b is None else float(out.delta_b[0])] * len(mu)
    names = [*COLUMNS, "reason", "delta_b"]
    return [{name: columns[name][t] if name in columns else None for name in names} for t in range(len(mu))]


def _limits(rule: Method, advantages: Sequence[float]) -> list[float | None]:
    """The limits of a token method without a threshold of its own: DPPO's on D, PPO's on |log rho| by the sign of A."""
    if rule.family == "dppo":
        return [rule.params["delta"]] * len(advantages)
    if rule.family != "ppo":
        return [None] * len(advantages)
    low = rule.params["clip_low"]
    up, down = math.log1p(rule.params["clip_high"]), math.inf if low == 1 else -math.log1p(-low)
    return [up if A > 0 else down for A in advantages]


def table(rows: Sequence[dict[str, Any]], title: str, tokens: Sequence[str] | None = None) -> Table:
    """The rows as a rich table, with the tokens' texts if given; columns the method does not have are left out."""
    if tokens is not None:
        rows = [{**row, "token": printable(token).translate(WHITE)} for row, token in zip(rows, tokens, strict=True)]
    shown = [name for name in ("t", "token", *COLUMNS[1:]) if any(row.get(name) is not None for row in rows)]
    result = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in shown:
        head = HEADS.get(name, name)
        width = max(len(head) if name in HEADS else 0, *(len(_cell(row[name])) for row in rows))
        result.add_column(
            head, justify="left" if name in ("token", "verdict") else "right", no_wrap=True, min_width=width
        )
    for row in rows:
        style = "bold" if row["verdict"].startswith("MASK") else None
        result.add_row(*(_cell(row[name]) for name in shown), style=style)
    return result


def legend(rows: Sequence[dict[str, Any]]) -> str:
    """What the columns and the verdicts mean."""
    meanings = MEANINGS if rows[0]["S"] is not None else {**MEANINGS, "c": f"limit on {_tested(rows)}"}
    known = {HEADS.get(name, name): text for name, text in meanings.items() if rows[0][name] is not None}
    columns = "; ".join(f"{name}: {text}" for name, text in known.items())
    used = "" if rows[0]["delta_b"] is None else f"\ndelta_b used: {_cell(rows[0]['delta_b'])}"
    codes = sorted({Reason[row["reason"].upper()] for row in rows})
    return f"{columns}{used}\nVerdicts. {'; '.join(REASONS[code] for code in codes)}"


def _cell(value: Any) -> str:
    """Four digits and no leading zero, so that the table fits 80 columns."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{value + 0.0:.4g}") if isinstance(value, float) else str(value)


def _tested(rows: Sequence[dict[str, Any]]) -> str:
    return next(name for name in TESTED if rows[0].get(name, 0) is not None)


def picture(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """Bars of Z_t (or D_t, or |log pi/mu|) by verdict, the threshold c_t, and below them the token weight g."""
    from minicppo.plots.response import draw_threshold, draw_verdicts, legend_entries  # a table needs no matplotlib
    from minicppo.plots.style import house_style, literal, new_figure

    codes = np.array([Reason[row["reason"].upper()] for row in rows])
    tested = _tested(rows)
    heights = np.array([row[tested] if tested in row else abs(math.log(row["rho"])) for row in rows])
    threshold = None if rows[0]["c"] is None else np.array([row["c"] for row in rows])
    with house_style():
        figure = new_figure(max(5.0, 2.2 + 0.45 * len(rows)), 4.4)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
        draw_verdicts(top, heights, codes)
        if threshold is not None and np.isfinite(threshold).all():
            draw_threshold(top, threshold, float(heights.max()))
        top.set_ylabel(TESTED[tested])
        top.set_title(literal(title))
        draw_verdicts(bottom, np.array([row["g"] for row in rows]), codes)
        bottom.axhline(1, color="black", linewidth=0.8, linestyle=":")
        bottom.set_ylabel("token weight $g_t$")
        bottom.set_xlabel("token $t$ of the response")
        bottom.set_xticks(range(1, len(rows) + 1, max(1, len(rows) // 20)))
        figure.legend(*legend_entries(codes, threshold is not None), loc="outside upper center", ncols=2)
    return figure
