"""Settings as YAML: read with bounds, since a file, or a value in it, may come from anywhere."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from minicppo.text import short

LONGEST_FILE = 100_000  # bytes; the largest that this repository has takes a tenth of that
LONGEST_TEXT = 10_000  # characters of one value
LARGEST = 2**63  # of whole numbers: beyond, no generator takes a seed
DEEPEST = 16  # levels of lists and mappings
SHOWN, LONGEST_LINE = 20, 1000  # mistakes named in an error, and characters of one


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the key, the value and the way out."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: `3e-4` is a number and not, as in YAML 1.1, a string. Dates are texts."""


# ... and its booleans: `off`, `no` and `on` are words, as in train.autocast=off.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("bool", "timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"true|false", re.I), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises ConfigError, in one line: it is none, or too long, if by aliases of aliases."""
    if len(text) > LONGEST_FILE:
        raise ConfigError(f"{len(text):,} characters are too many for settings, of which {LONGEST_FILE:,} are read")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        size = 0
        for part in _nodes(node):
            size += 1 + (len(part.value) if isinstance(part, yaml.ScalarNode) else 0)
            if size > 2 * LONGEST_FILE:  # without an alias, a node is at least a character of the text
                raise ConfigError("aliases that stand for more than a file may hold: write out what is meant")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else " ".join(str(error).split())
        raise ConfigError(where) from None
    except RecursionError:
        raise ConfigError("lists and mappings too deep in one another") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # a tag on what it cannot mean
        raise ConfigError(f"a value that its tag cannot mean ({type(error).__name__})") from None
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from None


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Raises ConfigError: it is too large, no YAML, or holds no mapping."""
    try:
        with open(path, "rb") as file:
            settings = parse_yaml(file.read(4 * LONGEST_FILE + 1).decode())
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if settings is None:
        raise ConfigError(f"{path} is empty")
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, got {type(settings).__name__}")
    return settings


def check_values(value: Any, key: str = "", depth: int = 0) -> None:
    """Raise ConfigError, naming the key, on a number that is not finite or very large, and on what is long or deep."""
    if depth > DEEPEST:
        raise ConfigError(f"{short(key)}: more than {DEEPEST} levels deep")
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise ConfigError(f"{key}: a text of {len(value):,} characters, more than {LONGEST_TEXT:,}")
    unlimited = value == math.inf and key.startswith("method.params.")  # a limit's default; the method checks whose
    if isinstance(value, float) and not math.isfinite(value) and not unlimited:
        raise ConfigError(f"{key} = {value}: a finite number is wanted")
    if isinstance(value, int) and not -LARGEST < value < LARGEST:
        raise ConfigError(f"{key}: a number of {value.bit_length()} bits, more than 63")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in items:
        if isinstance(value, dict) and not isinstance(name, str):
            raise ConfigError(f"{short(name)} under {key or 'settings'}: keys are texts; quote it")
        check_values(part, f"{key}.{name}" if key else str(name), depth + 1)


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for key, value in settings.items():
        yield from flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]


def mistakes(error: ValidationError, explain: Callable[[Any], str]) -> ConfigError:
    """What is wrong, a line for each thing; of a plugin that is not loaded, nothing that may be in it."""
    details = error.errors(include_url=False)
    details = [detail for detail in details if detail["loc"][:1] == ("plugins",)] or details
    lines = [line for detail in details[:SHOWN] for line in explain(detail).splitlines()]
    more = [f"and {error.error_count() - SHOWN} more"] if error.error_count() > SHOWN else []
    cut = (line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[-200:]}" for line in lines)
    return ConfigError("\n".join([*cut, *more]))


def _nodes(node: yaml.Node) -> Iterator[yaml.Node]:
    """A node and all below it, each as often as aliases repeat it: without end where one holds itself."""
    waiting = [node]
    while waiting:
        yield (node := waiting.pop())
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += (part for pair in node.value for part in pair)
