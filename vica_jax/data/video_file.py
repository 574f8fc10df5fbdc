"""A video file as its packets describe it, and its frames as a decoder gives them.

Frames count in presentation order. decord numbers keyframes in decoding order, so that
open GOPs, MPEG-TS and AVI files with B-frames yield neighbours of the frame asked for:
``VideoFile.not_for_decord`` says so.
"""

import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import av
from av.error import FFmpegError

from vica_jax.errors import InputError

# Containers in which decord's seeking was exact (measured on decord 0.6.0).
DECORD_FORMATS = ("mov,mp4", "matroska", "avi")
STILL_FORMATS = ("_pipe", "image2", "tty")  # FFmpeg reads pictures and text as video
NO_PTS = -(2**63)
CUT_SHORT = 0.05  # a Matroska file this much shorter than it states has lost its end


class VideoError(InputError):
    """A video that cannot be read as asked; the message names file and frame."""


class DamageError(Exception):
    """Frame ``number`` does not come out of the decoder."""

    def __init__(self, number: int, reason: str):
        super().__init__(reason)
        self.number = number


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoFile:
    """What the packets of a video file say; ``pts`` is empty without a usable clock.

    ``pts`` are the sorted timestamps of the frames shown, in units of ``time_base``
    seconds. ``keys`` are where decoding can start: (number of the first frame shown
    from there on, timestamp to seek to).
    """

    path: str
    total: int
    avg_fps: float | None
    time_base: float
    pts: list[int] = field(default_factory=list)
    keys: list[tuple[int, int]] = field(default_factory=list)
    not_for_decord: str = ""  # why decord's frame numbers would be wrong
    notes: tuple[str, ...] = ()

    def number(self, pts: int | None) -> int | None:
        """The frame with that timestamp; None where there is none."""
        at = bisect_right(self.pts, pts) - 1 if pts is not None else -1
        return at if at >= 0 and self.pts[at] == pts else None

    def key_before(self, number: int) -> tuple[int, int]:
        return self.keys[bisect_right(self.keys, number, key=lambda key: key[0]) - 1]

    def error(self, damage: DamageError) -> VideoError:
        frame = f"frame {damage.number}"
        if self.avg_fps:
            frame += f" ({damage.number / self.avg_fps:.2f} s)"
        if self.total:
            frame += f" of {self.total}"
        return VideoError(
            f"{self.path}: {frame} cannot be decoded ({damage}): the file is damaged "
            "or cut short"
        )


def index_file(path: str) -> VideoFile:
    """Number the frames of a file from its packets, without decoding them.

    Raises:
      VideoError: missing, not a video, no video stream, no frames, or shorter than
        its header says.
    """
    if not os.path.exists(path):
        raise VideoError(f"{path}: no such video file or folder of frames")
    try:
        with open_container(path) as container:
            if container.format.name.endswith(STILL_FORMATS):
                raise VideoError(f"{path}: a picture or a text, not a video")
            if not container.streams.video:
                raise VideoError(f"{path}: the file has no video stream")
            return _index(path, container, container.streams.best("video"))
    except (FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(
            f"{path}: no video, or too damaged to open ({reason})"
        ) from None


# ------------------------------------------------------------------------- index
class _Packet(NamedTuple):
    """Facts of a packet, without its data: a file may not fit into memory."""

    pts: int  # NO_PTS where the container states none
    duration: int
    key: bool
    hidden: bool
    corrupt: bool


def _facts(packet: Any) -> _Packet:
    flags = packet.is_keyframe, packet.is_discard, packet.is_corrupt
    pts = NO_PTS if packet.pts is None else packet.pts
    return _Packet(pts, packet.duration or 0, *map(bool, flags))


def open_container(path: str) -> Any:
    # An absolute path is never taken for a protocol ("scene:1.mp4").
    return av.open(os.path.abspath(path), metadata_errors="replace")


def _index(path: str, container: Any, stream: Any) -> VideoFile:
    packets = [_facts(packet) for packet in container.demux(stream) if packet.size]
    if not packets:
        raise VideoError(f"{path}: the video stream holds no frames")
    rate, kind = stream.average_rate or stream.guessed_rate, container.format.name
    file = VideoFile(
        path=path,
        total=len(packets),
        avg_fps=float(rate) if rate else None,
        time_base=float(stream.time_base),
    )
    _check_whole(file, container, stream, packets)
    first = next((i for i, packet in enumerate(packets) if packet.key), None)
    stamps = [packet.pts for packet in packets]
    # AVI has no presentation times: what FFmpeg states for B-frames is made up.
    reordered = kind == "avi" and stream.codec_context.has_b_frames
    no_clock = NO_PTS in stamps or len({*stamps}) < len(stamps)
    if first is None or reordered or no_clock:
        why = "the file has no usable frame times"
        return replace(file, total=_count_frames(file), not_for_decord=why)
    # Edit lists hide frames, also the keyframe before the first one shown.
    decoded = [packet for packet in packets[first:] if packet.pts >= stamps[first]]
    pts = sorted(packet.pts for packet in decoded if not packet.hidden)
    places = [i for i, packet in enumerate(decoded) if packet.key]
    keys = [(bisect_left(pts, decoded[i].pts), decoded[i].pts) for i in places]
    hidden = len(packets) - len(pts)
    problem = ""
    if not kind.startswith(DECORD_FORMATS):
        problem = f"its seeking in {kind} files is not exact"
    elif hidden:
        problem = "it counts frames that are not shown"
    elif [number for number, _ in keys] != places:
        problem = "it confuses frames around the keyframes of open GOPs"
    notes = (f"{hidden} frames that the file does not show left out",) if hidden else ()
    return replace(
        file, total=len(pts), pts=pts, keys=keys, not_for_decord=problem, notes=notes
    )


def _check_whole(
    file: VideoFile, container: Any, stream: Any, packets: list[_Packet]
) -> None:
    """Compare what the header announces with what is there."""
    kind, whole, reason = container.format.name, sum(not p.corrupt for p in packets), ""
    if kind.startswith("mov"):
        missing = _missing_bytes(file.path)
        if missing > 0:
            reason = f"the last {missing:,} bytes are missing"
    elif kind.startswith("matroska"):
        stated = _seconds(stream.metadata.get("DURATION", ""))
        if stated is None and len(container.streams) == 1:
            stated = (container.duration or 0) / av.time_base
        end = max(p.pts + p.duration for p in packets) * file.time_base
        if stated and end < stated * (1 - CUT_SHORT) - 0.25:
            reason = f"the header announces {stated:.2f} s, {end:.2f} are there"
    if reason:
        total = stream.frames if stream.frames > whole else 0
        raise replace(file, total=total).error(DamageError(whole, reason))


def _missing_bytes(path: str) -> int:
    """Bytes by which the last top-level box of an MP4 file passes the file's end."""
    size, at = os.path.getsize(path), 0
    with open(path, "rb") as file:
        while at + 8 <= size:
            file.seek(at)
            length = int.from_bytes(file.read(4))
            if length == 1:  # a 64-bit length follows the name
                file.seek(at + 8)
                length = int.from_bytes(file.read(8))
            if length == 0:  # up to the end
                return 0
            at += max(length, 8)
    return at - size


def _seconds(clock: str) -> float | None:
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", clock)
    if match is None:
        return None
    hours, minutes, seconds = map(float, match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _count_frames(file: VideoFile) -> int:
    """Decode the whole file to count its frames."""
    try:
        with open_container(file.path) as container:
            stream = watched_stream(container)
            return sum(1 for _ in numbered_frames(file, container, stream, 0))
    except DamageError as damage:
        raise replace(file, total=0).error(damage) from None


# ---------------------------------------------------------------------- decoding
def watched_stream(container: Any) -> Any:
    """The video stream, its decoder set to report damage.

    FFmpeg's slice threads lose the error flags of H.264 (so one thread, as decord
    has), and its HEVC decoder drops broken slices unless told to stop at errors.
    """
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        raise DamageError(0, "no decoder for its video stream")
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    if stream.codec_context.name == "hevc":
        stream.codec_context.options = {"err_detect": "explode"}
    return stream


def numbered_frames(
    file: VideoFile, container: Any, stream: Any, start: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded frames with their numbers, from ``start`` on.

    Earlier ones (leading frames of an open GOP, whose references lie before it) are
    passed over. Without frame times, frames are counted as they come.
    """
    count, stamp = start, None
    try:
        for packet in container.demux(stream):
            stamp = packet.pts
            if packet.is_corrupt:
                raise DamageError(_first(file.number(stamp), count), "broken off")
            for frame in packet.decode():
                number = file.number(frame.pts) if file.pts else count
                if number is None or number < start:
                    continue
                if frame.is_corrupt:
                    raise DamageError(number, "the decoder reports errors")
                yield number, frame
                count = number + 1
    except (FFmpegError, OSError) as error:
        number = _first(file.number(stamp), count)
        raise DamageError(number, error.strerror or type(error).__name__) from None


def _first(number: int | None, otherwise: int) -> int:
    return otherwise if number is None else number
