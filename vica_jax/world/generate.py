"""Rooms drawn from a seed: an outline, doors, a loop to walk, furniture around it.

The way to walk is laid first and kept free; furniture then goes where its kind stands.
What a blind guess could lean on is spread on purpose: floor areas are log-uniform,
sizes vary by more than two to one within a kind, a group has two to six pieces whatever
its kind, and what a room holds says nothing on how large it is.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from vica_jax.world.catalogue import CATALOGUE, THEMES, Kind
from vica_jax.world.placement import (
    Draws,
    Piece,
    Wall,
    lane,
    meet,
    piece,
    walls_of,
)
from vica_jax.world.scene import Box, Door, Scene, SceneError, upright

STREAM = 1  # the seed's stream of rooms: films and questions draw from others
AREA = (8.0, 45.0)  # square metres, log-uniform
HALF_LANE = 0.4  # metres kept free on both sides of the way
GAP = 0.04  # metres between pieces
FEWEST, MOST = 4, 14  # pieces
SINGLES = 4  # categories with one piece, at least
ATTEMPTS = 20  # rooms drawn until one has enough in it
TRIES = 24  # places tried for a piece

Point = tuple[float, float]


@dataclass(kw_only=True)
class Plan:
    """A room being furnished, before it is turned: arms reach up from a rectangle."""

    outline: list[Point]
    base: tuple[float, float, float, float]
    arms: list[tuple[float, float]]
    top: float
    height: float
    walls: list[Wall]
    cuts: list[Piece]
    doors: list[Door] = field(default_factory=list)
    ways: list[Piece] = field(default_factory=list)
    island: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    things: list[tuple[Kind, Piece]] = field(default_factory=list)

    def fits(self, new: Piece) -> bool:
        """Whether a piece is inside the room and clear of everything."""
        reach_x = new.half_x * abs(new.cos) + new.half_y * abs(new.sin)
        reach_y = new.half_x * abs(new.sin) + new.half_y * abs(new.cos)
        left, bottom, right, _ = self.base
        return (
            left <= new.x - reach_x
            and new.x + reach_x <= right
            and bottom <= new.y - reach_y
            and new.y + reach_y <= self.top
            and not any(meet(new, cut, 0.0) for cut in self.cuts)
            and not any(meet(new, way, 0.0) for way in self.ways)
            and not any(meet(new, old, GAP) for _, old in self.things)
        )


def make_scene(seed: int, number: int) -> Scene:
    """Room ``number`` of ``seed``: always the same, whichever were drawn before.

    Raises SceneError if no room with enough furniture came out, which a change of the
    sizes may cause.
    """
    draws = Draws(np.random.default_rng([seed, STREAM, number]))
    name = f"room{seed}_{number:05}"
    for _ in range(ATTEMPTS):
        plan = _draw_plan(draws)
        _lay_way(plan, draws)
        _furnish(plan, draws)
        counts = Counter(kind.name for kind, _ in plan.things)
        alone = sum(n == 1 for n in counts.values())
        if len(plan.things) >= FEWEST and alone >= SINGLES:
            return _scene(plan, name, draws)
    raise SceneError(f"{name}: no room with {FEWEST} pieces in {ATTEMPTS} attempts")


def _draw_plan(draws: Draws) -> Plan:
    area = draws.ratio(*AREA)
    form = "rectangle"
    if area > 11:
        form = draws.weighted(
            ("rectangle", "L", "T", "U"),
            {"rectangle": 0.64, "L": 0.18, "T": 0.09, "U": 0.09}.__getitem__,
        )
    aspect = draws.ratio(0.62, 1.62)  # of the bounding rectangle
    part = draws.between(0.25, 0.42) if form != "rectangle" else 0.0  # the arms' height
    intervals: list[Point] = []
    if form == "L":
        width = draws.between(0.42, 0.68)
        intervals = [(0.0, width) if draws.unit() < 0.5 else (1 - width, 1.0)]
    elif form == "T":
        width = draws.between(0.42, 0.6)
        left = draws.between(0.15, 0.85 - width)
        intervals = [(left, left + width)]
    elif form == "U":
        width = draws.between(0.34, 0.4)
        intervals = [(0.0, width), (1 - draws.between(0.34, 0.4), 1.0)]
    filled = 1 - part * (1 - sum(b - a for a, b in intervals)) if intervals else 1.0
    w = math.sqrt(area / filled * aspect)
    h = area / filled / w
    left, bottom, top = -w / 2, -h / 2, h / 2
    shoulder = top - part * h
    arms = [(left + a * w, left + b * w) for a, b in intervals]
    outline = [(left, bottom), (-left, bottom)]
    if not arms:
        outline += [(-left, top), (left, top)]
    else:
        if arms[-1][1] < -left:
            outline.append((-left, shoulder))
        for a, b in reversed(arms):
            if b < -left:
                outline.append((b, shoulder))
            outline += [(b, top), (a, top)]
            if a > left:
                outline.append((a, shoulder))
        if arms[0][0] > left:
            outline.append((left, shoulder))
    edges = [left, *(x for arm in arms for x in arm), -left]
    cuts = [
        piece((a + b) / 2, (shoulder + top) / 2, b - a, top - shoulder)
        for a, b in zip(edges[::2], edges[1::2], strict=True)
        if arms and b - a > 1e-9
    ]
    return Plan(
        outline=outline,
        base=(left, bottom, -left, shoulder),
        arms=arms,
        top=top,
        height=draws.between(2.4, 3.0),
        walls=walls_of(outline),
        cuts=cuts,
    )


def _depths(draws: Draws, room: float) -> tuple[float, float]:
    """Depths left for furniture along two opposite walls ``room`` metres apart."""
    depths = []
    for _ in range(2):
        kind = draws.unit()
        if kind < 0.12:
            depths.append(draws.between(0.05, 0.4))
        elif kind < 0.62:
            depths.append(draws.between(0.5, 1.0))
        else:
            depths.append(draws.between(1.0, 2.3))
    scale = min(1.0, (room - 2 * HALF_LANE - 0.3) / sum(depths))
    return depths[0] * scale, depths[1] * scale


def _lay_way(plan: Plan, draws: Draws) -> None:
    """Doors, and strips kept free: a loop, spurs into the arms, ways from the doors."""
    left, bottom, right, shoulder = plan.base
    a, b = _depths(draws, right - left)
    x0, x1 = left + a + HALF_LANE, right - b - HALF_LANE
    a, b = _depths(draws, shoulder - bottom)
    y0, y1 = bottom + a + HALF_LANE, shoulder - b - HALF_LANE
    plan.island = (x0 + HALF_LANE, y0 + HALF_LANE, x1 - HALF_LANE, y1 - HALF_LANE)
    loop = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    ways = [lane(p, q, HALF_LANE) for p, q in zip(loop, loop[1:], strict=False)]
    spurs = []
    for start, stop in plan.arms:
        x = draws.between(start + HALF_LANE, stop - HALF_LANE)
        end = shoulder + draws.between(0.4, 0.8) * (plan.top - shoulder)
        end = min(end, plan.top - HALF_LANE)
        spurs.append((x, end))
        ways.append(lane((x, y1), (x, end), HALF_LANE))
        if not x0 <= x <= x1:
            ways.append(lane((x, y1), (x0 if x < x0 else x1, y1), HALF_LANE))
    wanted = 1 + (draws.unit() < 0.25 and right - left > 4)
    for _ in range(12):
        if len(plan.doors) == wanted:
            break
        wall = draws.weighted(range(len(plan.walls)), lambda i: plan.walls[i].length)
        width = draws.between(0.75, 1.0)
        edge = plan.walls[wall]
        spare = edge.length - width - 0.3
        if spare < 0 or any(door.wall == wall for door in plan.doors):
            continue
        start = draws.between(0.15, 0.15 + spare)
        plan.doors.append(
            Door(
                wall=wall,
                start=start,
                width=width,
                height=draws.between(1.95, 2.1),
            )
        )
        middle = start + width / 2
        ways.append(lane(edge.at(middle, 0.1), edge.at(middle, 0.5), width / 2))
        px, py = edge.at(middle, 0.5)
        inside = [
            (x, end)
            for (x, end), (a, b) in zip(spurs, plan.arms, strict=True)
            if py > shoulder - 0.3 and a <= px <= b
        ]
        if inside:
            x, end = inside[0]
            near = (x, min(max(py, y1), end))
        else:
            near = _nearest_on_loop(px, py, x0, y0, x1, y1)
        if math.dist((px, py), near) > 0.05:
            ways.append(lane((px, py), near, HALF_LANE))
    plan.ways = ways


def _nearest_on_loop(
    x: float, y: float, x0: float, y0: float, x1: float, y1: float
) -> Point:
    u, v = min(max(x, x0), x1), min(max(y, y0), y1)
    if (u, v) != (x, y):
        return u, v
    sides = [(x - x0, (x0, y)), (x1 - x, (x1, y)), (y - y0, (x, y0)), (y1 - y, (x, y1))]
    return min(sides)[1]


def _furnish(plan: Plan, draws: Draws) -> None:
    theme = THEMES[draws.pick(sorted(THEMES))]
    area = sum(
        plan.outline[i - 1][0] * plan.outline[i][1]
        - plan.outline[i][0] * plan.outline[i - 1][1]
        for i in range(len(plan.outline))
    )
    wanted = draws.whole(FEWEST, min(MOST, int(4 + area / 2 * 0.5)))
    kinds = list(CATALOGUE.values())
    chosen: list[tuple[Kind, int]] = []

    def take(copies: int) -> None:
        taken = {kind.name for kind, _ in chosen}
        rest = [kind for kind in kinds if kind.name not in taken]
        if rest:
            kind = draws.weighted(
                rest,
                lambda k: (
                    (k.weight if copies == 1 else k.several)
                    * (3 if k.name in theme else 1)
                ),
            )
            chosen.append((kind, copies))

    left = wanted - SINGLES
    while left >= 2 and draws.unit() < 0.85:
        copies = min(left, draws.whole(2, 6))
        take(copies)
        left -= copies
    for _ in range(SINGLES + min(left, 4)):
        take(1)
    # Large pieces first: they find no room later.
    chosen.sort(key=lambda c: -c[0].size[0] * c[0].size[1])
    for kind, copies in chosen:
        size = _draw_size(kind, plan.height, draws)
        for _ in range(copies):
            _place(plan, kind, size, draws)
    counts = Counter(kind.name for kind, _ in plan.things)
    alone = sum(n == 1 for n in counts.values())
    for _ in range(8):
        if alone >= SINGLES:
            break
        rest = [kind for kind in kinds if kind.name not in counts]
        kind = draws.pick(rest)
        if _place(plan, kind, _draw_size(kind, plan.height, draws), draws):
            counts[kind.name] = 1
            alone += 1


def _draw_size(
    kind: Kind, height: float, draws: Draws
) -> tuple[float, float, float]:
    """A size of a kind, the longest side 0.65 to 1.5 times the typical one."""
    factor = draws.ratio(0.65, 1.5)
    longest = max(kind.size)
    w, d, h = (
        side * (factor if side == longest else factor**0.6 * draws.ratio(0.85, 1.18))
        for side in kind.size
    )
    return w, d, min(h, height - 0.1)


def _place(
    plan: Plan, kind: Kind, size: tuple[float, float, float], draws: Draws
) -> bool:
    """Stands a piece somewhere; smaller after half of the tries; False: no room."""
    w, d, h = (side * draws.between(0.98, 1.02) for side in size)
    h = min(h, plan.height - 0.05)
    low = draws.between(*kind.hung)
    if kind.place == "hang":
        low = min(low, plan.height - 0.1 - h)
    seats = [(k, p) for k, p in plan.things if k.name in ("table", "desk")]
    for attempt in range(TRIES):
        if attempt == TRIES // 2:
            w, d, h = 0.8 * w, 0.8 * d, 0.8 * h
        place = kind.place
        if place == "seat":
            place = "seat" if seats and draws.unit() < 0.7 else "loose"
        if place == "loose":
            place = "wall" if draws.unit() < 0.6 else "free"
        if place == "seat":
            new = _at_table(draws, w, d, h, seats)
        elif place == "free":
            new = _out_in_room(plan, draws, w, d, h)
        else:
            new = _at_wall(plan, draws, kind, w, d, h, low)
        if new is not None and plan.fits(new):
            plan.things.append((kind, new))
            return True
    return False


def _at_table(
    draws: Draws, w: float, d: float, h: float, seats: list[tuple[Kind, Piece]]
) -> Piece:
    _, table = draws.pick(seats)
    side = draws.whole(0, 3)
    gap = draws.between(GAP, 0.25) + d / 2
    along, across = table.half_x, table.half_y
    if side % 2 == 0:
        u = draws.between(-1, 1) * max(along - w / 2, 0.0)
        v = across + gap
    else:
        u = along + gap
        v = draws.between(-1, 1) * max(across - w / 2, 0.0)
    if side >= 2:
        u, v = -u, -v
    return piece(
        table.x + u * table.cos - v * table.sin,
        table.y + u * table.sin + v * table.cos,
        w,
        d,
        table.yaw + (side % 2) * math.pi / 2 + draws.normal(0.06),
        0.0,
        h,
    )


def _out_in_room(plan: Plan, draws: Draws, w: float, d: float, h: float) -> Piece:
    left, bottom, right, _ = plan.base
    x0, y0, x1, y1 = plan.island
    if draws.unit() < 0.5 and x1 - x0 > 0.5 and y1 - y0 > 0.5:
        x, y = draws.between(x0, x1), draws.between(y0, y1)
    else:
        x, y = draws.between(left, right), draws.between(bottom, plan.top)
    if draws.unit() < 0.75:
        yaw = draws.whole(0, 3) * math.pi / 2 + draws.normal(0.06)
    else:
        yaw = draws.between(0, math.tau)
    return piece(x, y, w, d, yaw, 0.0, h)


def _at_wall(
    plan: Plan,
    draws: Draws,
    kind: Kind,
    w: float,
    d: float,
    h: float,
    low: float,
) -> Piece | None:
    wall = draws.weighted(plan.walls, lambda wall: wall.length)
    turn = math.atan2(wall.dy, wall.dx)
    along, away = w, d
    if draws.unit() < kind.endwise:
        turn += math.pi / 2
        along, away = d, w
    if wall.length < along + 0.02:
        return None
    tilt = 0.0
    back = 0.01
    if kind.place == "loose":
        tilt = draws.normal(0.2)
        back = draws.between(0.02, 0.3)
    elif kind.place == "wall":
        tilt = draws.normal(0.012)
        back = draws.between(0.01, 0.05)
    reach = along / 2 * abs(math.sin(tilt)) + away / 2 * abs(math.cos(tilt))
    x, y = wall.at(
        draws.between(along / 2 + 0.01, wall.length - along / 2 - 0.01), reach + back
    )
    return piece(x, y, w, d, turn + tilt, low, low + h)


def _scene(plan: Plan, name: str, draws: Draws) -> Scene:
    """The finished room, turned by a multiple of 90 degrees."""
    turn = draws.whole(0, 3)
    c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[turn]
    boxes: list[Box] = []
    for kind, thing in plan.things:
        shade = draws.between(0.92, 1.0)
        colour = [
            min(max(shade * part + draws.between(-0.03, 0.03), 0.02), 1.0)
            for part in kind.colour
        ]
        boxes.append(
            upright(
                kind.name,
                np.array(
                    [
                        c * thing.x - s * thing.y,
                        s * thing.x + c * thing.y,
                        (thing.low + thing.high) / 2,
                    ]
                ),
                np.array(
                    [2 * thing.half_x, 2 * thing.half_y, thing.high - thing.low]
                ),
                thing.yaw + turn * math.pi / 2,
                np.array(colour),
            )
        )
    outline = np.array(plan.outline) @ np.array([[c, s], [-s, c]], np.float64)
    x, y = outline.T
    area = float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)
    return Scene(
        name=name,
        dataset="world",
        boxes=tuple(boxes),
        area=area,
        outline=outline,
        height=plan.height,
        doors=tuple(plan.doors),
        colours=_surfaces(draws),
    )


def _surfaces(draws: Draws) -> dict[str, np.ndarray]:
    """Pale walls, a brown or grey floor, a near-white ceiling, doors of dark wood."""
    wall = draws.between(0.78, 0.93)
    floor = draws.between(0.4, 0.62)
    warm = draws.between(0.0, 0.22)
    wood = draws.between(0.26, 0.38)
    colours = {
        "wall": [wall + draws.between(-0.03, 0.03) for _ in range(3)],
        "floor": [floor + warm * 0.5, floor, floor - warm * 0.6],
        "ceiling": [draws.between(0.93, 0.98)] * 3,
        "door": [wood, wood * 0.68, wood * 0.42],
    }
    return {what: np.array(rgb, np.float32) for what, rgb in colours.items()}
