"""The detached token weight g of every family of methods, one response at a time, straight from each paper's formula.

The policy gradient is sum_t g_t A_t grad log pi(y_t). File by file the twins of `minicppo.rules.methods`; a new file in
this folder is found by itself.
"""

import importlib
import pkgutil

from minicppo.reference.loops import LOOPS, Response, loop

__all__ = ["LOOPS", "Response", "loop"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
