"""Arrays in files that are named by the hash of all that they depend on.

One folder serves many processes: a file appears whole or not at all, nothing stale is
ever read (what has changed has another name), and damage shows in a checksum.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vica_jax.errors import InputError
from vica_jax.files import replacing

log = logging.getLogger(__name__)

GIGABYTE = 10**9
ABANDONED_S = 3600.0  # a partial file this old has lost its writer
_SUM, _FACTS = "crc32", "facts"
Arrays = dict[str, np.ndarray]


class CacheFileError(InputError):
    """A cached file that is cut short or changed; the message says how."""


def identify(path: Path) -> list[int]:
    """Size in bytes and last change in ns; of a folder's files also their number.

    Raises:
      OSError: it cannot be looked at.
    """
    if not path.is_dir():
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns]
    with os.scandir(path) as entries:
        stats = [entry.stat() for entry in entries if entry.is_file()]
    sizes = [stat.st_size for stat in stats]
    return [len(stats), sum(sizes), max((s.st_mtime_ns for s in stats), default=0)]


def key_of(parts: list[Any]) -> str:
    """The name of what depends on these JSON values, 64 hexadecimal digits."""
    text = json.dumps(parts)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def file_of(folder: Path, key: str, suffix: str) -> Path:
    """Where a key's file lies: 256 subfolders, for file systems that need them."""
    return folder / key[:2] / f"{key}{suffix}"


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any] | None = None
) -> None:
    """Write arrays and JSON facts with their checksum, whole or not at all.

    Raises:
      OSError: the file cannot be written.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(facts) if facts is not None else ""
    stated = {_SUM: _checksum(whole, text)} | ({_FACTS: text} if text else {})
    with replacing(path) as partial:
        try:
            save_file(whole, partial, stated)
        except SafetensorError as error:  # a full disk, in the library's own words
            raise OSError(str(error)) from error


def read_arrays(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """What ``write_arrays`` wrote.

    Raises:
      CacheFileError: cut short or changed on disk. OSError: it cannot be read.
    """
    try:
        with safe_open(path, framework="np") as file:
            stated = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CacheFileError(str(error).split("\n")[0]) from None
    text = stated.get(_FACTS, "")
    if stated.get(_SUM) != _checksum(arrays, text):
        raise CacheFileError("its checksum is another")
    return arrays, json.loads(text) if text else {}


def _checksum(arrays: Mapping[str, np.ndarray], text: str) -> str:
    total = 0
    for name in sorted(arrays):
        flat = np.ascontiguousarray(arrays[name]).reshape(-1)
        total = zlib.crc32(flat.view(np.uint8).data, total)
    return f"{zlib.crc32(text.encode(), total):08x}"


@dataclass(frozen=True, kw_only=True)
class LimitedFolder:
    """Files of one suffix in a folder, the longest unused removed past ``limit`` bytes.

    Several processes may use it at a time; together they may pass the limit by a file
    each. No other file in the folder is touched.
    """

    folder: Path
    suffix: str
    limit: int

    def read(self, key: str) -> tuple[Arrays, dict[str, Any]]:
        """Arrays and facts, which count as just used.

        Raises:
          FileNotFoundError: not there. CacheFileError, OSError: it cannot be used.
        """
        path = file_of(self.folder, key, self.suffix)
        found = read_arrays(path)
        with contextlib.suppress(OSError):  # another process has just removed it
            os.utime(path)
        return found

    def remove(self, key: str) -> None:
        with contextlib.suppress(OSError):
            file_of(self.folder, key, self.suffix).unlink()

    def write(
        self, key: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]
    ) -> None:
        """Make room, then write.

        Raises:
          OSError: it is larger than the limit, or cannot be written.
        """
        size = sum(array.nbytes for array in arrays.values())
        if size > self.limit:
            raise OSError(f"{size:,} bytes pass the limit of {self.limit:,}")
        self._make_room(size)
        write_arrays(file_of(self.folder, key, self.suffix), arrays, facts)

    def _make_room(self, size: int) -> None:
        files = sorted(self._files())
        total = sum(length for _, length, _ in files) + size
        for used, length, path in files:
            partial = path.name[0] == "."
            if total <= self.limit and not partial:
                continue
            if partial and time.time() - used < ABANDONED_S:
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                total -= length

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Last use, bytes and path of every file, of partial ones too."""
        ours = re.compile(rf"\.?[0-9a-f]{{64}}{re.escape(self.suffix)}(\..*)?")
        for subfolder in self.folder.glob("[0-9a-f][0-9a-f]"):
            with contextlib.suppress(OSError), os.scandir(subfolder) as entries:
                for entry in entries:
                    if ours.fullmatch(entry.name):
                        with contextlib.suppress(OSError):
                            stat = entry.stat()
                            yield stat.st_mtime, stat.st_size, Path(entry.path)
