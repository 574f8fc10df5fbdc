"""Rooms drawn from a seed: an outline, doors, a loop to walk, furniture around it.

The way to walk is laid first and kept free; furniture then goes where its kind stands.
What a blind guess could lean on is spread on purpose: floor areas are log-uniform,
sizes vary by more than two to one within a kind, a group has two to six pieces whatever
its kind, and what a room holds says nothing on how large it is.
"""

import math
from collections import Counter
from collections.abc import Container

import numpy as np

from vica_jax.world.catalogue import CATALOGUE, THEMES, Kind
from vica_jax.world.placement import Draws, Piece, piece
from vica_jax.world.plan import GAP, Plan, draw_plan
from vica_jax.world.scene import Box, Scene, SceneError, polygon_area, upright

STREAM = 1  # the seed's stream of rooms: films and questions draw from others
FEWEST, MOST = 4, 14  # pieces
SINGLES = 4  # categories with one piece, at least
LARGEST = 6  # pieces in a group
FACTOR = (0.65, 1.5)  # of a kind's longest side, log-uniform
ATTEMPTS = 20  # rooms drawn until one has enough in it
TRIES = 24  # places tried for a piece


def make_scene(seed: int, number: int) -> Scene:
    """Room ``number`` of ``seed``: always the same, whichever were drawn before.

    Raises SceneError if no room with enough furniture came out, which a change of the
    sizes may cause.
    """
    draws = Draws(np.random.default_rng([seed, STREAM, number]))
    name = f"room{seed}_{number:05}"
    for _ in range(ATTEMPTS):
        plan = draw_plan(draws)
        _furnish(plan, draws)
        if len(plan.things) >= FEWEST and _alone(plan) >= SINGLES:
            return _scene(plan, name, draws)
    raise SceneError(f"{name}: no room with {FEWEST} pieces in {ATTEMPTS} attempts")


def _furnish(plan: Plan, draws: Draws) -> None:
    """Chooses what stands in a room, and stands it there as far as there is room."""
    theme = THEMES[draws.pick(sorted(THEMES))]
    most = min(MOST, int(4 + 0.55 * plan.area))
    wanted = draws.whole(min(7, most), most)
    alone = min(SINGLES + (draws.unit() < 0.4) + (draws.unit() < 0.2), wanted)
    groups: list[int] = []
    while (left := wanted - alone - sum(groups)) >= 2:
        # Never one left over: a group that finds no room for all is small enough.
        copies = min(draws.whole(2, LARGEST + 2), LARGEST, left)
        groups.append(left if left - copies == 1 and left <= LARGEST else copies)
    # Groups choose first: most kinds are seldom seen in numbers.
    chosen: dict[str, int] = {}
    for copies in groups + [1] * (wanted - sum(groups)):
        kind = _choose(chosen, theme, copies, draws)
        chosen[kind.name] = copies
    order = sorted(
        (CATALOGUE[name] for name in chosen), key=lambda k: -k.size[0] * k.size[1]
    )
    for kind in order:  # large pieces first: they would find no room later
        size = _draw_size(kind, plan.height, draws)
        for _ in range(chosen[kind.name]):
            _place(plan, kind, size, draws)
    for _ in range(8):  # in place of those that found no room
        if _alone(plan) >= alone or len(chosen) == len(CATALOGUE):
            break
        kind = _choose(chosen, theme, 1, draws)
        chosen[kind.name] = 1
        _place(plan, kind, _draw_size(kind, plan.height, draws), draws)


def _choose(
    taken: Container[str], theme: Container[str], copies: int, draws: Draws
) -> Kind:
    """A kind not ``taken`` yet."""
    return draws.weighted(
        [kind for kind in CATALOGUE.values() if kind.name not in taken],
        lambda kind: (
            (kind.weight if copies == 1 else kind.several)
            * (3.0 if kind.name in theme else 1.0)
        ),
    )


def _alone(plan: Plan) -> int:
    """Categories with one piece."""
    return sum(n == 1 for n in Counter(kind.name for kind, _ in plan.things).values())


def _draw_size(kind: Kind, height: float, draws: Draws) -> tuple[float, float, float]:
    """A size of a kind, the longest side 0.65 to 1.5 times the typical one."""
    # Small and large ones are commoner than middling ones: a guess is worth less.
    small, large = FACTOR
    factor = small * (large / small) ** (0.5 - 0.5 * math.cos(math.pi * draws.unit()))
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
                np.array([2 * thing.half_x, 2 * thing.half_y, thing.high - thing.low]),
                thing.yaw + turn * math.pi / 2,
                np.array(colour),
            )
        )
    outline = np.array(plan.outline) @ np.array([[c, s], [-s, c]], np.float64)
    return Scene(
        name=name,
        dataset="world",
        boxes=tuple(boxes),
        area=polygon_area(outline),
        outline=outline,
        height=plan.height,
        doors=tuple(plan.doors),
        colours=_surfaces(draws),
        complete=True,
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
