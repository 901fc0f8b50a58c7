"""A run's whole configuration: validated before any work, one YAML file, overridable key by key."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import ValidationError, field_validator, model_validator

from minicppo.plugins import require_loaded
from minicppo.rl.keys import keys, meant
from minicppo.rl.sections import (
    ClusterConfig,
    EvalConfig,
    MethodConfig,
    ModelConfig,
    Name,
    RolloutConfig,
    Section,
    TaskConfig,
    TrainConfig,
    WarmupConfig,
    key,
)
from minicppo.rl.settings_file import ConfigError, check_values, mistakes, parse_yaml, read_settings
from minicppo.rl.tasks import Task, make_task
from minicppo.rules import METHODS, Method, get_method
from minicppo.text import nearest, short

Engine = Literal["local", "trl", "verl"]
WANTED = {  # what is said of a value of the wrong kind
    "model_type": "this is a section, whose keys are set one by one, as {first}=VALUE",
    "list_type": "a list is wanted, as {key}=[{input}]",
    "dict_type": "a mapping is wanted, as {key}={{name: value}}",
}
PRESETS = Path(__file__).parent.parent / "presets"


class RunConfig(Section):
    """One run."""

    name: Name = key("run", "what its folder is called after")
    plugins: list[str] = key([], "Python files with methods and tasks of your own; a file names them, --plugin loads")
    engine: Engine = key("local", "local: the small trainer of this package; the others outgrow one device")
    seed: int = key(0, "of everything random but the evaluation and the warm-up", ge=0)
    device: str = key("auto", "auto: cuda if there is one, else cpu")
    log: list[Literal["files", "tensorboard", "wandb", "trackio", "mlflow"]] = key(
        ["files"], "where the run can be watched besides its own files, which are always written"
    )
    threads: int = key(1, "CPU threads; they too decide on the last bits of a run", ge=1)
    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    method: MethodConfig = MethodConfig()
    rollout: RolloutConfig = RolloutConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    warmup: WarmupConfig | None = None
    cluster: ClusterConfig = ClusterConfig()

    @field_validator("plugins")
    @classmethod
    def _load(cls, files: list[str]) -> list[str]:
        """Before the fields below are looked up; the paths are absolute from then on, so that a run can resume."""
        return require_loaded(files)

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, settings: Any) -> Any:
        """`train.minibatches` from `train.minibatch_prompts`, unless both are given."""
        train, rollout = (each if isinstance(each := settings.get(name), dict) else {} for name in ("train", "rollout"))
        size, prompts = train.get("minibatch_prompts"), rollout.get("prompts", RolloutConfig().prompts)
        if not isinstance(size, int) or size < 1 or not isinstance(prompts, int):
            return settings  # none is given, or refused below
        if prompts % size or train.get("minibatches") not in (None, prompts // size):
            raise ValueError(
                f"train.minibatch_prompts = {size} does not fit rollout.prompts = {prompts}"
                + (f" and train.minibatches = {train['minibatches']}" if train.get("minibatches") else "")
                + ": minibatches = prompts / minibatch_prompts; set one of the two to null or leave it out"
            )
        return {**settings, "train": {**train, "minibatches": prompts // size}}

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        if self.rollout.prompts % self.train.minibatches:
            raise ValueError(
                f"train.minibatches = {self.train.minibatches} must divide rollout.prompts = {self.rollout.prompts}: "
                "a minibatch holds whole groups"
            )
        if self.engine == "local" and self.train.micro_batch and self.make_method().level == "batch":
            raise ValueError(f"train.micro_batch: {self.method.name} decides over a whole minibatch, so set it to null")
        if self.device not in ("auto", "cpu") and not (self.device.startswith("cuda") and torch.cuda.is_available()):
            raise ValueError(f"device = {self.device!r} is not available here: use 'auto', 'cpu' or, on a GPU, 'cuda'")
        if self.engine == "local" and self.model.hub is not None:
            raise ValueError(
                f"model.path = {self.model.path!r} is a name on the Hugging Face hub, and engine = 'local' reads from "
                f"disk: `hf download {self.model.hub} --local-dir DIR` and model.path=DIR, or engine=trl or verl"
            )
        task = self.make_task()
        if self.model.path is None and not task.alphabet:
            raise ValueError(f"task {self.task.name!r} has no alphabet for a policy from scratch: set model.path")
        if self.warmup is not None and type(task).demonstration is Task.demonstration:
            raise ValueError(f"task {self.task.name!r} has no demonstrations to warm up on: set warmup to null")
        return self

    @property
    def prompts_per_update(self) -> int:
        """Prompts of a minibatch, each with its whole group."""
        return self.rollout.prompts // self.train.minibatches

    @property
    def rows_per_forward(self) -> int:
        """Responses of a forward pass that learns nothing: as many as one that does."""
        minibatch = self.prompts_per_update * self.rollout.group_size
        return min(self.train.micro_batch or minibatch, minibatch)

    def make_task(self) -> Task:
        """The task, fresh."""
        return make_task(self.task.name, **self.task.options)

    def make_method(self) -> Method:
        """The method; a "padded" length is that of the longest response allowed, whatever a minibatch holds."""
        params = dict(self.method.params)
        if get_method(self.method.name, **params).params.get("length") == "padded":
            params["length"] = self.max_new_tokens(self.make_task())
        return get_method(self.method.name, **params)

    @property
    def recomputes_old(self) -> bool:
        """Whether the trainer records pi_old, its own log-probs before an iteration's first update."""
        return (self.train.old_log_probs or ("recompute" if self.make_method().corrects else "rollout")) == "recompute"

    @cached_property
    def horizon(self) -> int:
        """The divisor of seq-mean-token-sum-norm."""
        return self.train.horizon or self.max_new_tokens(self.make_task())

    def max_new_tokens(self, task: Task) -> int:
        """Longest response, in tokens."""
        return self.rollout.max_new_tokens or task.max_new_tokens

    def resolved_device(self) -> torch.device:
        """The device that "auto" stands for."""
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(auto if self.device == "auto" else self.device)

    def autocast_dtype(self) -> torch.dtype | None:
        """The lower precision of forward passes; None for none."""
        on_gpu = self.resolved_device().type == "cuda"
        lower = {"auto": on_gpu, "native": on_gpu or has_native_bfloat16(), "off": False, "bfloat16": True}
        return torch.bfloat16 if lower[self.train.autocast] else None

    def rollout_dtype(self) -> torch.dtype | None:
        """The same of sampling, which may be less precise than scoring, as in serving engines; None for none."""
        if self.rollout.autocast == "same":
            return self.autocast_dtype()
        return torch.bfloat16 if self.rollout.autocast == "bfloat16" else None

    def to_yaml(self) -> str:
        """Every setting, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def has_native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; where it does not, float32 is several times as fast."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def load_config(preset_or_path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """A preset by name or a YAML file, with `a.b=value` overrides (values are YAML) applied in order.

    Naming a new task or method without its options drops the options of the old one: `method=grpo` is short for
    `method.name=grpo` with default parameters. Within a family the parameters stay that the new method does not itself
    set: `method=cppo-no-budget` keeps a preset's delta. `recipe=grpo` lays presets/recipes/grpo.yaml over the settings:
    the method with the normalisation and aggregation of its own paper.

    Raises ConfigError: no such preset, recipe or file, an unknown key, or a value that cannot work; with a way out.
    """
    name, file = str(preset_or_path), Path(os.path.expanduser(preset_or_path))
    if name in preset_names():
        file = PRESETS / f"{name}.yaml"
    elif not os.path.isfile(file):
        if file.suffix in (".yaml", ".yml"):
            raise ConfigError(f"there is no file {short(name)}")
        raise ConfigError(f"there is no preset or file {short(name)}{nearest(name, preset_names())}")
    settings = read_settings(file)
    named = {key: value for key, _, value in (override.partition("=") for override in overrides or [])}
    method = named.get("method", named.get("method.name"))
    if "recipe" in named and method is not None:
        raise ConfigError(f"recipe {named['recipe']!r} has a method of its own: leave it out, or method {method!r}")
    for override in overrides or []:
        _apply(settings, override)
    return validate(settings, begun=any((file.parent / "checkpoints").glob("*")))


def validate(settings: dict[str, Any], begun: bool = False) -> RunConfig:
    """The configuration of a settings dictionary. Raises ConfigError with one line for each thing that is wrong.

    begun: of a run with checkpoints, which needs the model that it began from no longer.
    """
    for section in ("task", "method"):
        if isinstance(settings.get(section), str):
            settings = {**settings, section: {"name": settings[section]}}
    check_values(settings)
    try:
        return RunConfig.model_validate(settings, context={"begun": begun})
    except ValidationError as error:
        raise mistakes(error, _explain) from None


def preset_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def recipe_names() -> list[str]:
    """Methods with the settings of their own papers, to lay over a preset."""
    return sorted(path.stem for path in (PRESETS / "recipes").glob("*.yaml"))


def _apply(settings: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in nested dictionaries, in place."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {short(override)} must have the form key=value, e.g. train.lr=3e-4")
    if key == "recipe":
        if text not in recipe_names():
            raise ConfigError(f"there is no recipe {short(text)}{nearest(text, recipe_names())}")
        recipe = read_settings(PRESETS / "recipes" / f"{text}.yaml")
        if not isinstance(train := settings.get("train", {}), dict):
            raise ConfigError(f"train = {short(train)}: a mapping is wanted")
        settings |= {"method": recipe["method"], "train": {**train, **recipe["train"]}}
        return
    *parents, leaf = key.split(".")
    node = settings
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {"name": node[parent]} if isinstance(node.get(parent), str) else {}
        node = node[parent]
    try:
        value = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"override {short(override)}: {short(text)} is not a YAML value ({error})") from None
    node[leaf] = _renamed(settings.get("method"), value) if key == "method" else value


def _renamed(old: Any, name: Any) -> Any:
    """The method of that name with what it inherits from the old one: parameters of the family it does not set."""
    if not isinstance(old, dict) or not isinstance(name, str) or {name, old.get("name")} - set(METHODS):
        return name
    new = METHODS[name]
    if METHODS[old["name"]].family != new.family:
        return name
    return {"name": name, "params": {k: v for k, v in old.get("params", {}).items() if k not in new.overrides}}


def _explain(detail: Any) -> str:
    """What is wrong by one pydantic error: the dotted key, the value, and what to do."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return "\n".join(meant(RunConfig, key, detail["input"]))
    message = str(detail["msg"]).removeprefix("Value error, ")
    if wanted := WANTED.get(detail["type"]):
        first = next((each.name for each in keys(RunConfig) if each.name.startswith(f"{key}.")), key)
        message = wanted.format(key=key, input=detail["input"], first=first)
        message += ", or warmup=null for none" if key == "warmup" else ""
    if detail["type"] == "value_error":
        return f"{key}: {message}" if key and not message.startswith(key) else message
    return f"{key} = {short(detail['input'])}: {message[:1].lower()}{message[1:]}"
