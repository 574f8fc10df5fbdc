"""The training state: what is made at the start, placed on the mesh, and saved.

Trainable parameters are float32 masters with optimiser state; frozen ones are in the
compute dtype and in no checkpoint, because they are those of the base checkpoint. The
homogeneous stacks are held stacked (``models/stack``). Axes and shardings come from the
model's own declarations and the one rules table (``vica_jax.sharding``).
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vica_jax.checkpoint import read_manifest, restore
from vica_jax.errors import InputError
from vica_jax.models.config import VicaConfig
from vica_jax.models.vica import abstract_vica
from vica_jax.sharding import spec
from vica_jax.train.lora import LoraConfig, init_lora, lora_axes
from vica_jax.train.partition import (
    STACKS,
    assign,
    insert,
    leaves,
    merge,
    split,
    stacked_paths,
)
from vica_jax.typing import Params

LORA_GROUP = "lora"


class StateError(InputError):
    """A checkpoint that is not the model that is to be trained."""


class TrainState(struct.PyTreeNode):
    """Everything a step changes.

    ``step`` int32 scalar; ``params`` the trainable leaves, float32; ``rng`` uint32 key
    data, from which every step derives its own key.
    """

    step: Any  # Any: a state of shapes or of shardings has the same form
    params: Any
    opt_state: Any
    rng: Any


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Shapes, axes and groups of every leaf of a stage, before anything is allocated.

    All trees are nested dicts of stacked leaves; ``groups`` maps the path of a
    trainable leaf to the name of its rate.
    """

    cfg: VicaConfig
    groups: Mapping[str, str]
    trainable: Mapping[str, Any]  # ShapeDtypeStruct, float32
    frozen: Mapping[str, Any]  # ShapeDtypeStruct, compute dtype
    axes: Mapping[str, Any]  # logical axes of all of them
    lora: LoraConfig | None = None

    def shardings(self, tree: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
        """NamedShardings for a tree of this plan's leaves."""
        axes = dict(leaves(self.axes))
        placed: dict[str, Any] = {}
        for path, leaf in leaves(tree):
            sharding = NamedSharding(mesh, spec(axes[path], leaf.shape, mesh))
            insert(placed, path, sharding)
        return placed


def make_plan(
    cfg: VicaConfig,
    table: str,
    rates: Iterable[str],
    *,
    dtype: jax.typing.DTypeLike,
    lora: LoraConfig | None = None,
) -> Plan:
    """Which leaves train and which are frozen, from a stage's table.

    With LoRA the targeted leaves are frozen and their adapters trained.

    Raises:
      PartitionError: the table does not fit the model.
    """
    rates = [*rates]
    paths = [path for path, _ in leaves(abstract_vica(cfg)[0])]
    assigned = stacked_paths(assign(paths, table, rates, some=lora is None))
    shapes, axes = abstract_vica(cfg, scan=True)
    if lora is not None:
        adapters = jax.eval_shape(lambda: init_lora(shapes, lora, jax.random.key(0)))
        group = LORA_GROUP if LORA_GROUP in rates else "base"
        for path, _ in leaves(adapters):
            assigned[path.rpartition("/")[0] + "/kernel"] = None
            assigned[path] = group
        shapes, axes = merge(shapes, adapters), merge(axes, lora_axes(axes, lora))
    groups = {path: group for path, group in assigned.items() if group is not None}
    trainable, frozen = split(shapes, groups)

    def cast(tree, dtype):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)

    return Plan(
        cfg=cfg,
        groups=groups,
        trainable=cast(trainable, jnp.float32),
        frozen=cast(frozen, dtype),
        axes=axes,
        lora=lora,
    )


def load_leaves(folder: Any, plan: Plan, tree: Mapping[str, Any], mesh: Mesh) -> Params:
    """Leaves of a native checkpoint in the plan's dtypes, stacked and sharded.

    ``tree`` is the plan's trainable or frozen part (or both merged). Each layer's share
    goes straight to its devices; a stack exists twice only while it is put together.

    Raises:
      StateError: the checkpoint has other leaves or shapes than the model.
      CheckpointError: its weights are int8.
    """
    wanted = {p: x for p, x in leaves(tree) if not p.endswith(("lora_a", "lora_b"))}
    stored = {}  # path in the checkpoint: (path in the tree, layer)
    manifest = read_manifest(folder)
    manifest.check_float("training")
    for path, leaf in manifest.leaves.items():
        key = STACKS.sub(r"\1/block/\3", path)
        if key not in wanted:
            continue
        layer = int(found[2]) if (found := STACKS.fullmatch(path)) else None
        shape = wanted[key].shape[layer is not None :]
        if leaf.shape != shape:
            raise StateError(
                f"{folder}: leaf {path} has shape {list(leaf.shape)}, this model needs "
                f"{list(shape)}: start from a checkpoint of the same sizes"
            )
        stored[path] = key, layer
    if missing := wanted.keys() - {key for key, _ in stored.values()}:
        raise StateError(f"{folder}: lacks leaf {min(missing)} of this model")
    axes = dict(leaves(plan.axes))

    def sharding(path, shape):
        key, layer = stored[path]
        own = axes[key][layer is not None :]
        return NamedSharding(mesh, spec(own, shape, mesh))

    loaded = dict(
        leaves(
            restore(
                folder,
                shardings=sharding,
                dtype=lambda path: wanted[stored[path][0]].dtype,
                paths=list(stored),
            )
        )
    )
    placed: dict[str, Any] = {}
    members: dict[str, dict[int | None, str]] = {}
    for path, (key, layer) in stored.items():
        members.setdefault(key, {})[layer] = path
    for key, layers in members.items():
        if None in layers:
            insert(placed, key, loaded.pop(layers[None]))
            continue
        parts = [loaded.pop(layers[i]) for i in range(len(layers))]
        target = NamedSharding(mesh, spec(axes[key], wanted[key].shape, mesh))
        insert(placed, key, _stack_onto(target)(*parts))
    return placed


@functools.cache
def _stack_onto(target: NamedSharding) -> Callable[..., jax.Array]:
    """``jnp.stack`` onto devices; compiled once for all leaves of a shape."""
    return jax.jit(lambda *xs: jnp.stack(xs), out_shardings=target)


def abstract_state(
    plan: Plan, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """The state as ShapeDtypeStructs with shardings: what a restore is given."""
    placed = plan.shardings(plan.trainable, mesh)
    whole = NamedSharding(mesh, PartitionSpec())

    def put(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        put,
        jax.eval_shape(optimizer.init, plan.trainable),
        placed,
        transform_non_params=lambda x: put(x, whole),
    )
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    return TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
        params=jax.tree.map(put, plan.trainable, placed),
        opt_state=opt_state,
        rng=put(key, whole),
    )


def shardings_of(abstract: Any) -> Any:
    """The shardings of a tree of ShapeDtypeStructs."""
    return jax.tree.map(lambda x: x.sharding, abstract)


def init_state(
    base: Any,
    plan: Plan,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
) -> TrainState:
    """A fresh state whose parameters are those of the native checkpoint ``base``."""
    params = load_leaves(base, plan, plan.trainable, mesh)
    like = shardings_of(abstract_state(plan, optimizer, mesh))
    if plan.lora is not None:
        params = merge(params, _fresh_adapters(plan, mesh, seed))
    make: Callable[..., Any] = jax.jit(optimizer.init, out_shardings=like.opt_state)
    return TrainState(
        step=jax.device_put(jnp.zeros((), jnp.int32), like.step),
        params=params,
        opt_state=make(params),
        rng=jax.device_put(jax.random.key_data(jax.random.key(seed)), like.rng),
    )


def _fresh_adapters(plan: Plan, mesh: Mesh, seed: int) -> Params:
    assert plan.lora is not None
    config, shapes = plan.lora, merge(plan.trainable, plan.frozen)
    base = split(shapes, [p for p, _ in leaves(shapes) if "/lora_" not in p])[0]
    init = lambda key: init_lora(base, config, key)
    adapters = jax.eval_shape(init, jax.random.key(0))
    placed = plan.shardings(adapters, mesh)
    # Its own stream: the run's key serves dropout.
    key = jax.random.fold_in(jax.random.key(seed), 1)
    return jax.jit(init, out_shardings=placed)(key)
