"""Sentences of templated records read back, and judged by plain slow code.

Nothing here uses the project's geometry or phrases: each pattern says what a reader
takes the sentence to claim, and the claim is worked out from boxes and outline anew.
"""

import math
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import numpy as np

from vica_jax.world.scene import Box, Scene

FINE = 0.05  # metres of the rasters here


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!]) (?=[A-Z])", text)


# ----------------------------------------------------------------- slow, plain measures
def gap(a: Box, b: Box) -> float:
    """Distance of two convex boxes: project to and fro until it stays."""
    point = b.centre.copy()
    for _ in range(3000):
        on_a = nearest_in(a, point)
        following = nearest_in(b, on_a)
        if np.abs(following - point).max() < 1e-10:
            break
        point = following
    return math.dist(nearest_in(a, point), point)


def nearest_in(box: Box, point: np.ndarray) -> np.ndarray:
    local = np.clip(box.axes @ (point - box.centre), -box.size / 2, box.size / 2)
    return box.centre + box.axes.T @ local


def same(text: str, value: float) -> bool:
    """Whether a written number is the value, rounded as it is written."""
    digits = len(text.partition(".")[2])
    return abs(float(text) - value) <= 0.5 * 10**-digits + 1e-6


def the(scene: Scene, name: str) -> Box:
    (box,) = (box for box in scene.boxes if box.category == name)
    return box


def turn(scene: Scene, stand: str, face: str, target: str) -> float:
    """Degrees to turn left from ``face`` to ``target``, in (-180, 180]."""
    at, to, goal = (complex(*the(scene, n).centre[:2]) for n in (stand, face, target))
    quotient = (goal - at) / (to - at)
    return math.degrees(math.atan2(quotient.imag, quotient.real))


def rise(box: Box) -> float:
    return float(np.ptp(box.corners[:, 2]))


def wall_gap(scene: Scene, box: Box) -> float:
    """From a box's outline seen from above to the walls, both sampled."""
    assert scene.outline is not None
    ring = np.concatenate([np.linspace(a, b, 400) for a, b in closed(scene.outline)])
    corners = box.corners[box.corners[:, 2] < box.centre[2]][:, :2]
    middle = corners.mean(0)
    turned = np.argsort(np.arctan2(*(corners - middle).T[::-1]))
    base = np.concatenate([np.linspace(a, b, 60) for a, b in closed(corners[turned])])
    return float(np.linalg.norm(ring[:, None] - base, axis=-1).min())


def closed(corners: np.ndarray):
    return pairwise([*corners, corners[0]])


def plural_of(word: str) -> str:
    return {"bookshelf": "bookshelves", "shelf": "shelves"}.get(
        word, word + ("es" if word.endswith("x") else "s")
    )


def counted(scene: Scene, text: str) -> bool:
    """ "one bed" or "4 chairs": as many, and a plural with several."""
    amount, name = text.split(" ", 1)
    if amount == "one":
        return scene.count(name) == 1
    names = [c for c in scene.categories if plural_of(c) == name]
    return len(names) == 1 and scene.count(names[0]) == int(amount) > 1


# ----------------------------------------------------------------------- the free floor
def floor_points(scene: Scene) -> np.ndarray:
    assert scene.outline is not None
    low, high = scene.outline.min(0), scene.outline.max(0)
    xs, ys = (np.arange(a, b, FINE) for a, b in zip(low, high, strict=True))
    return np.stack(np.meshgrid(xs, ys, indexing="ij"), -1)


def within(outline: np.ndarray, points: np.ndarray) -> np.ndarray:
    """By the angles under which the walls are seen: 360 degrees from within."""
    total = np.zeros(points.shape[:-1])
    for a, b in closed(outline):
        u = (a - points) @ np.array([1, 1j])
        v = (b - points) @ np.array([1, 1j])
        total += np.angle(v / np.where(u == 0, 1, u))
    return np.abs(total) > math.pi


@lru_cache(maxsize=4)
def floor_clearance(scene: Scene) -> np.ndarray:
    """Metres from ``floor_points`` to the nearest wall or thing, 0 within them."""
    assert scene.outline is not None
    points = floor_points(scene)
    free = within(scene.outline, points)
    away = np.full(points.shape[:-1], np.inf)
    rings = [scene.outline]
    for box in scene.boxes:
        if box.corners[:, 2].min() > 1.0:
            continue
        local = (points - box.centre[:2]) @ box.axes[:2, :2].T
        free &= ~(np.abs(local) < box.size[:2] / 2).all(-1)
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * box.size[:2] / 2
        rings.append(box.centre[:2] + corners @ box.axes[:2, :2])
    for ring in rings:
        for a, b in closed(ring):
            share = np.clip((points - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
            feet = a + share[..., None] * (b - a)
            away = np.minimum(away, np.linalg.norm(points - feet, axis=-1))
    return np.where(free, away, 0.0)


def flooded(scene: Scene, points: np.ndarray, free: np.ndarray) -> np.ndarray:
    """What can be reached from before the doors over free points, diagonally too."""
    assert scene.outline is not None
    seeds = np.zeros_like(free)
    for door in scene.doors:
        a = scene.outline[door.wall]
        b = scene.outline[(door.wall + 1) % len(scene.outline)]
        way = (b - a) / math.dist(a, b)
        middle = a + way * (door.start + door.width / 2)
        seeds |= np.linalg.norm(points - middle, axis=-1) < 0.8
    stack = [tuple(place) for place in np.argwhere(seeds & free)]
    reached = np.zeros_like(free)
    while stack:
        place = stack.pop()
        if reached[place]:
            continue
        reached[place] = True
        x, y = place
        stack += [
            (i, j)
            for i in (x - 1, x, x + 1)
            for j in (y - 1, y, y + 1)
            if 0 <= i < free.shape[0] and 0 <= j < free.shape[1] and free[i, j]
        ]
    return reached


def reaches(scene: Scene, name: str, width: float) -> bool:
    points = floor_points(scene)
    free = floor_clearance(scene) >= width / 2
    reached = points[flooded(scene, points, free)]
    box = the(scene, name)
    gaps = [math.dist(nearest_in(box, [*p, box.centre[2]])[:2], p) for p in reached]
    return bool(gaps) and min(gaps) <= width / 2 + 0.3


def place_is_free(scene: Scene, corner: np.ndarray, size: tuple[float, float]) -> bool:
    """A rectangle along x and y by points on it: in the room, in nothing else."""
    assert scene.outline is not None
    xs, ys = (np.linspace(0.01, 0.99, int(side / 0.1) + 2) for side in size)
    points = corner + np.stack(np.meshgrid(xs, ys), -1) * size
    if not within(scene.outline, points).all():
        return False
    for door in scene.doors:
        a = scene.outline[door.wall]
        b = scene.outline[(door.wall + 1) % len(scene.outline)]
        way = (b - a) / math.dist(a, b)
        local = (points - a) @ np.stack([way, [-way[1], way[0]]], 1)
        along = (local[..., 0] > door.start) & (local[..., 0] < door.start + door.width)
        if (along & (local[..., 1] < 0.8)).any():
            return False
    return not any(
        (np.abs((points - b.centre[:2]) @ b.axes[:2, :2].T) < b.size[:2] / 2)
        .all(-1)
        .any()
        for b in scene.boxes
        if b.corners[:, 2].min() < 1.9
    )


def finds_place(scene: Scene, size: tuple[float, float], step: float) -> bool:
    assert scene.outline is not None
    low, high = scene.outline.min(0), scene.outline.max(0)
    for sides in {size, size[::-1]}:
        for x in np.arange(low[0], high[0] - sides[0] + 1e-6, step):
            for y in np.arange(low[1], high[1] - sides[1] + 1e-6, step):
                if place_is_free(scene, np.array([x, y]), sides):
                    return True
    return False


def covered(scene: Scene) -> float:
    """Share of the floor under things, in percent."""
    points = floor_points(scene).reshape(-1, 2)
    hit = np.zeros(len(points), bool)
    for box in scene.boxes:
        if box.corners[:, 2].min() < 0.3:
            local = (points - box.centre[:2]) @ box.axes[:2, :2].T
            hit |= (np.abs(local) < box.size[:2] / 2).all(-1)
    return 100 * float(hit.sum()) * FINE**2 / scene.area


# ------------------------------------------------------------------------- what is said
Check = Callable[..., bool]
SIDES = {
    "in front of you": (-45, 45),
    "to your left": (45, 135),
    "to your right": (-135, -45),
}


def on_side(scene: Scene, a: str, b: str, c: str, where: str) -> bool:
    angle = turn(scene, a, b, c)
    if where == "behind you":
        return abs(angle) > 135
    low, high = SIDES[where]
    return low < angle < high


def closest(scene: Scene, a: str, b: str) -> bool:
    box = the(scene, a)
    others = {id(o): gap(box, o) for o in scene.boxes if o is not box}
    nearest = min(others.values())
    return others[id(the(scene, b))] == nearest


def longest(scene: Scene, name: str) -> float:
    return float(the(scene, name).size.max())


N, W = r"(\d+(?:\.\d+)?)", r"([a-z][a-z ]*?)"
PATTERNS: dict[str, Check] = {
    rf"The room has a floor of {N} square meters\.": lambda s, v: same(v, s.area),
    rf"The floor covers {N} square meters\.": lambda s, v: same(v, s.area),
    rf"The room measures {N} square meters\.": lambda s, v: same(v, s.area),
    rf"The (?:floor is a rectangle of|room is rectangular,) {N} by {N} meters\.": (
        lambda s, v, w: (
            len(s.outline) == 4
            and same(v, max(math.dist(a, b) for a, b in closed(s.outline)))
            and same(w, min(math.dist(a, b) for a, b in closed(s.outline)))
        )
    ),
    rf"The floor is no rectangle: it has {N} corners\.": (
        lambda s, v: int(v) == len(s.outline) > 4
    ),
    rf"The walls meet in {N} corners\.": lambda s, v: int(v) == len(s.outline) > 4,
    rf"The ceiling is {N} meters high\.": lambda s, v: same(v, s.height),
    rf"From floor to ceiling it is {N} meters\.": lambda s, v: same(v, s.height),
    rf"(?:There is one door|The only door is),? {N} meters wide\.": (
        lambda s, v: len(s.doors) == 1 and same(v, s.doors[0].width)
    ),
    rf"There are {N} things in all\.": lambda s, v: int(v) == len(s.boxes),
    rf"In all the room holds {N} things\.": lambda s, v: int(v) == len(s.boxes),
    rf"There is no {W}\.": lambda s, a: a not in s.categories,
    rf"The room has no {W}\.": lambda s, a: a not in s.categories,
    rf"The longest side of the {W} is {N} centimeters\.": (
        lambda s, a, v: same(v, 100 * longest(s, a))
    ),
    rf"The {W} measures {N} centimeters along its longest side\.": (
        lambda s, a, v: same(v, 100 * longest(s, a))
    ),
    rf"The {W} (?:is|has a height of) {N} centimeters(?: tall)?\.": (
        lambda s, a, v: same(v, 100 * rise(the(s, a)))
    ),
    rf"The {W} is {N} meters from the {W}\.": (
        lambda s, a, v, b: same(v, gap(the(s, a), the(s, b)))
    ),
    rf"Between the {W} and the {W} there are {N} meters\.": (
        lambda s, a, b, v: same(v, gap(the(s, a), the(s, b)))
    ),
    rf"From the {W} to the {W} it is {N} meters\.": (
        lambda s, a, b, v: same(v, gap(the(s, a), the(s, b)))
    ),
    rf"Nothing is closer to the {W} than the {W}\.": closest,
    rf"The thing closest to the {W} is the {W}\.": closest,
    rf"The {W} is closer to the {W} than to the {W}\.": (
        lambda s, a, b, c: gap(the(s, a), the(s, b)) < gap(the(s, a), the(s, c))
    ),
    rf"Of the {W} and the {W}, the first is closer to the {W}\.": (
        lambda s, b, c, a: gap(the(s, a), the(s, b)) < gap(the(s, a), the(s, c))
    ),
    rf"The {W} is taller than the {W}\.": (
        lambda s, a, b: rise(the(s, a)) > rise(the(s, b))
    ),
    rf"The {W} is less tall than the {W}\.": (
        lambda s, a, b: rise(the(s, a)) < rise(the(s, b))
    ),
    rf"The longest side of the {W} is longer than that of the {W}\.": (
        lambda s, a, b: longest(s, a) > longest(s, b)
    ),
    rf"Along its longest side the {W} measures more than the {W}\.": (
        lambda s, a, b: longest(s, a) > longest(s, b)
    ),
    rf"If you stand by the {W} and face the {W}, the {W} is "
    r"(in front of you|to your left|to your right|behind you)\.": on_side,
    rf"Standing by the {W} and looking at the {W}, you have the {W} "
    r"(in front of you|to your left|to your right|behind you)\.": on_side,
    rf"The {W} is (?:right at|against) a wall\.": (
        lambda s, a: wall_gap(s, the(s, a)) < 0.16
    ),
    rf"The {W} stands clear of the walls\.": (
        lambda s, a: wall_gap(s, the(s, a)) > 0.59
    ),
    rf"No wall is close to the {W}\.": lambda s, a: wall_gap(s, the(s, a)) > 0.59,
    rf"The {W} hangs {N} meters above the floor\.": (
        lambda s, a, v: same(v, the(s, a).corners[:, 2].min())
    ),
    rf"The lower edge of the {W} is {N} meters above the floor\.": (
        lambda s, a, v: same(v, the(s, a).corners[:, 2].min())
    ),
    rf"The {W} comes into view before the {W}\.": (
        lambda s, a, b: s.first_seen[a] < s.first_seen[b]
    ),
    rf"The video shows the {W} first and the {W} later\.": (
        lambda s, a, b: s.first_seen[a] < s.first_seen[b]
    ),
    rf"The {W} (?:is|are) there to ([a-z' ]+)\.": lambda s, a, _: known(s, a),
    rf"With the {W} one can ([a-z' ]+)\.": lambda s, a, _: known(s, a),
    rf"Furniture covers about {N} percent of the floor\.": (
        lambda s, v: abs(float(v) - covered(s)) < 3.5
    ),
    rf"About {N} percent of the floor is under furniture\.": (
        lambda s, v: abs(float(v) - covered(s)) < 3.5
    ),
    rf"(?:An?) {W} of {N} by {N} meters fits, parallel to the walls and out of the "
    r"way of every door\.": lambda s, _, v, w: finds_place(
        s, (float(v), float(w)), 0.05
    ),
    rf"There is a free place of {N} by {N} meters, so an? {W} can stand there\.": (
        lambda s, v, w, _: finds_place(s, (float(v), float(w)), 0.05)
    ),
    rf"(?:An?) {W} of {N} by {N} meters fits nowhere, placed parallel to the walls and "
    r"out of the way of every door\.": (
        lambda s, _, v, w: not finds_place(s, (float(v), float(w)), 0.13)
    ),
    rf"Parallel to the walls and clear of the doors no place of {N} by {N} meters is "
    rf"free, so an? {W} does not fit\.": lambda s, v, w, _: (
        not finds_place(s, (float(v), float(w)), 0.13)
    ),
    rf"(?:A circle of|There is a free round place,) {N} meters across"
    r"(?: is free of furniture)?\.": (
        lambda s, v: 2 * floor_clearance(s).max() > float(v) - 0.05
    ),
    r"(?:A wheelchair has the|There is room to turn a wheelchair, which takes) 1\.5 "
    r"meters(?: that it needs to turn)?\.": (
        lambda s: 2 * floor_clearance(s).max() > 1.45
    ),
    r"(?:A wheelchair does not find the|There is no room to turn a wheelchair, which "
    r"takes) 1\.5 meters(?: that it needs to turn)?\.": (
        lambda s: 2 * floor_clearance(s).max() < 1.52
    ),
    r"There is a door that a wheelchair passes, at least 0\.8 meters wide\.": (
        lambda s: max(door.width for door in s.doors) >= 0.8
    ),
    r"A wheelchair comes in: a door is at least 0\.8 meters wide\.": (
        lambda s: max(door.width for door in s.doors) >= 0.8
    ),
    r"No door is as wide as 0\.8 meters, which is narrow for a wheelchair\.": (
        lambda s: max(door.width for door in s.doors) < 0.8
    ),
    r"A wheelchair hardly comes in: no door has a width of 0\.8 meters\.": (
        lambda s: max(door.width for door in s.doors) < 0.8
    ),
    rf"There is a way to the {W} that is at least 0\.8 meters wide\.": (
        lambda s, a: reaches(s, a, 0.76)
    ),
    rf"One can roll up to the {W}\.": lambda s, a: reaches(s, a, 0.76),
    rf"There is no way to the {W} that is 0\.8 meters wide\.": (
        lambda s, a: not reaches(s, a, 0.84)
    ),
    rf"Every way to the {W} is narrower than 0\.8 meters\.": (
        lambda s, a: not reaches(s, a, 0.84)
    ),
}
LISTS = (
    r"(?:There (?:is|are)|The room (?:has|holds)|In the room there (?:is|are)|I see) "
    r"((?:one|\d+) .+?)(?: in the room)?\."
)


def known(scene: Scene, name: str) -> bool:
    """A name of one thing that is alone, or the plural of several."""
    return (scene.count(name) == 1) or any(
        plural_of(c) == name and scene.count(c) > 1 for c in scene.categories
    )


def judge(scene: Scene, sentence: str) -> tuple[str, bool]:
    """The pattern that a sentence fits, "" if none does, and whether it is true."""
    for pattern, check in PATTERNS.items():
        if found := re.fullmatch(pattern, sentence):
            return pattern, bool(check(scene, *found.groups()))
    if found := re.fullmatch(LISTS, sentence):
        amounts = re.split(r", | and ", found[1])
        whole = len(set(amounts)) == len(amounts)
        return LISTS, whole and all(counted(scene, amount) for amount in amounts)
    return "", False
