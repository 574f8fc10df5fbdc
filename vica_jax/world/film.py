"""A film of a walk through a room: an mp4, and what each of its frames shows.

The mp4 is H.264 at the walk's rate, 4:2:0. The same frames give the same bytes: x264
runs on one thread and without its macroblock tree, whose results differed from one call
to the next (x264 of PyAV 18.1, measured).

The side file is one JSON object: ``scene`` its name, ``size [width, height]``,
``field_of_view`` in degrees, ``rate``, ``poses`` a row ``[x, y, z, yaw, pitch]`` for
each frame (metres, radians, five decimals), ``pixels`` a flat list ``[box, count, box,
count, ...]`` for each frame of the boxes that it shows, ``boxes`` how many there are.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import av
import numpy as np
from jaxtyping import Int32

from vica_jax.files import replacing, write_text
from vica_jax.world.camera import Camera
from vica_jax.world.scene import Scene, SceneError
from vica_jax.world.walk import Walk

# Mean error of a decoded level 1.8, nearly all from chroma at half the size; 0.6 to
# 0.8 MB a minute at 192x144; 1,100 frames/s of one core. Slower presets save little:
# medium takes twice the time for the same size.
ENCODER = {"preset": "veryfast", "crf": "20", "x264-params": "threads=1:mbtree=0"}
KEYFRAMES = 30  # frames from one to the next
LEAST_SHARE = 40 / (192 * 144)  # of the picture: what shows less is not seen
DECIMALS = 5  # of poses in the side file


@runtime_checkable
class Draws(Protocol):
    """What ``render.Renderer`` does; that module needs jax, this one does not."""

    camera: Camera

    def frames(self, scene: Scene, positions, yaws, pitches) -> Iterator[tuple]: ...

    def count_pixels(self, scene: Scene, positions, yaws, pitches) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Film:
    """What a film shows: ``pixels int32[frames, boxes]`` are visible pixels of each
    box in each frame, ``walk`` has the poses and the rate."""

    walk: Walk
    camera: Camera
    pixels: Int32[np.ndarray, "frames boxes"]

    @property
    def frames(self) -> int:
        return len(self.pixels)

    @property
    def rate(self) -> float:
        """Frames a second."""
        return self.walk.rate

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    @property
    def least_pixels(self) -> float:
        """From how many pixels on a frame counts as showing a box."""
        return LEAST_SHARE * self.camera.width * self.camera.height


def make_film(
    scene: Scene, walk: Walk, renderer: Draws, path: str | os.PathLike[str]
) -> Film:
    """Film a scene into an mp4.

    Raises:
      SceneError: the scene has no outline, or a box has no colour.
    """
    pixels = [np.zeros((0, len(scene.boxes)), np.int32)]

    def shown() -> Iterator[np.ndarray]:
        poses = walk.positions, walk.yaws, walk.pitches
        for rgb, ids, _ in renderer.frames(scene, *poses):
            pixels.append(pixel_counts(ids, len(scene.boxes)))
            yield from rgb

    write_video(path, shown(), walk.rate)
    return Film(walk=walk, camera=renderer.camera, pixels=np.concatenate(pixels))


def watch(scene: Scene, walk: Walk, renderer: Draws) -> Film:
    """``make_film`` without the mp4, in a quarter of the time: the same pixels."""
    poses = walk.positions, walk.yaws, walk.pitches
    pixels = renderer.count_pixels(scene, *poses)
    return Film(walk=walk, camera=renderer.camera, pixels=pixels)


def first_seen(
    scene: Scene, film: Film, least_pixels: float | None = None
) -> dict[str, float]:
    """When each category is first seen: seconds from the film's start, alphabetical.

    A box is seen in a frame that shows ``least_pixels`` of it, by default
    ``film.least_pixels``. Categories that are never seen are left out.
    """
    least = film.least_pixels if least_pixels is None else least_pixels
    seen: dict[str, float] = {}
    for column, box in enumerate(scene.boxes):
        at = np.flatnonzero(film.pixels[:, column] >= least)
        if len(at):
            second = float(at[0] / film.rate)
            seen[box.category] = min(second, seen.get(box.category, second))
    return dict(sorted(seen.items()))


def hidden_boxes(film: Film, least_pixels: float | None = None) -> tuple[int, ...]:
    """Numbers of the boxes that no frame shows so many pixels of."""
    least = film.least_pixels if least_pixels is None else least_pixels
    most = film.pixels.max(0, initial=0)
    return tuple(int(number) for number in np.flatnonzero(most < least))


def write_video(
    path: str | os.PathLike[str], frames: Iterable[np.ndarray], rate: float
) -> None:
    """Write ``uint8[H, W, 3]`` frames of one even size as mp4; complete or not there.

    Raises:
      ValueError: no frames, or an odd width or height.
    """
    with replacing(path) as partial:
        container = {"fflags": "+bitexact"}
        with av.open(str(partial), "w", format="mp4", options=container) as file:
            stream: Any = None
            for number, frame in enumerate(frames):
                if stream is None:
                    stream = _add_stream(file, frame, rate)
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                picture.pts = number
                file.mux(stream.encode(picture))
            if stream is None:
                raise ValueError(f"{path}: a film without frames")
            file.mux(stream.encode())


def _add_stream(file: Any, frame: np.ndarray, rate: float) -> Any:
    height, width = frame.shape[:2]
    if width % 2 or height % 2:
        raise ValueError(f"a film of {width}x{height}: H.264 takes even sizes")
    stream = file.add_stream(
        "libx264", rate=Fraction(rate).limit_denominator(1000), options=ENCODER
    )
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.thread_count = 1
    stream.codec_context.gop_size = KEYFRAMES
    return stream


def pixel_counts(ids: np.ndarray, boxes: int) -> Int32[np.ndarray, "N boxes"]:
    """How many pixels show each of the first ``boxes`` boxes, by ids ``[N, H, W]``
    (negative where no box is)."""
    flat = ids.reshape(len(ids), math.prod(ids.shape[1:]))
    numbers = np.maximum(flat, -1).astype(np.int64) + 1
    numbers += (boxes + 1) * np.arange(len(ids))[:, None]
    counts = np.bincount(numbers.ravel(), minlength=(boxes + 1) * len(ids))
    return counts.reshape(len(ids), boxes + 1)[:, 1:].astype(np.int32)


# ------------------------------------------------------------------------ side file
def write_film(path: str | os.PathLike[str], name: str, film: Film) -> None:
    """Write the side file of the film of scene ``name``."""
    walk, camera = film.walk, film.camera
    poses = np.column_stack([walk.positions, walk.yaws, walk.pitches])
    value = {
        "scene": name,
        "size": [camera.width, camera.height],
        "field_of_view": round(math.degrees(camera.field_of_view), 6),
        "rate": walk.rate,
        "boxes": film.pixels.shape[1],
        "poses": poses.round(DECIMALS).tolist(),
        "pixels": [
            np.column_stack([shown, row[shown]]).ravel().tolist()
            for row in film.pixels
            for shown in [np.flatnonzero(row)]
        ],
    }
    write_text(path, json.dumps(value, separators=(",", ":")) + "\n")


def read_film(path: str | os.PathLike[str]) -> Film:
    """Read a side file.

    Raises:
      SceneError: it is not one, or is damaged.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        poses = np.array(value["poses"], np.float64).reshape(-1, 5)
        pixels = np.zeros((len(value["pixels"]), int(value["boxes"])), np.int32)
        for row, shown in zip(pixels, value["pixels"], strict=True):
            for box, count in zip(shown[::2], shown[1::2], strict=True):
                if box not in range(len(row)):
                    raise ValueError(f"no box {box}")
                row[box] = count
        if len(pixels) != len(poses):
            raise ValueError(f"{len(poses)} poses, {len(pixels)} lists of pixels")
        width, height = map(int, value["size"])
        rate, angle = float(value["rate"]), math.radians(value["field_of_view"])
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SceneError(f"{path}: not the side file of a film ({reason})") from error
    walk = Walk(
        positions=poses[:, :3], yaws=poses[:, 3], pitches=poses[:, 4], rate=rate
    )
    camera = Camera(width=width, height=height, field_of_view=angle)
    return Film(walk=walk, camera=camera, pixels=pixels)
