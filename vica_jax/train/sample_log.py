"""Samples that a run could not use as they are: named in files, counted, limited.

``bad_samples.jsonl`` names those that cannot be read (they train nothing), past a share
of which a run stops; ``truncated_samples.jsonl`` those cut to the context length.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from vica_jax.errors import InputError
from vica_jax.files import write_text
from vica_jax.train.feed import GlobalBatch

# The share is of so many samples at least, or of all that there are: one bad of one is
# not 100%.
FEW = 100


class TooManyBadError(InputError):
    """More unreadable samples than a run may have."""


class SampleLog:
    """Appends to the files of a workdir and counts over all processes.

    Each process names its own samples, all but the first in files with its number.
    ``consumed``, ``bad`` and ``truncated`` are those of the checkpoint that a run
    resumes from; lines past it are dropped, because they will come again. ``samples``
    are those of one epoch.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        max_share: float,
        samples: int,
        consumed: int = 0,
        bad: int = 0,
        truncated: int = 0,
    ):
        process = f".{jax.process_index()}" if jax.process_index() else ""
        self.bad, self.truncated = bad, truncated
        self._bad_file = workdir / f"bad_samples{process}.jsonl"
        self._truncated_file = workdir / f"truncated_samples{process}.jsonl"
        self._max_share, self._few = max_share, min(FEW, samples)
        files = [self._bad_file, self._truncated_file]
        if jax.process_index() == 0:  # for processes that there are no more
            found = workdir.glob("*_samples.*.jsonl")
            files += [x for x in found if _process_of(x) >= jax.process_count()]
        for file in files:
            _drop_after(file, consumed)

    def add(self, batch: GlobalBatch) -> None:
        """Name and count a batch's samples.

        Raises:
          TooManyBadError: the share of unreadable ones is past the limit.
        """
        self.bad += batch.bad
        self.truncated += batch.truncated
        loaded = batch.loaded
        _append(self._bad_file, loaded.bad, loaded.consumed)
        _append(self._truncated_file, loaded.truncated, loaded.consumed)
        if batch.bad and self.bad > self._max_share * max(loaded.consumed, self._few):
            first = loaded.bad[0] if loaded.bad else None
            last = f"; the latest, {first.source}: {first.reason}" if first else ""
            raise TooManyBadError(
                f"{self.bad} of {loaded.consumed} samples cannot be read, past "
                f"data.max_bad_share = {self._max_share:g} (all are named in "
                f"{self._bad_file}){last}: run python -m scripts.check_data"
            )


def _process_of(path: Path) -> int:
    """The number in ``bad_samples.NUMBER.jsonl``; -1 without one."""
    number = path.suffixes[0].removeprefix(".")
    return int(number) if number.isdigit() else -1


def _append(path: Path, samples: Sequence[Any], consumed: int) -> None:
    if not samples:
        return
    lines = [json.dumps({**vars(sample), "consumed": consumed}) for sample in samples]
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))


def _drop_after(path: Path, consumed: int) -> None:
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:  # a torn last line of a killed run
            continue
        if entry["consumed"] <= consumed:
            kept.append(f"{line}\n")
    write_text(path, "".join(kept))
