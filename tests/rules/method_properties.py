"""What holds for every method, of the library or of a plugin: plain functions of a method and a drawn batch.

`check_method(method)` puts them all to one method, 100 batches each. Its twin is the loop of its family
(`minicppo.reference.LOOPS`), a function of one response's valid tokens.
"""

import dataclasses
import functools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minicppo import rules
from tests.rules.strategies import Drawn, Trace, tight, traces
from tests.rules.twins import close, drift, loop_weights, token_batch

PULLED = ("prime-rl", "dro", "kl-cov")  # a masked token is still pulled toward mu
SCALES = st.sampled_from([1.0, 0.25, 0.5, 2.0, 4.0])


@functools.lru_cache(None)
def varied(method: rules.Method, scale: float) -> rules.Method:
    """The method with its limits scaled, so that each binds in some batches and in others not.

    A grain is added: on dyadic data a limit such as 0.2 would be met exactly, and each twin's rounding would decide.
    """
    changes = {}
    for name, (value, hyper) in method.hypers.items():
        if isinstance(value, float):
            wanted = (value if math.isfinite(value) else max(4 * scale, 1.5)) * scale * (1 + 1e-5) + 1e-5
            changes[name] = value if math.isinf(value) and scale >= 1 else min(max(wanted, hyper.low), hyper.high)
    return method.having(**changes)


def equals_its_loop(method: rules.Method, drawn: Drawn) -> None:
    """methods P3. The batched weight g is the loop's, in any ragged layout with holes, and zero off the mask."""
    rows, layout = drawn
    out = method(token_batch(rows, layout, method.needs))
    predicted = method.params.get("direction") == "predicted"
    if predicted and any(0 < abs(drift(t, method.needs)) < 1e-9 for row in rows for t in row):
        return  # a tie of the predicted direction, which the two twins round differently
    loops = [loop_weights(method, row, width=layout.width, batch=rows, index=i) for i, row in enumerate(rows)]
    close(out.weight[layout.mask], [g for loop in loops for g in loop])
    assert not (out.token_mask | (out.weight != 0))[~layout.mask].any()


def gives_reasons(method: rules.Method, drawn: Drawn) -> None:
    """methods 3.5. PAD exactly off the mask, TOWARD or INSIDE where a hard method keeps; TOWARD is A (rho - 1) <= 0."""
    R = rules.Reason
    batch = token_batch(*drawn, method.needs)
    out = method(batch)
    if method.params.get("anchor") == "old":
        batch = batch.since_old
    assert torch.equal(out.reason == R.PAD, ~batch.mask)
    assert out.threshold is None or not out.threshold[~batch.mask].any()
    if method.params.get("gate", "hard") == "hard" and method.family not in PULLED:
        assert torch.equal((out.reason == R.TOWARD) | (out.reason == R.INSIDE), out.token_mask)
        assert not out.weight[~out.token_mask].any()
        assert out.weight[out.token_mask].all() or method.family in ("drpo", "sapo", "vespo")  # these may vanish
    if method.params.get("direction") != "predicted":
        assert not ((out.reason == R.TOWARD) & batch.away).any()
        assert not ((out.reason == R.INSIDE) & ~batch.away).any()


def is_free_of_layout(method: rules.Method, drawn: Drawn) -> None:
    """methods P3. Packing, permuting, rows taken alone leave the weights to the bit, padding and holes to rounding; so
    does an advantage given once for a response."""
    rows, layout = drawn
    if method.params.get("length") == "padded":
        return  # the authors' branch, which depends on the batch's width: that is its point
    batch = token_batch(rows, layout, method.needs)
    once = torch.tensor([row[0].advantage for row in rows], dtype=torch.float64)
    by_token = once[:, None] * layout.mask
    a, b = (method(dataclasses.replace(batch, advantages=A)).weight for A in (once, by_token))
    assert torch.equal(a, b)
    weight = method(batch).weight
    top = batch.top
    if top is not None:
        top = rules.TopLogProbs(**{k: None if v is None else layout.pack(v) for k, v in vars(top).items()})
    names = ("log_probs", "rollout_log_probs", "advantages", "response_mask", "old_log_probs")
    packed = rules.TokenBatch.from_packed(layout.lengths, top, **{k: layout.pack(getattr(batch, k)) for k in names})
    assert torch.equal(layout.pack(method(packed).weight), layout.pack(weight))
    if method.level == "batch":
        return  # which decides over whatever it is given
    for order in (torch.arange(len(rows)).flip(0), torch.tensor([len(rows) - 1])):
        assert torch.equal(method(batch.rows(order)).weight, weight[order])
    plain = tight(*map(len, rows))
    close(weight[layout.mask], method(token_batch(rows, plain, method.needs)).weight[plain.mask])


def needs_no_double(method: rules.Method, drawn: Drawn) -> None:
    """methods P3. float32 input gives float64's weights to 1e-5 on data away from the limits; g is always float32."""
    single, double = (method(token_batch(*drawn, method.needs, dtype=d)) for d in (torch.float32, torch.float64))
    assert single.weight.dtype == double.weight.dtype == torch.float32
    if torch.equal(single.reason, double.reason):  # a flip needs a decision within 1e-7 of its limit
        close(single.weight, double.weight, 1e-5)


def is_reinforce_on_policy(method: rules.Method, drawn: Drawn) -> None:
    """methods P1. With pi = mu: weight 1 on every valid token, nothing masked."""
    rows, layout = tuple(moved(row, 0.0) for row in drawn[0]), drawn[1]
    batch = token_batch(rows, layout, method.needs)
    out = method(batch)
    if method.family == "clip-cov":
        return  # which masks by the policy's entropy, on-policy too
    assert torch.equal(out.token_mask, layout.mask), "a token is masked where pi is mu"
    close(out.weight, layout.mask.double())
    assert rules.diagnostics(batch, out)["mask/frac"] == 0


def leaves_some_gradient(method: rules.Method, drawn: Drawn) -> None:
    """methods P12. On a mildly stale batch (rho within 1e-4 of 1) no response has the zero gradient."""
    rows = tuple(moved(row, 1e-4) for row in drawn[0])
    if method.family == "opsm":
        method = method.having(delta=1e-2)
    if method.family == "gspo":
        method = method.having(clip_high=1e-2, clip_low=1e-2)
    if method.family == "clip-cov":
        return
    assert (method(token_batch(rows, drawn[1], method.needs)).weight.abs().sum(1) > 0).all()


def moved(row: Trace, part: float) -> Trace:
    """The response with pi a part of its way from mu."""
    return tuple(
        dataclasses.replace(t, pi=tuple(m + part * (p - m) for m, p in zip(t.mu, t.pi, strict=True)), old=None)
        for t in row
    )


AT_ANY_LIMIT = (gives_reasons, is_free_of_layout, needs_no_double)
AT_ITS_OWN_LIMITS = (is_reinforce_on_policy, leaves_some_gradient)


def check_method(method: rules.Method) -> None:
    """Raise unless the method is its loop and keeps the other properties, in as many batches as the profile draws."""

    @settings(deadline=None)
    @given(traces(), SCALES)
    def holds(drawn: Drawn, scale: float) -> None:
        for check in (equals_its_loop, *AT_ANY_LIMIT):
            check(varied(method, scale), drawn)
        for check in AT_ITS_OWN_LIMITS:
            check(method, drawn)

    holds()
