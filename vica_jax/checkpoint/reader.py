"""Reading a native checkpoint: as numpy leaves, or straight into jax shardings."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vica_jax.checkpoint.manifest import (
    PARAMS,
    Block,
    CheckpointError,
    Leaf,
    Manifest,
    read_manifest,
)
from vica_jax.checkpoint.parts import flatten, load_part, nest


def iter_leaves(
    folder: str | os.PathLike[str], paths: Collection[str] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Every leaf with its path, in the order written and bit for bit.

    One leaf and one part are in memory at a time. With ``paths`` only those leaves are
    read, in the order given.

    Raises:
      CheckpointError: the manifest (see ``read_manifest``) or a part is damaged, or
        there is no such leaf.
    """
    manifest = _chosen(folder, paths)
    for path, leaf, blocks in _iter_blocks(Path(folder), manifest):
        yield path, _whole(leaf, blocks)


def restore(
    folder: str | os.PathLike[str],
    *,
    shardings: Any = None,
    dtype: Any = None,
    paths: Collection[str] | None = None,
) -> dict[str, Any]:
    """The parameters as a nested dict of jax arrays, placed leaf by leaf.

    Host memory holds two parts (and, while a leaf larger than a part is assembled, this
    host's share of that leaf); a device receives its own share and nothing else. Each
    host reads the parts by itself.

    Args:
      folder: a native checkpoint.
      shardings: a nested dict of shardings with exactly the checkpoint's leaves, or a
        function ``(path, shape) -> sharding``. None: jax's default device.
      dtype: what floating leaves become: a dtype, or a function ``path -> dtype`` (None
        keeps the leaf's own). Other leaves keep theirs.
      paths: the leaves to read; None: all.

    Raises:
      CheckpointError: a part is missing or damaged, or ``shardings`` has other leaves.
    """
    import jax

    manifest = _chosen(folder, paths)
    sharding_of = _sharding_function(shardings, manifest, folder)
    params: dict[str, Any] = {}
    for path, leaf, blocks in _iter_blocks(Path(folder), manifest):
        wanted = _restored_dtype(dtype, path, leaf)
        sharding = sharding_of(path, leaf.shape)
        if sharding is None:
            array = jax.device_put(_whole(leaf, blocks).astype(wanted, copy=False))
        else:
            array = _place(leaf, blocks, wanted, sharding)
        if array.dtype != wanted:
            raise CheckpointError(
                f"{folder}: leaf {path} is {wanted}, which jax cuts to {array.dtype}: "
                "pass a dtype or set jax_enable_x64"
            )
        # Host memory stays bounded only if a copy has ended before the next begins.
        params[path] = jax.block_until_ready(array)
    return nest(params)


def _chosen(folder: str | os.PathLike[str], paths: Collection[str] | None) -> Manifest:
    """The folder's manifest, cut down to some leaves."""
    manifest = read_manifest(folder)
    if paths is None:
        return manifest
    if absent := [path for path in paths if path not in manifest.leaves]:
        raise CheckpointError(f"{folder}: no leaf {absent[0]}")
    leaves = {path: manifest.leaves[path] for path in paths}
    return replace(manifest, leaves=leaves)


class _Rows(NamedTuple):
    """A block that was read: rows start .. start + len(values) of its leaf."""

    start: int
    values: np.ndarray


def _iter_blocks(
    folder: Path, manifest: Manifest
) -> Iterator[tuple[str, Leaf, Iterator[_Rows]]]:
    """Leaves in the table's order, each with its blocks, which must be consumed."""
    members: dict[str, dict[str, tuple[Leaf, Block]]] = {}
    for path, leaf in manifest.leaves.items():
        for block in leaf.blocks:
            members.setdefault(block.part, {})[path] = leaf, block
    arrays: dict[str, np.ndarray] = {}

    def read(path: str, leaf: Leaf) -> Iterator[_Rows]:
        start = 0
        for block in leaf.blocks:
            if path not in arrays:
                arrays.clear()
                part, files = folder / PARAMS / block.part, manifest.parts[block.part]
                arrays.update(load_part(part, members[block.part], files))
            yield _Rows(start, arrays.pop(path))
            start += block.rows

    for path, leaf in manifest.leaves.items():
        yield path, leaf, read(path, leaf)


def _whole(leaf: Leaf, blocks: Iterator[_Rows]) -> np.ndarray:
    if len(leaf.blocks) == 1:
        return next(blocks).values
    whole = np.empty(leaf.shape, np.dtype(leaf.dtype))
    for start, values in blocks:
        whole[start : start + len(values)] = values
    return whole


def _place(leaf: Leaf, blocks: Iterator[_Rows], dtype: np.dtype, sharding: Any) -> Any:
    """A jax array of which each device gets its share, built from row blocks."""
    import jax

    if len(leaf.blocks) == 1:
        whole = next(blocks).values
        return jax.make_array_from_callback(
            leaf.shape, sharding, lambda index: whole[index].astype(dtype, copy=False)
        )
    key = lambda index: tuple(map(slice.indices, index, leaf.shape))
    shares = {}  # the distinct shares of this host's devices
    for index in sharding.addressable_devices_indices_map(leaf.shape).values():
        shape = [len(range(*bounds)) for bounds in key(index)]
        shares[key(index)] = index, np.empty(shape, dtype)
    for start, values in blocks:
        for (rows, *_), (index, share) in shares.items():
            low, high = max(rows[0], start), min(rows[1], start + len(values))
            if low < high:
                own = values[low - start : high - start][:, *index[1:]]
                share[low - rows[0] : high - rows[0]] = own
    return jax.make_array_from_callback(
        leaf.shape, sharding, lambda index: shares[key(index)][1]
    )


def _sharding_function(
    shardings: Any, manifest: Manifest, folder: Any
) -> Callable[[str, tuple[int, ...]], Any]:
    if shardings is None:
        return lambda path, shape: None
    if not isinstance(shardings, Mapping):
        return shardings
    table = dict(flatten(shardings))
    for path in manifest.leaves.keys() ^ table.keys():
        lacks = "the checkpoint lacks" if path in table else "no sharding is given for"
        raise CheckpointError(f"{folder}: {lacks} leaf {path}")
    return lambda path, shape: table[path]


def _restored_dtype(dtype: Any, path: str, leaf: Leaf) -> np.dtype:
    import jax.numpy as jnp

    own = np.dtype(leaf.dtype)
    if callable(dtype) and not isinstance(dtype, type):  # np.float32 is callable too
        dtype = dtype(path)
    if dtype is None or not jnp.issubdtype(own, jnp.floating):
        return own
    return np.dtype(dtype)
