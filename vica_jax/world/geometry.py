"""Exact geometry of oriented boxes and of the floor, in float64.

The distance of two boxes is that of their closest points. Where two convex polyhedra
are apart, closest points are a corner of one and a point of the other, or interior
points of an edge of each, so the least of 16 corner-box and 144 edge-edge distances is
the answer, each in closed form; the separating axis theorem (15 axes) says whether they
are apart at all. All pairs of a room go through numpy at once.

Kept libraries looked at: ``coal`` (hpp-fcl) and ``python-fcl`` do the same by GJK, one
pair a call and to a tolerance, and bring compiled packages of their own; ``trimesh``
needs ``python-fcl`` for distances between meshes; ``scipy`` has hulls, but no distance
of polyhedra; ``shapely`` knows polygons in the plane, of which little is needed here.

Angles are radians, seen from above, counter-clockwise (to the left) positive.
"""

import math
from collections.abc import Sequence

import numpy as np

from vica_jax.world.box_pairs import CORNERS, EDGES, Pairs, common_point
from vica_jax.world.scene import Box, Scene, SceneError


def closest_points(a: Box, b: Box) -> tuple[float, np.ndarray, np.ndarray]:
    """Distance of two boxes in metres, and closest points of ``a`` and of ``b``.

    Points are ``float64[3]``. Where the boxes touch or overlap the distance is 0 and
    both points are one that lies in both. Parallel faces have many closest points:
    which is returned is fixed by the boxes.
    """
    pairs = Pairs([a], [b])
    if pairs.gap()[0] <= 0:
        common = common_point(a, b)
        return 0.0, common, common.copy()
    second, first = (corners[0] for corners in pairs.corners())
    lengths, along, across, middles = (part[0] for part in pairs.edges())
    onto = np.clip(second, -pairs.a[0], pairs.a[0])
    choices = [(onto, second)]
    back = np.clip(first, -pairs.b[0], pairs.b[0])
    turn, centre = pairs.turn[0], pairs.centre[0]
    choices.append((CORNERS * pairs.a[0], centre + back @ turn))
    i, m, j, k = np.unravel_index(np.argmin(lengths), lengths.shape)
    if np.isfinite(lengths[i, m, j, k]):
        p = EDGES[i, m] * pairs.a[0]
        p[i] += along[i, m, j, k]
        choices.append((p[None], middles[j, k] + across[i, m, j, k] * turn[[j]]))
    p, q = (np.concatenate(part) for part in zip(*choices, strict=True))
    best = np.argmin(((p - q) ** 2).sum(1))
    p, q = (a.centre + point[best] @ a.axes for point in (p, q))
    return float(pairs.distance()[0]), p, q


def box_distance(a: Box, b: Box) -> float:
    """Metres between the closest points of two boxes, 0 where they touch or overlap."""
    return float(Pairs([a], [b]).distance()[0])


def distances(boxes: Sequence[Box], others: Sequence[Box]) -> np.ndarray:
    """``box_distance`` of each of ``boxes`` to each of ``others``: ``float64[n, m]``.

    One call for a whole room is far cheaper than one a pair.
    """
    first = [box for box in boxes for _ in others]
    second = [box for _ in boxes for box in others]
    return Pairs(first, second).distance().reshape(len(boxes), len(others))


def category_distance(scene: Scene, first: str, second: str) -> float:
    """Metres between the closest things of two categories.

    Raises:
        SceneError: the scene has no box of one of them.
    """
    for category in (first, second):
        if not scene.of(category):
            raise SceneError(f"scene {scene.name}: has no {category}")
    return float(distances(scene.of(first), scene.of(second)).min())


def gap(a: Box, b: Box) -> float:
    """How far two boxes are apart along the best of the 15 separating axes, in metres.

    Negative: how deep they are in each other. Positive: a lower bound of the distance.
    """
    return float(Pairs([a], [b]).gap()[0])


def overlaps(a: Box, b: Box, margin: float = 0.0) -> bool:
    """Whether two boxes share more than their surface.

    ``margin`` metres above 0: also where they are less than that apart. Below 0: only
    where they are deeper than that in each other.
    """
    if margin > 0:
        return box_distance(a, b) < margin
    return gap(a, b) < margin


def longest_dimension(box: Box) -> float:
    """The longest of a box's three sizes, metres."""
    return float(box.size.max())


def footprint(box: Box) -> np.ndarray:
    """The box seen from above: a convex polygon ``float64[k,2]``, k of 4 or 6,
    counter-clockwise."""
    sides = (box.axes * box.size[:, None])[:, :2]
    backwards = (sides[:, 1] < 0) | ((sides[:, 1] == 0) & (sides[:, 0] < 0))
    sides = np.where(backwards[:, None], -sides, sides)
    sides = sides[np.argsort(np.arctan2(sides[:, 1], sides[:, 0]), kind="stable")]
    lengths = np.linalg.norm(sides, axis=1)
    edges: list[np.ndarray] = []
    for side in sides[lengths > 1e-9 * lengths.max()]:
        if edges and abs(_cross(edges[-1], side)) <= 1e-9 * (
            np.linalg.norm(edges[-1]) * np.linalg.norm(side)
        ):
            edges[-1] = edges[-1] + side
        else:
            edges.append(side)
    steps = np.array([*edges, *(-edge for edge in edges)])
    start = box.centre[:2] - sides.sum(0) / 2
    return start + np.concatenate([np.zeros((1, 2)), np.cumsum(steps[:-1], axis=0)])


def inside(
    outline: np.ndarray, points: np.ndarray, tolerance: float = 0.0
) -> np.ndarray:
    """Which of ``points [...,2 or more]`` are in the polygon ``[n,2]``: ``bool[...]``.

    Points on the outline, or no farther from it than ``tolerance`` metres, are inside.
    """
    points = np.asarray(points, np.float64)[..., None, :2]
    start, end = outline, np.roll(outline, -1, axis=0)
    low = (start[:, 1] > points[..., 1]) != (end[:, 1] > points[..., 1])
    rise = np.where(end[:, 1] == start[:, 1], 1.0, end[:, 1] - start[:, 1])
    reached = (points[..., 1] - start[:, 1]) / rise
    crossing = start[:, 0] + reached * (end[:, 0] - start[:, 0])
    within = (low & (points[..., 0] < crossing)).sum(-1) % 2 == 1
    return within | (_edge_distance(start, end, points) <= tolerance)


def wall_distance(outline: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Metres from ``points [...,2 or more]`` to the nearest wall, ``float64[...]``."""
    points = np.asarray(points, np.float64)[..., None, :2]
    return _edge_distance(outline, np.roll(outline, -1, axis=0), points)


def _edge_distance(
    start: np.ndarray, end: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """From points ``[...,1,2]`` to the nearest of the segments ``[n,2]``: [...]."""
    way = end - start
    square = (way**2).sum(-1)
    where = ((points - start) * way).sum(-1) / np.where(square == 0, 1.0, square)
    nearest = start + np.clip(where, 0, 1)[..., None] * way
    return np.sqrt(((points - nearest) ** 2).sum(-1)).min(-1)


def polygon_contains_box(outline: np.ndarray, box: Box, tolerance: float = 0.0) -> bool:
    """Whether a box stands within the outline ``[n,2]``, seen from above.

    No corner may be more than ``tolerance`` metres outside, and no wall may reach
    farther than that into the box (which matters by corners that point inwards).
    """
    corners = footprint(box)
    if not inside(outline, corners, tolerance + 1e-9).all():
        return False
    # Walls clipped by the footprint's sides, each moved inwards; never past its middle.
    way = np.roll(corners, -1, axis=0) - corners
    normal = np.stack([-way[:, 1], way[:, 0]], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    middle = ((corners.mean(0) - corners) * normal).sum(1)
    margin = np.minimum(tolerance + 1e-9, 0.999 * middle)
    start = (outline[:, None] - corners) * normal
    depth = start.sum(-1) - margin  # [walls, sides], above 0 inside
    then = np.roll(depth, -1, axis=0)
    step = then - depth
    level = step == 0
    at = -depth / np.where(level, 1.0, step)
    enter = np.where(step > 0, at, np.where(level & (depth <= 0), np.inf, 0.0))
    leave = np.where(step < 0, at, 1.0)
    return not (enter.max(1).clip(min=0) < leave.min(1).clip(max=1)).any()


def bearing(stand: np.ndarray, face: np.ndarray, target: np.ndarray) -> float:
    """Where ``target`` is for one who stands at ``stand`` and faces ``face``.

    Points ``[2 or more]``, of which x and y count. Radians in (-pi, pi], 0 straight
    ahead, positive to the left.

    Raises:
        SceneError: facing or target are where one stands, so there is no angle.
    """
    ahead = np.asarray(face, np.float64)[:2] - np.asarray(stand, np.float64)[:2]
    away = np.asarray(target, np.float64)[:2] - np.asarray(stand, np.float64)[:2]
    if not (ahead.any() and away.any()):
        raise SceneError("no direction: two of the three places are the same")
    angle = math.atan2(_cross(ahead, away), float(ahead @ away))
    return math.pi if angle == -math.pi else angle


def quadrant(angle: float) -> str:
    """``front-left`` ``front-right`` ``back-left`` or ``back-right`` of a bearing.

    Straight ahead is front-left and exactly behind back-left; whoever asks keeps away
    from the borders.
    """
    depth = "front" if abs(angle) <= math.pi / 2 else "back"
    return f"{depth}-{'left' if angle >= 0 else 'right'}"


def side(angle: float) -> str:
    """``left``, ``right``, or ``back`` (more than 135 degrees to either side)."""
    if abs(angle) > math.radians(135):
        return "back"
    return "left" if angle >= 0 else "right"


def triangle(a: Box, b: Box, c: Box) -> tuple[np.ndarray, np.ndarray]:
    """The triangle of three boxes' centres.

    Returns:
        Sides ``float64[3]`` metres (ab, bc, ca) and angles ``float64[3]`` radians at a,
        b and c, which sum to pi.

    Raises:
        SceneError: two centres are the same, so that there is no triangle.
    """
    centres = np.stack([a.centre, b.centre, c.centre])
    ways = np.roll(centres, -1, axis=0) - centres
    sides = np.linalg.norm(ways, axis=1)
    if not sides.all():
        raise SceneError("no triangle: two of the three things have the same centre")
    out, back = ways, -np.roll(ways, 1, axis=0)
    sines = np.linalg.norm(np.cross(out, back), axis=1)
    return sides, np.arctan2(sines, (out * back).sum(1))


def _cross(a: np.ndarray, b: np.ndarray) -> float:
    return float(a[0] * b[1] - a[1] * b[0])
