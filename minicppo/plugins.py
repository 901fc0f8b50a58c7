"""Files of one's own that add methods and tasks without touching the library: `--plugin FILE.py`."""

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Import each file once. What it registers, methods with their loop twins or tasks, is then known by name.

    Raises ValueError, naming the file and the line, when there is no such file or it fails: a name that is taken, too.
    """
    for path in paths:
        file = Path(path).expanduser().resolve()
        name = f"minicppo_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None or not file.is_file():
            raise ValueError(f"plugin {path}: there is no such Python file; name a FILE.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(file)]
            line = error.lineno if isinstance(error, SyntaxError) else lines[-1]
            raise ValueError(f"plugin {path}, line {line}: {type(error).__name__}: {error}") from error
