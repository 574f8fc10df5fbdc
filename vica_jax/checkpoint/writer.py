"""Writing a native checkpoint, leaf by leaf."""

import contextlib
import itertools
import logging
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vica_jax import __version__
from vica_jax.checkpoint.manifest import (
    FORMAT_VERSION,
    LEAF_PATH,
    MANIFEST,
    PARAMS,
    TOKENIZER,
    TOKENIZER_FILES,
    Block,
    CheckpointError,
    Family,
    Leaf,
    Manifest,
    ModelConfig,
    partial_folders,
    rows_of,
)
from vica_jax.checkpoint.parts import PART_BYTES, flatten, save_part
from vica_jax.typing import Params

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes a checkpoint leaf by leaf, in any order, two parts of memory at most.

    Usage::

        with CheckpointWriter(target) as writer:
            for path, array in leaves:
                writer.write(path, array)
            writer.copy_tokenizer(source)
            writer.finish(family="vica_qwen", config=config, hf_config=hf_config)

    ``target`` must not exist, or be an empty folder. ``expected_bytes`` (of all leaves)
    lets a disk that is too small be refused at once. For a single process.

    Raises:
      CheckpointError: the target is taken, a leaf cannot be stored, or the disk is full
        or fails. The unfinished folder is removed on this and any other exception.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        expected_bytes: int = 0,
        part_bytes: int = PART_BYTES,
    ):
        self.target = Path(target).resolve()
        self._expected = expected_bytes
        self._part_bytes = part_bytes
        self._pending: dict[str, np.ndarray] = {}
        self._shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        self._blocks: dict[str, list[Block]] = {}
        self._tokenizer: tuple[str, ...] = ()
        self._parts: dict[str, dict[str, int]] = {}
        self._finished = False

    def __enter__(self) -> "CheckpointWriter":
        target, parent = self.target, self.target.parent
        _check_free(target)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(parent).free
            if free < self._expected:
                raise CheckpointError(
                    f"{target}: needs {self._expected / 1e9:.1f} GB and the disk has "
                    f"{free / 1e9:.1f} GB free: free some or choose another disk"
                )
            if stale := partial_folders(target):
                log.warning(
                    "%s: an earlier conversion was interrupted, or still runs: remove "
                    "%s if none does",
                    target,
                    ", ".join(map(str, stale)),
                )
            self._folder = _make_partial(target)
        except OSError as error:
            raise CheckpointError(f"{target}: cannot write here: {error}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)  # gone already when finished
        if kind is None and not self._finished:
            raise RuntimeError(f"{self.target}: finish() was not called")

    def write(self, path: str, array: Any) -> None:
        """Store one leaf: a numpy array, memory map or jax array of any size.

        The array is read in row blocks, some of it only when a later leaf or
        ``finish`` fills the part: leave its values alone until then.
        """
        shape, dtype = tuple(array.shape), np.dtype(array.dtype)
        self._check_path(path)
        if not prod(shape):
            raise CheckpointError(f"leaf {path} of shape {shape} is empty")
        if dtype.hasobject or not dtype.isnative:
            raise CheckpointError(f"leaf {path} has the dtype {dtype}, not a plain one")
        self._shapes[path] = shape, dtype.name
        self._blocks[path] = []
        rows = rows_of(shape)
        row_bytes = prod(shape) // rows * dtype.itemsize
        step = max(1, self._part_bytes // row_bytes)
        for start in range(0, rows, step):
            whole = step >= rows
            block = np.asarray(array if whole else array[start : start + step])
            held = sum(a.nbytes for a in self._pending.values())
            if self._pending and held + block.nbytes > self._part_bytes:
                self._flush()
            # A view of a transposed array is made contiguous block by block.
            self._pending[path] = np.asarray(block, order="C")

    def write_tree(self, params: Params) -> None:
        """``write`` every leaf of a nested dict."""
        for path, array in flatten(params):
            self.write(path, array)

    def copy_tokenizer(self, folder: str | os.PathLike[str]) -> tuple[str, ...]:
        """Copy the tokenizer files that ``folder`` has and return their names."""
        names = {n for n in TOKENIZER_FILES if Path(folder, n).is_file()}
        if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
            raise CheckpointError(
                f"{folder}: no tokenizer here: neither tokenizer.json nor vocab.json "
                "and merges.txt"
            )
        self._tokenizer = tuple(n for n in TOKENIZER_FILES if n in names)
        try:
            (self._folder / TOKENIZER).mkdir()
            for name in self._tokenizer:
                shutil.copyfile(Path(folder, name), self._folder / TOKENIZER / name)
        except OSError as error:
            raise CheckpointError(f"cannot copy the tokenizer: {error}") from None
        return self._tokenizer

    def finish(
        self,
        *,
        family: Family,
        config: ModelConfig | None,
        hf_config: Mapping[str, Any] | None = None,
        generation_config: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Write what is pending and the manifest, then rename the folder to ``target``.

        The version of this package and the date join the ``provenance``.
        """
        self._flush()
        leaves = {
            path: Leaf(shape=shape, dtype=dtype, blocks=tuple(self._blocks[path]))
            for path, (shape, dtype) in self._shapes.items()
        }
        made = {
            "vica_jax": __version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        manifest = Manifest(
            folder=self.target,
            format_version=FORMAT_VERSION,
            family=family,
            config=config,
            hf_config=_copied(hf_config),
            generation_config=_copied(generation_config),
            provenance={**made, **(provenance or {})},
            tokenizer=self._tokenizer,
            leaves=leaves,
            parts=self._parts,
        )
        _check_free(self.target)
        try:
            with open(self._folder / MANIFEST, "w", encoding="utf-8") as file:
                file.write(manifest.to_json())
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                self.target.rmdir()
            self._folder.rename(self.target)
        except OSError as error:
            raise CheckpointError(f"cannot write {self.target}: {error}") from None
        self._finished = True
        return manifest

    def _check_path(self, path: str) -> None:
        if not LEAF_PATH.fullmatch(path):
            raise CheckpointError(
                f"{path!r} cannot name a leaf: take letters, digits and _ between /"
            )
        for other in self._shapes:
            if f"{other}/".startswith(f"{path}/") or path.startswith(f"{other}/"):
                raise CheckpointError(f"leaf {path} clashes with leaf {other}")

    def _flush(self) -> None:
        if not self._pending:
            return
        part = f"part-{len(self._parts):05d}"
        folder = self._folder / PARAMS / part
        blocks, self._parts[part] = save_part(folder, self._pending)
        for path, block in blocks.items():
            self._blocks[path].append(block)
        self._pending.clear()


def _copied(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if values is None else dict(values)


def _check_free(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(
            f"{target} exists and is not an empty folder: remove it or choose another"
        )


def _make_partial(target: Path) -> Path:
    """A new hidden folder beside the target; a dead process may have had our number."""
    for attempt in itertools.count():
        suffix = f"-{attempt}" if attempt else ""
        folder = target.parent / f".{target.name}.partial-{os.getpid()}{suffix}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError
