"""Direction, monotonicity and reductions of the CPPO mask (theory.md section 5), put to both twins."""

import math

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from minicppo import reference, rules
from tests.rules.strategies import BYTES, Limits, Response, drifting, limits, multiples, responses
from tests.rules.twins import TWINS, implies, kept, mask, steps

AWAY = responses(all_away=True)


# --- direction --------------------------------------------------------------------------------------------------------


@given(responses(), limits())
def test_toward_is_always_kept(response, lim):
    """theory 08. A token that moves toward mu, or has A = 0 or rho = 1, is kept whatever its divergence."""
    drifted = response.replace(divergence=[d + 1 for d in response.divergence])
    out, loop = mask(drifted, lim), steps(drifted, lim)
    for t, away in enumerate(response.away):
        assert away or (loop[t].keep and out.token_mask[0, t] and out.reason[0, t] == rules.Reason.TOWARD)


@given(responses(), limits(), st.integers(0, 30))
def test_only_the_sign_matters(response, lim, power):
    """theory 10, methods P7. Only sign(A (rho - 1)) enters: turning both around leaves the mask as it was.
    theory 09. So does a positive factor on each token's advantage."""
    mirrored = Response(response.divergence, *(tuple(-x for x in v) for v in (response.log_ratio, response.advantages)))
    scaled = response.replace(advantages=[a * 2.0 ** (power * t % 31 - 20) for t, a in enumerate(response.advantages)])
    for keeps in TWINS:
        assert keeps(response, lim) == keeps(mirrored, lim) == keeps(scaled, lim)


@given(responses(), limits())
def test_sign_flip_swaps_roles(response, lim):
    """methods P7. A -> -A swaps toward and away; with rho != 1 at least one sign keeps the token."""
    flipped = response.replace(advantages=[-a for a in response.advantages])
    one, two = mask(response, lim), mask(flipped, lim)
    assert (one.token_mask | two.token_mask).all()
    both = (one.reason == rules.Reason.TOWARD).int() + (two.reason == rules.Reason.TOWARD).int()
    still = [a * x == 0 for a, x in zip(response.advantages, response.log_ratio, strict=True)]
    assert both[0].tolist() == [2 if s else 1 for s in still]


# --- monotone ---------------------------------------------------------------------------------------------------------


@given(AWAY, limits(), st.integers(1, 16), BYTES)
def test_monotone(response, lim, more, extra):
    """methods P4. With a fixed budget a larger delta (theory 11), a larger delta_b (theory 12), less drift (theory 13)
    and winsorising D at any level (theory 38) keep a superset. theory 30. D = 0 keeps all, under every budget."""
    D = response.divergence
    worse = response.replace(divergence=[d + byte % 5 / 64 for d, byte in zip(D, extra, strict=False)])
    capped, still = (response.replace(divergence=[min(d, most) for d in D]) for most in (more / 32, 0.0))
    for keeps in TWINS:
        assert all(all(keeps(still, lim, budget=budget)) for budget in ("fixed", "dynamic", "off"))
        now = keeps(response, lim)
        assert implies(now, keeps(response, lim._replace(delta=lim.delta + more / 64)))
        assert implies(now, keeps(response, lim._replace(delta_b=lim.delta_b + more / 256)))
        assert implies(now, keeps(capped, lim))
        assert implies(keeps(worse, lim), now)


@given(AWAY, limits(), multiples(1 / 8, 1, 8), multiples(1 / 64, 1, 16))
def test_without_a_budget_the_cap_decides(response, lim, other, above):
    """theory 14. A smaller w_min only keeps more (with a prefix budget it need not: test_refuted.py).
    theory 39. Winsorising D above delta / w_min leaves the mask unchanged."""
    small, large = (lim._replace(w_min=w) for w in sorted((lim.w_min, other)))
    capped = response.replace(divergence=[min(d, lim.delta / lim.w_min + above) for d in response.divergence])
    for keeps in TWINS:
        assert implies(keeps(response, large, budget="off"), keeps(response, small, budget="off"))
        assert keeps(response, lim, budget="off") == keeps(capped, lim, budget="off")


# --- reductions and scales --------------------------------------------------------------------------------------------


def dppo_keeps(response: Response, delta: float) -> list[bool]:
    """DPPO's own rule, spelled out."""
    return [not away or d <= delta for d, away in zip(response.divergence, response.away, strict=True)]


@given(responses(), limits(w_min=1.0), st.sampled_from([1.0, 4.0, math.inf]))
def test_dppo_without_weights_and_budget(response, lim, delta_b):
    """theory 15, methods P2. w = 1 and delta_b >= 1 is DPPO exactly; a huge delta on top keeps everything."""
    loose = lim._replace(delta_b=delta_b)
    assert kept(response, loose) == dppo_keeps(response, lim.delta)
    assert all(kept(response, loose._replace(delta=2.0)))


@given(AWAY, limits())
def test_below_budget_the_cap_decides(response, lim):
    """theory 16. While D_j <= delta_b for all j < t, the token test alone decides token t.
    theory 21, methods P2. So I_1 holds iff D_1 <= delta, inclusive."""
    D, weights = response.divergence, reference.linear_weights(len(response), lim.w_min)
    tie = response.replace(divergence=[lim.delta, *D[1:]])
    for keeps in TWINS:
        for t, keep in enumerate(keeps(response, lim)):
            if all(d <= lim.delta_b for d in D[:t]):
                assert keep == (weights[t] * D[t] <= lim.delta)
        assert keeps(tie, lim)[0]


@given(responses(), limits())
def test_the_budget_only_masks(response, lim):
    """theory 18. CPPO keeps a subset of what its position weights alone keep.
    theory 17. With w = 1, a subset of what DPPO keeps."""
    for keeps in TWINS:
        assert implies(keeps(response, lim), keeps(response, lim, budget="off"))
        assert implies(keeps(response, lim._replace(w_min=1.0)), dppo_keeps(response, lim.delta))


@given(limits(), st.sampled_from([0.25, 0.5, 1.0]), multiples(1 / 64, 0, 8))
def test_both_tests_are_inclusive(lim, w_min, first):
    """theory 21. A second token whose Z_2 equals c_2 exactly is kept; a grain more is masked."""
    lim = lim._replace(w_min=w_min)
    c = min(lim.delta, lim.delta + lim.delta_b - first)
    assume(c >= 0)
    for keeps in TWINS:
        assert keeps(drifting([first, c / w_min]), lim)[1]
        assert not keeps(drifting([first, c / w_min + 2.0**-20]), lim)[1]


@given(responses(), limits(), st.sampled_from([0.25, 0.5, 2.0]))
def test_scales(response, lim, factor):
    """theory 22. (D, delta, delta_b) scaled together leave the mask, and scale c_t.
    theory 23. (w, delta) scaled together leave the loop's mask: only delta / w is a limit on D."""
    scaled = response.replace(divergence=[d * factor for d in response.divergence])
    wider = Limits(lim.delta * factor, lim.delta_b * factor, lim.w_min)
    for budget in ("fixed", "dynamic"):
        one, two = mask(response, lim, budget=budget), mask(scaled, wider, budget=budget)
        assert torch.equal(one.reason, two.reason)
        assert budget == "dynamic" or torch.equal(one.threshold * factor, two.threshold)
    weights = [w * factor for w in reference.linear_weights(len(response), lim.w_min)]
    options = {"delta": wider.delta, "delta_b": lim.delta_b, "weights": weights}
    heavier = reference.cppo_steps(response.divergence, response.away, **options)
    assert [x.reason for x in steps(response, lim)] == [x.reason for x in heavier]


@given(responses((5, 9)), limits(w_min=1.0), st.permutations(range(8)))
def test_order_blind_without_weights(response, lim, order):
    """theory 36. With w = 1 the last token's verdict does not depend on the order of the tokens before it."""
    last = len(response) - 1
    shuffled = response[[*(i for i in order if i < last), last]]
    for keeps in TWINS:
        assert keeps(response, lim)[-1] == keeps(shuffled, lim)[-1]


# --- precision --------------------------------------------------------------------------------------------------------


def test_single_precision_suffices():
    """methods P13. float32 input decides 99.99 % of the tokens of critical 8192-token responses as the float64 loop."""
    for seed in range(3):
        generator, shape = torch.Generator().manual_seed(seed), (2, 8192)
        D = -0.02 * torch.rand(shape, generator=generator).log()  # mean at the budget
        ratio = torch.where(torch.rand(shape, generator=generator) < 0.5, -0.125, 0.125)
        rollout = torch.full(shape, -4.0)
        found = rules.cppo_mask(rollout + ratio, rollout, torch.ones(2), divergence=D, delta_b=0.02, budget="fixed")
        truth = [
            reference.cppo_token_mask(d, (x > 0).tolist(), delta=0.15, delta_b=0.02, w_min=0.8)
            for d, x in zip(D.double().tolist(), ratio, strict=True)
        ]
        assert (found.token_mask != torch.tensor(truth)).double().mean() < 1e-4
        assert 0.1 < found.token_mask.double().mean() < 0.9
