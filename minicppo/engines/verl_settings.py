"""A run's configuration as settings of verl 0.9.1, by verl.yaml: checked by verl's own validation in the tests.

Read from verl's source and not run here: everything of vLLM and Megatron.
"""

import re
from pathlib import Path
from typing import Any

from minicppo.engines.refusals import ANCHOR, VERL, require_carried
from minicppo.engines.tables import derived_values, filled, is_megatron, tokens_per_gpu
from minicppo.rl.config import RunConfig
from minicppo.rules import METHODS

PIN = ">=0.9.1,<0.10"
TAKEN = ("cispo", "dro", "gspo", "sapo")  # names of losses of verl's own; ours stand beside them


def verl_methods() -> list[str]:
    """The methods verl can carry: those that need nothing but the sampled tokens' log-probs under two policies."""
    return [name for name, method in METHODS.items() if method.needs == "log_probs" and not method.corrects]


def loss_mode(name: str) -> str:
    """The name under which a method is registered with verl."""
    return f"minicppo-{name}" if name in TAKEN else name


def verl_overrides(config: RunConfig, run_dir: Path) -> list[str]:
    """The KEY=VALUE settings of `python -m verl.trainer.main_ppo` for a run. Raises ConfigError, with the ways out."""
    require_carried(config.model_copy(update={"engine": "verl"}))
    megatron, run_dir, values = is_megatron(config.cluster), run_dir.absolute(), derived_values(config)
    values |= {
        "loss_mode": loss_mode(config.method.name),
        "tokens_per_gpu": tokens_per_gpu(config),
        # verl's schedule takes a step a rollout batch, ours one an update
        "warmup_batches": -(-config.train.lr_warmup // values["updates"]),
        "loggers": ["console", *(name for name in config.log if name != "files")],
        "experiment": f"{config.name}-{config.method.name}",
        "train_file": str(run_dir / "data" / "train.parquet"),
        "eval_file": str(run_dir / "data" / "eval.parquet"),
        "checkpoints": str(run_dir / "checkpoints"),
    }
    table = VERL["settings"] | (VERL["megatron"] if megatron else {}) | ANCHOR
    rendered = [f"{key}={render(value)}" for key, value in filled(table, config, values).items()]
    return [*(["model_engine=megatron"] if megatron else []), *rendered, *config.cluster.overrides]


def render(value: Any) -> str:
    """A value in Hydra's override grammar.

    >>> render({"delta": 0.15, "ratio_cap": float("inf"), "gate": "hard", "files": ["a b", None, True]})
    "{delta:0.15,ratio_cap:inf,gate:hard,files:['a b',null,true]}"
    """
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{render(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(render, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_/][\w./:@-]*", value):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)
