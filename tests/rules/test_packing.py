"""The mask is the same in every layout: padded, with holes, packed, in blocks, beside other responses.

Numbers ("theory 02") are those of theory.md section 5 and of methods.md.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from minicppo import rules
from tests.rules.strategies import Limits, batches, limits
from tests.rules.twins import mask, mask_inputs, mask_of, steps

REASONS = {"toward": 1, "inside": 2, "token": 3, "prefix": 4, "both": 5}
pytestmark = pytest.mark.usefixtures("unchecked_shapes")
BUDGETS = st.sampled_from(["fixed", "off", "dynamic"])


@given(batches(), limits(), BUDGETS, st.sampled_from([1.0, 2.0, 64.0]))
def test_loop_equals_prefix_sum(batch, lim, budget, cap):
    """theory 01, methods P3. Algorithm 1's loop and the batched prefix sum agree to the bit, in any layout."""
    out = mask_of(batch, lim, budget=budget, quantile=0.875, cap_factor=cap)
    fields = {
        "reason": lambda x: REASONS[x.reason],
        "token_mask": lambda x: x.keep,
        "threshold": lambda x: x.threshold,
        "weighted_divergence": lambda x: x.weighted_divergence,
        "position_weight": lambda x: x.position_weight,
    }
    for row, response in enumerate(batch.responses):
        loop = steps(response, lim, budget=budget, quantile=0.875, cap_factor=cap)
        for field, of_step in fields.items():
            assert batch.layout.gather(getattr(out, field))[row] == [of_step(x) for x in loop]


@given(batches(), limits(), st.sampled_from(["fixed", "dynamic"]))
def test_packed_equals_padded(batch, lim, budget):
    """theory 02, methods P3. Responses laid end to end give what the padded batch gives, field by field."""
    layout, rule = batch.layout, dataclasses.asdict(lim)
    assume(layout.lengths.sum() != len(layout.lengths))  # see test_packed_advantages_are_never_guessed
    padded = mask_of(batch, lim, budget=budget)
    inputs = {k: layout.pack(v) for k, v in mask_inputs(batch).items()}
    packed = rules.cppo_mask(**inputs, lengths=layout.lengths, **rule, budget=budget)
    for field in ("token_mask", "reason", "threshold", "position_weight", "divergence", "weighted_divergence", "slack"):
        assert torch.equal(getattr(packed, field), layout.pack(getattr(padded, field)))
    assert torch.equal(packed.delta_b, padded.delta_b)


def test_packed_advantages_are_never_guessed():
    """As many tokens as responses, but not one each: (3,) could be either, and (3, 1) is one a response."""
    lengths, log_probs, A = torch.tensor([1, 2, 0]), torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([1.0, -2.0, 3.0])
    inputs = {"lengths": lengths, "log_probs": log_probs, "rollout_log_probs": log_probs - 0.5}
    loss = {"lengths": lengths, "horizon": 1, "log_probs": log_probs}
    ones = {"weight": torch.ones(3), "response_mask": torch.ones(3)}
    for function, given_ in (
        (rules.cppo_mask, inputs),
        (rules.TokenBatch.from_packed, inputs),
        (rules.policy_loss, loss | ones),
    ):
        with pytest.raises(ValueError, match=r"advantages\[:, None\] for one a response; .* leave out the"):
            function(advantages=A, **given_)
    assert rules.cppo_mask(advantages=A[:, None], **inputs).reason.tolist() == [2, 1, 1]
    assert rules.TokenBatch.from_packed(advantages=A[:, None], **inputs).advantages[:, 0].tolist() == A.tolist()
    assert rules.policy_loss(advantages=A[:, None], **loss, **ones).item() == pytest.approx(-(1 - 2 - 2) / 3)
    single = inputs | {"lengths": torch.ones(3, dtype=torch.long)}  # both readings are the same
    assert rules.cppo_mask(advantages=A, **single).reason.tolist() == [2, 1, 2]


@given(batches(), limits())
def test_each_response_is_decided_alone(batch, lim):
    """theory 04, 05, 07, methods P3, C6. Garbage behind the last valid token (right_padding_changes_nothing), left
    padding and tool tokens in between (holes_change_nothing: neither in S, W and P90 nor as positions) and the other
    responses (rows_do_not_see_each_other) change nothing."""
    out = mask_of(batch, lim, budget="dynamic")
    for row, response in enumerate(batch.responses):
        alone = mask(response, lim, budget="dynamic")
        for field in ("reason", "threshold", "position_weight"):
            assert batch.layout.gather(getattr(out, field))[row] == getattr(alone, field)[0].tolist()


@given(batches(), limits(), BUDGETS)
def test_holes_hold_zeros(batch, lim, budget):
    """theory 04. Whatever stands on invalid positions, the result is zero there."""
    out = mask_of(batch, lim, budget=budget)
    for field in ("reason", "token_mask", "threshold", "position_weight", "divergence", "weighted_divergence"):
        assert not getattr(out, field)[~batch.layout.mask].any()


@given(batches(), limits(), st.sampled_from(["own", "padded"]), st.sampled_from(["padded", "packed", "by response"]))
def test_blocks_change_nothing(batch, lim, length, form):
    """theory 07. Working on a few rows at a time gives what the whole batch gives at once."""
    inputs = mask_inputs(batch)
    if form == "packed":
        assume(batch.layout.lengths.sum() != len(batch.layout.lengths))
        inputs = {k: batch.layout.pack(v) for k, v in inputs.items()} | {"lengths": batch.layout.lengths}
    if form == "by response":
        inputs["advantages"] = inputs["response_mask"].sum(1).double().sub(8)
    whole, *parts = in_blocks((10**6, 1, 2 * batch.layout.width), inputs, lim, length)
    for part in parts:
        for field in ("reason", "threshold", "position_weight", "divergence", "slack", "delta_b"):
            assert torch.equal(getattr(part, field), getattr(whole, field))


def in_blocks(sizes: tuple[int, ...], inputs: dict[str, Any], lim: Limits, length: str) -> Iterator[rules.CPPOMask]:
    for size in sizes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("minicppo.rules.mask.BLOCK", size)
            yield rules.cppo_mask(**inputs, **dataclasses.asdict(lim), length=length)
