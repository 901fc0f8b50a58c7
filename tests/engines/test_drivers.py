"""The adapters of prime-rl, Tinker, SkyRL, NeMo-RL and TRL's asynchronous trainer against the reference's loops."""

import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from minicppo.engines import skyrl, tinker
from minicppo.engines.samples import engine_method, require_layout, token_losses
from minicppo.rules import TokenBatch, TopLogProbs, get_method, policy_loss
from tests.engines import drivers
from tests.engines.drivers import DRIVERS, NEMO_MODES, ONE_STEP, differentiated, micro_batch, totals
from tests.engines.sequences import COMPARED, HORIZON, MISTAKES, assert_gradients, leaf, reference, sequences, shifted

SLOW = {name: (pytest.mark.slow,) if name.startswith("trl") else () for name in DRIVERS}  # TRL's import
EACH = [pytest.param(name, marks=SLOW[name]) for name in DRIVERS]
CASES = [  # every aggregation with one method, and every method with one aggregation
    pytest.param(driver, mode, name, marks=SLOW[driver])
    for driver, (_, modes) in DRIVERS.items()
    for mode in modes
    for name in (COMPARED if mode == modes[0] else COMPARED[:1])
]


@pytest.mark.parametrize(("driver", "mode", "name"), CASES)
def test_loss_and_gradient_equal_the_reference(driver, mode, name):
    run, _ = DRIVERS[driver]
    samples = sequences()
    if driver.startswith(ONE_STEP):  # further from mu, so that a correction by pi / mu is active
        samples = [replace(sample, old_log_probs=sample.log_probs.detach()) for sample in sequences(drift=0.9)]
    wanted, gradients, masked = reference(samples, name, mode)
    assert masked > 0.02, "the mask must be active"
    loss, found, metrics = run(leaf(samples), name, mode)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert_gradients(found, gradients)
    assert float(metrics["mask/frac"]) > 0.02


@pytest.mark.parametrize("driver", EACH)
def test_hyper_parameters_arrive_and_layouts_are_checked(driver):
    run, params = DRIVERS[driver][0], {"delta": 0.05, "delta_b": 0.01}
    loss, *_ = run(leaf(sequences()), "cppo", "token-mean", **params)
    assert loss == pytest.approx(reference(sequences(), "cppo", **params)[0], rel=1e-5)
    with pytest.raises(ValueError, match=r"one token off|exactly 0 under mu"):
        run(leaf([shifted(sample) for sample in sequences()]), "cppo", "token-mean")


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
        halves = [loss(log_probs[a:b], data.slice(a, b), **totals(data)) for a, b in ((0, 3), (3, 7))]
        wanted, gradients, _ = reference(sequences(), "cppo", mode)
        sum(half for half, _ in halves).backward(retain_graph=True)
        assert_gradients([sample.log_probs.grad for sample in samples], gradients)
        _, metrics = loss(log_probs, data, **totals(data))
        for key, value in metrics.items():
            assert sum(half[key] for _, half in halves) == pytest.approx(value, abs=1e-6), key
        if own:
            wrapper = sys.modules[f"{drivers.NEMO}.wrapper"].SequencePackingLossWrapper
            packed = torch.nn.functional.pad(log_probs, (0, 1)).reshape(1, -1)
            ends = torch.arange(8) * (log_probs.shape[1] + 1)
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


# --- what all adapters stand on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_prompt", [True, False])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_layout_is_named(mistake, with_prompt):
    change, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        token_losses(get_method("cppo"), [change(sample) for sample in sequences()], with_prompt=with_prompt)


@pytest.mark.parametrize("drift", [0.0, 0.02, 0.25, 3.0])
def test_a_shift_is_told_from_drift(drift):
    """Aligned columns pass however far the policy has drifted; the same columns shifted by one do not."""
    for seed in range(15):
        samples = sequences(seed, drift)
        require_layout(samples, with_prompt=True)
        if drift < 0.3:
            with pytest.raises(ValueError, match=r"one token off|exactly 0 under mu"):
                require_layout([shifted(sample) for sample in samples], with_prompt=True)


def test_a_certain_token_is_not_a_placeholder():
    first, *_ = sequences()
    mu, pi = first.rollout_log_probs.clone(), first.log_probs.detach().clone()
    mu[5], pi[5] = 0.0, -0.5
    require_layout([replace(first, rollout_log_probs=mu, log_probs=pi)], with_prompt=True)


@pytest.mark.parametrize("name", ["cppo", "trm-avg-k3"])
def test_a_sample_without_valid_tokens_weighs_nothing(name):
    first, second, *_ = sequences()
    empty = replace(second, mask=torch.zeros_like(second.mask))
    (alone,), _ = token_losses(get_method(name), [first], with_prompt=True)
    (loss, nothing), _ = token_losses(get_method(name), [first, empty], with_prompt=True)
    assert torch.equal(loss, alone)
    assert not nothing.detach().any()
    (nothing,), logged = token_losses(get_method(name), [empty], with_prompt=True)
    nothing.sum().backward()
    assert all(map(math.isfinite, logged.values()))


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("cppo-topk", {}, "the likeliest tokens of mu"),
        ("cppo-exact", {}, "whole distributions of mu"),
        ("cppo-verl", {}, "length=N"),
        ("cpo", {}, "unknown"),
        ("cppo", {"detla": 1}, "did you mean 'delta'"),
    ],
)
def test_methods_that_an_engine_cannot_serve(name, params, message):
    with pytest.raises(ValueError, match=message):
        engine_method(name, params)
    assert engine_method("cppo-topk", {"delta": 0.1}, top=True).params["delta"] == 0.1


@pytest.mark.parametrize(
    ("name", "params", "way_out"), [("icepop", {}, "grpo"), ("cppo", {"correction": "icepop"}, "cppo")]
)
def test_a_correction_without_pi_old_would_be_off_in_silence(name, params, way_out):
    samples = [replace(sample, old_log_probs=None) for sample in sequences()]
    with pytest.raises(ValueError, match=f"corrects pi_old.*or {way_out}"):
        token_losses(engine_method(name, params), samples, with_prompt=True)
