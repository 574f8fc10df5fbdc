"""Examples by random access, read and packed for the way between processes.

This is what a data worker runs: numpy alone, no grain and no jax of ours. Arrays travel
through shared memory if they are leaves of a dictionary, so an example is packed into
one byte array and a line of JSON. What goes wrong travels the same way: an exception
that cannot be pickled would leave the main process waiting for ever (grain 0.2.18).
"""

import json
import math
import os
import signal
import threading
import traceback
from collections.abc import Mapping
from functools import cached_property
from multiprocessing import connection, parent_process
from typing import Any

import ml_dtypes  # noqa: F401  (gives numpy the name "bfloat16")
import numpy as np

from vica_jax.data.conversation import always_supervised
from vica_jax.data.example import Example, Medium
from vica_jax.data.features import feature_keys, open_cache, place_features
from vica_jax.data.frame_cache import FrameCache, VideoPixels
from vica_jax.data.media import Media
from vica_jax.data.mixture import Mixture
from vica_jax.data.order import epoch_order
from vica_jax.data.record import (
    RecordError,
    make_example,
    read_cached,
    read_media,
)
from vica_jax.data.settings import DataSettings
from vica_jax.data.threads import use_threads
from vica_jax.data.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from vica_jax.errors import InputError
from vica_jax.layout import VisualLayout

EMPTY = Example(chunks=((),))


def read_example(
    mixture: Mixture,
    index: int,
    *,
    tokenizer: Tokenizer,
    layout: VisualLayout,
    settings: DataSettings,
    hiera_hash: str = "",
    frames: FrameCache | None = None,
) -> Example:
    """One record of a mixture as an example, a video's ``indices`` with it.

    With ``settings.hiera_cache``, cached features stand in place of raw frames.
    ``frames`` is where videos' pixels are looked for first.

    Raises:
      InputError: the record or its media cannot be read, or are not in the cache.
    """
    record = mixture[index].value

    def read(
        record: Mapping[str, Any], settings: DataSettings
    ) -> Media | VideoPixels | None:
        if frames is None:
            return read_media(record, settings)
        return read_cached(record, settings, layout, frames)

    example = make_example(
        record, tokenizer=tokenizer, layout=layout, settings=settings, read=read
    )
    if not settings.hiera_cache:
        return example
    cache = open_cache(layout, settings, hiera_hash)
    return place_features(
        cache, example, feature_keys(cache, record, example, settings)
    )


def check_answers(example: Example, layout: VisualLayout, tokenizer: Tokenizer) -> None:
    """Raise RecordError where no answer begins within the context length.

    Turns' own marks and newlines, which are always labels, may still lie within it.
    """
    kept = example.targets(layout)[1]
    if not set(kept.tolist()) - always_supervised(tokenizer):
        raise RecordError(
            f"no answer begins within the context length of {layout.context_length}: "
            f"with {example.visual_tokens(layout)} visual tokens it has "
            f"{example.length(layout)} positions"
        )


class Slots:
    """Random access to a run's examples, packed: slot s is row ``s % len(rows)`` of
    step ``first_step + s // len(rows)``. Picklable; the tokenizer is loaded on first
    use and an epoch's order is made when it begins.
    """

    def __init__(
        self,
        mixture: Mixture,
        indices: np.ndarray,
        *,
        tokenizer_folder: str,
        layout: VisualLayout,
        settings: DataSettings,
        seed: int,
        global_batch_size: int,
        rows: tuple[int, ...],
        first_step: int,
        num_steps: int,
        hiera_hash: str,
    ):
        self.mixture, self.indices = mixture, indices
        self.tokenizer_folder = tokenizer_folder
        self.layout, self.settings, self.hiera_hash = layout, settings, hiera_hash
        self.seed, self.global_batch_size, self.rows = seed, global_batch_size, rows
        self.first_step, self.num_steps = first_step, num_steps
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self.num_steps * len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "_epoch": -1, "_order": np.zeros(0, np.int64)}
        for name in ("tokenizer", "frames"):
            state.pop(name, None)
        return state

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.tokenizer_folder)

    @cached_property
    def frames(self) -> FrameCache | None:
        """The cache of frames that the settings name; on disk, for all workers."""
        data = self.settings
        if not data.frame_cache:
            return None
        return FrameCache(data.frame_cache, folder_gb=data.frame_cache_gb, memory_gb=0)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            before = self._found()
            header, data = self._read(index)
            if before is not None:
                counts = zip(before, self._found() or before, strict=True)
                header["frame_cache"] = [now - then for then, now in counts]
        except InputError as error:
            header, data = {"unusable": str(error)}, np.zeros(0, np.uint8)
        except BaseException:  # SystemExit too: it would end the worker without a word
            header, data = {"failure": traceback.format_exc()}, np.zeros(0, np.uint8)
        return {"header": json.dumps(header), "data": data}

    def _found(self) -> tuple[int, int] | None:
        """Hits and misses of the frame cache so far; None without one."""
        return None if self.frames is None else (self.frames.hits, self.frames.misses)

    def _read(self, slot: int) -> tuple[dict[str, Any], np.ndarray]:
        step, row = divmod(slot, len(self.rows))
        steps_per_epoch = -(-len(self.indices) // self.global_batch_size)
        epoch, batch = divmod(self.first_step + step, steps_per_epoch)
        position = batch * self.global_batch_size + self.rows[row]
        if position >= len(self.indices):
            return pack(EMPTY)
        if epoch != self._epoch:
            self._order = epoch_order(
                self.mixture.lengths[self.indices],
                self.global_batch_size,
                seed=self.seed,
                epoch=epoch,
                group=self.settings.group_by_length,
            )
            self._epoch = epoch
        index, tokenizer = int(self.indices[self._order[position]]), self.tokenizer
        record = self.mixture[index]
        place = {
            "epoch": epoch,
            "position": position,
            "source": record.source,
            "index": index,
            "id": str(record.value.get("id", "")),
        }
        try:
            example = read_example(
                self.mixture,
                index,
                tokenizer=tokenizer,
                layout=self.layout,
                settings=self.settings,
                hiera_hash=self.hiera_hash,
                frames=self.frames,
            )
            length, kept = example.length(self.layout), self.layout.context_length
            if length > kept:
                check_answers(example, self.layout, tokenizer)
            header, data = pack(example)
        except TokenizerError:
            raise  # no sample's fault: it would be the same for every one
        except InputError as error:
            header, data = pack(EMPTY)
            header["bad"] = {**place, "reason": " ".join(str(error).split())}
            return header, data
        if length > kept:
            header["truncated"] = {**place, "length": length, "kept": kept}
        return header, data


def pack(example: Example) -> tuple[dict[str, Any], np.ndarray]:
    """An example as a JSON header and one ``uint8[n]``: one shared memory segment."""
    parts: list[np.ndarray] = []
    end = 0

    def add(array: np.ndarray | None) -> list[Any] | None:
        nonlocal end
        if array is None:
            return None
        start = -(-end // 64) * 64
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        parts.append(np.zeros(start - end, np.uint8))
        parts.append(flat)
        end = start + flat.size
        return [start, array.dtype.name, list(array.shape)]

    header: dict[str, Any] = {
        "chunks": [add(np.asarray(chunk, np.int32)) for chunk in example.chunks],
        "supervised": [add(np.asarray(row, bool)) for row in example.supervised],
        "media": [
            {
                "kind": medium.kind,
                "image_wh": list(medium.image_wh),
                "indices": list(medium.indices),
                "siglip": add(medium.siglip),
                "raw": add(medium.raw),
                "hiera": add(medium.hiera),
            }
            for medium in example.media
        ],
    }
    return header, np.concatenate(parts)


def unpack(header: dict[str, Any], data: np.ndarray) -> Example:
    """The example that was packed; the arrays of its media are views of ``data``."""

    def take(place: list[Any] | None) -> Any:
        if place is None:
            return None
        start, name, shape = place
        dtype = np.dtype(name)
        stop = start + math.prod(shape) * dtype.itemsize
        return data[start:stop].view(dtype).reshape(shape)

    return Example(
        chunks=[take(place).tolist() for place in header["chunks"]],
        supervised=[take(place).tolist() for place in header["supervised"]],
        media=[
            Medium(
                kind=medium["kind"],
                siglip=take(medium["siglip"]),
                raw=take(medium["raw"]),
                image_wh=(medium["image_wh"][0], medium["image_wh"][1]),
                hiera=take(medium["hiera"]),
                indices=tuple(medium["indices"]),
            )
            for medium in header["media"]
        ],
    )


def start_worker(index: int, count: int) -> None:
    """What a worker process does before its first example."""
    # Ctrl-C reaches every process of a terminal: the main one closes its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Workers are the parallelism: one thread each.
    use_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = parent_process()
    if parent is not None:
        watch = threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True)
        watch.start()


def _end_with(sentinel: int) -> None:
    """A main process that was killed closes nothing: its workers end by themselves."""
    connection.wait([sentinel])
    os._exit(1)
