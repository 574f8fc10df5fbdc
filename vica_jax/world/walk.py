"""A person's walk through a room with a camera: in by the door and round the room.

A clearance map on a grid says where one can stand; a few places far apart, taken in
order around the room, are joined by cheapest paths and smoothed. The gaze goes round
with the walk, looking across the room, after a start along the near side, so that
things come into view one after another.
"""

import math
from dataclasses import dataclass

import numpy as np

from vica_jax.world.scene import Box, Scene, SceneError

CELL = 0.12  # metres of the clearance map
KEEP = 0.25  # metres from walls and from boxes taller than TALL
KEEP_LOW = 0.1  # metres from lower boxes
TALL = 1.2
MARGIN = 0.04  # metres a path keeps beyond those where the map allows
SECONDS = (12.0, 30.0)
_STEPS = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Walk:
    """Camera poses, one a frame: ``positions float64[n,3]`` metres, ``yaws float64[n]``
    radians counter-clockwise from +x (unwrapped: it may pass pi), ``pitches
    float64[n]`` radians, negative downwards; ``rate`` frames a second."""

    positions: np.ndarray
    yaws: np.ndarray
    pitches: np.ndarray
    rate: float

    def __len__(self) -> int:
        return len(self.yaws)

    def at(self, indices: np.ndarray) -> "Walk":
        """The poses of some frames; ``rate`` stays that of the whole walk."""
        return Walk(
            positions=self.positions[indices],
            yaws=self.yaws[indices],
            pitches=self.pitches[indices],
            rate=self.rate,
        )


def make_walk(
    scene: Scene,
    rng: np.random.Generator,
    *,
    frames: int | None = None,
    rate: float = 10.0,
) -> Walk:
    """A walk of ``frames`` frames, or 12 to 30 seconds at ``rate`` where None.

    Raises SceneError for a scene without an outline, or without a place to stand.
    """
    if scene.outline is None:
        raise SceneError(f"{scene.name}: no outline, so no walk (give the floor's)")
    if frames is None:
        frames = round(rng.uniform(*SECONDS) * rate)
    loop = _loop(scene, rng)
    steps = np.linalg.norm(np.diff(loop, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.linspace(0.0, along[-1], frames)
    height = rng.uniform(1.45, 1.65)
    path = np.stack(
        [
            np.interp(at, along, loop[:, 0]),
            np.interp(at, along, loop[:, 1]),
            np.full(frames, height),
        ],
        axis=1,
    )
    yaws, pitches = _gaze(scene, path, rng)
    return Walk(positions=path, yaws=yaws, pitches=pitches, rate=rate)


def clearance(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Room to spare at floor points ``[n,2]``: metres beyond what is to be kept.

    It is the least of the distances to walls less KEEP, to boxes taller than TALL less
    KEEP, to lower ones less KEEP_LOW; outside the outline and inside boxes at most
    minus what is to be kept. ``float64[n]``.
    """
    assert scene.outline is not None
    start, stop = scene.outline, np.roll(scene.outline, -1, axis=0)
    edge = stop - start
    to = points[:, None] - start
    share = np.clip((to * edge).sum(-1) / (edge * edge).sum(-1), 0, 1)
    wall = np.sqrt(((to - share[..., None] * edge) ** 2).sum(-1)).min(1)
    # Crossings of a ray towards +x, counted.
    above = points[:, None, 1] < start[:, 1]
    crosses = above != (points[:, None, 1] < stop[:, 1])
    rise = np.where(edge[:, 1] == 0, 1.0, edge[:, 1])
    right = start[:, 0] + (points[:, None, 1] - start[:, 1]) * edge[:, 0] / rise
    inside = (crosses & (points[:, None, 0] < right)).sum(1) % 2 == 1
    room = np.where(inside, wall, -wall) - KEEP
    boxes = [box for box in scene.boxes if box.low[2] < 1.9]
    if boxes:
        keep = np.array([KEEP if box.high[2] > TALL else KEEP_LOW for box in boxes])
        room = np.minimum(room, (_distances(boxes, points) - keep).min(1))
    return room


def _distances(boxes: list[Box], points: np.ndarray) -> np.ndarray:
    """Distances of floor points ``[n,2]`` to upright boxes' footprints, negative
    inside: ``[n, boxes]``."""
    centres = np.array([box.centre[:2] for box in boxes])
    halves = np.array([box.size[:2] / 2 for box in boxes])
    turns = np.array([box.axes[:2, :2] for box in boxes])
    own = np.einsum("nbi,bai->nba", points[:, None] - centres, turns)
    over = np.abs(own) - halves
    beyond = np.maximum(over, 0.0)
    return np.sqrt((beyond * beyond).sum(-1)) + np.minimum(over.max(-1), 0.0)


def _loop(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The way round, ``float64[m,2]``, starting by the door, dense and smooth."""
    assert scene.outline is not None
    low = scene.outline.min(0) - CELL
    shape = np.ceil((scene.outline.max(0) + CELL - low) / CELL).astype(int) + 1
    grid = np.stack(np.indices(tuple(shape)), axis=-1)
    points = low + grid.reshape(-1, 2) * CELL
    room = clearance(scene, points).reshape(shape)
    free = room >= MARGIN
    if not free.any():
        raise SceneError(f"{scene.name}: nowhere to stand between walls and furniture")
    cost = np.where(free, 1 + 2 * np.clip((0.35 - room) / 0.35, 0, 1) ** 2, np.inf)

    start = _by_door(scene, points, free)
    stops = [start]
    reach = _costs(cost, [start])
    nearest = reach[0]
    reachable = np.isfinite(nearest)
    for _ in range(int(rng.integers(3, 6))):
        score = np.where(reachable, nearest * (1 + 0.6 * np.clip(room, 0, 0.5)), -1.0)
        far = np.unravel_index(int(score.argmax()), score.shape)
        if nearest[far] < 8:  # cells
            break
        stops.append((int(far[0]), int(far[1])))
        more = _costs(cost, [stops[-1]])
        reach = np.concatenate([reach, more])
        nearest = np.minimum(nearest, more[0])
    if len(stops) == 1:
        return np.repeat((low + np.array(start) * CELL)[None], 2, axis=0)
    middle = np.array(stops).mean(0)
    angles = [math.atan2(j - middle[1], i - middle[0]) for i, j in stops]
    sign = 1 if rng.random() < 0.5 else -1
    order = sorted(
        range(len(stops)), key=lambda k: (sign * (angles[k] - angles[0])) % math.tau
    )
    way: list[tuple[int, int]] = [stops[order[0]]]
    for target in [*order[1:], order[0]]:
        way.extend(_descend(reach[target], way[-1], stops[target]))
    return _smooth(scene, low + np.array(way) * CELL)


def _by_door(scene: Scene, points: np.ndarray, free: np.ndarray) -> tuple[int, int]:
    """The free cell nearest to half a metre inside the first door, or to a corner."""
    assert scene.outline is not None
    goal = scene.outline[0]
    if scene.doors:
        door = scene.doors[0]
        a = scene.outline[door.wall]
        b = scene.outline[(door.wall + 1) % len(scene.outline)]
        u = (b - a) / np.linalg.norm(b - a)
        goal = a + (door.start + door.width / 2) * u + 0.5 * np.array([-u[1], u[0]])
    far = ((points - goal) ** 2).sum(1).reshape(free.shape)
    i, j = np.unravel_index(int(np.where(free, far, np.inf).argmin()), free.shape)
    return int(i), int(j)


def _costs(cost: np.ndarray, sources: list[tuple[int, int]]) -> np.ndarray:
    """Cost in cells of the cheapest path to each source, ``[sources, *cost.shape]``."""
    total = np.full((len(sources), cost.shape[0] + 2, cost.shape[1] + 2), np.inf)
    inner = total[:, 1:-1, 1:-1]
    for k, (i, j) in enumerate(sources):
        inner[k, i, j] = 0.0
    straight, oblique = cost, cost * math.sqrt(2)
    while True:
        best = inner.copy()
        for i, j in _STEPS:
            side = total[
                :, 1 + i : total.shape[1] - 1 + i, 1 + j : total.shape[2] - 1 + j
            ]
            np.minimum(best, side + (oblique if i and j else straight), out=best)
        if np.array_equal(best, inner):
            return inner
        inner[...] = best


def _descend(
    costs: np.ndarray, start: tuple[int, int], stop: tuple[int, int]
) -> list[tuple[int, int]]:
    """Cells after ``start`` on the cheapest path to ``stop``."""
    way = []
    here = start
    while here != stop:
        i, j = here
        here = min(
            ((i + di, j + dj) for di, dj in _STEPS), key=lambda cell: costs[cell]
        )
        way.append(here)
    return way


def _smooth(scene: Scene, way: np.ndarray) -> np.ndarray:
    """A closed way resampled every 5 cm and rounded as far as clearance allows."""
    steps = np.linalg.norm(np.diff(way, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    m = max(int(along[-1] / 0.05), 16)
    at = np.linspace(0, along[-1], m)
    path = np.stack([np.interp(at, along, way[:, k]) for k in range(2)], axis=1)
    fine = path
    for spread in (16, 10, 6, 3, 1):
        kernel = np.hanning(2 * spread + 3)
        kernel /= kernel.sum()
        reach = len(kernel) // 2
        # The ends stay where they are: the walk starts by the door.
        padded = np.concatenate(
            [
                2 * fine[0] - fine[reach:0:-1],
                fine,
                2 * fine[-1] - fine[-2 : -reach - 2 : -1],
            ]
        ) if len(fine) > reach + 1 else None
        if padded is None:
            continue
        round_ = np.stack(
            [np.convolve(padded[:, k], kernel, mode="valid") for k in range(2)], axis=1
        )
        if (clearance(scene, round_) >= 0).all():
            return round_
    return fine


def _gaze(
    scene: Scene, path: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    n = len(path)
    t = np.linspace(0, 1, n)
    assert scene.outline is not None
    middle = (
        np.mean([box.centre[:2] for box in scene.boxes], axis=0)
        if scene.boxes
        else scene.outline.mean(0)
    )
    inward = np.unwrap(
        np.arctan2(middle[1] - path[:, 1], middle[0] - path[:, 0])
    )
    turn = inward[-1] - inward[0]
    sign = 1.0 if turn >= 0 else -1.0
    base = inward[0] + sign * t * math.tau
    start = sign * math.radians(rng.uniform(60, 95))
    yaws = base - start + sign * math.radians(rng.uniform(80, 120)) * t
    yaws += math.radians(rng.uniform(5, 18)) * np.sin(
        math.tau * (rng.uniform(1.5, 3) * t + rng.random())
    )
    depth = math.sqrt(scene.area)
    pitch = math.radians(rng.uniform(6, 11) + 12 * max(0.0, 1 - depth / 6))
    pitches = -pitch + math.radians(rng.uniform(1, 3)) * np.sin(
        math.tau * (rng.uniform(1, 2.5) * t + rng.random())
    )
    return yaws, pitches
