"""Group-relative advantages (methods.md section 6)."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from minicppo import reference, rules
from tests.rules.strategies import multiples
from tests.rules.twins import close

rewards = st.lists(st.lists(multiples(1 / 4, 0, 4), min_size=4, max_size=4), min_size=1, max_size=3)


@given(rewards, st.booleans(), st.sampled_from([0, 1]))
def test_advantages_equal_their_loop(groups, normalize, ddof):
    """methods 6. Group advantages are the loop's; groups without variance are zero, dropped and counted."""
    flat = torch.tensor([r for g in groups for r in g], dtype=torch.float64)
    out = rules.group_advantages(flat, 4, normalize_std=normalize, ddof=ddof)
    loop = [reference.group_advantages(g, normalize, ddof) for g in groups]
    for k, mine in enumerate(loop):
        close(out.advantages[4 * k : 4 * k + 4], [0.0] * 4 if mine is None else mine, 1e-9)
        assert out.kept[4 * k : 4 * k + 4].tolist() == [mine is not None] * 4
    assert out.dropped_groups == loop.count(None)


@given(rewards, multiples(1 / 2, -4, 4), st.sampled_from([0.5, 2.0, 8.0]))
def test_advantages_are_relative(groups, shift, factor):
    """methods 6. They sum to zero, ignore a shift of all rewards, and scale with them unless divided by the std."""
    flat = torch.tensor([r for g in groups for r in g], dtype=torch.float64)
    plain = rules.group_advantages(flat, 4).advantages
    close(plain.reshape(-1, 4).sum(1), torch.zeros(len(groups)), 1e-12)
    close(rules.group_advantages(flat * factor + shift, 4).advantages, plain * factor, 1e-12)
    unit = rules.group_advantages(flat, 4, normalize_std=True).advantages
    close(rules.group_advantages(flat * factor + shift, 4, normalize_std=True).advantages, unit, 1e-4)
