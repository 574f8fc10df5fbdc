"""Descriptions of a room as ViCA-322K's complex data has them, from boxes alone.

``spatial_description`` tells what is where, of the whole room or from one place in it;
``furniture`` whether one more piece finds a place; ``usage`` what the room serves for;
``important_daily_necessities`` which things matter for a day and where they are;
``wheelchair_user`` whether one gets along on wheels. The kinds are those of ViCA-322K,
which has a language model write them; here every sentence is a ``Fact`` that holds.
Each function gives the turns of one record, or None where a scene tells too little.
"""

from collections.abc import Callable

import numpy as np

from vica_jax.world.claims import PASSAGE, circle_text, holds, say, side_of
from vica_jax.world.facts import (
    between,
    counts,
    of_pair,
    of_thing,
    of_three,
    overview,
    say_counts,
    shuffled,
    stands,
)
from vica_jax.world.room import Room
from vica_jax.world.wording import USES, Fact, indefinite, pick

Turns = list[tuple[str, str]]

MOST_LISTED = 8  # counts in a sentence
TRIES = 6  # pieces of furniture that are tried
WANTED = ("bed", "table", "chair", "refrigerator", "lamp", "wardrobe")  # for a day
# Pieces that one may wish to add, metres.
PIECES = (
    ("bed", "2.0 by 1.4"),
    ("bed", "2.0 by 0.9"),
    ("sofa", "2.2 by 0.9"),
    ("sofa", "1.6 by 0.8"),
    ("table", "2.0 by 1.0"),
    ("table", "1.2 by 0.8"),
    ("desk", "1.4 by 0.7"),
    ("wardrobe", "1.5 by 0.6"),
    ("bookshelf", "1.0 by 0.4"),
    ("armchair", "0.9 by 0.9"),
    ("carpet", "3.0 by 2.0"),
    ("carpet", "4.0 by 3.0"),
    ("table", "3.2 by 1.2"),
    ("piano", "1.5 by 1.4"),
    ("corner sofa", "2.8 by 2.2"),
)

ASK_WHOLE = (
    "Describe this room and where its things are.",
    "What does this room look like, and how are its things arranged?",
    "Give a short description of the space in the video.",
    "Tell me about this room: its size, what is in it and where.",
    "Explain the layout of this room in a few sentences.",
)
ASK_PLACE = (
    "I stand by the {a} and face the {b}. What is around me?",
    "Describe what surrounds someone who stands at the {a} and looks at the {b}.",
    "Imagine standing at the {a}, turned towards the {b}: where are the other things?",
    "From the {a}, facing the {b}, what do I have on each side?",
)
ASK_PIECE = (
    "Is there still room for {A} of {v} meters?",
    "Could one add {A} of {v} meters to this room?",
    "I would like to put {A} of {v} meters in here. Does it fit?",
    "Would {A} that measures {v} meters find a place in this room?",
)
ASK_USE = (
    "What can this room be used for?",
    "What could people do in this room?",
    "Which activities is this space made for?",
    "How would you use this room?",
)
ASK_NEEDS = (
    "Which things in this room matter most in daily life, and where are they?",
    "Name what is important here for everyday life and say where it is.",
    "What does this room offer for daily needs?",
    "Which objects here would one need every day?",
)
ASK_WHEELS = (
    "Is this room suitable for a person in a wheelchair?",
    "Could someone who uses a wheelchair get around in here?",
    "How well does this room suit a wheelchair user?",
    "I use a wheelchair. Can I move about in this room?",
)


def describe_space(room: Room, rng: np.random.Generator) -> Turns | None:
    """``spatial_description``: from a place where there is one, else of the whole."""
    if rng.random() < 0.5 and (turns := describe_surroundings(room, rng)):
        return turns
    return describe_whole(room, rng)


def describe_whole(room: Room, rng: np.random.Generator) -> Turns | None:
    """Size, what there is, and three to five relations."""
    things = counts(room)
    if not things:
        return None
    whole = shuffled(overview(room), rng)
    sentences = [say(room, fact, rng) for fact in whole[: int(rng.integers(1, 4))]]
    sentences.append(say_counts(room, shuffled(things, rng)[:MOST_LISTED], rng))
    relations = draw_relations(room, int(rng.integers(3, 6)), rng)
    sentences += [say(room, fact, rng) for fact in relations]
    return [(pick(ASK_WHOLE, rng), " ".join(sentences))]


def draw_relations(room: Room, most: int, rng: np.random.Generator) -> list[Fact]:
    """Facts of single things, no kind and things twice, one of each draw of names."""
    names = list(room.singles)
    found: list[Fact] = []
    for _ in range(3 * most):
        if len(found) == most:
            break
        drawn = shuffled(names, rng)[:3]
        choices: list[Fact] = []
        if drawn:
            choices += of_thing(room, drawn[0])
        if len(drawn) > 1:
            choices += of_pair(room, drawn[0], drawn[1])
        if len(drawn) > 2:
            choices += of_three(room, *drawn)
        new = [fact for fact in choices if fact not in found]
        if new:
            kinds = sorted({fact.kind for fact in new})
            kind = pick(kinds, rng)
            found.append(pick([fact for fact in new if fact.kind == kind], rng))
    return found


def describe_surroundings(room: Room, rng: np.random.Generator) -> Turns | None:
    """What is on which side of one who stands by a thing and faces another."""
    for a, b in shuffled(list(stands(room)), rng)[:8]:
        stand, face = room.singles[a], room.singles[b]
        around = [
            Fact("around", (a, b, c), side)
            for c, box in room.singles.items()
            if c not in (a, b) and (side := side_of(stand, face, box)) is not None
        ]
        if len(around) < 2:
            continue
        sentences = []
        for fact in shuffled(around, rng)[:5]:
            sentences.append(say(room, fact, rng))
            gap = between(room, fact.things[2], a)
            if rng.random() < 0.5 and holds(room, gap):
                sentences.append(say(room, gap, rng))
        asked = pick(ASK_PLACE, rng).format(a=a, b=b)
        return [(asked, " ".join(sentences))]
    return None


def suggest_furniture(room: Room, rng: np.random.Generator) -> Turns | None:
    """``furniture``: one or two pieces, each fits or does not; filmed rooms alone.

    A yes and a no are as likely where the room allows both.
    """
    if room.space is None:
        return None
    turns: Turns = []
    said = {"fits": "Yes.", "no_room": "No."}
    for kind in shuffled(list(said), rng):
        for name, size in shuffled(PIECES, rng)[:TRIES]:
            if holds(room, fact := Fact(kind, (name,), size)):
                asked = pick(ASK_PIECE, rng).format(A=indefinite(name), v=size)
                turns.append((asked, f"{said[kind]} {say(room, fact, rng)}"))
                break
    if not turns:
        return None
    if rng.random() < 0.5:
        return turns[:1]
    return turns


def describe_use(room: Room, rng: np.random.Generator) -> Turns | None:
    """``usage``: what its things let one do, and how full it is."""
    sentences = [
        say(room, Fact("use", (name,), USES[name]), rng)
        for name in shuffled([name for name in room.named if name in USES], rng)[:4]
    ]
    if not sentences:
        return None
    whole = [fact for fact in overview(room) if fact.kind in ("area", "covered")]
    sentences += [say(room, fact, rng) for fact in whole]
    return [(pick(ASK_USE, rng), " ".join(sentences))]


def describe_needs(room: Room, rng: np.random.Generator) -> Turns | None:
    """``important_daily_necessities``: what it is for, where it is, what is missing."""
    sentences = []
    useful = [name for name in room.singles if name in USES]
    for name in shuffled(useful, rng)[:3]:
        sentences.append(say(room, Fact("use", (name,), USES[name]), rng))
        places = [
            fact
            for other in room.singles
            if other != name
            for fact in of_pair(room, name, other)
            if fact.kind in ("distance", "nearest") and fact.things[0] == name
        ]
        kinds = ("against", "clear", "hangs")
        places += [fact for fact in of_thing(room, name) if fact.kind in kinds]
        if places:
            sentences.append(say(room, pick(places, rng), rng))
    if not sentences:
        return None
    missing = [Fact("absent", (name,)) for name in shuffled(WANTED, rng)]
    missing = [fact for fact in missing if holds(room, fact)][:2]
    sentences += [say(room, fact, rng) for fact in missing]
    return [(pick(ASK_NEEDS, rng), " ".join(sentences))]


def judge_wheelchair(room: Room, rng: np.random.Generator) -> Turns | None:
    """``wheelchair_user``: the door, room to turn, what can be reached; filmed rooms
    alone."""
    if room.space is None:
        return None
    facts = [
        fact
        for kind in ("passes", "narrow", "turns", "no_turn")
        if holds(room, fact := Fact(kind))
    ]
    facts.append(Fact("circle", (), circle_text(room)))
    ways = room.reachable(PASSAGE)
    names = [name for name in room.singles if ways.get(name) is not None]
    reached = [
        Fact("reach" if ways[name] else "no_reach", (name,))
        for name in shuffled(names, rng)[:3]
    ]
    kinds = {fact.kind for fact in facts}
    verdict = "In part."
    if {"passes", "turns"} <= kinds and all(ways.values()):
        verdict = "Yes."
    elif "narrow" in kinds:
        verdict = "Hardly."
    sentences = [say(room, fact, rng) for fact in (*facts, *reached)]
    return [(pick(ASK_WHEELS, rng), " ".join([verdict, *sentences]))]


COMPLEX: dict[str, Callable[[Room, np.random.Generator], Turns | None]] = {
    "spatial_description": describe_space,
    "furniture": suggest_furniture,
    "usage": describe_use,
    "important_daily_necessities": describe_needs,
    "wheelchair_user": judge_wheelchair,
}
