"""What every notebook here shares: fast mode, and figures that are shown and kept as files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from IPython.display import Image
from matplotlib.figure import Figure

from minicppo.report.style import save

FAST = os.environ.get("MINICPPO_FAST") == "1"  # smaller numbers: each notebook in well under 40 s
HERE = Path(__file__).parent
os.environ.setdefault("MINICPPO_CACHE", str(HERE.parent / "runs" / ".cache"))  # one place for all warm-ups


def show(figure: Figure, name: str | None = None) -> Image:
    """The figure as a picture; with a name also figures/NAME.png, for the page as a code host shows it.

    Fast mode keeps no file: its numbers are not those of the text.
    """
    if name and not FAST:
        return Image(filename=str(save(figure, HERE / "figures" / f"{name}.png")))
    with tempfile.TemporaryDirectory() as folder:
        return Image(data=save(figure, Path(folder) / "figure.png").read_bytes())
