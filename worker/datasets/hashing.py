"""Digests of arrays: one of the whole, which tells whether it is undamaged, and one per sample, which finds doubles."""

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint64]


def array_digest(array: NDArray[Any]) -> str:
    """Return the SHA-256 of type, shape and content, which does not depend on how numpy words a file's header."""
    digest = hashlib.sha256(repr((array.dtype.str, array.shape)).encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def sample_digests(samples: NDArray[Any]) -> Digests:
    """Return 64 bits of BLAKE2b of the content of each sample of `samples`, (N, ...), as uint64 (N,).

    Two of a million different samples have equal digests with a probability of 3e-8.
    """
    rows = np.ascontiguousarray(samples).reshape(len(samples), math.prod(samples.shape[1:])).view(np.uint8)
    digests = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
