"""The machine-checked statements: their page is their files, and Coq accepts them where it is installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from theory.coq import statements

ROOT = Path(__file__).resolve().parents[2]
AXIOMS = {
    "ClassicalDedekindReals.sig_forall_dec",
    "ClassicalDedekindReals.sig_not_dec",
    "FunctionalExtensionality.functional_extensionality_dep",
}
ASKED = {"lemma2", "prop4", "theorem1", "T2", "F3", "F4", "F7", "theoremB"}


def make_coq(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["make", "coq", *arguments], cwd=folder, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )


def test_page_is_the_files():
    """Regenerate with `python -m theory.coq.statements`."""
    page = statements.README.read_text(encoding="utf-8")
    assert statements.with_listing(page) == page
    assert ASKED <= {s.name for s in statements.statements()}


def test_a_changed_statement_changes_the_page(tmp_path, monkeypatch):
    shutil.copytree(statements.FOLDER, tmp_path / "coq")
    budget = tmp_path / "coq" / "Budget.v"
    budget.write_text(budget.read_text().replace("Rabs residual <= 2 * xi * (B * Rmin 1 B)", "Rabs residual <= xi"))
    monkeypatch.setattr(statements, "FOLDER", tmp_path / "coq")
    page = statements.README.read_text(encoding="utf-8")
    assert statements.with_listing(page) != page
    budget.write_text(budget.read_text().replace("(** F4, the path budget.", "(* F4."))
    with pytest.raises(ValueError, match=r"Budget\.v: no comment .* F4"):
        statements.statements()


def test_lost_markers_are_named():
    with pytest.raises(ValueError, match="lost its markers"):
        statements.with_listing("no list here")


def test_nothing_is_taken_for_granted():
    source = "\n".join(path.read_text(encoding="utf-8") for path in statements.files())
    assert not re.findall(r"\b(Admitted|admit|Axiom|Axioms|Parameter|Conjecture|Abort)\b", source)
    assert {path.name for path in statements.files()} == {path.name for path in statements.FOLDER.glob("*.v")}
    shown = re.findall(r"^Print Assumptions (\w+)\.", source, flags=re.M)
    assert sorted(shown) == sorted(s.name for s in statements.statements())


def test_make_says_what_to_install():
    done = make_coq(ROOT, "COQC=no-such-coqc")
    assert done.returncode != 0
    assert "apt-get install coq" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("coqc") is None, reason="Coq is not installed (apt-get install coq)")
def test_coq_accepts_every_proof(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(statements.FOLDER, tmp_path / "theory" / "coq", ignore=shutil.ignore_patterns("*.vo*", "*.glob"))
    done = make_coq(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Axioms:") == len(statements.statements())
    named = set(re.findall(r"^(\w+\.\w+)(?= :|$)", done.stdout, flags=re.M))
    assert named - {path.name for path in statements.files()} == AXIOMS
