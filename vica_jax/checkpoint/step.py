"""The saved steps of a training run, as they lie on disk; read without jax.

    checkpoints/STEP/record/record.json   what was saved with the state, and its leaves
    checkpoints/STEP/state/               orbax: one array per leaf, OCDBT

A step's folder appears by one rename when it is whole (``checkpoint/training`` writes
it). ``record.json`` names every leaf with shape, dtype and checksum: neither orbax nor
OCDBT notices a changed bit in an array, and a lost block reads as zeros.
"""

import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from vica_jax.checkpoint.checksum import checksum
from vica_jax.checkpoint.manifest import CheckpointError
from vica_jax.checkpoint.parts import first_line
from vica_jax.config import build
from vica_jax.models.config import ConfigError

STEP_FORMAT = 1
CHECKPOINTS, STATE, RECORD, RECORD_FILE = (
    "checkpoints",
    "state",
    "record",
    "record.json",
)
READ_ERRORS = (OSError, ValueError, LookupError, RuntimeError)  # tensorstore's
READ_BYTES = 2**26  # rows are read in runs of about this size
_STEP = re.compile(r"0|[1-9]\d*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class StateLeaf:
    """One array of a state: its shape, numpy dtype name and checksum."""

    shape: tuple[int, ...]
    dtype: str
    checksum: int

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True, kw_only=True)
class SavedStep:
    """What ``record.json`` says: what was saved with the state, and the state's leaves.

    Leaves have paths such as ``params/llm/layers/block/attn/q_proj/kernel``.
    """

    folder: Path  # of the step; not in the file
    format_version: int
    step: int
    record: dict[str, Any]
    leaves: dict[str, StateLeaf]

    def damaged(self, why: str) -> CheckpointError:
        """The error that says what is wrong with this step and what to do."""
        return damaged(self.folder, why)


def saved_steps(folder: str | os.PathLike[str]) -> list[int]:
    """The finished steps in a ``checkpoints`` folder, in order; [] where there is none.

    Whether their files are sound is seen when they are read.
    """
    path = Path(folder)
    if not path.is_dir():
        return []
    names = [p.name for p in path.iterdir() if _STEP.fullmatch(p.name) and p.is_dir()]
    return sorted(map(int, names))


def find_step(source: str | os.PathLike[str]) -> tuple[Path, int] | None:
    """The ``checkpoints`` folder and step that a path names; None where it names none.

    A run's folder and its ``checkpoints`` folder stand for the last finished step.

    Raises:
      CheckpointError: a run's folder without a finished step.
    """
    path = Path(source).absolute()
    if _STEP.fullmatch(path.name) and (path / RECORD).is_dir():
        return path.parent, int(path.name)
    folder = path if path.name == CHECKPOINTS else path / CHECKPOINTS
    if not folder.is_dir():
        return None
    if steps := saved_steps(folder):
        return folder, steps[-1]
    raise CheckpointError(f"{folder}: no step was saved here yet")


def read_step(folder: str | os.PathLike[str], step: int) -> SavedStep:
    """The record of a finished step in a ``checkpoints`` folder, checked.

    Raises:
      CheckpointError: no such step, one of another format version, or a damaged one.
    """
    path = Path(folder).absolute() / str(step)
    if not path.is_dir():
        steps = ", ".join(map(str, saved_steps(folder))) or "none"
        raise CheckpointError(f"{folder}: no step {step} (there: {steps})")
    try:
        values = json.loads((path / RECORD / RECORD_FILE).read_bytes())
        crc32 = values.pop("crc32")
        whole = crc32 == _crc32(values)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise damaged(path, f"{RECORD_FILE} cannot be read ({error})") from None
    if not whole:
        raise damaged(path, f"{RECORD_FILE} fails its checksum")
    if values.get("format_version") != STEP_FORMAT:
        raise CheckpointError(
            f"{path}: format version {values.get('format_version')!r}, this program "
            f"reads {STEP_FORMAT}: take the version that wrote it"
        )
    try:
        return build(SavedStep, {**values, "folder": path}, complete=True)
    except ConfigError as error:
        raise damaged(path, f"{RECORD_FILE}: {error}") from None


def step_record(
    step: int, record: Mapping[str, Any], leaves: Mapping[str, StateLeaf]
) -> dict[str, Any]:
    """The contents of ``record.json``.

    Raises:
      TypeError: ``record`` holds something that is no JSON value.
    """
    values = {
        "format_version": STEP_FORMAT,
        "step": step,
        "record": record,
        "leaves": {
            path: {"shape": leaf.shape, "dtype": leaf.dtype, "checksum": leaf.checksum}
            for path, leaf in leaves.items()
        },
    }
    # As a reader will see it: tuples are lists, keys are strings.
    values = json.loads(json.dumps(values))
    return {**values, "crc32": _crc32(values)}


def _crc32(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def damaged(folder: Path, why: str) -> CheckpointError:
    """The error of a step's folder that cannot be read."""
    earlier = [step for step in saved_steps(folder.parent) if step < int(folder.name)]
    then = f"go on from step {earlier[-1]}" if earlier else "start again"
    return CheckpointError(f"{folder}: damaged: {why}: remove this folder to {then}")


@dataclass(kw_only=True)
class LeafReader:
    """One array of a saved step, read in whole or layer by layer.

    Memory holds what is returned and one run of rows. The checksum is compared as soon
    as every value was read once.
    """

    saved: SavedStep
    path: str
    _sums: dict[int | None, int] = field(default_factory=dict)
    _array: Any = None

    @property
    def leaf(self) -> StateLeaf:
        return self.saved.leaves[self.path]

    def read(self, layer: int | None = None, *, dtype: Any = None) -> np.ndarray:
        """The array, or one entry of its first axis, cast to ``dtype`` (None: its own).

        Raises:
          CheckpointError: the files are damaged.
        """
        first = 0 if layer is None else layer
        shape = self.leaf.shape[layer is not None :]
        out = np.empty(shape, np.dtype(dtype or self.leaf.dtype))
        total = 0
        try:
            array = self._open() if layer is None else self._open()[layer]
            for rows, start in self._runs(shape):
                values = np.asarray(array[rows].read().result())
                total += checksum(values, first * prod(shape) + start)
                out[rows] = values
        except READ_ERRORS as error:
            raise self.saved.damaged(f"{self.path}: {first_line(error)}") from None
        if layer is None:
            self._sums.clear()
        self._sums[layer] = total
        if layer is None or len(self._sums) == self.leaf.shape[0]:
            if sum(self._sums.values()) % 2**32 != self.leaf.checksum:
                raise self.saved.damaged(f"{self.path} fails its checksum")
            self._sums.clear()
        return out

    def _runs(self, shape: tuple[int, ...]) -> Any:
        """Runs of rows, with the position of each's first element."""
        if not shape:
            yield ..., 0
            return
        row = prod(shape[1:])
        # Whole blocks of the file: none is read twice.
        block = self._open().chunk_layout.read_chunk.shape[-len(shape)]
        size = max(1, READ_BYTES // (row * np.dtype(self.leaf.dtype).itemsize))
        size = -(-size // block) * block
        for low in range(0, shape[0], size):
            yield slice(low, min(low + size, shape[0])), low * row

    def _open(self) -> Any:
        if self._array is None:
            self._array = open_array(self.saved, self.path)
        return self._array


def open_array(saved: SavedStep, path: str) -> Any:
    """A leaf as tensorstore opens it, where orbax has put it: zarr in OCDBT.

    Raises:
      READ_ERRORS: it is not there, or of another shape or dtype.
    """
    import tensorstore

    base = {"driver": "file", "path": f"{saved.folder / STATE}/"}
    name = path.replace("/", ".") + "/"
    store = {"driver": "ocdbt", "base": base, "path": name}
    array = tensorstore.open({"driver": "zarr", "kvstore": store}, read=True).result()
    leaf, found = saved.leaves[path], (array.shape, array.dtype.numpy_dtype.name)
    if found != (leaf.shape, leaf.dtype):
        raise ValueError(f"{found[1]}{list(found[0])} instead of {leaf}")
    return array
