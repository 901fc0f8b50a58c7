"""Three policies: corrections of the mismatch w = pi_old / mu, alone and composed with a trust region."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minicppo import reference, rules
from tests.rules.method_properties import equals_its_loop, varied
from tests.rules.strategies import traces
from tests.rules.twins import close, near, token_batch

CORRECTIONS = [name for name, method in rules.METHODS.items() if method.corrects]
REGIONS = [name for name, method in rules.METHODS.items() if not method.corrects and method.needs == "log_probs"]
ANY = st.sampled_from(CORRECTIONS)


def three(mu, old, pi, advantage=1.0):
    """A batch of one response from the sampled tokens' probabilities under the three policies."""
    mu, old, pi = (torch.tensor([p], dtype=torch.float64).log() for p in (mu, old, pi))
    return rules.TokenBatch(pi, mu, torch.tensor([advantage], dtype=torch.float64), old_log_probs=old)


MU, OLD, PI = [0.5, 0.1, 0.4, 0.2], [0.5, 0.3, 0.1, 0.25], [0.6, 0.3, 0.1, 0.4]
# w = 1, 3, 1/4, 5/4; r = 6/5, 1, 1, 8/5


@pytest.mark.parametrize(
    ("name", "params", "weights"),  # r passes PPO's clip at 1.28 but for the last token, A = 1
    [
        ("tis", {}, [1.2, 2, 0.25, 0]),
        ("tis", {"cap": 5.0}, [1.2, 3, 0.25, 0]),
        ("icepop", {}, [1.2, 0, 0, 0]),
        ("icepop", {"clip_high": 1.0}, [1.2, 0, 0, 2]),
        ("seq-tis", {}, [1.2 * 15 / 16, 15 / 16, 15 / 16, 0]),
        ("seq-mask", {}, [1.2 * 15 / 16, 15 / 16, 15 / 16, 0]),
        ("seq-mask", {"high": 0.9}, [0, 0, 0, 0]),
        ("seq-mask-tis", {}, [1.2, 2, 0.25, 0]),
        ("geo-mask", {}, [0, 0, 0, 0]),
        ("geo-mask", {"low": 0.98}, [1.2, 1, 1, 0]),  # (15/16)^(1/4) = 0.984
        ("geo-mask-tis", {"low": 0.98}, [1.2, 2, 0.25, 0]),
        ("k3-mask", {}, [0, 0, 0, 0]),
        ("k3-mask", {"high": 0.4}, [1.2, 1, 1, 0]),  # mean of 0, .901, .636, .027
        ("outlier-mask", {}, [1.2, 1, 1, 0]),
        ("outlier-mask", {"high": 2.9}, [0, 0, 0, 0]),
    ],
)
def test_golden_corrections(name, params, weights):
    method, batch = rules.get_method(name, **params), three(MU, OLD, PI)
    assert method(batch).weight[0].tolist() == near(weights, 1e-6)
    loop = reference.LOOPS["corrected"](
        reference.Response(MU, PI, [1.0] * 4, old=OLD), rule=method.rule.family, **method.params
    )
    assert loop == near(weights)


def test_the_reason_tells_mismatch_from_drift():
    out = rules.get_method("icepop")(three(MU, OLD, PI))
    R = rules.Reason
    assert out.reason[0].tolist() == [R.INSIDE, R.MISMATCH, R.MISMATCH, R.TOKEN]
    row = rules.diagnostics(three(MU, OLD, PI), out)
    assert row["mask/mismatch"] == 0.5
    assert row["mask/frac"] == 0.75
    assert row["mismatch/mean"] == near((math.log(3) + math.log(4) + math.log(1.25)) / 4, 1e-9)
    assert row["drift/max"] == near(math.log(1.6), 1e-9)
    assert "drift/max" not in rules.diagnostics(replace(three(MU, OLD, PI), old_log_probs=None), out)


@given(traces(), ANY, st.sampled_from(REGIONS), st.sampled_from(["old", "rollout"]))
def test_without_mismatch_every_correction_is_its_rule_to_the_bit(drawn, name, region, anchor):
    """With pi_old = mu, given or left out, a decoupled method is its coupled form."""
    rule = rules.get_method(region)
    method = rules.get_method(region, correction=name, anchor=anchor)
    batch = token_batch(*drawn)
    for same in (replace(batch, old_log_probs=None), replace(batch, old_log_probs=batch.rollout_log_probs)):
        mine, coupled = method(same), rule(same)
        for field in ("weight", "token_mask", "reason", "raw_weight"):
            assert torch.equal(getattr(mine, field), getattr(coupled, field)), field


@given(traces(), st.sampled_from([n for n, m in rules.METHODS.items() if not m.corrects]))
def test_a_coupled_method_reads_no_pi_old(drawn, name):
    method = rules.get_method(name)
    batch = token_batch(*drawn, method.needs)
    assert torch.equal(method(batch).weight, method(replace(batch, old_log_probs=None)).weight)


@given(traces(), ANY, st.sampled_from(REGIONS), st.sampled_from([0.5, 1.0, 4.0]), st.sampled_from(["old", "rollout"]))
def test_a_composition_is_the_product(drawn, name, region, scale, anchor):
    """g = g_rule(pi, pi_old) c(w), and with mu as the anchor g_rule(pi, mu) c(w) / w; each is its loop, too."""
    batch = token_batch(*drawn)
    method, alone = (
        varied(rules.get_method(rule, correction=name, anchor=anchor), scale) for rule in (region, "reinforce")
    )
    plain, c = varied(rules.get_method(region), scale)(batch.since_old if anchor == "old" else batch), alone(batch)
    close(method(batch).weight, plain.weight.double() * c.weight.double())
    assert torch.equal(method(batch).token_mask, plain.token_mask & c.token_mask)
    equals_its_loop(method, drawn)


LIMIT = 0.1501


@given(traces(), st.sampled_from(["dppo", "cppo-no-budget"]), ANY)
def test_the_rollout_anchor_bounds_against_mu(drawn, region, name):
    """What moves away from mu and is kept has w_t |pi - mu| <= delta, whatever the correction."""
    batch = token_batch(*drawn)
    rule = rules.get_method(region, delta=LIMIT)(batch)
    kept = rules.get_method(region, correction=name, anchor="rollout", delta=LIMIT)(batch).token_mask
    D = (batch.log_probs.exp() - batch.rollout_log_probs.exp()).abs()
    weight = 1 if rule.position_weight is None else rule.position_weight
    assert (weight * D)[kept & batch.away].le(LIMIT).all()
    assert not (kept & ~rule.token_mask).any()


@given(traces(), st.sampled_from([1.2501, 2.0001]))
def test_icepop_bounds_the_binary_divergence(drawn, high):
    """Kept away from pi_old: |pi - mu| <= delta + max(high - 1, 1 - low) mu."""
    batch = token_batch(*drawn)
    kept = rules.get_method("dppo", correction="icepop", delta=LIMIT, low=1 / high, high=high)(batch).token_mask
    pi, mu = batch.log_probs.exp(), batch.rollout_log_probs.exp()
    bound = LIMIT + max(high - 1, 1 - 1 / high) * mu
    assert ((pi - mu).abs() <= bound + 1e-9)[kept & batch.since_old.away].all()


def test_truncation_bounds_nothing_against_mu():
    """pi = pi_old: no drift, so the rule keeps the token, however far mu is; anchored at mu it does not."""
    batch = three([0.05], [0.9], [0.9])
    for correction in ({"correction": "tis"}, {"correction": "tis", "weigh": "off"}):
        assert rules.get_method("dppo", **correction)(batch).token_mask.item()
    batch = three([0.05], [0.05], [0.9])
    assert not rules.get_method("dppo", correction="tis")(batch).token_mask.item()


def test_the_product_makes_pi_old_the_sampler():
    """Over all 9 responses of two tokens from three: E_mu[g h] = E_pi_old[r h] for seq-tis without a cap."""
    mu, old, pi = (torch.tensor(p).double() for p in ([0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.3, 0.3, 0.4]))
    y = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    batch = rules.TokenBatch(pi[y].log(), mu[y].log(), torch.ones(9).double(), old_log_probs=old[y].log())
    h = torch.arange(18.0).reshape(9, 2).double()
    g = rules.get_method("none", correction="seq-tis", cap=math.inf)(batch).weight
    ours = (mu[y].prod(1, keepdim=True) * g * h).sum(0)
    close(ours, (old[y].prod(1, keepdim=True) * (pi / old)[y] * h).sum(0))
    cut = rules.get_method("none", correction="seq-tis", cap=2.0)(batch).weight
    assert ((mu[y].prod(1, keepdim=True) * cut * h).sum(0) < ours).all()


def test_a_given_divergence_is_of_the_rollout_anchor():
    method = rules.get_method("cppo-topk", correction="icepop")
    batch = replace(three(MU, OLD, PI), divergence=torch.zeros(1, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="use anchor='rollout'"):
        method(batch)
    assert method.having(anchor="rollout")(batch).token_mask.tolist() == [[True, False, False, True]]


def test_parameters_go_to_the_rule_or_to_the_correction():
    method = rules.get_method("cppo", correction="icepop", delta=0.3, high=4.0)
    assert (method.rule.delta, method.high, method.params["delta"], method.name) == (0.3, 4.0, 0.3, "cppo")
    assert method.overrides["high"] == 4.0
    assert method.overrides["delta"] == 0.3
    assert method.formula == "M_CPPO r w, w in [low, high]"
    assert rules.get_method("grpo", correction="k3-mask").formula == "M_PPO r, mean k3(w) in [low, high]"
    assert rules.get_method("cppo", correction="seq-tis", anchor="rollout").formula == "M_CPPO rho min(prod w, C)"
    assert method.level == "token"
    own = set(rules.get_method("tis").params) - set(rules.get_method("grpo").params)
    assert not any(own & set(rules.get_method(name).params) for name in REGIONS)  # else one name would mean two things
    assert rules.get_method("seq-mask").level == "sequence"
