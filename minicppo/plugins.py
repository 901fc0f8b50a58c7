"""Files of one's own that add methods and tasks without touching the library: `--plugin FILE.py`.

A plugin is code. It is loaded because somebody typed its name, never because a configuration or a run names it.
"""

import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Import each file once. What it registers, methods with their loop twins or tasks, is then known by name.

    Raises ValueError, naming the file and the line, when there is no such file or it fails: a name that is taken, too.
    """
    for path in paths:
        file = Path(os.path.realpath(os.path.expanduser(path)))
        name = _module_name(file)
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None or not os.path.isfile(file):
            raise ValueError(f"plugin {path}: there is no such Python file; name a FILE.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(file)]
            line = error.lineno if isinstance(error, SyntaxError) else lines[-1]
            raise ValueError(f"plugin {path}, line {line}: {type(error).__name__}: {error}") from error


def require_loaded(paths: Iterable[str | Path]) -> list[str]:
    """The full paths of plugins that a configuration names.

    Raises ValueError for one that is not loaded: whoever trusts it says so.
    """
    files = [Path(os.path.realpath(os.path.expanduser(path))) for path in paths]
    for file in files:
        if _module_name(file) not in sys.modules:
            raise ValueError(f"{file} is code, and is run only on request: if you trust it, --plugin {file}")
    return [str(file) for file in files]


def _module_name(file: Path) -> str:
    return f"minicppo_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
