"""Every method behind one interface: `get_method(name, **hyper)(batch) -> TokenWeights`. One file a family of papers.

A new file in this folder is found by itself.
"""

import importlib
import pkgutil

from minicppo.rules.method import FAMILIES, METHODS, Method, get_method, masked_weights, register

__all__ = ["FAMILIES", "METHODS", "Method", "get_method", "masked_weights", "register"]

ORDER = "policy_gradient grpo cispo gspo sapo drpo dppo trm cppo".split()  # as tables list them; other files follow
_found = sorted(module.name for module in pkgutil.iter_modules(__path__))
for _name in [name for name in ORDER if name in _found] + [name for name in _found if name not in ORDER]:
    importlib.import_module(f"{__name__}.{_name}")
