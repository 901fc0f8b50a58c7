"""Tests of the theory: minicppo.bounds and theory/."""
