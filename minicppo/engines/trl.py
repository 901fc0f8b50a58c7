"""The TRL engine: `GRPOTrainer` with any method of the registry in the place of its loss.

`CPPOTrainer` and `CPPOConfig` are drop-ins for `GRPOTrainer` and `GRPOConfig`; `train` and `resume` run our own
configurations (`engine: trl`). Importing this module fails on any other TRL than the pinned one.
"""

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from minicppo.engines.trl_settings import LOSS_TYPES, PIN
from minicppo.text import install


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


require_pinned()

from minicppo.engines.trl_config import CPPOConfig  # noqa: E402
from minicppo.engines.trl_run import resume, train  # noqa: E402
from minicppo.engines.trl_trainer import CPPOTrainer  # noqa: E402

__all__ = ["LOSS_TYPES", "CPPOConfig", "CPPOTrainer", "resume", "train"]
