"""What a sentence claims, and whether it is true of a room.

A ``Fact`` is a kind, the things it is about and a value as it is written. ``holds``
decides from the boxes whether it is true, with the number rounded as it stands there;
``say`` words it, and refuses one that does not hold. So no sentence of a templated
record is false of its scene. Where a fact could be disputed (a thing almost behind,
almost as tall) it does not hold: each check has a margin.

Things are named by categories. Those of a relation are alone of their kind, so that
"the table" is one thing. Real scans name only what somebody has annotated: what needs
all that there is, or the walls, is said of drawn rooms alone (``Room.filmed``).
"""

import math
from collections.abc import Callable

import numpy as np

from vica_jax.world.catalogue import shared_plurals
from vica_jax.world.geometry import bearing, footprint, longest_dimension
from vica_jax.world.room import Room
from vica_jax.world.scene import Box, SceneError
from vica_jax.world.wording import PHRASES, USES, Fact, number, pick, word

APART = 0.15  # metres by which the nearer of two things is nearer
TALLER = 1.1  # of two heights or lengths
AWAY = 0.6  # metres between the centres of where one stands and what one looks at
TURN = math.radians(12)  # from the border of ahead, left, right, behind
BORDERS = (math.pi / 4, 3 * math.pi / 4)
AT_WALL, OFF_WALL = 0.15, 0.6  # metres: against a wall, clear of all walls
HANGS = 0.3  # metres above the floor
STANDS = 0.05  # metres above another thing that count as standing on it
SEEN_APART = 0.6  # seconds between first sights
# What wheelchairs need, as building rules have it: DIN 18040-2 asks for 1.5 m to turn,
# the ADA standards for a clear width of 32 inches in doors.
TURNING, PASSAGE = 1.5, 0.8


def _single(room: Room, fact: Fact) -> list[Box]:
    return [room.singles[name] for name in fact.things]


def _nearest(room: Room, fact: Fact) -> bool:
    a, b = _single(room, fact)
    if not room.filmed:
        return False  # something nobody has annotated may be closer
    first, *more = room.neighbours(a)
    return first[1] is b and (not more or more[0][0] - first[0] >= APART)


def _nearer(room: Room, fact: Fact) -> bool:
    a, b, c = _single(room, fact)
    return room.distance(a, c) - room.distance(a, b) >= APART


def tall(box: Box) -> float:
    """Metres from a thing's lowest to its highest point."""
    return float(box.high[2] - box.low[2])


def _taller(room: Room, fact: Fact) -> bool:
    a, b = _single(room, fact)
    return tall(a) >= TALLER * tall(b)


def _longer(room: Room, fact: Fact) -> bool:
    a, b = _single(room, fact)
    return longest_dimension(a) >= TALLER * longest_dimension(b)


def side_of(stand: Box, face: Box, target: Box) -> str | None:
    """Where a thing is for one who stands by ``stand`` and looks at ``face``.

    ``ahead``, ``left``, ``right`` or ``behind``; None near the border of two, or where
    things are too close.
    """
    places = [box.centre[:2] for box in (stand, face, target)]
    if min(np.linalg.norm(place - places[0]) for place in places[1:]) < AWAY:
        return None
    angle = bearing(*places)
    if min(abs(abs(angle) - border) for border in BORDERS) < TURN:
        return None
    if abs(angle) < BORDERS[0]:
        return "ahead"
    if abs(angle) > BORDERS[1]:
        return "behind"
    return "left" if angle > 0 else "right"


def _side(room: Room, fact: Fact) -> bool:
    return side_of(*_single(room, fact)) == fact.value


def _before(room: Room, fact: Fact) -> bool:
    seen = room.scene.first_seen or {}
    a, b = fact.things
    return a in seen and b in seen and seen[b] - seen[a] >= SEEN_APART


def _wall(room: Room, fact: Fact) -> float:
    if room.scene.outline is None:
        return math.nan
    return room.wall_distance(_single(room, fact)[0])


def _absent(room: Room, fact: Fact) -> bool:
    (a,) = fact.things
    scene = room.scene
    if not room.filmed or scene.of(a) or scene.count(a):
        return False
    # A box of "lamps" is one or more lamps.
    return not any(
        a in names
        for names in shared_plurals({a, *scene.categories, *scene.counts}).values()
    )


def stands_on(box: Box, other: Box) -> bool:
    """Whether a thing is just above another, on which it may stand."""
    if not other.low[2] < box.low[2] <= other.high[2] + STANDS:
        return False
    # Seen from above: apart where one lies beyond a side of the other.
    bases = footprint(box), footprint(other)
    for base, corners in (bases, bases[::-1]):
        way = np.roll(base, -1, axis=0) - base
        outwards = np.stack([way[:, 1], -way[:, 0]], 1)
        beyond = ((corners[None] - base[:, None]) * outwards[:, None]).sum(-1)
        if (beyond.min(1) >= 0).any():
            return False
    return True


def _hangs(room: Room, fact: Fact) -> bool:
    (box,) = _single(room, fact)
    low = float(box.low[2])
    if not room.filmed or low < HANGS or fact.value != number(low):
        return False
    return not any(stands_on(box, other) for other in room.scene.boxes)


def covered_text(room: Room) -> str:
    """The covered share of the floor in percent, to the next 5."""
    return str(5 * round(room.covered * 20))


def circle_text(room: Room) -> str:
    """A diameter in metres that a free circle surely has, rounded down."""
    return number(math.floor(10 * room.circle[0]) / 10)


def _sized(fact: Fact) -> tuple[float, float]:
    """ "2.0 by 0.9" in numbers."""
    long, short = map(float, fact.value.split(" by "))
    return long, short


def _fits(room: Room, fact: Fact) -> bool | None:
    return room.fits(_sized(fact))


def _corner_count(room: Room, fact: Fact) -> bool:
    outline = room.scene.outline
    if outline is None or room.rectangle is not None:
        return False
    return fact.value == str(len(room.corners))


Check = Callable[[Room, Fact], bool]
HOLDS: dict[str, Check] = {
    "area": lambda room, fact: fact.value == number(room.scene.area),
    "rectangle": lambda room, fact: (
        room.rectangle is not None
        and fact.value == " by ".join(map(number, room.rectangle))
    ),
    "corners": _corner_count,
    "height": lambda room, fact: (
        room.filmed and fact.value == number(room.scene.height)
    ),
    "door": lambda room, fact: (
        room.filmed
        and len(room.scene.doors) == 1
        and fact.value == number(room.scene.doors[0].width, 2)
    ),
    "count": lambda room, fact: (
        fact.things[0] in room.named
        and fact.value == str(room.scene.count(fact.things[0])) != "0"
    ),
    "use": lambda room, fact: (
        fact.things[0] in room.named and USES[fact.things[0]] == fact.value
    ),
    "total": lambda room, fact: (
        room.filmed
        and not room.shared
        and fact.value == str(len(room.scene.boxes)) != "1"
    ),
    "absent": _absent,
    "length": lambda room, fact: (
        fact.value == number(100 * longest_dimension(_single(room, fact)[0]), 0)
    ),
    "tall": lambda room, fact: (
        fact.value == number(100 * tall(_single(room, fact)[0]), 0)
    ),
    "distance": lambda room, fact: (
        fact.value == number(room.distance(*_single(room, fact))) != "0.0"
    ),
    "nearest": _nearest,
    "nearer": _nearer,
    "taller": _taller,
    "longer": _longer,
    "side": _side,
    "around": _side,
    "against": lambda room, fact: _wall(room, fact) <= AT_WALL,
    "clear": lambda room, fact: _wall(room, fact) >= OFF_WALL,
    "hangs": _hangs,
    "before": _before,
    "covered": lambda room, fact: room.filmed and fact.value == covered_text(room),
    "fits": lambda room, fact: _fits(room, fact) is True,
    "no_room": lambda room, fact: _fits(room, fact) is False,
    "circle": lambda room, fact: (
        room.space is not None and fact.value == circle_text(room)
    ),
    "turns": lambda room, fact: room.space is not None and room.circle[0] >= TURNING,
    "no_turn": lambda room, fact: room.space is not None and room.circle[1] < TURNING,
    "passes": lambda room, fact: (
        room.space is not None
        and any(door.width >= PASSAGE for door in room.scene.doors)
    ),
    "narrow": lambda room, fact: (
        room.space is not None
        and all(door.width < PASSAGE for door in room.scene.doors)
    ),
    "reach": lambda room, fact: room.reachable(PASSAGE).get(fact.things[0]) is True,
    "no_reach": lambda room, fact: room.reachable(PASSAGE).get(fact.things[0]) is False,
}


def holds(room: Room, fact: Fact) -> bool:
    """Whether a fact is true of a room, by its margins.

    Raises:
      KeyError: an unknown kind, or things that are not alone of their kind.
    """
    return bool(HOLDS[fact.kind](room, fact))


def check(room: Room, *facts: Fact) -> None:
    """Raises:
    SceneError: one of the facts does not hold.
    """
    for fact in facts:
        if not holds(room, fact):
            raise SceneError(f"scene {room.scene.name}: not true: {fact}")


def say(room: Room, fact: Fact, rng: np.random.Generator) -> str:
    """A true sentence, one of the fact's phrases.

    Raises:
      SceneError: the fact does not hold.
    """
    check(room, fact)
    alone = not fact.things or room.scene.count(fact.things[0]) == 1
    return word(fact, pick(PHRASES[fact.kind], rng), alone=alone)
