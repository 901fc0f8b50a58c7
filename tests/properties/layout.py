"""The mask is the same in every layout, and sees the prefix by its sums alone (theory.md section 5)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from hypothesis import strategies as st

from tests.properties.registry import prop
from tests.strategies import (
    Batch,
    Limits,
    Response,
    batches,
    divergences,
    limits,
    multiples,
    responses,
    tight,
)
from tests.twins import Keeps, Subject, mask, mask_inputs, mask_of, of_each_twin, steps

REASONS = {"toward": 1, "inside": 2, "token": 3, "prefix": 4, "both": 5}


# --- 1 to 7: the same decision in every layout --------------------------------------------------------------


@prop("theory 01, methods P3", batches(), limits(), st.sampled_from(["fixed", "off", "dynamic"]), examples=30)
def loop_equals_prefix_sum(s: Subject, batch: Batch, lim: Limits, budget: str) -> None:
    """Algorithm 1's loop and the batched prefix sum agree to the bit: reason, threshold, score, weight."""
    out = mask_of(s, batch, lim, budget=budget, quantile=0.875)
    for row, response in enumerate(batch.responses):
        loop = steps(s, response, lim, budget=budget, quantile=0.875)
        for field, of_step in (
            ("reason", lambda x: REASONS[x.reason]),
            ("token_mask", lambda x: x.keep),
            ("threshold", lambda x: x.threshold),
            ("weighted_divergence", lambda x: x.weighted_divergence),
            ("position_weight", lambda x: x.position_weight),
        ):
            assert batch.layout.gather(getattr(out, field))[row] == [of_step(x) for x in loop]


@prop("theory 01", responses((1, 2, 3, 5, 9)), limits())
def loop_runs_in_fractions(s: Subject, response: Response, lim: Limits) -> None:
    """The loop is exact: floats on dyadic numbers equal the same loop in rationals."""
    delta, delta_b, w_min = map(Fraction, lim)
    weights = s.reference.linear_weights(len(response), w_min)
    exact = s.reference.cppo_steps(
        [Fraction(d) for d in response.divergence], response.away, delta=delta, delta_b=delta_b, weights=weights
    )
    assert [tuple(x) for x in exact] == [tuple(x) for x in steps(s, response, lim)]
    assert all(isinstance(x.threshold, Fraction) for x in exact)


@prop("theory 02, methods P3", batches(), limits(), st.sampled_from(["fixed", "dynamic"]))
def packed_equals_padded(s: Subject, batch: Batch, lim: Limits, budget: str) -> None:
    """Responses laid end to end give what the padded batch gives, field by field."""
    padded = mask_of(s, batch, lim, budget=budget)
    layout = batch.layout
    packed_inputs = {k: layout.pack(v) for k, v in mask_inputs(batch).items()}
    packed = s.rules.cppo_mask(
        **packed_inputs, lengths=layout.lengths, delta=lim.delta, delta_b=lim.delta_b, w_min=lim.w_min, budget=budget
    )
    for field in ("token_mask", "reason", "threshold", "position_weight", "divergence", "weighted_divergence", "slack"):
        assert torch.equal(getattr(packed, field), layout.pack(getattr(padded, field)))
    assert torch.equal(packed.delta_b, padded.delta_b)


@prop("theory 04, methods P3", responses(), limits(), st.integers(1, 5))
def right_padding_changes_nothing(s: Subject, response: Response, lim: Limits, padding: int) -> None:
    """Garbage behind the last valid token is not read."""
    layout = tight([len(response)])
    wide = type(layout)(layout.rows, layout.width + padding)
    out = mask_of(s, Batch((response,), wide), lim, budget="dynamic")
    assert wide.gather(out.reason)[0] == mask(s, response, lim, budget="dynamic").reason[0].tolist()
    assert not out.token_mask[0, len(response) :].any()
    assert out.reason[0, len(response) :].tolist() == [0] * padding


@prop("theory 05, methods C6", batches(), limits())
def holes_change_nothing(s: Subject, batch: Batch, lim: Limits) -> None:
    """Left padding and tool tokens in between count neither in S, W and P90 nor in the position."""
    out = mask_of(s, batch, lim, budget="dynamic")
    for row, response in enumerate(batch.responses):
        alone = mask(s, response, lim, budget="dynamic")
        for field in ("reason", "threshold", "position_weight"):
            assert batch.layout.gather(getattr(out, field))[row] == getattr(alone, field)[0].tolist()


@prop("theory 06, methods P3", batches(), limits(), st.randoms(use_true_random=False))
def order_of_responses_is_free(s: Subject, batch: Batch, lim: Limits, random: Any) -> None:
    """Permuting the batch permutes the mask."""
    order = list(range(len(batch.responses)))
    random.shuffle(order)
    shuffled = {k: v[order] for k, v in mask_inputs(batch).items()}
    out = s.rules.cppo_mask(**shuffled, delta=lim.delta, delta_b=lim.delta_b, w_min=lim.w_min)
    assert torch.equal(out.reason, mask_of(s, batch, lim, budget="dynamic").reason[order])


@prop("theory 07", responses(), responses(), responses(), limits())
def rows_do_not_see_each_other(s: Subject, mine: Response, first: Response, second: Response, lim: Limits) -> None:
    """A response's mask is the same whoever stands beside it."""
    alone = mask(s, mine, lim, budget="dynamic").reason[0].tolist()
    rows = (first, mine, second)
    out = mask_of(s, Batch(rows, tight([len(r) for r in rows])), lim, budget="dynamic")
    assert out.reason[1, : len(mine)].tolist() == alone


@prop("theory 07", batches(), limits(), st.sampled_from(["own", "padded"]))
def blocks_change_nothing(s: Subject, batch: Batch, lim: Limits, length: str) -> None:
    """Working on a few rows at a time, padded or packed, gives what the whole batch gives at once."""
    given = mask_inputs(batch)
    packed = {k: batch.layout.pack(v) for k, v in given.items()} | {"lengths": batch.layout.lengths}
    by_response = given | {"advantages": given["response_mask"].sum(1).double().sub(8)}
    module = s.rules.mask
    for inputs in (given, packed, by_response):
        whole, *parts = (_in_blocks(module, size, inputs, lim, length) for size in (10**6, 1, 2 * batch.layout.width))
        for part in parts:
            for field in ("reason", "threshold", "position_weight", "divergence", "slack", "delta_b"):
                assert torch.equal(getattr(part, field), getattr(whole, field))


def _in_blocks(module: Any, size: int, inputs: dict[str, Any], lim: Limits, length: str) -> Any:
    before, module.BLOCK = module.BLOCK, size
    try:
        return module.cppo_mask(**inputs, delta=lim.delta, delta_b=lim.delta_b, w_min=lim.w_min, length=length)
    finally:
        module.BLOCK = before


@prop("theory 04", batches(), limits(), st.sampled_from(["fixed", "off", "dynamic"]))
def holes_hold_zeros(s: Subject, batch: Batch, lim: Limits, budget: str) -> None:
    """Whatever stands on invalid positions, the result is zero there."""
    out = mask_of(s, batch, lim, budget=budget)
    for field in ("reason", "token_mask", "threshold", "position_weight", "divergence", "weighted_divergence"):
        assert not getattr(out, field)[~batch.layout.mask].any()


# --- 3, 26 to 28, 33, 36: the prefix ------------------------------------------------------------------------


@prop("theory 03, methods P5", responses(), limits(), st.integers(0, 16), divergences())
def causal_with_fixed_budget(s: Subject, response: Response, lim: Limits, where: int, value: float) -> None:
    """With delta_b and T given, c_t depends on tokens before t alone, and the verdict on tokens up to t."""
    at = where % len(response)
    D = list(response.divergence)
    D[at] = value
    before, after = (mask(s, r, lim) for r in (response, response.replace(divergence=D)))
    assert torch.equal(before.threshold[:, : at + 1], after.threshold[:, : at + 1])
    assert torch.equal(before.reason[:, :at], after.reason[:, :at])
    assert [x.threshold for x in steps(s, response, lim)] == before.threshold[0].tolist()


@prop("theory 26", responses(), limits())
def slack_is_a_queue(s: Subject, response: Response, lim: Limits) -> None:
    """slack_{t+1} - slack_t = w_t (delta_b - D_t), from slack_1 = delta; every valid token enters."""
    out = mask(s, response, lim)
    slack, w = out.slack[0].tolist(), out.position_weight[0].tolist()
    assert slack[0] == lim.delta
    for t in range(len(response) - 1):
        assert slack[t + 1] - slack[t] == w[t] * (lim.delta_b - response.divergence[t])


@prop("theory 27", responses((9, 17), all_away=True), limits(), st.integers(0, 8))
def quiet_tail_gives_room(s: Subject, response: Response, lim: Limits, start: int) -> None:
    """Where D_t <= delta_b from some token on, c_t never falls again, nor does c_t / w_t once it is not negative."""
    D = [d if t < start else min(d, lim.delta_b) for t, d in enumerate(response.divergence)]
    out = mask(s, response.replace(divergence=D), lim)
    c, w = out.threshold[0, start:].tolist(), out.position_weight[0, start:].tolist()
    assert all(a <= b for a, b in zip(c, c[1:], strict=False))
    raw = [x / y for x, y in zip(c, w, strict=True) if x >= 0]
    assert all(a <= b for a, b in zip(raw, raw[1:], strict=False))


@prop("theory 28", responses((5, 9, 17)), limits(w_min=1.0), st.integers(1, 4))
def prefix_enters_by_its_sums(s: Subject, response: Response, lim: Limits, cut: int) -> None:
    """A response continued from (S, W) alone decides as the whole: chunks may be processed apart."""
    whole, head, tail = (mask(s, r, lim) for r in (response, response[:cut], response[cut:]))
    carried = lim.delta_b * head.position_weight.sum() - head.weighted_divergence.sum()
    assert torch.equal(whole.slack[:, cut:], tail.slack + carried)


@prop("theory 33", responses((2, 3, 5, 9)), limits(), st.integers(0, 8))
def truncation_agrees_on_a_horizon(s: Subject, response: Response, lim: Limits, cut: int) -> None:
    """With one schedule for a fixed horizon, a truncated response is decided as its prefix was."""
    cut = 1 + cut % len(response)
    whole, part = (mask(s, r, lim, length=17) for r in (response, response[:cut]))
    assert torch.equal(whole.reason[:, :cut], part.reason)
    assert part.position_weight[0].tolist() == s.reference.linear_weights(17, lim.w_min)[:cut]


@prop("theory 36", responses((5, 9)), limits(w_min=1.0), st.randoms(use_true_random=False))
@of_each_twin
def order_blind_without_weights(keeps: Keeps, response: Response, lim: Limits, random: Any) -> None:
    """With w = 1 the last token's verdict does not depend on the order of the tokens before it."""
    order = list(range(len(response) - 1))
    random.shuffle(order)
    shuffled = response[[*order, len(response) - 1]]
    assert keeps(response, lim)[-1] == keeps(shuffled, lim)[-1]


# --- weights and precision ----------------------------------------------------------------------------------


@prop("methods 1.1", st.lists(st.integers(1, 17), min_size=1, max_size=4), multiples(1 / 8, 1, 8))
def weights_fall_from_one_to_w_min(s: Subject, lengths: list[int], w_min: float) -> None:
    """Eq. 9 starts at 1, ends at w_min, never rises; T = 1 weighs 1; both twins agree."""
    valid = tight(lengths).mask
    rows = tight(lengths).gather(s.rules.position_weights(valid, w_min))
    for n, row in zip(lengths, rows, strict=True):
        assert row == s.reference.linear_weights(n, w_min)
        assert row[0] == 1
        assert row == sorted(row, reverse=True)
        assert n == 1 or abs(row[-1] - w_min) < 1e-15


@prop("methods 1.4", st.integers(1, 17), st.integers(0, 4), multiples(1 / 8, 1, 7))
def shuffling_permutes_the_weights(s: Subject, n: int, seed: int, w_min: float) -> None:
    """The shuffled schedule is a permutation of the linear one that depends on (seed, T) alone."""
    wide = torch.zeros(2, n + 2, dtype=torch.bool)
    wide[0, :n] = wide[1, 2:] = True
    first, second = s.rules.position_weights(wide, w_min, schedule="shuffled", seed=seed)
    assert sorted(first[:n].tolist(), reverse=True) == s.reference.linear_weights(n, w_min)
    assert first[:n].tolist() == second[2:].tolist()
    assert first[n:].tolist() == second[:2].tolist() == [0, 0]


@prop("methods P13", st.integers(0, 3), examples=2)
def single_precision_suffices(s: Subject, seed: int) -> None:
    """float32 input decides 99.99 % of the tokens of critical 8192-token responses as the loop does in float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 8192)
    D = -0.02 * torch.rand(shape, generator=generator).log()  # mean at the budget
    ratio = torch.where(torch.rand(shape, generator=generator) < 0.5, -0.125, 0.125)
    rollout = torch.full(shape, -4.0)
    found = s.rules.cppo_mask(rollout + ratio, rollout, torch.ones(2), divergence=D, delta_b=0.02, budget="fixed")
    truth = [
        s.reference.cppo_token_mask(d, (x > 0).tolist(), delta=0.15, delta_b=0.02, w_min=0.8)
        for d, x in zip(D.double().tolist(), ratio, strict=True)
    ]
    assert (found.token_mask != torch.tensor(truth)).double().mean() < 1e-4
    assert 0.1 < found.token_mask.double().mean() < 0.9
