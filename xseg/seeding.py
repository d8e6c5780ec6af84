"""Random numbers keyed by what they are for, so that sharding, batching and restarts cannot change them."""

import hashlib

import numpy as np


def key_seed(seed: int, *key: object) -> int:
    """A 63-bit seed that depends only on `seed` and `key` (an image's id, a step, a draw's name...)."""
    text = "\x1f".join([str(seed), *map(str, key)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *key: object) -> np.random.Generator:
    """A NumPy generator for one purpose; equal arguments give equal draws on every machine."""
    return np.random.Generator(np.random.PCG64(key_seed(seed, *key)))
