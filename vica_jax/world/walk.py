"""A person's walk through a room with a camera: in by the door and round the room.

The gaze pans once round and a little more. Of many such pans the one is taken that
shows nearly everything, and shows one thing after another rather than all at once:
what comes first into view is asked about, and a film of a second would otherwise tell.
"""

import math
from dataclasses import dataclass

import numpy as np

from vica_jax.world.scene import Scene
from vica_jax.world.walkway import find_way

SECONDS = (12.0, 30.0)
HEAD = (1.45, 1.65)  # metres
SPEED = (0.4, 0.9)  # metres a second, where SECONDS allow
PANS = 48  # tried
MOMENTS = 24  # of the walk at which a pan is judged
# What a pan is taken to show: radians on both sides, and above and below its centre.
ASIDE, UPRIGHT = math.radians(37), math.radians(27)


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
    """A walk of ``frames`` frames, or of 12 to 30 seconds at ``rate`` where None.

    Every position keeps ``walkway.clearance``. Raises SceneError for a scene without
    an outline, or without a place to stand.
    """
    way = find_way(scene, rng)
    steps = np.linalg.norm(np.diff(way, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    if frames is None:
        least = rng.uniform(SECONDS[0], 18.0)  # short ways are walked slowly
        seconds = np.clip(along[-1] / rng.uniform(*SPEED), least, SECONDS[1])
        frames = round(float(seconds) * rate)
    at = np.linspace(0.0, along[-1], frames)
    positions = np.stack(
        [
            np.interp(at, along, way[:, 0]),
            np.interp(at, along, way[:, 1]),
            np.full(frames, rng.uniform(*HEAD)),
        ],
        axis=1,
    )
    t = np.linspace(0.0, 1.0, frames)
    pitches = _pitches(scene, t, rng)
    yaws = _pans(t, rng)
    if scene.boxes:
        taken = np.linspace(0, frames - 1, min(MOMENTS, frames)).astype(int)
        best = _best_pan(scene, positions[taken], yaws[:, taken], pitches[taken])
        yaws = yaws[best]
    else:
        yaws = yaws[0]
    return Walk(positions=positions, yaws=yaws, pitches=pitches, rate=rate)


def _pitches(scene: Scene, t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Down by 7 to 19 degrees, more in small rooms, swaying slowly; ``[n]``."""
    small = max(0.0, 1 - math.sqrt(scene.area) / 6)
    down = math.radians(rng.uniform(8, 12) + 10 * small)
    sway = math.radians(rng.uniform(0.5, 2.0))
    return sway * np.sin(math.tau * (rng.uniform(1, 2.5) * t + rng.random())) - down


def _pans(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ways to turn during a walk: ``[PANS, n]`` radians, unwrapped."""
    start, sense, pace = rng.random((3, PANS, 1))
    turn = np.radians(rng.uniform(290, 430, (PANS, 1)))
    # Slow first or slow last, with a sway on top that never turns back by much.
    share = t ** (0.8 + 0.8 * pace)
    cycles, phase = rng.uniform(1.0, 2.5, (PANS, 1)), rng.random((PANS, 1))
    depth = np.radians(rng.uniform(5, 20, (PANS, 1)))
    sway = depth * np.sin(math.tau * (cycles * t + phase))
    return math.tau * start + np.where(sense < 0.5, -1, 1) * turn * share + sway


def _best_pan(
    scene: Scene, positions: np.ndarray, yaws: np.ndarray, pitches: np.ndarray
) -> int:
    """The pan ``yaws[k]`` that shows all there is to see, one thing after another.

    A box counts as seen while its centre, or a point halfway to one of its ends, is in
    view with nothing in between.
    """
    targets = _targets(scene)  # [boxes, points, 3]
    open_to = _unhidden(scene, positions, targets)  # [moments, boxes, points]
    to = targets - positions[:, None, None]
    flat = np.hypot(to[..., 0], to[..., 1])
    lift = np.arctan2(to[..., 2], flat) - pitches[:, None, None]
    can = open_to & (np.abs(lift) < UPRIGHT) & (flat > 0.3)
    toward = np.arctan2(to[..., 1], to[..., 0])
    aside = (toward - yaws[:, :, None, None] + math.pi) % math.tau - math.pi
    seen = ((np.abs(aside) < ASIDE) & can).any(-1)  # [pans, moments, boxes]

    moments = seen.sum(1)
    possible = can.any((0, 2))
    missed = ((moments < 2) & possible).sum(1)
    moment = np.where(moments > 0, seen.argmax(1), len(positions))
    kinds = [box.category for box in scene.boxes]
    names = sorted(set(kinds))
    first = np.stack(
        [
            moment[:, [k for k, c in enumerate(kinds) if c == name]].min(1)
            for name in names
        ],
        axis=1,
    )
    first.sort(axis=1)
    apart = (np.diff(first, axis=1) > 0).sum(1) / max(len(names) - 1, 1)
    at_once = (first == 0).mean(1)
    in_view = np.minimum(moments / len(positions), 0.3).mean(1)
    return int((2 * apart - at_once + 2 * in_view - 1.0 * missed).argmax())


def _targets(scene: Scene) -> np.ndarray:
    """Points that stand for the boxes, ``[boxes,3,3]``: centres, and halfway to both
    ends of the longer horizontal axis."""
    centres = np.array([box.centre for box in scene.boxes])
    reach = np.array(
        [
            box.axes[int(box.size[0] < box.size[1])] * box.size[:2].max() / 4
            for box in scene.boxes
        ]
    )
    return np.stack([centres, centres + reach, centres - reach], axis=1)


def _unhidden(scene: Scene, positions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Which targets no other box and no wall hides: ``bool[n, boxes, points]``."""
    count = len(scene.boxes)
    centres = np.array([box.centre for box in scene.boxes])
    axes = np.array([box.axes for box in scene.boxes])
    halves = np.array([box.size / 2 for box in scene.boxes])
    # In each box's own axes: rays from the eye to the targets, [n, boxes, points, 3].
    hidden = np.zeros((len(positions), *targets.shape[:2]), bool)
    for k in range(count):
        eye = (positions - centres[k]) @ axes[k].T
        aim = (targets - centres[k]) @ axes[k].T
        ray = aim - eye[:, None, None]
        ray = np.where(np.abs(ray) < 1e-9, 1e-9, ray)
        near = (-halves[k] - eye[:, None, None]) / ray
        far = (halves[k] - eye[:, None, None]) / ray
        enter = np.minimum(near, far).max(-1)
        leave = np.maximum(near, far).min(-1)
        cut = (enter < leave) & (leave > 0) & (enter < 0.999)
        cut[:, k] = False
        hidden |= cut
    outline = scene.outline
    if outline is not None and len(outline) > 4:
        for a, b in zip(outline, np.roll(outline, -1, axis=0), strict=True):
            edge = b - a
            eye, aim = positions[:, :2] - a, targets[..., :2] - a
            side = edge[0] * eye[:, 1] - edge[1] * eye[:, 0]
            other = edge[0] * aim[..., 1] - edge[1] * aim[..., 0]
            across = side[:, None, None] * other < 0
            share = side[:, None, None] / np.where(
                across, side[:, None, None] - other, 1.0
            )
            eye = eye[:, None, None]
            at = ((eye + share[..., None] * (aim - eye)) @ edge) / (edge @ edge)
            hidden |= across & (at > 0) & (at < 1)
    return ~hidden
