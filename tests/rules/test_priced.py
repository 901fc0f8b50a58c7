"""T2's price as position weight, T3's gate on the policy: what their loops do not say."""

import pytest
import torch

from minicppo.rules import TokenBatch, get_method
from minicppo.rules.position_weights import position_weights

VALID = torch.ones(2, 64, dtype=torch.bool)
VALID[1, 20:] = False


def test_the_shadow_price_is_flat_but_for_the_last_tokens_and_linear_for_small_caps():
    shadow = get_method("cppo-shadow")
    w = shadow.weights(VALID, torch.float64)
    assert w[:, 0].tolist() == [1, 1]
    assert [w[0, -1].item(), w[1, 19].item()] == pytest.approx([0.8, 0.8])
    assert (w[1, 20:] == 0).all()
    assert w[0, :-17].min() > 0.8 + 0.2 * 0.95  # 3 / l = 16 tokens at l = .1875
    small = shadow.having(delta=1e-7).weights(VALID, torch.float64)
    assert torch.allclose(small, position_weights(VALID, 0.8), atol=1e-6)
    one = shadow.weights(torch.ones(1, 1, dtype=torch.bool), torch.float64)
    assert one.tolist() == [[1.0]]


@pytest.mark.parametrize("length", ["own", "padded", 100])
def test_the_shadow_price_reads_the_horizon_as_the_linear_schedule_does(length):
    w = get_method("cppo-shadow", length=length).weights(VALID, torch.float64)
    total = {"own": 20, "padded": 64, 100: 100}[length]
    price = [1 - (1 - 0.15 / 0.8) ** (total - t) for t in range(1, 21)]
    assert w[1, :20].tolist() == pytest.approx([0.8 + 0.2 * p / price[0] for p in price])


def test_a_spent_token_is_masked_where_the_gate_on_the_gradient_pushes_on():
    log_probs = torch.tensor([[0.9, 0.9, 0.52]]).log()
    batch = TokenBatch(log_probs, torch.full((1, 3), 0.5).log(), torch.ones(1))
    settings = {"budget": "fixed", "schedule": "constant"}
    gradient, policy, hard = (
        get_method(name, **settings)(batch).weight[0] for name in ("cppo-budget-gate", "cppo-policy-gate", "cppo-fixed")
    )
    assert gradient[0].item() == pytest.approx(1.8 * 0.15 / 0.4)
    assert policy[:2].tolist() == [0, 0]
    assert policy[2].item() == pytest.approx(1.04)  # the gated policy has spent .17 of .19: room for .02
    assert hard[2] == 0  # pi itself has spent .8
