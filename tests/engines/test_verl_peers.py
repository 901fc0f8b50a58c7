"""Our methods beside verl's own functions on the same numbers: gradients equal where verl has the rule."""

import math
import warnings
from types import SimpleNamespace

import pytest
import torch

from minicppo import rules
from tests.peers import ragged, tokens_of_gradient

with warnings.catch_warnings():  # of verl's own imports
    warnings.simplefilter("ignore")
    pytest.importorskip("verl", reason="verl is not installed: pip install -c constraints-verl.txt -e '.[verl]'")
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights, compute_rollout_rejection_mask


class Settings(SimpleNamespace):
    def get(self, name, default=None):
        return getattr(self, name, default)


def settings(low=0.2, high=0.28, c=3.0, **policy_loss):
    options = {"clip_ratio": low, "clip_ratio_low": low, "clip_ratio_high": high, "clip_ratio_c": c}
    return Settings(**options, policy_loss=Settings(**policy_loss), global_batch_info={})


@pytest.mark.parametrize(
    ("theirs", "config", "mode", "ours", "params"),
    [
        ("vanilla", settings(), "token-mean", "grpo-dual", {}),
        ("vanilla", settings(c=1e9), "token-mean", "grpo", {}),
        ("geo_mean", settings(0.4, 0.4), "seq-mean-token-mean", "gmpo", {}),
        ("dro", settings(dro_beta=0.05), "token-mean", "dro", {}),
        ("clip_cov", settings(high=0.2, clip_cov_ratio=1.0, clip_cov_lb=0.2, clip_cov_ub=5.0), "token-mean",
         "clip-cov", {"share": 1.0, "cov_low": 0.2}),
        ("kl_cov", settings(kl_cov_ratio=0.2, ppo_kl_coef=1.0), "token-mean", "kl-cov", {"share": 0.2}),
    ],
)  # fmt: skip
def test_a_policy_loss_of_verl(theirs, config, mode, ours, params):
    for scale in (0.05, 0.4):
        batch = ragged(scale)

        def loss(x, batch=batch):
            given = batch.rollout_log_probs, x, batch.advantages, batch.mask.float()
            return POLICY_LOSS_REGISTRY[theirs](*given, loss_agg_mode=mode, config=config)[0]

        method = rules.get_method(ours, **params)
        found, wanted = tokens_of_gradient(batch, method(batch), mode), torch.func.grad(loss)(batch.log_probs)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "weights", "rejects"),
    [
        ("tis", ("token", 2.0), None),
        ("icepop", ("token", "0.5_2.0"), None),
        ("seq-tis", ("sequence", 2.0), None),
        ("geo-mask", None, ("seq_mean_k1", (0.999, 1.001))),
        ("geo-mask-tis", ("token", 2.0), ("seq_mean_k1", (0.999, 1.001))),
        ("k3-mask", None, ("seq_mean_k3", 0.01)),
        ("seq-mask-tis", ("token", 2.0), ("seq_sum_k1", (0.5, 2.0))),
    ],
)
@pytest.mark.parametrize("scale", [0.002, 0.1, 0.6])
def test_a_rollout_correction_of_verl(name, weights, rejects, scale):
    """verl's k1 is -log w: what it holds within [low, high] is 1 / w, so the limits change places."""
    batch = ragged(scale)
    s, mask = batch.log_mismatch, batch.mask.float()
    wanted = mask
    if weights:
        kind, cap = weights
        wanted = wanted * compute_rollout_correction_weights(s, mask, rollout_is=kind, rollout_is_threshold=cap)[0]
    if rejects:
        option, limit = rejects
        spec = f"{1 / limit[1]}_{1 / limit[0]}" if isinstance(limit, tuple) else limit
        wanted = wanted * compute_rollout_rejection_mask(s, mask, option, spec)[0]
    found = rules.get_method("reinforce", correction=name)(batch).weight
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("statistic", ["token_k2", "token_k3", "seq_sum_k2", "seq_sum_k3", "seq_mean_k2", "seq_max_k3"])
def test_the_other_rejections_of_verl(statistic):
    batch, limit = ragged(0.3), 0.05 if "token" in statistic or "mean" in statistic else 0.3
    estimate = statistic[-2:]
    reject = {"token": "token", "seq_sum": "sum", "seq_mean": "mean", "seq_max": "any"}[statistic[:-3]]
    method = rules.get_method("reinforce", correction="k3-mask", reject=reject, estimate=estimate, high=limit)
    wanted, _ = compute_rollout_rejection_mask(batch.log_mismatch, batch.mask.float(), statistic, limit)
    assert torch.equal(method(batch).token_mask, wanted.bool())
    assert 0 < wanted.sum() < batch.mask.sum()
    assert math.isfinite(method(batch).weight.sum().item())
