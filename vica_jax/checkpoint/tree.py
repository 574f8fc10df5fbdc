"""A training state as named arrays, and back.

Names say where a leaf lies in the state (``step``, ``params/newline``,
``opt_state/0/mu/newline``), whatever classes are around it: fields of dataclasses and
named tuples, keys of dicts and places in tuples all become words between slashes. Empty
nodes (None, optax's EmptyState) have no leaves and no names.

Typed random keys are stored as their integers.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import tree_flatten_with_path, tree_unflatten

from vica_jax.checkpoint.manifest import LEAF_PATH, CheckpointError
from vica_jax.checkpoint.step import SavedStep, StateLeaf


def stored_leaves(state: Any) -> dict[str, jax.Array]:
    """The arrays of a state by name, as they are stored.

    Raises:
      TypeError: a leaf is no jax array.
    """
    leaves = {}
    for path, leaf in _named(state):
        if not isinstance(leaf, jax.Array):
            raise TypeError(f"state leaf {path} is a {type(leaf)}, not a jax array")
        leaves[path] = _key_data(leaf)
    return leaves


def stored_form(like: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, dtype and sharding of every leaf of a state as it is stored.

    ``like`` has ShapeDtypeStructs (or arrays) for leaves; without a sharding one goes
    to jax's default device.
    """
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    forms = {}
    for path, leaf in _named(like):
        form = jax.eval_shape(_key_data, leaf) if _is_key(leaf) else leaf
        sharding = leaf.sharding or default
        forms[path] = jax.ShapeDtypeStruct(form.shape, form.dtype, sharding=sharding)
    return forms


def rebuild(leaves: Mapping[str, jax.Array], like: Any) -> Any:
    """The state of the form ``like`` with these leaves."""
    found = [_as_key(leaves[path], leaf) for path, leaf in _named(like)]
    return tree_unflatten(jax.tree.structure(like), found)


def check_same(saved: SavedStep, wanted: Mapping[str, Any]) -> None:
    """Refuse a step whose leaves are not those wanted, naming the first that differs.

    Raises:
      CheckpointError: it has other leaves, or one has another shape or dtype.
    """
    for path, leaf in wanted.items():
        own = StateLeaf(shape=leaf.shape, dtype=leaf.dtype.name, checksum=0)
        stored = saved.leaves.get(path)
        if str(stored) != str(own):
            there = f"is {stored} there" if stored else "is not there"
            raise _another(saved, f"{path} {there} and {own} in this run")
    for path, stored in saved.leaves.items():
        if path not in wanted:
            raise _another(saved, f"{path} is {stored} there and not in this run")


def _another(saved: SavedStep, what: str) -> CheckpointError:
    return CheckpointError(
        f"{saved.folder}: the state of another run: leaf {what}: resume with the "
        "settings it was saved with, or choose another folder"
    )


def _named(state: Any) -> list[tuple[str, Any]]:
    entries, _ = tree_flatten_with_path(state)
    named = [("/".join(map(_word, keys)), leaf) for keys, leaf in entries]
    for path, _ in named:
        if not LEAF_PATH.fullmatch(path):
            raise ValueError(
                f"{path!r} cannot name a leaf: take letters, digits and _ between /"
            )
    if len(dict(named)) < len(named):
        raise ValueError("two leaves of the state have one name")
    return named


def _word(key: Any) -> str:
    """The name of one step down a tree: a field, a dict's key or an index."""
    for name in ("name", "key", "idx"):
        if hasattr(key, name):
            return str(getattr(key, name))
    raise TypeError(f"{key!r} in a state has no name")


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _as_key(data: jax.Array, like: Any) -> jax.Array:
    """The inverse of ``_key_data``: a typed key where ``like`` is one."""
    if not _is_key(like):
        return data
    kinds = []
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), like)
    return _wrap(kinds[0], like.sharding)(data)


@cache
def _wrap(kind: Any, sharding: Any) -> Callable[[jax.Array], jax.Array]:
    wrap = partial(jax.random.wrap_key_data, impl=kind)
    return jax.jit(wrap, out_shardings=sharding)
