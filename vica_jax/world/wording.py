"""How facts of a room are worded: phrases of each kind, numbers, lists of things."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vica_jax.world.catalogue import plural


@dataclass(frozen=True)
class Fact:
    """``things`` are categories in the order of ``{a} {b} {c}``; ``value`` is text."""

    kind: str
    things: tuple[str, ...] = ()
    value: str = ""


def number(value: float, digits: int = 1) -> str:
    """Decimal text, "-0.0" never among it."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def indefinite(category: str) -> str:
    """``a chair``, ``an oven``."""
    return f"{'an' if category[:1].lower() in 'aeiou' else 'a'} {category}"


def amount(count: int, category: str) -> str:
    """``one bed``, ``4 chairs``.

    Raises:
      SceneError: several, and nobody has listed the plural.
    """
    return f"one {category}" if count == 1 else f"{count} {plural(category)}"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def pick(choices: Sequence, rng: np.random.Generator):
    """One of a few, each as likely."""
    return choices[int(rng.integers(len(choices)))]


# What one does with a thing.
USES = {
    "bathtub": "take a bath",
    "bed": "sleep",
    "bookshelf": "keep books",
    "box": "store small things",
    "cabinet": "put things away",
    "chair": "sit",
    "closet": "keep clothes",
    "computer tower": "work with a computer",
    "couch": "rest",
    "desk": "work",
    "dishwasher": "wash dishes",
    "fireplace": "sit by the fire",
    "heater": "keep the room warm",
    "keyboard": "type",
    "lamp": "have light in the evening",
    "microwave": "warm up food",
    "monitor": "work with a computer",
    "nightstand": "put a book down beside the bed",
    "oven": "bake",
    "plant": "bring some green into the room",
    "printer": "print",
    "radiator": "keep the room warm",
    "refrigerator": "keep food cold",
    "shelf": "keep books",
    "shower": "take a shower",
    "sink": "wash one's hands",
    "sofa": "rest",
    "stool": "sit for a moment",
    "stove": "cook",
    "table": "have meals",
    "toilet": "use the toilet",
    "tv": "watch films",
    "tv monitor": "watch films",
    "wardrobe": "keep clothes",
    "washer": "wash clothes",
    "whiteboard": "write for others to see",
}


PHRASES: dict[str, tuple[str, ...]] = {
    "area": (
        "The room has a floor of {v} square meters.",
        "The floor covers {v} square meters.",
        "The room measures {v} square meters.",
    ),
    "rectangle": (
        "The floor is a rectangle of {v} meters.",
        "The room is rectangular, {v} meters.",
    ),
    "corners": (
        "The floor is no rectangle: it has {v} corners.",
        "The walls meet in {v} corners.",
    ),
    "height": (
        "The ceiling is {v} meters high.",
        "From floor to ceiling it is {v} meters.",
    ),
    "door": (
        "There is one door, {v} meters wide.",
        "The only door is {v} meters wide.",
    ),
    "count": ("There {is} {n}.", "The room has {n}.", "I see {n} in the room."),
    "total": ("There are {v} things in all.", "In all the room holds {v} things."),
    "absent": ("There is no {a}.", "The room has no {a}."),
    "length": (
        "The longest side of the {a} is {v} centimeters.",
        "The {a} measures {v} centimeters along its longest side.",
    ),
    "tall": (
        "The {a} is {v} centimeters tall.",
        "The {a} has a height of {v} centimeters.",
    ),
    "distance": (
        "The {a} is {v} meters from the {b}.",
        "Between the {a} and the {b} there are {v} meters.",
        "From the {a} to the {b} it is {v} meters.",
    ),
    "nearest": (
        "Nothing is closer to the {a} than the {b}.",
        "The thing closest to the {a} is the {b}.",
    ),
    "nearer": (
        "The {a} is closer to the {b} than to the {c}.",
        "Of the {b} and the {c}, the first is closer to the {a}.",
    ),
    "taller": (
        "The {a} is taller than the {b}.",
        "The {b} is less tall than the {a}.",
    ),
    "longer": (
        "The longest side of the {a} is longer than that of the {b}.",
        "Along its longest side the {a} measures more than the {b}.",
    ),
    "side": (
        "If you stand by the {a} and face the {b}, the {c} is {w}.",
        "Standing by the {a} and looking at the {b}, you have the {c} {w}.",
    ),
    "around": ("The {c} is {w}.", "You have the {c} {w}."),
    "against": ("The {a} is against a wall.", "The {a} is right at a wall."),
    "clear": ("The {a} stands clear of the walls.", "No wall is close to the {a}."),
    "hangs": (
        "The {a} hangs {v} meters above the floor.",
        "The lower edge of the {a} is {v} meters above the floor.",
    ),
    "before": (
        "The {a} comes into view before the {b}.",
        "The video shows the {a} first and the {b} later.",
    ),
    "use": (
        "{D} {is} there to {v}.",
        "With {d} one can {v}.",
    ),
    "covered": (
        "Furniture covers about {v} percent of the floor.",
        "About {v} percent of the floor is under furniture.",
    ),
    "fits": (
        "{A} of {v} meters fits, parallel to the walls and out of the way of every "
        "door.",
        "There is a free place of {v} meters, so {A} can stand there.",
    ),
    "no_room": (
        "{A} of {v} meters fits nowhere, placed parallel to the walls and out of the "
        "way of every door.",
        "Parallel to the walls and clear of the doors no place of {v} meters is free, "
        "so {A} does not fit.",
    ),
    "circle": (
        "A circle of {v} meters across is free of furniture.",
        "There is a free round place, {v} meters across.",
    ),
    "turns": (
        "A wheelchair has the 1.5 meters that it needs to turn.",
        "There is room to turn a wheelchair, which takes 1.5 meters.",
    ),
    "no_turn": (
        "A wheelchair does not find the 1.5 meters that it needs to turn.",
        "There is no room to turn a wheelchair, which takes 1.5 meters.",
    ),
    "passes": (
        "There is a door that a wheelchair passes, at least 0.8 meters wide.",
        "A wheelchair comes in: a door is at least 0.8 meters wide.",
    ),
    "narrow": (
        "No door is as wide as 0.8 meters, which is narrow for a wheelchair.",
        "A wheelchair hardly comes in: no door has a width of 0.8 meters.",
    ),
    "reach": (
        "There is a way to the {a} that is at least 0.8 meters wide.",
        "One can roll up to the {a}.",
    ),
    "no_reach": (
        "There is no way to the {a} that is 0.8 meters wide.",
        "Every way to the {a} is narrower than 0.8 meters.",
    ),
}
WHERE = {
    "ahead": "in front of you",
    "left": "to your left",
    "right": "to your right",
    "behind": "behind you",
}


def word(fact: Fact, phrase: str, *, alone: bool = True) -> str:
    """A phrase with the fact's things and value in its places.

    ``alone``: there is one of the first thing's kind.
    """
    names = dict(zip("abc", fact.things, strict=False))
    if fact.things:
        names["A"] = indefinite(fact.things[0])
    if "{n}" in phrase:
        names["n"] = amount(int(fact.value), fact.things[0])
    if "{d}" in phrase or "{D}" in phrase:
        named = fact.things[0] if alone else plural(fact.things[0])
        names |= {"d": f"the {named}", "D": f"The {named}"}
    names["is"] = "is" if alone else "are"
    text = phrase.format(v=fact.value, w=WHERE.get(fact.value, ""), **names)
    return text[0].upper() + text[1:]
