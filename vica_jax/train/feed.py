"""From examples on hosts to one global batch on the mesh.

Processes decode their own rows of a global batch, agree on one static shape (the
largest that any of them needs), pad to it and place their rows: so every process runs
the same program at every step, whatever media its own rows hold.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from vica_jax.data.example import Example, collate_training
from vica_jax.data.loader import Loaded
from vica_jax.data.settings import ShapeBuckets
from vica_jax.data.shapes import BatchShape
from vica_jax.errors import InputError
from vica_jax.layout import VisualLayout
from vica_jax.sharding import spec
from vica_jax.typing import Batch

_T = TypeVar("_T")


class FeedError(InputError):
    """Another process of the run has failed."""


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """One step's batch, arrays ``[A,M,...]`` on the mesh, and what it is made of.

    ``loaded`` is this process's part; ``bad`` and ``truncated`` count unreadable and
    cut samples of all processes, ``flops`` are the model FLOPs of the whole batch.
    ``wait_s`` is the time this host waited for samples and for their padding, of this
    batch and of the one after, since the batch before was given out.
    """

    arrays: Batch
    shape: BatchShape
    loaded: Loaded
    bad: int
    truncated: int
    flops: float
    wait_s: float


def local_rows(mesh: Mesh, micro_batch: int, accumulation: int) -> list[int]:
    """Rows of a global batch that this process's devices hold, in order.

    Row ``a * micro_batch + m`` is row m of micro-batch a.
    """
    mine = _local_micro_rows(mesh, micro_batch)
    return [a * micro_batch + m for a in range(accumulation) for m in mine]


def batch_shards(mesh: Mesh) -> int:
    """Ways the batch axis is split."""
    return mesh.shape.get("data", 1) * mesh.shape.get("fsdp", 1)


def feed(
    batches: Iterable[Loaded],
    *,
    layout: VisualLayout,
    buckets: ShapeBuckets,
    mesh: Mesh,
    accumulation: int,
    micro_batch: int,
    flops_of: Callable[[Sequence[Example]], float] = lambda examples: 0.0,
) -> Iterator[GlobalBatch]:
    """Global batches, placed; the next one is agreed on, and padded, ahead.

    A call places the batch agreed on before and then agrees on the one after: the
    exchange between processes is queued behind the running step and before the next,
    so devices do not wait for hosts to copy. One thread pads the batch agreed on while
    the caller's step runs. All that meets other processes or a device stays in the
    caller's thread: every process must do it in the same order.
    """
    source = _Timed(iter(batches))
    with ThreadPoolExecutor(1, thread_name_prefix="pad") as thread:

        def pad(loaded: Loaded, agreed: dict[str, Any]) -> Future[Batch]:
            examples, shape = loaded.examples, agreed["shape"]
            return thread.submit(collate_training, examples, layout, shape)

        ahead = _agree(source, layout, buckets, flops_of)
        padding = None if ahead is None else pad(*ahead)
        while ahead is not None and padding is not None:
            loaded, agreed = ahead
            host = source.timed(padding.result)
            arrays = place(host, mesh, accumulation, micro_batch)
            ahead = padding = host = None  # it would stand beside the next
            ahead = _agree(source, layout, buckets, flops_of)
            padding = None if ahead is None else pad(*ahead)
            wait, source.seconds = source.seconds, 0.0
            yield GlobalBatch(arrays=arrays, loaded=loaded, wait_s=wait, **agreed)


class _Timed:
    """An iterator that adds up the time its caller waits for it."""

    def __init__(self, source: Iterator[Loaded]):
        self.source, self.seconds = source, 0.0

    def __iter__(self) -> "_Timed":
        return self

    def __next__(self) -> Loaded:
        return self.timed(self.source.__next__)

    def timed(self, wait: Callable[[], _T]) -> _T:
        """What ``wait`` returns; its time is added."""
        start = time.perf_counter()
        try:
            return wait()
        finally:
            self.seconds += time.perf_counter() - start


def place(host: Batch, mesh: Mesh, accumulation: int, micro_batch: int) -> Batch:
    """This process's rows of a batch as global arrays ``[A,M,...]``, M split."""
    mine = _local_micro_rows(mesh, micro_batch)
    at = {row: i for i, row in enumerate(mine)}

    def put(x: np.ndarray) -> jax.Array:
        local = x.reshape(accumulation, len(mine), *x.shape[1:])
        shape = (accumulation, micro_batch, *x.shape[1:])
        sharding = batch_sharding(mesh, shape)

        def share(index: Any) -> np.ndarray:
            start, stop, _ = index[1].indices(micro_batch)
            return local[:, at[start] : at[stop - 1] + 1]

        return jax.make_array_from_callback(shape, sharding, share)

    numpy: Any = host
    arrays: Any = {name: put(value) for name, value in numpy.items()}
    return arrays


def batch_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """How an array ``[A,M,...]`` of a batch lies on the mesh: M is split."""
    axes = (None, "batch", *[None] * (len(shape) - 2))
    return NamedSharding(mesh, spec(axes, shape, mesh))


def _local_micro_rows(mesh: Mesh, micro_batch: int) -> list[int]:
    sharding = NamedSharding(mesh, spec(("batch",), (micro_batch,), mesh))
    rows: set[int] = set()
    indices: Any = sharding.addressable_devices_indices_map((micro_batch,))
    for (index,) in indices.values():
        rows.update(range(*index.indices(micro_batch)))
    return sorted(rows)


def _agree(
    source: Iterator[Loaded],
    layout: VisualLayout,
    buckets: ShapeBuckets,
    flops_of: Callable[[Sequence[Example]], float],
) -> tuple[Loaded, dict[str, Any]] | None:
    """The next batch with what all processes have to know of it."""
    loaded, failed = None, None
    try:
        loaded = next(source, None)
    except Exception as error:
        if jax.process_count() == 1:
            raise
        failed = error  # raised once the others know, or they would wait for ever
    shape, counts = BatchShape(), np.zeros(3, np.int64)
    if loaded is not None:
        shape = BatchShape.of(loaded.examples, layout, buckets)
        gigaflops = round(flops_of(loaded.examples) / 1e9)  # jax exchanges int32
        counts = np.array([len(loaded.bad), len(loaded.truncated), gigaflops])
    if jax.process_count() > 1:
        sizes = shape.to_vector()
        every = _exchange(np.concatenate([[failed is not None], sizes, counts]))
        if failed is not None:
            raise failed
        if every[:, 0].any():
            number = int(every[:, 0].argmax())
            raise FeedError(f"process {number} cannot go on; its own error says why")
        shape = BatchShape.from_vector(every[:, 1 : 1 + len(sizes)].max(0))
        counts = every[:, 1 + len(sizes) :].astype(np.int64).sum(0)
    if loaded is None:  # on every process at once: all have the same number of steps
        return None
    bad, truncated, gigaflops = (int(count) for count in counts)
    flops = gigaflops * 1e9
    return loaded, {
        "shape": shape,
        "bad": bad,
        "truncated": truncated,
        "flops": flops,
    }


def _exchange(values: np.ndarray) -> np.ndarray:
    """Every process's int32 values as rows."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values.astype(np.int32)))
