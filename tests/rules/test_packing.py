"""The mask is the same in every layout: padded, with holes, packed, in blocks, beside other responses.

Numbers ("theory 02") are those of theory.md section 5 and of methods.md.
"""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from minicppo import rules
from tests.rules.strategies import batches, limits
from tests.rules.twins import code, mask_inputs, mask_of, steps

BUDGETS = st.sampled_from(["fixed", "off", "dynamic"])


@given(batches(), limits(), BUDGETS, st.sampled_from([1.0, 2.0, 64.0]))
def test_loop_equals_prefix_sum(batch, lim, budget, cap):
    """theory 01, methods P3. Algorithm 1's loop and the batched prefix sum agree to the bit, in any layout.
    theory 04, 05, 07, C6. So each response is decided alone: garbage behind the last valid token, left padding, tool
    tokens in between (neither in S, W and P90 nor as positions) and the other responses change nothing. Invalid
    positions hold zeros."""
    out = mask_of(batch, lim, budget=budget, quantile=0.875, cap_factor=cap)
    loops = [steps(response, lim, budget=budget, quantile=0.875, cap_factor=cap) for response in batch.responses]
    fields = {
        "reason": code,
        "token_mask": lambda x: x.keep,
        "threshold": lambda x: x.threshold,
        "weighted_divergence": lambda x: x.weighted_divergence,
        "position_weight": lambda x: x.position_weight,
    }
    for field, of_step in fields.items():
        assert batch.layout.gather(getattr(out, field)) == [[of_step(x) for x in loop] for loop in loops]
    for field in (*fields, "divergence"):
        assert not getattr(out, field)[~batch.layout.mask].any()


@given(batches(), limits(), st.sampled_from(["fixed", "dynamic"]))
def test_packed_equals_padded(batch, lim, budget):
    """theory 02, methods P3. Responses laid end to end give what the padded batch gives, field by field."""
    layout, rule = batch.layout, lim._asdict()
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
    loss = {"lengths": lengths, "log_probs": log_probs, "weight": torch.ones(3), "response_mask": torch.ones(3)}
    loss["horizon"] = 1
    packed, right = rules.TokenBatch.from_packed, A[:, None]
    for function, given_ in ((rules.cppo_mask, inputs), (packed, inputs), (rules.policy_loss, loss)):
        with pytest.raises(ValueError, match=r"advantages\[:, None\] for one a response; .* leave out the"):
            function(advantages=A, **given_)
    assert rules.cppo_mask(advantages=right, **inputs).reason.tolist() == [2, 1, 1]
    assert packed(advantages=right, **inputs).advantages[:, 0].tolist() == A.tolist()
    assert rules.policy_loss(advantages=right, **loss).item() == pytest.approx(-(1 - 2 - 2) / 3)
    single = inputs | {"lengths": torch.ones(3, dtype=torch.long)}  # both readings are the same
    assert rules.cppo_mask(advantages=A, **single).reason.tolist() == [2, 1, 2]


@given(batches(), limits(), st.sampled_from(["own", "padded"]), st.sampled_from(["padded", "packed", "by response"]))
def test_blocks_change_nothing(batch, lim, length, form):
    """theory 07. Working on a few rows at a time gives what the whole batch gives at once."""
    inputs = mask_inputs(batch)
    if form == "packed":
        assume(batch.layout.lengths.sum() != len(batch.layout.lengths))
        inputs = {k: batch.layout.pack(v) for k, v in inputs.items()} | {"lengths": batch.layout.lengths}
    if form == "by response":
        inputs["advantages"] = inputs["response_mask"].sum(1).double().sub(8)
    masks = []
    for size in (10**6, 1, 2 * batch.layout.width):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("minicppo.rules.mask.BLOCK", size)
            masks.append(rules.cppo_mask(**inputs, **lim._asdict(), length=length))
    whole, *parts = masks
    for part in parts:
        for field in ("reason", "threshold", "position_weight", "divergence", "slack", "delta_b"):
            assert torch.equal(getattr(part, field), getattr(whole, field))
