"""What people use TRL with, each against an independent loop: every gradient within 2e-5."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

import transformers
from datasets import Dataset, IterableDataset

from docs.tools.features import features
from minicppo.engines.trl import LOSS_TYPES, CPPOTrainer
from minicppo.engines.trl_rollout import rolled_out
from minicppo.reference import Response, loop
from minicppo.rl.policy import Policy
from minicppo.rules import METHODS, Method, TokenBatch, TokenWeights, get_method, masked_weights
from tests.engines import stale
from tests.engines.independent import Loop
from tests.engines.stale import HORIZON, ROOT, TEMPERATURE, tiny_policy
from tests.engines.trl_setup import feature, trainer_of, trl_inputs, works

PROMPTS = ["1+2=", "3*4+5=", "5=", "6+1*2-4="] * 4
TIGHT = {"method_params": {"delta": 0.002, "delta_b": 0.0004}}  # so that a small step masks much
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}


def trained(folder: Path, policy: Policy | None = None, **given: Any) -> tuple[CPPOTrainer, Loop]:
    """Two updates with a rollout, unless told otherwise: see `trainer_of`."""
    few = {"max_steps": 2, "steps_per_generation": 2, "logging_steps": 1, "max_grad_norm": 0.0, "learning_rate": 1e-3}
    data = {"train_dataset": Dataset.from_dict({"prompt": PROMPTS}), "reward_funcs": sums}
    trainer = trainer_of(policy or tiny_policy(), folder, **{**few, **TIGHT, **data, **given})
    loop = Loop(trainer)
    trainer.train()
    return trainer, loop


def sums(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(sum(ids) % 7) for ids in completion_ids]


def rolled(prompts: list[str], trainer: CPPOTrainer, temperature: float = TEMPERATURE) -> dict[str, Any]:
    """What a user's rollout_func gives: here by our own sampler."""
    ids = trainer.processing_class(text=prompts)["input_ids"]
    policy = Policy(trainer.model, trainer.processing_class)
    generator = torch.Generator().manual_seed(trainer.state.global_step)
    completions, log_probs, _ = rolled_out(policy, ids, HORIZON, temperature, generator)
    return {"prompt_ids": ids, "completion_ids": completions, "logprobs": log_probs}


def half_from_elsewhere(prompts: list[str], trainer: CPPOTrainer) -> dict[str, Any]:
    """Every other token is an environment's: its log-prob is not known."""
    found = rolled(prompts, trainer)
    found["env_mask"] = [[t % 2 for t in range(len(row))] for row in found["completion_ids"]]
    found["logprobs"] = [[x if t % 2 else None for t, x in enumerate(row)] for row in found["logprobs"]]
    return found


def lengths(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [len(ids) / 10 for ids in completion_ids]


def some_unknown(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    return [None if sum(ids) % 4 == 0 else float(sum(ids) % 7) for ids in completion_ids]


async def in_its_own_time(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return sums(completion_ids)


@dataclass(frozen=True)
class Fading(Method):
    """A rule of a user's own: the ratio, less for each token."""

    family = "fading-of-a-test"
    formula = "rho / (1 + t)"
    source = "ours"

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        return masked_weights(batch, batch.mask, batch.ratio / (1 + batch.mask.cumsum(1)))


@loop("fading-of-a-test")
def fading(response: Response) -> list[float]:
    return [ratio / (2 + t) for t, ratio in enumerate(response.ratios)]


def stream() -> Any:
    return IterableDataset.from_generator(lambda: ({"prompt": prompt} for prompt in PROMPTS))


def talk() -> dict[str, Any]:
    policy = tiny_policy()
    policy.tokenizer.chat_template = "{% for turn in messages %}{{ turn['content'] }}{% endfor %}"
    data = [{"prompt": [{"role": "user", "content": prompt}]} for prompt in PROMPTS]
    return {"policy": policy, "train_dataset": Dataset.from_list(data)}


def adapter(kind: str, **settings: Any) -> dict[str, Any]:
    peft = pytest.importorskip("peft", reason="adapters need peft (pip install -e '.[dev]')")
    wanted = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj", "down_proj"], **settings}
    torch.manual_seed(0)
    return {"peft_config": getattr(peft, f"{kind}Config")(**wanted), "learning_rate": 0.02}


def architecture(kind: str, **settings: Any) -> dict[str, Any]:
    """The tiny policy with another architecture's weights, twice as sharp as they begin."""
    policy = tiny_policy()
    special = {f"{name}_token_id": getattr(policy.tokenizer, f"{name}_token_id") for name in ("pad", "eos")}
    made = getattr(transformers, f"{kind}Config")(vocab_size=len(policy.tokenizer), **special, **settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(made)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return {"policy": replace(policy, model=model)}


LLAMA = partial(architecture, "Llama", **SMALL)
ACCUMULATED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
TWO_REWARDS = {"reward_funcs": [sums, lengths], "reward_weights": [1.0, -0.5]}
CASES: list[Any] = [
    works("`loss_type='dapo'`", {"loss_type": "dapo"}),
    works("`loss_type='bnpo'`", {"loss_type": "bnpo"}),
    works("`loss_type='grpo'`", {"loss_type": "grpo"}),
    works("`loss_type='luspo'`", {"loss_type": "luspo"}),
    works("`loss_type='dr_grpo'` (default)", {}),
    works("gradient accumulation", {**ACCUMULATED, "steps_per_generation": 4}),
    works("gradient accumulation, `dapo`", {**ACCUMULATED, "steps_per_generation": 4, "loss_type": "dapo"}),
    works("a rollout that ends within an update", {**ACCUMULATED, "steps_per_generation": 3, "max_steps": 3}),
    works("several rollouts in an update", {**ACCUMULATED, "steps_per_generation": 1}),
    works("`num_iterations`", {"num_iterations": 2, "max_steps": 4}),
    works("`num_generations=4`", {"num_generations": 4}),
    works("`temperature=1.0`", {"temperature": 1.0}),
    works("`scale_rewards='group'`", {"scale_rewards": "group"}),
    works("`scale_rewards='batch'`", {"scale_rewards": "batch"}),
    works("several reward functions, `reward_weights`", TWO_REWARDS),
    works("`multi_objective_aggregation`", {**TWO_REWARDS, "multi_objective_aggregation": "normalize_then_sum"}),
    works("a reward function that returns None for some", {"reward_funcs": some_unknown}),
    works("an asynchronous reward function", {"reward_funcs": in_its_own_time}),
    works("`mask_truncated_completions`", {"mask_truncated_completions": True, "max_steps": 6}),
    works("`gradient_checkpointing`", {"gradient_checkpointing": True}),
    works("`cast_lm_head_to_fp32`", {"cast_lm_head_to_fp32": True}),
    works("`pad_to_multiple_of`", {"pad_to_multiple_of": 8}),
    works("`entropy_coef` (its gradient passes no mask)", {"entropy_coef": 0.1}),
    works("`torch_compile`", {"torch_compile": True, "torch_compile_backend": "eager"},
          marks=[pytest.mark.filterwarnings("ignore")]),
    works("`shuffle_dataset=False`", {"shuffle_dataset": False}),
    works("`rollout_batch`", {"rollout_batch": 1}),
    works("iterable data", lambda: {"train_dataset": stream()}),
    works("conversations", talk),
    works("`rollout_func` with log-probs", {"rollout_func": rolled}),
    works("`rollout_func` with `env_mask`", {"rollout_func": half_from_elsewhere}),
    works("LoRA", partial(adapter, "Lora", r=4, init_lora_weights=False)),
    works("DoRA", partial(adapter, "Lora", r=4, use_dora=True, init_lora_weights=False)),
    works("IA3", partial(adapter, "IA3", feedforward_modules=["down_proj"], init_ia3_weights=False)),
    works("LoHa: its dropouts off", partial(adapter, "LoHa", r=4, rank_dropout=0.5, module_dropout=0.5,
                                            init_weights=False)),
    works("LoKr: its dropouts off", partial(adapter, "LoKr", r=4, rank_dropout=0.5, module_dropout=0.5)),
    works("LoRA beside a whole head", lambda: LLAMA() | adapter("Lora", r=4, modules_to_save=["lm_head"])),
    works("Llama, `attention_dropout` off", partial(LLAMA, attention_dropout=0.5)),
    works("tied embeddings", partial(LLAMA, tie_word_embeddings=True)),
    works("GPT-2: learned positions, dropout off", partial(architecture, "GPT2", n_embd=16, n_layer=2, n_head=2)),
    works("GPT-Neo", partial(architecture, "GPTNeo", hidden_size=16, num_layers=2, num_heads=2,
                             attention_types=[[["global", "local"], 1]])),
    works("OPT: functional dropout off", partial(architecture, "OPT", hidden_size=16, num_hidden_layers=2, ffn_dim=32,
                                                 num_attention_heads=2, word_embed_proj_dim=16)),
    works("BLOOM: ALiBi", partial(architecture, "Bloom", hidden_size=16, n_layer=2, n_head=2)),
    works("Gemma 2: soft-capped logits", partial(architecture, "Gemma2", **SMALL, num_key_value_heads=1, head_dim=8)),
    works("Mistral: sliding window", partial(architecture, "Mistral", **SMALL, num_key_value_heads=1,
                                             sliding_window=6)),
    works("Mixtral: noise of its routers off", partial(architecture, "Mixtral", **SMALL, num_key_value_heads=2,
                                                       num_local_experts=4, router_jitter_noise=0.3)),
    works("XGLM: dropped layers off", partial(architecture, "XGLM", num_layers=2, attention_heads=2, d_model=16,
                                              ffn_dim=32, dropout=0.5, layerdrop=0.5)),
    works("gpt-oss: attention sinks", partial(architecture, "GptOss", **SMALL, num_key_value_heads=1, head_dim=8,
                                              num_local_experts=4, num_experts_per_tok=2, sliding_window=4)),
    works("LFM2: convolutions", partial(architecture, "Lfm2", **SMALL, num_key_value_heads=1,
                                        layer_types=["conv", "full_attention"])),
    works("Qwen3-MoE, its auxiliary loss (which passes no mask)",
          partial(architecture, "Qwen3Moe", **SMALL, num_key_value_heads=1, head_dim=8, num_experts=4,
                  num_experts_per_tok=2, moe_intermediate_size=16)),
    works("`method='dppo'`", {"method": "dppo", "method_params": {"delta": 0.01}}),
    works("`method='grpo'`", {"method": "grpo", "method_params": {"clip_low": 0.01, "clip_high": 0.01}}),
    works("`method='cispo'`", {"method": "cispo", "method_params": {}}),
    works("a `Method` of one's own", {"rule": Fading(summary="fades")}),
]  # fmt: skip
QUICK = ("`loss_type='dapo'`", "GPT-2: learned positions, dropout off")
MARKED = [p if p.id in QUICK else pytest.param(*p.values, id=p.id, marks=[*p.marks, pytest.mark.slow]) for p in CASES]


@pytest.mark.parametrize("given", MARKED)
def test_gradients_are_an_independent_loop_s(given, tmp_path):
    trainer, loop = trained(tmp_path, **(given() if callable(given) else given))
    assert max(loop.apart) < 2e-5
    fresh = "drift" not in trainer.state.log_history[1]
    assert any(loop.masked) or fresh or trainer.method.name in ("cispo", "fading-of-a-test"), "the mask is idle"
    assert trainer.state.log_history[0]["mismatch/drift"] < 1e-5


MASKING = "ppo gspo dppo dppo-topk pdm trm-max trm-avg cppo cppo-topk cppo-exact cppo-decoupled".split()
AT_ONCE = {"cppo", "cppo-topk", "cppo-exact", "cppo-soft", "cispo"}
CARRIED = [name for name, method in METHODS.items() if not method.corrects]
NAMES = [name if name in AT_ONCE else pytest.param(name, marks=pytest.mark.slow) for name in CARRIED]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same policy twice: TRL changes the forward method of the model it is given, which here has a dropout."""
    trained = tiny_policy()
    for layer in trained.model.model.layers:
        layer.self_attn.attention_dropout = 0.5  # as a configuration sets it
    return tiny_policy(), trainer_of(trained, tmp_path_factory.mktemp("trl"))


@feature("dropout of configurations and modules, set to zero", "works")
@pytest.mark.parametrize("name", NAMES)
def test_every_method_and_loss_type(name, pair):
    """In value and gradient: every loss type with CPPO, the others with the one that divides by the micro-batch."""
    policy, trainer = pair
    trainer.method = get_method(name)
    rollout = stale.stale_rollout(policy, needs=trainer.method.needs)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    for loss_type in LOSS_TYPES if name == "cppo" else ["bnpo"]:
        trainer.loss_type = loss_type
        trainer.model.zero_grad()
        loss = trainer._compute_loss(trainer.model, trl_inputs(rollout))
        loss.backward()
        wanted_loss, wanted, masked = stale.reference(policy, rollout, trainer.method, LOSS_TYPES[loss_type])
        torch.testing.assert_close(loss.detach(), wanted_loss, rtol=1e-5, atol=1e-6)
        stale.assert_close(stale.gradients(trainer.model), wanted)
        assert name not in MASKING or 0.04 < masked < 1, f"the mask of {name} is idle here: {masked}"


def test_the_page_lists_them_all_each_with_a_test_that_is_there():
    page, rows = (ROOT / "docs/drop-in.md").read_text(), features()
    assert len(rows) == len({name for name, *_ in rows}) >= 60, "a feature is named twice"
    for name, verdict, test, file in rows:
        assert f"| {name} | {verdict} | [{test}](../tests/engines/{file}) |" in page, "run python -m docs.tools.readme"
        assert f"\ndef {test}(" in (ROOT / "tests/engines" / file).read_text()
