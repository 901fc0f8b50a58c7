"""The notebooks: no outputs in git, short cells, one page's shape, a sentence that is asserted; and they run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
PAGES = sorted(FOLDER.glob("*.ipynb"))
CODE_CELLS, CODE_LINES = 40, 20
FAST_SECONDS = 120  # of CPU time, on a busy machine; all nine together take less than three minutes on an idle one


@pytest.fixture(params=PAGES, ids=lambda path: path.stem)
def path(request):
    return request.param


def cells(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The cells of one kind, or all, with `source` as one text."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in found:
        cell["source"] = "".join(cell["source"])
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def text(path: Path) -> str:
    return "\n\n".join(cell["source"] for cell in cells(path, "markdown"))


def test_cells_are_few_short_named_and_without_outputs(path):
    code, ids = cells(path, "code"), [cell["id"] for cell in cells(path)]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len(code) < CODE_CELLS
    assert not {cell["id"] for cell in code if len(cell["source"].splitlines()) > CODE_LINES}
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", name) for name in ids)


def test_a_page_opens_with_what_a_reader_asks_and_leads_on(path):
    """What is learned and needed; links to the neighbours, to Colab and to Binder; and one install cell everywhere."""
    opening, install = (cell["source"] for cell in cells(path)[:2])
    assert opening.startswith(f"# {int(path.stem[:2])}. ")
    places = [opening.index(f"**{what}.**") for what in ("What you will learn", "What you need", "Minutes")]
    assert places == sorted(places)
    assert f"/blob/main/notebooks/{path.name}" in opening
    assert f"?labpath=notebooks/{path.name}" in opening
    before, after = PAGES[: PAGES.index(path)], PAGES[PAGES.index(path) + 1 :]
    for word, page in [*(("Previous", page) for page in before[-1:]), *(("Next", page) for page in after[:1])]:
        assert re.search(rf"\[{word}: {int(page.stem[:2])}\. [^]]+\]\({page.name}\)", opening)
    assert install == cells(PAGES[0])[1]["source"]


def test_links_to_unknown_addresses_are_hidden_until_one_command_sets_the_address(path, tmp_path):
    assert "OWNER" not in re.sub("<!--.*?-->", "", text(path))
    command = re.search(r"^perl .*$", (FOLDER.parent / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)[0]
    copy = tmp_path / "notebooks" / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert "OWNER" not in copy.read_text(encoding="utf-8")
    assert f"](https://colab.research.google.com/github/NAME/REPOSITORY/blob/main/notebooks/{path.name})" in text(copy)
    assert "<!--" not in text(copy)


def test_words_come_before_code_but_for_the_claim_which_is_asserted(path):
    """The first cell states one sentence; every heading has words below it, except that of the claim, checked last."""
    assert re.search(r"\*\*The claim\.\*\* \*[^*]+\*", cells(path)[0]["source"])
    bare = []
    for cell, after in zip(cells(path), cells(path)[1:], strict=False):
        *_, last = cell["source"].strip().splitlines()
        if (cell["cell_type"], after["cell_type"]) == ("markdown", "code") and last.startswith("#"):
            bare.append((last, after))
    ((heading, claim),) = bare
    assert heading == "## The claim, checked"
    assert claim in cells(path, "code")
    assert re.search(r"^\s*assert ", claim["source"], re.M)


def test_exercises_mark_themselves(path):
    """Three cells, each below its question, with dots for an answer; the page ends with where solutions are."""
    number, parts = int(path.stem[:2]), cells(path)
    at = {name: i for i, cell in enumerate(parts) for name in re.findall(r'^check\("([^"]+)"', cell["source"], re.M)}
    assert list(at) == [f"{number}.{i}" for i in (1, 2, 3)]
    assert all(f"**Exercise {name}.**" in parts[i - 1]["source"] for name, i in at.items())
    assert all("..." in parts[i]["source"] for i in at.values())
    assert f"(solutions/{number:02}.py)" in parts[-1]["source"]


def test_figures_and_links_exist(path):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text(path))
    assert all((FOLDER / link).exists() for link in links)
    shown = set(re.findall(r"!\[[^\]]+\]\(figures/([\w-]+)\.png\)", text(path)))
    code = "\n".join(cell["source"] for cell in cells(path, "code"))
    drawn = set(re.findall(rf'"({path.stem[:2]}-[\w-]+)(?:\.png)?"', code))
    assert shown == drawn, "every figure that a cell writes is shown in the text"
    assert shown == {figure.stem for figure in (FOLDER / "figures").glob(f"{path.stem[:2]}-*.png")}


def test_a_picture_stands_behind_its_code_with_words_for_it(path):
    """The copy for a code host does not give the result away, is marked as one, and has the cell's own words."""
    for before, cell in zip(cells(path), cells(path)[1:], strict=False):
        copies = re.findall(r"^!\[([^\]]+)\]\(figures/([\w-]+)\.png\)$", cell["source"], re.M)
        assert bool(copies) == ("committed-figure" in cell["metadata"].get("tags", []))
        for words, name in copies:
            assert f'"{name}"' in before["source"]
            assert len(words) > 40


def test_figures_are_of_the_code_that_draws_them(path):
    """`make notebooks` draws them again."""
    pytest.importorskip("IPython", reason="IPython is not installed: pip install -e .[dev]")
    from notebooks.page import drawn_from

    for figure in (FOLDER / "figures").glob(f"{path.stem[:2]}-*.png"):
        with Image.open(figure) as picture:
            drawn = picture.info.get("Source")
        assert drawn == drawn_from(figure.stem), f"run python -m notebooks.run {path.stem[:2]} --figures"


@pytest.mark.slow
def test_it_runs_in_fast_mode(path, monkeypatch):
    for package in ("nbclient", "ipykernel", *(("pyarrow",) if path.stem.endswith("comparison") else ())):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e .[dev,study]")
    from notebooks.run import execute

    monkeypatch.setenv("MINICPPO_FAST", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    before, start = content(), os.times()
    execute(path)
    assert os.times().children_user - start.children_user < FAST_SECONDS
    assert content() == before, "a run of a notebook changes no file of the repository"


def content():
    """Every file of the notebooks' folder, as bytes."""
    return {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        # what every notebook imports first costs a second, not the five of torch and transformers
        "import sys, page; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)",
        # without ipywidgets, as in some kernels, tqdm's warning would be the first output of each; of the first module
        # tqdm asks only whether it is there
        "import sys, IPython; sys.modules |= {'ipykernel.zmqshell': sys, 'ipywidgets': None}\n"
        "import page, minicppo.rl.trainer",
    ],
)
def test_notebooks_begin_at_once_and_without_a_warning(code):
    pytest.importorskip("IPython")
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, check=True)
    assert "IProgress" not in found.stderr
