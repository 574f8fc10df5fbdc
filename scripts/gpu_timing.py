"""What the parts of the GPU bench share: timing, memory, ceilings, random weights."""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Row = dict[str, Any]
"""A line of the table: ``name`` and numbers in SI units; see ``bench_gpu.COLUMNS``."""

# bfloat16 products as measured on an H100 and an H200, not a data sheet's figure: what
# floors and shares are counted from. Of the bandwidths likewise (bytes read + written).
REFERENCE_FLOPS = 790e12
_BANDWIDTHS = (("h200", 4.3e12), ("h100", 3.0e12))


class Skip(Exception):
    """A part that cannot be measured here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every part is told.

    ``reduced`` takes toy sizes, so that a CPU runs everything in a minute or two.
    ``repeats`` is how often a part is timed after its compilation, ``profile`` a folder
    for traces (empty: none), ``train_layers`` the depth of the training step's language
    model (0: as many as fit).
    """

    reduced: bool = False
    repeats: int = 5
    profile: str = ""
    train_layers: int = 0


def timed(run: Callable[[], Any], *, repeats: int, limit_s: float = 20.0) -> Row:
    """Seconds of ``run()`` until its arrays are there; the first call stands apart.

    ``compile_s`` is what the first call took beyond the median of the others, of which
    there are ``repeats``, or fewer (but two) once they have taken ``limit_s``.
    """
    first, seconds = _seconds(run), []
    while len(seconds) < repeats and (len(seconds) < 2 or sum(seconds) < limit_s):
        seconds.append(_seconds(run))
    median = statistics.median(seconds)
    return {
        "median_s": median,
        "min_s": min(seconds),
        "compile_s": max(first - median, 0.0),
        "runs": len(seconds),
    }


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def rated(row: Row, flops: float) -> Row:
    """The row with model FLOPs, their rate, and the floor at ``REFERENCE_FLOPS``."""
    rate = flops / row["median_s"]
    return row | {
        "flops": flops,
        "flops_per_s": rate,
        "share_of_reference": rate / REFERENCE_FLOPS,
        "floor_s": flops / REFERENCE_FLOPS,
    }


def bandwidth(device_kind: str) -> float | None:
    """Bytes per second of a device's memory, as measured on its kind; None: unknown."""
    found = (rate for word, rate in _BANDWIDTHS if word in device_kind.lower())
    return next(found, None)


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def compute_dtype() -> str:
    """bfloat16, but float32 on a CPU, which is slower with the other."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def device_memory() -> dict[str, int]:
    """Bytes in use, their peak since the process began, and the limit; where known."""
    stats = jax.devices()[0].memory_stats() or {}
    names = ("bytes_in_use", "peak_bytes_in_use", "bytes_limit")
    return {name: int(stats[name]) for name in names if name in stats}


def array_bytes(tree: Any) -> int:
    """Of arrays, or of ShapeDtypeStructs."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def random_params(
    shapes: Mapping[str, Any],
    dtype: jax.typing.DTypeLike | None = None,
    shardings: Any = None,
) -> Any:
    """Weights for a tree of shapes, drawn where they will lie, one leaf at a time.

    ``dtype`` None takes each leaf's own. Kernels, tables and biases are normal with
    deviation 0.02, scales of norms are 1. Stacked leaves are drawn layer by layer, so
    that no float32 copy of a stack ever exists.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(shapes)
    places = [None] * len(paths)
    if shardings is not None:
        places = jax.tree.leaves(shardings)
    drawn = []
    for number, ((path, leaf), place) in enumerate(zip(paths, places, strict=True)):
        names = [entry.key for entry in path]
        form = leaf.shape, jnp.dtype(dtype or leaf.dtype).name
        kind = names[-1] == "scale", "block" in names
        drawn.append(_draw(*form, *kind, place)(jax.random.key(number)))
    return jax.tree.unflatten(tree, drawn)


@functools.cache
def _draw(
    shape: tuple[int, ...], dtype: str, ones: bool, stacked: bool, place: Any
) -> Callable[[jax.Array], jax.Array]:
    """A jitted ``key -> array``; leaves of one form share the program."""

    def normal(key, shape):
        return (jax.random.normal(key, shape, jnp.float32) * 0.02).astype(dtype)

    def draw(key):
        if ones:
            return jnp.ones(shape, dtype)
        if not stacked:
            return normal(key, shape)
        keys = jax.random.split(key, shape[0])
        return jax.lax.map(lambda key: normal(key, shape[1:]), keys)

    return jax.jit(draw, out_shardings=place)
