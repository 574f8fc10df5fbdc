"""Frames that together see most of a scene: greedy coverage of voxels.

The rule of Spatial-MLLM's space-aware sampling, for any point map with confidences;
its network (VGGT) is not needed. Points, bounds and voxels are float32, as there.

Deviations: where no point is valid, or the valid ones lie in a plane (the voxel size
would be 0), it is an error; the original fails or divides by zero.
"""

import hashlib
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vica_jax.errors import InputError

__all__ = [
    "CoverageError",
    "PointMap",
    "greedy_cover",
    "median_confidence",
    "read_point_map",
    "voxel_coverage",
    "voxel_sets",
]

MIN_CONFIDENCE = np.float32(0.1)
VOXELS = np.float32(20)  # along the shortest side of the bounding box


class CoverageError(InputError):
    """A point map that frames cannot be chosen by."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PointMap:
    """Where the pixels of T frames of a video lie in the scene.

    ``world_points float32[T, H, W, 3]`` in any unit, ``confidence float32[T, H, W]``,
    ``frame_indices int64[T]``: the frames' numbers in the video, ascending.
    """

    world_points: np.ndarray
    confidence: np.ndarray
    frame_indices: np.ndarray


def voxel_coverage(world_points: Any, confidence: Any, max_frames: int) -> np.ndarray:
    """Frames that see the most voxels: at most ``max_frames``, fewer where all is seen.

    Args:
      world_points: ``[T, H, W, 3]``, made float32.
      confidence: ``[T, H, W]``, made float32.

    Returns:
      Sorted places ``int64[<= max_frames]`` among the T frames.

    Raises:
      CoverageError: as ``voxel_sets`` and ``greedy_cover``.
    """
    sets = voxel_sets(world_points, confidence)
    return np.sort(np.array(greedy_cover(sets, max_frames), np.int64))


def greedy_cover(
    sets: Sequence[np.ndarray | Iterable[int]], max_sets: int
) -> list[int]:
    """Up to ``max_sets`` times the set with the most new elements, in the order taken.

    The lowest place where several have the most; ends early when none adds any.

    Raises:
      CoverageError: ``max_sets`` below 0.
    """
    if max_sets < 0:
        raise CoverageError(f"the number of frames must not be below 0, got {max_sets}")
    lists = (part if isinstance(part, np.ndarray) else [*part] for part in sets)
    members = [np.unique(np.asarray(part, np.int64)) for part in lists]
    if not members:
        return []
    ends = np.cumsum([len(part) for part in members])
    owners = np.repeat(np.arange(len(members)), [len(part) for part in members])
    distinct, ids = np.unique(np.concatenate(members), return_inverse=True)
    covered, taken = np.zeros(len(distinct), bool), []
    for _ in range(max_sets):
        gains = np.bincount(owners[~covered[ids]], minlength=len(members))
        best = int(gains.argmax())
        if not gains[best]:
            break
        taken.append(best)
        covered[ids[ends[best] - len(members[best]) : ends[best]]] = True
    return taken


def median_confidence(confidence: Any) -> np.float32:
    """numpy's 50th percentile of all values, in float32."""
    return np.float32(np.percentile(np.asarray(confidence, np.float32), 50))


def voxel_sets(world_points: Any, confidence: Any) -> list[np.ndarray]:
    """The voxels that each of T frames sees, as sorted unique numbers ``int64[n]``.

    A point counts when its confidence is at least the median of all and above 0.1. A
    voxel's side is a 20th of the shortest side of the box around all such points.

    Raises:
      CoverageError: wrong shapes, numbers that are not finite, no point that counts,
        or points without extent along an axis.
    """
    points = np.asarray(world_points, np.float32)
    confidence = np.asarray(confidence, np.float32)
    _check(points, confidence)
    valid = (confidence >= median_confidence(confidence)) & (
        confidence > MIN_CONFIDENCE
    )
    counted = points[valid]
    if not len(counted):
        raise CoverageError(
            f"no point has a confidence above {MIN_CONFIDENCE:g} (the highest is "
            f"{confidence.max():g}): nothing to choose frames by"
        )
    low = counted.min(0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        extent = counted.max(0) - low
        side = extent.min() / VOXELS
        reach = extent / side
    if not np.isfinite(reach).all():
        extents = " x ".join(f"{length:g}" for length in extent)
        raise CoverageError(
            f"the points that count measure {extents}: they need an extent along all "
            "three axes to be cut into voxels"
        )
    frames = zip(points, valid, strict=True)
    cells = [np.floor((frame[mask] - low) / side) for frame, mask in frames]
    grid = [int(number) + 1 for number in np.floor(reach)]
    if math.prod(grid) < 2**63:
        numbers = [
            np.ravel_multi_index(tuple(cell.astype(np.int64).T), grid) for cell in cells
        ]
    else:  # almost flat: too many voxels to number them all, so those seen alone
        _, seen = np.unique(np.concatenate(cells), axis=0, return_inverse=True)
        ends = np.cumsum([len(cell) for cell in cells])
        numbers = np.split(seen.reshape(-1), ends[:-1])
    return [np.unique(part) for part in numbers]


def _check(points: np.ndarray, confidence: np.ndarray) -> None:
    if points.ndim != 4 or points.shape[-1] != 3 or not points.size:
        raise CoverageError(f"world_points must be [T, H, W, 3], got {points.shape}")
    if confidence.shape != points.shape[:3]:
        raise CoverageError(
            f"the confidences must be {[*points.shape[:3]]} like the points, got "
            f"{[*confidence.shape]}"
        )
    for name, values in (("world_points", points), ("the confidences", confidence)):
        wrong = values.size - int(np.isfinite(values).sum())
        if wrong:
            raise CoverageError(
                f"{name} hold {wrong} values that are not finite: give points without "
                "a place the confidence 0 and any place"
            )


def hash_point_maps(place: str | os.PathLike[str]) -> str:
    """A hash of all point maps in a folder, or of one file, without reading them.

    Of their names and of the checksums that an ``.npz`` file, a zip archive, has.
    """
    root = Path(place)
    files = sorted(root.rglob("*.npz")) if root.is_dir() else [root]
    whole = hashlib.sha256()
    for file in files:
        name = file.relative_to(root) if root.is_dir() else file.name
        try:
            with zipfile.ZipFile(file) as archive:
                parts = [(each.filename, each.CRC) for each in archive.infolist()]
        except (OSError, zipfile.BadZipFile):
            parts = []  # reading it says what is wrong
        whole.update(f"{name} {parts}\n".encode("utf-8", "backslashreplace"))
    return whole.hexdigest()[:16]


def read_point_map(path: str | os.PathLike[str]) -> PointMap:
    """The point map in an ``.npz`` file (never unpickled).

    Its arrays: ``world_points`` f32 ``[T, H, W, 3]``, ``world_points_conf`` f32
    ``[T, H, W]``, ``frame_indices`` integers ``[T]``, ascending; others are left alone.

    Raises:
      CoverageError: missing or damaged, an array that is missing or of another dtype
        or shape, frame numbers below 0 or out of order. It names the file.
    """
    names = ("world_points", "world_points_conf", "frame_indices")
    try:
        # np.load leaves a file that it opened itself open where it is no zip archive.
        with open(path, "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise CoverageError(f"{path}: a single array, not an .npz point map")
            missing = [name for name in names if name not in file]
            if missing:
                raise CoverageError(f"{path}: no array named {', '.join(missing)}")
            points, confidence, numbers = (file[name] for name in names)
    except FileNotFoundError:
        raise CoverageError(f"{path}: no such point map") from None
    except CoverageError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise CoverageError(f"{path}: not a readable .npz file ({reason})") from None
    for name, array in zip(names, (points, confidence), strict=False):
        if array.dtype != np.float32:
            raise CoverageError(f"{path}: {name} must be float32, is {array.dtype}")
    if numbers.dtype.kind not in "iu":
        raise CoverageError(
            f"{path}: frame_indices must be integers, are {numbers.dtype}"
        )
    try:
        _check(points, confidence)
    except CoverageError as error:
        raise CoverageError(f"{path}: {error}") from None
    if numbers.shape != points.shape[:1]:
        raise CoverageError(
            f"{path}: {len(points)} frames of points, frame_indices of shape "
            f"{numbers.shape}"
        )
    numbers = numbers.astype(np.int64)
    if numbers[0] < 0 or (np.diff(numbers) <= 0).any():
        raise CoverageError(
            f"{path}: frame_indices must ascend from 0 or more, without repeats"
        )
    return PointMap(world_points=points, confidence=confidence, frame_indices=numbers)
