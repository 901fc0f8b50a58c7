"""Every method behind one interface: `get_method(name, **hyper)(batch) -> TokenWeights`."""

from minicppo.rules.methods.registry import FAMILIES, METHODS, Family, Method, MethodSpec, get_method

__all__ = ["FAMILIES", "METHODS", "Family", "Method", "MethodSpec", "get_method"]
