"""JSON records one after the other in a single file, mapped into memory.

    JSON texts, zeros up to a multiple of 8, offsets int64[n+1], lengths int64[n],
    source_of int32[n], digest (16 bytes)

Many processes read one file and share its pages. No index of keys, no compression:
records are small and few enough (322,003 of them take some 200 MB).
"""

import hashlib
import json
import mmap
from array import array
from typing import IO, Any

import numpy as np

from vica_jax.errors import InputError

_DIGEST_SIZE = 16


class RecordStoreError(InputError):
    """A record file that is gone, or that another run has replaced."""


class RecordWriter:
    """Writes records in their order into an open file."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._hash = hashlib.blake2b(digest_size=_DIGEST_SIZE)
        self._offsets = array("q", [0])
        self._lengths = array("q")
        self._source_of = array("i")

    def __len__(self) -> int:
        return len(self._lengths)

    def append(self, text: bytes, *, words: int, source: int) -> None:
        """One record: its JSON text, its length in words, the number of its source."""
        self._file.write(text)
        self._hash.update(b"%d:" % len(text))
        self._hash.update(text)
        self._offsets.append(self._offsets[-1] + len(text))
        self._lengths.append(words)
        self._source_of.append(source)

    def finish(self) -> str:
        """Write the tables; returns the digest of all records in their order."""
        self._file.write(bytes(-self._offsets[-1] % 8))
        self._file.write(np.array(self._offsets, np.int64).tobytes())
        self._file.write(np.array(self._lengths, np.int64).tobytes())
        self._file.write(np.array(self._source_of, np.int32).tobytes())
        self._file.write(self._hash.digest())
        return self._hash.hexdigest()


class RecordStore:
    """``n`` records of a written file; ``lengths int64[n]``, ``source_of int32[n]``.

    Raises:
      RecordStoreError: the file is gone, or its digest is another.
    """

    def __init__(self, path: str, n: int, digest: str):
        try:
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise RecordStoreError(
                f"{path}: the record cache cannot be opened ({error}): start again"
            ) from None
        source_of = len(data) - _DIGEST_SIZE - 4 * n
        lengths = source_of - 8 * n
        offsets = lengths - 8 * (n + 1)
        if offsets < 0 or data[-_DIGEST_SIZE:].hex() != digest:
            raise RecordStoreError(
                f"{path}: the record cache holds other records than at the start: "
                "another run has read changed sources into it; start again"
            )
        self._data = data
        self._offsets = np.frombuffer(data, np.int64, n + 1, offsets)
        self.lengths = np.frombuffer(data, np.int64, n, lengths)
        self.source_of = np.frombuffer(data, np.int32, n, source_of)

    def read(self, index: int) -> Any:
        """The record at ``index``, 0 <= index < n."""
        start, stop = self._offsets[index : index + 2].tolist()
        return json.loads(self._data[start:stop])
