"""Each wrong input raises before any work, and says the value, the limit and the way out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import minicppo
from minicppo import reference, rules

X = torch.full((2, 3), -1.0)
ONES = torch.ones(2)
VALID = torch.ones(2, 3, dtype=torch.bool)


def with_value(value: float) -> torch.Tensor:
    bad = X.clone()
    bad[1, 2] = value
    return bad


def call(**changes: Any) -> Callable[[], Any]:
    """`cppo_mask` on a good batch with some arguments replaced."""
    inputs = {"log_probs": X, "rollout_log_probs": X, "advantages": ONES, "response_mask": VALID}
    return lambda: rules.cppo_mask(**{**inputs, **changes})


BATCH = rules.TokenBatch(X, X, ONES)
CUBE = torch.full((2, 3, 4), math.log(0.25))
FULL = rules.TopLogProbs(CUBE, CUBE, torch.zeros(2, 3, dtype=torch.long))


def packed(**changes: Any) -> Callable[[], Any]:
    flat = torch.full((5,), -1.0)
    inputs = {"log_probs": flat, "rollout_log_probs": flat, "advantages": ONES, "lengths": torch.tensor([2, 3])}
    return lambda: rules.cppo_mask(**{**inputs, **changes})


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "nan": (call(log_probs=with_value(math.nan)), ValueError, r"log_probs\[1, 2\] is nan on a valid token"),
    "inf": (call(rollout_log_probs=with_value(-math.inf)), ValueError, r"rollout_log_probs\[1, 2\] is -inf"),
    "cancelling inf": (
        call(log_probs=torch.tensor([[math.inf, -math.inf, 0.0]] * 2)),
        ValueError,
        r"log_probs\[0, 0\] is inf",
    ),
    "nan advantage": (call(advantages=torch.tensor([1.0, math.nan])), ValueError, r"advantages\[1, 0\] is nan"),
    "nan token advantage": (call(advantages=with_value(math.nan)), ValueError, r"advantages\[1, 2\] is nan"),
    "bf16": (call(log_probs=X.bfloat16()), TypeError, r"log_probs is torch.bfloat16.*\.float\(\)"),
    "fp16": (call(rollout_log_probs=X.half()), TypeError, r"rollout_log_probs is torch.float16"),
    "integer": (call(advantages=torch.ones(2, dtype=torch.long)), TypeError, r"advantages is torch.int64"),
    "shapes": (call(rollout_log_probs=X[:, :2]), ValueError, r"rollout_log_probs is \(2, 2\).*\(2, 3\)"),
    "advantage shape": (call(advantages=torch.ones(3)), ValueError, r"advantages is \(3,\).*\(2, 3\)"),
    "mask shape": (call(response_mask=VALID[:1]), ValueError, r"response_mask is \(1, 3\) but log_probs is \(2, 3\)"),
    "one dimension": (call(log_probs=X[0]), ValueError, r"must be \(B, T\), got \(3,\).*lengths"),
    "divergence shape": (call(divergence=X[:1]), ValueError, r"divergence is \(1, 3\).*\(2, 3\)"),
    "negative divergence": (call(divergence=X), ValueError, r"divergence\[0, 0\] is -1.0 on.*: .* never negative"),
    "nan divergence": (call(divergence=with_value(math.nan) + 1), ValueError, r"divergence\[1, 2\] is nan"),
    "probabilities": (
        call(log_probs=with_value(0.6)),
        ValueError,
        r"log_probs\[1, 2\] is 0.6\d* on a valid token: log-probs are <= 0; take the .log\(\) of probabilities",
    ),
    "rollout probabilities": (
        lambda: rules.TokenBatch(X, X.exp(), ONES),
        ValueError,
        r"rollout_log_probs\[0, 0\] is 0.36\d* on a valid token: log-probs",
    ),
    "delta 0": (call(delta=0.0), ValueError, r"delta=0.0 is outside \(0, inf\]"),
    "delta < 0": (call(delta=-0.1), ValueError, r"delta=-0.1 is outside"),
    "delta nan": (call(delta=math.nan), ValueError, r"delta=nan is outside"),
    "delta text": (lambda: rules.get_method("cppo", delta="0.1"), TypeError, r"delta must be a number, got '0.1'"),
    "delta bool": (call(delta=True), TypeError, r"delta must be a number, got True"),
    "delta_b 0": (call(delta_b=0.0), ValueError, r"delta_b=0.0 is outside \(0, inf\]"),
    "w_min 0": (call(w_min=0.0), ValueError, r"w_min=0.0 is outside \(0, 1\]"),
    "w_min > 1": (call(w_min=1.5), ValueError, r"w_min=1.5 is outside \(0, 1\]"),
    "cap below floor": (call(cap_factor=0.5), ValueError, r"cap_factor=0.5 is outside \[1, inf\]"),
    "quantile": (call(quantile=1.5), ValueError, r"quantile=1.5 is outside \(0, 1\]"),
    "budget": (call(budget="dynamc"), ValueError, r"budget='dynamc' is unknown; did you mean 'dynamic'\?"),
    "budget without a neighbour": (call(budget="xyz"), ValueError, r"known: dynamic, fixed, off"),
    "schedule": (call(schedule="linaer"), ValueError, r"did you mean 'linear'\?"),
    "length": (call(length="pdded"), ValueError, r"length='pdded' is unknown; did you mean 'padded'"),
    "horizon too short": (call(length=2), ValueError, r"length=2 is shorter than a response of 3 tokens"),
    "packed lengths": (
        packed(lengths=torch.tensor([2, 2])),
        ValueError,
        r"log_probs is \(5,\) but lengths sum to 4 tokens",
    ),
    "packed without lengths": (
        packed(lengths=None),
        ValueError,
        r"log_probs must be \(B, T\), got \(5,\); packed 1-D input needs lengths",
    ),
    "lengths of padded input": (call(lengths=torch.tensor([3, 3])), ValueError, r"\(2, 3\) but lengths sum to 6"),
    "packed nan": (
        packed(log_probs=torch.tensor([-1.0, -1.0, -1.0, math.nan, -1.0])),
        ValueError,
        r"log_probs\[3\] is nan on a valid token",
    ),
    "negative length": (packed(lengths=torch.tensor([6, -1])), ValueError, r"counts >= 0, got \[6, -1\]"),
    "weights schedule": (
        lambda: rules.position_weights(VALID, 0.8, schedule="constnt"),
        ValueError,
        r"schedule='constnt' is unknown; did you mean 'constant'\?",
    ),
    "method": (lambda: rules.get_method("cpo"), ValueError, r"method 'cpo' is unknown; did you mean 'cppo'\?"),
    "hyper-parameter": (
        lambda: rules.get_method("cppo", delta_B=0.1),
        ValueError,
        r"cppo has no hyper-parameter 'delta_B'; did you mean 'delta_b'\?",
    ),
    "another method's": (
        lambda: rules.get_method("reinforce", delta=0.1),
        ValueError,
        r"reinforce has no hyper-parameter 'delta'",
    ),
    "method's value": (lambda: rules.get_method("ppo", clip_low=1.5), ValueError, r"clip_low=1.5 is outside \(0, 1\]"),
    "method's choice": (lambda: rules.get_method("cppo", gate="sfot"), ValueError, r"gate='sfot' is unknown"),
    "method's flag": (lambda: rules.get_method("drpo", mu_weighted=2), ValueError, r"mu_weighted=2 is unknown"),
    "method's length": (lambda: rules.get_method("cppo", length=0), ValueError, r"length=0 is outside \[1, inf\]"),
    "no cells": (
        lambda: rules.get_method("cppo-topk")(BATCH),
        ValueError,
        r"needs 'topk' log-probs and the batch carries 'none'.*binary",
    ),
    "other cells": (
        lambda: rules.get_method("dppo-topk")(rules.TokenBatch(X, X, ONES, top=FULL)),
        ValueError,
        r"needs 'topk' log-probs and the batch carries 'full'",
    ),
    "half cells": (
        lambda: rules.TokenBatch(X, X, ONES, top=replace(FULL, log_probs=CUBE.bfloat16())),
        TypeError,
        r"top.log_probs is torch.bfloat16.*\.float\(\)",
    ),
    "no cells to predict": (
        lambda: rules.get_method("dppo", direction="predicted")(BATCH),
        ValueError,
        r"direction='predicted' needs 'topk' or 'full' log-probs",
    ),
    "divergence name": (
        lambda: rules.token_divergence(BATCH, "binary_vt"),
        ValueError,
        r"divergence='binary_vt' is unknown; did you mean 'binary_tv'\?",
    ),
    "partition": (
        lambda: rules.divergence.partition(FULL, X, X, "last"),
        ValueError,
        r"topk_variant='last' is unknown; use 'union' \(paper\) or 'replace_last'",
    ),
    "group of one": (lambda: rules.group_advantages(ONES, 1), ValueError, r"group_size=1: a group of fewer than 2"),
    "groups": (lambda: rules.group_advantages(torch.ones(5), 2), ValueError, r"\(5,\) do not split into groups of 2"),
    "nan reward": (
        lambda: rules.group_advantages(torch.tensor([1.0, math.nan]), 2),
        ValueError,
        r"rewards hold NaN or infinity",
    ),
    "aggregation": (
        lambda: rules.aggregate(X, VALID, "tokn-mean"),
        ValueError,
        r"loss_agg_mode='tokn-mean' is unknown; did you mean 'token-mean'\?",
    ),
    "no horizon": (
        lambda: rules.policy_loss(X, X, ONES, VALID),
        ValueError,
        r"seq-mean-token-sum-norm needs a horizon > 0.*max_new_tokens.*None",
    ),
    "horizon 0": (lambda: rules.policy_loss(X, X, ONES, VALID, horizon=0), ValueError, r"got 0"),
    "loop aggregation": (lambda: reference.aggregate([[1.0]], "mean"), ValueError, r"unknown loss aggregation 'mean'"),
    "public name": (lambda: minicppo.cppo_msk, AttributeError, r"no attribute 'cppo_msk'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    function, error, message = BAD[name]
    with pytest.raises(error, match=message):
        function()


NO_TENSOR: dict[str, tuple[Callable[[], Any], str]] = {
    "lengths": (packed(lengths=[2, 3]), r"lengths must be a torch.Tensor, got list; pass torch.as_tensor\(lengths\)"),
    "named divergence": (
        call(divergence="topk_tv"),
        r"divergence must be a torch.Tensor, got 'topk_tv'; .*get_method\(\"cppo-topk\"\)",
    ),
    "arrays": (call(log_probs=X.numpy()), r"log_probs must be a torch.Tensor, got ndarray; pass torch.as_tensor"),
    "a list of rows": (
        call(advantages=[1.0, 1.0]),
        r"advantages must be a torch.Tensor, got list; pass torch.as_tensor\(advantages\)",
    ),
    "batch": (
        lambda: rules.TokenBatch(X, X.tolist(), ONES),  # type: ignore[arg-type]
        r"rollout_log_probs must be a torch.Tensor, got list",
    ),
    "packed batch": (
        lambda: rules.TokenBatch.from_packed([2], log_probs=X[0]),  # type: ignore[arg-type]
        r"lengths must be a torch.Tensor, got list",
    ),
}


@pytest.mark.parametrize("name", NO_TENSOR)
def test_what_is_no_tensor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user meets it, whose annotations nobody checks."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    function, message = NO_TENSOR[name]
    with pytest.raises(TypeError, match=message):
        function()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout_log_probs": CUBE[..., :1]}, r"top.rollout_log_probs is \(2, 3, 1\) where .* \(2, 3, 4\)"),
        ({"token_ids": FULL.token_ids[:1]}, r"top.token_ids is \(1, 3\) where .* \(2, 3\)"),
        ({"ids": FULL.token_ids}, r"top.ids is \(2, 3\) where .* \(2, 3, 4\)"),
        ({"log_probs": CUBE[0]}, r"top.log_probs is \(3, 4\) where .* \(2, 3, 4\)"),
    ],
)
def test_cells_do_not_broadcast(
    changes: dict[str, torch.Tensor], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user meets it, whose annotations nobody checks."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        rules.TokenBatch(X, X, ONES, top=replace(FULL, **changes))


def test_invalid_positions_may_hold_anything() -> None:
    valid = VALID.clone()
    valid[1, 2] = False
    for value in (math.nan, math.inf, -math.inf):
        out = rules.cppo_mask(with_value(value), with_value(value), with_value(value), valid)
        assert out.token_mask.sum() == 5


def test_good_edges_pass() -> None:
    out = call(delta=1, delta_b=math.inf, w_min=1, cap_factor=1, length=3)()
    assert out.token_mask.all()
    assert out.delta_b is None
    assert rules.get_method("cppo", length=12).params["length"] == 12
