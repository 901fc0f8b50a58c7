"""What would silently bias a method is refused, with the reason and the way out."""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from trl import GRPOConfig, TrlParser

from minicppo.engines import trl
from minicppo.engines.plan import make_plan
from minicppo.engines.trl import LOSS_TYPES, CPPOConfig, CPPOTrainer
from minicppo.engines.trl_config import AT_DEFAULT, require_unbiased
from minicppo.engines.trl_rollout import require_log_probs
from minicppo.engines.trl_run import trl_config
from minicppo.rl.config import load_config
from minicppo.rules import LOSS_AGG_MODES, METHODS
from tests.engines.stale import stale_rollout, tiny_policy
from tests.engines.trl_setup import config, feature, no_reward, refused, trainer_of, trl_inputs

SOME_VALUES: list[Any] = [  # the name holds the settings; the others are below
    refused("`top_p=0.95`", "another distribution"),
    refused("`top_k=50`", "another distribution"),
    refused("`min_p=0.05`", "another distribution"),
    refused("`repetition_penalty=1.1`", "another distribution"),
    refused("`generation_kwargs={'typical_p': 0.9}`", "another distribution"),
    refused("`generation_kwargs={'stop': ['3']}`", "end tokens alone"),
    refused("`temperature=0.0`", "temperature"),
    refused("`loss_type='cispo'`", "cispo and sapo are methods"),
    refused("`loss_type='sapo'`", "cispo and sapo are methods"),
    refused("`loss_type='vespo'`", "cispo and sapo are methods"),
    refused("`max_completion_length=None`", "dr_grpo divides by it"),
    refused("`max_completion_length=None, loss_type='grpo', method='cppo-verl'`", "length='padded'"),
    refused("`use_vllm=True, vllm_importance_sampling_correction=True`", "holds already"),
    refused("`top_log_probs=0`", "a token at least"),
    refused("`cells=0`", "a token at least"),
    refused("`cells=-1`", "a token at least"),
    refused("`method='cpo'`", "did you mean"),
    refused("`method_params={'detla': 0.1}`", "did you mean 'delta'"),
    refused("`method_params={'delta': -1.0}`", "outside"),
    refused("`delta=0.15`, TRL's two-sided clip", "method_params="),
    refused("`epsilon=0.1`", "clip_low"),
    refused("`epsilon_high=0.28`", "clip_high"),
    refused("`importance_sampling_level='sequence'`", "gspo"),
    refused("`vllm_structured_outputs_regex='[0-9]+'`", "another distribution"),
    refused("`neftune_noise_alpha=5.0`", "every ratio random"),
    refused("`method_params` that is no JSON", "method_params='{delta: 0.1}': .*JSON"),
    refused("`method_params` of another form", "it is a list"),
    refused("`method='tis'`, which corrects a pi_old", "corrects pi_old"),
    refused("`generation_kwargs={'seed': 1}` without vLLM", "seeded by seed"),
]
UNREADABLE = {"`method_params` that is no JSON": "{delta: 0.1}", "`method_params` of another form": "[1]"}
# field: ours, passed on to TRL, refused unless at its default, or refused with some values
FIELDS = dict(line.split() for line in (Path(__file__).parent / "golden" / "trl-fields.txt").read_text().splitlines())


def settings_of(name: str) -> dict[str, Any]:
    return {"method_params": UNREADABLE[name]} if name in UNREADABLE else eval(f"dict({name.split('`')[1]})")


@pytest.mark.parametrize("message", SOME_VALUES)
def test_bias_is_refused(message, request, tmp_path):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **settings_of(request.node.callspec.id))


@feature("28 more fields at other than their default, such as `beta`, `sync_ref_model` and SAPO's", "refused")
def test_every_field_of_trl_is_classified(tmp_path):
    """A new version's new field fails here: read what it does to the loss, the sampler and the anchor, then add it."""
    older = {"warmup_ratio", "logging_dir"}  # of a transformers that the bounds still allow; others it has not yet
    assert FIELDS.keys() >= {field.name for field in fields(CPPOConfig)} - older
    assert {name for name, kind in FIELDS.items() if kind == "refused"} == AT_DEFAULT.keys()
    assert {name for name, kind in FIELDS.items() if kind == "some"} <= {
        name for each in SOME_VALUES for name in settings_of(each.id)
    }
    args = config(tmp_path)
    for name in AT_DEFAULT:
        default = getattr(args, name)
        setattr(args, name, "another value")
        with pytest.raises(ValueError, match=f"^{name}='another value': .*(Way out|TRL)"):
            require_unbiased(args)
        setattr(args, name, default)


@pytest.mark.parametrize(("preset", "method"), [("qwen3-8b-base", "cppo-topk"), ("qwen3-1.7b", "grpo")])
def test_planned_settings_are_the_engines(preset, method, tmp_path):
    pytest.importorskip("math_verify", reason="task math needs math-verify: pip install -e '.[math]'")
    overrides = ["engine=trl", f"method={method}", "cluster.gpus_per_node=1", "cluster.overrides=[vllm_mode=server]"]
    run = load_config(preset, overrides)  # one process, hence one GPU
    planned = make_plan(run, tmp_path, [preset]).settings
    assert (planned.pop("bf16"), planned.pop("use_cpu")) == ("True", "False")  # as on the GPUs that it is a plan for
    found = trl_config(run, tmp_path)
    assert (planned.pop("report_to"), planned.pop("save_strategy")) == ("none", found.save_strategy.value)
    assert planned == {key: str(getattr(found, key)) for key in planned}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.minibatches=32", "8 responses an update do not split into micro-batches of 1 on 16 GPUs"),
        ("train.staleness=1", r"set train\.staleness=0"),
        ("cluster.overrides=[use_vlm=true]", "did you mean 'use_vllm'"),
        ("cluster.overrides=[beta=0.1]", "KL penalty"),
    ],
)
def test_what_trl_cannot_do_is_refused_before_any_work(override, message, tmp_path, monkeypatch):
    if "GPUs" in message:
        monkeypatch.setenv("WORLD_SIZE", "16")
    with pytest.raises(ValueError, match=message):
        trl.train(load_config("stale", ["engine=trl", override]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@feature("a `GRPOConfig`; a setting changed after its construction", "refused")
def test_a_setting_changed_later_is_refused_too(tmp_path):
    args = config(tmp_path)
    args.top_p = 0.9
    with pytest.raises(ValueError, match=r"top_p=0\.9: .*leave it at its default"):
        CPPOTrainer(tiny_policy().model, args=args, reward_funcs=no_reward)
    with pytest.raises(TypeError, match="CPPOConfig, got GRPOConfig"):
        CPPOTrainer(tiny_policy().model, args=GRPOConfig(str(tmp_path), bf16=False), reward_funcs=no_reward)


@feature("all methods by name, with the five `loss_type`s", "works")
def test_the_defaults_are_taken_and_every_method_has_a_config(tmp_path):
    assert set(LOSS_TYPES.values()) == set(LOSS_AGG_MODES)
    for name in [name for name, method in METHODS.items() if not method.corrects]:
        method = config(tmp_path, method=name).resolved_method()
        assert method.name == name
    for params in ({"method": "icepop"}, {"method": "cppo", "method_params": {"correction": "tis"}}):
        with pytest.raises(ValueError, match="corrects pi_old against mu"):  # else it would be off in silence
            config(tmp_path, **params)
    assert config(tmp_path, method="cppo-verl").resolved_method().params["length"] == 12  # padded: to the horizon
    assert config(tmp_path, cells=7).top_log_probs == 7  # its old name


@feature("`TrlParser`, `method_params` as JSON", "works")
def test_the_command_line_of_trl_reads_it(tmp_path):
    flags = ["--output_dir", str(tmp_path), "--method", "cppo-kl", "--method_params", json.dumps({"delta": 0.2})]
    (args,) = TrlParser((CPPOConfig,)).parse_args_and_config([*flags, "--bf16", "false", "--use_cpu"])
    assert args.resolved_method().params["delta"] == 0.2


@feature("another TRL than 1.10, 1.12 to 1.14 and 1.16", "refused")
@pytest.mark.parametrize("found", ["1.9.2", "1.15.0", "1.17.0", None])
def test_another_version_of_trl_is_named(found, monkeypatch):
    def version(name):
        if found is None:
            raise trl.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(trl, "version", version)
    with pytest.raises(ImportError, match=rf"trl>=1\.10,.*<1\.17; installed: {found or 'none'}"):
        trl.require_pinned()


TWO = [-1.0, -2.0]
ROLLOUTS: list[Any] = [  # of four responses of two tokens
    refused("a `rollout_func` without log-probs", None, "no log-probs of the policy that sampled"),
    refused("log-probs of fewer responses", [TWO] * 3, "4 responses and log-probs of 3"),
    refused("fewer log-probs than tokens", [TWO, TWO, TWO, [-1.0]], "response 3 .* 2 tokens and 1 log-probs"),
    refused("more log-probs than tokens", [TWO, [*TWO, -3.0]] * 2, "response 1 .* 2 tokens and 3 log-probs"),
    refused("a log-prob of None on the policy's token", [TWO, [-1.0, None]] * 2, "response 1 .* token 1 is None"),
    refused("None in the place of a response's log-probs", [TWO, None] * 2, "response 1 .* 2 tokens and no log-probs"),
    refused("lists in the place of log-probs, as vLLM's are", [[[-1.0], [-2.0]]] * 4, r"0 .* token 0 is \[-1\.0\]"),
    refused("a log-prob of NaN", [TWO, [math.nan, -1.0]] * 2, "response 1 .* token 0 is nan"),
    refused("a positive log-prob", [[-1.0, 0.5]] * 4, "response 0 .* token 1 is 0.5"),
]


@pytest.fixture(scope="module")
def rolling(tmp_path_factory):
    """A trainer whose rollout_func returns what a test puts into it."""

    def rollout_func(prompts, trainer):
        return {"prompt_ids": [[1]] * 4, "completion_ids": [[2, 3]] * 4, "logprobs": trainer.log_probs}

    return trainer_of(tiny_policy(), tmp_path_factory.mktemp("rolling"), rollout_func=rollout_func)


@pytest.mark.parametrize(("log_probs", "message"), ROLLOUTS)
def test_a_rollout_without_a_log_prob_is_named(log_probs, message, rolling):
    rolling.log_probs = log_probs
    with pytest.raises(ValueError, match=message):
        rolling._generate(["1+2="] * 4)
    require_log_probs([[2, 3, 4]], [[-1.0, None, math.nan]], [[1, 0, 0]])  # an environment's tokens need none


@feature("Top-K and exact divergences with a `rollout_func`", "refused")
@feature("`max_completion_length=None` with our sampler", "refused")
def test_an_anchor_that_cannot_be_used_raises(tmp_path):
    with pytest.raises(ValueError, match="a rollout_func returns those"):
        trainer_of(tiny_policy(), tmp_path, rollout_func=lambda *_: {}, method="cppo-topk")
    with pytest.raises(ValueError, match="sampler needs a limit"):
        trainer_of(tiny_policy(), tmp_path, max_completion_length=None, loss_type="grpo")
    trainer, inputs = trainer_of(tiny_policy(), tmp_path), trl_inputs(stale_rollout(tiny_policy()))
    inputs["sampling_per_token_logps"][0, 3] = torch.nan
    trainer.current_gradient_accumulation_steps = 1
    with pytest.raises(ValueError, match=r"rollout_log_probs\[0, 3\] is nan"):
        trainer._compute_loss(trainer.model, inputs)
