"""Where a run's answers go: one append-only JSONL file per shard.

All lines of a batch are written by one call and flushed to the disk, so that a process
that is killed leaves whole lines and at most one torn one, which the next start cuts
off. One process at a time writes a shard.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vica_jax.errors import InputError
from vica_jax.eval.workdir import ANSWERS


class ShardError(InputError):
    """A shard that another process writes."""


class AnswerFile:
    """An open shard: ``append`` adds lines; made by ``open_shard``."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the records of one batch; they are on the disk when this returns."""
        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        # Half of a surrogate pair, which UTF-8 does not have, becomes JSON's escape.
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)


@contextlib.contextmanager
def open_shard(workdir: Path, shard: tuple[int, int]) -> Iterator[AnswerFile]:
    """The file of shard (i, n) of a workdir, for this process alone.

    Raises:
      ShardError: another process has it open.
    """
    index, count = shard
    path = workdir / ANSWERS / f"shard-{index}-of-{count}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ShardError(
                f"{path}: another process writes this shard: wait for it, or give each "
                "process its own --shard=i/n"
            ) from None
        _cut_torn_line(descriptor)
        yield AnswerFile(descriptor)
    finally:
        os.close(descriptor)


def _cut_torn_line(descriptor: int) -> None:
    """Drop what stands after the last newline."""
    end = os.fstat(descriptor).st_size
    whole = end
    while whole:
        start = max(whole - 65536, 0)
        newline = os.pread(descriptor, whole - start, start).rfind(b"\n")
        if newline >= 0:
            whole = start + newline + 1
            break
        whole = start
    if whole < end:
        os.ftruncate(descriptor, whole)
