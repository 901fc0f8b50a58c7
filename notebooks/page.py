"""What every notebook here shares: fast mode, colours with one meaning, figures that are shown and kept as files."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from importlib import import_module
from io import BytesIO
from pathlib import Path

with warnings.catch_warnings(action="ignore"):  # it warns, once, that its bars are text where ipywidgets are missing
    import_module("tqdm.auto")

import PIL.Image
from IPython.display import Image
from matplotlib.figure import Figure
from PIL.PngImagePlugin import PngInfo

from minicppo.plots import style

FAST = os.environ.get("MINICPPO_FAST") == "1"  # smaller numbers, for tests
HERE = Path(__file__).parent
_SCRATCH = tempfile.TemporaryDirectory(prefix="minicppo-")  # gone with the kernel
SCRATCH = Path(_SCRATCH.name)
# The committed pictures are written by one command: python -m notebooks.run --figures. A reader's run changes no file,
# and fast mode keeps no figure: its numbers are not those of the text.
FIGURES = HERE / "figures" if os.environ.get("MINICPPO_FIGURES") == "1" and not FAST else SCRATCH
# Notebook 2 writes a reader's own mask here, notebook 7 races it; a test's run leaves a reader's file alone.
OWN_MASK = (SCRATCH if FAST else HERE.parent / "runs") / "my_mask.py"
os.environ.setdefault("MINICPPO_CACHE", str(HERE.parent / "runs" / ".cache"))  # one place for all warm-ups

# One colour, one meaning, in all notebooks. Rules are drawn with `style.line_styles`, which has the same colours.
COLOURS = {
    "none": style.BLACK,
    "PPO": style.PURPLE,
    "GRPO": style.PURPLE,  # its mask is PPO's
    "DPPO": style.GREEN,  # and its rule, one cap for all positions
    "CPPO": style.VERMILLION,
    "yours": style.YELLOW,
    "token test": style.BLUE,  # why a token is masked
    "budget": style.ORANGE,
    "mu": style.GREY,
    "pi": style.SKY,
    "truth": style.BLACK,  # what bounds are compared with
}
DOTS_PER_INCH = 112  # a figure's text of 9 points is then as large as the page's, 14 pixels


def show(figure: Figure, name: str = "unnamed", alt: str = "") -> Image:
    """The figure as a picture, with a text for those who cannot see it; FIGURES/NAME.png holds it."""
    folder = SCRATCH if name == "unnamed" else FIGURES
    source = "" if folder is SCRATCH else drawn_from(name)
    path = style.save(figure, folder / f"{name}.png", source, DOTS_PER_INCH)
    return Image(filename=str(path), alt=alt)


def animate(figures: list[Figure], name: str, alt: str) -> Image:
    """The same for a film of pictures, an animated PNG: once around and once again, then it stands still."""
    stills = [PIL.Image.open(BytesIO(show(figure).data)).convert("RGB") for figure in figures]
    palette = stills[0].quantize(64, method=PIL.Image.Quantize.MAXCOVERAGE)  # one for the whole film; white stays white
    stills = [still.quantize(palette=palette, dither=PIL.Image.Dither.NONE) for still in stills]
    path, source = FIGURES / f"{name}.png", PngInfo()
    if FIGURES is not SCRATCH:
        source.add_text("Source", drawn_from(name))
    stills[0].save(path, save_all=True, append_images=stills[1:], duration=700, loop=2, pnginfo=source)
    return Image(filename=str(path), alt=alt)


def drawn_from(name: str) -> str:
    """The digest that figure NAME bears: of its notebook's code and, for the comparison, of the study's results.

    Lines that import or install do not count: what is drawn stays the same where a module or the repository is renamed.
    """
    (page,) = HERE.glob(f"{name[:2]}_*.ipynb")
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    drawing = [cell["source"] for cell in cells if cell["cell_type"] == "code" and "tags" not in cell["metadata"]]
    lines = [line for source in drawing for line in [*source, "\n"]]
    code = [line for line in lines if not line.startswith(("import ", "from "))]
    compares = "comparison" in page.stem
    results = [(HERE.parent / "results" / "summary.json").read_text(encoding="utf-8")] if compares else []
    return f"sha256 {hashlib.sha256(json.dumps([*code, *results]).encode()).hexdigest()}"
