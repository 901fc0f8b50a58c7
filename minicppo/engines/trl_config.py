"""`CPPOConfig`: a `GRPOConfig` that names a method, and refuses what would silently bias it."""

import json
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from trl import GRPOConfig

from minicppo.engines.trl_settings import LOSS_TYPES
from minicppo.rules import Method, get_method

HARMLESS_GENERATION_KWARGS = {"stop", "stop_token_ids", "seed"}


@dataclass
class CPPOConfig(GRPOConfig):
    """`GRPOConfig` with a method of the registry. The ratio's anchor is always the rollout's own log-probs.

    Other defaults than GRPOConfig's: the loss is summed over tokens and divided by the horizon, rewards are centred but
    not divided by their standard deviation (both as in the released CPPO recipes), dropout and TRL's own importance
    correction are off. TRL's clip needs no switching off: the ratio it sees is always one.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*GRPOConfig._VALID_DICT_FIELDS, "method_params"]

    method: str = field(default="cppo", metadata={"help": "A method that `minicppo methods` lists."})
    method_params: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Hyper-parameters of the method; those left out have its defaults."}
    )
    top_log_probs: int = field(
        default=20, metadata={"help": "K of Top-K divergences: mu's likeliest tokens that are kept."}
    )
    cells: int | None = field(default=None, metadata={"help": "The old name of top_log_probs."})
    rollout_batch: int | None = field(
        default=None, metadata={"help": "Prompts per forward pass when sampling without vLLM; null: all."}
    )
    loss_type: str = field(default="dr_grpo", metadata={"help": f"TRL's aggregation: one of {', '.join(LOSS_TYPES)}."})
    scale_rewards: str = field(default="none", metadata={"help": "none, group or batch, as in GRPOConfig."})
    disable_dropout: bool = field(default=True, metadata={"help": "Dropout would make every ratio random."})
    vllm_importance_sampling_correction: bool = field(
        default=False, metadata={"help": "Off: the method's own ratio is already taken to what vLLM sampled."}
    )

    def __post_init__(self) -> None:
        if isinstance(self.method_params, str):  # as the command line passes it
            self.method_params = json.loads(self.method_params)
        self.top_log_probs, self.cells = self.cells or self.top_log_probs, None
        super().__post_init__()
        self.resolved_method()
        require_unbiased(self)

    def resolved_method(self) -> Method:
        """The method with its hyper-parameters. Raises ValueError, naming the nearest, if there is none such."""
        assert not isinstance(self.method_params, str)
        return padded_to(self.max_completion_length, get_method(self.method, **(self.method_params or {})))


def padded_to(horizon: int | None, method: Method) -> Method:
    """`length="padded"` as the longest response allowed, so that it does not depend on what a micro-batch holds."""
    return replace(method, length=horizon) if method.params.get("length") == "padded" else method  # type: ignore[call-arg]


def require_unbiased(args: GRPOConfig) -> None:
    """Raise ValueError for a setting under which the loss would not be the method's: why, and the way out."""
    truncated = (
        "sampling then draws from another distribution than the one that is scored, and every ratio and divergence is "
        "biased. Way out: leave it at its default"
    )
    second_mask = "a second mask beside the method's. Way out: "
    refused = {
        "top_p": (args.top_p not in (None, 1.0), truncated),
        "top_k": (args.top_k not in (None, 0, -1), truncated),
        "min_p": (args.min_p not in (None, 0.0), truncated),
        "repetition_penalty": (args.repetition_penalty not in (None, 1.0), truncated),
        "generation_kwargs": (not set(args.generation_kwargs or {}) <= HARMLESS_GENERATION_KWARGS, truncated),
        "temperature": (args.temperature <= 0, "log-probs are those of the softmax at it. Way out: more than 0"),
        "beta": (
            args.beta != 0,
            "a KL penalty's gradient would pass the mask unmasked, and the paper uses none. Way out: beta=0.0",
        ),
        "loss_type": (
            args.loss_type not in LOSS_TYPES,
            "it weighs tokens by a rule of TRL's own, on top of the method's. Way out: name the rule as the method "
            f"(cispo and sapo are methods) and aggregate by one of {', '.join(LOSS_TYPES)}",
        ),
        "importance_sampling_level": (
            args.importance_sampling_level != "token",
            "it averages the gradient over a response. Way out: 'token'; sequence-level rules are methods (gspo, "
            "trm-max)",
        ),
        "off_policy_mask_threshold": (args.off_policy_mask_threshold is not None, f"{second_mask}None"),
        "top_entropy_quantile": (args.top_entropy_quantile != 1.0, f"{second_mask}1.0"),
        "vllm_importance_sampling_correction": (
            args.use_vllm and args.vllm_importance_sampling_correction,
            "it multiplies by pi_old / mu, which the method's ratio pi / mu holds already. Way out: False",
        ),
        "disable_dropout": (not args.disable_dropout, "dropout makes every ratio random. Way out: True"),
    }
    for name, (biased, message) in refused.items():
        if biased:
            raise ValueError(f"{name}={getattr(args, name)!r}: {message}")
