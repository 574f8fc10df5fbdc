"""An empty room: its outline, its doors, and the way through it that stays free.

A room is a rectangle, from whose upper side up to two arms may reach: one at an end
makes an L, one between a T, two a U. Everything is in that position; ``generate`` turns
the finished room. What is left free is a set of strips: a loop within the rectangle, a
spur into each arm, and from each door a way to them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vica_jax.world.catalogue import Kind
from vica_jax.world.placement import Draws, Piece, Wall, lane, meet, piece, walls_of
from vica_jax.world.scene import Door

AREA = (8.0, 45.0)  # square metres, log-uniform
HEIGHT = (2.4, 3.0)
FORMS = {"rectangle": 0.64, "L": 0.18, "T": 0.09, "U": 0.09}  # from ROOMY up
ROOMY = 11.0  # square metres
ASPECT = (0.62, 1.62)
NARROW = 2.5  # metres: the least width or depth
DOOR_WIDTH, DOOR_HEIGHT = (0.75, 1.0), (1.95, 2.1)
HALF_LANE = 0.4  # metres kept free on both sides of the way
GAP = 0.04  # metres between pieces
TURN = 0.3  # metres that the loop's sides are apart, at least

Point = tuple[float, float]


class Rectangle(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float


NOWHERE = Rectangle(0.0, 0.0, 0.0, 0.0)


@dataclass(kw_only=True)
class Plan:
    """A room and what stands in it so far.

    ``base`` is the rectangle, ``arms`` the intervals of x that reach up from it to
    ``top``, ``cuts`` what the arms leave out of the bounding rectangle, ``ways`` the
    strips to keep free, ``island`` what the loop goes round (it may be empty).
    """

    outline: list[Point]
    area: float
    height: float
    base: Rectangle
    arms: list[Point]
    top: float
    walls: list[Wall]
    cuts: list[Piece]
    doors: list[Door] = field(default_factory=list)
    ways: list[Piece] = field(default_factory=list)
    island: Rectangle = NOWHERE
    things: list[tuple[Kind, Piece]] = field(default_factory=list)

    def fits(self, new: Piece) -> bool:
        """Whether a piece is inside the room and clear of ways and other pieces."""
        reach_x = new.half_x * abs(new.cos) + new.half_y * abs(new.sin)
        reach_y = new.half_x * abs(new.sin) + new.half_y * abs(new.cos)
        return (
            self.base.left <= new.x - reach_x
            and new.x + reach_x <= self.base.right
            and self.base.bottom <= new.y - reach_y
            and new.y + reach_y <= self.top
            and not any(meet(new, cut, 0.0) for cut in self.cuts)
            and not any(meet(new, way, 0.0) for way in self.ways)
            and not any(meet(new, old, GAP) for _, old in self.things)
        )


def draw_plan(draws: Draws) -> Plan:
    """An empty room with its doors and ways."""
    plan = _draw_shell(draws)
    loop, spurs = _lay_loop(plan, draws)
    wanted = 1 + (draws.unit() < 0.25 and plan.base.right - plan.base.left > 4)
    for _ in range(12):
        if len(plan.doors) < wanted:
            _open_door(plan, loop, spurs, draws)
    return plan


def _draw_shell(draws: Draws) -> Plan:
    area = draws.ratio(*AREA)
    form = draws.weighted(tuple(FORMS), FORMS.__getitem__)
    if area < ROOMY:
        form = "rectangle"
    shares = _arm_shares(form, draws)
    deep = draws.between(0.25, 0.42) if shares else 0.0  # share of the room's depth
    filled = 1 - deep * (1 - sum(b - a for a, b in shares)) if shares else 1.0
    width = math.sqrt(area / filled * draws.ratio(*ASPECT))
    width = min(max(width, NARROW), area / filled / NARROW)
    depth = area / filled / width
    base = Rectangle(-width / 2, -depth / 2, width / 2, depth / 2 - deep * depth)
    arms = [(base.left + a * width, base.left + b * width) for a, b in shares]
    outline = _outline(base, arms, depth / 2)
    sides = [base.left, *(x for arm in arms for x in arm), base.right]
    cuts = [
        piece((a + b) / 2, (base.top + depth / 2) / 2, b - a, depth / 2 - base.top)
        for a, b in zip(sides[::2], sides[1::2], strict=True)
        if arms and a < b
    ]
    return Plan(
        outline=outline,
        area=area,
        height=draws.between(*HEIGHT),
        base=base,
        arms=arms,
        top=depth / 2,
        walls=walls_of(outline),
        cuts=cuts,
    )


def _arm_shares(form: str, draws: Draws) -> list[Point]:
    """Where arms begin and end, as shares of the room's width."""
    if form == "L":
        width = draws.between(0.42, 0.68)
        return [(0.0, width) if draws.unit() < 0.5 else (1 - width, 1.0)]
    if form == "T":
        width = draws.between(0.42, 0.6)
        start = draws.between(0.15, 0.85 - width)
        return [(start, start + width)]
    if form == "U":
        return [(0.0, draws.between(0.34, 0.4)), (1 - draws.between(0.34, 0.4), 1.0)]
    return []


def _outline(base: Rectangle, arms: Sequence[Point], top: float) -> list[Point]:
    """Corners counter-clockwise from the lower left."""
    corners = [(base.left, base.bottom), (base.right, base.bottom)]
    if not arms or arms[-1][1] < base.right:
        corners.append((base.right, base.top))
    for start, stop in reversed(arms):
        if stop < base.right:
            corners.append((stop, base.top))
        corners += [(stop, top), (start, top)]
        if start > base.left:
            corners.append((start, base.top))
    if not arms or arms[0][0] > base.left:
        corners.append((base.left, base.top))
    return corners


def _depths(draws: Draws, across: float) -> tuple[float, float]:
    """Depths left for furniture along two walls that are ``across`` metres apart."""
    depths = []
    for _ in range(2):
        kind = draws.unit()
        if kind < 0.12:
            depths.append(draws.between(0.05, 0.4))
        elif kind < 0.62:
            depths.append(draws.between(0.5, 1.0))
        else:
            depths.append(draws.between(1.0, 2.3))
    scale = min(1.0, (across - 2 * HALF_LANE - TURN) / sum(depths))
    return depths[0] * scale, depths[1] * scale


def _lay_loop(plan: Plan, draws: Draws) -> tuple[Rectangle, list[Point]]:
    """The loop, and the far ends of the spurs into the arms."""
    base = plan.base
    left, right = _depths(draws, base.right - base.left)
    bottom, top = _depths(draws, base.top - base.bottom)
    loop = Rectangle(
        base.left + left + HALF_LANE,
        base.bottom + bottom + HALF_LANE,
        base.right - right - HALF_LANE,
        base.top - top - HALF_LANE,
    )
    plan.island = Rectangle(
        loop.left + HALF_LANE,
        loop.bottom + HALF_LANE,
        loop.right - HALF_LANE,
        loop.top - HALF_LANE,
    )
    corners = [
        (loop.left, loop.bottom),
        (loop.right, loop.bottom),
        (loop.right, loop.top),
        (loop.left, loop.top),
    ]
    for i, corner in enumerate(corners):
        plan.ways.append(lane(corners[i - 1], corner, HALF_LANE))
    spurs = []
    for start, stop in plan.arms:
        x = draws.between(start + HALF_LANE, stop - HALF_LANE)
        end = base.top + draws.between(0.4, 0.8) * (plan.top - base.top)
        end = min(end, plan.top - HALF_LANE)
        plan.ways.append(lane((x, loop.top), (x, end), HALF_LANE))
        nearest = min(max(x, loop.left), loop.right)
        if nearest != x:
            plan.ways.append(lane((x, loop.top), (nearest, loop.top), HALF_LANE))
        spurs.append((x, end))
    return loop, spurs


def _open_door(
    plan: Plan, loop: Rectangle, spurs: Sequence[Point], draws: Draws
) -> None:
    """A door and the way from it, unless the wall drawn has no place for one."""
    number = draws.weighted(range(len(plan.walls)), lambda i: plan.walls[i].length)
    wall = plan.walls[number]
    width = draws.between(*DOOR_WIDTH)
    spare = wall.length - width - 0.3
    if spare < 0 or any(door.wall == number for door in plan.doors):
        return
    door = Door(
        wall=number,
        start=0.15 + draws.between(0.0, spare),
        width=width,
        height=draws.between(*DOOR_HEIGHT),
    )
    plan.doors.append(door)
    middle = door.start + width / 2
    x, y = inside = wall.at(middle, 0.5)
    plan.ways.append(lane(wall.at(middle, 0.1), inside, width / 2))
    goal = _nearest_on(loop, x, y)
    for (start, stop), (spur, end) in zip(plan.arms, spurs, strict=True):
        if start <= x <= stop and y > plan.base.top - 0.3:
            goal = (spur, min(max(y, loop.top), end))
    if math.dist(inside, goal) > 0.05:
        plan.ways.append(lane(inside, goal, HALF_LANE))


def _nearest_on(loop: Rectangle, x: float, y: float) -> Point:
    """The point of a rectangle's sides that is nearest to a point."""
    u, v = min(max(x, loop.left), loop.right), min(max(y, loop.bottom), loop.top)
    if (u, v) != (x, y):
        return u, v
    sides = (
        (x - loop.left, (loop.left, y)),
        (loop.right - x, (loop.right, y)),
        (y - loop.bottom, (x, loop.bottom)),
        (loop.top - y, (x, loop.top)),
    )
    return min(sides)[1]
