"""int8 for inference: weights by output channel, keys and values by token and head.

Symmetric: an element is ``scale`` times an integer of -127..127, and lies within half
a ``scale`` of what it was. Beside a kernel ``[in..., out...]`` of int8 stands its
``kernel_scale``, float32 ``[out...]``: ``x W = (x values) scale``, so that no float
copy of a kernel has to exist (``models/layers``). Quantised are the language model's
products and its output matrix, 7.1 of its 7.6 billion weights; embeddings (also where
they are tied), norms, biases, encoders and projectors stay as they are.
"""

import re
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vica_jax.errors import InputError
from vica_jax.typing import Params

SCALE = "kernel_scale"
KERNELS = re.compile(
    r"llm/(layers/\w+/(attn/[qkvo]_proj|mlp/(gate|up|down)_proj)|lm_head)/kernel"
)
# How many of a kernel's axes are inputs, where it is not one.
IN_AXES = {"o_proj": 2}
LARGEST = 127
PART = np.float32(1 / LARGEST)  # XLA divides by factors, and so does numpy here
# The least scale: a smaller one would be subnormal, which devices take for zero.
LEAST = float(np.finfo(np.float32).tiny)
BLOCK_BYTES = 2**26  # of float32 that numpy makes of a kernel at a time


class QuantizeError(InputError):
    """Weights that int8 cannot stand for."""


class Int8(NamedTuple):
    """Int8 ``values`` and float32 ``scale``, which lacks the axes that share one.

    Of a kernel these are the input axes, of keys and values the head's.
    """

    values: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape


MaybeInt8 = jax.Array | Int8


def to_int8(x: jax.Array, axes: tuple[int, ...] = (-1,)) -> Int8:
    """``x`` with one scale for all elements along ``axes``."""
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axes, keepdims=True) * PART
    scale = jnp.maximum(scale, LEAST)
    values = jnp.round(x * (1 / scale)).astype(jnp.int8)
    return Int8(values, scale.squeeze(axes))


def is_quantized(path: str) -> bool:
    """Whether the leaf of this path is one of those that int8 stands for."""
    return KERNELS.fullmatch(path) is not None


def scale_path(path: str) -> str:
    """Where the scale of a kernel stands."""
    return path.removesuffix("kernel") + SCALE


def quantize_kernel(path: str, kernel: Any) -> tuple[np.ndarray, np.ndarray]:
    """A kernel's int8 values and scale, by numpy and in blocks of rows.

    Raises:
      QuantizeError: an element is infinite or no number.
    """
    ins = in_axes(path)
    shape, first = kernel.shape, range(ins)
    rows = max(1, BLOCK_BYTES // (4 * max(prod(shape[1:]), 1)))
    blocks = [slice(i, i + rows) for i in range(0, shape[0], rows)]

    def block(part: slice) -> np.ndarray:
        return np.asarray(kernel[part]).astype(np.float32)

    top = np.zeros(shape[ins:], np.float32)
    for part in blocks:
        np.maximum(top, np.abs(block(part)).max(tuple(first)), out=top)
    if not np.isfinite(top).all():
        raise QuantizeError(
            f"{path}: an element is infinite or no number, which int8 cannot hold: "
            "convert without --quantize"
        )
    scale = np.maximum(top * PART, np.float32(LEAST))
    values, factor = np.empty(shape, np.int8), 1 / scale
    for part in blocks:
        values[part] = np.rint(block(part) * factor)
    return values, scale


def quantize(params: Params) -> dict[str, Any]:
    """Parameters with int8 kernels and their scales; jax arrays stay where they lie.

    Leaf by leaf; other leaves are taken over.

    Raises:
      QuantizeError: see ``quantize_kernel`` (numpy arrays).
    """

    def leaf(path: str, kernel: Any) -> dict[str, Any]:
        if isinstance(kernel, jax.Array):
            values, scale = _to_int8(kernel, tuple(range(in_axes(path))))
        else:
            values, scale = quantize_kernel(path, kernel)
        return {"kernel": values, SCALE: scale}

    return _mapped(params, leaf)


def dequantize(params: Params, dtype: Any = jnp.float32) -> dict[str, Any]:
    """The inverse of ``quantize`` up to rounding: kernels in ``dtype``, no scales."""
    tree: dict[str, Any] = {}
    for name, node in params.items():
        if isinstance(node, Mapping):
            tree[name] = dequantize(node, dtype)
        elif name != SCALE:
            tree[name] = node
    if SCALE in params:
        tree["kernel"] = (params["kernel"] * params[SCALE]).astype(dtype)
    return tree


def int8_form(shapes: Params, axes: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes and logical axes of a quantised model, from those of the model.

    Both are trees of ``abstract_params``.
    """

    def shape(path: str, leaf: Any) -> dict[str, Any]:
        form = jax.ShapeDtypeStruct
        return {
            "kernel": form(leaf.shape, jnp.int8),
            SCALE: form(leaf.shape[in_axes(path) :], jnp.float32),
        }

    def axis(path: str, leaf: Any) -> dict[str, Any]:
        return {"kernel": leaf, SCALE: leaf[in_axes(path) :]}

    return _mapped(shapes, shape), _mapped(axes, axis)


def in_axes(path: str) -> int:
    """How many of a kernel's leading axes are inputs (of one layer's, not stacked)."""
    return IN_AXES.get(path.split("/")[-2], 1)


_to_int8 = jax.jit(to_int8, static_argnums=1)


def _mapped(tree: Params, change: Any, prefix: str = "") -> dict[str, Any]:
    """A tree whose quantised leaves are replaced by what ``change(path, leaf)`` has."""
    changed: dict[str, Any] = {}
    for name, node in tree.items():
        path = f"{prefix}{name}"
        if isinstance(node, Mapping):
            changed[name] = _mapped(node, change, f"{path}/")
        elif is_quantized(path):
            changed |= change(path, node)
        else:
            changed[name] = node
    return changed
