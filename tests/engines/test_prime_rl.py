"""prime-rl's loss: through its own `loss.py` where MINICPPO_ENGINES has a clone, else through the call it documents.

prime-rl is on no registry, so its configuration classes alone are stubs.
"""

import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
import torch

from minicppo.engines import prime_rl
from tests.engines.sequences import (
    COMPARED,
    MISTAKES,
    assert_gradients,
    engine_files,
    leaf,
    reference,
    sequences,
)


def documented_sum(samples, rl_loss_fn, weights):
    """What prime-rl does with a custom loss: one call a sample, added up and divided by the count of tokens."""
    stub = ModuleType("prime_rl.trainer.rl.loss")
    stub.LossOutputs = SimpleNamespace
    total = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, stub.__name__, stub)
        for sample, weight in zip(samples, weights or [None] * len(samples), strict=True):
            inputs = SimpleNamespace(
                trainer_logprobs=sample.log_probs,
                inference_logprobs=sample.rollout_log_probs,
                advantages=sample.advantages,
                loss_mask=sample.mask,
                loss_weights=weight,
            )
            out = rl_loss_fn(inputs)
            assert all(value.ndim == 0 for value in out.metrics.values())
            total = total + out.loss
    return total / sum(int(sample.mask.sum()) for sample in samples)


def own_compute_loss(samples, rl_loss_fn, weights):
    """prime-rl's own `compute_loss` around the loss that its own `setup_rl_loss_fn` imports."""
    for name in ("prime_rl.configs.trainer", "prime_rl.utils.utils"):
        stub = ModuleType(name)
        stub.import_object = lambda path: {"minicppo.engines.prime_rl.loss": prime_rl.loss}[path]
        for config in ("CustomLossConfig", "DefaultLossConfig", "IPOLossConfig", "LossConfig"):
            setattr(stub, config, type(config, (SimpleNamespace,), {}))
        sys.modules[name] = stub
    source = engine_files("prime-rl/src", "prime_rl.trainer.rl.loss")
    config = sys.modules["prime_rl.configs.trainer"].CustomLossConfig
    made = config(import_path="minicppo.engines.prime_rl.loss", kwargs=rl_loss_fn.keywords)
    columns = [[getattr(s, name) for s in samples] for name in ("log_probs", "rollout_log_probs", "advantages", "mask")]
    count = sum(int(sample.mask.sum()) for sample in samples)
    pi, mu, advantages, masks = columns
    loss, metrics = source.compute_loss(
        pi, mu, None, advantages, masks, weights, None, None, source.setup_rl_loss_fn(made), count, 1, 1
    )
    assert metrics["mask/frac"].shape == (len(samples),)
    return loss


@pytest.fixture(params=[documented_sum, own_compute_loss], ids=["documented", "its own code"])
def compute(request):
    yield request.param
    for name in [name for name in sys.modules if name.partition(".")[0] == "prime_rl"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", COMPARED)
def test_loss_and_gradient_equal_the_reference(compute, name):
    samples = leaf(sequences())
    wanted, gradients = reference(sequences(), name)
    loss = compute(samples, partial(prime_rl.loss, method=name), None)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    assert_gradients([sample.log_probs.grad for sample in samples], gradients)


def test_hyper_parameters_arrive(compute):
    params = {"delta": 0.05, "delta_b": 0.01}
    loss = compute(leaf(sequences()), partial(prime_rl.loss, method="cppo", params=params), None)
    assert float(loss.detach()) == pytest.approx(reference(sequences(), "cppo", **params)[0], rel=1e-5)


def test_token_weights_multiply_the_losses(compute):
    samples = leaf(sequences())
    weights = [torch.full((len(sample.mask),), 0.5) for sample in samples]
    loss = compute(samples, partial(prime_rl.loss, method="dppo"), weights)
    assert float(loss.detach()) == pytest.approx(reference(sequences(), "dppo")[0] / 2, rel=1e-5)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_layout_is_named(compute, mistake):
    change, message = MISTAKES[mistake]
    samples = leaf([change(sample) for sample in sequences()])
    with pytest.raises(ValueError, match=message):
        compute(samples, partial(prime_rl.loss, method="cppo"), None)
