"""One question put to both twins: the loops of `reference` and the prefix sums of `rules`.

A `Subject` holds the two packages, so that the same question can be put to a mutant of either.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tests.strategies import ROLLOUT_LOG_PROB, Batch, Layout, Limits, Response, Trace, tight


@dataclass(frozen=True)
class Subject:
    rules: ModuleType
    reference: ModuleType


def original() -> Subject:
    return Subject(importlib.import_module("minicppo.rules"), importlib.import_module("minicppo.reference"))


def log_response(mu: list[float], pi: list[float], advantage: float) -> dict[str, torch.Tensor]:
    """Arguments of one response, (1, T), from the probabilities of its sampled tokens."""
    as_log = lambda p: torch.tensor([p], dtype=torch.float64).log()  # noqa: E731
    return {
        "log_probs": as_log(pi),
        "rollout_log_probs": as_log(mu),
        "advantages": torch.tensor([advantage], dtype=torch.float64),
    }


# --- the CPPO mask, divergence given ----------------------------------------------------------------------------------


def mask_inputs(batch: Batch, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Padded arguments of `cppo_mask`: garbage wherever no valid token stands."""
    rows, layout = batch.responses, batch.layout
    rollout = layout.spread([[ROLLOUT_LOG_PROB] * len(r) for r in rows], dtype)
    log_probs = layout.spread([[ROLLOUT_LOG_PROB + x for x in r.log_ratio] for r in rows], dtype)
    return {
        "log_probs": log_probs,
        "rollout_log_probs": rollout,
        "advantages": layout.spread([r.advantages for r in rows], dtype),
        "response_mask": layout.mask,
        "divergence": layout.spread([r.divergence for r in rows], dtype),
    }


def mask(s: Subject, response: Response, limits: Limits, **options: Any) -> Any:
    """`rules.cppo_mask` of one response, (1, T), fixed budget unless said otherwise."""
    return mask_of(s, Batch((response,), tight([len(response)])), limits, **options)


def mask_of(s: Subject, batch: Batch, limits: Limits, *, budget: str = "fixed", **options: Any) -> Any:
    delta, delta_b, w_min = limits
    return s.rules.cppo_mask(**mask_inputs(batch), delta=delta, delta_b=delta_b, w_min=w_min, budget=budget, **options)


def kept(s: Subject, response: Response, limits: Limits, **options: Any) -> list[bool]:
    return mask(s, response, limits, **options).token_mask[0].tolist()


def steps(s: Subject, response: Response, limits: Limits, *, budget: str = "fixed", quantile: float = 0.9) -> list[Any]:
    """Algorithm 1 as the loop."""
    delta, delta_b, w_min = limits
    allowed = {
        "fixed": delta_b,
        "off": None,
        "dynamic": s.reference.dynamic_budget(response.divergence, delta_b, q=quantile),
    }[budget]
    return s.reference.cppo_steps(
        response.divergence,
        response.away,
        delta=delta,
        delta_b=allowed,
        weights=s.reference.linear_weights(len(response), w_min),
    )


def loop_kept(s: Subject, response: Response, limits: Limits, **options: Any) -> list[bool]:
    return [x.keep for x in steps(s, response, limits, **options)]


Keeps = Callable[..., list[bool]]  # (response, limits, budget=...) -> M_t


def of_each_twin(check: Callable[..., None]) -> Callable[..., None]:
    """A statement about a mask, put to the prefix sum and to the loop: `check(keeps, *drawn)`."""

    @functools.wraps(check)
    def both(s: Subject, *drawn: Any) -> None:
        for keeps in (kept, loop_kept):
            check(functools.partial(keeps, s), *drawn)

    return both


# --- every method, distributions given --------------------------------------------------------------------------------


def likeliest(mu: Sequence[float], k: int) -> list[int]:
    return sorted(range(len(mu)), key=lambda i: -mu[i])[:k]


def token_batch(
    s: Subject, rows: Sequence[Trace], layout: Layout, needs: str, k: int = 2, dtype: torch.dtype = torch.float64
) -> Any:
    """(B, T) batch with the cells a method needs: nothing, mu's top k, or the whole vocabulary."""

    def spread(value: Any) -> Tensor:
        return layout.spread([[value(t) for t in row] for row in rows], dtype)

    top = None
    if needs != "log_probs":
        size = len(rows[0][0].mu)
        ids = [[likeliest(t.mu, k) if needs == "topk" else range(size) for t in row] for row in rows]

        def cube(value: Any, fill: float) -> Tensor:
            """(B, T, K), the invalid rows filled."""
            out = torch.full((*layout.mask.shape, len(ids[0][0])), fill, dtype=torch.float64)
            flat = [
                [value(t, i) for i in where]
                for row, r in zip(rows, ids, strict=True)
                for t, where in zip(row, r, strict=True)
            ]
            out[layout.mask] = torch.tensor(flat, dtype=torch.float64)
            return out

        top = s.rules.TopLogProbs(
            log_probs=cube(lambda t, i: math.log(t.pi[i]), 0.0).to(dtype),
            rollout_log_probs=cube(lambda t, i: math.log(t.mu[i]), 0.0).to(dtype),
            token_ids=spread(lambda t: t.sampled).nan_to_num(0, 0, 0).clamp(0, 100).long(),
            ids=cube(lambda t, i: i, 0).long() if needs == "topk" else None,
        )
    return s.rules.TokenBatch(
        log_probs=spread(lambda t: math.log(t.pi[t.sampled])),
        rollout_log_probs=spread(lambda t: math.log(t.mu[t.sampled])),
        advantages=spread(lambda t: t.advantage),
        response_mask=layout.mask,
        top=top,
    )


def loop_divergence(s: Subject, kind: str, row: Trace, k: int = 2, variant: str = "union") -> list[float]:
    return _response(s, row, k).divergence(kind, variant)


def sampled(row: Trace) -> tuple[list[float], list[float]]:
    """mu and pi of the sampled tokens."""
    return [t.mu[t.sampled] for t in row], [t.pi[t.sampled] for t in row]


def loop_weights(s: Subject, method: Any, row: Trace, *, width: int, k: int = 2) -> list[float]:
    """The reference's g of one response under a method. width: of the batch, for padded-length weights."""
    weights, params = None, method.params
    if params.get("schedule") == "shuffled":  # the permutation itself is the rules' own; that it is one is tested apart
        valid = torch.ones(1, len(row), dtype=torch.bool)
        weights = s.rules.position_weights(valid, params["w_min"], schedule="shuffled", seed=params["seed"])[0].tolist()
    response = _response(s, row, k, width=width, given_weights=weights)
    return s.reference.LOOPS[method.family](response, **params)


def _response(s: Subject, row: Trace, k: int, **more: Any) -> Any:
    distributions = [(t.mu, t.pi, t.sampled) for t in row]
    return s.reference.Response(*sampled(row), [t.advantage for t in row], distributions, k, **more)


def drift(s: Subject, token: Any, needs: str, k: int = 2) -> float:
    """Predicted drift of one token on the cells a method reads."""
    if needs == "topk":
        partition = s.reference.topk_partition(token.mu, k, token.sampled)
    else:
        partition = [(i,) for i in range(len(token.mu))]
    return s.reference.predicted_drift(token.mu, token.pi, token.sampled, partition)
