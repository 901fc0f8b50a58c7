"""What a loop reads, one response; and the loop of every family of methods by its name."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from minicppo.reference.divergence import divergence, predicted_drift, topk_partition
from minicppo.reference.mask import linear_weights

Floats = Sequence[float]
Loop = Callable[..., list[float]]

LOOPS: dict[str, Loop] = {}


def loop(family: str) -> Callable[[Loop], Loop]:
    """Decorate the loop twin of a family: called with a `Response` and every hyper-parameter by name, it returns g.

    Raises ValueError when the family has a loop already.
    """

    def register(function: Loop) -> Loop:
        if LOOPS.setdefault(family, function) is not function:
            raise ValueError(f"family {family!r} has a loop already: {LOOPS[family].__module__}")
        return function

    return register


@dataclass(frozen=True)
class Response:
    """One response: its T valid tokens, in order.

    mu, pi: probabilities of the sampled tokens under the rollout and the current policy. advantages: A_t.
    distributions: of each token mu's, pi's and the sampled id, for methods that look beyond it. k: K of Top-K.
    width: of the padded batch that the response stood in, 0 for its own length.
    given_divergence, given_weights: D_t and w_t in the place of those that a method names. (A shuffled schedule must
    be given: its order is that of a random generator.) old: the sampled tokens' pi_old, None where it is mu.
    batch, index: all responses, and which of them this is, for methods that decide over a batch.
    """

    mu: Floats
    pi: Floats
    advantages: Floats
    distributions: Sequence[tuple[Floats, Floats, int]] = ()
    k: int = 20
    width: int = 0
    given_divergence: Floats | None = None
    given_weights: Floats | None = None
    old: Floats | None = None
    batch: Sequence["Response"] = ()
    index: int = 0

    @property
    def ratios(self) -> list[float]:
        """rho_t = pi / mu."""
        return [p / m for m, p in zip(self.mu, self.pi, strict=True)]

    @property
    def mismatches(self) -> list[float]:
        """w_t = pi_old / mu."""
        return [o / m for m, o in zip(self.mu, self.old or self.mu, strict=True)]

    @property
    def since_old(self) -> "Response":
        """The same with pi_old in the place of mu."""
        return replace(self, mu=self.old or self.mu, old=None, batch=[each.since_old for each in self.batch])

    def divergence(self, kind: str, variant: str = "union") -> list[float]:
        """D_t by name; the binary ones, "k3" and "abs_log_ratio" need no distributions.

        "k3": rho - 1 - log rho, whose mean under mu is KL(mu || pi).
        """
        if self.given_divergence is not None:
            return list(self.given_divergence)
        if kind == "k3":
            return [rho - 1 - math.log(rho) for rho in self.ratios]
        if kind == "abs_log_ratio":
            return [abs(math.log(rho)) for rho in self.ratios]
        if kind.startswith("binary"):
            return [divergence(kind, (m, 1 - m), (p, 1 - p), 0) for m, p in zip(self.mu, self.pi, strict=True)]
        return [divergence(kind, mu, pi, y, self.k, variant) for mu, pi, y in self.distributions]

    def away(self, direction: str = "ratio", kind: str = "binary_tv") -> list[bool]:
        """Which tokens move away from mu: A (rho - 1) > 0, or A times the predicted drift > 0.

        kind: the method's divergence; the drift is that of whole distributions with an exact one, else of the Top-K.
        """
        if direction == "ratio":
            return [a * (p - m) > 0 for m, p, a in zip(self.mu, self.pi, self.advantages, strict=True)]
        found = []
        for (mu, pi, y), a in zip(self.distributions, self.advantages, strict=True):
            whole = [(i,) for i in range(len(mu))]
            partition = whole if kind.startswith("exact") else topk_partition(mu, self.k, y)
            found.append(a * predicted_drift(mu, pi, y, partition) > 0)
        return found

    def position_weights(self, w_min: float, schedule: str = "linear", length: str | int = "own") -> list[float]:
        """w_t of Eq. 9; with the schedule "constant" 1. length: "own", "padded" to `width`, or a horizon."""
        n = len(self.mu)
        if schedule == "constant":
            return [1.0] * n
        if self.given_weights is not None:
            return list(self.given_weights)
        if length == "padded":
            length = self.width or n
        return linear_weights(length if isinstance(length, int) else n, w_min)[:n]
