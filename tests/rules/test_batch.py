"""Each wrong input raises before any work and says the value, the limit and the way out; degenerate batches work."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial as later
from typing import Any

import pytest
import torch

from minicppo import reference, rules
from minicppo.rl.config import load_config

X = torch.full((2, 3), -1.0)
ONES = torch.ones(2)
VALID = torch.ones(2, 3, dtype=torch.bool)


def with_value(value: float) -> torch.Tensor:
    bad = X.clone()
    bad[1, 2] = value
    return bad


def call(**changes: Any) -> Callable[[], Any]:
    """`cppo_mask` on a good batch with some arguments replaced."""
    return later(rules.cppo_mask, **GOOD | {"response_mask": VALID} | changes)


def packed(**changes: Any) -> Callable[[], Any]:
    flat = torch.full((5,), -1.0)
    inputs = {"log_probs": flat, "rollout_log_probs": flat, "advantages": ONES, "lengths": torch.tensor([2, 3])}
    return later(rules.cppo_mask, **inputs | changes)


def tokens(**changes: Any) -> Callable[[], Any]:
    return later(rules.TokenBatch, **GOOD | changes)


def top(**changes: Any) -> Callable[[], Any]:
    return lambda: rules.TokenBatch(**GOOD, top=replace(FULL, **changes))


def method(name: str, **params: Any) -> Callable[[], Any]:
    return later(rules.get_method, name, **params)


GOOD = {"log_probs": X, "rollout_log_probs": X, "advantages": ONES}
CUBE = torch.full((2, 3, 4), math.log(0.25))
FULL = rules.TopLogProbs(CUBE, CUBE, torch.zeros(2, 3, dtype=torch.long))
BATCH, WHOLE = rules.TokenBatch(**GOOD), rules.TokenBatch(**GOOD, top=FULL)

BAD_VALUES: list[tuple[Callable[[], Any], str]] = [  # NaN: TRL 6166, where a sampler could not score a token
    (call(log_probs=with_value(math.nan)), r"log_probs\[1, 2\] is nan on a valid token"),
    (call(rollout_log_probs=with_value(-math.inf)), r"rollout_log_probs\[1, 2\] is -inf"),
    (call(log_probs=torch.tensor([[math.inf, -math.inf, 0.0]] * 2)), r"log_probs\[0, 0\] is inf"),
    (tokens(old_log_probs=with_value(math.nan)), r"old_log_probs\[1, 2\] is nan"),
    (call(advantages=torch.tensor([1.0, math.nan])), r"advantages\[1, 0\] is nan"),
    (call(rollout_log_probs=X[:, :2]), r"rollout_log_probs is \(2, 2\).*\(2, 3\)"),
    (call(advantages=torch.ones(3)), r"advantages is \(3,\).*\(2, 3\)"),
    (call(response_mask=VALID[:1]), r"response_mask is \(1, 3\) but log_probs is \(2, 3\)"),
    (call(log_probs=X[0]), r"must be \(B, T\), got \(3,\).*lengths"),
    (call(divergence=X[:1]), r"divergence is \(1, 3\).*\(2, 3\)"),
    (call(divergence=X), r"divergence\[0, 0\] is -1.0 on.*: .* never negative"),
    (call(divergence=with_value(math.nan) + 1), r"divergence\[1, 2\] is nan"),
    (call(log_probs=with_value(0.6)), r"is 0.6\d* on a valid token: log-probs are <= 0; take the .log\(\) of probabil"),
    (tokens(rollout_log_probs=X.exp()), r"rollout_log_probs\[0, 0\] is 0.36\d* on a valid token: log-probs"),
    (call(delta=0.0), r"delta=0.0 is outside \(0, inf\]"),
    (call(delta=math.nan), r"delta=nan is outside"),
    (call(delta_b=0.0), r"delta_b=0.0 is outside \(0, inf\]"),
    (call(w_min=0.0), r"w_min=0.0 is outside \(0, 1\]"),
    (call(w_min=1.5), r"w_min=1.5 is outside \(0, 1\]"),
    (call(cap_factor=0.5), r"cap_factor=0.5 is outside \[1, inf\]"),
    (call(quantile=1.5), r"quantile=1.5 is outside \(0, 1\]"),
    (call(budget="dynamc"), r"budget='dynamc' is unknown; did you mean 'dynamic'\?"),
    (call(budget="xyz"), r"known: dynamic, fixed, off"),
    (call(schedule="linaer"), r"did you mean 'linear'\?"),
    (call(length="pdded"), r"length='pdded' is unknown; did you mean 'padded'"),
    (call(length=2), r"length=2 is shorter than a response of 3 tokens"),
    (packed(lengths=torch.tensor([2, 2])), r"log_probs is \(5,\) but lengths sum to 4 tokens"),
    (packed(lengths=None), r"log_probs must be \(B, T\), got \(5,\); packed 1-D input needs lengths"),
    (call(lengths=torch.tensor([3, 3])), r"\(2, 3\) but lengths sum to 6"),
    (packed(log_probs=torch.tensor([-1.0, -1.0, -1.0, math.nan, -1.0])), r"log_probs\[3\] is nan on a valid token"),
    (packed(lengths=torch.tensor([6, -1])), r"counts >= 0, got \[6, -1\]"),
    (later(rules.position_weights, VALID, 0.8, schedule="constnt"), r"schedule='constnt' is unknown; .* 'constant'"),
    (later(rules.position_weights, VALID, 0.8, length="pdded"), r"unknown; use 'own', 'padded' or a horizon"),
    (method("cpo"), r"method 'cpo' is unknown; did you mean 'cppo'\?"),
    (method("gspo", clip_ratio_c=3), r"has no hyper-parameter 'clip_ratio_c'.*clip_"),  # RLinf 316
    (later(load_config, "learn", ["method=grpo", "method.params.eps=3"]), "no hyper-parameter"),
    (method("cppo", delta_B=0.1), r"cppo has no hyper-parameter 'delta_B'; did you mean 'delta_b'\?"),
    (method("reinforce", delta=0.1), r"reinforce has no hyper-parameter 'delta'"),
    (method("cppo", correction="icepo"), r"'icepo' does not go with cppo; did you mean 'icepop'"),
    (method("cppo", correction="grpo"), r"correction='grpo' does not go with"),
    (method("icepop", correction="tis"), r"correction='tis' does not go with icepop"),
    (method("cppo", correction="icepop", lo=0.1), r"cppo has no hyper-parameter 'lo'"),
    (method("ppo", clip_low=1.5), r"clip_low=1.5 is outside \(0, 1\]"),
    (method("cppo", gate="sfot"), r"gate='sfot' is unknown"),
    (method("drpo", mu_weighted=2), r"mu_weighted=2 is unknown"),
    (method("cppo", length=0), r"length=0 is outside \[1, inf\]"),
    (later(rules.METHODS["cppo-topk"], BATCH), r"needs 'topk' log-probs and the batch carries 'none'.*binary"),
    (later(rules.METHODS["dppo-topk"], WHOLE), r"needs 'topk' log-probs and the batch carries 'full'"),
    (later(method("dppo", direction="predicted")(), BATCH), r"direction='predicted' needs 'topk' or 'full' log-probs"),
    (later(rules.token_divergence, BATCH, "binary_vt"), r"divergence='binary_vt' is unknown; .* 'binary_tv'\?"),
    (later(rules.divergence.partition, FULL, X, X, "last"), r"topk_variant='last' is unknown; .*paper.*replace_last"),
    (later(rules.group_advantages, ONES, 1), r"group_size=1: a group of fewer than 2"),
    (later(rules.group_advantages, torch.ones(5), 2), r"\(5,\) do not split into groups of 2"),
    (later(rules.group_advantages, torch.tensor([1.0, math.nan]), 2), r"rewards hold NaN or infinity"),
    (later(rules.aggregate, X, VALID, "tokn-mean"), r"loss_agg_mode='tokn-mean' is unknown; .* 'token-mean'\?"),
    (later(rules.policy_loss, X, X, ONES, VALID), r"seq-mean-token-sum-norm needs a horizon > 0.*max_new_tokens.*None"),
    (later(rules.policy_loss, X, X, ONES, VALID, horizon=0), r"got 0"),
    (later(reference.aggregate, [[1.0]], "mean"), r"unknown loss aggregation 'mean'"),
    (top(rollout_log_probs=CUBE[..., :1]), r"top.rollout_log_probs is \(2, 3, 1\) where .* \(2, 3, 4\)"),
    (top(token_ids=FULL.token_ids[:1]), r"top.token_ids is \(1, 3\) where .* \(2, 3\)"),
    (top(ids=FULL.token_ids), r"top.ids is \(2, 3\) where .* \(2, 3, 4\)"),
    (top(log_probs=CUBE[0]), r"top.log_probs is \(3, 4\) where .* \(2, 3, 4\)"),
]
BAD_TYPES: list[tuple[Callable[[], Any], str]] = [
    (call(log_probs=X.bfloat16()), r"log_probs is torch.bfloat16.*\.float\(\)"),
    (call(rollout_log_probs=X.half()), r"rollout_log_probs is torch.float16"),
    (call(advantages=torch.ones(2, dtype=torch.long)), r"advantages is torch.int64"),
    (method("cppo", delta="0.1"), r"delta must be a number, got '0.1'"),
    (call(delta=True), r"delta must be a number, got True"),
    (top(log_probs=CUBE.bfloat16()), r"top.log_probs is torch.bfloat16.*\.float\(\)"),
    (packed(lengths=[2, 3]), r"lengths must be a torch.Tensor, got list; pass torch.as_tensor\(lengths\)"),
    (call(divergence="topk_tv"), r"divergence must be a torch.Tensor, got 'topk_tv'; .*get_method\(\"cppo-topk\"\)"),
    (call(log_probs=X.numpy()), r"log_probs must be a torch.Tensor, got ndarray; pass torch.as_tensor"),
    (call(advantages=[1.0, 1.0]), r"advantages must be a torch.Tensor, got list; pass torch.as_tensor\(advantages\)"),
    (tokens(rollout_log_probs=X.tolist()), r"rollout_log_probs must be a torch.Tensor, got list"),
    (tokens(old_log_probs=[[-0.7, None]]), r"old_log_probs must be a torch.Tensor, got"),
    (later(rules.TokenBatch.from_packed, [2], advantages=X), r"lengths must be a torch.Tensor, got list"),
]


@pytest.mark.parametrize(
    ("function", "message", "error"),
    [(*bad, ValueError) for bad in BAD_VALUES] + [(*bad, TypeError) for bad in BAD_TYPES],
)
def test_bad_input(function, message, error, monkeypatch):
    """As a user meets it, whose annotations nobody checks."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(error, match=message):
        function()


def test_good_edges_pass():
    out = call(delta=1, delta_b=math.inf, w_min=1, cap_factor=1, length=3)()
    assert out.token_mask.all()
    assert out.delta_b is None


# --- degenerate batches, given divergences ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", rules.METHODS)
def test_batches_without_a_valid_token(name):
    method = rules.get_method(name)
    for shape in ((2, 3), (2, 0), (0, 3), (0, 0)):
        x, cube, ids = torch.zeros(shape), torch.zeros(*shape, 2), torch.zeros(*shape, 2, dtype=torch.long)
        top = rules.TopLogProbs(cube, cube, ids[..., 0], ids if method.needs == "topk" else None)
        batch = rules.TokenBatch(x, x, torch.zeros(shape[0]), x.bool(), top)
        out = method(batch)
        assert out.weight.shape == shape
        assert not out.token_mask.any()
        assert not out.weight.any()
        assert rules.diagnostics(batch, out)["mask/frac"] == 0
        assert rules.policy_loss(batch.log_probs, out.weight, batch.advantages, batch.mask, horizon=4) == 0


def test_the_mask_defaults_to_all():
    x = torch.full((1, 2), -1.0)
    assert rules.TokenBatch(x, x, torch.ones(1)).mask.all()
    lengths = torch.tensor([1, 1])
    packed = rules.TokenBatch.from_packed(lengths, log_probs=x[0], rollout_log_probs=x[0], advantages=torch.ones(2))
    assert packed.mask.all()
    assert packed.lengths.tolist() == [1, 1]
