"""Run configuration."""

from pydantic import BaseModel, ConfigDict


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """The policy: a saved model (`path`) or a small Qwen3-like one of these sizes."""

    path: str | None = None
    chat: bool | None = None
    hidden_size: int = 64
    intermediate_size: int = 128
    layers: int = 2
    heads: int = 4
