"""`CPPOConfig`: a `GRPOConfig` that names a method, and refuses what would silently bias it."""

import json
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from trl import GRPOConfig, GRPOTrainer

from minicppo.engines.trl_settings import LOSS_TYPES
from minicppo.rules import Method, get_method


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
    mismatch_limit: float | None = field(
        default=None,
        metadata={
            "help": "Most that log pi and log mu may differ, on average over the tokens of an update before which the "
            "policy has not moved: a first one beyond it stops the run, a later one warns. null: by precision, see "
            "minicppo.engines.trl_statistics."
        },
    )
    loss_type: str = field(default="dr_grpo", metadata={"help": f"TRL's aggregation: one of {', '.join(LOSS_TYPES)}."})
    scale_rewards: str = field(default="none", metadata={"help": "none, group or batch, as in GRPOConfig."})
    disable_dropout: bool = field(default=True, metadata={"help": "Dropout would make every ratio random."})
    vllm_importance_sampling_correction: bool = field(
        default=False, metadata={"help": "Off: the method's own ratio is already taken to what vLLM sampled."}
    )

    def __post_init__(self) -> None:
        if isinstance(self.method_params, str):  # as the command line passes it
            self.method_params = _read_params(self.method_params)
        self.top_log_probs, self.cells = self.top_log_probs if self.cells is None else self.cells, None
        super().__post_init__()
        self.resolved_method()
        require_unbiased(self)

    def resolved_method(self) -> Method:
        """The method with its hyper-parameters. Raises ValueError, naming the nearest, if there is none such."""
        assert not isinstance(self.method_params, str)
        return carried(get_method(self.method, **(self.method_params or {})), self.max_completion_length)


def _read_params(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
        if not isinstance(found, dict | None):
            raise ValueError(f"it is a {type(found).__name__}")
    except ValueError as error:
        raise ValueError(f"""method_params={text!r}: {error}. Way out: JSON such as '{{"delta": 0.15}}'""") from None
    return found


def carried(method: Method, horizon: int | None) -> Method:
    """The method with `length="padded"` as the longest response allowed, whatever a micro-batch holds.

    Raises ValueError where that has no limit, or the method corrects a pi_old that is not known.
    """
    if method.corrects:
        raise ValueError(f"method {method.name} corrects pi_old against mu, but here pi_old is mu: leave it out")
    if method.params.get("length") != "padded":
        return method
    if horizon is None:
        raise ValueError(f"{method.name} has length='padded'. Way out: max_completion_length=N, or another length")
    return method.having(length=horizon)


TRUNCATED = (
    "sampling then draws from another distribution than the one that is scored, and every ratio and divergence is "
    "biased. Way out: leave it at its default"
)
SAPO = "SAPO is a method here. Way out: method='sapo' and its method_params"
SECOND_MASK = "a second mask beside the method's. Way out: "
NO_EFFECT = "it would change nothing here. Way out: leave it at its default"
OWN_SAMPLER = f"minicppo's sampler takes the place of transformers', so that {NO_EFFECT}, or use_vllm=True"
# Fields that mean something to TRL's loss or sampler, of which nothing is left: refused unless at their default.
AT_DEFAULT = {
    "delta": "it is TRL's two-sided clip, not the method's threshold. Way out: method_params={'delta': ...}",
    "epsilon": "TRL's clip is not used. Way out: method='grpo', method_params={'clip_low': ..., 'clip_high': ...}",
    "epsilon_high": "TRL's clip is not used. Way out: method='grpo', method_params={'clip_high': ...}",
    "neftune_noise_alpha": "noise in the embeddings makes every ratio random. Way out: None",
    "importance_sampling_level": (
        "it averages the gradient over a response. Way out: 'token'; sequence-level rules are methods (gspo, trm-max)"
    ),
    "off_policy_mask_threshold": f"{SECOND_MASK}None",
    "top_entropy_quantile": f"{SECOND_MASK}1.0",
    "disable_dropout": "dropout makes every ratio random. Way out: True",
    "beta": "a KL penalty's gradient would pass the mask unmasked, and the paper uses none. Way out: beta=0.0",
    "vllm_structured_outputs_regex": TRUNCATED,
    **dict.fromkeys(("cache_implementation", "transformers_continuous_batching_config"), OWN_SAMPLER),
    **dict.fromkeys(("use_transformers_continuous_batching", "use_transformers_paged"), OWN_SAMPLER),
    **{f"sapo_temperature_{sign}": SAPO for sign in ("pos", "neg")},
    **{f"vespo_{name}_{sign}": f"VESPO's, {NO_EFFECT}" for name in ("k", "lambda") for sign in ("pos", "neg")},
    **{f"vllm_importance_sampling_{name}": NO_EFFECT for name in ("mode", "clip_max", "clip_min", "cap")},
    **dict.fromkeys(("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"), NO_EFFECT),
    "use_bias_correction_kl": NO_EFFECT,
}


def require_unbiased(args: CPPOConfig) -> None:
    """Raise ValueError for a setting under which the loss would not be the method's: why, and the way out."""
    defaults = {each.name: each.default for each in fields(args)}
    with_vllm, generation = args.use_vllm, set(args.generation_kwargs or {})
    known = generation <= {"stop", "stop_token_ids", "seed"}  # which bias nothing
    refused = {
        "top_p": (args.top_p not in (None, 1.0), TRUNCATED),
        "top_k": (args.top_k not in (None, 0, -1), TRUNCATED),
        "min_p": (args.min_p not in (None, 0.0), TRUNCATED),
        "repetition_penalty": (args.repetition_penalty not in (None, 1.0), TRUNCATED),
        "generation_kwargs": (
            not known or (generation and not with_vllm),
            "minicppo's sampler stops at end tokens alone, and is seeded by seed. Way out: none, or use_vllm=True"
            if known
            else TRUNCATED,
        ),
        "temperature": (args.temperature <= 0, "log-probs are those of the softmax at it. Way out: more than 0"),
        "loss_type": (
            args.loss_type not in LOSS_TYPES,
            "it weighs tokens by a rule of TRL's own, on top of the method's. Way out: name the rule as the method "
            f"(cispo and sapo are methods) and aggregate by one of {', '.join(LOSS_TYPES)}",
        ),
        "vllm_importance_sampling_correction": (
            with_vllm and args.vllm_importance_sampling_correction,
            "it multiplies by pi_old / mu, which the method's ratio pi / mu holds already. Way out: False",
        ),
        "max_completion_length": (
            args.max_completion_length is None and args.loss_type == "dr_grpo",
            "dr_grpo divides by it. Way out: a number of tokens, or another loss_type",
        ),
        "use_liger_kernel": (
            args.use_liger_kernel and hasattr(GRPOTrainer, "compute_liger_loss"),
            "before TRL 1.14 its loss is Liger's own, which knows no method. Way out: False, or a newer TRL",
        ),
        "top_log_probs": (args.top_log_probs < 1, "Top-K needs a token at least. Way out: K, such as 20"),
        **{name: (getattr(args, name) != defaults[name], message) for name, message in AT_DEFAULT.items()},
    }
    for name, (biased, message) in refused.items():
        if biased:
            raise ValueError(f"{name}={getattr(args, name)!r}: {message}")
