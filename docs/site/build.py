"""The site: `python -m docs.site.build` (make site) writes build/site/html from executed notebooks and the pages.

    FULL=1 make site     # notebooks with the numbers of their texts; without it, smaller ones

Every page keeps its path in the repository, so that links among pages hold. A link to a file that is no page leads to
a page that shows that file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from sphinx.cmd.build import main as sphinx

from docs.site import pages
from docs.site.vendor import PACKAGES, fetched
from notebooks.run import EXECUTED
from notebooks.run import main as execute

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SOURCE, HTML = ROOT / "build" / "site" / "source", ROOT / "build" / "site" / "html"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#|mailto:|attachment:)([^)#\s]+)(#[^)\s]*)?\)")
PICTURES = (".png", ".svg")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".v": "coq", ".json": "json"}
# the contents: each part with its pages, in the order of the side bar
PARTS = {
    "Start": ["questions.md"],
    "Walkthroughs": ["notebooks/0*.ipynb"],
    "Use it": ["README.md", "docs/drop-in.md", "docs/inspect.md", "docs/watch.md", "docs/corrections.md",
               "docs/scale.md", "docs/demo-llm.md"],
    "Reference": ["docs/methods.md", "reference/*.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"],
    "API": ["api/*.md"],
    "Theory": ["theory/README.md", "theory/*.md", "theory/coq/README.md"],
    "Results": ["results/README.md", "results/llm/README.md", "results/first/README.md", "experiments/protocol.md",
                "REPRODUCTION.md", "experiments/benchmarks/README.md"],
}  # fmt: skip


def main() -> int:
    """Execute the notebooks and build; 0 where all went well."""
    os.environ.setdefault("MINICPPO_FAST", "0" if os.environ.get("FULL") else "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return execute([]) or build()


def build(notebooks: Path = EXECUTED) -> int:
    """Run Sphinx with every warning an error; its exit code. notebooks: the folder of the executed ones."""
    stage(notebooks)
    shutil.rmtree(HTML, ignore_errors=True)
    return int(sphinx(["-q", "-W", "--keep-going", "-d", str(HTML.parent / "doctrees"), str(SOURCE), str(HTML)]))


def stage(notebooks: Path) -> None:
    """Fill build/site/source."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for folder in ("static", "templates"):
        shutil.copytree(HERE / folder, SOURCE / f"_{folder}")
    shutil.copy(HERE / "conf.py", SOURCE)
    touchable(SOURCE / "_extra")
    vendored(SOURCE / "_static")
    for name, text in pages.generated().items():
        _write(SOURCE / name, text)
    for path in sorted((ROOT / "notebooks").glob("0*.ipynb")):
        _write(SOURCE / "notebooks" / path.name, shown(notebooks / path.name))
    for pattern in (pattern for part in PARTS.values() for pattern in part):
        for page in sorted(ROOT.glob(pattern)):
            if page.suffix == ".md":
                _write(SOURCE / page.relative_to(ROOT), page.read_text(encoding="utf-8"))
    _write(SOURCE / "questions.md", (HERE / "questions.md").read_text(encoding="utf-8"))
    _write(SOURCE / "index.md", (HERE / "index.md").read_text(encoding="utf-8") + contents())
    for page in [*SOURCE.rglob("*.md"), *SOURCE.rglob("*.ipynb")]:
        resolve(page)


def touchable(pages: Path) -> None:
    """The two pages that one touches. Of what they fetch, `vendored` puts pyodide beside them."""
    shutil.copytree(HERE / "extra", pages, dirs_exist_ok=True)
    for file, script in scripts().items():
        _write(pages / file, script)


def vendored(static: Path) -> None:
    """MathJax and pyodide, into the folder of what pages fetch."""
    for name in PACKAGES:
        shutil.copytree(fetched(name), static / "vendor" / name.rpartition("-")[0])


def scripts() -> dict[str, str]:
    """What the two pages that one touches are made of, as scripts, which also load where a page is opened as a file."""
    reference = ROOT / "minicppo" / "reference"
    files = {"minicppo/__init__.py": "", "minicppo/reference/__init__.py": ""}
    for path in (reference / f"{name}.py" for name in ("mask", "divergence", "loops")):
        files[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    for path in sorted((reference / "methods").glob("*.py")):
        files[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    return {
        "mask.js": (ROOT / "minicppo" / "inspect" / "mask.js").read_text(encoding="utf-8"),
        "run.js": f"const RUN = {(HERE / 'run.json').read_text(encoding='utf-8')};\n",
        "explorable/reference.js": f"const REFERENCE = {json.dumps(files)};\n",
    }


def shown(path: Path) -> str:
    """An executed notebook as its page: without the cells that only a code host needs."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    hidden = {"committed-figure", "install"}
    notebook["cells"] = [cell for cell in notebook["cells"] if not hidden & set(cell["metadata"].get("tags", []))]
    notebook["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}  # it knows % and !
    return json.dumps(notebook, indent=1)


def contents() -> str:
    """The side bar: one list a part."""
    lists = []
    for title, patterns in PARTS.items():
        found = [path.relative_to(SOURCE) for pattern in patterns for path in sorted(SOURCE.glob(pattern))]
        names = dict.fromkeys(path.with_suffix("").as_posix() for path in found)
        names = dict.fromkeys("The README <README>" if name == "README" else name for name in names)
        lists.append("\n".join([f"```{{toctree}}\n:hidden:\n:caption: {title}\n", *names, "```\n"]))
    return "\n".join(lists)


def resolve(page: Path) -> None:
    """Make every link of a page lead to a page or a picture inside the site; what is missing is copied in."""
    text = page.read_text(encoding="utf-8")
    here = page.parent.relative_to(SOURCE)

    def link(found: re.Match[str]) -> str:
        mark, label, target, anchor = found[1], found[2], found[3], found[4] or ""
        path = Path(os.path.normpath(ROOT / here / target))
        if not path.is_relative_to(ROOT) or not path.exists():
            return found[0]  # Sphinx says what is missing
        if path.is_relative_to(HERE / "extra"):  # to Sphinx no page
            return f"<a href='{_relative(path.relative_to(HERE / 'extra'), here)}'>{label}</a>"  # also in JSON
        inside = path.relative_to(ROOT)
        if path.suffix in PICTURES:
            (SOURCE / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, SOURCE / inside)
            return found[0]
        for candidate in (inside, inside / "README.md"):
            if (SOURCE / candidate).is_file():
                return f"{mark}[{label}]({_relative(candidate, here)}{anchor})"
        return f"[{label}]({_relative(_file_page(path), here)})"

    page.write_text(LINK.sub(link, text), encoding="utf-8")


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path, start)).as_posix()


def _file_page(path: Path) -> Path:
    """The page that shows a file, or the files of a folder."""
    inside = path.relative_to(ROOT)
    page = Path("files") / f"{inside.as_posix().replace('/', '-').strip('.')}.md"
    if not (SOURCE / page).exists():
        if path.is_dir():
            names = _names(path.iterdir())
            body = "\n".join(f"- `{name}`" for name in names)
        elif path.suffix in (".ipynb", ".parquet", ".safetensors"):
            body = "A data file of the repository."
        else:
            fence = "`" * 5
            language = LANGUAGES.get(path.suffix, "text")
            body = f"{fence}{language}\n{path.read_text(encoding='utf-8')}\n{fence}"
        _write(SOURCE / page, f"---\norphan: true\n---\n# `{inside.as_posix()}`\n\n{body}\n")
    return page


def _names(paths: Iterable[Path]) -> list[str]:
    return sorted(f"{path.name}/" if path.is_dir() else path.name for path in paths if path.name[0] not in "._")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
