"""The adapters of prime-rl, Tinker, SkyRL, NeMo-RL and TRL's asynchronous trainer against the reference's loops."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from minicppo.engines import skyrl, tinker
from minicppo.rules import TokenBatch, TopLogProbs, get_method, policy_loss
from tests.engines import drivers
from tests.engines.drivers import DRIVERS, NEMO_MODES, ONE_STEP, differentiated, micro_batch, totals
from tests.engines.sequences import COMPARED, HORIZON, MISTAKES, assert_gradients, leaf, reference, sequences

SLOW = {name: (pytest.mark.slow,) if name.startswith("trl") else () for name in DRIVERS}  # TRL's import
EACH = [pytest.param(name, marks=SLOW[name]) for name in DRIVERS]
PAIRS = [pytest.param(name, mode, marks=SLOW[name]) for name, (_, modes) in DRIVERS.items() for mode in modes]


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize(("driver", "mode"), PAIRS)
def test_loss_and_gradient_equal_the_reference(driver, mode, name):
    run, _ = DRIVERS[driver]
    samples = sequences()
    if driver.startswith(ONE_STEP):  # further from mu, so that a correction by pi / mu is active
        samples = [replace(sample, old_log_probs=sample.log_probs.detach()) for sample in sequences(drift=0.9)]
    wanted, gradients = reference(samples, name, mode)
    loss, found, metrics = run(leaf(samples), name, mode)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert_gradients(found, gradients)
    assert float(metrics["mask/frac"]) > 0.02


@pytest.mark.parametrize("driver", EACH)
def test_hyper_parameters_arrive(driver):
    params = {"delta": 0.05, "delta_b": 0.01}
    loss, *_ = DRIVERS[driver][0](leaf(sequences()), "cppo", "token-mean", **params)
    assert loss == pytest.approx(reference(sequences(), "cppo", **params)[0], rel=1e-5)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("driver", EACH)
def test_a_wrong_layout_is_named(driver, mistake):
    change, message = MISTAKES[mistake]
    samples = [change(sample) for sample in sequences()]
    if driver.startswith("skyrl") and mistake == "prompt in the mask":
        return  # its columns hold no prompts
    with pytest.raises(ValueError, match=message):
        DRIVERS[driver][0](leaf(samples), "cppo", "token-mean")


@pytest.mark.parametrize(
    ("driver", "name", "message"),
    [
        ("skyrl documented", "dro", "reads the size of advantages"),
        ("skyrl documented", "clip-cov", "reads the size"),
        ("prime-rl documented", "kl-cov", "one sample at a time"),
        ("nemo-rl documented", "clip-cov", "one sample at a time"),
        ("nemo-rl documented", "cppo-topk", "the likeliest tokens"),
    ],
)
def test_what_an_engine_cannot_serve_is_refused(driver, name, message):
    with pytest.raises(ValueError, match=message):
        DRIVERS[driver][0](leaf(sequences()), name, "token-mean")


@pytest.mark.parametrize("driver", ["prime-rl documented", "prime-rl own"])
def test_token_weights_of_prime_rl_multiply_the_losses(driver):
    samples = leaf(sequences())
    loss, *_ = DRIVERS[driver][0](samples, "dppo", weights=[torch.full((len(s.mask),), 0.5) for s in samples])
    assert loss == pytest.approx(reference(sequences(), "dppo")[0] / 2, rel=1e-5)


def test_top_log_probs_of_tinker_are_further_columns():
    """Of "target_tokens" and "logprobs", (N, 1 + K): the sampled token and mu's likeliest."""
    generator = torch.Generator().manual_seed(0)
    (sample, *_), K, V = sequences(), 3, 6
    mask, n = sample.mask[1:], len(sample.mask) - 1
    mu, pi = (torch.randn(n, V, generator=generator).log_softmax(-1) for _ in range(2))
    ids, sampled = mu.topk(K).indices, torch.randint(V, (n, 1), generator=generator)
    targets = torch.cat([sampled, ids], 1)
    columns = {"target_tokens": targets, "logprobs": mu.gather(1, targets) * mask[:, None]}
    data = [drivers.datum(replace(sample, old_log_probs=None), **columns)]
    loss = tinker.custom_loss("cppo-topk", delta=0.1)
    found, (sent,), _ = differentiated(data, [pi.gather(1, targets)], loss)
    log_probs = pi.gather(1, sampled).T.clone().requires_grad_()
    top = TopLogProbs(pi.gather(1, ids)[None], mu.gather(1, ids)[None], sampled.T, ids[None])
    batch = TokenBatch(log_probs, mu.gather(1, sampled).T, sample.advantages[1:].float()[None], mask[None], top)
    out = get_method("cppo-topk", delta=0.1)(batch)
    assert 0 < int(out.token_mask.sum()) < int(mask.sum())
    wanted = policy_loss(log_probs, out.weight, batch.advantages, batch.mask, loss_agg_mode="token-mean")
    wanted.backward()
    assert found == pytest.approx(float(wanted.detach()), rel=1e-5)
    torch.testing.assert_close(sent[:, :1].T, log_probs.grad)
    assert not sent[:, 1:].any()


def test_what_tinker_lacks_is_named():
    samples = leaf(sequences())
    data = [drivers.datum(replace(sample, rollout_log_probs=None)) for sample in samples]
    with pytest.raises(ValueError, match="no logprobs in loss_fn_inputs"):
        differentiated(data, [sample.log_probs.detach()[1:] for sample in samples], tinker.custom_loss())


@pytest.mark.parametrize("mode", NEMO_MODES)
@pytest.mark.parametrize("own", [False, True])
def test_micro_batches_of_nemo_rl_add_up(own, mode):
    """Halves sum to the whole, and so do NeMo-RL's packed sequences; a sample with `sample_mask` 0 is not there."""
    samples = leaf(sequences())
    log_probs, data = micro_batch([*samples, *leaf(sequences(1))[:1]])
    data["sample_mask"][-1] = 0
    with drivers.nemo_rl(own) as module:
        loss = module.MethodLoss("cppo", loss_agg_mode=mode, horizon=HORIZON)
        halves = [loss(log_probs[a:b], data.slice(a, b), **totals(data)) for a, b in ((0, 2), (2, 5))]
        wanted, gradients = reference(sequences(), "cppo", mode)
        sum(half for half, _ in halves).backward(retain_graph=True)
        assert_gradients([sample.log_probs.grad for sample in samples], gradients)
        _, metrics = loss(log_probs, data, **totals(data))
        for key, value in metrics.items():
            assert sum(half[key] for _, half in halves) == pytest.approx(value, abs=1e-6), key
        if own:
            wrapper = sys.modules[f"{drivers.NEMO}.wrapper"].SequencePackingLossWrapper
            packed = torch.nn.functional.pad(log_probs, (0, 1)).reshape(1, -1)
            ends = torch.arange(6) * (log_probs.shape[1] + 1)
            unpacked = wrapper(loss, lambda logits, data, **_: ({"next_token_logprobs": logits[:, :-1]}, data), ends)
            found, packed_metrics = unpacked(packed, data, **totals(data))
            assert float(found.detach()) == pytest.approx(wanted, rel=1e-5)
            assert packed_metrics["mask/frac"] == pytest.approx(metrics["mask/frac"])
        del data["generation_logprobs"], data["prev_logprobs"]
        with pytest.raises(ValueError, match="no log-probs of mu"):
            loss(log_probs, data, **totals(data))


@pytest.mark.slow
def test_the_routers_loss_of_trl_is_added():
    with_router, _, _ = drivers.trl_async_own(leaf(sequences()), "cppo", aux=0.1)
    without, _, metrics = drivers.trl_async_own(leaf(sequences()), "cppo")
    assert with_router - without == pytest.approx(0.1 * 0.5, rel=1e-4)
    assert "kl" in metrics  # TRL's own


def test_refusals_and_arguments_of_skyrl():
    samples = leaf(sequences())
    columns = [drivers.padded(samples, name) for name in ("log_probs", "old_log_probs", "advantages")]
    with pytest.raises(ValueError, match="no log-probs of mu"):
        skyrl.method_loss(*columns, config=None, method="cppo")
    corrected = SimpleNamespace(off_policy_correction=SimpleNamespace(tis_ratio_type="token"))
    with pytest.raises(ValueError, match="tis_ratio_type would not be applied"):
        skyrl.method_loss(*columns, config=corrected, method="cppo")
    arguments = ["trainer.seed=1", "trainer.algorithm.policy_loss_type=minicppo-cppo", 'minicppo.params={"delta": 0.1}']
    assert skyrl.split_arguments(arguments) == ({"params": {"delta": 0.1}}, arguments[:2], "cppo")
    with pytest.raises(ValueError, match="policy_loss_type=regular is not ours"):
        skyrl.split_arguments(["trainer.algorithm.policy_loss_type=regular"])
