"""Execute the notebooks from top to bottom: `python -m notebooks.run [NAME ...]`, all of them by default.

The executed copies go to build/notebooks and the files themselves stay as they are; the first cell that fails ends the
run with its traceback. `--figures` also draws the committed pictures again, and nothing else does. MINICPPO_FAST=1
takes smaller numbers.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

HERE = Path(__file__).parent
EXECUTED = HERE.parent / "build" / "notebooks"
CELL_SECONDS = 1800  # a cell that takes longer hangs; long, because the machine may have other work


def paths(names: list[str]) -> list[Path]:
    """The notebooks whose names start with any of `names`, all of them for none.

    Raises:
        SystemExit: a name fits no notebook.
    """
    found = sorted(HERE.glob("*.ipynb"))
    for name in names:
        if not any(path.name.startswith(name) for path in found):
            raise SystemExit(f"no notebook is called {name!r}; there are {', '.join(path.stem for path in found)}")
    return [path for path in found if not names or path.name.startswith(tuple(names))]


def execute(path: Path, progress: Progress | None = None, out: Path | None = None) -> float:
    """Run one notebook in a fresh kernel of this interpreter, from its own folder; returns seconds.

    out: a folder for the executed copy.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    task = progress.add_task(path.stem, total=cells) if progress else None

    def advance(cell: object, **event: object) -> None:
        if progress is not None and task is not None and getattr(cell, "cell_type", "") == "code":
            progress.advance(task)

    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        startup_timeout=CELL_SECONDS,  # of a kernel too
        kernel_name="python3",
        store_widget_state=False,  # a page that shows live sliders would load their scripts from a network
        extra_arguments=["--log-level=ERROR"],  # else each kernel warns that its local connection is not encrypted
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_complete=lambda cell, cell_index: advance(cell),
    )
    client.execute()
    if out is not None:
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                    cell.metadata["mystnb"] = {"image": {"alt": alt}}  # where the site looks for a picture's words
        out.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, out / path.name)
    return time.perf_counter() - start


def main(names: list[str], figures: bool = False, out: Path = EXECUTED) -> int:
    """Execute and report each; 1 if one failed."""
    os.environ["MINICPPO_FIGURES"] = "1" if figures else "0"  # read by page.py
    mode = "fast" if os.environ.get("MINICPPO_FAST") == "1" else "full"
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    for path in paths(names):
        try:
            with Progress(*columns, console=console, transient=True) as progress:
                seconds = execute(path, progress, out)
        except CellExecutionError as error:
            console.print(f"{path.stem}: failed\n{error}", markup=False, highlight=False)
            return 1
        console.print(f"{path.stem}: {seconds:.0f} s in {mode} mode", highlight=False)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a notebook's name or how it begins")
    parser.add_argument("--figures", action="store_true", help="write the committed pictures of notebooks/figures")
    parser.add_argument("--out", type=Path, default=EXECUTED, help="folder of the executed copies")
    sys.exit(main(**vars(parser.parse_args())))
