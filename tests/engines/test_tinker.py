"""Tinker's custom losses, offline, through the code of its own `TrainingClient` that differentiates them."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from minicppo.engines.samples import Sample
from minicppo.engines.tinker import custom_loss
from minicppo.rules import LOSS_AGG_MODES, TokenBatch, TopLogProbs, get_method, policy_loss
from tests.engines.sequences import COMPARED, HORIZON, MISTAKES, assert_gradients, leaf, reference, sequences

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tinker = pytest.importorskip("tinker", reason="tinker is not installed: pip install tinker")
    from tinker.lib.public_interfaces.training_client import TrainingClient


def datum(sample: Sample, **columns: Tensor) -> "tinker.Datum":
    """A sequence as one's own loop would send it: targets are the input moved left by one, columns of the targets."""
    given = {"logprobs": sample.rollout_log_probs, "advantages": sample.advantages, "mask": sample.mask.float()}
    inputs = {name: value[1:].float() for name, value in given.items() if value is not None}
    inputs["target_tokens"] = torch.ones(len(sample.mask) - 1, dtype=torch.long)
    tokens = tinker.ModelInput.from_ints([1] * (len(sample.mask) - 1))
    return tinker.Datum(model_input=tokens, loss_fn_inputs=inputs | columns)


def backward(data: list["tinker.Datum"], log_probs: list[Tensor], loss) -> tuple[float, list[Tensor], dict[str, float]]:
    """Loss, minus the weights that Tinker sends back, and metrics: its server would return these log-probs."""
    outputs = [{"logprobs": tinker.TensorData.from_torch(column)} for column in log_probs]
    forward = tinker.ForwardBackwardOutput(loss_fn_output_type="", loss_fn_outputs=outputs, metrics={})
    result = TrainingClient._compute_custom_loss(data, loss, forward)
    sent = [-each.loss_fn_inputs["weights"].to_torch() for each in result.data]
    return result.loss_sum, sent, result.metrics


@pytest.mark.parametrize("mode", LOSS_AGG_MODES)
@pytest.mark.parametrize("name", COMPARED)
def test_loss_and_gradient_equal_the_reference(name, mode):
    samples = leaf(sequences())
    wanted, gradients = reference(sequences(), name, mode)
    columns = [sample.log_probs.detach()[1:] for sample in samples]
    loss = custom_loss(name, loss_agg_mode=mode, horizon=HORIZON)
    found, sent, metrics = backward([datum(sample) for sample in samples], columns, loss)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert_gradients(sent, [gradient[1:] for gradient in gradients])
    assert metrics["mask/frac"] > 0.02


def test_top_log_probs_come_as_further_columns():
    """ "target_tokens" and "logprobs" of (N, 1 + K): the sampled token and mu's likeliest."""
    generator = torch.Generator().manual_seed(0)
    (sample, *_), K, V = sequences(), 3, 6
    n = len(sample.mask) - 1
    mu, pi = (torch.randn(n, V, generator=generator).log_softmax(-1) for _ in range(2))
    ids, sampled = mu.topk(K).indices, torch.randint(V, (n, 1), generator=generator)
    targets = torch.cat([sampled, ids], 1)
    mask = sample.mask[1:]
    data = [datum(sample, target_tokens=targets, logprobs=mu.gather(1, targets) * mask[:, None])]
    found, (sent,), _ = backward(data, [pi.gather(1, targets)], custom_loss("cppo-topk", delta=0.1))
    log_probs = pi.gather(1, sampled).T.clone().requires_grad_()
    top = TopLogProbs(pi.gather(1, ids)[None], mu.gather(1, ids)[None], sampled.T, ids[None])
    batch = TokenBatch(log_probs, mu.gather(1, sampled).T, sample.advantages[1:].float()[None], mask[None], top)
    out = get_method("cppo-topk", delta=0.1)(batch)
    assert 0 < int(out.token_mask.sum()) < int(mask.sum())
    loss = policy_loss(log_probs, out.weight, batch.advantages, batch.mask, loss_agg_mode="token-mean")
    loss.backward()
    assert found == pytest.approx(float(loss.detach()), rel=1e-5)
    torch.testing.assert_close(sent[:, :1].T, log_probs.grad)
    assert not sent[:, 1:].any()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_layout_is_named(mistake):
    change, message = MISTAKES[mistake]
    samples = leaf([change(sample) for sample in sequences()])
    columns = [sample.log_probs.detach()[1:] for sample in samples]
    with pytest.raises(ValueError, match=message):
        backward([datum(sample) for sample in samples], columns, custom_loss())


def test_what_is_missing_is_named():
    samples = leaf(sequences())
    data = [datum(replace(sample, rollout_log_probs=None)) for sample in samples]
    with pytest.raises(ValueError, match="no logprobs in loss_fn_inputs"):
        backward(data, [sample.log_probs.detach()[1:] for sample in samples], custom_loss())
    with pytest.raises(ValueError, match="'mean' is unknown"):
        custom_loss(loss_agg_mode="mean")
    with pytest.raises(ValueError, match="whole distributions"):
        custom_loss("cppo-exact")
