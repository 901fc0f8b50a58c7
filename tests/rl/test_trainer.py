"""The loop: determinism, staleness, micro-batches, dropped groups, what is logged, and what stops it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from minicppo.rl.config import RunConfig
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.run_dir import RunDir
from minicppo.rl.tasks import is_held_out
from minicppo.rl.tasks.chain import ChainTask
from minicppo.rl.trainer import Batch, Trainer, starting_policy, train, trained_policy
from minicppo.rl.update import Minibatch

MakeConfig = Callable[..., RunConfig]


def trainer_of(config: RunConfig, folder: Path) -> Trainer:
    return Trainer(RunDir.create(folder, config), starting_policy(config))


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.state.policy.model.named_parameters()}


@pytest.fixture(scope="module")
def finished(small_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The small run, and the events that it reported."""
    folder, events = tmp_path_factory.mktemp("finished") / "run", []
    assert train(small_config(), folder, events.append) == folder
    return folder, events


def test_a_run_leaves_what_it_promises(small_config: MakeConfig, finished: tuple[Path, list[Any]]) -> None:
    run_folder, events = finished
    run = RunDir.open(run_folder)
    rows = run.rows()
    assert run.config() == small_config()
    assert [row["iteration"] for row in run.rows(kind="eval")] == [0, 4]
    assert [row["iteration"] for row in run.rows(kind="rollout")] == [0, 1, 2, 3]
    assert [row["update"] for row in run.rows(kind="update")] == list(range(1, len(run.rows(kind="update")) + 1))
    assert {row["kind"] for row in rows} == {"eval", "rollout", "update", "certificate"}
    assert [e for e in events if e["kind"] not in ("warmup", "iteration")] == rows
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


def test_the_trace_is_one_update_token_by_token(finished: tuple[Path, list[Any]]) -> None:
    run_folder, _ = finished
    trace, texts = load_file(run_folder / "trace.safetensors"), json.loads((run_folder / "trace.json").read_text())
    shape = trace["response_ids"].shape
    for name in ("response_mask", "log_probs", "rollout_log_probs", "divergence", "threshold", "reason", "weight"):
        assert trace[name].shape == shape, name
    assert len(texts["tokens"]) == len(texts["prompts"]) == len(trace["advantages"]) == shape[0]
    assert [len(tokens) for tokens in texts["tokens"]] == trace["response_mask"].sum(1).tolist()


def test_same_seed_same_run_and_another_seed_another(small_config: MakeConfig, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(small_config(seed=seed, train={"iterations": 2}), tmp_path / name)
    a, b, c = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("staleness", [0, 3, 50])
def test_rollouts_come_from_the_weights_of_k_updates_ago(
    small_config: MakeConfig, run_folder: Path, monkeypatch: pytest.MonkeyPatch, staleness: int
) -> None:
    config = small_config(train={"staleness": staleness})
    trainer = trainer_of(config, run_folder)
    history, checked = [weights(trainer)], []
    remember, roll_out = trainer.remember, trainer.roll_out

    def remember_too() -> None:
        remember()
        history.append(weights(trainer))

    def roll_out_checked() -> Batch:
        batch = roll_out()
        behind = history[max(0, trainer.state.update - staleness)]
        again = copy.deepcopy(trainer.state.policy)
        again.model.load_state_dict(behind, strict=False)
        drift = (response_log_probs(again, batch.rollout, 1.0).log_probs - batch.rollout.log_probs)[batch.rollout.response_mask]
        checked.append(float(drift.detach().abs().max()))
        now = response_log_probs(trainer.state.policy, batch.rollout, 1.0).log_probs.detach() - batch.rollout.log_probs
        assert staleness == 0 or trainer.state.update == 0 or float(now[batch.rollout.response_mask].abs().max()) > 1e-3
        return batch

    monkeypatch.setattr(trainer, "remember", remember_too)
    monkeypatch.setattr(trainer, "roll_out", roll_out_checked)
    trainer.run_to_end()
    assert trainer.state.update == len(history) - 1 > 4
    assert max(checked) < 1e-4
    assert len(trainer.state.history) == (min(staleness, trainer.state.update) + 1 if staleness else 0)
    assert all(row["mismatch"] < 1e-4 for row in trainer.run.rows(kind="rollout"))  # apart from the drift


@pytest.mark.parametrize(
    ("method", "mode"),
    [
        ("cppo-exact", "seq-mean-token-sum-norm"),
        ("cppo-topk", "token-mean"),
        ("grpo", "seq-mean-token-mean"),
        ("gspo", "seq-mean-token-sum"),
    ],
)
def test_micro_batches_change_nothing(small_config: MakeConfig, tmp_path: Path, method: str, mode: str) -> None:
    results = []
    for micro_batch in (None, 3):
        settings = {"micro_batch": micro_batch, "loss_agg_mode": mode, "iterations": 2}
        config = small_config(method={"name": method}, train=settings)
        trainer = trainer_of(config, tmp_path / f"{micro_batch}")
        batch = trainer.roll_out()
        rows = [trainer.updater(minibatch) for minibatch in trainer.minibatches(batch)]
        results.append((weights(trainer), rows[-1]))
    (whole, whole_row), (parts, parts_row) = results
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], atol=2e-5, rtol=1e-4)
    assert whole_row.keys() == parts_row.keys()
    assert whole_row["loss"] == pytest.approx(parts_row["loss"], abs=1e-5)
    assert whole_row["mask/frac"] == pytest.approx(parts_row["mask/frac"], abs=1e-6)


def test_first_update_of_a_rollout_is_on_policy(finished: tuple[Path, list[Any]]) -> None:
    rows = RunDir.open(finished[0]).rows()
    for before, row in zip(rows, rows[1:], strict=False):
        if before["kind"] == "rollout":
            assert row["drift"] < 1e-5
            assert row["mask/frac"] == 0
            assert row["ratio/max"] == pytest.approx(1, abs=1e-4)
    assert max(row["drift"] for row in rows if row["kind"] == "update") > 1e-3


def test_groups_without_variance_are_dropped_and_counted(
    small_config: MakeConfig, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChainTask, "score", lambda self, problem, response: 1.0)
    train(small_config(), run_folder)
    run = RunDir.open(run_folder)
    assert [row["dropped_groups"] for row in run.rows(kind="rollout")] == [8] * 4
    assert run.rows(kind="update") == []
    assert json.loads((run_folder / "summary.json").read_text())["masked_share"] is None


def test_minibatches_hold_each_kept_group_once_an_epoch(small_config: MakeConfig, run_folder: Path) -> None:
    trainer = trainer_of(small_config(), run_folder)
    batch = trainer.roll_out()
    kept = torch.tensor([0, 2, 3, 5, 7])
    pieces = list(trainer.minibatches(replace(batch, kept=kept)))
    assert [len(piece.groups) for piece in pieces] == [3, 2, 3, 2]  # size 4 where nothing is dropped
    for epoch in (pieces[:2], pieces[2:]):
        assert sorted(group for piece in epoch for group in piece.groups) == kept.tolist()
    assert pieces[0].groups + pieces[1].groups != pieces[2].groups + pieces[3].groups
    for piece in pieces:
        rows = [group * 4 + i for group in piece.groups for i in range(4)]
        assert torch.equal(piece.advantages, batch.advantages[rows])


def test_the_learning_rate_warms_up(small_config: MakeConfig, run_folder: Path) -> None:
    train(small_config(train={"lr": 1e-3, "lr_warmup": 4, "iterations": 3}), run_folder)
    rates = [row["lr"] for row in RunDir.open(run_folder).rows(kind="update")]
    assert rates[:5] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


def test_gradients_are_clipped(small_config: MakeConfig, run_folder: Path) -> None:
    trainer = trainer_of(small_config(train={"grad_clip": 1e-3}), run_folder)
    minibatch = next(trainer.minibatches(trainer.roll_out()))
    seen: list[float] = []

    def before_the_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
        (group,) = optimizer.param_groups
        seen.append(float(torch.stack([p.grad.norm() for p in group["params"]]).norm()))

    trainer.state.optimizer.register_step_pre_hook(before_the_step)
    row = trainer.updater(minibatch)
    assert row["grad_norm"] > 1e-3
    assert seen == pytest.approx([1e-3], rel=1e-3)
    assert all(p.grad is None for p in trainer.state.policy.model.parameters()), "the sampler needs their memory"


def test_training_never_sees_a_held_out_problem(small_config: MakeConfig, run_folder: Path) -> None:
    trainer = trainer_of(small_config(), run_folder)
    for _ in range(5):
        assert not any(is_held_out(problem, 0.1) for problem in trainer.roll_out().problems)
        trainer.state.iteration += 1


def test_the_anchor_under_another_temperature(small_config: MakeConfig, run_folder: Path) -> None:
    train(small_config(rollout={"temperature": 0.7}), run_folder)
    assert all(row["mismatch"] < 1e-5 for row in RunDir.open(run_folder).rows(kind="rollout"))


@pytest.mark.parametrize("target", ["weights", "rollout"])
def test_what_is_not_finite_stops_the_run(small_config: MakeConfig, run_folder: Path, target: str) -> None:
    trainer = trainer_of(small_config(), run_folder)
    minibatch: Minibatch = next(trainer.minibatches(trainer.roll_out()))
    if target == "rollout":
        minibatch.rollout.log_probs[0, 0] = float("nan")
        with pytest.raises(ValueError, match=r"rollout_log_probs\[0, 0\] is nan on a valid token"):
            trainer.updater(minibatch)
        return
    with torch.no_grad():
        next(trainer.state.policy.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"iteration 0, update 0: a log-prob is not finite; lower train\.lr"):
        trainer.updater(minibatch)


def test_a_folder_holds_one_run(small_config: MakeConfig, run_folder: Path) -> None:
    config = small_config(train={"iterations": 1})
    train(config, run_folder)
    with pytest.raises(FileExistsError, match="already holds a run: minicppo resume"):
        train(config, run_folder)
    with pytest.raises(FileNotFoundError, match=r"holds no run: it has no config\.yaml"):
        trained_policy(run_folder / "elsewhere")


def test_what_cannot_start_leaves_no_folder(small_config: MakeConfig, run_folder: Path) -> None:
    with pytest.raises(ValueError, match="of 500 different test problems"):
        train(small_config(eval={"problems": 500}), run_folder)
    with pytest.raises(RuntimeError, match=r"warmup\.target"):
        train(small_config(warmup={"target": 1.0, "check_every": 1, "max_steps": 1}), run_folder)
    assert not run_folder.exists()


def test_the_certificate_judges_responses_that_were_not_trained_on(small_config: MakeConfig, run_folder: Path) -> None:
    trainer = trainer_of(small_config(), run_folder)
    fresh, batch = trainer.draw("certificate"), trainer.roll_out()
    assert not {problem.prompt for problem in fresh.problems} >= {problem.prompt for problem in batch.problems}
    again = trainer.draw("certificate")
    assert torch.equal(again.rollout.log_probs, fresh.rollout.log_probs)  # the same policy, the same stream


def test_padded_length_is_the_longest_response_allowed(small_config: MakeConfig, run_folder: Path) -> None:
    trainer = trainer_of(small_config(method={"name": "cppo-verl"}), run_folder)
    assert trainer.method.params["length"] == trainer.config.max_new_tokens(trainer.task) == 9
