"""What is true of the gradient: it is -agg(g A grad log pi), as in each paper's own loss (methods.md section 0)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.properties.measures import MODES
from tests.properties.methods import Rows, close, method, of_each_method
from tests.properties.registry import prop
from tests.strategies import Limits, Response, limits, multiples, responses, tight, traces
from tests.twins import Subject, mask, token_batch


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    leaf = at.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf), leaf)
    return found


def unified(s: Subject, out: Any, batch: Any, mode: str = "token-mean") -> Tensor:
    """Gradient of the one loss with respect to log pi, on valid tokens."""
    g = gradient(
        lambda x: s.rules.policy_loss(x, out.weight, batch.advantages, batch.mask, loss_agg_mode=mode, horizon=8),
        batch.log_probs,
    )
    return g[batch.mask]


def native(batch: Any, objective: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Gradient of -mean over valid tokens of a paper's objective(rho, log pi), with respect to log pi."""
    mu = batch.rollout_log_probs[batch.mask]
    return gradient(lambda x: -objective((x - mu).exp(), x).mean(), batch.log_probs[batch.mask])


# --- the unified loss -------------------------------------------------------------------------------------------------


@prop("methods P6", traces(), st.sampled_from(MODES), examples=2)
@of_each_method
def gradient_is_frozen_finite_difference(s: Subject, name: str, drawn: Rows, mode: str) -> None:
    """The gradient is the finite difference of the loop's loss with g frozen: none through D, rho_min or gates."""
    rows, layout = drawn
    m = method(s, name)
    batch = token_batch(s, rows, layout, m.needs)
    g = m(batch).weight
    log_probs = batch.log_probs.clone().requires_grad_()
    s.rules.policy_loss(log_probs, g, batch.advantages, layout.mask, loss_agg_mode=mode, horizon=8).backward()
    found = layout.gather(log_probs.grad)
    As = [[t.advantage for t in row] for row in rows]
    frozen = layout.gather(g)
    for i in range(len(rows)):
        for t in range(len(rows[i])):
            moved = []
            for h in (-1e-3, 1e-3):  # exp(h) is the factor on g A when log pi moves by h
                factor = torch.tensor(h, dtype=torch.float64).exp().item()
                bumped = [
                    [x * (factor if (i, t) == (r, c) else 1) for c, x in enumerate(xs)] for r, xs in enumerate(frozen)
                ]
                moved.append(s.reference.policy_loss(bumped, As, mode, 8))
            close(found[i][t], (moved[1] - moved[0]) / 2e-3)
    assert not log_probs.grad[~layout.mask].any()


@prop("theory gradient, methods P6", responses(), limits())
def masked_tokens_have_no_gradient(s: Subject, response: Response, lim: Limits) -> None:
    """d loss / d log pi = -M rho A / count: exactly zero where masked."""
    out = mask(s, response, lim)
    x = torch.tensor([response.log_ratio], dtype=torch.float64)
    batch = s.rules.TokenBatch(x - 4, torch.full_like(x, -4), torch.tensor([response.advantages], dtype=torch.float64))
    M = out.token_mask.double()
    weights = (M * x.exp()).float()
    g = unified(s, type("Out", (), {"weight": weights}), batch)
    close(g, -(M * x.exp() * batch.advantages)[0] / len(response))
    assert not g[M[0] == 0].any()


@prop("methods 0", traces(), st.sampled_from(MODES), examples=2)
@of_each_method
def value_is_minus_weighted_advantage(s: Subject, name: str, drawn: Rows, mode: str) -> None:
    """The loss's value is -agg(g A), and it is differentiable in log pi alone."""
    m = method(s, name)
    batch = token_batch(s, *drawn, m.needs)
    weight, advantages = m(batch).weight.requires_grad_(), batch.advantages.clone().requires_grad_()
    x = batch.log_probs.clone().requires_grad_()
    loss = s.rules.policy_loss(x, weight, advantages, batch.mask, loss_agg_mode=mode, horizon=8)
    close(loss, s.rules.aggregate(-weight.detach() * batch.advantages, batch.mask, mode, horizon=8))
    loss.backward()
    assert weight.grad is None
    assert advantages.grad is None


# --- each paper's native form -----------------------------------------------------------------------------------------


@prop("methods 0 PPO", traces(), multiples(1 / 8, 1, 7), multiples(1 / 8, 1, 16))
def ppo_native(s: Subject, drawn: Rows, low: float, high: float) -> None:
    """PPO: -min(rho A, clip(rho) A)."""
    low, high = low + 1e-4, high + 1e-4
    batch = token_batch(s, *drawn, "log_probs")
    A = batch.advantages[batch.mask]
    out = s.rules.get_method("ppo", clip_low=low, clip_high=high)(batch)
    close(unified(s, out, batch), native(batch, lambda r, _: torch.minimum(r * A, r.clamp(1 - low, 1 + high) * A)))


@prop("methods 0 UniRL and verl", traces(), st.sampled_from(["cppo", "cppo-fixed", "dppo", "cppo-no-budget"]))
def cppo_native(s: Subject, drawn: Rows, name: str) -> None:
    """UniRL's A rho keep with a differentiable rho, and verl's A sg(min(rho, C)) log pi keep, agree below the cap."""
    batch = token_batch(s, *drawn, "log_probs")
    out = method(s, name)(batch)
    A, keep = batch.advantages[batch.mask], out.token_mask[batch.mask]
    close(unified(s, out, batch), native(batch, lambda r, _: A * r * keep))
    capped = s.rules.get_method(
        name, **{k: v for k, v in method(s, name).params.items() if k == "delta"}, ratio_cap=2.5
    )
    close(unified(s, capped(batch), batch), native(batch, lambda r, x: A * r.clamp(max=2.5).detach() * x * keep))


@prop("methods 0 CISPO and MinPRO", traces(max_responses=1), multiples(1 / 4, 1, 8))
def clipped_weight_native(s: Subject, drawn: Rows, w_max: float) -> None:
    """CISPO and MinPRO: sg(w) A log pi; the prefix minimum comes from the loop."""
    batch = token_batch(s, *drawn, "log_probs")
    A = batch.advantages[batch.mask]
    ratio = batch.ratio[batch.mask]
    before = torch.cat([ratio.new_ones(1), ratio.cummin(0).values[:-1]])
    for name, factor in (("cispo", torch.ones_like(ratio)), ("minpro", before)):
        out = s.rules.get_method(name, w_max=w_max)(batch)
        close(unified(s, out, batch), native(batch, lambda r, x, f=factor: (f * r).clamp(max=w_max).detach() * A * x))


@prop("methods 0 GSPO", traces(max_responses=1), multiples(1 / 8, 1, 7), multiples(1 / 8, 1, 16))
def gspo_native(s: Subject, drawn: Rows, low: float, high: float) -> None:
    """GSPO's token form: s_t = sg(s) pi / sg(pi) in min(s A, clip(s) A)."""
    low, high = low + 1e-4, high + 1e-4
    batch = token_batch(s, *drawn, "log_probs")
    A = batch.advantages[batch.mask]

    def objective(ratio: Tensor, x: Tensor) -> Tensor:
        each = ratio.log().mean().exp().detach() * (x - x.detach()).exp()
        return torch.minimum(each * A, each.clamp(1 - low, 1 + high) * A)

    out = s.rules.get_method("gspo", clip_low=low, clip_high=high)(batch)
    close(unified(s, out, batch), native(batch, objective))


@prop("methods 0 SAPO", traces())
def sapo_native(s: Subject, drawn: Rows) -> None:
    """SAPO: f(rho) A with f = (4 / tau) sigmoid(tau (rho - 1)), tau by the sign of A."""
    batch = token_batch(s, *drawn, "log_probs")
    A = batch.advantages[batch.mask]
    tau = torch.where(A > 0, torch.tensor(1.0, dtype=A.dtype), torch.tensor(1.05, dtype=A.dtype))
    out = s.rules.get_method("sapo")(batch)
    close(unified(s, out, batch), native(batch, lambda r, _: 4 / tau * torch.sigmoid(tau * (r - 1)) * A))


@prop("methods 0 DRPO", traces(), multiples(1 / 4, 1, 8), st.booleans())
def drpo_native(s: Subject, drawn: Rows, delta: float, weighted: bool) -> None:
    """DRPO: rho A - |A| mu (rho - 1)^2 / (2 delta); SPO drops the mu."""
    batch = token_batch(s, *drawn, "log_probs")
    A = batch.advantages[batch.mask]
    mu = batch.rollout_log_probs[batch.mask].exp() if weighted else 1.0
    out = s.rules.get_method("drpo", delta=delta, mu_weighted=weighted)(batch)
    close(unified(s, out, batch), native(batch, lambda r, _: r * A - A.abs() * mu * (r - 1) ** 2 / (2 * delta)))


@prop("methods 0 TRM", traces(), st.sampled_from(["trm-max-exact", "trm-avg-exact"]))
def trm_native(s: Subject, drawn: Rows, name: str) -> None:
    """TRM: M(y) rho A, M a constant of the whole response."""
    rows, layout = drawn
    batch = token_batch(s, rows, layout, "full")
    accepted = []
    for row in rows:
        D = [s.reference.kl_divergence(t.mu, t.pi) for t in row]
        keep = max(D) <= 0.05 if name == "trm-max-exact" else sum(D) / len(D) <= 0.001
        accepted += [float(keep)] * len(row)
    A, M = batch.advantages[batch.mask], torch.tensor(accepted, dtype=torch.float64)
    close(unified(s, s.rules.get_method(name)(batch), batch), native(batch, lambda r, _: M * r * A))


# --- a whole optimiser step -------------------------------------------------------------------------------------------


@prop("methods P3 and P10", traces(max_responses=3), st.sampled_from(MODES), examples=2)
@of_each_method
def micro_batches_add_up(s: Subject, name: str, drawn: Rows, mode: str) -> None:
    """One response at a time with the step's totals gives the whole batch's gradient: exactly in log pi, to 1e-12 in a
    shared parameter in float64, 1e-6 in float32."""
    rows, layout = drawn
    m = method(s, name)
    if m.params.get("length") == "padded":
        return
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        batch = token_batch(s, rows, layout, m.needs, dtype=dtype)
        weight = m(batch).weight
        options = {
            "loss_agg_mode": mode,
            "horizon": 8,
            "total_tokens": int(layout.mask.sum()),
            "total_sequences": len(rows),
        }

        def step(index: Tensor, shift: Tensor, x: Tensor, b: Any = batch, g: Any = weight, o: Any = options) -> Tensor:
            """A shared parameter moves every log pi."""
            return s.rules.policy_loss(x[index] + shift, g[index], b.advantages[index], b.mask[index], **o)

        def both(
            order: list[Tensor], step: Any = step, batch: Any = batch, dtype: Any = dtype
        ) -> tuple[Tensor, Tensor]:
            shift, x = torch.zeros((), dtype=dtype, requires_grad=True), batch.log_probs.clone().requires_grad_()
            for index in order:
                step(index, shift, x).backward()
            return shift.grad, x.grad

        everything = torch.arange(len(rows))
        whole, split = both([everything]), both([torch.tensor([i]) for i in reversed(range(len(rows)))])
        assert torch.equal(whole[1], split[1])
        close(whole[0], split[0], tolerance)
        for i in range(len(rows)):  # the weights too may be computed a micro-batch at a time
            assert torch.equal(m(batch.rows(torch.tensor([i]))).weight[0], weight[i])


@prop("methods P3", traces(), st.sampled_from(MODES), examples=2)
@of_each_method
def packed_loss_equals_padded(s: Subject, name: str, drawn: Rows, mode: str) -> None:
    """The loss of packed input has the padded loss's value and gradient."""
    rows, layout = drawn
    m = method(s, name)
    batch = token_batch(s, rows, layout, m.needs)
    weight = m(batch).weight
    options = {"loss_agg_mode": mode, "horizon": 8}
    by_response = torch.arange(1.0, len(rows) + 1, dtype=torch.float64)
    for padded_form, packed_form in ((batch.advantages, layout.pack(batch.advantages)), (by_response, by_response)):

        def padded(x: Tensor, A: Tensor = padded_form) -> Tensor:
            return s.rules.policy_loss(x, weight, A, layout.mask, **options)

        def packed(x: Tensor, A: Tensor = packed_form) -> Tensor:
            g, valid = layout.pack(weight), layout.packed_mask
            return s.rules.policy_loss(x, g, A, valid, lengths=layout.lengths, **options)

        whole = gradient(padded, batch.log_probs)
        assert torch.equal(gradient(packed, layout.pack(batch.log_probs)), layout.pack(whole))


@prop("methods P3", traces(max_responses=2), st.sampled_from(MODES))
def padding_never_reaches_the_gradient(s: Subject, drawn: Rows, mode: str) -> None:
    """NaN and infinities on invalid positions change neither loss nor gradient."""
    rows, layout = drawn
    values = [[-1.0 - t.mu[0] for t in row] for row in rows]
    As = [[t.advantage for t in row] for row in rows]
    plain = tight([len(row) for row in rows])
    found = []
    for where in (layout, plain):
        x = where.spread(values)
        weight = torch.where(where.mask, 2.0, 0.0)
        A = where.spread(As).masked_fill(~where.mask, 0.0)
        g = gradient(
            lambda x, w=weight, A=A, v=where.mask: s.rules.policy_loss(x, w, A, v, loss_agg_mode=mode, horizon=4), x
        )
        assert torch.isfinite(g).all()
        found.append(where.gather(g))
    assert found[0] == found[1]
