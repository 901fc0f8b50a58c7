"""What log mu and log pi look like against each other: is mu cut off, or is one policy the other at a temperature?"""

from collections import Counter
from itertools import combinations

import numpy as np

from minicppo.inspect.table import Table

MU_EDGES = -np.geomspace(16.0, 0.02, 31)  # of log mu
_steps = np.array([0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0])
D_EDGES = np.concatenate([-_steps[::-1], [0.0], _steps])  # of log pi - log mu
MIDDLES = np.concatenate([D_EDGES[:1], (D_EDGES[1:] + D_EDGES[:-1]) / 2, D_EDGES[-1:]])
Group = tuple[float, float, float]  # median of log pi - log mu, share of tokens above 0, how many


class Shape:
    """Counts of (log mu, log pi - log mu), and sums of pi / mu - 1 over tokens that training pushes up, and down.

    met: how many tokens. unsure: of log mu below -.01; equal: unsure, and pi is mu. below: pi is below mu. cut, far: mu
    is exactly 1 and pi a little, or far, below. near: it is nearly 1, and pi a little below. left: by pi altogether.
    """

    def __init__(self) -> None:
        self.met: Counter[str] = Counter()
        self.counts, self.sums = np.zeros((len(MU_EDGES) + 1, len(D_EDGES) + 1)), np.zeros((2, 6))

    def add(self, table: Table) -> None:
        if table.pi is None or not len(table):
            return
        d, one, unsure = table.log_ratio, table.mu > -1e-6, table.mu < -0.01
        near, little = (table.mu > -1e-3) & ~one, (d < -0.03) & (d > -1.2)
        flags = {"tokens": d == d, "unsure": unsure, "equal": unsure & (d == 0), "below": d < 0}
        flags |= {"cut": one & little, "near": near & little, "far": one & (d <= -1.2), "left": d < -3}
        self.met.update({name: int(flag.sum()) for name, flag in flags.items()})
        some = slice(None, None, max(len(table) >> 16, 1))  # of a long log enough to see its shape
        place = np.searchsorted(MU_EDGES, table.mu[some]) * (len(D_EDGES) + 1) + np.searchsorted(D_EDGES, d[some])
        self.counts += np.bincount(place, minlength=self.counts.size).reshape(self.counts.shape)
        excess, up = np.expm1(d), table.advantages >= 0
        for i, side in enumerate((up, ~up)):
            x = excess * side
            per, n = table.sums(x), table.sums(side)
            self.sums[i] += x.sum(), x @ x, n.sum(), per @ per, per @ n, n @ n

    def missing_mass(self) -> tuple[float, float]:
        """1 - E[pi / mu] and how many standard errors that is above 0, on tokens that training pushes up.

        Of tokens and of whole responses the larger error counts. Tokens pushed down have ratios below 1 anyway.
        """
        total, square, n, cluster, cross, sizes = self.sums[0]
        if n < 100:
            return 0.0, 0.0
        mean = total / n
        by_token = np.sqrt(max(square / n - mean * mean, 0) / n)
        by_response = np.sqrt(max(cluster - 2 * mean * cross + mean * mean * sizes, 0)) / n
        return -mean, -mean / max(by_token, by_response, 1e-9)

    def profile(self) -> list[Group]:
        """Of groups of tokens from the likeliest down, about alike in number. What mu is sure of tells nothing."""
        counts = self.counts[::-1][1:]
        sizes = counts.sum(1)
        group = np.minimum((sizes.cumsum() - sizes / 2) / max(sizes.sum(), 1) * 8, 7).astype(int)
        rows = [row for g in range(8) if (row := counts[group == g].sum(0)).sum() >= 12]
        medians = [MIDDLES[np.searchsorted(row.cumsum(), row.sum() / 2)] for row in rows]
        above = [row[len(D_EDGES) // 2 + 1 :].sum() for row in rows]
        return [
            (float(m), float(a / row.sum()), float(row.sum())) for m, a, row in zip(medians, above, rows, strict=True)
        ]

    def verdicts(self) -> list[tuple[str, str]]:
        """(kind, evidence) of what is found; nothing where pi has left many tokens, so that little of mu is in it."""
        if self.met["left"] > 0.1 * self.met["tokens"]:
            return []
        lack, errors = self.missing_mass()
        met = self.met
        cut = met["cut"] >= 5 and met["cut"] > max(2e-3 * met["tokens"], 10 * met["far"], 2 * met["near"])
        two = "" if cut else temperature(self.profile(), lack, errors)
        if two:
            return [("temperature", two)]
        below = met["below"] / max(met["tokens"], 100)
        needed = 3 if below > 0.85 else 4.5 if below > 0.6 else 7  # renormalising lifts every mu
        if (lack > 0.006 and errors > needed) or cut:
            text = f"E[pi / mu] is {1 - lack:.3f} where 1 is expected ({errors:.0f} standard errors)"
            text += f"; mu is exactly 1 at {met['cut']} tokens where pi is not" if cut else ""
            return [("truncated", f"{text}: mu was renormalised over a part of the vocabulary")]
        return []


def temperature(profile: list[Group], lack: float, errors: float) -> str:
    """The evidence that one policy is the other to a power: likely tokens gain and unlikely lose, or the reverse.

    Drift of any strength lowers log pi - log mu of all groups alike in the middle; a power crosses 0. And it changes
    all groups in their order, where the drift of a few contexts, met again and again, moves one of them.
    """
    shares = [share for _, share, _ in profile]
    pairs = list(combinations(shares, 2))
    order = sum(np.sign(later - earlier) for earlier, later in pairs) / max(len(pairs), 1)  # Kendall's tau
    if len(profile) < 3 or abs(order) < 0.5:
        return ""
    bottom, above, m = profile[-1]
    best, worst = max(profile[:4], key=lambda group: group[1]), min(profile[:4], key=lambda group: group[1])
    text = "log pi - log mu is {:+.2f} at likely tokens, {:+.2f} at unlikely ones: mu is {} than pi"
    sure = 2 / np.sqrt(min(best[2], m))  # four standard errors of a share
    if best[0] > 0.02 and best[1] > 0.5 + sure and bottom < -0.05 and above < 0.5 - sure:
        return text.format(best[0], bottom, "flatter")
    sure = 2 / np.sqrt(min(worst[2], m))
    rises = above - worst[1] > 2 * sure and bottom - worst[0] > 0.03
    crosses = bottom > 0.05 and above > 0.5
    unbiased = (lack < 0.02 or errors < 3) and worst[1] < 0.3
    if worst[0] < -0.02 and worst[1] < 0.5 - sure and rises and (crosses or unbiased):
        return text.format(worst[0], bottom, "sharper")
    return ""
