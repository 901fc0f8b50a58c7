"""The loop: determinism, staleness, micro-batches, dropped groups, what is logged, and what stops it."""

import copy
import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from minicppo.rl import trainer
from minicppo.rl.checkpoint import TrainState
from minicppo.rl.config import ConfigError, RunConfig
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.rollout import Rollout
from minicppo.rl.run_dir import RunDir
from minicppo.rl.tasks import is_held_out
from minicppo.rl.tasks.chain import ChainTask
from minicppo.rl.trainer import learn, minibatches, roll_out, starting_policy, train, trained_policy
from minicppo.rl.update import update
from minicppo.rules import METHODS, get_method


class Begun:
    """What the loop works on."""

    def __init__(self, config: RunConfig):
        self.config, self.task, self.method = config, config.make_task(), config.make_method()
        self.state = TrainState.begin(config, starting_policy(config))

    def roll_out(self, purpose: str = "rollout") -> Rollout:
        sampler, iteration = self.state.sampling_policy(), self.state.iteration
        return roll_out(sampler, self.task, self.config, iteration, self.method.needs, purpose)

    def minibatches(self, rollout: Rollout) -> list[Rollout]:
        return list(minibatches(rollout, self.config, self.state.iteration))

    def update(self, minibatch: Rollout) -> dict[str, Any]:
        return update(self.state, self.method, minibatch, self.config)

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.state.policy.model.named_parameters()}


@pytest.fixture(scope="module")
def finished(small_config, tmp_path_factory):
    """The small run, and the events that it reported."""
    folder, events = tmp_path_factory.mktemp("finished") / "run", []
    assert train(small_config(), folder, events.append) == folder
    return folder, events


def test_a_run_leaves_what_it_promises(small_config, finished):
    run_folder, events = finished
    run = RunDir.open(run_folder)
    rows = run.rows()
    assert run.config() == small_config()
    assert [row["iteration"] for row in run.rows(kind="eval")] == [0, 4]
    assert [row["iteration"] for row in run.rows(kind="rollout")] == [0, 1, 2, 3]
    assert [row["update"] for row in run.rows(kind="update")] == list(range(1, len(run.rows(kind="update")) + 1))
    assert {row["kind"] for row in rows} == {"eval", "rollout", "update", "certificate"}
    assert [e for e in events if e["kind"] not in ("warmup", "start", "iteration")] == rows
    assert len(run.rows("timings.jsonl")) == 4
    update, rollout, evaluation = (run.rows(kind=kind)[-1] for kind in ("update", "rollout", "eval"))
    assert {"loss", "grad_norm", "lr", "entropy", "drift", "mask/frac", "mask/prefix_only", "div/p90"} <= set(update)
    assert {"budget/delta_b", "prefix/ratio_mean", "ratio/max", "kl/k3", "weight/mean", "div/decile_9"} <= set(update)
    assert {"reward", "format_rate", "length", "dropped_groups", "mismatch"} <= set(rollout)
    assert {"accuracy", "accuracy_se", "greedy_accuracy", "format_rate", "length"} <= set(evaluation)
    assert all(row["mismatch"] < 1e-5 for row in run.rows(kind="rollout"))
    assert "certificate/gain" in run.rows(kind="certificate")[-1]
    summary = json.loads((run_folder / "summary.json").read_text())
    assert summary["last"] == evaluation
    assert summary["masked_share"] > 0
    assert trained_policy(run_folder).encode("1+1=") == [3, 9, 3, 12]


def test_the_trace_is_one_update_token_by_token(finished):
    run_folder, _ = finished
    trace, texts = load_file(run_folder / "trace.safetensors"), json.loads((run_folder / "trace.json").read_text())
    shape = trace["response_ids"].shape
    for name in ("response_mask", "log_probs", "rollout_log_probs", "divergence", "threshold", "reason", "weight"):
        assert trace[name].shape == shape, name
    assert len(texts["tokens"]) == len(texts["prompts"]) == len(trace["advantages"]) == shape[0]
    assert [len(tokens) for tokens in texts["tokens"]] == trace["response_mask"].sum(1).tolist()


def test_first_update_of_a_rollout_is_on_policy(finished):
    rows = RunDir.open(finished[0]).rows()
    for before, row in zip(rows, rows[1:], strict=False):
        if before["kind"] == "rollout":
            assert row["drift"] < 1e-5
            assert row["mask/frac"] == 0
            assert row["ratio/max"] == pytest.approx(1, abs=1e-4)
    assert max(row["drift"] for row in rows if row["kind"] == "update") > 1e-3


def test_groups_without_variance_are_dropped_and_counted(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(ChainTask, "score", lambda self, problem, response: 1.0)
    run = RunDir(train(small_config(train={"iterations": 1}), tmp_path))
    assert [row["dropped_groups"] for row in run.rows(kind="rollout")] == [8]
    assert run.rows(kind="update") == []
    assert json.loads((tmp_path / "summary.json").read_text())["masked_share"] is None


def test_the_learning_rate_warms_up_and_another_temperature_anchors(small_config):
    begun = Begun(small_config(train={"lr": 3e-3, "lr_warmup": 3}, rollout={"temperature": 0.7}))
    rollout = begun.roll_out()
    assert trainer.rollout_row(begun.state, rollout, begun.config)["mismatch"] < 1e-5
    rates = [begun.update(minibatch)["lr"] for minibatch in begun.minibatches(rollout)]
    assert rates == pytest.approx([1e-3, 2e-3, 3e-3, 3e-3])


def test_what_cannot_start_says_what_to_do_and_leaves_nothing(small_config, tmp_path, monkeypatch):
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="of 500 different test problems"):
        train(small_config(eval={"problems": 500}), tmp_path / "run")
    out_of_reach = small_config(warmup={"target": 1.0, "check_every": 2, "max_steps": 4})
    with pytest.raises(RuntimeError, match=r"in 4 steps, below warmup\.target = 1\.0: raise warmup\.max_steps"):
        train(out_of_reach, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("staleness", [pytest.param(0, marks=pytest.mark.slow), 6])  # 0, 4 and 8 updates are made then
def test_rollouts_come_from_the_weights_of_k_updates_ago(small_config, monkeypatch, staleness):
    begun, rows, checked = Begun(small_config(train={"staleness": staleness, "iterations": 3})), [], []
    state, history = begun.state, [begun.weights()]

    def update_too(*args):
        row = update(*args)
        history.append(begun.weights())
        return row

    def roll_out_checked(*args):
        rollout = roll_out(*args)
        again = copy.deepcopy(state.policy)
        again.model.load_state_dict(history[max(0, state.update - staleness)], strict=False)
        with torch.no_grad():
            drifts = [response_log_probs(p, rollout, 1.0).log_probs - rollout.log_probs for p in (again, state.policy)]
        then, now = (float(drift[rollout.response_mask].abs().max()) for drift in drifts)
        checked.append(then)
        assert staleness == 0 or state.update == 0 or now > 1e-3
        return rollout

    monkeypatch.setattr(trainer, "update", update_too)
    monkeypatch.setattr(trainer, "roll_out", roll_out_checked)
    learn(begun.config, begun.task, begun.method, state, rows.append)
    assert state.update == len(history) - 1 > 4
    assert max(checked) < 1e-4
    assert len(state.history) == (min(staleness, state.update) + 1 if staleness else 0)
    assert all(row["mismatch"] < 1e-4 for row in rows if row["kind"] == "rollout")  # apart from the drift


@pytest.mark.parametrize(
    ("method", "mode"),
    [
        ("cppo-exact", "seq-mean-token-sum-norm"),
        ("cppo-topk", "token-mean"),
        pytest.param("grpo", "seq-mean-token-mean", marks=pytest.mark.slow),
        pytest.param("gspo", "seq-mean-token-sum", marks=pytest.mark.slow),
    ],
)
def test_micro_batches_change_nothing(small_config, method, mode):
    results = []
    for micro_batch in (None, 3):
        settings = {"micro_batch": micro_batch, "loss_agg_mode": mode, "epochs": 1}
        begun = Begun(small_config(method={"name": method}, train=settings))
        rows = [begun.update(minibatch) for minibatch in begun.minibatches(begun.roll_out())]
        results.append((begun.weights(), rows[-1]))
    (whole, row), (parts, parts_row) = results
    torch.testing.assert_close(whole, parts, atol=2e-5, rtol=1e-4)
    assert row.keys() == parts_row.keys()
    assert (row["loss"], row["mask/frac"]) == pytest.approx((parts_row["loss"], parts_row["mask/frac"]), abs=1e-5)


def test_minibatches_hold_each_kept_group_once_an_epoch(small_config):
    begun, kept = Begun(small_config()), [0, 2, 3, 5, 7]
    advantages = torch.zeros(8, 4)
    advantages[kept] = torch.tensor(kept)[:, None] + 1.0
    pieces = begun.minibatches(replace(begun.roll_out(), advantages=advantages.flatten()))
    groups = [piece.advantages.view(-1, 4) - 1 for piece in pieces]
    assert [len(piece) for piece in groups] == [3, 2, 3, 2]  # size 4 where nothing is dropped
    assert all(bool((piece == piece[:, :1]).all()) for piece in groups)
    epochs = [torch.cat(groups[i : i + 2])[:, 0].tolist() for i in (0, 2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == kept
    assert epochs[0] != epochs[1]


def test_a_rollout_may_have_a_precision_of_its_own(small_config):
    found = {}
    for precision in ("float32", "bfloat16"):
        begun = Begun(small_config(rollout={"autocast": precision}, train={"autocast": "off"}))
        found[precision] = trainer.rollout_row(begun.state, begun.roll_out(), begun.config)["mismatch"]
    assert found["float32"] < 1e-4 < found["bfloat16"]


def test_gradients_are_clipped(small_config):
    begun, seen = Begun(small_config(train={"grad_clip": 1e-3})), []

    def before_the_step(optimizer, *_):
        (group,) = optimizer.param_groups
        seen.append(float(torch.stack([p.grad.norm() for p in group["params"]]).norm()))

    begun.state.optimizer.register_step_pre_hook(before_the_step)
    row = begun.update(begun.minibatches(begun.roll_out())[0])
    assert row["grad_norm"] > 1e-3
    assert seen == pytest.approx([1e-3], rel=1e-3)
    assert all(p.grad is None for p in begun.state.policy.model.parameters()), "the sampler needs their memory"


def test_training_and_certificate_have_problems_of_their_own_and_none_held_out(small_config):
    begun = Begun(small_config())
    unseen, rollout = begun.roll_out("certificate"), begun.roll_out()
    assert not {problem.prompt for problem in unseen.problems} >= {problem.prompt for problem in rollout.problems}
    assert torch.equal(begun.roll_out("certificate").log_probs, unseen.log_probs)  # the same policy, the same stream
    for begun.state.iteration in range(5):
        assert not any(is_held_out(problem, 0.1) for problem in begun.roll_out().problems)


def test_what_is_not_finite_stops_the_run(small_config):
    begun = Begun(small_config())
    minibatch = begun.minibatches(begun.roll_out())[0]
    broken = minibatch.log_probs.clone()
    broken[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"rollout_log_probs\[0, 0\] is nan on a valid token"):
        begun.update(replace(minibatch, log_probs=broken))
    with torch.no_grad():
        next(begun.state.policy.model.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"iteration 0, update 0: a log-prob is not finite; lower train\.lr"):
        begun.update(minibatch)


def test_padded_length_is_the_longest_response_allowed(small_config):
    config = small_config(method={"name": "cppo-verl"})
    assert config.make_method().params["length"] == config.max_new_tokens(config.make_task()) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_logs_what_it_should(name, small_config, tmp_path):
    settings = {"iterations": 1, "minibatches": 2, "epochs": 3, "lr": 1e-3}
    config = small_config(
        method={"name": name},
        train=settings,
        rollout={"prompts": 16, "group_size": 8, "top_log_probs": 4},
        eval={"every": 2, "problems": 4, "samples": 2},
    )
    run = RunDir.open(train(config, tmp_path))
    rows = [row for row in run.rows() if row["kind"] == "update"]
    assert len(rows) >= 6
    method = get_method(name)
    wanted = {"loss", "grad_norm", "mask/frac", "ratio/mean", "kl/k3", "weight/mean", "weight/raw_mean"}
    if "divergence" in method.params:
        wanted |= {"div/mean", "div/p90", "div/p99", "div/max", "div/decile_0"}
    if method.family == "cppo":
        wanted |= {"prefix/ratio_mean", "budget/seq_bound", "budget/negative"}
        wanted |= {"budget/at_floor", "budget/at_cap"} if method.params["budget"] == "dynamic" else set()
    wanted |= {"accept/rate"} if method.level == "sequence" else set()
    wanted |= {"minpro/rho_min"} if name == "minpro" else set()
    for row in rows:
        assert wanted <= row.keys()
        assert all(math.isfinite(row[key]) for key in wanted)
        assert row["mask/token_only"] + row["mask/prefix_only"] + row["mask/both"] <= 1 + 1e-9
    assert rows[0]["ratio/mean"] == pytest.approx(1, abs=1e-4)
    assert max(row["grad_norm"] for row in rows) > 0
    assert rows[-1]["kl/k3"] > 0


def test_pi_old_parts_mismatch_from_drift(small_config):
    """Recorded once, before the first update (SkyRL 1315 took the policy's own of each update, so that nothing was ever
    clipped): drift starts from 0 and grows, the mismatch of stale weights stays."""
    settings = {"old_log_probs": "recompute", "staleness": 2, "epochs": 3, "iterations": 2}
    begun = Begun(small_config(train=settings, method={"name": "cppo"}))
    rows: list[dict[str, Any]] = []
    learn(begun.config, begun.task, begun.method, begun.state, lambda row: rows.append(dict(row)))
    updates = [row for row in rows if row["kind"] == "update" and row["iteration"] == 1]
    assert updates[0]["drift"] < 1e-5 < updates[-1]["drift"]
    assert updates[0]["drift/max"] < 1e-4
    assert all(row["mismatch/mean"] > 1e-3 for row in updates)
    assert updates[0]["div/mean"] > 0  # cppo bounds pi against mu, mismatch included


def test_a_method_over_the_batch_takes_no_micro_batches(small_config):
    with pytest.raises(ConfigError, match="micro_batch: clip-cov decides over a whole minibatch, so set it to null"):
        small_config(method={"name": "clip-cov"}, train={"micro_batch": 2})
