"""What there is to say of a room: every function gives facts that hold."""

from collections.abc import Iterator, Sequence

import numpy as np

from vica_jax.world.claims import AWAY, check, covered_text, holds, side_of, tall
from vica_jax.world.geometry import longest_dimension
from vica_jax.world.room import Room
from vica_jax.world.scene import SceneError
from vica_jax.world.wording import Fact, amount, listed, number, pick

LISTS = (
    "There {is} {list}.",
    "The room holds {list}.",
    "In the room there {is} {list}.",
)


def overview(room: Room) -> list[Fact]:
    """Facts of the room as a whole, each kind at most once."""
    scene = room.scene
    found = [Fact("area", (), number(scene.area))]
    if room.rectangle is not None:
        found.append(Fact("rectangle", (), " by ".join(map(number, room.rectangle))))
    elif scene.outline is not None:
        found.append(Fact("corners", (), str(len(room.corners))))
    found.append(Fact("height", (), number(scene.height)))
    if scene.doors:
        found.append(Fact("door", (), number(scene.doors[0].width, 2)))
    found.append(Fact("total", (), str(len(scene.boxes))))
    if room.filmed:
        found.append(Fact("covered", (), covered_text(room)))
    return [fact for fact in found if holds(room, fact)]


def counts(room: Room) -> list[Fact]:
    """How many there are of each category, in alphabetical order.

    What occurs several times and has no known plural is left out.
    """
    found = []
    for category in room.named:
        count = room.scene.count(category)
        try:
            amount(count, category)
        except SceneError:
            continue
        found.append(Fact("count", (category,), str(count)))
    return [fact for fact in found if holds(room, fact)]


def say_counts(room: Room, facts: Sequence[Fact], rng: np.random.Generator) -> str:
    """One sentence of several counts.

    Raises:
      SceneError: one of them does not hold.
    """
    check(room, *facts)
    amounts = [amount(int(fact.value), fact.things[0]) for fact in facts]
    first = int(facts[0].value)
    return pick(LISTS, rng).format(
        **{"is": "is" if first == 1 else "are", "list": listed(amounts)}
    )


def of_thing(room: Room, a: str) -> list[Fact]:
    """Facts of one thing, by itself or beside the walls."""
    box = room.singles[a]
    found = [
        Fact("length", (a,), number(100 * longest_dimension(box), 0)),
        Fact("tall", (a,), number(100 * tall(box), 0)),
        Fact("against", (a,)),
        Fact("clear", (a,)),
        Fact("hangs", (a,), number(box.low[2])),
    ]
    return [fact for fact in found if holds(room, fact)]


def of_pair(room: Room, a: str, b: str) -> list[Fact]:
    """Facts of two things."""
    found = [between(room, a, b)]
    kinds = ("nearest", "taller", "longer", "before")
    found += [Fact(kind, pair) for kind in kinds for pair in ((a, b), (b, a))]
    return [fact for fact in found if holds(room, fact)]


def between(room: Room, a: str, b: str) -> Fact:
    """The distance of two things; does not hold where they touch."""
    gap = room.distance(room.singles[a], room.singles[b])
    return Fact("distance", (a, b), number(gap))


def of_three(room: Room, a: str, b: str, c: str) -> list[Fact]:
    """Facts of three things: which of two is nearer, where one lies."""
    stand, face, target = (room.singles[name] for name in (a, b, c))
    found = [Fact("nearer", (a, b, c)), Fact("nearer", (a, c, b))]
    if (side := side_of(stand, face, target)) is not None:
        found.append(Fact("side", (a, b, c), side))
    return [fact for fact in found if holds(room, fact)]


def stands(room: Room) -> Iterator[tuple[str, str]]:
    """Pairs of things far enough apart to stand by one and face the other."""
    for a, box in room.singles.items():
        for b, other in room.singles.items():
            if a != b and np.linalg.norm((box.centre - other.centre)[:2]) >= AWAY:
                yield a, b


def shuffled(items: Sequence, rng: np.random.Generator) -> list:
    """The items in any order."""
    return [items[k] for k in rng.permutation(len(items))]
