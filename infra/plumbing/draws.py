"""Draws that can be repeated: a generator named by a text. With NumPy, so no edge imports this."""

import hashlib

import numpy as np


def named_generator(*names: str) -> np.random.Generator:
    """The generator of these names: the same names give the same draws, on every node and at any time.

    For choices that are to be explained or replayed, never for privacy noise: who knows the names knows the draws.
    """
    digest = hashlib.blake2b("\x00".join(names).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest)))
