"""Examples of a run in their order, decoded ahead by spawned workers (grain).

A run is a row of steps, a step ``global_batch_size`` positions of an epoch's order, and
a process holds some rows of it. So every example has a *slot*, (step, row), and is read
by random access: what stands there is a pure function of seed, epoch and position. The
number of workers and of processes changes who reads an example, never which it is.
There is no iterator state: a run resumes from the number of examples consumed.

grain deals the slots out to its workers in turn and takes the results back in the same
turn; what a worker does is in ``data/slots``.
"""

import gc
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from absl import flags

from vica_jax.data.example import Example
from vica_jax.data.features import open_cache
from vica_jax.data.mixture import Mixture
from vica_jax.data.settings import DataSettings
from vica_jax.data.slots import Slots, read_example, start_worker, unpack
from vica_jax.errors import InputError
from vica_jax.layout import VisualLayout

__all__ = [
    "BadSample",
    "Loaded",
    "Loader",
    "LoaderError",
    "TruncatedSample",
    "WorkerError",
    "read_example",
]

log = logging.getLogger(__name__)

AHEAD = 1  # finished examples that wait in each of a worker's two queues
LARGE_EXAMPLE = 64 << 20  # bytes: 64 frames of SigLIP pixels and 32 raw 640 x 480 ones
SHARED_MEMORY = "/dev/shm"


class LoaderError(InputError):
    """A run that cannot begin, or resume, as asked."""


class WorkerError(RuntimeError):
    """A worker ended or failed in a way that is no fault of a sample."""


@dataclass(frozen=True, kw_only=True)
class BadSample:
    """A record that could not be read: its place, its file, its id and why."""

    epoch: int
    position: int
    source: str
    index: int
    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class TruncatedSample:
    """A record longer than the context: its tokens, and how many of them are kept."""

    epoch: int
    position: int
    source: str
    index: int
    id: str
    length: int
    kept: int


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One process's part of a global batch.

    ``step`` counts from 0 over all epochs; ``examples`` stand in the order of the
    process's rows, unreadable ones and those that fill up an epoch's last batch are
    empty. ``consumed`` are the examples of the run after this batch, on all processes,
    ``consumed_before`` those before it. ``frame_cache`` are its videos that were in the
    cache of frames and those that were not; None without a cache.
    """

    step: int
    epoch: int
    consumed_before: int
    consumed: int
    examples: list[Example]
    bad: list[BadSample]
    truncated: list[TruncatedSample]
    frame_cache: tuple[int, int] | None = None


class Loader(Iterator[Loaded]):
    """A process's rows of every global batch, from ``consumed`` examples on.

    ``indices`` are the records of the mixture that take part, ``rows`` the rows of a
    global batch that this process holds, in the order it wants them. An epoch has
    ``steps_per_epoch`` = ceil(n / global_batch_size) steps, the run ``total_steps`` =
    ceil(epochs * steps_per_epoch). ``step`` and ``consumed`` say where it stands.

    ``settings.num_workers`` processes read ahead (0: one thread of this process). At
    most ``in_flight`` examples lie in memory beside those handed out: this process's
    part of a batch, and for each worker 2 * AHEAD + 2 (grain has a queue on both sides
    and one example on the way into each); without workers AHEAD + 1. A 64-frame video
    is some 57 MB. The processes begin with the first batch and end with the last, with
    ``close()``, or when this process dies.

    Raises:
      LoaderError: no records, a wrong batch size, rows or epochs, or a ``consumed``
        that is not the end of a batch; later, what makes every record unusable, such
        as a missing tokenizer.
      WorkerError: later, a worker was killed or failed.
    """

    def __init__(
        self,
        mixture: Mixture,
        indices: np.ndarray | Sequence[int],
        *,
        tokenizer_folder: str | os.PathLike[str],
        layout: VisualLayout,
        settings: DataSettings,
        seed: int,
        global_batch_size: int,
        rows: Sequence[int],
        consumed: int = 0,
        epochs: float = 1,
        hiera_hash: str = "",
    ):
        n = len(indices)
        if not n:
            raise LoaderError("no records to load: the mixture or its part is empty")
        if global_batch_size < 1 or not epochs > 0:
            raise LoaderError(
                "global_batch_size and epochs must be positive, got "
                f"{global_batch_size} and {epochs}"
            )
        valid = set(range(global_batch_size))
        if not rows or len(set(rows)) < len(rows) or not valid.issuperset(rows):
            raise LoaderError(
                f"rows must be different ones of 0..{global_batch_size - 1}, got {rows}"
            )
        if settings.hiera_cache:
            open_cache(layout, settings, hiera_hash)
        self.num_examples, self.global_batch_size = n, global_batch_size
        self.steps_per_epoch = -(-n // global_batch_size)
        # Rounded first: 0.1 * 30 is a little more than 3.
        self.total_steps = math.ceil(round(epochs * self.steps_per_epoch, 9))
        self.step, self.consumed = self._step_after(consumed), consumed
        self.num_workers = settings.num_workers
        ahead = self.num_workers * (2 * AHEAD + 2) or AHEAD + 1
        self.in_flight = ahead + len(rows)
        self._rows = len(rows)
        self._slots = Slots(
            mixture,
            np.asarray(indices, np.int64),
            tokenizer_folder=os.fspath(tokenizer_folder),
            layout=layout,
            settings=settings,
            seed=seed,
            global_batch_size=global_batch_size,
            rows=tuple(int(row) for row in rows),
            first_step=self.step,
            num_steps=max(self.total_steps - self.step, 0),
            hiera_hash=hiera_hash,
        )
        self._iterator: Any = None
        self._closed = False

    def __next__(self) -> Loaded:
        if self._closed:
            raise ValueError("the loader is closed")
        if self.step >= self.total_steps:
            self._stop()
            raise StopIteration
        try:
            if self._iterator is None:
                self._iterator = self._start()
            items = [self._take() for _ in range(self._rows)]
        except BaseException:
            self.close()
            raise
        headers = [header for header, _ in items]
        epoch, before = self.step // self.steps_per_epoch, self.consumed
        self.consumed = self._consumed_at(self.step + 1)
        self.step += 1
        return Loaded(
            step=self.step - 1,
            epoch=epoch,
            consumed_before=before,
            consumed=self.consumed,
            examples=[unpack(header, data) for header, data in items],
            bad=[BadSample(**h["bad"]) for h in headers if "bad" in h],
            truncated=[
                TruncatedSample(**h["truncated"]) for h in headers if "truncated" in h
            ],
            frame_cache=_add_up(
                [h["frame_cache"] for h in headers if "frame_cache" in h]
            ),
        )

    def close(self) -> None:
        """End the workers and drop what they have read. Safe to call twice."""
        self._closed = True
        self._stop()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _consumed_at(self, step: int) -> int:
        epoch, batch = divmod(step, self.steps_per_epoch)
        n = self.num_examples
        return epoch * n + min(batch * self.global_batch_size, n)

    def _step_after(self, consumed: int) -> int:
        """The step that begins where ``consumed`` examples have been seen."""
        epoch, rest = divmod(consumed, self.num_examples)
        batch, over = divmod(rest, self.global_batch_size)
        if consumed < 0 or over:
            raise LoaderError(
                f"cannot resume after {consumed} examples: with {self.num_examples} "
                f"records in batches of {self.global_batch_size} no batch ends there; "
                "resume with the data and the global_batch_size of the checkpoint"
            )
        return epoch * self.steps_per_epoch + batch

    def _start(self) -> Any:
        slots = grain.MapDataset.source(self._slots)
        if not self.num_workers:
            ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
            return iter(slots.to_iter_dataset(ahead))
        self._warn_of_little_shared_memory()
        if not flags.FLAGS.is_parsed():
            # grain looks at a flag of its own, which fails outside of an absl program.
            flags.FLAGS.mark_as_parsed()
        alone = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        options = grain.MultiprocessingOptions(
            num_workers=min(self.num_workers, len(self._slots)),
            per_worker_buffer_size=AHEAD,
        )
        return iter(
            slots.to_iter_dataset(alone).mp_prefetch(
                options, worker_init_fn=start_worker
            )
        )

    def _take(self) -> tuple[dict[str, Any], np.ndarray]:
        try:
            item = next(self._iterator)
        except Exception as error:  # grain says so in a RuntimeError
            hint = ""
            if "exit code -9" in str(error):
                hint = " (out of memory? take fewer data.num_workers)"
            if "exit code -7" in str(error):
                hint = f" ({SHARED_MEMORY} is full? enlarge it, or fewer workers)"
            raise WorkerError(f"a data worker has ended: {error}{hint}") from error
        header = json.loads(item["header"])
        if "unusable" in header:
            raise LoaderError(header["unusable"])
        if "failure" in header:
            raise WorkerError(f"a data worker has failed:\n{header['failure']}")
        # Copied out of shared memory (12 ms for a video): what is handed out may live
        # as long as it likes, also past the interpreter's own end of shared memory.
        return header, np.array(item["data"])

    def _stop(self) -> None:
        if self._iterator is None:
            return
        self._iterator.close()
        self._iterator = None
        if self.num_workers:
            # At the end grain leaves cycles (an exception and its frame) that hold the
            # last example of each worker, and with it shared memory.
            gc.collect()

    def _warn_of_little_shared_memory(self) -> None:
        wanted = self.in_flight * LARGE_EXAMPLE
        if not os.path.isdir(SHARED_MEMORY):
            return
        free = shutil.disk_usage(SHARED_MEMORY).free
        if free < wanted:
            log.warning(
                "%s has %.1f GB free, %d workers may need %.1f GB: enlarge it (docker "
                "run --shm-size) or take fewer data.num_workers",
                SHARED_MEMORY,
                free / 1e9,
                self.num_workers,
                wanted / 1e9,
            )


def _add_up(found: list[list[int]]) -> tuple[int, int] | None:
    return (sum(f[0] for f in found), sum(f[1] for f in found)) if found else None
