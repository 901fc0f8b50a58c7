"""SkyRL's policy loss: through its own registry and its own division of the advantages where MINICPPO_ENGINES has a
clone (only its configuration and Ray are stubs there), else through the call and the division it documents.
"""

import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
import torch

from minicppo.engines import skyrl
from tests.engines.sequences import (
    COMPARED,
    HORIZON,
    MISTAKES,
    PROMPTS,
    assert_gradients,
    engine_files,
    leaf,
    padded,
    reference,
    sequences,
)

UTILS = "skyrl.backends.skyrl_train.utils"
STUBS = {"skyrl.train.config": "AlgorithmConfig", "ray": "remote", "loguru": "logger", "omegaconf": "DictConfig"}
REDUCTIONS = {
    "token_mean": "token-mean",
    "sequence_mean": "seq-mean-token-mean",
    "seq_mean_token_sum_norm": "seq-mean-token-sum-norm",
}


def documented(name, params):
    """The loss as SkyRL would call it, and its division of the advantages, (B, T) each."""

    def divide(advantages, mask, reduction, *_):
        rows, tokens = len(mask), mask.sum(1, keepdim=True)
        return advantages / {"token_mean": mask.sum(), "sequence_mean": rows * tokens}.get(reduction, rows * HORIZON)

    return partial(skyrl.method_loss, method=name, params=params), divide


def own_code(name, params):
    """The same from SkyRL's `PolicyLossRegistry` and `apply_loss_reduction_to_advantages_minibatch`."""
    for stub, what in STUBS.items():
        sys.modules[stub] = ModuleType(stub)
        setattr(sys.modules[stub], what, lambda kind: kind)
    sys.modules["ray"].is_initialized = lambda: False
    source = engine_files(
        "SkyRL", *(f"{UTILS}.{module}" for module in ("torch_utils", "off_policy_correction_utils", "ppo_utils"))
    )
    registered = skyrl.register(name, params)
    with pytest.raises(ValueError, match="already registered"):
        skyrl.register(name, params)
    return source.PolicyLossRegistry._functions[registered], source.apply_loss_reduction_to_advantages_minibatch


@pytest.fixture(params=[documented, own_code], ids=["documented", "its own code"])
def engine(request):
    before = {name: sys.modules.get(name) for name in STUBS}
    yield request.param
    for name in [name for name in sys.modules if name in STUBS or name.partition(".")[0] == "skyrl"]:
        del sys.modules[name]
    sys.modules.update({name: module for name, module in before.items() if module is not None})


def responses(change=lambda sample: sample):
    """(B, T) columns of the responses alone, as SkyRL's micro-batches hold them."""
    samples = leaf([change(sample) for sample in sequences()])
    cut = [type(s)(*(getattr(s, k)[p:] for k in ("log_probs", "rollout_log_probs", "mask", "advantages")))
           for s, p in zip(samples, PROMPTS, strict=True)]  # fmt: skip
    return samples, {name: padded(cut, name) for name in ("log_probs", "rollout_log_probs", "mask", "advantages")}


def call(loss, columns, advantages, config=None):
    return loss(
        columns["log_probs"],
        columns["rollout_log_probs"] + 0.01,  # pi_old, which these methods do not read
        advantages,
        config=config or SimpleNamespace(off_policy_correction=None),
        loss_mask=columns["mask"].float(),
        rollout_logprobs=columns["rollout_log_probs"],
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", [name for name in COMPARED if name != "icepop"])
def test_loss_and_gradient_equal_the_reference(engine, name, reduction):
    samples, columns = responses()
    wanted, gradients = reference(sequences(), name, REDUCTIONS[reduction])
    policy_loss, divide = engine(name, {})
    advantages = divide(columns["advantages"], columns["mask"].float(), reduction, 1, HORIZON)
    loss, metrics = call(policy_loss, columns, advantages)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    assert_gradients([sample.log_probs.grad for sample in samples], gradients)
    assert metrics["mask/frac"] > 0.02


@pytest.mark.parametrize("mistake", [name for name in MISTAKES if "prompt" not in name])
def test_a_wrong_layout_is_named(engine, mistake):
    change, message = MISTAKES[mistake]
    _, columns = responses(change)
    with pytest.raises(ValueError, match=message):
        call(engine("cppo", {})[0], columns, columns["advantages"])


def test_refusals():
    _, columns = responses()
    loss = partial(skyrl.method_loss, method="cppo")
    with pytest.raises(ValueError, match="no log-probs of mu"):
        loss(columns["log_probs"], None, columns["advantages"], SimpleNamespace(), columns["mask"])
    with pytest.raises(ValueError, match="tis_ratio_type would not be applied"):
        corrected = SimpleNamespace(off_policy_correction=SimpleNamespace(tis_ratio_type="token"))
        call(loss, columns, columns["advantages"], corrected)
    with pytest.raises(ValueError, match=r"advantages are \(4,\)"):
        call(loss, columns, torch.ones(4))


def test_arguments_are_split():
    arguments = ["trainer.seed=1", "trainer.algorithm.policy_loss_type=minicppo-cppo", "minicppo.params={delta: 0.1}"]
    ours, theirs, name = skyrl.split_arguments(arguments)
    assert (ours, theirs, name) == ({"params": {"delta": 0.1}}, arguments[:2], "cppo")
    with pytest.raises(ValueError, match="policy_loss_type=regular is not ours"):
        skyrl.split_arguments(["trainer.algorithm.policy_loss_type=regular"])
