"""Parts: the orbax checkpoints of bounded size that hold the leaves."""

import contextlib
import logging
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vica_jax.checkpoint.manifest import Block, CheckpointError, Leaf, rows_of
from vica_jax.typing import Params

PART_BYTES = 128 * 2**20


def save_part(
    part: Path, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Block], dict[str, int]]:
    """Write arrays by leaf path as one orbax checkpoint.

    Returns the blocks they make and the size of every file below ``part``.

    Raises:
      CheckpointError: the disk is full or fails.
    """
    try:
        with _orbax() as (ocp, checkpointer):
            checkpointer.save(part, args=ocp.args.PyTreeSave(nest(arrays)))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot write {part}: {first_line(error)}") from None
    blocks = {
        path: Block(part=part.name, rows=rows_of(array.shape), crc32=_crc32(array))
        for path, array in arrays.items()
    }
    files = [path for path in sorted(part.rglob("*")) if path.is_file()]
    return blocks, {f.relative_to(part).as_posix(): f.stat().st_size for f in files}


def load_part(
    part: Path, members: Mapping[str, tuple[Leaf, Block]], files: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Blocks of a part by leaf path; sizes, shapes, dtypes and CRC-32s are checked.

    ``members`` may leave out some of the part's leaves, which are then not read.

    Raises:
      CheckpointError: something is missing, damaged or not what the manifest says; the
        message names the part and the leaf.
    """
    # Before orbax: its reader leaves other reads in flight when one of them fails.
    _check_files(part, members, files)
    try:
        with _orbax() as (ocp, checkpointer):
            as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
            tree = checkpointer.restore(
                part,
                args=ocp.args.PyTreeRestore(
                    item=nest(dict.fromkeys(members, 0)),
                    restore_args=nest(dict.fromkeys(members, as_numpy)),
                    partial_restore=True,
                ),
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(part, _culprit(str(error), members), error) from None
    arrays = dict(flatten(tree))
    for path, (leaf, block) in members.items():
        array = arrays[path]
        shape = (block.rows, *leaf.shape[1:]) if leaf.shape else ()
        if (array.shape, array.dtype.name) != (shape, leaf.dtype):
            found = f"{array.dtype}{list(array.shape)}"
            wanted = f"{leaf.dtype}{list(shape)}"
            raise _damaged(part, f"leaf {path}", f"{found} instead of {wanted}")
        if _crc32(array) != block.crc32:
            raise _damaged(part, f"leaf {path}", "its values fail their checksum")
    return arrays


def _check_files(
    part: Path, members: Mapping[str, Any], files: Mapping[str, int]
) -> None:
    """Presence and size of the files of some leaves, and of those of the whole part."""
    if not part.is_dir():
        raise _damaged(part, _culprit("", members), "no such folder")
    wanted = {"", *map(_folder, members)}
    for name, size in files.items():
        file = part / name
        if name.rpartition("/")[0] not in wanted:
            continue
        if not file.is_file():
            raise _damaged(part, _culprit(name, members), f"{file.name} is missing")
        if (found := file.stat().st_size) != size:
            why = f"{file.name} has {found} bytes instead of {size}"
            raise _damaged(part, _culprit(name, members), why)


def _folder(path: str) -> str:
    """Orbax's folder of a leaf."""
    return path.replace("/", ".")


@contextlib.contextmanager
def _orbax() -> Iterator[tuple[Any, Any]]:
    """Orbax and a checkpointer, with its chatter on absl's logger held back.

    No compression: bfloat16 weights shrink by a fifth only, and take several times as
    long. No OCDBT: a part has a folder for each leaf, so that errors name the leaf.
    """
    import orbax.checkpoint as ocp
    from orbax.checkpoint import multihost

    chatter = logging.getLogger("absl")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    # A part is one process's matter: the first writes, and each reads what it holds.
    # Orbax would have all of them meet at every part.
    process = multihost.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}
    )
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, use_compression=False, multiprocessing_options=alone
    )
    checkpointer = ocp.Checkpointer(handler, multiprocessing_options=alone)
    try:
        with contextlib.closing(checkpointer):
            yield ocp, checkpointer
    finally:
        chatter.setLevel(level)


def _culprit(message: str, members: Mapping[str, Any]) -> str:
    """The leaf whose folder a file or a reader's message names, or the first."""
    named = [path for path in members if _folder(path) in message]
    if named:
        return f"leaf {max(named, key=len)}"
    first, *rest = members
    return f"leaf {first}" + (f" and {len(rest)} more" if rest else "")


def _damaged(part: Path, which: str, why: Exception | str) -> CheckpointError:
    return CheckpointError(
        f"{part}: cannot read {which}: {first_line(why)}: convert the checkpoint again"
    )


def first_line(error: Exception | str) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".,:")


def _crc32(array: np.ndarray) -> int:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a/b": x}`` -> ``{"a": {"b": x}}``."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *branches, last = path.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[last] = leaf
    return tree


def flatten(tree: Params, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a nested dict with their paths; the inverse of ``nest``."""
    for name, node in tree.items():
        if isinstance(node, Mapping):
            yield from flatten(node, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", node
