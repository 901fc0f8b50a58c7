"""Each later method's own loss has the gradient of ours, and its golden numbers, worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minicppo import reference, rules
from tests.rules.strategies import traces
from tests.rules.test_families import is_native
from tests.rules.twins import log_response, near, token_batch

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


def clipped(r, A, low=0.2001, high=0.2801, c=math.inf):
    """PPO's objective, with a dual clip."""
    J = torch.minimum(r * A, r.clamp(1 - low, 1 + high) * A)
    return torch.where(A < 0, torch.maximum(J, c * A), J) if c < math.inf else J


CLIPS = {"clip_low": 0.2001, "clip_high": 0.2801}


@pytest.mark.slow
@given(traces(most=1), st.sampled_from([1.4999, 3.0001]))
def test_losses_of_one_token(drawn, limit):
    batch = token_batch(*drawn)
    v = batch.mask
    A, mu, old = batch.advantages[v], batch.rollout_log_probs[v], batch.old_log_probs[v]
    w = (old - mu).exp()
    is_native("grpo-dual", batch, lambda r, _: clipped(r, A, c=limit), **CLIPS, clip_c=limit)
    inside = (w >= 1 / limit) & (w <= limit)
    is_native("tis", batch, lambda _, x: clipped((x - old).exp(), A) * w.clamp(max=limit), **CLIPS, cap=limit)
    band = {"low": 1 / limit, "high": limit}
    is_native("icepop", batch, lambda _, x: clipped((x - old).exp(), A) * w * inside, **CLIPS, **band)
    some = A != 0  # the pull of a token without an advantage has no g A, and is left out
    pi = batch.log_probs[v].exp()
    for name, keep in (
        ("prime-rl", ~(((pi - mu.exp()) * A.sign() > 0.2001) & some)),
        ("ipo", (pi - mu.exp()).abs() <= 0.2001),
    ):
        objective = lambda r, _, keep=keep: keep * r * A - 0.25 * r.log() ** 2 * some  # noqa: E731
        is_native(name, batch, objective, delta=0.2001, tau=0.25)
    is_native("dro", batch, lambda r, x: A * x - limit / 2 * r.log() ** 2 * some, beta=limit)
    is_native("topr", batch, lambda r, x: torch.where(A > 0, 1.0, r.detach().clamp(max=1)) * A * x)
    is_native("rollout-is", batch, lambda r, x: (r.detach() * ((r > 0.7999) & (r < 1.2801))) * A * x, **CLIPS)


@pytest.mark.slow
@given(traces(most=1), st.sampled_from([0.1001, 0.5001]))
def test_losses_of_a_response(drawn, limit):
    rows, layout = drawn
    batch = token_batch(tuple(tuple(row) for row in rows), layout)
    v = batch.mask
    A, old = batch.advantages[v], batch.old_log_probs[v]
    s = old - batch.rollout_log_probs[v]

    def gmpo(r, x):  # one advantage a response, as in the paper
        one = A[:1].expand_as(A)
        y = torch.where(one > 0, r.log().clamp(max=limit), r.log().clamp(min=-limit))
        return y.mean().exp().expand_as(x) * one

    one = rules.TokenBatch(batch.log_probs, batch.rollout_log_probs, A[:1], v)
    if A[0] != 0:
        is_native("gmpo", one, gmpo, clip_low=limit, clip_high=limit)
    bad = bool(A.sum() < 0) and bool((batch.rollout_log_probs - batch.log_probs)[v].mean() > limit)
    is_native("opsm", batch, lambda r, _: clipped(r, A) * (not bad), **CLIPS, delta=limit)

    def vespo(r, x):
        k, lam = torch.where(A >= 0, 2.0, 3.0), torch.where(A >= 0, 3.0, 2.0)
        W = r.log().sum().exp().detach()
        return W**k * (lam * (1 - W)).exp() * A * x

    is_native("vespo", batch, vespo)
    W = s.sum().exp()
    is_native(
        "seq-tis", batch, lambda _, x: clipped((x - old).exp(), A) * W.clamp(max=1 + limit), **CLIPS, cap=1 + limit
    )
    kept = W <= 3 + limit
    is_native("seq-mask", batch, lambda _, x: clipped((x - old).exp(), A) * W * kept, **CLIPS, high=3 + limit)
    near_one = (s.mean().abs() <= limit).double()
    band = {"low": math.exp(-limit), "high": math.exp(limit)}
    is_native("geo-mask", batch, lambda _, x: clipped((x - old).exp(), A) * near_one, **CLIPS, **band)


@pytest.mark.parametrize(
    ("name", "params", "mu", "pi", "A", "weights"),
    [
        ("prime-rl", {}, [0.5, 0.2], [0.6, 0.5], 1.0, [1.2 - 2e-3 * math.log(1.2), -2e-3 * math.log(2.5)]),
        ("prime-rl", {}, [0.5, 0.2], [0.6, 0.5], -1.0, [1.2 + 2e-3 * math.log(1.2), 2.5 + 2e-3 * math.log(2.5)]),
        ("ipo", {}, [0.5, 0.2], [0.55, 0.5], -1.0, [1.1 + 2e-3 * math.log(1.1), 2e-3 * math.log(2.5)]),
        ("dro", {}, [0.5, 0.2], [0.6, 0.1], 0.5, [1 - 0.1 * math.log(1.2), 1 + 0.1 * math.log(2)]),
        ("dro", {}, [0.5], [0.6], 0.0, [1]),
        ("topr", {}, [0.5, 0.2], [0.6, 0.1], -1.0, [1, 0.5]),
        ("topr", {}, [0.5, 0.2], [0.6, 0.1], 1.0, [1, 1]),
        ("topr-sequence", {}, [0.5, 0.2], [0.6, 0.1], -1.0, [0.6, 0.6]),
        ("vespo", {}, [0.5, 0.2], [0.25, 0.4], 1.0, [1, 1]),
        ("vespo", {}, [0.5], [0.25], 1.0, [0.25 * math.exp(1.5)]),
        ("vespo", {}, [0.5], [0.25], -1.0, [0.125 * math.e]),
        ("gmpo", {}, [0.5, 0.2], [0.5, 0.4], 1.0, [math.exp(0.2), 0]),
        ("gmpo", {}, [0.5, 0.2], [0.5, 0.4], -1.0, [2**0.5, 2**0.5]),
        ("opsm", {"delta": 0.3}, [0.5, 0.5], [0.25, 0.49], -1.0, [0, 0]),  # mean log(mu / pi) = .357
        ("opsm", {"delta": 0.4}, [0.5, 0.5], [0.25, 0.49], -1.0, [0, 0.98]),
        ("opsm", {"delta": 0.3}, [0.5, 0.5], [0.25, 0.49], 1.0, [0.5, 0.98]),
        ("rollout-is", {}, [0.5, 0.5, 0.5], [0.39, 0.6, 0.65], 1.0, [0, 1.2, 0]),
        ("luspo", {}, [0.5], [0.501], 1.0, [1.002]),
        ("luspo", {}, [0.5], [0.502], 1.0, [0]),
    ],
)
def test_golden_weights(name, params, mu, pi, A, weights):
    method = rules.get_method(name, **params)
    assert method(rules.TokenBatch(**log_response(mu, pi, A))).weight[0].tolist() == near(weights, 1e-6)
    loop = reference.LOOPS[method.family](reference.Response(mu, pi, [A] * len(mu)), **method.params)
    assert loop == near(weights)


COVARIANT = torch.tensor([[0.9, 0.8, 0.6, 0.5], [0.02, 0.03, 0.4, 0.05]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("share", "masked"),
    [(1e-9, {2}), (0.25, {1, 3}), (0.5, {0, 1, 3, 4}), (1.0, {0, 1, 2, 3, 4})],  # of five in the band, evenly
)
def test_clip_cov_takes_every_so_manieth(share, masked):
    """What is dropped is spread evenly over the band in the order of the covariance, and is the same each time."""
    pi = COVARIANT.log()
    batch = rules.TokenBatch(pi, pi, torch.tensor([1.0, -1.0], dtype=torch.float64))
    method = rules.get_method("clip-cov", share=share, cov_low=1.0, cov_high=2.3)
    cov = (batch.advantages * (pi - pi.mean())).flatten()
    band = [i for i in cov.argsort(descending=True).tolist() if 1.0 < cov[i] < 2.3]
    assert len(band) == 5
    for _ in range(2):
        dropped = (~method(batch).token_mask.flatten()).nonzero()[:, 0].tolist()
        assert {band.index(i) for i in dropped} == masked


def test_kl_cov_pulls_the_highest():
    pi = COVARIANT.log()
    batch = rules.TokenBatch(pi, pi - 0.1, torch.tensor([1.0, -0.5], dtype=torch.float64))
    out = rules.get_method("kl-cov", share=0.25, beta=0.5)(batch)
    cov = ((batch.advantages - 0.25) * (pi - pi.mean())).flatten()
    top = set(cov.argsort(descending=True)[:2].tolist())
    rho = math.exp(0.1)
    wanted = [rho - (0.5 / (1.0 if i < 4 else -0.5) if i in top else 0) for i in range(8)]
    assert out.weight.flatten().tolist() == near(wanted, 1e-6)
    assert rules.diagnostics(batch, out)["gate/frac"] == 0.25
