"""minicppo: CPPO (arXiv 2606.10968) to learn, check, use and reproduce.

The public face is `cppo_mask`; `minicppo.rules` has every method, `minicppo.reference` the loops they are checked
against.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["CPPOMask", "Reason", "cppo_mask", "get_method", "group_advantages", "policy_loss"]

if TYPE_CHECKING:
    from minicppo.rules import CPPOMask, Reason, cppo_mask, get_method, group_advantages, policy_loss


def __getattr__(name: str) -> Any:
    """Import torch when it is first needed: the reference and `minicppo --help` do without."""
    if name not in __all__:
        raise AttributeError(f"module 'minicppo' has no attribute {name!r}")
    from minicppo import rules

    return getattr(rules, name)
