"""Shaded frames of a room by ray casting: boxes, floor, ceiling, walls and doors.

Everything is worked out in nearness, one over the depth along the optical axis. Along
the ray ``ahead + x * right + y * up`` the nearness of a plane is linear in (x, y), and
so is a place along a wall times the nearness. A box is three slabs: a ray is inside it
from the farthest of the near planes (the least nearness) to the nearest of the far
planes. So a pixel costs additions and comparisons, and no division until the end.

Numbers in a frame's ids: -1 ceiling, -2 floor, -3 wall, -4 door, k >= 0 box k.
"""

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int16, Int32, UInt8

from vica_jax.world.camera import Camera, basis
from vica_jax.world.film import pixel_counts
from vica_jax.world.scene import Scene
from vica_jax.world.solids import (
    CEILING,
    FLOOR,
    WALL,
    Solids,
    light_on,
    pad,
    solids_of,
)

DIMMING = 0.035  # brightness lost by a metre of depth
DIMMEST = 0.6
TILE = 0.5  # metres: the floor's pattern gives a scale
TILE_CONTRAST = 0.07
TILE_FADE = 4.0  # metres of depth at which half of that contrast is left
SKIRTING, SKIRTING_SHADE = 0.08, 0.7  # metres of darker wall above the floor
CONTACT, CONTACT_SHADE = 0.3, 0.22  # metres above the floor that grow darker to it
OUTLINE = 0.7  # brightness of the pixel along an edge between two things

OPEN = 1e9  # a nearness that never bounds
LEAST = 1e-6  # metres: what a distance to a plane is at least
CHUNK = 8  # frames of one call of the compiled program


class Renderer:
    """Films scenes with one camera; compiled at the first use (a second or two).

    Scenes are padded to multiples of 16 boxes and 16 panels, so that one program
    serves nearly all of them. The padding costs no time.
    """

    def __init__(self, camera: Camera | None = None):
        self.camera = camera or Camera()
        self._grid = _Grid(
            self.camera.columns[None].astype(np.float32),
            self.camera.rows[:, None].astype(np.float32),
        )

    def render(
        self,
        scene: Scene,
        positions: Float[np.ndarray, "N 3"],
        yaws: Float[np.ndarray, " N"],
        pitches: Float[np.ndarray, " N"],
    ) -> tuple[UInt8[np.ndarray, "N H W 3"], Int16[np.ndarray, "N H W"]]:
        """Colours and ids of N frames. SceneError for what cannot be drawn."""
        rgb, ids, _ = self.render_depths(scene, positions, yaws, pitches)
        return rgb, ids

    def render_depths(
        self,
        scene: Scene,
        positions: Float[np.ndarray, "N 3"],
        yaws: Float[np.ndarray, " N"],
        pitches: Float[np.ndarray, " N"],
    ) -> tuple[
        UInt8[np.ndarray, "N H W 3"],
        Int16[np.ndarray, "N H W"],
        Float32[np.ndarray, "N H W"],
    ]:
        """``render`` and the depths along the optical axis, in metres."""
        size = self.camera.height, self.camera.width
        rgb = [np.zeros((0, *size, 3), np.uint8)]
        ids = [np.zeros((0, *size), np.int16)]
        depths = [np.zeros((0, *size), np.float32)]
        for part in self.frames(scene, positions, yaws, pitches):
            for whole, some in zip((rgb, ids, depths), part, strict=True):
                whole.append(some)
        return np.concatenate(rgb), np.concatenate(ids), np.concatenate(depths)

    def frames(
        self,
        scene: Scene,
        positions: Float[np.ndarray, "N 3"],
        yaws: Float[np.ndarray, " N"],
        pitches: Float[np.ndarray, " N"],
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """What ``render_depths`` returns, a few frames at a time."""
        for solids, poses, count in self._chunks(scene, positions, yaws, pitches):
            nearness, codes = _cast(solids, self._grid, *poses)
            rgb, ids = _paint(solids, self._grid, *poses, nearness, codes)
            depths = 1 / np.asarray(nearness)
            yield np.asarray(rgb)[:count], np.asarray(ids)[:count], depths[:count]

    def count_pixels(
        self,
        scene: Scene,
        positions: Float[np.ndarray, "N 3"],
        yaws: Float[np.ndarray, " N"],
        pitches: Float[np.ndarray, " N"],
    ) -> Int32[np.ndarray, "N boxes"]:
        """How many pixels show each box in each frame: what ``render``'s ids hold."""
        boxes = len(scene.boxes)
        parts = [np.zeros((0, boxes), np.int32)]
        for solids, poses, count in self._chunks(scene, positions, yaws, pitches):
            _, codes = _cast(solids, self._grid, *poses)
            parts.append(
                pixel_counts(np.asarray(_identify(solids, codes))[:count], boxes)
            )
        return np.concatenate(parts)

    def _chunks(self, scene: Scene, positions, yaws, pitches):
        solids = solids_of(scene)
        bases = np.array(
            [basis(*pose) for pose in zip(yaws, pitches, strict=True)], np.float32
        ).reshape(-1, 3, 3)
        places = np.asarray(positions, np.float32)
        for start in range(0, len(places), CHUNK):
            part = slice(start, start + CHUNK)
            poses = pad(places[part], CHUNK), pad(bases[part], CHUNK)
            yield solids, poses, len(places[part])


class _Grid(NamedTuple):
    """How far a pixel's ray goes to the right and up on one metre ahead."""

    x: Any  # [1, W]
    y: Any  # [H, 1]


@jax.jit
def _cast(solids: Solids, grid: _Grid, places, bases):
    """Nearness and code of what each pixel shows, ``[N, H, W]``.

    Frames come one after the other, so that all of one stays in the processor's cache.
    Codes: 3 * box + side, then panels, then ceiling, then floor.
    """
    cast = partial(_cast_frame, solids, grid)
    return jax.lax.map(lambda pose: cast(*pose), (places, bases))


@jax.jit
def _identify(solids: Solids, codes):
    """The ids of codes ``[N, H, W]``, int16."""
    return jax.lax.map(lambda code: _ids(solids)[code].astype(jnp.int16), codes)


@jax.jit
def _paint(solids: Solids, grid: _Grid, places, bases, nearness, codes):
    """Colours uint8 and ids int16 of cast frames."""
    paint = partial(_paint_frame, solids, grid)
    frames = places, bases, nearness, codes
    return jax.lax.map(lambda frame: paint(*frame), frames)


def _ids(solids: Solids):
    boxes = jnp.repeat(jnp.arange(len(solids.halves)), 3)
    return jnp.concatenate([boxes, solids.panel_ids, jnp.array([CEILING, FLOOR])])


def _cast_frame(solids: Solids, grid: _Grid, place, base):
    """``_cast`` of one frame; ``base [3, 3]`` is ahead, right, up."""
    num_boxes, num_panels = len(solids.halves), len(solids.lengths)
    near, far = _box_planes(solids, place, base)
    panels = _panel_planes(solids, place, base)
    box_order, boxes_shown = _boxes_in_view(solids, grid, place, base)
    panel_order, panels_shown = _panels_in_view(solids, grid, place, base)

    def plane(coefficients):
        a, b, c = coefficients
        return (a + b * grid.x) + c * grid.y

    def add_box(turn, best):
        nearest, code = best
        number = box_order[turn]
        entries = [plane(near[number, axis]) for axis in range(3)]
        exits = [
            jnp.maximum(plane(far[number, axis, 0]), plane(far[number, axis, 1]))
            for axis in range(3)
        ]
        entry = jnp.minimum(jnp.minimum(entries[0], entries[1]), entries[2])
        leave = jnp.maximum(jnp.maximum(exits[0], exits[1]), exits[2])
        side = jnp.where(entry == entries[0], 0, jnp.where(entry == entries[1], 1, 2))
        hit = (entry >= leave) & (entry > nearest)
        return jnp.where(hit, entry, nearest), jnp.where(hit, 3 * number + side, code)

    def add_panel(turn, best):
        nearest, code = best
        number = panel_order[turn]
        nearness, *margins = [plane(panels[number, k]) for k in range(4)]
        inside = jnp.minimum(jnp.minimum(margins[0], margins[1]), margins[2])
        hit = (inside >= 0) & (nearness > nearest)
        code = jnp.where(hit, 3 * num_boxes + number, code)
        return jnp.where(hit, nearness, nearest), code

    rise = _along(grid, base, 2)
    last = 3 * num_boxes + num_panels
    floor = -rise / jnp.maximum(place[2], LEAST)
    ceiling = rise / jnp.maximum(solids.height - place[2], LEAST)
    best = (
        jnp.maximum(jnp.maximum(floor, ceiling), LEAST),
        jnp.where(rise > 0, last, last + 1).astype(jnp.int32),
    )
    best = jax.lax.fori_loop(0, panels_shown, add_panel, best)
    return jax.lax.fori_loop(0, boxes_shown, add_box, best)


def _along(grid: _Grid, base, axis: int):
    """What the pixels' rays gain along a world axis on one metre ahead, ``[H, W]``."""
    return (base[0, axis] + base[1, axis] * grid.x) + base[2, axis] * grid.y


def _boxes_in_view(solids: Solids, grid: _Grid, place, base):
    """Numbers of the boxes that may be in view, then of the others; how many are."""
    signs = jnp.array(list(product((-1.0, 1.0), repeat=3)))
    offsets = (signs[None] * solids.halves[:, None])[..., None, :]
    corners = solids.centres[:, None] + (offsets @ solids.axes[:, None])[:, :, 0]
    there = jnp.arange(len(corners)) < solids.num_boxes
    return _in_view(grid, (corners - place) @ base.T, there)


def _panels_in_view(solids: Solids, grid: _Grid, place, base):
    """The same of panels; their numbers stay in order, so that doors follow walls."""
    ends = jnp.stack([jnp.zeros_like(solids.lengths), solids.lengths], 1)
    flat = solids.starts[:, None] + ends[..., None] * solids.along[:, None]
    low = jnp.concatenate([flat, jnp.zeros_like(flat[..., :1])], -1)
    high = low.at[..., 2].set(solids.tops[:, None])
    corners = jnp.concatenate([low, high], 1)
    there = jnp.arange(len(corners)) < solids.num_panels
    return _in_view(grid, (corners - place) @ base.T, there)


def _in_view(grid: _Grid, corners, there):
    """Which convex things ``[T, corners, (depth, right, up)]`` are not wholly beyond
    one border of the picture: a few too many, never one too few."""
    depth, right, up = corners[..., 0], corners[..., 1], corners[..., 2]
    wide, tall = 1.02 * jnp.abs(grid.x).max(), 1.02 * jnp.abs(grid.y).max()
    beyond = [
        depth < 0,
        right > wide * depth,
        -right > wide * depth,
        up > tall * depth,
        -up > tall * depth,
    ]
    out = jnp.stack([border.all(1) for border in beyond]).any(0) | ~there
    return jnp.argsort(out, stable=True), (~out).sum()


def _paint_frame(solids: Solids, grid: _Grid, place, base, nearness, code):
    """Colours and ids of one frame."""
    ids = _ids(solids)[code]
    sign = _facing(solids, place)
    light = light_on(sign[..., None] * solids.axes)
    boxes = (solids.box_colours[:, None] * light).reshape(-1, 3)
    colours = jnp.concatenate(
        [boxes, solids.panel_colours, solids.ceiling[None], solids.floor[None]]
    )
    light = 255 * _shade(ids, 1 / nearness, place, base, grid)
    rgb = jnp.stack([colours[:, k][code] * light for k in range(3)], -1)
    return jnp.clip(rgb + 0.5, 0, 255).astype(jnp.uint8), ids.astype(jnp.int16)


def _facing(solids: Solids, place):
    """Which side of each slab of each box faces the camera, ``[B, 3]`` of +-1."""
    offset = jnp.einsum("bij,bj->bi", solids.axes, place - solids.centres)
    return jnp.where(offset >= 0, 1.0, -1.0)


def _box_planes(solids: Solids, place, base):
    """Coefficients (1, x, y) of the planes' nearness, near ``[B, 3, 3]`` and far
    ``[B, 3, 2, 3]``.

    In a slab that holds the camera nothing is near, and the exit is where either plane
    is ahead.
    """
    offset = jnp.einsum("bij,bj->bi", solids.axes, place - solids.centres)
    slopes = jnp.einsum("bij,kj->bik", solids.axes, base)
    sign = _facing(solids, place)
    outside = jnp.abs(offset) > solids.halves
    gap = jnp.maximum(jnp.abs(jnp.abs(offset) - solids.halves), LEAST)
    reach = jnp.abs(offset) + solids.halves
    toward = -sign[..., None] * slopes
    near = jnp.where(outside[..., None], toward / gap[..., None], 0.0)
    near = near.at[..., 0].add(jnp.where(outside, 0.0, OPEN))
    within = ~outside.any(-1)  # a camera inside a box sees through it
    near = jnp.where(within[:, None, None], jnp.array([-1.0, 0, 0]), near)
    first = toward / reach[..., None]
    second = jnp.where(outside[..., None], first, -toward / gap[..., None])
    return near, jnp.stack([first, second], 2)


def _panel_planes(solids: Solids, place, base):
    """``[P, 4, 3]``: coefficients (1, x, y) of the nearness and of three margins.

    Margins are distances to a panel's start, end and top times the nearness: all are
    at least 0 on it. Panels seen from behind are never hit.
    """
    normals = jnp.stack([-solids.along[:, 1], solids.along[:, 0]], -1)
    offset = place[:2] - solids.starts
    gap = (offset * normals).sum(-1)
    nearness = -(normals @ base[:, :2].T) / jnp.maximum(gap, LEAST)[:, None]
    nearness = jnp.where((gap > 0)[:, None], nearness, jnp.array([-1.0, 0, 0]))
    done = (offset * solids.along).sum(-1)[:, None]
    ahead = solids.along @ base[:, :2].T
    start = nearness * done + ahead
    end = nearness * (solids.lengths[:, None] - done) - ahead
    top = nearness * (solids.tops[:, None] - place[2]) - base[:, 2]
    return jnp.stack([nearness * solids.ahead[:, None], start, end, top], 1)


def _shade(ids, depth, place, base, grid: _Grid):
    """What is made of brightness by depth, pattern, nearness to the floor and edges."""
    light = jnp.maximum(1 - DIMMING * depth, DIMMEST)
    east, north, level = [
        place[axis] + depth * _along(grid, base, axis) for axis in range(3)
    ]
    odd = (jnp.floor(east / TILE) + jnp.floor(north / TILE)).astype(jnp.int32) & 1
    faded = TILE_CONTRAST / (1 + (depth / TILE_FADE) ** 2)
    tile = 1 + faded * (1 - 2 * odd)
    contact = 1 - CONTACT_SHADE * jnp.maximum(1 - level / CONTACT, 0)
    skirting = jnp.where((ids == WALL) & (level < SKIRTING), SKIRTING_SHADE, 1.0)
    light *= jnp.where(ids == FLOOR, tile, contact * skirting)
    left = jnp.concatenate([ids[:, :1], ids[:, :-1]], 1)
    above = jnp.concatenate([ids[:1], ids[:-1]], 0)
    edge = ((ids != left) & (jnp.maximum(ids, left) >= 0)) | (
        (ids != above) & (jnp.maximum(ids, above) >= 0)
    )
    return light * jnp.where(edge, OUTLINE, 1.0)
