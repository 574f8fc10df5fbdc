"""Reading and writing safetensors folders, one tensor in memory at a time.

A safetensors file is an 8-byte little-endian header length, a JSON header (name ->
dtype, shape, data_offsets) and the raw values. Reading it here keeps bfloat16 exact
through ml_dtypes, lets every byte count be checked before the first tensor, and lets
the writer stream tensors whose sizes are known but whose values are not yet made.

Format: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from convert.ops import Widened, contiguous
from vica_jax.errors import InputError

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = "model-{:05d}-of-{:05d}.safetensors"
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000  # bytes; the format's own limit
SLAB = 1 << 26  # bytes made contiguous at a time when a tensor is written


class CheckpointError(InputError):
    """A folder or file that cannot be read or written as a checkpoint."""


class TensorInfo(NamedTuple):
    """Where a tensor lies: file, dtype, shape and its first byte in the file."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * prod(self.shape)


@dataclass(frozen=True)
class LazyCheckpoint:
    """The tensors of one or more safetensors files; values are read when asked for.

    ``config`` is the parsed config.json (empty for a bare file).
    """

    path: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, TensorInfo]
    config: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: info.shape for name, info in self.tensors.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._info(name).shape

    def dtype(self, name: str) -> np.dtype:
        return self._info(name).dtype

    def read(self, name: str) -> np.ndarray:
        """The tensor, freshly read; nothing is cached or held open.

        Raises:
          CheckpointError: no such tensor, or the file was cut since it was opened.
        """
        info = self._info(name)
        raw = np.fromfile(info.file, np.uint8, info.num_bytes, offset=info.start)
        if raw.size != info.num_bytes:
            raise CheckpointError(f"{info.file}: the file ends inside tensor {name}")
        return raw.view(info.dtype).reshape(info.shape)

    def _info(self, name: str) -> TensorInfo:
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.path}: no tensor named {name}") from None


# --------------------------------------------------------------------- reading
def open_checkpoint(folder: str | os.PathLike) -> LazyCheckpoint:
    """Open a Hugging Face model folder: config.json and safetensors weights.

    Weights are a single ``model.safetensors`` or shards with an index. Only headers are
    read.

    Raises:
      CheckpointError: the folder or a file in it is missing, truncated, corrupt, or the
        index and the shards disagree; the message names the file.
    """
    folder = _folder(folder)
    config = read_json(folder / CONFIG)
    index, single = folder / INDEX, folder / SINGLE
    if index.exists() and single.exists():
        raise CheckpointError(
            f"{folder}: holds both {SINGLE} and {INDEX}; remove the one that is stale"
        )
    if index.exists():
        tensors = _read_sharded(folder, read_json(index))
    elif single.exists():
        tensors = read_header(single)
    else:
        raise CheckpointError(_no_weights(folder))
    files = tuple(sorted({info.file for info in tensors.values()}))
    return LazyCheckpoint(folder, files, tensors, config)


def open_file(path: str | os.PathLike) -> LazyCheckpoint:
    """Open one safetensors file without a config."""
    path = Path(path)
    return LazyCheckpoint(path, (path,), read_header(path), {})


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      CheckpointError: the file is missing, not JSON, or not an object.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text("utf-8"), object_pairs_hook=_unique_keys)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent}: no {path.name}; a Hugging Face model folder is needed"
        ) from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value


def read_header(path: str | os.PathLike) -> dict[str, TensorInfo]:
    """Names and places of the tensors of one file, in the order of their bytes.

    Raises:
      CheckpointError: the file is missing, shorter or longer than its header says, or
        the header is corrupt.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                raise CheckpointError(
                    f"{path}: truncated or not a safetensors file ({size} bytes, "
                    f"header of {length} announced)"
                )
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
        if not isinstance(header, dict):
            raise ValueError("not an object")
        header.pop("__metadata__", None)
        return _places(path, header, 8 + length, size)
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: corrupt safetensors header ({type(error).__name__}: {error})"
        ) from None


def _places(path: Path, header: dict, first: int, size: int) -> dict[str, TensorInfo]:
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda e: e[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        shape = tuple(entry["shape"])
        if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
            raise ValueError(f"sizes of {name} are not natural numbers")
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"unknown dtype {entry['dtype']} of {name}")
        info = TensorInfo(path, DTYPES[entry["dtype"]], shape, first + start)
        if start != end or stop - start != info.num_bytes:
            raise ValueError(
                f"the byte range of {name} does not fit its shape or place"
            )
        tensors[name], end = info, stop
    if size < first + end:
        raise CheckpointError(
            f"{path}: truncated, {size:,} bytes of {first + end:,}; copy it again"
        )
    if size > first + end:
        raise ValueError(f"{size - first - end} bytes after the last tensor")
    return tensors


def _read_sharded(folder: Path, index: dict) -> dict[str, TensorInfo]:
    where = folder / INDEX
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{where}: no weight_map")
    shards = sorted({str(name) for name in weight_map.values()})
    for name in shards:
        if Path(name).name != name:
            raise CheckpointError(f"{where}: shard {name!r} is not a plain file name")
    absent = [name for name in shards if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{folder}: {len(absent)} of {len(shards)} shards named by {INDEX} are "
            f"missing: {', '.join(absent[:5])}{', ...' if absent[5:] else ''}"
        )
    headers = {name: read_header(folder / name) for name in shards}
    stored = [(name, shard) for shard, header in headers.items() for name in header]
    differ = set(stored) ^ {(name, str(shard)) for name, shard in weight_map.items()}
    if differ:
        name, shard = min(differ)
        side = "the shard but not the index" if (name, shard) in stored else INDEX
        raise CheckpointError(
            f"{folder}: index and shards disagree about {len(differ)} entries, such as "
            f"{name} in {shard} (only in {side})"
        )
    return {name: headers[shard][name] for name, shard in weight_map.items()}


def _folder(folder: str | os.PathLike) -> Path:
    path = Path(folder)
    if not path.exists():
        raise CheckpointError(f"{path}: no such folder")
    if not path.is_dir():
        raise CheckpointError(f"{path}: not a folder; give the folder of config.json")
    return path


def _no_weights(folder: Path) -> str:
    pickles = [
        p.name for p in sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))
    ]
    if pickles:
        return (
            f"{folder}: holds only {pickles[0]}, a pickle, which is never read (it can "
            "run code); save it again with safe_serialization=True where it is trusted"
        )
    loose = sorted(p.name for p in folder.glob("*.safetensors"))
    if loose:
        return f"{folder}: {loose[0]} found, but neither {SINGLE} nor {INDEX}"
    return f"{folder}: no safetensors weights ({SINGLE} or {INDEX})"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values


# --------------------------------------------------------------------- writing
class Entry(NamedTuple):
    """A tensor to be written; ``values`` is an array or makes one when called."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    values: np.ndarray | Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * prod(self.shape)


def write_sharded(
    folder: str | os.PathLike,
    items: Iterable[tuple[str, Sequence[int], Any, Any]],
    *,
    max_shard_bytes: int = 5_000_000_000,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write ``(name, shape, dtype, array or function)`` items as safetensors.

    One ``model.safetensors`` where everything fits, else numbered shards and an index,
    filled in the items' order. Functions are called one by one as their bytes are due.
    Every file appears under its name only when it is complete and on disk.

    Returns:
      The weight files written, in order; the index is not among them.

    Raises:
      CheckpointError: a repeated name, an unknown dtype, a tensor that is not of the
        announced shape and dtype, or a folder with weights under other names.
    """
    folder = Path(folder)
    entries = [Entry(n, tuple(s), np.dtype(d), v) for n, s, d, v in items]
    _check_entries(folder, entries)
    shards = _plan(entries, max_shard_bytes)
    count = len(shards)
    names = (
        [SHARD.format(i + 1, count) for i in range(count)] if count > 1 else [SINGLE]
    )
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_stale(folder, names)
    # While shards are replaced, no index may stand beside them.
    (folder / INDEX).unlink(missing_ok=True)
    extra = {"format": "pt"} if metadata is None else dict(metadata)
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, shard, extra)
    if count > 1:
        index = {
            "metadata": {"total_size": sum(entry.num_bytes for entry in entries)},
            "weight_map": {
                entry.name: name
                for name, shard in zip(names, shards, strict=True)
                for entry in shard
            },
        }
        write_json(folder / INDEX, index)
    return [folder / name for name in names]


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write JSON as Hugging Face does (two spaces, a final newline), atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with _replacing(Path(path)) as file:
        file.write(text.encode("utf-8"))


def _plan(entries: list[Entry], max_bytes: int) -> list[list[Entry]]:
    """Fill shards in order; a tensor above the limit has a shard to itself."""
    shards: list[list[Entry]] = [[]]
    used = 0
    for entry in entries:
        if shards[-1] and used + entry.num_bytes > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(entry)
        used += entry.num_bytes
    return shards


def _check_entries(folder: Path, entries: list[Entry]) -> None:
    seen = set()
    for entry in entries:
        if entry.name in seen or entry.name == "__metadata__":
            raise CheckpointError(f"{folder}: tensor name {entry.name} is used twice")
        if entry.dtype not in DTYPE_NAMES:
            raise CheckpointError(
                f"{folder}: tensor {entry.name} is {entry.dtype}, which safetensors "
                "cannot hold"
            )
        seen.add(entry.name)


def _refuse_stale(folder: Path, names: list[str]) -> None:
    stale = {p.name for p in folder.glob("*.safetensors")} - set(names)
    if stale:
        raise CheckpointError(
            f"{folder}: already holds {min(stale)}, which would be mixed with the new "
            "weights; give an empty folder"
        )


def _write_file(path: Path, entries: list[Entry], metadata: dict[str, str]) -> None:
    # Wider dtypes first, so that every tensor is aligned to its own width.
    ordered = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for entry in ordered:
        start, end = end, end + entry.num_bytes
        header[entry.name] = {
            "dtype": DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with _replacing(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for entry in ordered:
            _write_values(file, entry)


def _write_values(file: BinaryIO, entry: Entry) -> None:
    values: Any = entry.values() if callable(entry.values) else entry.values
    if not isinstance(values, Widened):
        values = np.asarray(values)
    if values.shape != entry.shape or values.dtype != entry.dtype:
        raise CheckpointError(
            f"tensor {entry.name}: announced as {entry.dtype}{list(entry.shape)}, got "
            f"{values.dtype}{list(values.shape)}"
        )
    if not values.nbytes:
        return
    rows = values if values.ndim else np.asarray(values).reshape(1)
    step = max(1, SLAB * len(rows) // values.nbytes)
    for start in range(0, len(rows), step):
        part = contiguous(rows[start : start + step])
        file.write(part.view(np.uint8).data)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only after it was written and synced."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# ---------------------------------------------------------------------- hashes
def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file, streamed."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_hashes(checkpoint: LazyCheckpoint) -> dict[str, str]:
    """SHA-256 of config.json and every weight file, by file name."""
    config = checkpoint.path / CONFIG
    files = (config, *checkpoint.files) if config.is_file() else checkpoint.files
    return {path.name: sha256(path) for path in files}
