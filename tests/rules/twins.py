"""One question put to both twins: the loops of `minicppo.reference` and the prefix sums of `minicppo.rules`."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from minicppo import reference, rules
from tests.rules.strategies import ROLLOUT_LOG_PROB, Batch, Layout, Limits, Response, Token, Trace, tight


def near(values: Any, places: float = 1e-9) -> Any:
    """Golden numbers: equal to so many places."""
    return pytest.approx(values, abs=places, rel=0)


def close(a: Any, b: Any, tolerance: float = 1e-6) -> None:
    """Of one shape, and equal to so much. (`torch.testing.assert_close` takes ten times as long.)"""
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    assert a.shape == b.shape, f"{a.shape} is not {b.shape}"
    assert torch.allclose(a, b, rtol=tolerance, atol=tolerance), f"{a} is not {b}"


def gradient(of: Callable[..., Tensor], at: Tensor, *others: Any, **options: Any) -> Tensor:
    """d of(at, *others) / d at. (`torch.func.grad` would import a compiler for a second.)"""
    leaf = at.clone().requires_grad_()
    return torch.autograd.grad(of(leaf, *others, **options), leaf)[0]


def implies(left: Sequence[bool], right: Sequence[bool]) -> bool:
    """Kept on the left means kept on the right."""
    return all(b for a, b in zip(left, right, strict=True) if a)


# --- the CPPO mask, divergence given ----------------------------------------------------------------------------------


def mask_inputs(batch: Batch) -> dict[str, Tensor]:
    """Padded arguments of `cppo_mask`: garbage wherever no valid token stands."""
    rows, layout = batch
    return {
        "log_probs": layout.spread([[ROLLOUT_LOG_PROB + x for x in r.log_ratio] for r in rows]),
        "rollout_log_probs": layout.spread([[ROLLOUT_LOG_PROB] * len(r) for r in rows]),
        "advantages": layout.spread([r.advantages for r in rows]),
        "response_mask": layout.mask,
        "divergence": layout.spread([r.divergence for r in rows]),
    }


def mask_of(batch: Batch, limits: Limits, *, budget: str = "fixed", **options: Any) -> rules.CPPOMask:
    return rules.cppo_mask(**mask_inputs(batch), **limits._asdict(), budget=budget, **options)


def mask(response: Response, limits: Limits, **options: Any) -> rules.CPPOMask:
    """`rules.cppo_mask` of one response, (1, T), fixed budget unless said otherwise."""
    return mask_of(Batch((response,), tight(len(response))), limits, **options)


def steps(
    response: Response, limits: Limits, *, budget: str = "fixed", quantile: float = 0.9, cap_factor: float = 2.0
) -> list[reference.TokenStep]:
    """Algorithm 1 as the loop."""
    D, (delta, delta_b, w_min) = response.divergence, limits
    dynamic = reference.dynamic_budget(D, delta_b, cap_factor, quantile)
    allowed = {"fixed": delta_b, "off": None, "dynamic": dynamic}[budget]
    weights = reference.linear_weights(len(response), w_min)
    return reference.cppo_steps(D, response.away, delta=delta, delta_b=allowed, weights=weights)


def code(step: reference.TokenStep) -> int:
    """The loop's reason as the rules' code."""
    return rules.Reason[step.reason.upper()]


def kept(response: Response, limits: Limits, **options: Any) -> list[bool]:
    """M_t by the prefix sum."""
    return mask(response, limits, **options).token_mask[0].tolist()


def loop_kept(response: Response, limits: Limits, **options: Any) -> list[bool]:
    """M_t by the loop."""
    return [x.keep for x in steps(response, limits, **options)]


TWINS = (kept, loop_kept)


# --- every method, distributions given --------------------------------------------------------------------------------


def log_response(mu: list[float], pi: list[float], advantage: float = 1.0) -> dict[str, Tensor]:
    """Arguments of one response, (1, T), from the probabilities of its sampled tokens."""
    log_mu, log_pi = (torch.tensor([p], dtype=torch.float64).log() for p in (mu, pi))
    A = torch.tensor([advantage], dtype=torch.float64)
    return {"log_probs": log_pi, "rollout_log_probs": log_mu, "advantages": A}


@functools.lru_cache(4)  # which every method is asked about in turn
def token_batch(
    rows: tuple[Trace, ...], layout: Layout, needs: str = "log_probs", k: int = 2, dtype: torch.dtype = torch.float64
) -> rules.TokenBatch:
    """(B, T) batch with what a method needs: nothing more, mu's top k, or the whole vocabulary."""

    def spread(value: Any) -> Tensor:
        return layout.spread([[value(t) for t in row] for row in rows], dtype)

    top = None
    if needs != "log_probs":
        every = [t for row in rows for t in row]
        ids = [list(range(len(t.mu))) for t in every]
        if needs == "topk":
            ids = [sorted(at, key=lambda i, mu=t.mu: -mu[i])[:k] for t, at in zip(every, ids, strict=True)]

        def cube(values: list[list[float]], dtype: torch.dtype) -> Tensor:
            """(B, T, K), zero on invalid tokens."""
            out = torch.zeros((*layout.mask.shape, len(ids[0])), dtype=dtype)
            out[layout.mask] = torch.tensor(values, dtype=torch.float64).to(dtype)
            return out

        top = rules.TopLogProbs(
            log_probs=cube([[math.log(t.pi[i]) for i in at] for t, at in zip(every, ids, strict=True)], dtype),
            rollout_log_probs=cube([[math.log(t.mu[i]) for i in at] for t, at in zip(every, ids, strict=True)], dtype),
            token_ids=spread(lambda t: t.sampled).nan_to_num(0, 0, 0).clamp(0, 100).long(),
            ids=cube(ids, torch.long) if needs == "topk" else None,
        )
    return rules.TokenBatch(
        log_probs=spread(lambda t: math.log(t.pi[t.sampled])),
        rollout_log_probs=spread(lambda t: math.log(t.mu[t.sampled])),
        advantages=spread(lambda t: t.advantage),
        response_mask=layout.mask,
        top=top,
        old_log_probs=spread(lambda t: math.log((t.old or t.mu)[t.sampled])),
    )


def loop_response(row: Trace, k: int = 2, **more: Any) -> reference.Response:
    """What a loop is given of one response."""
    distributions = [(t.mu, t.pi, t.sampled) for t in row]
    mu, pi = [t.mu[t.sampled] for t in row], [t.pi[t.sampled] for t in row]
    old = [(t.old or t.mu)[t.sampled] for t in row]
    return reference.Response(mu, pi, [t.advantage for t in row], distributions, k, old=old, **more)


def loop_divergence(kind: str, row: Trace, k: int = 2, variant: str = "union") -> list[float]:
    return loop_response(row, k).divergence(kind, variant)


def loop_weights(
    method: rules.Method, row: Trace, *, width: int, k: int = 2, batch: Sequence[Trace] = (), index: int = 0
) -> list[float]:
    """The g of one response by the method's loop. width: of the batch, for padded-length weights.

    batch, index: all responses and which one this is, for methods that decide over a batch.
    """
    weights, params = None, method.params
    if params.get("schedule") == "shuffled":  # the permutation itself is the rules' own; that it is one is tested apart
        valid = torch.ones(1, len(row), dtype=torch.bool)
        weights = rules.position_weights(valid, params["w_min"], schedule="shuffled", seed=params["seed"])[0].tolist()
    if method.corrects:
        params |= {"rule": method.rule.family}
    every = [loop_response(each, k) for each in batch] if method.level == "batch" else ()
    response = loop_response(row, k, width=width, given_weights=weights, batch=every, index=index)
    return reference.LOOPS[method.family](response, **params)


def drift(token: Token, needs: str, k: int = 2) -> float:
    """Predicted drift of one token on the cells a method reads."""
    if needs == "topk":
        partition = reference.topk_partition(token.mu, k, token.sampled)
    else:
        partition = [(i,) for i in range(len(token.mu))]
    return reference.predicted_drift(token.mu, token.pi, token.sampled, partition)
