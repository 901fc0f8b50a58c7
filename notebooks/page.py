"""What every notebook here shares: fast mode, and figures that are shown and kept as files."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from importlib import import_module
from pathlib import Path

with warnings.catch_warnings(action="ignore"):  # it warns, once, that its bars are text where ipywidgets are missing
    import_module("tqdm.auto")

from IPython.display import Image
from matplotlib.figure import Figure

from minicppo.plots.style import save

FAST = os.environ.get("MINICPPO_FAST") == "1"  # smaller numbers: each notebook in well under 40 s
HERE = Path(__file__).parent
_SCRATCH = tempfile.TemporaryDirectory(prefix="minicppo-")  # gone with the kernel
SCRATCH = Path(_SCRATCH.name)
# Fast mode keeps no figure: its numbers are not those of the text.
FIGURES = SCRATCH if FAST else HERE / "figures"
os.environ.setdefault("MINICPPO_CACHE", str(HERE.parent / "runs" / ".cache"))  # one place for all warm-ups


def show(figure: Figure, name: str | None = None) -> Image:
    """The figure as a picture; with a name it is also FIGURES/NAME.png, for the page as a code host shows it."""
    if name is None:
        return Image(filename=str(save(figure, SCRATCH / "unnamed.png")))
    return Image(filename=str(save(figure, FIGURES / f"{name}.png", drawn_from(name))))


def drawn_from(name: str) -> str:
    """The digest that figure NAME bears: of its notebook's code and, for the comparison, of the study's results.

    Lines that import do not count: what is drawn stays the same where a module is renamed.
    """
    (page,) = HERE.glob(f"{name[:2]}_*.ipynb")
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in [*cell["source"], "\n"]]
    code = [line for line in lines if not line.startswith(("import ", "from "))]
    results = [(HERE.parent / "results" / "summary.json").read_text(encoding="utf-8")] if name[:2] == "06" else []
    return f"sha256 {hashlib.sha256(json.dumps([*code, *results]).encode()).hexdigest()}"
