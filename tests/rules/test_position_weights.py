"""The weights w_t: strict early, relaxed late."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minicppo import reference, rules
from tests.rules.strategies import EXACT_LENGTHS, limits, multiples, responses, several, tight
from tests.rules.twins import mask, near


@given(several(lambda raw: range(1 + raw[0] % 17), 4), multiples(1 / 8, 1, 8))
def test_weights_fall_from_one_to_w_min(drawn, w_min):
    """methods 1.1. Eq. 9 starts at 1, ends at w_min, never rises; T = 1 weighs 1; both twins agree, holes or not."""
    lengths = [len(row) for row in drawn[0]]
    for layout in (tight(*lengths), drawn[1]):
        for n, row in zip(lengths, layout.gather(rules.position_weights(layout.mask, w_min)), strict=True):
            assert row == reference.linear_weights(n, w_min)
            assert row[0] == 1
            assert row == sorted(row, reverse=True)
            assert n == 1 or abs(row[-1] - w_min) < 1e-15


@given(st.integers(1, 17), st.integers(0, 4), multiples(1 / 8, 1, 7))
def test_shuffling_permutes_the_weights(n, seed, w_min):
    """methods 1.4. The shuffled schedule is a permutation of the linear one that depends on (seed, T) alone."""
    wide = torch.zeros(2, n + 2, dtype=torch.bool)
    wide[0, :n] = wide[1, 2:] = True
    first, second = rules.position_weights(wide, w_min, schedule="shuffled", seed=seed)
    assert sorted(first[:n].tolist(), reverse=True) == reference.linear_weights(n, w_min)
    assert first[:n].tolist() == second[2:].tolist()
    assert first[n:].tolist() == second[:2].tolist() == [0, 0]


@given(responses(EXACT_LENGTHS[1:5]), limits(), st.integers(0, 8))
def test_truncation_agrees_on_a_horizon(response, lim, cut):
    """theory 33. With one schedule for a fixed horizon, a truncated response is decided as its prefix was."""
    cut = 1 + cut % len(response)
    whole, part = (mask(r, lim, length=17) for r in (response, response[:cut]))
    assert torch.equal(whole.reason[:, :cut], part.reason)
    assert part.position_weight[0].tolist() == reference.linear_weights(17, lim.w_min)[:cut]


def test_schedules_are_what_they_were():
    """Stored runs name a seed: its order must not change."""
    valid = torch.tensor([[True, False, True, True, True, True]])
    orders = [rules.position_weights(valid, 0.2, schedule="shuffled", seed=seed)[valid].tolist() for seed in (0, 1)]
    assert orders == [near([0.8, 0.4, 1.0, 0.2, 0.6]), near([0.4, 1.0, 0.6, 0.2, 0.8])]
    assert rules.position_weights(valid, 0.2, schedule="shuffled")[valid].tolist() == orders[0]
    assert rules.position_weights(valid, 0.2, schedule="constant").tolist() == valid.double().tolist()
    assert rules.position_weights(valid[:0], 0.2, length=3).shape == (0, 6)


# --- T2's price -------------------------------------------------------------------------------------------------------

VALID = torch.ones(2, 64, dtype=torch.bool)
VALID[1, 20:] = False


def test_the_shadow_price_is_flat_but_for_the_last_tokens_and_linear_for_small_caps():
    shadow = rules.get_method("cppo-shadow")
    w = shadow.weights(VALID, torch.float64)
    assert w[:, 0].tolist() == [1, 1]
    assert [w[0, -1].item(), w[1, 19].item()] == pytest.approx([0.8, 0.8])
    assert (w[1, 20:] == 0).all()
    assert w[0, :-17].min() > 0.8 + 0.2 * 0.95  # 3 / l = 16 tokens at l = .1875
    small = shadow.having(delta=1e-7).weights(VALID, torch.float64)
    assert torch.allclose(small, rules.position_weights(VALID, 0.8), atol=1e-6)
    one = shadow.weights(torch.ones(1, 1, dtype=torch.bool), torch.float64)
    assert one.tolist() == [[1.0]]


@pytest.mark.parametrize("length", ["own", "padded", 100])
def test_the_shadow_price_reads_the_horizon_as_the_linear_schedule_does(length):
    w = rules.get_method("cppo-shadow", length=length).weights(VALID, torch.float64)
    total = {"own": 20, "padded": 64, 100: 100}[length]
    price = [1 - (1 - 0.15 / 0.8) ** (total - t) for t in range(1, 21)]
    assert w[1, :20].tolist() == pytest.approx([0.8 + 0.2 * p / price[0] for p in price])
