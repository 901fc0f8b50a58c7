"""The half of `CPPOTrainer` that samples: what the anchor mu is, which rollouts cannot serve, and resuming in one."""

import time
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from trl import GRPOTrainer
from trl.models.utils import unwrap_model_for_generation

from minicppo.engines.trl_checkpoint import PromptOrder, load_rollout, require_rollouts, save_rollout
from minicppo.engines.trl_config import CPPOConfig
from minicppo.engines.trl_rollout import (
    VLLM_MOST_LOG_PROBS,
    Top,
    require_log_probs,
    require_plain_head,
    rolled_out,
    split_ranked,
)
from minicppo.rl.policy import Policy
from minicppo.rl.rollout import widen
from minicppo.rl.seeding import generator_for
from minicppo.rules import Method


class SamplingTrainer(GRPOTrainer):
    """`GRPOTrainer` whose rollouts carry the sampling policy's log-probs, as many a token as `method` needs.

    args: a `CPPOConfig`. Raises ValueError, with the way out, where the sampling side cannot supply them.
    """

    def __init__(self, method: Method, model: Any, reward_funcs: Any, args: CPPOConfig, *others: Any, **kwargs: Any):
        self.method = method
        self._top: Top = {}
        self._rewards = torch.empty(0)  # (N, functions) of the newest rollout, all processes
        self._rollouts: dict[str, tuple[int, int]] = {}  # in training and evaluation: global step, rollouts in it
        self._sampled_at = -1  # global step of the newest rollout to train on
        super().__init__(model, reward_funcs, args, *others, **kwargs)
        self._require_samplable()
        if self.method.needs != "log_probs":
            self._require_top()
        if self.use_vllm:
            self._anchor_at_vllm()

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _require_samplable(self) -> None:
        """Nothing random while scoring; ValueError for virtual tokens, scored at other places than sampled."""
        for module in self.model.modules():
            for name, value in vars(module).items():
                if not any(word in f"{type(module).__name__}.{name}".lower() for word in ("drop", "jitter")):
                    continue
                if type(value) is float:
                    setattr(module, name, 0.0)
                elif isinstance(value, dict):  # of an adapter each: LoHa's and LoKr's
                    value |= {key: 0.0 for key, each in value.items() if type(each) is float}
        if any(each.is_prompt_learning for each in getattr(self.model, "peft_config", {}).values()):
            raise ValueError(
                "prompt and prefix tuning: TRL scores a padded prompt with the virtual tokens before its padding, "
                "further away than when it was sampled, and our sampler reads none. Way out: another adapter, such as "
                "LoRA"
            )

    def _require_top(self) -> None:
        """Raise ValueError where the sampling side cannot supply the log-probs that the method needs."""
        k, full = self.args.top_log_probs, self.method.needs == "full"
        refused = {
            "a rollout_func returns those of the sampled tokens alone": self.rollout_func is not None,
            "tool calls sample in several turns": bool(self.tools),
            "vLLM returns the likeliest tokens only": self.use_vllm and full,
            f"vLLM returns {VLLM_MOST_LOG_PROBS} at most, top_log_probs={k}": self.use_vllm and k > VLLM_MOST_LOG_PROBS,
        }
        for reason, active in refused.items():
            if active:
                raise ValueError(
                    f"{self.method.name} needs mu's log-probs of {'all' if full else 'its likeliest'} tokens, and "
                    f"{reason}. Way out: a method with a binary divergence, such as cppo, or minicppo's own sampler "
                    "(use_vllm=False)"
                )
        require_plain_head(self.accelerator.unwrap_model(self.model))

    def _anchor_at_vllm(self) -> None:
        """Make sure that vLLM's log-probs are those of the tempered softmax, and keep Top-K on the way."""
        if self.vllm_mode == "server" and self.accelerator.is_main_process:
            mode = self.vllm_generation.vllm_client.get_server_info()["model_config"]["logprobs_mode"]
            if mode != "processed_logprobs":
                raise ValueError(
                    f"the vLLM server returns {mode}, not those of the softmax at the temperature. Way out: start it "
                    "with --logprobs-mode processed_logprobs"
                )
        if self.method.needs != "topk":
            return
        generate = self.vllm_generation.generate
        self.vllm_generation.logprobs = self.args.top_log_probs

        def generate_with_top(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
            prompt_ids, completion_ids, log_probs, token_ids = generate(*args, **kwargs)
            sampled, self._top = split_ranked(completion_ids, log_probs, token_ids, self.args.top_log_probs)
            return prompt_ids, completion_ids, sampled, None

        self.vllm_generation.generate = generate_with_top

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], list[list[float]]]:
        if self.use_vllm:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)
        if images is not None or multimodal_fields:
            raise ValueError("minicppo's sampler takes text alone. Way out: use_vllm=True, or a rollout_func")
        if self.is_fsdp_enabled:
            raise ValueError(
                "minicppo's sampler needs whole weights on each process, which FSDP splits. Way out: use_vllm=True, a "
                "rollout_func, or plain data parallelism"
            )
        options = {"gather_deepspeed3_params": self.args.ds3_gather_for_generation}
        if "gradient_checkpointing_kwargs" in signature(unwrap_model_for_generation).parameters:  # since TRL 1.16
            options["gradient_checkpointing_kwargs"] = self.args.gradient_checkpointing_kwargs
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator, **options) as model:
            precision = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
            ids, log_probs, self._top = rolled_out(
                Policy(model, self._tokenizer, autocast=precision, whole_vocabulary=True),  # TRL scores it
                prompt_ids,
                self.max_completion_length,
                self.temperature,
                self._generator(),
                getattr(self, "eos_token_ids", ()),  # before TRL 1.14.2 the tokenizer's alone
                needs=self.method.needs,
                k=self.args.top_log_probs,
                batch=self.args.rollout_batch,
            )
        return ids, log_probs

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        found: tuple[Any, ...] = super()._generate(prompts)
        _, ids, own, _, log_probs, *_ = found  # own: 0 where a tool or an environment wrote the token
        if log_probs is None:
            raise ValueError(
                "the rollout carries no log-probs of the policy that sampled it, the anchor of every ratio. Way out: "
                "return 'logprobs' from rollout_func, or leave it out to use minicppo's sampler"
            )
        require_log_probs(ids, log_probs, own)
        return found

    def _generator(self) -> torch.Generator:
        """Random numbers fixed by seed, step, process and turn, so that a resumed run samples the same."""
        step, mode = self.state.global_step, self._mode
        before, count = self._rollouts.get(mode, (-1, 0))
        self._rollouts[mode] = (step, count + 1 if before == step else 0)
        return generator_for(self.args.seed, f"{mode}/{self.accelerator.process_index}/{self._rollouts[mode][1]}", step)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        start = time.perf_counter()
        output = super()._generate_and_score_completions(inputs)
        if self._mode == "train":
            self._sampled_at = self.state.global_step
        ids, top, self._top = output["completion_ids"], self._top, {}
        for name, value in top.items():  # as wide as the responses, TRL shuffles and splits them by row
            output[name] = widen(value, ids.shape[1]).to(ids.device)
        n, rewards = len(ids), self._rewards
        own = slice(self.accelerator.process_index * n, (self.accelerator.process_index + 1) * n)
        size = self.num_generations if self._mode == "train" else self.num_generations_eval
        output["rewards"] = (rewards * self.reward_weights.to(rewards.device)).nansum(1)[own]
        output["group"] = (torch.arange(len(rewards), device=ids.device) // size)[own]
        self._metrics[self._mode]["rollout_time"].append(time.perf_counter() - start)
        return output

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        self._rewards = super()._calculate_rewards(*args, **kwargs)
        return self._rewards

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Beside what TRL saves, its count of micro-batches and the responses that later updates will reuse."""
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        reused = self._step % (self.args.steps_per_generation * self.num_iterations) != 0
        save_rollout(self._rollout_file(folder), self._step, (self._buffered_inputs or []) if reused else [])
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            require_rollouts(Path(checkpoint), self.accelerator.num_processes)
            self._step, parts = load_rollout(self._rollout_file(Path(checkpoint)), str(self.accelerator.device))
            self._buffered_inputs, self._sampled_at = parts or None, -1

    def _get_train_sampler(self, dataset: Any = None) -> PromptOrder:
        return PromptOrder(super()._get_train_sampler(dataset), lambda: int(self.state.epoch or 0))

    def _rollout_file(self, folder: Path) -> Path:
        return folder / f"rollout_{self.accelerator.process_index}.safetensors"
