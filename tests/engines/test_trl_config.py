"""What would silently bias a method is refused, with the reason and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from trl import GRPOConfig, TrlParser

from minicppo.engines import trl
from minicppo.engines.plan import make_plan
from minicppo.engines.trl import LOSS_TYPES, CPPOConfig, CPPOTrainer
from minicppo.engines.trl_run import trl_config
from minicppo.rl.config import load_config, validate
from minicppo.rules import LOSS_AGG_MODES, METHODS
from tests.engines.trl_setup import config, no_reward, stale_rollout, tiny_policy, trainer_of, trl_inputs

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"top_p": 0.95}, "another distribution"),
    ({"top_k": 50}, "another distribution"),
    ({"min_p": 0.05}, "another distribution"),
    ({"repetition_penalty": 1.1}, "another distribution"),
    ({"generation_kwargs": {"typical_p": 0.9}}, "another distribution"),
    ({"temperature": 0.0}, "temperature"),
    ({"beta": 0.04}, "beta=0.0"),
    ({"loss_type": "cispo"}, "cispo and sapo are methods"),
    ({"loss_type": "sapo"}, "cispo and sapo are methods"),
    ({"loss_type": "vespo"}, "cispo and sapo are methods"),
    ({"importance_sampling_level": "sequence"}, "gspo"),
    ({"off_policy_mask_threshold": 0.1}, "second mask"),
    ({"top_entropy_quantile": 0.2}, "second mask"),
    ({"use_vllm": True, "vllm_importance_sampling_correction": True}, "holds already"),
    ({"disable_dropout": False}, "dropout"),
    ({"method": "cpo"}, "did you mean"),
    ({"method_params": {"detla": 0.1}}, "did you mean 'delta'"),
    ({"method_params": {"delta": -1.0}}, "outside"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=lambda x: next(iter(x)) if isinstance(x, dict) else "")
def test_bias_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **settings)


@pytest.mark.parametrize(("preset", "method"), [("qwen3-8b-base", "cppo-topk"), ("qwen3-1.7b", "grpo")])
def test_planned_settings_are_the_engines(preset: str, method: str, tmp_path: Path) -> None:
    pytest.importorskip("math_verify", reason="task math needs math-verify: pip install -e '.[math]'")
    overrides = ["engine=trl", f"method={method}", "cluster.gpus_per_node=1", "cluster.overrides=[vllm_mode=server]"]
    run = load_config(preset, overrides)  # one process, hence one GPU
    planned = make_plan(run, tmp_path, [preset]).settings
    assert (planned.pop("bf16"), planned.pop("use_cpu")) == ("True", "False")  # as on the GPUs that it is a plan for
    found = trl_config(run, tmp_path)
    assert (planned.pop("report_to"), planned.pop("save_strategy")) == ("none", found.save_strategy.value)
    assert planned == {key: str(getattr(found, key)) for key in planned}


def test_more_processes_than_responses_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    run = validate({"rollout": {"prompts": 4, "group_size": 2}, "train": {"minibatches": 4}})
    with pytest.raises(ValueError, match="2 responses an update do not split"):
        trl_config(run, tmp_path)


def test_a_setting_changed_later_is_refused_too(tmp_path: Path) -> None:
    args = config(tmp_path)
    args.top_p = 0.9
    with pytest.raises(ValueError, match=r"top_p=0\.9"):
        CPPOTrainer(tiny_policy().model, args=args, reward_funcs=no_reward)
    with pytest.raises(TypeError, match="CPPOConfig, got GRPOConfig"):
        CPPOTrainer(tiny_policy().model, args=GRPOConfig(str(tmp_path), bf16=False), reward_funcs=no_reward)


def test_the_defaults_are_taken_and_every_method_has_a_config(tmp_path: Path) -> None:
    assert set(LOSS_TYPES.values()) == set(LOSS_AGG_MODES)
    for name in METHODS:
        method = config(tmp_path, method=name).resolved_method()
        assert method.name == name
    assert config(tmp_path, method="cppo-verl").resolved_method().params["length"] == 12  # padded: to the horizon
    assert config(tmp_path, cells=7).top_log_probs == 7  # its old name


def test_the_command_line_of_trl_reads_it(tmp_path: Path) -> None:
    flags = ["--output_dir", str(tmp_path), "--method", "cppo-kl", "--method_params", json.dumps({"delta": 0.2})]
    (args,) = TrlParser((CPPOConfig,)).parse_args_and_config([*flags, "--bf16", "false", "--use_cpu"])
    assert args.resolved_method().params["delta"] == 0.2


@pytest.mark.parametrize("found", ["1.15.0", "1.17.0", None])
def test_another_version_of_trl_is_named(found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if found is None:
            raise trl.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(trl, "version", version)
    with pytest.raises(ImportError, match=rf"trl>=1\.16,<1\.17; installed: {found or 'none'}"):
        trl.require_pinned()


def test_an_anchor_that_is_missing_or_broken_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")

    def without_log_probs(prompts: list[str], trainer: Any) -> dict[str, Any]:
        ids = trainer.processing_class(text=prompts)["input_ids"]
        return {"prompt_ids": ids, "completion_ids": [[2, 3]] * len(ids), "logprobs": None}

    trainer = trainer_of(tiny_policy(), tmp_path, rollout_func=without_log_probs, max_steps=1)
    with pytest.raises(ValueError, match="no log-probs of the policy that sampled"):
        trainer.train()
    with pytest.raises(ValueError, match="a rollout_func returns those"):
        trainer_of(tiny_policy(), tmp_path, rollout_func=without_log_probs, method="cppo-topk")
    policy = tiny_policy()
    inputs = trl_inputs(stale_rollout(policy))
    inputs["sampling_per_token_logps"][0, 3] = torch.nan
    trainer.current_gradient_accumulation_steps = 1
    with pytest.raises(ValueError, match=r"rollout_log_probs\[0, 3\] is nan"):
        trainer._compute_loss(trainer.model, inputs)
