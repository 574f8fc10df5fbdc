"""Videos to sampled frames: which frames, at what times, and their pixels.

The sampling rule is the reference's: every ``round(avg_fps / fps)``-th frame, or
uniformly from the first to the last. Sources are video files (``data/video_frames``),
folders of frames, and frames in memory.

Deviations from the reference: a folder's frames stand in natural order (2 before 10),
and whatever cannot be read is an error instead of another sample.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from vica_jax.data.pixels import ImageError, open_image
from vica_jax.data.video_file import VideoError, VideoFile, index_file
from vica_jax.data.video_frames import Reader, read_frames

__all__ = [
    "FrameSample",
    "Reader",
    "VideoClip",
    "VideoError",
    "read_video",
    "read_video_frames",
    "sample_frames",
    "time_instruction",
]

FOLDER_FPS = 2.0  # the reference's convention for frames that carry no clock
FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
DRIFT_S = 0.5  # difference of index / avg_fps and the file's clock worth a note
RARE_GAPS = 0.05  # gaps in so few of the steps look like lost frames, not like a habit

VideoSource = str | os.PathLike[str] | np.ndarray | Sequence[Image.Image]
FrameChoice = (
    np.ndarray | Sequence[int] | Callable[[int, float], np.ndarray | Sequence[int]]
)
ListedFrames = VideoFile | np.ndarray | Sequence[Path | Image.Image]


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameSample:
    """Which frames are taken: ``indices int64[F]``, ``times float64[F]`` (seconds)."""

    indices: np.ndarray
    times: np.ndarray
    total_frames: int
    avg_fps: float

    @property
    def duration_s(self) -> float:
        return self.total_frames / self.avg_fps

    @property
    def frame_time(self) -> str:
        """``0.00s,0.40s,...``, as the time instruction states it."""
        return ",".join(f"{time:.2f}s" for time in self.times)


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoClip(FrameSample):
    """A sample with its frames ``uint8[F, h, w, 3]``, RGB and upright.

    ``reader`` is decord, pyav, images or array; ``notes`` are for the user.
    """

    frames: np.ndarray
    reader: str
    notes: tuple[str, ...] = ()


def sample_frames(
    total_frames: int,
    avg_fps: float,
    *,
    num_frames: int | None = 64,
    fps: float | None = None,
) -> FrameSample:
    """Frame numbers and times by the reference's rule.

    With ``fps``: numbers 0, s, 2s, ... of step s = round(avg_fps / fps), halves to
    even, at times number / s, which are seconds at 1 fps only (kept: prompts are made
    of them). Without, or where these are more than ``num_frames``: uniformly from
    first to last, rounded down, at times number / avg_fps; frames repeat when there
    are fewer than ``num_frames``. ``num_frames=None`` sets no limit.

    Raises:
      VideoError: no frames, or a rate or number that is not positive.
    """
    for name, value in (("avg_fps", avg_fps), ("fps", fps)):
        if value is not None and not 0 < value < math.inf:
            raise VideoError(f"{name} must be a positive number, got {value}")
    if num_frames is not None and num_frames < 1:
        raise VideoError(f"num_frames must be at least 1, got {num_frames}")
    if total_frames < 1:
        raise VideoError("the video holds no frames")
    indices = _every(total_frames, avg_fps, fps)
    if num_frames is not None and (indices is None or len(indices) > num_frames):
        indices = np.linspace(0, total_frames - 1, num_frames, dtype=np.int64)
        times = indices / avg_fps
    elif indices is not None and fps is not None:
        # The reference divides by a step of 0 where fps is more than twice the rate.
        times = indices / (round(avg_fps / fps) or avg_fps)
    else:
        raise VideoError("state fps or num_frames: without both nothing is sampled")
    return FrameSample(
        indices=indices, times=times, total_frames=total_frames, avg_fps=avg_fps
    )


def _every(total: int, avg_fps: float, fps: float | None) -> np.ndarray | None:
    """Numbers of the frames at a rate of ``fps``; None where none is asked for."""
    if fps is None:
        return None
    return np.arange(0, total, max(round(avg_fps / fps), 1), dtype=np.int64)


def time_instruction(sample: FrameSample) -> str:
    """The sentence on duration and frame times that training puts before questions."""
    return (
        f"The video lasts for {sample.duration_s:.2f} seconds, and "
        f"{len(sample.indices)} frames are uniformly sampled from it. These frames are "
        f"located at {sample.frame_time}.Please answer the following questions related "
        "to this video."
    )


def read_video(
    source: VideoSource,
    *,
    num_frames: int = 64,
    fps: float | None = None,
    source_fps: float | None = None,
    reader: Reader = "auto",
) -> VideoClip:
    """Sampled frames of a video file, a folder of frames, or frames in memory.

    ``fps`` samples at that rate, at most ``num_frames``; without it ``num_frames``
    are taken uniformly. Folders, arrays ``uint8[n, h, w, 3]`` and lists of PIL images
    carry no clock: they count as 2 fps unless ``source_fps`` says otherwise (for a
    file it overrides the stated rate). Only sampled frames are kept in memory.
    ``reader`` is for files: see ``data/video_frames``.

    Raises:
      VideoError: missing, not a video, without a video stream or frames, cut short or
        damaged on the way to a sampled frame, frames of different sizes, a wrong dtype
        or shape, or a number out of range.
    """
    listed, total, rate, notes = _list_source(source, source_fps)
    sample = sample_frames(total, rate, num_frames=num_frames, fps=fps)
    clip = _read_sample(listed, sample, reader, notes)
    return replace(clip, notes=clip.notes + _sampling_notes(sample, num_frames, fps))


def read_video_frames(
    source: VideoSource,
    choose: FrameChoice,
    *,
    source_fps: float | None = None,
    reader: Reader = "auto",
) -> VideoClip:
    """Frames of given numbers, at times number / avg_fps.

    ``choose`` is the numbers, in any order, or a function that returns them for the
    video's number of frames and its rate. Otherwise as ``read_video``.

    Raises:
      VideoError: as ``read_video``; numbers that are no integers, none at all, or a
        frame that the video does not have.
    """
    listed, total, rate, notes = _list_source(source, source_fps)
    name = source if isinstance(source, str | os.PathLike) else "the video"
    indices = np.asarray(choose(total, rate) if callable(choose) else choose)
    if indices.ndim != 1 or not indices.size or indices.dtype.kind not in "iu":
        raise VideoError(
            f"{name}: frame numbers must be a list of integers, got "
            f"{indices.dtype} of shape {indices.shape}"
        )
    wrong = indices[(indices < 0) | (indices >= total)]
    if wrong.size:
        raise VideoError(
            f"{name}: frame {wrong[0]} is asked for, there are {total} frames (from 0)"
        )
    indices = indices.astype(np.int64)
    sample = FrameSample(
        indices=indices, times=indices / rate, total_frames=total, avg_fps=rate
    )
    return _read_sample(listed, sample, reader, notes)


def _list_source(
    source: VideoSource, source_fps: float | None
) -> tuple[ListedFrames, int, float, tuple[str, ...]]:
    """Where the frames of a source are, their number and rate, and notes."""
    if source_fps is not None and not 0 < source_fps < math.inf:
        raise VideoError(f"source_fps must be a positive number, got {source_fps}")
    if isinstance(source, str | os.PathLike) and not os.path.isdir(source):
        file = index_file(os.fspath(source))
        rate = source_fps or file.avg_fps
        if rate is None:
            raise VideoError(f"{source}: the file states no rate; give source_fps")
        return file, file.total, rate, file.notes
    listed, notes = _list_frames(source), ()
    if source_fps is None:
        notes = (f"frames without a clock: taken as {FOLDER_FPS:g} per second",)
    return listed, len(listed), source_fps or FOLDER_FPS, notes


def _read_sample(
    listed: ListedFrames, sample: FrameSample, reader: Reader, notes: tuple[str, ...]
) -> VideoClip:
    """The sample's frames, each decoded once."""
    wanted, places = np.unique(sample.indices, return_inverse=True)
    if isinstance(listed, VideoFile):
        frames, used, more = read_frames(listed, wanted.tolist(), reader)
        notes += more + _clock_notes(listed, sample)
    elif isinstance(listed, np.ndarray):
        frames, used = listed[wanted], "array"
    else:
        frames, used = _read_images([listed[i] for i in wanted]), "images"
    if not np.array_equal(places, np.arange(len(wanted))):
        frames = frames[places]
    return VideoClip(**vars(sample), frames=frames, reader=used, notes=notes)


def _sampling_notes(
    sample: FrameSample, num_frames: int, fps: float | None
) -> tuple[str, ...]:
    """Say so where frames repeat, or where the limit overrules ``fps``."""
    total = sample.total_frames
    every = _every(total, sample.avg_fps, fps)
    if every is not None and len(every) > num_frames:
        return (
            f"{len(every)} frames at {fps:g} fps pass the limit: {num_frames} are "
            "taken uniformly",
        )
    if every is None and total < num_frames:
        return (f"the video has {total} frames, {num_frames} are taken: they repeat",)
    return ()


def _clock_notes(file: VideoFile, sample: FrameSample) -> tuple[str, ...]:
    """Say so where the file's clock contradicts a constant frame rate."""
    if len(file.pts) < 2:
        return ()
    clock = (np.array(file.pts) - file.pts[0]) * file.time_base
    steps = np.diff(clock)
    usual = float(np.median(steps))
    gaps = np.flatnonzero(steps > 1.5 * usual)
    if 0 < len(gaps) <= len(steps) * RARE_GAPS:  # a steady rate with a hole or two
        lost = round(float(np.sum(steps[gaps] / usual - 1)))
        at = f"{clock[gaps[0]]:.2f} s"
        return (f"frames are missing: about {lost}, the first after {at}",)
    rate = file.avg_fps or sample.avg_fps
    drift = float(np.abs(clock - np.arange(len(clock)) / rate).max())
    if drift < DRIFT_S:
        return ()
    return (f"variable frame rate: frame times are up to {drift:.1f} s off",)


def _list_frames(source: VideoSource) -> np.ndarray | Sequence[Path | Image.Image]:
    """All frames of an array or a list of images; the image files of a folder."""
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 4 or source.shape[-1] != 3:
            raise VideoError(
                "a video array must be uint8 [n, h, w, 3] (RGB), got "
                f"{source.dtype} of shape {source.shape}"
            )
        return source
    if isinstance(source, str | os.PathLike):
        files = [path for path in Path(source).iterdir() if path.is_file()]
        images = [
            path
            for path in files
            if path.suffix.lower() in FRAME_SUFFIXES and path.name[0] != "."
        ]
        if not images:
            suffixes = " ".join(FRAME_SUFFIXES)
            raise VideoError(f"{source}: a folder without image files ({suffixes})")
        return sorted(images, key=_natural)
    if not all(isinstance(frame, Image.Image) for frame in source):
        raise VideoError("a list of frames must hold nothing but PIL images")
    return source


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts], path.name


def _read_images(frames: Sequence[Path | Image.Image]) -> np.ndarray:
    """Image files or images of one size as ``uint8[n, h, w, 3]``."""
    out: np.ndarray = np.empty((0, 0, 0, 3), np.uint8)
    for place, frame in enumerate(frames):
        name = frame if isinstance(frame, Path) else f"frame {place} of the sample"
        try:
            image = np.asarray(open_image(frame))
        except ImageError as error:
            raise VideoError(str(error)) from None
        if place == 0:
            out = np.empty((len(frames), *image.shape), np.uint8)
        if image.shape != out.shape[1:]:
            (h, w), (h0, w0) = image.shape[:2], out.shape[1:3]
            raise VideoError(f"{name}: {w}x{h} pixels, the frames before it {w0}x{h0}")
        out[place] = image
    return out
