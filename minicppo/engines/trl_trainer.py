"""`CPPOTrainer`: TRL's `GRPOTrainer` whose token weights are a method's.

TRL's loss is -agg(min(r A, clip(r) A)) with r = pi / pi_old. Given advantages g A per token and no pi_old, r is one
with the gradient of log pi, and the loss -agg(g A exp(logp - sg(logp))): `minicppo.rules.policy_loss`, for any method.
"""

import warnings
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from minicppo.engines.trl_config import CPPOConfig, carried, require_unbiased
from minicppo.engines.trl_rollout import last_hidden_states, top_log_probs
from minicppo.engines.trl_sampling import SamplingTrainer
from minicppo.engines.trl_settings import LOSS_TYPES
from minicppo.engines.trl_statistics import MISMATCH_LIMITS, Responses, joined, statistics, summarise, wrong_anchor
from minicppo.rules import Method, TokenBatch, TopLogProbs
from minicppo.rules.rows import map_rows


class CPPOTrainer(SamplingTrainer):
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
        self._rows: dict[str, list[dict[str, float]]] = {"train": [], "eval": []}  # of each update since the last log
        self._parts: dict[str, list[Responses]] = {"train": [], "eval": []}  # micro-batches of the update under way
        self._matched = False  # has a first rollout been found to be the policy's?
        rule = carried(method or args.resolved_method(), args.max_completion_length)
        super().__init__(rule, model, reward_funcs, args, *positional, **kwargs)
        sampler = "vLLM" if self.use_vllm else "rollout_func" if self.rollout_func else "minicppo's sampler"
        shown = ", ".join(f"{k}={v}" for k, v in self.method.params.items())
        self.accelerator.print(
            f"{self.method.name}({shown}); anchor mu: the log-probs of {sampler} at temperature {self.temperature:g}; "
            f"loss: {LOSS_TYPES[self.loss_type]}"
        )

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
                pi = top_log_probs(head, states, ids, self.temperature)
            top = TopLogProbs(pi, mu, inputs["completion_ids"], ids)
        anchor, advantages = inputs["sampling_per_token_logps"].float(), inputs["advantages"].float()
        batch = TokenBatch(log_probs.float(), anchor, advantages, mask.bool(), top)
        out, ids = self.method(batch), inputs["completion_ids"]
        fresh = self._mode == "eval" or self._sampled_at == self.state.global_step
        seen = Responses(
            replace(batch, top=None),
            out,
            ids,
            rewards=inputs.get("rewards", torch.full_like(ids[:, 0], torch.nan, dtype=torch.float32)),
            group=inputs.get("group", torch.full_like(ids[:, 0], -1)),  # both unknown: a rollout of an older version
            fresh=torch.full_like(ids[:, 0], fresh, dtype=torch.bool),
            padded=inputs["prompt_mask"][:, 0] == 0,
        )
        self._parts[self._mode].append(seen)
        return out.weight * batch.advantages

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log with the statistics of the updates since the last."""
        metrics = self._metrics[self._mode]
        for key in [key for key in metrics if key.startswith("clip_ratio/")]:
            del metrics[key]  # TRL's clip sees a ratio of one
        rows, self._rows[self._mode] = self._rows[self._mode], []
        for key in sorted({key for row in rows for key in row}):
            metrics[key] = [summarise(key, [row[key] for row in rows if key in row])]
        super().log(logs, start_time)
