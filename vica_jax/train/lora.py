"""Low-rank adapters (LoRA, Hu et al. 2021) as a transform of the parameter tree.

An adapter is two leaves beside a kernel ``[in..., out...]``: ``lora_a [in..., r]`` and
``lora_b [r, out...]``, in a stack with the layers' axis in front. The layer computes
``x W + scale (dropout(x) A) B`` with ``scale = alpha / rank`` (``models/layers``), W
stays as it is. ``init_lora`` makes the leaves, ``attach`` puts them into a parameter
tree together with what is not trained (scale, dropout rate), and ``merge`` gives
ordinary kernels.

Initial values are PEFT's: A uniform within 1/sqrt(in) (Kaiming's with a = sqrt(5)), B
zero, so that training starts from the model as it is.
"""

import difflib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vica_jax.errors import InputError
from vica_jax.train.partition import insert, leaves
from vica_jax.train.partition import merge as merge_trees
from vica_jax.typing import Params

A, B, SCALE, DROPOUT = "lora_a", "lora_b", "lora_scale", "lora_dropout"
BLOCK = "/layers/block/"  # the stacked form of /layers/0/, /layers/1/, ...
# Kernels that an adapter cannot stand beside, and why.
EXCEPT = {
    "patch_embed": "a convolution",
    "lm_head": "the output matrix, which the loss reads in parts",
}
# How many of a kernel's axes are inputs, where it is not one (Linear's `contract`).
IN_AXES = {"o_proj": 2}


class LoraError(InputError):
    """Adapters that cannot be; the message names the setting or the target."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Rank r, scale ``alpha / rank``, dropout of the adapters' input, and where.

    ``targets`` are regular expressions for whole module paths of the checkpoint, such
    as ``llm/layers/.*/(q|k|v|o)_proj``; every module that one matches gets an adapter.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("llm/layers/.*/(q|k|v|o|gate|up|down)_proj",)

    def __post_init__(self):
        if self.rank < 1:
            raise LoraError(f"lora.rank must be at least 1, got {self.rank}")
        if not (isfinite(self.alpha) and self.alpha > 0):
            raise LoraError(f"lora.alpha must be positive, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise LoraError(f"lora.dropout must lie in [0, 1), got {self.dropout}")
        if not self.targets:
            raise LoraError("lora.targets is empty: name the modules to adapt")
        for pattern in self.targets:
            try:
                re.compile(pattern)
            except re.error as error:
                raise LoraError(
                    f"lora.targets: {pattern!r} is no regular expression ({error})"
                ) from None

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


# --------------------------------------------------------------------- targets
def find_targets(tree: Mapping[str, Any], config: LoraConfig) -> list[str]:
    """Module paths that get an adapter, in the tree's order.

    ``tree`` is a parameter tree (arrays, shapes or logical axes), stacked or not.

    Raises:
      LoraError: a pattern matches no module, one that is no matrix product, or only
        some layers of a stack, which are one array.
    """
    modules: dict[str, Any] = {}  # the kernel of every module, None where it has none
    for path, leaf in leaves(tree):
        module, _, name = path.rpartition("/")
        if name == "kernel" or module not in modules:
            modules[module or path] = leaf if name == "kernel" else None
    chosen = set()
    for pattern in config.targets:
        matched = [m for m, leaf in modules.items() if _matches(pattern, m, leaf)]
        if not matched:
            raise LoraError(
                f"lora.targets: {pattern!r} matches no module of this model; the "
                f"nearest is {_nearest(pattern, modules)!r}"
            )
        for module in matched:
            why = EXCEPT.get(module.rpartition("/")[2])
            if modules[module] is None or why:
                raise LoraError(
                    f"lora.targets: {pattern!r} matches {module}, which is no matrix "
                    f"product{f' to adapt ({why})' if why else ''}: name the modules "
                    "more closely, such as llm/layers/.*/(q|v)_proj"
                )
        chosen |= set(matched)
    return [module for module in modules if module in chosen]


def _matches(pattern: str, module: str, leaf: Any) -> bool:
    """Whether a pattern takes a module, layer by layer where they are stacked."""
    before, block, after = module.partition(BLOCK)
    if not block:
        return re.fullmatch(pattern, module) is not None
    # Axes have no sizes: all layers or none, so that the first speaks for them.
    depth = leaf.shape[0] if hasattr(leaf, "shape") else 1
    found = [
        re.fullmatch(pattern, f"{before}/layers/{i}/{after}") is not None
        for i in range(depth)
    ]
    if any(found) and not all(found):
        raise LoraError(
            f"lora.targets: {pattern!r} takes {sum(found)} of the {depth} layers of "
            f"{before}/layers/.*/{after}: they are trained as one array, so take all"
        )
    return all(found)


def _nearest(pattern: str, modules: Mapping[str, Any]) -> str:
    """The adaptable module most like a pattern, layer numbers as ``.*``."""
    shown = {
        re.sub(r"(?<=/)(\d+|block)(?=/)", ".*", module): None
        for module, leaf in modules.items()
        if leaf is not None and module.rpartition("/")[2] not in EXCEPT
    }
    (nearest,) = difflib.get_close_matches(pattern, shown, 1, 0) or [""]
    return nearest


def _in_axes(module: str) -> tuple[int, int]:
    """Where a kernel's input axes begin and end; before them is the layers' axis."""
    first = int(BLOCK in module)
    return first, first + IN_AXES.get(module.rpartition("/")[2], 1)


# ------------------------------------------------------------------ the leaves
def init_lora(
    params: Mapping[str, Any], config: LoraConfig, key: jax.Array
) -> dict[str, Any]:
    """Fresh adapters of a parameter tree (or its shapes): float32, nothing else.

    A layer's values depend on the key and its path alone: they are the same stacked or
    not, and whatever else is adapted.

    Raises:
      LoraError: see ``find_targets``.
    """
    kernels = dict(leaves(params))
    adapters: dict[str, Any] = {}
    for module in find_targets(params, config):
        shape = kernels[f"{module}/kernel"].shape
        first, last = _in_axes(module)
        layers, ins, outs = shape[:first], shape[first:last], shape[last:]
        bound = prod(ins) ** -0.5

        def draw(number, size=(*ins, config.rank), bound=bound):
            own = jax.random.fold_in(key, number)
            return jax.random.uniform(own, size, jnp.float32, -bound, bound)

        if layers:
            paths = [module.replace(BLOCK, f"/layers/{i}/") for i in range(layers[0])]
            a = jax.vmap(draw)(np.array([_number(path) for path in paths], np.uint32))
        else:
            a = draw(np.uint32(_number(module)))
        b = jnp.zeros((*layers, config.rank, *outs), jnp.float32)
        insert(adapters, f"{module}/{A}", a)
        insert(adapters, f"{module}/{B}", b)
    return adapters


def _number(path: str) -> int:
    return zlib.crc32(path.encode())


def lora_axes(axes: Mapping[str, Any], config: LoraConfig) -> dict[str, Any]:
    """Logical axes of the adapters, from those of the kernels.

    The rank is never split: A lies as the kernel's inputs do, B as its outputs.
    """
    kernels = dict(leaves(axes))
    placed: dict[str, Any] = {}
    for module in find_targets(axes, config):
        kernel = kernels[f"{module}/kernel"]
        first, last = _in_axes(module)
        insert(placed, f"{module}/{A}", (*kernel[:last], None))
        insert(placed, f"{module}/{B}", (*kernel[:first], None, *kernel[last:]))
    return placed


def attach(
    params: Params, adapters: Params, config: LoraConfig | None
) -> dict[str, Any]:
    """``params`` and ``adapters`` in one tree, as the model's layers read it.

    Beside every ``lora_a`` come its scale and, where it is not zero, the dropout rate:
    constants, which nothing differentiates. Leaves of ``adapters`` that are no adapters
    (trained whole) are taken over; without ``config`` there are only such.
    """
    together = merge_trees(params, adapters)
    if config is None:
        return together
    for path, a in list(leaves(together)):
        module, _, name = path.rpartition("/")
        if name != A:
            continue
        shape = a.shape[:1] if BLOCK in path else ()
        insert(together, f"{module}/{SCALE}", jnp.full(shape, config.scale))
        if config.dropout:
            insert(together, f"{module}/{DROPOUT}", jnp.full(shape, config.dropout))
    return together


# -------------------------------------------------------------------- merging
def merge(params: Params, adapters: Params, config: LoraConfig) -> dict[str, Any]:
    """``params`` with every adapter added to its kernel, as numpy arrays.

    Stacked or not, as long as both are. Leaves without an adapter come back as they
    are.
    """
    merged: dict[str, Any] = {}
    pairs = dict(leaves(adapters))
    for path, leaf in leaves(params):
        module, _, name = path.rpartition("/")
        if name == "kernel" and f"{module}/{A}" in pairs:
            a, b = pairs[f"{module}/{A}"], pairs[f"{module}/{B}"]
            leaf = merge_kernel(leaf, a, b, config.scale)
        insert(merged, path, leaf)
    return merged


def merge_kernel(kernel: Any, a: Any, b: Any, scale: float) -> np.ndarray:
    """``W + scale A B`` in float32, then in the kernel's own dtype.

    kernel ``[in..., out...]``, a ``[in..., r]``, b ``[r, out...]``; of a stack each has
    the layers' axis in front.

    Raises:
      LoraError: the three do not fit.
    """
    kernel, a, b = np.asarray(kernel), np.asarray(a), np.asarray(b)
    stacked = a.ndim + b.ndim - 2 - kernel.ndim
    rank, outs = a.shape[-1], b.shape[stacked + 1 :]
    if (
        stacked not in (0, 1)
        or kernel.shape != (*a.shape[:-1], *outs)
        or b.shape != (*a.shape[:stacked], rank, *outs)
    ):
        raise LoraError(
            f"a kernel {list(kernel.shape)} has no adapter of shapes {list(a.shape)} "
            f"and {list(b.shape)}"
        )
    if stacked:
        layers = zip(kernel, a, b, strict=True)
        return np.stack([merge_kernel(*layer, scale) for layer in layers])
    # As PEFT has it, [out, r] times [r, in]: the same sums to the last bit.
    a = np.ascontiguousarray(a.reshape(-1, rank).T, np.float32)
    b = np.ascontiguousarray(b.reshape(rank, -1).T, np.float32)
    delta = ((b @ a) * np.float32(scale)).T.reshape(kernel.shape)
    return (kernel.astype(np.float32) + delta).astype(kernel.dtype)
