"""Seeds by name: every random decision draws from a stream of its own, so order and batching never matter."""

import hashlib

import numpy as np
import torch


def seed_for(seed: int, *names: str | int) -> int:
    """Derive a 63-bit seed from the run's seed and a path of names.

    Example:
        >>> seed_for(0, "shuffle", 3) == seed_for(0, "shuffle", 3)
        True
        >>> seed_for(0, "shuffle", 3) == seed_for(0, "shuffle", 4)
        False
    """
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_rng(seed: int, *names: str | int) -> np.random.Generator:
    """NumPy generator of the stream `names`."""
    return np.random.default_rng(seed_for(seed, *names))


def torch_rng(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Torch generator of the stream `names`, on `device`."""
    return torch.Generator(device=device).manual_seed(seed_for(seed, *names))
