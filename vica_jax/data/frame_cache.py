"""Videos as the device takes them, kept so that none is decoded and resized twice.

An entry holds SigLIP's pixels, the raw frames that Hiera sees and which frames they
are: 57 MB for 64 frames of 640 x 480 (28 + 29), 28 MB without Hiera. It is named by the
file (path, size, time of change), how frames are sampled and read, the sizes of the
pixels, and the versions of the libraries that make them. Only the newest entries stay
in memory, only the last used in the folder, which processes may share.
"""

import importlib.metadata
import logging
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vica_jax.data.cache_files import (
    GIGABYTE,
    CacheFileError,
    LimitedFolder,
    identify,
    key_of,
)
from vica_jax.data.example import Medium, video_medium
from vica_jax.data.pixels import preview_frames
from vica_jax.data.video import FrameSample, VideoClip
from vica_jax.errors import InputError
from vica_jax.layout import VisualLayout

log = logging.getLogger(__name__)

FORMAT = 1  # of an entry; raise it where the same names would mean other bytes
SUFFIX = ".frames"
MEMORY_GB, FOLDER_GB = 0.5, 50.0
PACKAGES = ("av", "decord", "pillow")  # what the pixels depend on


class FrameCacheError(InputError):
    """A cache that cannot be as it is asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoPixels:
    """A video ready for the device, and what is left of its clip.

    ``preview`` is a few small frames, uint8 ``[<=8, h, 160, 3]``, for people.
    """

    medium: Medium
    sample: FrameSample
    preview: np.ndarray
    reader: str
    notes: tuple[str, ...] = ()


def video_pixels(clip: VideoClip, layout: VisualLayout) -> VideoPixels:
    """A clip's frames resized and picked out.

    Raises:
      LayoutError: a number of frames that the layout does not take.
    """
    names = ("indices", "times", "total_frames", "avg_fps")
    medium = video_medium(clip.frames, layout)
    return VideoPixels(
        medium=replace(medium, indices=tuple(clip.indices.tolist())),
        sample=FrameSample(**{name: getattr(clip, name) for name in names}),
        preview=preview_frames(clip.frames),
        reader=clip.reader,
        notes=clip.notes,
    )


class FrameCache:
    """Entries in memory, up to ``memory_gb``, and in ``folder``, up to ``folder_gb``.

    0 ``memory_gb`` keeps none in memory. Threads may share it. ``hits``, ``misses`` and
    ``damaged`` (misses too) count what ``get`` found.

    Raises:
      FrameCacheError: a size out of range, or ``folder`` is a file.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        folder_gb: float = FOLDER_GB,
        memory_gb: float = MEMORY_GB,
    ):
        if not folder_gb > 0 or not memory_gb >= 0:
            raise FrameCacheError(
                f"a frame cache of {folder_gb} GB on disk and {memory_gb} GB in memory:"
                " give positive sizes (0 in memory keeps nothing there)"
            )
        self._folder = None
        if folder is not None:
            path = Path(folder)
            if path.exists() and not path.is_dir():
                raise FrameCacheError(
                    f"frame cache {path}: this is a file: give a folder"
                )
            limit = int(folder_gb * GIGABYTE)
            self._folder = LimitedFolder(folder=path, suffix=SUFFIX, limit=limit)
        self._limit = int(memory_gb * GIGABYTE)
        self._entries: OrderedDict[str, VideoPixels] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = self.misses = self.damaged = 0
        self._told = False

    def key(
        self, path: str | os.PathLike[str], layout: VisualLayout, **how: Any
    ) -> str | None:
        """An entry's name; None where the file is not there (reading it says why).

        ``how`` are JSON values that decide which frames are taken, and by which reader.
        """
        try:
            file = identify(Path(path))
        except OSError:
            return None
        stride = layout.frame_stride if layout.has_hiera else None
        pixels = [layout.siglip_image_size, stride]
        where = os.path.realpath(path)
        return key_of([FORMAT, where, file, sorted(how.items()), pixels, _versions()])

    def get(self, key: str) -> VideoPixels | None:
        """The entry, or None: not there, or damaged (logged, and removed)."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                self.hits += 1
                return found
        found, damaged = self._read(key)
        with self._lock:
            self.hits += found is not None
            self.misses += found is None
            self.damaged += damaged
        if found is not None:
            self._keep(key, found)
        return found

    def put(self, key: str, pixels: VideoPixels) -> None:
        """Keep an entry, in memory and on disk; a full disk is logged, once."""
        raw = pixels.medium.raw
        if raw is not None:  # a view of all the frames, which it would keep alive
            medium = replace(pixels.medium, raw=np.ascontiguousarray(raw))
            pixels = replace(pixels, medium=medium)
        self._keep(key, pixels)
        if self._folder is None:
            return
        try:
            self._folder.write(key, *_pack(pixels))
        except OSError as error:
            if not self._told:
                log.warning(
                    "%s: the frame cache cannot be written (%s): videos are decoded "
                    "each time (said once)",
                    self._folder.folder,
                    error.strerror or error,
                )
            self._told = True

    def _read(self, key: str) -> tuple[VideoPixels | None, bool]:
        """The entry on disk, and whether it is damaged."""
        if self._folder is None:
            return None, False
        try:
            return _unpack(*self._folder.read(key)), False
        except FileNotFoundError:
            return None, False
        except (CacheFileError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning(
                "%s: entry %s of the frame cache is damaged (%s): the video is read "
                "again",
                self._folder.folder,
                key[:12],
                error,
            )
            self._folder.remove(key)
            return None, True

    def _keep(self, key: str, pixels: VideoPixels) -> None:
        arrays = _pack(pixels)[0].values()
        size = sum(array.nbytes for array in arrays)
        if size > self._limit:
            return
        for array in arrays:  # they will be given out again
            array.setflags(write=False)
        with self._lock:
            self._entries[key] = pixels
            self._entries.move_to_end(key)
            while sum(map(_size, self._entries.values())) > self._limit:
                self._entries.popitem(last=False)


@cache
def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            found.append("")
    return found


def _size(pixels: VideoPixels) -> int:
    return sum(array.nbytes for array in _pack(pixels)[0].values())


def _pack(pixels: VideoPixels) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    medium, sample = pixels.medium, pixels.sample
    arrays = {
        "siglip": medium.siglip,
        "indices": sample.indices,
        "times": sample.times,
        "preview": pixels.preview,
    }
    if medium.raw is not None:
        arrays["raw"] = medium.raw
    facts = {
        "image_wh": medium.image_wh,
        "total_frames": int(sample.total_frames),
        "avg_fps": float(sample.avg_fps),
        "reader": pixels.reader,
        "notes": pixels.notes,
    }
    return arrays, facts


def _unpack(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> VideoPixels:
    width, height = facts["image_wh"]
    return VideoPixels(
        medium=Medium(
            kind="video",
            siglip=arrays["siglip"],
            raw=arrays.get("raw"),
            image_wh=(width, height),
            indices=tuple(arrays["indices"].tolist()),
        ),
        sample=FrameSample(
            indices=arrays["indices"],
            times=arrays["times"],
            total_frames=facts["total_frames"],
            avg_fps=facts["avg_fps"],
        ),
        preview=arrays["preview"],
        reader=facts["reader"],
        notes=tuple(facts["notes"]),
    )
