"""A 32-bit checksum of an array's bits: the same on any number of devices, or on disk.

Every word of the array (its bits, in C order) is hashed together with its position, and
the hashes are added modulo 2**32. A sum of integers has no order, so devices add up
what each of them holds, and a reader adds up the rows that it reads; a word that
changes alone always changes the sum. Hashing is murmur3's finaliser (a bijection).

CRC-32 is what files are checked with elsewhere; it runs over bytes in order, which no
device can do and no process that holds a share.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

_MIX = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
HOST_BYTES = 2**16  # up to this size a copy and numpy are faster than a compilation
_BLOCK = 2**16  # words hashed at a time: they stay in the processor's cache


def checksum(array: np.ndarray, start: int = 0) -> int:
    """The checksum of a numpy array.

    ``start`` is the position of its first element where it is a run of rows of a larger
    array; the sums of all runs, modulo 2**32, are that of the larger array.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.itemsize == 8:
        flat, start = flat.view(np.uint32), 2 * start
    words = flat.view(f"u{flat.dtype.itemsize}")
    total = 0
    for low in range(0, len(words), _BLOCK):
        hashes = words[low : low + _BLOCK].astype(np.uint32)
        position = np.arange(len(hashes), dtype=np.uint32)
        position += np.uint32((start + low) % 2**32)
        hashes ^= _hashed(position)
        total += int(_hashed(hashes).sum(dtype=np.uint64))
    return total % 2**32


def device_checksums(leaves: Mapping[str, Any]) -> dict[str, int]:
    """The checksum of every jax array, computed where it lies.

    Every process that holds a part of the arrays has to call this.
    """

    function = {True: lambda leaf: checksum(np.asarray(leaf)), False: _on_device()}
    return {path: int(function[_is_near(leaf)](leaf)) for path, leaf in leaves.items()}


def _is_near(leaf: Any) -> bool:
    """Whether numpy is the faster way; every process decides the same."""
    if not (leaf.is_fully_replicated or leaf.is_fully_addressable):
        return False
    first, *others = leaf.sharding.device_set
    return leaf.nbytes <= HOST_BYTES or (first.platform == "cpu" and not others)


def _hashed(words: Any) -> Any:
    """Murmur3's finaliser of uint32 words (numpy's in place)."""
    words ^= words >> 16
    words *= _MIX[0]
    words ^= words >> 13
    words *= _MIX[1]
    words ^= words >> 16
    return words


@cache
def _on_device() -> Any:
    import jax
    import jax.numpy as jnp
    from jax import lax

    def total(x):
        size = x.dtype.itemsize
        if x.dtype == jnp.bool_:
            x = x.astype(jnp.uint8)
        words = lax.bitcast_convert_type(x, f"uint{8 * min(size, 4)}")
        words = words.astype(jnp.uint32)
        position, stride = jnp.zeros(words.shape, jnp.uint32), 1
        for axis in reversed(range(words.ndim)):
            steps = lax.broadcasted_iota(jnp.uint32, words.shape, axis)
            position += steps * jnp.uint32(stride % 2**32)
            stride *= words.shape[axis]
        return jnp.sum(_hashed(words ^ _hashed(position)), dtype=jnp.uint32)

    return jax.jit(total)
