"""Which parameters train, and at which rate: a table of patterns.

``"hiera/.*=frozen, siglip/.*=siglip, .*=base"``: rows are tried in order and the first
whose regular expression matches a leaf's whole path decides. Every leaf must be
matched and every row must match something. The trainable part is split from the frozen
one before anything is differentiated, so frozen weights have neither gradients nor
optimiser state.

Paths are those of the checkpoint (``llm/layers/3/attn/q_proj/kernel``); training holds
the layers of a stack in one array, so they share one row.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vica_jax.errors import InputError

FROZEN = "frozen"
STACKS = re.compile(r"(.*/layers)/(\d+)/(.*)")  # homogeneous stacks, see models/stack


class PartitionError(InputError):
    """A stage table that does not fit the model; the message names row or leaf."""


def parse_table(text: str) -> list[tuple[str, str]]:
    """``"pattern=group, ..."`` -> rows (pattern, group).

    Raises:
      PartitionError: a row without ``=`` or with a broken regular expression.
    """
    rows = []
    for row in filter(None, (part.strip() for part in text.split(","))):
        pattern, separator, group = (part.strip() for part in row.rpartition("="))
        if not separator or not pattern or not group:
            raise PartitionError(
                f"trainable: cannot read the row {row!r}; write pattern=group, such as "
                "siglip/.*=siglip"
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise PartitionError(
                f"trainable: {pattern!r} is no regular expression ({error})"
            ) from None
        rows.append((pattern, group))
    if not rows:
        raise PartitionError("trainable: the table has no row")
    return rows


def assign(
    paths: Iterable[str], table: str, groups: Iterable[str], *, some: bool = True
) -> dict[str, str | None]:
    """The group of every leaf path, None where it is frozen.

    Where ``some`` is false (adapters train), every parameter may be frozen.

    Raises:
      PartitionError: a row matches nothing or names no group, a leaf is matched by no
        row, or nothing is left to train.
    """
    paths, rows, groups = list(paths), parse_table(table), [*groups]
    for pattern, group in rows:
        if group != FROZEN and group not in groups:
            raise PartitionError(
                f"trainable: the row {pattern}={group} names no rate: "
                f"{', '.join(groups)} or {FROZEN}"
            )
        if not any(re.fullmatch(pattern, path) for path in paths):
            raise PartitionError(
                f"trainable: the row {pattern}={group} matches no parameter of this "
                f"model (its parts: {', '.join(_parts(paths))})"
            )
    used = set()
    assigned: dict[str, str | None] = {}
    for path in paths:
        for i, (pattern, group) in enumerate(rows):
            if re.fullmatch(pattern, path):
                assigned[path] = None if group == FROZEN else group
                used.add(i)
                break
        else:
            raise PartitionError(
                f"trainable: no row matches {path}: end the table with .*=frozen or "
                "another row for it"
            )
    for i, (pattern, group) in enumerate(rows):
        if i not in used:
            raise PartitionError(
                f"trainable: the row {pattern}={group} is never reached: rows before "
                "it match all that it would"
            )
    if some and not any(assigned.values()):
        raise PartitionError("trainable: every parameter is frozen")
    return assigned


def stacked_paths(assigned: Mapping[str, str | None]) -> dict[str, str | None]:
    """The same for stacked trees (``llm/layers/block/...``).

    Raises:
      PartitionError: layers of one stack have different groups.
    """
    merged: dict[str, str | None] = {}
    for path, group in assigned.items():
        key = STACKS.sub(r"\1/block/\3", path)
        if merged.setdefault(key, group) != group:
            raise PartitionError(
                f"trainable: {path} has another group than the other layers of its "
                "stack: they are trained as one array and share a row"
            )
    return merged


def split(
    tree: Mapping[str, Any], trainable: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A nested dict as two: the leaves of the given paths, and the rest."""
    wanted = set(trainable)
    chosen: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for path, leaf in leaves(tree):
        insert(chosen if path in wanted else rest, path, leaf)
    return chosen, rest


def merge(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """One nested dict of the leaves of several that share none."""
    merged: dict[str, Any] = {}
    for tree in trees:
        for path, leaf in leaves(tree):
            insert(merged, path, leaf)
    return merged


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and leaves of a nested dict, depth first."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}/")
        else:
            yield path, value


def insert(tree: dict[str, Any], path: str, leaf: Any) -> None:
    """Set a leaf of a nested dict."""
    *parents, name = path.split("/")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[name] = leaf


def _parts(paths: Iterable[str]) -> list[str]:
    return sorted({path.split("/")[0] for path in paths})
