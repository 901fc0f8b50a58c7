"""A study's configuration, and the grid of runs that it stands for."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from minicppo.rl.config import RunConfig, load_config
from minicppo.rl.sections import Name, Section
from minicppo.rl.settings_file import ConfigError, check_values, mistakes, read_settings
from minicppo.rules import get_method
from minicppo.text import nearest

Params = dict[str, Any]
RENAMED = [("rollout", "top_log_probs", "cells")]  # section, key, and what it was called when runs were first named
Winners = Mapping[str, Mapping[str, Params]]  # tuning part -> method -> the parameters chosen there


class Arm(Section):
    """A method with its hyper-parameters: given, one of `candidates` to choose among, or the choice of part `tuned`.

    again: an earlier part has equal runs, but they began at another policy (a warm-up rounds differently on another
    processor), so they are no partners of this part's others.
    """

    method: str
    params: Params = Field(default_factory=dict)
    candidates: list[Params] = Field(default_factory=list)
    tuned: str | None = None
    again: bool = False

    @model_validator(mode="after")
    def _check(self) -> Arm:
        if (self.tuned is not None) + bool(self.candidates) + bool(self.params) > 1:
            raise ValueError(f"method {self.method!r}: give one of params, candidates and tuned")
        for params in [self.params, *self.candidates]:
            try:
                get_method(self.method, **params)
            except TypeError as error:
                raise ValueError(str(error)) from None
        return self


class Seeds(Section):
    """`count` seeds from `first` on."""

    first: int = Field(0, ge=0)
    count: int = Field(ge=1)

    @property
    def all(self) -> range:
        return range(self.first, self.first + self.count)


class Part(Section):
    """Every arm in every setting with every seed, and the question that they answer."""

    title: str
    question: str
    seeds: Seeds
    settings: dict[str, list[str]] = Field({"": []})  # name -> overrides
    arms: dict[str, Arm]
    compare: dict[str, list[str]] = Field(default_factory=dict)  # arm -> those to compare it with; none: all others

    @model_validator(mode="after")
    def _check(self) -> Part:
        budgets = {len(arm.candidates) for arm in self.arms.values()}
        if len(budgets) > 1:
            raise ValueError(f"arms have {sorted(budgets)} candidates: tuning is fair with equally many for each")
        if self.tunes and len(self.settings) > 1:
            raise ValueError("thresholds are tuned in one setting: make a part of each")
        if self.tunes and len({arm.method for arm in self.arms.values()}) < len(self.arms):
            raise ValueError("each method is tuned once in a part: make a part of each way to tune it")
        for name in [*self.compare, *(other for others in self.compare.values() for other in others)]:
            if name not in self.arms:
                raise ValueError(f"compare: {name!r} is no arm{nearest(name, self.arms)}")
        return self

    @property
    def tunes(self) -> bool:
        return any(arm.candidates for arm in self.arms.values())

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The comparisons, each of two arms."""
        return [
            (first, second)
            for first, named in self.compare.items()
            for second in named or [arm for arm in self.arms if arm != first]
        ]


class StudyConfig(Section):
    """A study: parts that share a preset, some settings, and a folder for results."""

    name: Name
    preset: str
    settings: list[str] = Field(default_factory=list)  # overrides of the preset, for every run
    results: str  # folder of the table, the figures and the page
    choose: Literal["area", "worst", "final"] = "area"  # tuning takes the candidate with the highest IQM of this score
    parts: dict[Name, Part]  # figures are called after them

    @model_validator(mode="after")
    def _check(self) -> StudyConfig:
        tuning: dict[str, Part] = {}
        for name, part in self.parts.items():
            for label, arm in part.arms.items():
                if arm.tuned is None:
                    continue
                where, tuned = f"parts.{name}.arms.{label}", arm.tuned
                if tuned not in tuning:
                    raise ValueError(f"{where}: no earlier part {tuned!r} tunes anything{nearest(tuned, tuning)}")
                if arm.method not in {other.method for other in tuning[tuned].arms.values()}:
                    raise ValueError(f"{where}: part {tuned!r} does not tune {arm.method!r}")
                if set(tuning[tuned].seeds.all) & set(part.seeds.all):
                    told = "what was tuned on a seed is not tested by it"
                    raise ValueError(f"{where}: shares seeds with {tuned!r}: {told}")
            if part.tunes:
                tuning[name] = part
        return self


@dataclass(frozen=True)
class Cell:
    """One run's place in the grid."""

    part: str
    setting: str
    arm: str
    seed: int
    config: RunConfig
    again: bool = False

    @property
    def run(self) -> str:
        """The run's folder, named after all settings that are not defaults: cells with equal settings share one run.

        A setting that is new to the configuration, with a default that changes nothing, leaves old runs valid; so does
        one that is called otherwise now.
        """
        settings = self.config.model_dump(mode="json", exclude_defaults=True)
        for section, key, known_as in RENAMED:
            if key in settings.get(section, {}):
                settings[section][known_as] = settings[section].pop(key)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.config.method.name}-s{self.seed}-{digest}{'-again' if self.again else ''}"


def load_study(path: str | Path) -> StudyConfig:
    """Read a study's YAML file.

    Raises:
        ConfigError: no such file, unknown keys, or values that cannot work; one line for each.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}: studies are in configs/")
    settings = read_settings(path)
    check_values(settings)

    def explain(detail: Any) -> str:
        return f"{'.'.join(map(str, detail['loc'])) or path}: {detail['msg'].removeprefix('Value error, ')}"

    try:
        return StudyConfig.model_validate(settings)
    except ValidationError as error:
        raise mistakes(error, explain) from None


def selected(study: StudyConfig, only: Sequence[str]) -> list[str]:
    """The names of the parts to work on, in the order of the file.

    Raises:
        ConfigError: an unknown name.
    """
    for name in only:
        if name not in study.parts:
            raise ConfigError(f"there is no part {name!r}{nearest(name, study.parts)}")
    return [name for name in study.parts if not only or name in only]


def grid(study: StudyConfig, name: str, winners: Winners) -> list[Cell]:
    """The cells of a part, seed by seed, so that whatever is finished first is balanced over the arms.

    An arm that waits for a choice not in `winners` is left out.

    Raises:
        ConfigError: a setting that cannot run.
    """
    part, kinds = study.parts[name], []
    for setting, overrides in part.settings.items():
        for label, method, params in variants(study, name, winners):
            config = run_config(study, [*overrides, *method_overrides(method, params)])
            kinds.append((setting, label, config, label in part.arms and part.arms[label].again))
    return [
        Cell(name, setting, label, seed, config.model_copy(update={"seed": seed}), again)
        for seed in part.seeds.all
        for setting, label, config, again in kinds
    ]


def variants(study: StudyConfig, name: str, winners: Winners) -> list[tuple[str, str, Params]]:
    """The arms of a part with every candidate spelled out: (label, method, parameters)."""
    found = []
    for label, arm in study.parts[name].arms.items():
        if arm.tuned is not None:
            chosen = winners.get(arm.tuned, {}).get(arm.method)
            if chosen is not None:
                found.append((label, arm.method, dict(chosen)))
        elif arm.candidates:
            found += [(candidate_label(label, params), arm.method, params) for params in arm.candidates]
        else:
            found.append((label, arm.method, arm.params))
    return found


def candidate_label(arm: str, params: Params) -> str:
    """An arm's label with the values that tell its candidates apart: `CPPO delta=0.1 delta_b=0.02`."""
    return " ".join([arm, *(f"{key}={value}" for key, value in params.items())])


def run_config(study: StudyConfig, overrides: Sequence[str]) -> RunConfig:
    """A run of the study; all bear its name."""
    return _config(study.preset, (f"name={json.dumps(study.name)}", *study.settings, *overrides))


@functools.cache
def _config(preset: str, overrides: tuple[str, ...]) -> RunConfig:
    return load_config(preset, list(overrides))


def method_overrides(method: str, params: Params) -> list[str]:
    """A method as overrides; parameters that have the method's defaults are left out, so that equal runs look equal."""
    defaults = get_method(method).params
    told = {key: value for key, value in params.items() if defaults.get(key) != value}
    return [f"method={method}", *(f"method.params.{key}={json.dumps(value)}" for key, value in sorted(told.items()))]
