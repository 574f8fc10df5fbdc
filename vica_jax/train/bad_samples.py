"""Unreadable samples of a run: named in a file, counted, and too many stop it."""

import json
import os
from pathlib import Path
from typing import Any

import jax

from vica_jax.errors import InputError
from vica_jax.train.feed import GlobalBatch

FEW = 100  # the share counts from so many samples on: one bad among the first is no 100%


class TooManyBadError(InputError):
    """More unreadable samples than a run may have."""


class BadSampleLog:
    """Appends to ``bad_samples.jsonl`` and counts over all processes.

    Each process names its own samples: the first in ``bad_samples.jsonl``, others in
    ``bad_samples.P.jsonl``. ``consumed`` and ``total`` are those of the checkpoint that
    a run resumes from; lines past it are dropped, because they will come again.
    """

    def __init__(
        self, workdir: Path, *, max_share: float, consumed: int = 0, total: int = 0
    ):
        process = jax.process_index()
        name = f"bad_samples.{process}.jsonl" if process else "bad_samples.jsonl"
        self.path = workdir / name
        self.total = total
        self._max_share = max_share
        self._drop_after(consumed)

    def add(self, batch: GlobalBatch) -> None:
        """Name and count a batch's bad samples.

        Raises:
          TooManyBadError: their share of all consumed samples is past the limit.
        """
        self.total += batch.bad
        consumed = batch.loaded.consumed
        if batch.loaded.bad:
            lines = [
                json.dumps({**vars(sample), "consumed": consumed})
                for sample in batch.loaded.bad
            ]
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        if batch.bad and self.total > self._max_share * max(consumed, FEW):
            first = batch.loaded.bad[0] if batch.loaded.bad else None
            last = f"; the latest: {first.source}: {first.reason}" if first else ""
            raise TooManyBadError(
                f"{self.total} of {consumed} samples cannot be read, past "
                f"data.max_bad_share = {self._max_share:g} (all are named in "
                f"{self.path}){last}: run python -m scripts.check_data"
            )

    def _drop_after(self, consumed: int) -> None:
        if not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entry: dict[str, Any] = json.loads(line)
            except ValueError:  # a torn last line of a killed run
                continue
            if entry["consumed"] <= consumed:
                kept.append(f"{line}\n")
        partial = self.path.with_suffix(f".partial-{os.getpid()}")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(self.path)
