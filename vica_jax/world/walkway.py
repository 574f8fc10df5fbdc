"""Where one can walk in a furnished room, and a way round it.

A clearance map on a grid says where one can stand. Places far from each other, taken in
order around the room, are joined by cheapest paths, which a relaxing band then rounds.
"""

import math
from typing import NamedTuple

import numpy as np

from vica_jax.world.geometry import inside, wall_distance
from vica_jax.world.scene import Box, Scene, SceneError

KEEP = 0.25  # metres from walls and from boxes taller than TALL
KEEP_LOW = 0.1  # metres from lower boxes
TALL = 1.2
OVERHEAD = 1.9  # metres: what begins higher is walked under
UPRIGHT = 0.999  # what an axis rises by, at least, where a box counts as upright
MARGIN = 0.04  # metres a way keeps beyond those
CELL = 0.14  # metres of the clearance map
EASY = 0.35  # metres to spare from which a way is no better for more
STEP = 0.15  # metres between points of the band that is relaxed
RELAXATIONS = 30
FINE = 0.04  # metres between points of a way
SLACK = 0.002  # metres its points spare, for the straight lines between them

Cell = tuple[int, int]
# Neighbours: straight and oblique.
_STEPS = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))


def clearance(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Room to spare at floor points ``[n,2]``: metres beyond what is to be kept.

    The least of the distances to walls less KEEP, to boxes taller than TALL less KEEP,
    to lower ones less KEEP_LOW; below minus that outside the outline and inside boxes.
    ``float64[n]``. Raises SceneError without an outline.
    """
    if scene.outline is None:
        raise SceneError(f"{scene.name}: no outline, so no walk (give the floor's)")
    walls = wall_distance(scene.outline, points)
    spare = np.where(inside(scene.outline, points), walls, -walls) - KEEP
    boxes = [box for box in scene.boxes if box.low[2] < OVERHEAD]
    if boxes:
        keep = np.array([KEEP if box.high[2] > TALL else KEEP_LOW for box in boxes])
        spare = np.minimum(spare, (_box_distances(boxes, points) - keep).min(1))
    return spare


def _box_distances(boxes: list[Box], points: np.ndarray) -> np.ndarray:
    """Distances to the boxes' footprints, negative inside: ``[n,boxes]``."""
    prints = np.array([_rectangle(box) for box in boxes])
    centre, axis, half = prints[:, 0], prints[:, 1], prints[:, 2]
    x, y = points[:, :1] - centre[:, 0], points[:, 1:] - centre[:, 1]
    u = np.abs(x * axis[:, 0] + y * axis[:, 1]) - half[:, 0]
    v = np.abs(y * axis[:, 0] - x * axis[:, 1]) - half[:, 1]
    outside = np.hypot(np.maximum(u, 0.0), np.maximum(v, 0.0))
    return outside + np.minimum(np.maximum(u, v), 0.0)


def _rectangle(box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, first axis and half lengths of a footprint; of a tilted box, of its
    bounds."""
    up = int(np.abs(box.axes[:, 2]).argmax())
    if abs(box.axes[up, 2]) < UPRIGHT:
        return box.centre[:2], np.array([1.0, 0.0]), (box.high - box.low)[:2] / 2
    first, second = (k for k in range(3) if k != up)
    return box.centre[:2], box.axes[first, :2], box.size[[first, second]] / 2


class _Grid(NamedTuple):
    """``spare float64[w,h]``: clearance at ``low + (i, j) * CELL``."""

    low: np.ndarray
    spare: np.ndarray

    def point(self, cells: np.ndarray | list[Cell]) -> np.ndarray:
        return self.low + np.asarray(cells) * CELL

    def at(self, points: np.ndarray) -> np.ndarray:
        """Clearance between cells, bilinear: ``[n]``."""
        place = np.clip(
            (points - self.low) / CELL, 0, np.array(self.spare.shape) - 1.01
        )
        i, j = place.astype(int).T
        u, v = (place - np.stack([i, j], 1)).T
        s = self.spare
        return (1 - u) * ((1 - v) * s[i, j] + v * s[i, j + 1]) + u * (
            (1 - v) * s[i + 1, j] + v * s[i + 1, j + 1]
        )


def find_way(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A closed way round the room from the first door, ``float64[n,2]``, a point every
    few centimetres. Raises SceneError where there is nowhere to stand."""
    if scene.outline is None:
        raise SceneError(f"{scene.name}: no outline, so no walk (give the floor's)")
    low = scene.outline.min(0) - CELL * rng.random(2)
    wide, deep = np.ceil((scene.outline.max(0) - low) / CELL).astype(int) + 1
    cells = np.indices((wide, deep)).reshape(2, -1).T
    grid = _Grid(low, clearance(scene, low + cells * CELL).reshape(wide, deep))
    if grid.spare.max() < 0:
        raise SceneError(f"{scene.name}: nowhere to stand between walls and furniture")
    # With less than the margin everywhere, what there is must do.
    margin = min(MARGIN, float(grid.spare.max()))
    way = grid.point(_tour(scene, grid, margin, rng))
    if len(way) == 1:
        return np.repeat(way, 2, axis=0)
    return _rounded(scene, _relaxed(way, grid, margin))


def _tour(
    scene: Scene, grid: _Grid, margin: float, rng: np.random.Generator
) -> list[Cell]:
    """Cells of a closed way past places far apart."""
    free = grid.spare >= margin
    worse = np.clip((EASY - grid.spare) / EASY, 0, 1) ** 2
    cost = np.where(free, 1 + 2 * worse, np.inf)
    start = _start(scene, grid, free)
    stops, costs = [start], [_costs(cost, start)]
    nearest = costs[0]
    for _ in range(int(rng.integers(3, 6))):
        # Farthest from all so far, corners somewhat disliked.
        score = nearest * (0.6 + np.clip(grid.spare, 0, EASY) / EASY)
        far = int(np.where(np.isfinite(nearest) & free, score, -1.0).argmax())
        i, j = divmod(far, grid.spare.shape[1])
        if nearest[i, j] < 1.0 / CELL:
            break
        stops.append((i, j))
        costs.append(_costs(cost, (i, j)))
        nearest = np.minimum(nearest, costs[-1])
    middle = np.mean(stops, axis=0)
    angles = [math.atan2(j - middle[1], i - middle[0]) for i, j in stops]
    sense = 1 if rng.random() < 0.5 else -1
    order = sorted(
        range(len(stops)), key=lambda k: (sense * (angles[k] - angles[0])) % math.tau
    )
    way = [start]
    if len(stops) > 1:
        for k in [*order[1:], order[0]]:
            way += _descend(costs[k], way[-1], stops[k])
    return way


def _start(scene: Scene, grid: _Grid, free: np.ndarray) -> Cell:
    """The free cell nearest to half a metre inside the first door; without a door, to
    the first corner."""
    assert scene.outline is not None
    goal = scene.outline[0]
    if scene.doors:
        door = scene.doors[0]
        here = scene.outline[door.wall]
        along = scene.outline[(door.wall + 1) % len(scene.outline)] - here
        along = along / np.linalg.norm(along)
        inward = np.array([-along[1], along[0]])
        goal = here + (door.start + door.width / 2) * along + 0.5 * inward
    x, y = (goal - grid.low) / CELL
    i, j = np.indices(free.shape)
    far = np.where(free, (i - x) ** 2 + (j - y) ** 2, np.inf)
    return divmod(int(far.argmin()), free.shape[1])


def _costs(cost: np.ndarray, source: Cell) -> np.ndarray:
    """Cost, in cells, of the cheapest path from every cell to ``source``; inf where
    there is none. Sweeps until nothing changes."""
    w, h = cost.shape
    total = np.full((w + 2, h + 2), np.inf)
    inner = total[1:-1, 1:-1]
    inner[source] = 0.0
    side = {(i, j): total[1 + i : 1 + i + w, 1 + j : 1 + j + h] for i, j in _STEPS}
    oblique_cost = cost * math.sqrt(2)
    straight, oblique = np.empty_like(cost), np.empty_like(cost)
    while True:
        before = inner.copy()
        for _ in range(8):  # comparing costs as much as a sweep
            np.minimum(side[-1, 0], side[1, 0], out=straight)
            np.minimum(straight, side[0, -1], out=straight)
            np.minimum(straight, side[0, 1], out=straight)
            np.minimum(side[-1, -1], side[-1, 1], out=oblique)
            np.minimum(oblique, side[1, -1], out=oblique)
            np.minimum(oblique, side[1, 1], out=oblique)
            np.minimum(inner, straight + cost, out=inner)
            np.minimum(inner, oblique + oblique_cost, out=inner)
        if np.array_equal(before, inner):
            return inner


def _descend(costs: np.ndarray, start: Cell, stop: Cell) -> list[Cell]:
    """Cells after ``start`` on the cheapest path to ``stop``."""
    way, (i, j) = [], start
    while (i, j) != stop:
        i, j = min(((i + u, j + v) for u, v in _STEPS), key=lambda cell: costs[cell])
        way.append((i, j))
    return way


def _resampled(way: np.ndarray, step: float) -> np.ndarray:
    """Points about ``step`` metres apart along a way, ends included."""
    lengths = np.linalg.norm(np.diff(way, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    at = np.linspace(0.0, along[-1], max(round(along[-1] / step), 4) + 1)
    return np.stack([np.interp(at, along, way[:, k]) for k in range(2)], axis=1)


def _relaxed(way: np.ndarray, grid: _Grid, margin: float) -> np.ndarray:
    """The way as a band that straightens itself wherever that keeps it free."""
    band = _resampled(way, STEP)
    spare = grid.at(band)
    for _ in range(RELAXATIONS):
        moved = band.copy()
        moved[1:-1] = (band[:-2] + 2 * band[1:-1] + band[2:]) / 4
        now = grid.at(moved)
        free = now >= np.minimum(margin, spare)
        band = np.where(free[:, None], moved, band)
        spare = np.where(free, now, spare)
    return band


def _rounded(scene: Scene, band: np.ndarray) -> np.ndarray:
    """The band, dense, its corners rounded as far as clearance allows."""
    fine = _resampled(band, FINE)
    best, most = fine, -np.inf
    for reach in (10, 6, 3, 0):
        way = _averaged(fine, min(reach, len(fine) - 1))
        least = float(clearance(scene, way).min())
        if least >= SLACK:
            return way
        if least > most:
            best, most = way, least
    return best


def _averaged(way: np.ndarray, reach: int) -> np.ndarray:
    """A way averaged over ``reach`` points on both sides; its ends stay."""
    kernel = np.hanning(2 * reach + 3)[1:-1]
    kernel /= kernel.sum()
    before = 2 * way[0] - way[1 : reach + 1][::-1]
    after = 2 * way[-1] - way[-1 - reach : -1][::-1]
    longer = np.concatenate([before, way, after])
    return np.stack([np.convolve(longer[:, k], kernel, "valid") for k in range(2)], 1)
