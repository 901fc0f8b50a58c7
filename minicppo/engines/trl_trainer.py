"""`CPPOTrainer`: TRL's `GRPOTrainer` whose token weights are a method's.

TRL's loss is -agg(min(r A, clip(r) A)) with r = pi / pi_old. Given advantages g A per token and no pi_old, r is one
with the gradient of log pi, and the loss -agg(g A exp(logp - sg(logp))): `minicppo.rules.policy_loss`, for any method.
"""

import time
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from torch import Tensor, nn
from trl import GRPOTrainer
from trl.models.utils import unwrap_model_for_generation

from minicppo.engines import trl_rollout
from minicppo.engines.trl_checkpoint import PromptOrder, load_rollout, require_rollouts, save_rollout
from minicppo.engines.trl_config import CPPOConfig, carried, require_unbiased
from minicppo.engines.trl_rollout import (
    VLLM_MOST_LOG_PROBS,
    Top,
    last_hidden_states,
    require_log_probs,
    rolled_out,
    split_ranked,
)
from minicppo.engines.trl_settings import LOSS_TYPES
from minicppo.engines.trl_statistics import MISMATCH_LIMITS, Responses, joined, statistics, summarise, wrong_anchor
from minicppo.rl.policy import Policy
from minicppo.rl.seeding import generator_for
from minicppo.rules import Method, TokenBatch, TokenWeights, TopLogProbs
from minicppo.rules.rows import map_rows


class CPPOTrainer(GRPOTrainer):
    """`GRPOTrainer` for any method of the registry. Takes its arguments, with a `CPPOConfig` for `args`.

    mu, the anchor of every ratio and divergence, is what sampled: with vLLM its processed log-probs, with a
    `rollout_func` the "logprobs" it returns, else our own sampler's.
    Metrics gain `minicppo.engines.trl_statistics.statistics` of each update: all tokens of all processes at once.

    newest: the `Responses` that these are computed from, of the newest update (or evaluation) and of all processes:
    sampled tokens, log pi, log mu, mask, advantages, rewards, group, verdicts. With `state.global_step` what a callback
    records in `on_step_end`.
    method: a rule of your own in the place of the one that `args` names; any `minicppo.rules.Method`.
    Raises ValueError, with the way out, for settings that would bias the method or cannot supply what it needs, and
    where the first rollout's log-probs are not the policy's (`CPPOConfig.mismatch_limit`).
    """

    _tag_names = ("trl", "cppo")
    _name = "CPPO"  # these two for the model card
    _paper: ClassVar = {
        "title": "Beyond Uniform Token-Level Trust Region in LLM Reinforcement Learning",
        "id": "2606.10968",
        "citation": "@article{cppo2026, author = {Mao, Renjie and others}, title = {Beyond Uniform Token-Level Trust "
        "Region in LLM Reinforcement Learning}, year = {2026}, journal = {arXiv preprint arXiv:2606.10968}}",
    }

    newest: Responses | None = None

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: CPPOConfig | None = None,
        *positional: Any,
        method: Method | None = None,
        **kwargs: Any,
    ):
        if args is None:
            name = model if isinstance(model, str) else model.config.name_or_path
            args = CPPOConfig(f"{name.split('/')[-1]}-CPPO")
        if not isinstance(args, CPPOConfig):
            raise TypeError(f"args must be a minicppo.engines.trl.CPPOConfig, got {type(args).__name__}")
        require_unbiased(args)  # again: fields can be set after construction
        if args.max_completion_length is None and not (args.use_vllm or kwargs.get("rollout_func")):
            raise ValueError("max_completion_length=None: minicppo's sampler needs a limit. Way out: a number")
        self.method = carried(method or args.resolved_method(), args.max_completion_length)
        self._rows: dict[str, list[dict[str, float]]] = {"train": [], "eval": []}  # of each update since the last log
        self._parts: dict[str, list[Responses]] = {"train": [], "eval": []}  # micro-batches of the update under way
        self._top: Top = {}
        self._rewards = torch.empty(0)  # (N, functions) of the newest rollout, all processes
        self._rollouts: dict[str, tuple[int, int]] = {}  # in training and evaluation: global step, rollouts in it
        self._sampled_at = -1  # global step of the newest rollout to train on
        self._matched = False  # has a first rollout been found to be the policy's?
        super().__init__(model, reward_funcs, args, *positional, **kwargs)
        self._require_samplable()
        if self.method.needs != "log_probs":
            self._require_top()
        if self.use_vllm:
            self._anchor_at_vllm()
        sampler = "vLLM" if self.use_vllm else "rollout_func" if self.rollout_func else "minicppo's sampler"
        shown = ", ".join(f"{k}={v}" for k, v in self.method.params.items())
        self.accelerator.print(
            f"{self.method.name}({shown}); anchor mu: the log-probs of {sampler} at temperature {self.temperature:g}; "
            f"loss: {LOSS_TYPES[self.loss_type]}"
        )

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _require_samplable(self) -> None:
        """No dropout that is a number of a module; ValueError for virtual tokens, which our sampler does not read."""
        for module in self.model.modules():
            for name in [name for name, value in vars(module).items() if "drop" in name and type(value) is float]:
                setattr(module, name, 0.0)
        prompted = any(each.is_prompt_learning for each in getattr(self.model, "peft_config", {}).values())
        if prompted and not self.rollout_func:
            raise ValueError(
                "prompt and prefix tuning put virtual tokens before each prompt, which no sampler reads here. Way out: "
                "another adapter, such as LoRA, or a rollout_func"
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
        trl_rollout.require_plain_head(self.accelerator.unwrap_model(self.model))

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

    # Rolling out

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
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            precision = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
            ids, log_probs, self._top = rolled_out(
                Policy(model, self._tokenizer, autocast=precision, whole_vocabulary=True),  # TRL scores it
                prompt_ids,
                self.max_completion_length,
                self.temperature,
                self._generator(),
                self.eos_token_ids,
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
            output[name] = F.pad(value, (0, 0, 0, ids.shape[1] - value.shape[1])).to(ids.device)
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

    # The loss

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        # The base class reads `advantages` after its forward pass; `_get_per_token_logps_and_entropies` has by then
        # multiplied them by g. Without old log-probs it takes the current ones, detached.
        self._inputs = {k: v for k, v in inputs.items() if k != "old_per_token_logps"}
        loss: Tensor = super()._compute_loss(model, self._inputs)
        if self._mode == "train" and self.accelerator.sync_gradients:
            self._end_update("train")
        return loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        found = super().evaluation_loop(*args, **kwargs)
        self._end_update("eval")
        return found

    def _end_update(self, mode: str) -> None:
        """Statistics of all micro-batches and processes: here, where every process is; `log` may be called by one."""
        parts, self._parts[mode] = self._parts[mode], []
        if not parts:
            return
        self.newest = joined(gather_object([map_rows(Tensor.cpu, joined(parts))]))
        self._rows[mode].append(statistics(self.newest))
        if mode == "train" and (wrong := wrong_anchor(self.newest, self._mismatch_limit())):
            if not self._matched:
                raise ValueError(wrong)
            warnings.warn(f"update {self.state.global_step + 1}: {wrong}", stacklevel=1)
        self._matched = self._matched or bool(self.newest.fresh.any())

    def _mismatch_limit(self) -> float:
        if self.args.mismatch_limit is not None:
            return self.args.mismatch_limit
        precision = torch.float16 if self.args.fp16 else self.accelerator.unwrap_model(self.model).dtype
        coarse = self.args.bf16 or self.use_vllm or self.rollout_func is not None  # of the last, nothing is known
        return MISMATCH_LIMITS.get(torch.bfloat16 if coarse else precision, MISMATCH_LIMITS[torch.float32])

    def _get_per_token_logps_and_entropies(
        self, model: nn.Module, *args: Any, compute_entropy: bool = False, **kwargs: Any
    ) -> tuple[Any, Any, Any]:
        if not compute_entropy:  # TRL's pi_old, after a rollout: the anchor is mu, and this pass would go unused
            return None, None, None
        with last_hidden_states(self.accelerator.unwrap_model(model)) as states:
            result = super()._get_per_token_logps_and_entropies(model, *args, compute_entropy=True, **kwargs)
        self._inputs["advantages"] = self._weighted_advantages(result[0].detach(), states[0])
        return result

    @torch.no_grad()
    def _weighted_advantages(self, log_probs: Tensor, states: Tensor) -> Tensor:
        """(B, T): g A. log_probs (B, T), states (B, P + T, H) before the head. Raises ValueError on NaN."""
        inputs, top, T = self._inputs, None, log_probs.shape[1]
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        if self.method.needs != "log_probs":
            mu, ids = inputs["rollout_top_log_probs"], inputs.get("rollout_top_ids")
            exact = self.args.cast_lm_head_to_fp32
            with nullcontext() if exact else self.accelerator.autocast():  # in the precision of TRL's own head
                states = states[:, -T - 1 : -1].float() if exact else states[:, -T - 1 : -1]
                head = self.accelerator.unwrap_model(self.model)
                pi = trl_rollout.top_log_probs(head, states, ids, self.temperature)
            top = TopLogProbs(pi, mu, inputs["completion_ids"], ids)
        anchor, advantages = inputs["sampling_per_token_logps"].float(), inputs["advantages"].float()
        batch = TokenBatch(log_probs.float(), anchor, advantages, mask.bool(), top)
        out = self.method(batch)
        self._parts[self._mode].append(self._seen(replace(batch, top=None), out))
        return out.weight * batch.advantages

    def _seen(self, batch: TokenBatch, out: TokenWeights) -> Responses:
        inputs, ids = self._inputs, self._inputs["completion_ids"]
        fresh = self._mode == "eval" or self._sampled_at == self.state.global_step
        return Responses(
            batch,
            out,
            ids,
            rewards=inputs.get("rewards", torch.full_like(ids[:, 0], torch.nan, dtype=torch.float32)),
            group=inputs.get("group", torch.full_like(ids[:, 0], -1)),  # both unknown: a rollout of an older version
            fresh=torch.full_like(ids[:, 0], fresh, dtype=torch.bool),
            padded=inputs["prompt_mask"][:, 0] == 0,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log with the statistics of the updates since the last."""
        metrics = self._metrics[self._mode]
        for key in [key for key in metrics if key.startswith("clip_ratio/")]:
            del metrics[key]  # TRL's clip sees a ratio of one
        rows, self._rows[self._mode] = self._rows[self._mode], []
        for key in sorted({key for row in rows for key in row}):
            metrics[key] = [summarise(key, [row[key] for row in rows if key in row])]
        super().log(logs, start_time)

    # Saving and resuming

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
