"""Numbered frames of a video file, decoded once, through PyAV or decord.

The reference reads with decord. It conceals damage or waits for ever on it, so PyAV
decodes whatever leads to the wanted frames in any case, and heeds the decoder's error
flags. Where its pixels are decord's own, that pass is the only one: progressive 8-bit
4:2:0 of even size, upright, of a codec whose decoding is defined to the bit (H.264,
HEVC, VP8, VP9). Everything else is decoded again by decord: MPEG-4 part 2 leaves the
inverse DCT open (two levels); 10-bit 4:2:0, odd heights and interlaced frames differ in
chroma, two generations of swscale. Measured on decord 0.6.0 and PyAV 18.1.

decord reads with one thread, as in the reference. PyAV also reads where decord is
missing, fails, or cannot seek exactly (``VideoFile.not_for_decord``). Its decoders have
one thread each too (``watched_stream``), but parts of a file that begin at keyframes of
their own are decoded side by side. Damage that leaves a decodable stream, as it often
does in HEVC, is beyond detection.
"""

import importlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import av
import numpy as np
from av.error import FFmpegError

from vica_jax.data.threads import map_threads, num_threads
from vica_jax.data.video_file import (
    DamageError,
    VideoError,
    VideoFile,
    numbered_frames,
    open_container,
    watched_stream,
)

DECORD_PREFIX = re.compile(r"^(\[[\d:]+\] \S+: )+")  # [time] source.cc:line:
SAME_CODECS = ("h264", "hevc", "vp8", "vp9")
SAME_FORMATS = ("yuv420p", "yuvj420p")

Reader = Literal["auto", "decord", "pyav"]
Keep = Callable[[av.VideoFrame, str], bool]  # a frame and the name of its codec


def read_frames(
    file: VideoFile, numbers: list[int], reader: Reader = "auto"
) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """Frames ``uint8[n, h, w, 3]``, RGB and upright, the reader's name, and notes.

    ``numbers`` are sorted and unique. ``auto`` gives decord's pixels where decord is
    installed and exact, else PyAV's; see the module docstring for who decodes them.

    Raises:
      VideoError: damage on the way to a wanted frame, or ``reader`` cannot do it.
    """
    decord = None if reader == "pyav" else _import_decord()
    if reader == "decord" and decord is None:
        raise VideoError(f"{file.path}: decord is not installed; use reader 'pyav'")
    problem = file.not_for_decord
    if decord is not None and not problem:
        keep = _same_in_decord if reader == "auto" else _none
        frames, turn = _decode(file, numbers, keep)
        if frames is not None:
            return frames, "pyav", turn.notes
        try:
            frames = _decord_frames(decord, file, numbers)
            return turn.after_decord(frames), "decord", turn.notes
        except Exception as error:  # whatever decord throws, PyAV can read the file
            first_line = str(error).strip().partition("\n")[0][:200]
            problem = DECORD_PREFIX.sub("", first_line)
    if reader == "decord":
        raise VideoError(f"{file.path}: decord cannot ({problem}); use reader 'pyav'")
    frames, turn = _decode(file, numbers, _all)
    assert frames is not None
    note = (f"read by PyAV instead of decord: {problem}",) if decord else ()
    return frames, "pyav", turn.notes + note


# ------------------------------------------------------------------- orientation
@dataclass(frozen=True, kw_only=True)
class Turn:
    """What makes a frame upright: mirror top and bottom, then turn anticlockwise."""

    quarters: int = 0
    mirrored: bool = False
    notes: tuple[str, ...] = ()

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """Stored pixels ``[h, w, 3]`` to upright ones."""
        return np.rot90(pixels[::-1] if self.mirrored else pixels, self.quarters)

    def after_decord(self, frames: np.ndarray) -> np.ndarray:
        """decord's frames ``[n, h, w, 3]``, which it turns but does not mirror."""
        if not self.mirrored:
            return frames
        return np.ascontiguousarray(np.flip(frames, 1 + self.quarters % 2))


def _turn(frame: av.VideoFrame) -> Turn:
    """What the display matrix (phones write one) says; its y axis points down."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Turn()
    a, b, _, c, d = np.sign(np.frombuffer(matrix, np.int32)[:5]).tolist()
    determinant = a * d - b * c
    if abs(a) + abs(b) != 1 or abs(c) + abs(d) != 1 or not determinant:
        return Turn(notes=("a display matrix that is no quarter turn is left out",))
    quarters = {(1, 0): 0, (0, -1): 1, (-1, 0): 2, (0, 1): 3}[a, b]
    if not quarters and determinant > 0:
        return Turn()
    note = f"turned by {-quarters * 90 % 360} degrees clockwise, as the file says"
    if determinant < 0:
        note = f"mirrored top and bottom, {note}"
    return Turn(quarters=quarters, mirrored=determinant < 0, notes=(note,))


# ----------------------------------------------------------------------- readers
def _import_decord() -> ModuleType | None:
    try:
        decord = importlib.import_module("decord")
    except (ImportError, OSError, RuntimeError):  # absent, or its library unusable
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _decord_frames(
    decord: ModuleType, file: VideoFile, numbers: list[int]
) -> np.ndarray:
    # fault_tol just above 0: the first frame that decord would replace is an error.
    path, tolerance = os.path.abspath(file.path), "0.000000001"
    video = decord.VideoReader(path, decord.cpu(0), num_threads=1, fault_tol=tolerance)
    if len(video) != file.total:
        raise ValueError(f"it counts {len(video)} frames where {file.total} are shown")
    return video.get_batch(numbers).asnumpy()


def _decode(
    file: VideoFile, numbers: list[int], keep: Keep
) -> tuple[np.ndarray | None, Turn]:
    """Upright pixels of the numbered frames by PyAV, exact or an error.

    Seeks to keyframes; where that does not lead to a frame, decodes from the start.
    Pixels are None where one of the frames is not to be kept: then all that was done is
    to look for damage.
    """
    whole = range(len(numbers))
    if file.pts:
        parts = _parts(file, numbers, num_threads())
        for places in (parts, [whole]) if len(parts) > 1 else ([whole],):
            try:
                return _decode_parts(file, numbers, keep, places)
            except (DamageError, FFmpegError, _UnevenError):
                pass
    try:
        return _decode_parts(file, numbers, keep, [whole], seek=False)
    except DamageError as damage:
        raise file.error(damage) from None


def _parts(file: VideoFile, numbers: list[int], count: int) -> list[range]:
    """Places of the numbers in at most ``count`` parts of about as much decoding.

    A part begins where one decoder would seek too, so that it decodes the same frames.
    """
    keys = [file.key_before(number)[0] for number in numbers]
    jumps = [i for i in range(1, len(keys)) if keys[i] > numbers[i - 1] + 1]
    starts, stops = [0, *jumps], [*jumps, len(numbers)]
    runs = zip(starts, stops, strict=True)
    work = np.cumsum([numbers[stop - 1] + 1 - keys[start] for start, stop in runs])
    share = np.ceil(work * count / work[-1])  # 1..count: who does the run
    firsts = [0, *(starts[i] for i in np.flatnonzero(np.diff(share)) + 1)]
    ends = [*firsts[1:], len(numbers)]
    return [range(first, end) for first, end in zip(firsts, ends, strict=True)]


def _decode_parts(
    file: VideoFile,
    numbers: list[int],
    keep: Keep,
    parts: list[range],
    seek: bool = True,
) -> tuple[np.ndarray | None, Turn]:
    kept = _Kept(len(numbers), keep, alone=len(parts) == 1)
    map_threads(lambda places: _decode_part(file, numbers, places, kept, seek), parts)
    return kept.pixels, kept.turn


def _decode_part(
    file: VideoFile, numbers: list[int], places: range, kept: "_Kept", seek: bool
) -> None:
    run: Iterator[tuple[int, av.VideoFrame]] = iter(())
    with open_container(file.path) as container:
        stream = watched_stream(container)
        codec = stream.codec_context.name
        for place in places:
            number = numbers[place]
            key, stamp = file.key_before(number) if seek else (0, 0)
            if place == places[0] or key > numbers[place - 1] + 1:
                if seek:
                    container.seek(stamp, stream=stream)
                run = numbered_frames(file, container, stream, key)
            at, frame = next((found for found in run if found[0] >= number), (-1, None))
            if at != number or frame is None:
                raise DamageError(number, "the decoder leaves it out")
            kept.put(place, frame, codec)


class _UnevenError(Exception):
    """Frames of different sizes or turns, where it matters which comes first."""


class _Kept:
    """Wanted frames as they come, from one thread or several.

    ``pixels`` is uint8 ``[count, h, w, 3]``, of the size and turn of the first frame;
    None until there is one, and from when one is not to be kept.
    """

    def __init__(self, count: int, keep: Keep, alone: bool):
        self.count, self.keep, self.alone = count, keep, alone
        self.lock = threading.Lock()
        self.pixels: np.ndarray | None = None
        self.first: tuple[int, int, Turn] | None = None
        self.declined = False

    @property
    def turn(self) -> Turn:
        return self.first[2] if self.first else Turn()

    def put(self, place: int, frame: av.VideoFrame, codec: str) -> None:
        """Convert a frame and keep it in its place, or decline all of them.

        Raises:
          _UnevenError: it is unlike the first, and that may not be the video's first.
        """
        own = frame.width, frame.height, _turn(frame)
        with self.lock:
            if self.first is None:
                self.first = own
            width, height, turn = self.first
            if own != self.first and not self.alone:
                raise _UnevenError
            if not self.keep(frame, codec) or (own != self.first and self.keep != _all):
                self.declined, self.pixels = True, None
            if self.declined:
                return
            if self.pixels is None:
                size = (height, width) if turn.quarters % 2 == 0 else (width, height)
                self.pixels = np.empty((self.count, *size, 3), np.uint8)
            pixels = self.pixels
        rgb = frame.to_ndarray(format="rgb24", width=width, height=height)
        pixels[place] = turn.upright(rgb)


def _all(frame: av.VideoFrame, codec: str) -> bool:
    return True


def _none(frame: av.VideoFrame, codec: str) -> bool:
    return False


def _same_in_decord(frame: av.VideoFrame, codec: str) -> bool:
    """Whether decord would give the same pixels, as far as a frame tells."""
    return (
        codec in SAME_CODECS
        and frame.format.name in SAME_FORMATS
        and not (frame.width % 2 or frame.height % 2)
        and not frame.interlaced_frame
        and _turn(frame) == Turn()
    )
