"""Randomness by purpose: every stream is a function of (seed, purpose, iteration), so none has to be stored."""

import hashlib
import random

import torch


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed; streams of different seeds, purposes or indices are unrelated."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def rng_for(seed: int, purpose: str, index: int = 0) -> random.Random:
    """A standard-library random stream."""
    return random.Random(derive_seed(seed, purpose, index))


def generator_for(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU torch generator."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, index))
