"""The one version of TRL that the adapter overrides the inside of."""

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

PIN = ">=1.16,<1.17"
# Settings of TRL's own optimiser and schedule: the engine makes both from `train`, so that these would change nothing.
WITHOUT_EFFECT = frozenset(
    "learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon optim optim_args lr_scheduler_type "
    "lr_scheduler_kwargs warmup_steps warmup_ratio".split()
)


def require_pinned() -> None:
    """Raise ImportError, naming what is installed and the pin, unless TRL is a version that this code was tested on."""
    try:
        found = version("trl")
    except PackageNotFoundError:
        found = "none"
    if found == "none" or not SpecifierSet(PIN).contains(found, prereleases=True):
        raise ImportError(
            f"the TRL engine overrides methods inside GRPOTrainer and needs trl{PIN}; installed: {found}. "
            "Way out: pip install 'minicppo[trl]'"
        )
