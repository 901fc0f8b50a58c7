"""What the site's pages run in a browser, fetched once by npm into build/vendor: MathJax, and pyodide."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENDOR = ROOT / "build" / "vendor"
# each package with its version, and the SHA-512 of its archive in base64
PACKAGES = {
    "mathjax-3.2.2": "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
    "pyodide-314.0.7": "0YvXxEhfEdpLfb/XkM2BFAeMROq0iMUX2bzzH9pOttyMcWkwq+HbE5uyuGD82LN7y2q+SNvi/6V5JEsOlD2R1A==",
}
# of each package, what the pages ask for
FILES = {
    "mathjax-3.2.2": ["es5/tex-svg-full.js", "LICENSE"],
    "pyodide-314.0.7": ["pyodide.js", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json"],
}


def fetched(name: str) -> Path:
    """The folder of one package's files, fetched where it is missing.

    Raises:
        RuntimeError: the archive is not the one whose digest stands here.
    """
    folder = VENDOR / name
    if not folder.is_dir():
        VENDOR.mkdir(parents=True, exist_ok=True)
        package, _, version = name.rpartition("-")
        subprocess.run(["npm", "pack", "--silent", f"{package}@{version}"], cwd=VENDOR, check=True)
        archive = VENDOR / f"{name}.tgz"
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != PACKAGES[name]:
            raise RuntimeError(f"{archive} has the SHA-512 {digest}, not {PACKAGES[name]}: remove it and try again")
        _unpack(archive, name)
        archive.unlink()
    return folder


def _unpack(archive: Path, name: str) -> None:
    scratch = VENDOR / f"{name}.part"
    scratch.mkdir(exist_ok=True)
    with tarfile.open(archive) as package:
        for file in FILES[name]:
            content = package.extractfile(f"package/{file}")
            assert content is not None
            (scratch / Path(file).name).write_bytes(content.read())
    scratch.rename(VENDOR / name)


if __name__ == "__main__":
    for each in PACKAGES:
        print(fetched(each).relative_to(ROOT))
