"""Whatever a caller calls a video or an image, opened the one way."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from vica_jax.data.pixels import open_image
from vica_jax.data.video import VideoClip, read_video
from vica_jax.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class MediaError(InputError):
    """A source that is neither a video nor images."""


@dataclass(frozen=True)
class Video:
    """Sampled frames of one video."""

    clip: VideoClip

    @property
    def notes(self) -> tuple[str, ...]:
        return self.clip.notes


@dataclass(frozen=True)
class Images:
    """One or several RGB images."""

    images: tuple[Image.Image, ...]
    notes: tuple[str, ...] = ()


Media = Video | Images


def is_image_file(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def is_video(source: Any) -> bool:
    """Whether ``open_media`` would read a source frame by frame."""
    if isinstance(source, np.ndarray):
        return source.ndim != 3
    return isinstance(source, str | os.PathLike) and not is_image_file(source)


def open_media(
    source: Any,
    *,
    num_frames: int = 64,
    fps: float | None = None,
    source_fps: float | None = None,
    reader: Literal["auto", "decord", "pyav"] = "auto",
) -> Media | None:
    """Open a source; None stays None (a question without media).

    * a path: an image file by its suffix, else a video file or a folder of frames;
    * uint8 arrays: ``[n,h,w,3]`` a video, ``[h,w,3]`` an image;
    * a PIL image, or a sequence of images in any of these forms;
    * a ``VideoClip``, ``Video`` or ``Images`` as it is.

    Raises:
      MediaError: anything else. VideoError, ImageError: it cannot be read.
    """
    if source is None or isinstance(source, Video | Images):
        return source
    if isinstance(source, VideoClip):
        return Video(source)
    if isinstance(source, Image.Image):
        return Images((open_image(source),))
    if isinstance(source, np.ndarray) and source.ndim == 3:
        return Images((open_image(source),))
    if isinstance(source, str | os.PathLike) and is_image_file(source):
        return Images((open_image(source),))
    if is_video(source):
        clip = read_video(
            source, num_frames=num_frames, fps=fps, source_fps=source_fps, reader=reader
        )
        return Video(clip)
    if isinstance(source, Sequence) and len(source):
        return Images(tuple(open_image(item) for item in source))
    raise MediaError(
        f"cannot read {type(source).__name__} as a video or images: give a path, a "
        "uint8 array [n,h,w,3] or [h,w,3], a PIL image, or a list of images"
    )
