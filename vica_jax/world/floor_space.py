"""How much of the floor is free: turning circles, ways for wheels, places to fill.

Answers are bounds that hold for the floor itself and not for a raster of it. The
distance from a point to the nearest thing or wall changes by at most a metre a metre,
so between raster points it is known to half the raster's diagonal; a rectangle that
fits somewhere fits, a little smaller, at the nearest raster point. Where a question
lies between the bounds, the answer is None and nothing is said of it.

Known only where the walls are, the walls run along x and y, and things stand upright.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from vica_jax.world.geometry import footprint, inside, wall_distance
from vica_jax.world.scene import Box, Scene

STEP = 0.1  # metres between raster points
PASSED_UNDER = 1.9  # metres: what hangs higher is in nobody's way
ON_FLOOR = 0.3  # and what begins lower is in everybody's
DOOR_ROOM = 0.8  # metres before a door that stay free
NEAR = 0.3  # metres from a thing that one must come to reach it


@dataclass(frozen=True, eq=False)
class FloorSpace:
    """The free floor of a room; make one by ``floor_space``."""

    scene: Scene

    @cached_property
    def points(self) -> np.ndarray:
        """The raster over the outline's bounds, ``float64[rows, columns, 2]``."""
        low, high = self._bounds
        xs = np.arange(low[0] + STEP / 2, high[0], STEP)
        ys = np.arange(low[1] + STEP / 2, high[1], STEP)
        return np.stack(np.meshgrid(xs, ys), -1)

    @property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        outline = self.scene.outline
        assert outline is not None
        return outline.min(0), outline.max(0)

    def _in_the_way(self, highest: float) -> list[Box]:
        return [box for box in self.scene.boxes if box.low[2] < highest]

    @cached_property
    def _clearances(self) -> tuple[np.ndarray, np.ndarray]:
        """Metres from each raster point to the nearest thing or wall, negative within:
        with all that may be in the way, and with what surely is."""
        points, outline = self.points, self.scene.outline
        assert outline is not None
        walls = wall_distance(outline, points)
        walls = np.where(inside(outline, points), walls, -walls)
        least = walls.copy()
        for box in self._in_the_way(PASSED_UNDER):
            gap = _box_clearance(box, points)
            least = np.minimum(least, gap)
            if box.low[2] < ON_FLOOR:
                walls = np.minimum(walls, gap)
        return least, walls

    # ------------------------------------------------------------------ turning circle
    def widest_circle(self) -> tuple[float, float]:
        """Bounds of the largest free circle's diameter in metres, low and high."""
        least, most = self._clearances
        return 2 * float(least.max()), 2 * float(most.max() + STEP / math.sqrt(2))

    # ------------------------------------------------------------------ ways on wheels
    def reachable(self, width: float) -> dict[str, bool | None]:
        """Which things that are alone of their kind a round body can drive up to.

        It is ``width`` metres wide, starts before a door and must come within ``NEAR``
        of the thing. None: it depends on centimetres.
        """
        radius = width / 2
        least, most = self._clearances
        # Between neighbours of the raster at most half a step is lost; a way off the
        # raster is at most half a diagonal from a raster point of its own.
        slack = STEP / math.sqrt(2)
        sure = self._flood(least >= radius + STEP / 2, radius, diagonal=False)
        maybe = self._flood(most >= radius - slack, radius + slack, diagonal=True)
        found: dict[str, bool | None] = {}
        for box in self.scene.single():
            gap = _box_clearance(box, self.points)
            if box.low[2] >= ON_FLOOR:
                continue
            if (gap[sure] <= radius + NEAR).any():
                found[box.category] = True
            elif not (gap[maybe] <= radius + NEAR + slack).any():
                found[box.category] = False
            else:
                found[box.category] = None
        return found

    def _flood(self, free: np.ndarray, radius: float, diagonal: bool) -> np.ndarray:
        """Raster points joined by free ones to those before the doors."""
        filled = np.zeros_like(free)
        x, y = self.points[..., 0], self.points[..., 1]
        for low, high in self._door_rooms(radius + 2 * STEP):
            filled |= (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])
        filled &= free
        while True:
            grown = np.pad(filled, 1)
            wide = grown.copy()
            wide[1:] |= grown[:-1]
            wide[:-1] |= grown[1:]
            grown = wide.copy() if diagonal else grown
            wide[:, 1:] |= grown[:, :-1]
            wide[:, :-1] |= grown[:, 1:]
            grown = wide[1:-1, 1:-1] & free
            if (grown == filled).all():
                return filled
            filled = grown

    def _door_rooms(self, depth: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Low and high corner of the floor within ``depth`` metres of each door."""
        outline = self.scene.outline
        assert outline is not None
        rooms = []
        for door in self.scene.doors:
            start = outline[door.wall]
            way = outline[(door.wall + 1) % len(outline)] - start
            way = way / np.linalg.norm(way)
            ends = start + np.outer([door.start, door.start + door.width], way)
            inwards = np.array([-way[1], way[0]]) * depth
            corners = np.concatenate([ends, ends + inwards])
            rooms.append((corners.min(0) - 1e-9, corners.max(0) + 1e-9))
        return rooms

    # ------------------------------------------------------------------ places to fill
    def fits(self, size: tuple[float, float]) -> bool | None:
        """Whether a piece of furniture of ``size`` metres can stand along the walls.

        Its sides run along x and y, either way round; ``DOOR_ROOM`` before each door
        stays free. None: it depends on centimetres.
        """
        if any(self._places(half, PASSED_UNDER) for half in _halves(size, 0.0)):
            return True
        near = [self._places(half, ON_FLOOR) for half in _halves(size, STEP)]
        return None if any(near) else False

    def _places(self, half: np.ndarray, highest: float) -> int:
        """At how many raster places a rectangle along x and y touches nothing."""
        low, high = self._bounds
        if (high - low < 2 * half).any():
            return 0
        sides = [
            np.arange(start + reach, end - reach + 1e-9, STEP)
            for start, end, reach in zip(low, high, half, strict=True)
        ]
        points = np.stack(np.meshgrid(*sides), -1).reshape(-1, 2)
        doors = self._door_rooms(DOOR_ROOM)
        blocked = [((a + b) / 2, (b - a) / 2, np.eye(2)) for a, b in doors]
        blocked += self._outside
        blocked += [_rectangle(box) for box in self._in_the_way(highest)]
        for each in blocked:
            points = points[~_rectangles_meet(points, half, *each)]
        return len(points)

    @cached_property
    def _outside(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The bounds' floor that is not the room's, as rectangles."""
        outline = self.scene.outline
        assert outline is not None
        xs, ys = np.unique(outline[:, 0]), np.unique(outline[:, 1])
        found = []
        for x, right in pairwise(xs):
            for y, top in pairwise(ys):
                middle = np.array([x + right, y + top]) / 2
                if not inside(outline, middle[None]).all():
                    half = np.array([right - x, top - y]) / 2
                    found.append((middle, half, np.eye(2)))
        return found


def floor_space(scene: Scene) -> FloorSpace | None:
    """A room's free floor; None without walls along x and y, without a door, or where
    a thing is tilted."""
    outline = scene.outline
    if outline is None or not scene.doors:
        return None
    ways = np.roll(outline, -1, 0) - outline
    along = np.isclose(ways, 0, atol=1e-9).any(1).all()
    upright = all(abs(abs(box.axes[2, 2]) - 1) < 1e-9 for box in scene.boxes)
    return FloorSpace(scene) if along and upright else None


def covered_share(scene: Scene) -> float:
    """The share of the floor that things standing on it cover, 0 to 1.

    Counted on a raster of 4 cm; for scenes with walls, whose floor is at height 0.
    """
    boxes = [box for box in scene.boxes if box.low[2] < ON_FLOOR]
    if not boxes:
        return 0.0
    step = 0.04
    low = np.min([box.low[:2] for box in boxes], 0)
    high = np.max([box.high[:2] for box in boxes], 0)
    covered = np.zeros(np.ceil((high - low) / step).astype(int) + 1, bool)
    for box in boxes:
        first = np.floor((box.low[:2] - low) / step).astype(int)
        shape = np.ceil((box.high - box.low)[:2] / step).astype(int) + 1
        cells = tuple(
            slice(begin, begin + count)
            for begin, count in zip(first, shape, strict=True)
        )
        places = np.moveaxis(np.indices(covered[cells].shape), 0, -1) + first + 0.5
        covered[cells] |= inside(footprint(box), low + places * step)
    return float(covered.sum()) * step**2 / scene.area


def _halves(size: tuple[float, float], less: float) -> list[np.ndarray]:
    """Half sizes of a rectangle both ways round, each side ``less`` metres shorter."""
    half = (np.array(size) - less) / 2
    return [half] if size[0] == size[1] else [half, half[::-1]]


def _rectangle(box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, half sizes and axes (unit rows) of an upright box seen from above."""
    return box.centre[:2], box.size[:2] / 2, box.axes[:2, :2]


def _box_clearance(box: Box, points: np.ndarray) -> np.ndarray:
    """Metres from points ``[...,2]`` to an upright box's footprint, negative within."""
    centre, half, axes = _rectangle(box)
    beyond = np.abs((points - centre) @ axes.T) - half
    outside = np.linalg.norm(np.maximum(beyond, 0), axis=-1)
    return outside + np.minimum(beyond.max(-1), 0)


def _rectangles_meet(
    points: np.ndarray,
    half: np.ndarray,
    centre: np.ndarray,
    other: np.ndarray,
    axes: np.ndarray,
) -> np.ndarray:
    """Whether rectangles along x and y at ``points [n,2]`` share area with another.

    By the separating axes of both. ``bool[n]``.
    """
    away = points - centre
    turned = np.abs(axes)
    meet = np.abs(away) < half + other @ turned - 1e-9
    across = np.abs(away @ axes.T) < other + turned @ half - 1e-9
    return np.all(meet, axis=1) & np.all(across, axis=1)
