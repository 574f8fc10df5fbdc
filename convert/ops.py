"""Rearrangements of axes between a Hugging Face tensor and ours, each with its inverse.

Axis letters: D width, N heads, K kv heads, H head dim, M mlp width, C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, Self

import numpy as np

from vica_jax.errors import InputError

Shape = tuple[int, ...]
BLOCK = 256  # side of the blocks in which a rearranged tensor is copied


class ConversionError(InputError):
    """A tensor that cannot be converted, or a table that does not fit."""


class Widened:
    """A bfloat16 or float16 array that reads as float32, a slice of rows at a time.

    The embedding of a 7B model is 1.1 GB in bfloat16 and 2.2 GB in float32: a cast of
    the whole would hold both.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, values: np.ndarray):
        self.values, self.shape = values, values.shape
        self.ndim, self.nbytes = values.ndim, values.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.values[rows].astype(self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.values.astype(dtype or self.dtype)


def widened(values: np.ndarray) -> Any:
    """``values`` as float32: itself, or a ``Widened``."""
    return values if values.dtype == Widened.dtype else Widened(values)


@dataclass(frozen=True)
class Op:
    """A rearrangement of axes that loses nothing.

    ``forward`` (HF to native) and ``inverse`` return views of contiguous arguments, so
    a conversion costs no memory beyond the tensor that was read.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x

    def inverse(self, x: np.ndarray) -> np.ndarray:
        return x

    def native_shape(self, hf_shape: Shape) -> Shape:
        return self.forward(_phantom(hf_shape)).shape

    def hf_shape(self, native_shape: Shape) -> Shape:
        return self.inverse(_phantom(native_shape)).shape

    def bind(self, sizes: Mapping[str, int]) -> Self:
        """The op with the axis letters in its fields replaced by numbers."""
        values = {f.name: axis_size(getattr(self, f.name), sizes) for f in fields(self)}
        return replace(self, **values)


class Identity(Op):
    """Vectors, norms and embeddings: unchanged."""


class Transpose(Op):
    """Linear weight: [out, in] <-> [in, out]."""

    def forward(self, x):
        return x.T

    def inverse(self, x):
        return x.T


@dataclass(frozen=True)
class SplitHeads(Op):
    """Projection into heads: [N*H, D] <-> [D, N, H]; its bias [N*H] <-> [N, H]."""

    heads: str | int

    def _parts(self) -> tuple[int, ...]:
        return (int(self.heads),)

    def forward(self, x):
        x = x.reshape(*self._parts(), x.shape[0] // prod(self._parts()), *x.shape[1:])
        return np.moveaxis(x, -1, 0) if x.ndim > len(self._parts()) + 1 else x

    def inverse(self, x):
        split = len(self._parts()) + 1
        if x.ndim == split:
            return x.reshape(prod(x.shape))
        x = np.moveaxis(x, 0, -1)
        return x.reshape(prod(x.shape[:split]), x.shape[split])


@dataclass(frozen=True)
class FusedQKV(SplitHeads):
    """Query, key and value in one: [3*N*H, D] <-> [D, 3, N, H]; bias [3, N, H]."""

    def _parts(self):
        return (3, int(self.heads))


@dataclass(frozen=True)
class MergeHeads(Op):
    """Projection out of heads: [D, N*H] <-> [N, H, D]."""

    heads: str | int

    def forward(self, x):
        return x.T.reshape(int(self.heads), x.shape[1] // int(self.heads), x.shape[0])

    def inverse(self, x):
        return x.reshape(x.shape[0] * x.shape[1], x.shape[2]).T


class Conv(Op):
    """Convolution kernel: [out, in, height, width] <-> [height, width, in, out]."""

    def forward(self, x):
        return x.transpose(2, 3, 1, 0)

    def inverse(self, x):
        return x.transpose(3, 2, 0, 1)


class PosEmbed(Op):
    """Position map: [1, C, height, width] <-> [height, width, C]."""

    def forward(self, x):
        return x[0].transpose(1, 2, 0)

    def inverse(self, x):
        return x.transpose(2, 0, 1)[None]


def contiguous(x: np.ndarray) -> np.ndarray:
    """``x`` in C order: itself where it is already, else a copy.

    Copies as integers and in blocks that keep both sides in the cache: on a large
    transposed bfloat16 matrix about four times faster than ``np.ascontiguousarray``,
    for which numpy copies elements one by one.
    """
    if x.flags.c_contiguous:
        return x
    bits = x.view(f"u{x.dtype.itemsize}")
    out = np.empty(x.shape, bits.dtype)
    columns = range(0, x.shape[-1], BLOCK) if x.ndim > 1 else [None]
    for top in range(0, x.shape[0], BLOCK):
        for left in columns:
            rows = (slice(top, top + BLOCK),)
            part = rows if left is None else (*rows, ..., slice(left, left + BLOCK))
            out[part] = bits[part]
    return out.view(x.dtype)


def _phantom(shape: Shape) -> np.ndarray:
    """An array of any shape that occupies one byte (all strides are zero)."""
    return np.broadcast_to(np.uint8(0), shape)


def axis_size(axis: str | int, sizes: Mapping[str, int]) -> int:
    """Size of an axis written as letters and numbers, such as ``"3*N*H"``."""
    if isinstance(axis, int):
        return axis
    try:
        return prod(int(a) if a.isdecimal() else sizes[a] for a in axis.split("*"))
    except KeyError as error:
        raise ConversionError(
            f"no size is given for axis {error} of {axis!r}"
        ) from None
