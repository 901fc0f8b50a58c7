"""Early warning: figures that others watch, with the level from which they call them suspect, and who says so."""

from typing import Any

Report = dict[str, Any]
WATCHED = (  # name, level, is it suspect below rather than above, source
    ("mean of exp |log pi - log mu|", 1.05, False, "NeMo-RL #1767"),
    ("k3 of mu and pi, nats a token", 0.02, False, "miles #2476: .01 to .02 is normal"),
    ("mismatch, mean nats a token", 0.02, False, "miles #2476"),
    ("k3 late over k3 early in a response", 3.0, False, "Megatron-LM #76: .22 at 460 tokens, 1.2 and more at 3,400"),
    ("first token's gap over the others'", 5.0, False, "marin #1879 has such a gap; the level is ours"),
    ("tokens with pi / mu outside .5 to 2", 0.01, False, "IcePop's usual band; the level is ours"),
    ("chi-square of pi and mu", 1.0, False, "verl #2738 watches it; the level is ours"),
    ("ESS of tokens", 0.5, True, "verl #2738 watches it; the level is ours"),
    ("ESS of whole responses", 0.1, True, "ours"),
    ("one string's share of what is masked where A > 0", 0.5, False, "prime-rl #3244: .69, and reward fell"),
)


def watched(report: Report) -> list[dict[str, Any]]:
    """Each figure that this log has: name, value, level, whether it is suspect, source."""
    ratios, late, first = report["ratios"], *by_position(report["by"].get("position", []))
    values = [ratios.get("prob_error"), report["k3"], report["mismatch"], late, first]
    values += [ratios.get("outside_half_to_two"), *(report[name] for name in ("chi2", "ess", "ess_responses"))]
    values += [one_string(report["strings"])]
    return [
        {"name": name, "value": float(value), "level": level, "below": below, "source": source}
        | {"suspect": bool(value < level if below else value > level)}
        for value, (name, level, below, source) in zip(values, WATCHED, strict=True)
        if value is not None
    ]


def mean(rows: list[dict[str, float]], name: str) -> float:
    """Of groups, weighted by their tokens."""
    return sum(row[name] * row["tokens"] for row in rows) / max(sum(row["tokens"] for row in rows), 1)


def by_position(rows: list[dict[str, float]]) -> tuple[float | None, float | None]:
    """k3 of the later half of the positions over that of the earlier; the first token's |d| over the others'."""
    many = [row for row in rows if row["tokens"] >= 30]
    half = len(many) // 2
    late = mean(many[half:], "k3") / max(mean(many[:half], "k3"), 1e-9) if half > 1 else None
    first = rows[0]["gap"] / max(mean(rows[1:], "gap"), 1e-6) if len(rows) > 1 and rows[0]["tokens"] >= 8 else None
    return late, first


def one_string(rows: list[dict[str, Any]]) -> float | None:
    up = [row for row in rows if row["sign"] > 0]
    return max(row["of_masked"] for row in up) if sum(row["masked"] for row in up) >= 50 else None
