"""The one loss: value -agg(g A), gradient -agg(g A grad log pi), whatever the weights g (methods.md 0 and 6)."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minicppo import reference, rules
from minicppo.rules import LOSS_AGG_MODES
from tests.rules.strategies import BYTES, Drawn, Layout, multiples, picks, signed, traces
from tests.rules.twins import close, gradient, token_batch

MODES = st.sampled_from(LOSS_AGG_MODES)
SHAPES = traces(lengths=(1, 2, 3, 4))


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
    """methods 0, P10. The loss is the loop's -agg(g A) over all valid tokens: masked ones still count. It is
    differentiable in log pi alone."""
    batch, g = weighted(drawn, raw)
    options = {"loss_agg_mode": mode, "horizon": 8}
    x, weight, A = (t.clone().requires_grad_() for t in (batch.log_probs, g, batch.advantages))
    loss = rules.policy_loss(x, weight, A, batch.mask, **options)
    close(loss.detach(), reference.policy_loss(*ragged(drawn[1], batch, g), mode, 8))
    loss.backward()
    assert weight.grad is None
    assert A.grad is None


@given(SHAPES, BYTES, MODES)
def test_gradient_is_frozen_finite_difference(drawn, raw, mode):
    """methods P6. The gradient is the finite difference of the loop's loss with g frozen: nothing flows through g.
    Where g is 0, as of a masked token, it is exactly 0.
    methods P3. What stands on invalid positions, NaN and infinities, reaches no gradient."""
    layout, (batch, g) = drawn[1], weighted(drawn, raw)
    arguments = batch.log_probs, g, batch.advantages, batch.mask
    found = gradient(rules.policy_loss, *arguments, loss_agg_mode=mode, horizon=8)
    frozen, As = ragged(layout, batch, g)
    for i, row in enumerate(layout.gather(found)):
        for t, mine in enumerate(row):
            moved = []
            for factor in (0.999, 1.001):  # on g A when log pi moves by the factor's logarithm
                bumped = [list(xs) for xs in frozen]
                bumped[i][t] *= factor
                moved.append(reference.policy_loss(bumped, As, mode, 8))
            close(mine, (moved[1] - moved[0]) / 2e-3)
    assert not found[~layout.mask | (g == 0)].any()


@given(traces(most=3, lengths=(1, 2, 3)), BYTES, MODES, st.sampled_from([torch.float32, torch.float64]))
def test_micro_batches_add_up(drawn, raw, mode, dtype):
    """methods P3 and P10. One response at a time with the step's totals gives the whole batch's gradient: exactly in
    log pi, to 1e-12 in a shared parameter in float64, 1e-6 in float32. It did not in verl 5625 (token-mean), verl 3741
    (Dr. GRPO's sum over the micro-batch's size) and TRL pull request 6024 (the rollout's size)."""
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

    whole = gradient(rules.policy_loss, batch.log_probs, g, A, layout.mask, **options)
    packed = layout.pack(batch.log_probs), layout.pack(g), packed_A, layout.packed_mask
    assert torch.equal(gradient(rules.policy_loss, *packed, lengths=layout.lengths, **options), layout.pack(whole))


# --- group-relative advantages (methods.md section 6) -----------------------------------------------------------------

REWARDS = BYTES.map(lambda raw: [[byte % 5 / 4 for byte in raw[4 * k : 4 * k + 4]] for k in range(1 + raw[-1] % 3)])


@given(REWARDS, st.booleans(), st.sampled_from([0, 1]), multiples(1 / 2, -4, 4), st.sampled_from([0.5, 2.0, 8.0]))
def test_advantages_are_relative(groups, normalize, ddof, shift, factor):
    """methods 6. Group advantages are the loop's; groups without variance are zero, dropped and counted. They sum to
    zero, ignore a shift of all rewards, and scale with them unless divided by the standard deviation."""
    options = {"normalize_std": normalize, "ddof": ddof}
    flat = torch.tensor([r for g in groups for r in g], dtype=torch.float64)
    out = rules.group_advantages(flat, 4, **options)
    loop = [reference.group_advantages(g, normalize, ddof) for g in groups]
    close(out.advantages, [a for found in loop for a in (found or [0.0] * 4)], 1e-9)
    assert out.kept.tolist() == [found is not None for found in loop for _ in range(4)]
    assert out.dropped_groups == loop.count(None)
    close(out.advantages.reshape(-1, 4).sum(1), torch.zeros(len(groups)), 1e-12)
    moved = rules.group_advantages(flat * factor + shift, 4, **options).advantages
    close(moved, out.advantages * (1 if normalize else factor), 1e-4 if normalize else 1e-12)
