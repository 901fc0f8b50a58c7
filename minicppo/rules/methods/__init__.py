"""Every method behind one interface: `get_method(name, **hyper)(batch) -> TokenWeights`. One file a kind of rule.

A new file in this folder is found by itself.
"""

import importlib
import pkgutil

from minicppo.rules.method import FAMILIES, METHODS, Method, get_method, masked_weights, register

__all__ = ["FAMILIES", "METHODS", "Method", "get_method", "masked_weights", "register"]

ORDER = ("grpo", "dppo", "trm", "cppo")  # as tables list them; other files follow
_found = sorted(module.name for module in pkgutil.iter_modules(__path__))
for _name in sorted(_found, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER)):
    importlib.import_module(f"{__name__}.{_name}")
