"""The sections of a run's configuration, each of which refuses on its own what cannot work."""

import math
import os
import re
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from minicppo.rules import LOSS_AGG_MODES, get_method
from minicppo.text import nearest, short


def _positive_temperature(temperature: float) -> float:
    if temperature <= 0:
        raise ValueError(f"{temperature:g} must be positive: log-probs are those of the softmax at this temperature")
    return temperature


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]*", name) or len(name.encode()) > 100:
        raise ValueError(f"{short(name)} is no name: up to 100 letters, digits and . _ + - (folders are called so)")
    return name


def _known_mode(mode: str) -> str:
    if mode not in LOSS_AGG_MODES:
        raise ValueError(f"unknown mode {mode!r}{nearest(mode, LOSS_AGG_MODES)}")
    return mode


Name = Annotated[str, AfterValidator(_plain_name)]  # it becomes a part of paths, and of scripts
Temperature = Annotated[float, AfterValidator(_positive_temperature)]
Aggregation = Annotated[str, AfterValidator(_known_mode)]


class Section(BaseModel):
    """Frozen, complete and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def key(default: Any, text: str, **limits: Any) -> Any:
    """A key: its default, what it is (`minicppo config` prints that), and limits by pydantic's names."""
    return Field(default, description=text, **limits)


HUB = "hub:"  # model.path = hub:OWNER/NAME: a name on the Hugging Face hub


class ModelConfig(Section):
    """The policy: a saved model (`path`) or, without a path, a small Qwen3-like one of these sizes."""

    path: str | None = key(None, "a Hugging Face folder, a .gguf file, package:NAME, or (engines only) hub:OWNER/NAME")
    chat: bool | None = key(None, "wrap prompts in the chat template; null: if the tokenizer has one")
    hidden_size: int = key(64, "width of a policy from scratch", ge=1)
    intermediate_size: int = key(128, "width of its feed-forward layers", ge=1)
    layers: int = key(2, "its layers", ge=1)
    heads: int = key(4, "its attention heads", ge=1)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> "ModelConfig":
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size = {self.hidden_size} must be a multiple of 2 * heads = {2 * self.heads}")
        if self.chat and self.path is None:
            raise ValueError("chat = true needs a model with a chat template: set model.path")
        if self.hub is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.hub):
            raise ValueError(
                f"path = {short(self.path)} is not of the form {HUB}OWNER/NAME, e.g. {HUB}Qwen/Qwen3-8B-Base"
            )
        if self.path is None or self.path.startswith(("package:", HUB)):
            return self
        if (info.context or {}).get("begun") or os.path.exists(os.path.expanduser(self.path)):
            return self
        raise ValueError(f"path = {short(self.path)} does not exist: give a saved model's folder or a .gguf file")

    @property
    def hub(self) -> str | None:
        """OWNER/NAME on the Hugging Face hub, where `path` names one."""
        return self.path.removeprefix(HUB) if self.path is not None and self.path.startswith(HUB) else None

    @property
    def source(self) -> str | None:
        """What `from_pretrained` and the engines take: the hub's name or the path."""
        if self.path is None or self.path.startswith("package:"):
            return self.path
        return self.hub or os.path.expanduser(self.path)


class TaskConfig(Section):
    """A task by name, and its constructor's options."""

    name: str = key("chain", "one of `minicppo tasks`")
    options: dict[str, Any] = key({}, "arguments of its constructor, listed there")


class MethodConfig(Section):
    """A rule of `minicppo.rules.METHODS` by name, and its hyper-parameters."""

    name: str = key("cppo", "one of `minicppo methods`")
    params: dict[str, Any] = key({}, "its hyper-parameters; `minicppo methods NAME` has defaults and sources")

    @model_validator(mode="after")
    def _check(self) -> "MethodConfig":
        try:
            method = get_method(self.name, **self.params)
            known = (*fields(method), *fields(getattr(method, "rule", method)))
            unlimited = {field.name for field in known if field.default == math.inf}
            for key, value in self.params.items():
                if value == math.inf and key not in unlimited:
                    raise ValueError(f"{key} = {value}: a finite number is wanted")
        except (TypeError, ValueError) as error:
            of = "method.params." if re.split(r"\W", str(error))[0] in self.params else ""
            raise ValueError(f"{of}{error}") from None
        return self


class RolloutConfig(Section):
    """What is sampled at each iteration."""

    prompts: int = key(32, "prompts an iteration", ge=1)
    group_size: int = key(8, "responses a prompt, judged against each other; 2 or more")
    max_new_tokens: int | None = key(None, "longest response, in tokens; null: the task's", ge=1)
    temperature: Temperature = key(1.0, "of sampling, and of every log-prob")
    top_p: float = key(1.0, "only 1: truncated sampling biases every ratio")
    top_k: int = key(0, "only 0, for the same reason")
    top_log_probs: int = key(
        20, "K of the top-K divergences; `cells` before", ge=1, validation_alias=AliasChoices("top_log_probs", "cells")
    )
    batch: int | None = key(None, "prompts per forward pass; null: all", ge=1)
    autocast: Literal["same", "float32", "bfloat16"] = key("same", "precision of sampling; same: that of training")

    @model_validator(mode="after")
    def _check(self) -> "RolloutConfig":
        if self.top_p != 1.0 or self.top_k != 0:
            raise ValueError(
                f"top_p = {self.top_p:g}, top_k = {self.top_k}: truncated sampling draws from another distribution "
                "than the one that is scored, so every ratio would be biased; train with top_p=1 top_k=0"
            )
        if self.group_size < 2:
            raise ValueError(
                f"group_size = {self.group_size}: a response is judged against others to the same prompt; use 2 or more"
            )
        return self


class TrainConfig(Section):
    """The updates made with each rollout batch."""

    iterations: int = key(40, "rollout batches", ge=1, le=999_999)
    minibatches: int = key(8, "optimiser steps per epoch when no group is dropped", ge=1)
    minibatch_prompts: int | None = key(None, "the same in prompts a step: minibatches = prompts / this", ge=1)
    epochs: int = key(1, "passes over each rollout batch", ge=1)
    staleness: int = key(0, "rollouts come from the weights of this many optimiser steps ago", ge=0)
    old_log_probs: Literal["rollout", "recompute"] | None = key(
        None, "pi_old: the rollout's log-probs, or the trainer's before its updates; null: as the method needs"
    )
    lr: float = key(3e-4, "AdamW's learning rate", gt=0)
    lr_warmup: int = key(5, "optimiser steps of linear learning-rate warm-up", ge=0)
    betas: tuple[float, float] = key((0.9, 0.999), "AdamW's")
    weight_decay: float = key(0.0, "AdamW's", ge=0)
    grad_clip: float = key(1.0, "largest norm of a gradient", gt=0)
    loss_agg_mode: Aggregation = key("seq-mean-token-sum-norm", "how token losses are averaged")
    horizon: int | None = key(None, "divisor of seq-mean-token-sum-norm; null: max_new_tokens", ge=1)
    drop_groups: bool = key(True, "leave out groups of equal rewards: fewer updates; false: as trl and verl do")
    normalize_std: bool = key(False, "divide advantages by the group's standard deviation")
    micro_batch: int | None = key(None, "responses per forward pass; null: the whole minibatch", ge=1)
    checkpoint_every: int = key(10, "iterations", ge=1)
    keep_checkpoints: int = key(1, "the newest so many stay", ge=1)
    autocast: Literal["auto", "native", "off", "bfloat16"] = key(
        "auto", "bfloat16 passes; auto: on CUDA alone; native: also on a CPU that multiplies it in hardware"
    )


class EvalConfig(Section):
    """Held-out evaluation: Avg@samples at `temperature`, and greedy."""

    every: int = key(10, "iterations; always at the start and at the end", ge=1)
    problems: int = key(64, "held-out problems", ge=2)
    data: list[str] = key([], "test sets by name or path, all their problems; empty: the task's held-out problems")
    samples: int = key(4, "answers a problem: Avg@samples", ge=1)
    temperature: Temperature = key(1.0, "of the sampled answers")
    top_p: float = key(1.0, "of the sampled answers", gt=0, le=1)
    batch: int | None = key(None, "prompts per forward pass; null: all", ge=1)
    seed: int = key(0, "of the problems, which are the same for all methods and run seeds")


class WarmupConfig(Section):
    """Supervised training on imperfect demonstrations, before the run and shared between runs."""

    error_rate: float = key(0.12, "wrong steps in the demonstrations", ge=0, lt=1)
    target: float = key(0.95, "stop once the greedy accuracy reaches it", ge=0, le=1)
    check_every: int = key(50, "steps between looks at the accuracy", ge=1)
    anneal: int = key(200, "further steps, the learning rate falling to 0: a sharper start is a fragile one", ge=0)
    max_steps: int = key(3000, "to reach the target", ge=1)
    batch: int = key(64, "demonstrations a step", ge=1)
    lr: float = key(4e-3, "AdamW's learning rate", gt=0)
    seed: int = key(0, "of weights and demonstrations: runs with different seeds share one warm-up")


class ClusterConfig(Section):
    """Where an engine runs and how it splits the work; the local trainer takes no notice of it."""

    nodes: int = key(1, "machines", ge=1)
    gpus_per_node: int = key(1, "GPUs of each", ge=1)
    gpu: str = key("h100-80gb", "what `minicppo plan` estimates with; see `minicppo.engines.memory.GPUS`")
    max_prompt_tokens: int = key(1024, "verl leaves longer prompts out; for the others an estimate", ge=1)
    tensor_parallel: int = key(1, "GPUs a layer is split over, in training (Megatron)", ge=1)
    pipeline_parallel: int = key(1, "GPUs the layers are dealt out to, in training (Megatron)", ge=1)
    expert_parallel: int = key(1, "GPUs the experts are dealt out to; more than 1 selects Megatron", ge=1)
    rollout_tensor_parallel: int = key(1, "GPUs a rollout replica is split over", ge=1)
    rollout_memory: float = key(0.5, "share of a GPU's memory for rollout weights and KV cache", gt=0, lt=1)
    offload: bool = key(False, "keep parameters and optimiser in host memory while rolling out")
    overrides: list[str] = key([], "further settings of the engine's own, KEY=VALUE, applied last")

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @model_validator(mode="after")
    def _check(self) -> "ClusterConfig":
        parallel = self.tensor_parallel * self.pipeline_parallel
        for name, size in (
            ("tensor_parallel * pipeline_parallel", parallel),
            ("expert_parallel", self.expert_parallel),
            ("rollout_tensor_parallel", self.rollout_tensor_parallel),
        ):
            if self.gpus % size:
                raise ValueError(f"{name} = {size} must divide nodes * gpus_per_node = {self.gpus}")
        return self
