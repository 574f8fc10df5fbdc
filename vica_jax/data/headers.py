"""What image and video files say of themselves, nothing decoded.

Damage behind a header shows only where a file is opened.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
from av.error import FFmpegError
from PIL import Image

from vica_jax.data.pixels import ImageError
from vica_jax.data.video import FRAME_SUFFIXES, VideoError
from vica_jax.data.video_file import STILL_FORMATS, index_file
from vica_jax.errors import InputError

Kind = Literal["image", "video", "folder"]

TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What is known of a file (or folder of frames): from its header, or ``opened``.

    ``problem`` says why it cannot be used. Images have one frame and no rate.
    """

    kind: Kind
    missing: bool = False
    problem: str = ""
    size_wh: tuple[int, int] = (0, 0)
    frames: int = 1
    fps: float = 0.0
    opened: bool = False

    @property
    def seconds(self) -> float:
        return self.frames / self.fps if self.fps else 0.0


def look_at(path: Path, kind: Kind, folder_fps: float) -> FileFacts:
    """Whether a file is there and what its header says; nothing is decoded.

    A video that states no frame count or rate is indexed, which reads all of it.
    """
    try:
        if not path.exists():
            return FileFacts(kind=kind, missing=True, problem="no such file or folder")
        if kind == "image":
            return _look_at_image(path)
        if path.is_dir():
            return _look_at_folder(path, folder_fps)
        return _look_at_video(path)
    except (InputError, OSError) as error:  # OSError: a folder that may not be read
        return FileFacts(kind=kind, problem=reason_of(error, path))


def _look_at_image(path: Path) -> FileFacts:
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Asked without it, a PNG is read to its end. TIFFs turn themselves.
            known = "exif" in image.info
            if known and image.getexif().get(ORIENTATION) in TURNED:
                width, height = height, width
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        reason = getattr(error, "strerror", None) or error
        reason = str(reason).replace(f" {str(path)!r}", "")
        raise ImageError(f"not a readable image ({reason})") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"not a readable image ({error})") from None
    return FileFacts(kind="image", size_wh=(width, height))


def _look_at_folder(path: Path, fps: float) -> FileFacts:
    names = [
        entry.name
        for entry in os.scandir(path)
        if Path(entry.name).suffix.lower() in FRAME_SUFFIXES
        and not entry.name.startswith(".")
        and entry.is_file()
    ]
    if not names:
        raise VideoError("a folder without image files")
    size = _look_at_image(path / min(names)).size_wh
    return FileFacts(kind="folder", size_wh=size, frames=len(names), fps=fps)


def _look_at_video(path: Path) -> FileFacts:
    try:
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            if container.format.name.endswith(STILL_FORMATS):
                raise VideoError("a picture or a text, not a video")
            if not container.streams.video:
                raise VideoError("the file has no video stream")
            stream: Any = container.streams.best("video")
            rate = stream.average_rate or stream.guessed_rate
            size = stream.codec_context.width, stream.codec_context.height
            frames = stream.frames
    except (FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"no video, or too damaged to open ({reason})") from None
    if not frames or not rate:
        index = index_file(str(path))
        frames, rate = index.total, index.avg_fps
    if not rate:
        raise VideoError("the file states no rate")
    return FileFacts(kind="video", size_wh=size, frames=frames, fps=float(rate))


def reason_of(error: Exception, path: Path) -> str:
    """An error's line without the path in front, which stands beside it."""
    return " ".join(str(error).removeprefix(f"{path}: ").split())
