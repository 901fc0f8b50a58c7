"""The one version of TRL that the adapter overrides the inside of."""

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from minicppo.text import install

PIN = ">=1.16,<1.17"


def require_pinned() -> None:
    """Raise ImportError, naming what is installed and the pin, unless TRL is a version that this code was tested on."""
    try:
        found = version("trl")
    except PackageNotFoundError:
        found = "none"
    if found == "none" or not SpecifierSet(PIN).contains(found, prereleases=True):
        raise ImportError(
            f"the TRL engine overrides methods inside GRPOTrainer and needs trl{PIN}; installed: {found}. "
            f"Way out: {install('trl')}"
        )
