"""The sections of a run's configuration, each of which refuses on its own what cannot work."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from minicppo.rules import LOSS_AGG_MODES, get_method
from minicppo.rules.hyper import nearest


def _positive_temperature(temperature: float) -> float:
    if temperature <= 0:
        raise ValueError(f"{temperature:g} must be positive: log-probs are those of the softmax at this temperature")
    return temperature


Temperature = Annotated[float, AfterValidator(_positive_temperature)]


class Section(BaseModel):
    """Frozen, complete and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ModelConfig(Section):
    """The policy: a saved model (`path`) or, without a path, a small Qwen3-like one of these sizes."""

    path: str | None = None  # a Hugging Face folder, a .gguf file, or package:NAME
    chat: bool | None = None  # wrap prompts in the chat template; null: if the tokenizer has one
    hidden_size: int = Field(64, ge=1)
    intermediate_size: int = Field(128, ge=1)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size = {self.hidden_size} must be a multiple of 2 * heads = {2 * self.heads}")
        if self.chat and self.path is None:
            raise ValueError("chat = true needs a model with a chat template: set model.path")
        if self.path is not None and not self.path.startswith("package:") and not Path(self.path).expanduser().exists():
            raise ValueError(f"path = {self.path!r} does not exist: give a saved model's folder or a .gguf file")
        return self


class TaskConfig(Section):
    """A task by name, and its constructor's options."""

    name: str = "chain"
    options: dict[str, Any] = {}


class MethodConfig(Section):
    """A rule of `minicppo.rules.METHODS` by name, and its hyper-parameters."""

    name: str = "cppo"
    params: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> "MethodConfig":
        try:
            get_method(self.name, **self.params)
        except TypeError as error:
            raise ValueError(str(error)) from None
        return self


class RolloutConfig(Section):
    """What is sampled at each iteration."""

    prompts: int = Field(32, ge=1)
    group_size: int = 8
    max_new_tokens: int | None = Field(None, ge=1)  # null: the task's
    temperature: Temperature = 1.0
    top_p: float = 1.0
    top_k: int = 0
    cells: int = Field(20, ge=1)  # K of the top-K divergences
    batch: int | None = Field(None, ge=1)  # prompts per forward pass; null: all

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

    iterations: int = Field(40, ge=1)  # rollout batches
    minibatches: int = Field(8, ge=1)  # optimiser steps per epoch when no group is dropped
    epochs: int = Field(1, ge=1)  # passes over each rollout batch
    staleness: int = Field(0, ge=0)  # rollouts come from the weights of this many optimiser steps ago
    lr: float = Field(3e-4, gt=0)
    lr_warmup: int = Field(5, ge=0)  # optimiser steps of linear learning-rate warm-up
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    loss_agg_mode: str = "seq-mean-token-sum-norm"
    horizon: int | None = Field(None, ge=1)  # divisor of seq-mean-token-sum-norm; null: max_new_tokens
    normalize_std: bool = False
    micro_batch: int | None = Field(None, ge=1)  # responses per forward pass; null: the whole minibatch
    checkpoint_every: int = Field(10, ge=1)  # iterations
    keep_checkpoints: int = Field(1, ge=1)
    autocast: Literal["auto", "off", "bfloat16"] = "auto"  # auto: bfloat16 on CUDA, off elsewhere

    @field_validator("loss_agg_mode")
    @classmethod
    def _known_mode(cls, mode: str) -> str:
        if mode not in LOSS_AGG_MODES:
            raise ValueError(f"unknown mode {mode!r}{nearest(mode, LOSS_AGG_MODES)}")
        return mode


class EvalConfig(Section):
    """Held-out evaluation: Avg@samples at `temperature`, and greedy."""

    every: int = Field(10, ge=1)  # iterations; always at the start and at the end
    problems: int = Field(64, ge=2)
    samples: int = Field(4, ge=1)
    temperature: Temperature = 1.0
    batch: int | None = Field(None, ge=1)  # prompts per forward pass; null: all
    seed: int = 0  # of the problems, which are the same for all methods and run seeds


class WarmupConfig(Section):
    """Supervised training on imperfect demonstrations, before the run and shared between runs."""

    error_rate: float = Field(0.12, ge=0, lt=1)  # wrong steps in the demonstrations
    target: float = Field(0.95, ge=0, le=1)  # stop once the greedy accuracy reaches it
    check_every: int = Field(50, ge=1)
    anneal: int = Field(200, ge=0)  # further steps, the learning rate falling to 0: a sharper start is a fragile one
    max_steps: int = Field(3000, ge=1)  # to reach the target
    batch: int = Field(64, ge=1)
    lr: float = Field(4e-3, gt=0)
    seed: int = 0  # of weights and demonstrations: runs with different seeds share one warm-up
