"""The one loss: value -agg(g A), gradient -agg(g A grad log pi), whatever the weights g (methods.md 0 and 6)."""

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minicppo import reference, rules
from minicppo.rules import LOSS_AGG_MODES
from tests.rules.strategies import BYTES, Drawn, Layout, limits, picks, responses, signed, tight, traces
from tests.rules.twins import close, mask, token_batch

MODES = st.sampled_from(LOSS_AGG_MODES)
SHAPES = traces(lengths=(1, 2, 3, 4))


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    leaf = at.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf), leaf)
    return found


def weighted(drawn: Drawn, raw: bytes) -> tuple[rules.TokenBatch, Tensor]:
    """A batch and any detached token weights, zero and negative ones among them: what a method may return."""
    g = torch.tensor(picks(signed(1 / 8, 20), raw)).repeat(2)[: drawn[1].mask.numel()].reshape(drawn[1].mask.shape)
    return token_batch(*drawn), g * drawn[1].mask


def ragged(layout: Layout, batch: rules.TokenBatch, g: Tensor) -> tuple[list[list[float]], list[list[float]]]:
    """What the loop is given: g and A of each response's valid tokens."""
    return layout.gather(g), layout.gather(batch.advantages)


@given(SHAPES, MODES, st.integers(1, 64))
def test_aggregation_equals_its_loop(drawn, mode, horizon):
    """methods 6. Each aggregation of valid tokens is the loop's, whatever padding holds."""
    rows, layout = drawn
    values = [[t.advantage * t.mu[0] for t in row] for row in rows]
    mine = rules.aggregate(layout.spread(values), layout.mask, mode, horizon=horizon)
    close(mine, reference.aggregate(values, mode, horizon), 1e-12)


@given(SHAPES, BYTES, MODES)
def test_masking_keeps_the_denominator(drawn, raw, mode):
    """methods P10. The loss is the loop's -agg(g A) over all valid tokens: masked ones still count.
    methods 0 (value_is_minus_weighted_advantage). It is differentiable in log pi alone."""
    batch, g = weighted(drawn, raw)
    options = {"loss_agg_mode": mode, "horizon": 8}
    x, weight, A = (t.clone().requires_grad_() for t in (batch.log_probs, g, batch.advantages))
    loss = rules.policy_loss(x, weight, A, batch.mask, **options)
    close(loss.detach(), reference.policy_loss(*ragged(drawn[1], batch, g), mode, 8))
    close(loss.detach() / 2, rules.policy_loss(batch.log_probs, g / 2, batch.advantages, batch.mask, **options))
    loss.backward()
    assert weight.grad is None
    assert A.grad is None


@given(SHAPES, BYTES, MODES)
def test_gradient_is_frozen_finite_difference(drawn, raw, mode):
    """methods P6. The gradient is the finite difference of the loop's loss with g frozen: nothing flows through g."""
    layout, (batch, g) = drawn[1], weighted(drawn, raw)
    found = gradient(
        lambda x: rules.policy_loss(x, g, batch.advantages, batch.mask, loss_agg_mode=mode, horizon=8), batch.log_probs
    )
    frozen, As = ragged(layout, batch, g)
    for i, row in enumerate(layout.gather(found)):
        for t, mine in enumerate(row):
            moved = []
            for factor in (0.999, 1.001):  # on g A when log pi moves by the factor's logarithm
                bumped = [list(xs) for xs in frozen]
                bumped[i][t] *= factor
                moved.append(reference.policy_loss(bumped, As, mode, 8))
            close(mine, (moved[1] - moved[0]) / 2e-3)
    assert not found[~layout.mask].any()


@given(responses(), limits())
def test_masked_tokens_have_no_gradient(response, lim):
    """theory gradient, methods P6. d loss / d log pi = -M rho A / count: exactly zero where masked."""
    M = mask(response, lim).token_mask.double()
    x, A = (torch.tensor([v], dtype=torch.float64) for v in (response.log_ratio, response.advantages))
    weight, valid = (M * x.exp()).float(), torch.ones_like(x, dtype=torch.bool)
    g = gradient(lambda at: rules.policy_loss(at, weight, A, valid, loss_agg_mode="token-mean"), x - 4)
    close(g, -M * x.exp() * A / len(response))
    assert not g[M == 0].any()


@given(traces(most=3, lengths=(1, 2, 3)), BYTES, MODES, st.sampled_from([torch.float32, torch.float64]))
def test_micro_batches_add_up(drawn, raw, mode, dtype):
    """methods P3 and P10. One response at a time with the step's totals gives the whole batch's gradient: exactly in
    log pi, to 1e-12 in a shared parameter in float64, 1e-6 in float32."""
    rows, layout = drawn
    _, g = weighted(drawn, raw)
    batch = token_batch(rows, layout, dtype=dtype)
    totals = {"total_tokens": int(layout.mask.sum()), "total_sequences": len(rows), "horizon": 8}

    def gradients(order):
        """Of a shared parameter, which moves every log pi, and of log pi."""
        shift, x = torch.zeros((), dtype=dtype, requires_grad=True), batch.log_probs.clone().requires_grad_()
        for i in order:
            args = x[i] + shift, g[i], batch.advantages[i], batch.mask[i]
            rules.policy_loss(*args, loss_agg_mode=mode, **totals).backward()
        return shift.grad, x.grad

    whole, split = (
        gradients(order) for order in ([torch.arange(len(rows))], [torch.tensor([i]) for i in range(len(rows))][::-1])
    )
    assert torch.equal(whole[1], split[1])
    close(whole[0], split[0], 1e-12 if dtype == torch.float64 else 1e-6)


@given(SHAPES, BYTES, MODES, st.booleans())
def test_packed_loss_equals_padded(drawn, raw, mode, by_response):
    """methods P3. The loss of packed input has the padded loss's value and gradient, A by token or by response."""
    layout, (batch, g) = drawn[1], weighted(drawn, raw)
    A = torch.arange(1.0, len(drawn[0]) + 1, dtype=torch.float64) if by_response else batch.advantages
    packed_A = A if by_response else layout.pack(A)
    options = {"loss_agg_mode": mode, "horizon": 8}

    def packed(x):
        return rules.policy_loss(x, layout.pack(g), packed_A, layout.packed_mask, lengths=layout.lengths, **options)

    whole = gradient(lambda x: rules.policy_loss(x, g, A, layout.mask, **options), batch.log_probs)
    assert torch.equal(gradient(packed, layout.pack(batch.log_probs)), layout.pack(whole))


@given(SHAPES, MODES)
def test_padding_never_reaches_the_gradient(drawn, mode):
    """methods P3. NaN and infinities on invalid positions change neither loss nor gradient."""
    rows, layout = drawn
    found = []
    for where in (layout, tight([len(row) for row in rows])):
        weight, valid = torch.where(where.mask, 2.0, 0.0), where.mask
        A = where.spread([[t.advantage for t in row] for row in rows]).masked_fill(~valid, 0.0)
        x = where.spread([[-1.0 - t.mu[0] for t in row] for row in rows])
        loss = lambda x, g=weight, A=A, v=valid: rules.policy_loss(x, g, A, v, loss_agg_mode=mode, horizon=4)  # noqa: E731
        g = gradient(loss, x)
        assert torch.isfinite(g).all()
        found.append(where.gather(g))
    assert found[0] == found[1]
