"""Every property the rules promise, and every plausible one that is false, in one registry."""

from tests.properties import differentiation, layout, mask, measures, methods, refuted
from tests.properties.registry import PROPERTIES, Property

__all__ = ["PROPERTIES", "Property", "differentiation", "layout", "mask", "measures", "methods", "refuted"]
