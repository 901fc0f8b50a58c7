"""Plant a mutant: import the package afresh with one piece of one file's source replaced, beside the original."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tests.twins import Subject, original

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """`old` becomes `new` in one file; each of the properties `killers` must fail on the result."""

    name: str
    file: str  # "rules/loss.py"
    old: str
    new: str
    killers: tuple[str, ...]

    @property
    def package(self) -> str:
        return self.file.split("/")[0]

    @property
    def path(self) -> Path:
        return ROOT / "minicppo" / self.file

    def source(self) -> str:
        """The mutated text. Raises when `old` does not stand in the file exactly once."""
        text = self.path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise LookupError(f"mutant {self.name}: {self.old!r} stands {text.count(self.old)} times in {self.file}")
        return text.replace(self.old, self.new)


def mutants_of(file: str, *lines: tuple[str, str, str, str]) -> list[Mutant]:
    """Mutants of one file, each as (name, old, new, killers with blanks between)."""
    return [Mutant(name, file, old, new, tuple(killers.split())) for name, old, new, killers in lines]


def planted(mutant: Mutant) -> Subject:
    """The original subject with the mutant's package replaced by its mutated twin."""
    return replace(original(), **{mutant.package: _import_afresh(f"minicppo.{mutant.package}", mutant)})


def _import_afresh(package: str, mutant: Mutant) -> ModuleType:
    parent = importlib.import_module("minicppo")
    before = {name: m for name, m in sys.modules.items() if name == package or name.startswith(f"{package}.")}
    with _found_by(_Finder(package, mutant)):
        for name in before:
            del sys.modules[name]
        try:
            return importlib.import_module(package)
        finally:
            for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
                del sys.modules[name]
            sys.modules.update(before)
            setattr(parent, mutant.package, before[package])


@contextmanager
def _found_by(finder: Any) -> Iterator[None]:
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder:
    """Finds one package's modules before any import hook does: only results kill a mutant, not its types."""

    def __init__(self, package: str, mutant: Mutant) -> None:
        self.package, self.mutant = package, mutant

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name != self.package and not name.startswith(f"{self.package}."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin, self.mutant)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, mutant: Mutant) -> None:
        super().__init__(name, path)
        self.mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        if Path(self.path) == self.mutant.path:
            return compile(self.mutant.source(), self.path, "exec")
        return _compiled(self.path)


@functools.cache
def _compiled(path: str) -> CodeType:
    return compile(Path(path).read_text(encoding="utf-8"), path, "exec")
