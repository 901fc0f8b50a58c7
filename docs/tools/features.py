"""The table of what people use TRL with: read off the tests, which are not run here nor imported.

A test decorated with `@feature(name, verdict)` is a row, and so is each case `works(name, ...)` or `refused(name, ...)`
of a list that a test is parametrised with.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests" / "engines"
UNTESTED = (
    "vLLM itself, in this process or as a server: it wants a GPU; only its answers are tested",
    "images (vision models), with vLLM; our sampler refuses them",
    "quantised weights (QLoRA)",
    "sequence and context parallelism",
    "several nodes",
    "DeepSpeed ZeRO-2 and ZeRO-3, which accelerate 1.15 leaves out without a GPU: with that patched, two processes on "
    "a CPU once made the losses and masked shares of plain data parallelism (DeepSpeed 0.19.8), but no test holds it",
    "Liger kernels: they want a GPU; the interpreter of Triton 3.9 stops in those of Liger 0.8.5 (RMSNorm, SwiGLU)",
    "`enable_jit_checkpoint`, `torch_compile` with inductor",
)


def features() -> list[tuple[str, str, str, str]]:
    """(name, verdict, test, file) of every row, in the order of files and lines."""
    found = []
    for file in sorted(TESTS.glob("test_trl*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        named = {target.id: node for node in tree.body for target in _targets(node) if isinstance(target, ast.Name)}
        for test in tests:
            for decorator in test.decorator_list:
                rows = _rows(decorator, named)
                found += [(name, verdict, test.name, file.name) for name, verdict in rows]
    return found


def _targets(node: ast.stmt) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []


def _rows(tree: ast.AST, named: dict[str, ast.stmt]) -> Iterator[tuple[str, str]]:
    """Rows of an expression and of the lists of the module that it names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in named and isinstance(node.ctx, ast.Load):
            yield from _rows(named[node.id], named)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            words = [str(word.value) for word in node.args[:2] if isinstance(word, ast.Constant)]
            if node.func.id == "feature":
                yield words[0], words[1]
            elif node.func.id in ("works", "refused"):
                yield words[0], node.func.id


def features_table() -> str:
    """Each row with its test; at the end what is not tested."""
    rows = sorted(features(), key=lambda row: row[1], reverse=True)  # what works first
    lines = ["| feature | | shown by |", "|---|---|---|"]
    lines += [f"| {name} | {verdict} | [{test}](../tests/engines/{file}) |" for name, verdict, test, file in rows]
    return "\n".join([*lines, *(f"| {name} | untested | |" for name in UNTESTED)])
