"""What became of a token: codes that the rules write, and the row in which tables and pictures show it."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any


class Reason(IntEnum):
    """Why a token was kept or masked."""

    PAD = 0  # not a valid token
    TOWARD = 1  # kept: moves toward mu, or not at all
    INSIDE = 2  # kept: within both limits
    TOKEN = 3  # masked: Z_t > delta alone
    PREFIX = 4  # masked: Z_t > delta + delta_b W_{t-1} - S_{t-1} alone
    BOTH = 5  # masked by both
    SEQUENCE = 6  # the whole response was rejected (TRM, GSPO)
    MISMATCH = 7  # masked by a correction alone: pi_old is too far from mu


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


def token_rows(
    columns: Mapping[str, Sequence[Any]], reasons: Sequence[Reason], delta_b: float | None
) -> list[dict[str, Any]]:
    """One row a token: the COLUMNS, None where a method has no such quantity, and "reason" and "delta_b".

    columns: of COLUMNS those that are known, among them g.
    """
    rows = []
    for t, (reason, g) in enumerate(zip(reasons, columns["g"], strict=True)):
        row = {name: columns[name][t] if name in columns else None for name in COLUMNS}
        # a weight that is scaled rather than zeroed is a gate
        row |= {"t": t + 1, "verdict": VERDICTS[reason].replace("MASK", "gate" if g else "MASK")}
        rows.append(row | {"reason": reason.name.lower(), "delta_b": delta_b})
    return rows
