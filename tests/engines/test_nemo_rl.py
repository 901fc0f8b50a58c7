"""NeMo-RL's loss function: through its own interface and packing wrapper where MINICPPO_ENGINES has a clone of `RL`,
else through the call that the interface documents. Its configuration and data classes are stubs.
"""

import enum
import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from minicppo.rules import LOSS_AGG_MODES
from tests.engines.sequences import (
    COMPARED,
    HORIZON,
    MISTAKES,
    assert_gradients,
    engine_files,
    leaf,
    padded,
    reference,
    sequences,
)

INTERFACES = "nemo_rl.algorithms.loss.interfaces"


class Data(dict):
    """What of NeMo-RL's `BatchedDataDict` a loss and the packing wrapper use."""

    def slice(self, start, end):
        return Data({key: value[start:end] for key, value in self.items()})


def documented():
    for end in range(1, 4):
        parent = ".".join(INTERFACES.split(".")[:end])
        sys.modules[parent] = ModuleType(parent)
    sys.modules[INTERFACES] = stub = ModuleType(INTERFACES)
    stub.LossInputType = enum.Enum("LossInputType", "LOGPROB")
    stub.LossType = enum.Enum("LossType", "TOKEN_LEVEL SEQUENCE_LEVEL")


def own_code():
    stubs = {"nemo_rl.distributed.batched_data_dict": "BatchedDataDict"}
    stubs["nemo_rl.algorithms.loss.loss_functions"] = "DraftCrossEntropyLossFn"
    for name, kind in stubs.items():
        sys.modules[name] = ModuleType(name)
        setattr(sys.modules[name], kind, dict)
    engine_files("RL", INTERFACES, "nemo_rl.algorithms.loss.wrapper")


@pytest.fixture(params=[documented, own_code], ids=["documented", "its own code"])
def engine(request):
    """The adapter's module, and whether NeMo-RL's packing wrapper is there."""
    try:
        request.param()
        sys.modules.pop("minicppo.engines.nemo_rl", None)
        yield importlib.import_module("minicppo.engines.nemo_rl"), request.param is own_code
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "nemo_rl"]:
            del sys.modules[name]
        sys.modules.pop("minicppo.engines.nemo_rl", None)


def micro_batch(samples):
    """pi's log-probs of the tokens after the first, (B, L-1), and the rest of the columns, (B, L)."""
    data = Data(
        token_mask=padded(samples, "mask").float(),
        advantages=padded(samples, "advantages"),
        generation_logprobs=padded(samples, "rollout_log_probs"),
        prev_logprobs=padded(samples, "rollout_log_probs"),  # pi_old is mu
        sample_mask=torch.ones(len(samples)),
    )
    data["input_ids"] = data["token_mask"].long()
    return padded(samples, "log_probs")[:, 1:], data


def totals(data):
    tokens = (data["token_mask"][:, 1:] * data["sample_mask"][:, None]).sum()
    return {"global_valid_seqs": data["sample_mask"].sum(), "global_valid_toks": tokens}


@pytest.mark.parametrize("mode", LOSS_AGG_MODES)
@pytest.mark.parametrize("name", COMPARED)
def test_loss_and_gradient_equal_the_reference(engine, name, mode):
    samples = leaf(sequences())
    wanted, gradients = reference(sequences(), name, mode)
    log_probs, data = micro_batch(samples)
    method_loss = engine[0].MethodLoss(name, loss_agg_mode=mode, horizon=HORIZON)
    loss, metrics = method_loss(next_token_logprobs=log_probs, data=data, **totals(data))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    assert_gradients([sample.log_probs.grad for sample in samples], gradients)
    assert metrics["mask/frac"] > 0.02
    assert metrics["token_mult_prob_error"] == pytest.approx(1)
    assert method_loss.loss_type.name == ("TOKEN_LEVEL" if mode == "token-mean" else "SEQUENCE_LEVEL")


@pytest.mark.parametrize("mode", LOSS_AGG_MODES)
def test_micro_batches_add_up_and_dropped_samples_leave(engine, mode):
    """Denominators and metrics are the step's: halves sum to the whole; a sample with `sample_mask` 0 is not there."""
    module, packs = engine
    samples = leaf(sequences())
    log_probs, data = micro_batch([*samples, *leaf(sequences(1))[:1]])
    data["sample_mask"][-1] = 0
    loss = module.MethodLoss("cppo", loss_agg_mode=mode, horizon=HORIZON)
    halves = [loss(log_probs[a:b], data.slice(a, b), **totals(data)) for a, b in ((0, 2), (2, 5))]
    wanted, gradients = reference(sequences(), "cppo", mode)
    sum(half for half, _ in halves).backward(retain_graph=True)
    assert_gradients([sample.log_probs.grad for sample in samples], gradients)
    whole = loss(log_probs, data, **totals(data))
    for key, value in whole[1].items():
        assert sum(metrics[key] for _, metrics in halves) == pytest.approx(value, abs=1e-6), key
    if packs:
        wrapper = sys.modules["nemo_rl.algorithms.loss.wrapper"].SequencePackingLossWrapper
        width = log_probs.shape[1] + 1
        ends = torch.arange(6) * width
        packed = torch.nn.functional.pad(log_probs, (0, 1)).reshape(1, -1)
        prepare = lambda logits, data, **_: ({"next_token_logprobs": logits[:, :-1]}, data)  # noqa: E731
        packed_loss, metrics = wrapper(loss, prepare, ends)(packed, data, **totals(data))
        assert float(packed_loss.detach()) == pytest.approx(wanted, rel=1e-5)
        assert metrics["mask/frac"] == pytest.approx(whole[1]["mask/frac"])


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_layout_is_named(engine, mistake):
    change, message = MISTAKES[mistake]
    log_probs, data = micro_batch(leaf([change(sample) for sample in sequences()]))
    with pytest.raises(ValueError, match=message):
        engine[0].MethodLoss()(log_probs, data, **totals(data))


def test_the_configuration_names_the_method(engine):
    """NeMo-RL's `loss_fn` section takes further keys; an engine without mu is told so."""
    section = SimpleNamespace(method="dppo", params={"delta": 0.1}, ratio_clip_min=0.2)
    made = engine[0].of_config(section, use_fused_linear_logprobs=False)
    assert (made.method.name, made.method.params["delta"]) == ("dppo", 0.1)
    log_probs, data = micro_batch(leaf(sequences()))
    del data["generation_logprobs"], data["prev_logprobs"]
    with pytest.raises(ValueError, match="no log-probs of mu"):
        made(log_probs, data, **totals(data))
    with pytest.raises(ValueError, match="'mean' is unknown"):
        engine[0].MethodLoss(loss_agg_mode="mean")
