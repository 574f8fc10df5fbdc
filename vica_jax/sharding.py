"""Logical axes, the one table that maps them to mesh axes, and the mesh itself.

A parameter declares its logical axes on the line that creates it (``declare``); the
model states constraints at block edges (``constrain``). Everything else about
distribution lives here. The mesh has up to three axes: ``data`` (replicas), ``fsdp``
(parameters and batch split), ``tensor`` (heads, MLP and vocabulary split). A mesh axis
that a mesh lacks, or that does not divide a dimension, is left out of that dimension's
sharding, so one table serves every mesh.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax import struct
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vica_jax.errors import InputError

MESH_AXES = ("data", "fsdp", "tensor")

RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "frames": ("data", "fsdp"),
    "embed": ("fsdp",),  # width of a parameter; activations keep their width whole
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "length": (),
    "head_dim": (),
    "layers": (),
    "position": (),
    "patch": (),
    "channels": (),
    "qkv": (),
}

Axes = tuple[str | None, ...]


class MeshError(InputError):
    """A mesh that cannot be made here; the message says what was asked and found."""


class _Declared(struct.PyTreeNode, nn.meta.AxisMetadata[Any]):
    """An initial value with its logical axes; unboxed before it leaves a module."""

    value: Any
    axes: Axes = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> "_Declared":
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "_Declared":
        return self.replace(axes=(*self.axes[:index], "layers", *self.axes[index:]))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "_Declared":
        return self.replace(axes=self.axes[:index] + self.axes[index + 1 :])


def declare(init: Callable[..., jax.Array], axes: Axes) -> Callable[..., Any]:
    """An initialiser whose parameter carries one logical axis per dimension."""
    for axis in axes:
        if axis is not None and axis not in RULES:
            raise ValueError(f"unknown logical axis {axis!r}; known: {sorted(RULES)}")

    def declared(key, shape, *args):
        if len(shape) != len(axes):
            raise ValueError(f"{len(axes)} axes {axes} for a shape of {shape}")
        return _Declared(value=init(key, shape, *args), axes=axes)

    return declared


def _is_declared(x: Any) -> bool:
    return isinstance(x, _Declared)


def abstract_params(init: Callable[[], Any]) -> tuple[Any, Any]:
    """Shapes and logical axes of the parameters ``init()`` would make.

    Returns two nested dicts of the same structure: ``jax.ShapeDtypeStruct`` leaves and
    tuples of logical axis names. Nothing is allocated.
    """
    boxed = jax.eval_shape(init)
    shapes = jax.tree.map(lambda x: x.value, boxed, is_leaf=_is_declared)
    axes = jax.tree.map(lambda x: x.axes, boxed, is_leaf=_is_declared)
    return shapes, axes


def unbox(params: Any) -> Any:
    """Plain arrays out of freshly initialised parameters."""
    return nn.meta.unbox(params)


def parse_mesh(text: str) -> dict[str, int]:
    """``"fsdp:2,tensor:4"`` -> ``{"fsdp": 2, "tensor": 4}``.

    Raises:
      MeshError: an axis is unknown, repeated, or its size is not a positive integer.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, size = part.partition(":")
        if name not in MESH_AXES or name in sizes or not size.isdigit() or size == "0":
            raise MeshError(
                f"--mesh: cannot read {part!r} in {text!r}; write axis:size pairs of "
                f"{', '.join(MESH_AXES)}, each once, such as fsdp:2,tensor:4"
            )
        sizes[name] = int(size)
    if not sizes:
        raise MeshError(f"--mesh: no axis in {text!r}; write such as fsdp:2,tensor:4")
    return sizes


def make_mesh(sizes: Mapping[str, int]) -> Mesh:
    """A mesh over the first devices, axes in the order data, fsdp, tensor.

    Axis types are Auto: under jax's default (Explicit) types constraints raise.

    Raises:
      MeshError: more devices are asked for than there are.
    """
    names = [name for name in MESH_AXES if name in sizes]
    shape = [sizes[name] for name in names]
    count = math.prod(shape)
    devices = jax.devices()
    if count > len(devices):
        asked = ",".join(f"{name}:{sizes[name]}" for name in names)
        raise MeshError(
            f"mesh {asked} needs {count} devices, there are {len(devices)} "
            f"({devices[0].platform}): take smaller axes"
        )
    return jax.make_mesh(
        shape,
        names,
        axis_types=(AxisType.Auto,) * len(names),
        devices=devices[:count],
    )


def spec(axes: Axes, shape: tuple[int, ...], mesh: Any) -> PartitionSpec:
    """Partition spec of one array: mesh axes that exist, divide, and are still free."""
    used: set[str] = set()
    entries: list[tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape, strict=True):
        chosen: list[str] = []
        for name in RULES[axis] if axis else ():
            ways = mesh.shape.get(name, 1)
            if ways == 1 or name in used or size % ways:
                continue
            chosen.append(name)
            used.add(name)
            size //= ways
        entries.append(tuple(chosen) or None)
    return PartitionSpec(*entries)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """State the sharding of an activation; nothing without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh))


def param_shardings(shapes: Any, axes: Any, mesh: Mesh) -> Any:
    """A NamedSharding per parameter, from the trees of ``abstract_params``."""
    return jax.tree.map(
        lambda s, a: NamedSharding(mesh, spec(a, s.shape, mesh)), shapes, axes
    )


def logical_sharding(
    axes: Axes, shape: tuple[int, ...], mesh: Mesh | None
) -> NamedSharding | None:
    """Where an array with these logical axes lies on ``mesh``; None without one."""
    return None if mesh is None else NamedSharding(mesh, spec(axes, shape, mesh))


def local_bytes(tree: Any) -> int:
    """Bytes of one device's share of ShapeDtypeStructs: all where unsharded."""
    return sum(
        math.prod(local_shape(x)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def local_shape(x: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """The shape of one device's share."""
    return x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)


def per_device(axis: str, size: int) -> int:
    """How many of ``size`` entries along a logical axis one device holds."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return size
    return NamedSharding(mesh, spec((axis,), (size,), mesh)).shard_shape((size,))[0]


def on_many_devices() -> bool:
    """Whether tracing happens under a mesh of more than one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.size > 1
