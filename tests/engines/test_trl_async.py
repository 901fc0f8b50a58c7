"""TRL's asynchronous trainer, through its own packing and its own `compute_loss`; the model and the processes are stubs."""

import warnings
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from tests.engines.sequences import COMPARED, MISTAKES, PROMPTS, assert_gradients, leaf, reference, sequences

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    packing = pytest.importorskip("trl.experimental.async_grpo.packing", reason="TRL is not installed")
    from minicppo.engines.trl_async import AsyncCPPOTrainer

STEPS = 2  # of gradient accumulation
COUNTS = "_step_forward_tokens _step_trained_tokens _step_seq_len_weighted _step_samples _step_forward_s".split()


def trainer(method="cppo", **params):
    """One with what `compute_loss` reads, and no worker, server or processes."""
    made = object.__new__(AsyncCPPOTrainer)
    made.method = AsyncCPPOTrainer.__init__.__globals__["engine_method"](method, params)
    made.accelerator = SimpleNamespace(num_processes=1, reduce=lambda x, reduction: x, gather=lambda x: x)
    made._metrics, made.aux_loss_enabled = {"train": defaultdict(list)}, False
    made.epsilon_low = made.epsilon_high = 0.2
    made.current_gradient_accumulation_steps = STEPS
    vars(made).update(dict.fromkeys(COUNTS, 0.0))
    return made


def packed(samples):
    """TRL's row of these completions, the first two of one prompt; and a model whose log-probs are the samples'."""
    row = packing.TreeRow()
    for index, (sample, prompt) in enumerate(zip(samples, PROMPTS, strict=True)):
        own = torch.arange(len(sample.mask)) + 100 * (index + 1)
        own[: min(prompt, 2) if index < 2 else 0] = 7
        row.add(
            {
                "input_ids": own,
                "completion_mask": sample.mask.long(),
                "old_log_probs": sample.rollout_log_probs,
                "advantage": float(sample.advantages[0]),
                "group_id": index,
            }
        )
    inputs = {name: value[None] for name, value in row.pack().items()}
    width = inputs["input_ids"].shape[1]
    targets = torch.cat([sample.log_probs[1:][sample.mask[1:]] for sample in samples])
    log_probs = torch.zeros(width).index_copy(0, inputs["token_index"][0], targets)
    inputs["attention_mask"] = torch.ones(1, width)
    inputs["global_n_tokens"] = torch.tensor([float(len(targets))])
    inputs["global_n_forward_tokens"], inputs["mean_seq_len"] = torch.tensor([float(width)]), torch.tensor([1.0])
    calls = []

    def model(**kwargs):
        calls.append(kwargs)
        return SimpleNamespace(log_probs=log_probs[None], entropy=torch.zeros(1, width), aux_loss=torch.tensor(0.5))

    return inputs, model, calls


@pytest.mark.parametrize("name", COMPARED)
def test_loss_and_gradient_equal_the_reference(name):
    samples = leaf(sequences())
    wanted, gradients = reference(sequences(), name)
    inputs, model, calls = packed(samples)
    made = trainer(name)
    loss = made.compute_loss(model, inputs)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(wanted / STEPS, rel=1e-5)
    assert_gradients([sample.log_probs.grad * STEPS for sample in samples], gradients)
    metrics = made._metrics["train"]
    assert metrics["mask/frac"][0] > 0.02
    assert len(metrics["kl"]) == len(calls) == 1
    assert not any(key.startswith("clip_ratio") for key in metrics)
    assert made._step_trained_tokens == len(inputs["token_index"][0])


def test_the_routers_loss_is_added():
    inputs, model, _ = packed(leaf(sequences()))
    plain, routed = trainer(), trainer()
    routed.aux_loss_enabled, routed.router_aux_loss_coef = True, 0.1
    found = routed.compute_loss(model, inputs) - plain.compute_loss(model, inputs)
    assert float(found.detach()) == pytest.approx(0.1 * 0.5 / STEPS, rel=1e-4)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_layout_is_named(mistake):
    change, message = MISTAKES[mistake]
    inputs, model, _ = packed(leaf([change(sample) for sample in sequences()]))
    with pytest.raises(ValueError, match=message):
        trainer().compute_loss(model, inputs)
