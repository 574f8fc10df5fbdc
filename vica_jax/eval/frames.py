"""Which frames of a video the model sees: uniform, at a rate, MaxInfo or coverage.

MaxInfo chooses among candidate frames by their embeddings (``eval/maxvol``), coverage
by what they see of the scene (``eval/coverage``). Both may choose fewer frames than
wanted; ``fill`` adds others by a fixed rule (``top_up``), else fewer are passed on,
which the model takes. Each candidate frame is decoded once.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vica_jax.data.video import (
    Reader,
    VideoClip,
    VideoSource,
    read_video,
    read_video_frames,
    sample_frames,
)
from vica_jax.errors import InputError
from vica_jax.eval.coverage import CoverageError, read_point_map, voxel_coverage
from vica_jax.eval.maxvol import MaxvolError, maxinfo

__all__ = [
    "KINDS",
    "Embed",
    "FrameSelection",
    "SelectionError",
    "black_out",
    "find_point_map",
    "select_clip",
    "top_up",
]

Embed = Callable[[VideoClip], Any]  # n frames to an array [n, d]

# The kinds, and what matters to each beside the number of frames.
SETTINGS: dict[str, tuple[str, ...]] = {
    "uniform": (),
    "fps": ("fps",),
    "maxinfo": ("fps", "candidates", "rank", "tol", "fill"),
    "coverage": ("fill",),
}
KINDS = tuple(SETTINGS)


class SelectionError(InputError):
    """Frames that cannot be chosen as asked."""


@dataclass(frozen=True, kw_only=True)
class FrameSelection:
    """How frames are chosen; what is not named for a kind has no effect on it.

    Attributes:
      kind: "uniform" takes ``num_frames`` from first to last; "fps" takes ``fps`` a
        second, uniformly where these are more; "maxinfo" takes what spans the largest
        volume of the candidates' embeddings; "coverage" what sees the most voxels.
      num_frames: at most so many.
      fps: of kind "fps", and of maxinfo's candidates.
      candidates: maxinfo: the most candidates, taken uniformly where ``fps`` gives
        more.
      rank: maxinfo: singular vectors of the embeddings kept.
      tol: maxinfo: ends when no frame's coefficients have a larger norm.
      fill: maxinfo, coverage: add frames up to ``num_frames`` (``top_up``): first of
        the candidates, or of the point map's frames, then of the whole video.

    Raises:
      SelectionError: an unknown kind, or a number out of range.
    """

    kind: str = "uniform"
    num_frames: int = 64
    fps: float = 1.0
    candidates: int = 128
    rank: int = 8
    tol: float = 0.3
    fill: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SelectionError(
                f"no frame selection '{self.kind}': there are {', '.join(KINDS)}"
            )
        for name in ("num_frames", "candidates", "rank"):
            if getattr(self, name) < 1:
                raise SelectionError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        if not 0 < self.fps < math.inf:
            raise SelectionError(f"fps must be a positive number, got {self.fps}")
        if not 0 <= self.tol < math.inf:
            raise SelectionError(f"tol must be a number not below 0, got {self.tol}")
        if self.kind == "maxinfo" and self.candidates < self.num_frames:
            raise SelectionError(
                f"{self.candidates} candidates for {self.num_frames} frames: raise "
                "candidates, or take fewer frames"
            )

    @property
    def needs_embed(self) -> bool:
        return self.kind == "maxinfo"

    @property
    def is_by_time(self) -> bool:
        """Whether the frames follow from the video's length alone."""
        return self.kind in ("uniform", "fps")

    @property
    def needs_point_map(self) -> bool:
        return self.kind == "coverage"

    def describe(self) -> dict[str, str | int | float | bool]:
        """The settings that have an effect, for the recipe of a run."""
        names = ("kind", "num_frames", *SETTINGS[self.kind])
        return {name: getattr(self, name) for name in names}


def select_clip(
    source: VideoSource,
    selection: FrameSelection,
    *,
    embed: Embed | None = None,
    point_maps: str | os.PathLike[str] | None = None,
    source_fps: float | None = None,
    reader: Reader = "auto",
) -> VideoClip:
    """The chosen frames of a video, in order, with notes on how many were chosen.

    Times are those of ``read_video`` for "uniform" and "fps", else number / avg_fps.

    Args:
      embed: for maxinfo: candidate frames to an array ``[n, d]``, a row for each. It
        is not called where the candidates are no more than ``num_frames``: then all
        are taken.
      point_maps: for coverage: an ``.npz`` file (``coverage.read_point_map``), or a
        folder of them (``find_point_map``).
      source_fps, reader: as in ``read_video``.

    Raises:
      SelectionError: ``embed`` or ``point_maps`` missing, embeddings of another shape
        or not finite, a point map of a longer video.
      CoverageError: a point map that cannot be read or used.
      VideoError: the video cannot be read.
    """
    how: dict[str, Any] = {"source_fps": source_fps, "reader": reader}
    if selection.kind == "maxinfo":
        return _select_by_maxinfo(source, selection, embed, how)
    if selection.kind == "coverage":
        return _select_by_coverage(source, selection, point_maps, how)
    fps = selection.fps if selection.kind == "fps" else None
    return read_video(source, num_frames=selection.num_frames, fps=fps, **how)


def _select_by_maxinfo(
    source: VideoSource,
    selection: FrameSelection,
    embed: Embed | None,
    how: dict[str, Any],
) -> VideoClip:
    name, wanted = _name(source), selection.num_frames
    if embed is None:
        raise SelectionError(
            f"{name}: frames by maxinfo need embeddings of the candidates (embed)"
        )

    def sample(total: int, rate: float) -> np.ndarray:
        most, fps = selection.candidates, selection.fps
        return sample_frames(total, rate, num_frames=most, fps=fps).indices

    def choose(total: int, rate: float) -> np.ndarray:
        numbers = sample(total, rate)
        return top_up(numbers, np.arange(total), wanted) if selection.fill else numbers

    clip = read_video_frames(source, choose, **how)
    candidates = len(sample(clip.total_frames, clip.avg_fps))
    if candidates <= wanted:
        note = f"maxinfo: all {candidates} candidate frames taken"
        return _noted(clip, note, candidates, wanted)
    try:
        embeddings = np.asarray(embed(clip))
        if embeddings.ndim != 2 or len(embeddings) != candidates:
            raise SelectionError(
                f"{name}: embeddings of shape {embeddings.shape} for {candidates} "
                "candidate frames: they must be [n, d]"
            )
        rank, tol = selection.rank, selection.tol
        places = maxinfo(embeddings, rank=rank, tol=tol, max_frames=wanted)
    except MaxvolError as error:
        raise SelectionError(f"{name}: {error}") from None
    chosen = len(places)
    if selection.fill:
        places = top_up(places, np.arange(candidates), wanted)
    clip = replace(
        clip,
        indices=clip.indices[places],
        times=clip.times[places],
        frames=clip.frames[places],
    )
    note = f"maxinfo: {chosen} of {candidates} candidate frames chosen"
    return _noted(clip, note, chosen, wanted)


def _select_by_coverage(
    source: VideoSource,
    selection: FrameSelection,
    point_maps: str | os.PathLike[str] | None,
    how: dict[str, Any],
) -> VideoClip:
    name, wanted = _name(source), selection.num_frames
    if point_maps is None:
        raise SelectionError(f"{name}: frames by coverage need its point map")
    path = find_point_map(source, point_maps)
    points = read_point_map(path)
    numbers = points.frame_indices
    try:
        places = voxel_coverage(points.world_points, points.confidence, wanted)
    except CoverageError as error:
        raise CoverageError(f"{path}: {error}") from None
    del points  # some hundred MB that the video's frames need not stand beside

    def choose(total: int, rate: float) -> np.ndarray:
        if numbers[-1] >= total:
            raise SelectionError(
                f"{path}: its frame_indices go up to {numbers[-1]}, {name} has {total} "
                "frames: the point map of another video"
            )
        chosen = numbers[places]
        if selection.fill:
            chosen = top_up(top_up(chosen, numbers, wanted), np.arange(total), wanted)
        return chosen

    clip = read_video_frames(source, choose, **how)
    # Sampled evenly, the last frame of a point map is close to the video's last one.
    steps, left = np.diff(numbers, prepend=-1), clip.total_frames - 1 - numbers[-1]
    if left > steps.max():
        note = f"the point map ends {left} frames before the video does"
        clip = replace(clip, notes=(*clip.notes, note))
    note = f"coverage: {len(places)} of the point map's {len(numbers)} frames chosen"
    return _noted(clip, note, len(places), wanted)


def _noted(clip: VideoClip, note: str, chosen: int, wanted: int) -> VideoClip:
    """The clip with a note on its selection, and what became of missing frames."""
    count = len(clip.indices)
    if count > chosen:
        note += f", {count - chosen} added evenly"
    if count < wanted:
        note += f": {count} frames instead of {wanted}"
    return replace(clip, notes=(*clip.notes, note))


def top_up(chosen: np.ndarray, pool: np.ndarray, count: int) -> np.ndarray:
    """``chosen`` and, up to ``count`` in all, others of the pool, sorted and unique.

    The m missing ones are the middles of m equal parts of what is left of the pool, in
    ascending order: place floor((2i + 1) n / 2m) of n. A pool too small is taken whole.
    """
    rest = np.setdiff1d(pool, chosen)
    missing = min(max(count - len(chosen), 0), len(rest))
    if not missing:
        return np.unique(chosen)
    places = (2 * np.arange(missing) + 1) * len(rest) // (2 * missing)
    return np.union1d(chosen, rest[places])


def find_point_map(
    source: VideoSource, point_maps: str | os.PathLike[str]
) -> str | os.PathLike[str]:
    """The point map of a video: ``point_maps`` itself unless it is a folder.

    In a folder it is ``<dataset>/<scene>.npz`` or, failing that, ``<scene>.npz``, for
    a video file ``<dataset>/<scene>.mp4`` or a folder of frames ``<dataset>/<scene>``.

    Raises:
      SelectionError: neither is there, or the source has no path to go by.
    """
    if not os.path.isdir(point_maps):
        return point_maps
    if not isinstance(source, str | os.PathLike):
        raise SelectionError(
            f"{point_maps}: a folder of point maps needs videos with a path"
        )
    video = Path(os.path.abspath(source))
    scene = video.name if video.is_dir() else video.stem
    inner, outer = Path(video.parent.name, f"{scene}.npz"), Path(f"{scene}.npz")
    for name in (inner, outer):
        if Path(point_maps, name).is_file():
            return Path(point_maps, name)
    raise SelectionError(f"{source}: no point map {inner} or {outer} in {point_maps}")


def black_out(clip: VideoClip) -> VideoClip:
    """The clip with as many frames, as large, all of them black; a note says so."""
    note = "black frames instead of the video's"
    return replace(clip, frames=np.zeros_like(clip.frames), notes=(*clip.notes, note))


def _name(source: VideoSource) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "the frames"
