"""Dialogues of several turns on one room: questions of the tasks with spoken answers,
and smaller ones between them.

Answers of the tasks are those of ``Question``, put into a sentence; the others are
facts that hold (``claims``).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from vica_jax.world.claims import holds, say
from vica_jax.world.facts import of_pair, of_thing, of_three, overview, shuffled
from vica_jax.world.phrasings import PHRASINGS
from vica_jax.world.question import Question
from vica_jax.world.room import Room
from vica_jax.world.wording import Fact, amount, indefinite, pick

Turns = list[tuple[str, str]]

FEWEST, MOST = 3, 6  # turns
TASKS_APART = (2, 4)  # questions of the tasks among them, from and to
ABSENT = ("bed", "sofa", "tv", "lamp", "table", "desk", "refrigerator", "wardrobe")

# A task's answer in a sentence: {answer} as VSI-Bench has it, {option} without letter.
ANSWERS: dict[str, tuple[str, ...]] = {
    "object_counting": (
        "There are {answer} {plural}.",
        "I count {answer} {plural}.",
        "The room has {answer} {plural}.",
    ),
    "object_abs_distance": (
        "They are {answer} meters apart.",
        "The closest points of the {first} and the {second} are {answer} meters apart.",
        "It is {answer} meters from the {first} to the {second}.",
    ),
    "object_size_estimation": (
        "The longest side of the {category} measures {answer} centimeters.",
        "Its greatest dimension is {answer} centimeters.",
        "Along its longest side the {category} has {answer} centimeters.",
    ),
    "room_size_estimation": (
        "The floor has {answer} square meters.",
        "It comes to {answer} square meters.",
        "The space measures {answer} square meters.",
    ),
    "object_rel_distance": (
        "The {option} is the closest to the {category}.",
        "That is the {option}.",
        "Of these, the {option} is nearest to the {category}.",
    ),
    "object_rel_direction_easy": (
        "The {target} is to the {option}.",
        "It is to the {option}.",
    ),
    "object_rel_direction_medium": (
        "The {target} is to your {option}.",
        "You find it to your {option}.",
    ),
    "object_rel_direction_hard": (
        "The {target} is to your {option}.",
        "It lies to your {option}.",
    ),
    "route_planning": (
        "The missing turns are: {option}.",
        "In order, the robot has to do this: {option}.",
    ),
    "obj_appearance_order": (
        "They appear in this order: {option}.",
        "The video shows them so: {option}.",
        "In order of their first appearance: {option}.",
    ),
}
UNSPOKEN = frozenset({"route_planning", "triangular_positional_relationship"})


def ask_aloud(question: Question) -> str:
    """The question without its options, in the phrasing that was drawn for it."""
    phrasing = PHRASINGS[question.task][question.phrasing]
    if "option" in phrasing.lower():
        return question.question
    return phrasing.format_map(question.slots)


def answer_aloud(question: Question, rng: np.random.Generator) -> str:
    """The answer of a task of ``ANSWERS`` as a sentence."""
    option = ""
    if question.options is not None:
        option = question.text_answer.partition(". ")[2]
    phrase = pick(ANSWERS[question.task], rng)
    return phrase.format(answer=question.answer, option=option, **question.slots)


def converse(
    room: Room, questions: Sequence[Question], rng: np.random.Generator
) -> Turns | None:
    """A dialogue of 3 to 6 turns, at most one of a task; None where the room gives
    less. ``questions`` are of this room."""
    by_task: dict[str, list[Question]] = {}
    for question in questions:
        if question.task not in UNSPOKEN:
            by_task.setdefault(question.task, []).append(question)
    most = int(rng.integers(TASKS_APART[0], TASKS_APART[1] + 1))
    turns: Turns = []
    for task in shuffled(list(by_task), rng)[:most]:
        question = pick(by_task[task], rng)
        turns.append((ask_aloud(question), answer_aloud(question, rng)))
    wanted = int(rng.integers(FEWEST, MOST + 1))
    met = {asked for asked, _ in turns}
    for small in shuffled(SMALL, rng) * 2:
        if len(turns) >= wanted:
            break
        turn = small(room, rng)
        if turn is not None and turn[0] not in met:
            met.add(turn[0])
            turns.append(turn)
    if len(turns) < FEWEST:
        return None
    return shuffled(turns, rng)


# ------------------------------------------------------------------- smaller questions
def _draw(room: Room, count: int, rng: np.random.Generator) -> list[str]:
    return shuffled(list(room.singles), rng)[:count]


def _first(facts: Sequence[Fact], *kinds: str) -> Fact | None:
    return next((fact for fact in facts if fact.kind in kinds), None)


def ask_height(room: Room, rng: np.random.Generator) -> tuple[str, str] | None:
    """How tall a thing is."""
    for name in _draw(room, 1, rng):
        fact = _first(of_thing(room, name), "tall")
        if fact:
            asked = pick(("How tall is the {a}?", "What height has the {a}?"), rng)
            return asked.format(a=name), say(room, fact, rng)
    return None


def ask_wall(room: Room, rng: np.random.Generator) -> tuple[str, str] | None:
    """Whether a thing is at a wall."""
    for name in _draw(room, 3, rng):
        fact = _first(of_thing(room, name), "against", "clear")
        if fact:
            asked = pick(("Is the {a} at a wall?", "Is the {a} against a wall?"), rng)
            said = "Yes." if fact.kind == "against" else "No."
            return asked.format(a=name), f"{said} {say(room, fact, rng)}"
    return None


def ask_nearest(room: Room, rng: np.random.Generator) -> tuple[str, str] | None:
    """What is closest to a thing."""
    for name in _draw(room, 4, rng):
        for other in _draw(room, len(room.singles), rng):
            fact = Fact("nearest", (name, other))
            if other != name and holds(room, fact):
                asked = pick(
                    ("What is closest to the {a}?", "What is right by the {a}?"), rng
                )
                return asked.format(a=name), say(room, fact, rng)
    return None


COMPARISONS = {
    "taller": "Which is taller, the {a} or the {b}?",
    "longer": "Which has the longer side, the {a} or the {b}?",
}


def ask_comparison(room: Room, rng: np.random.Generator) -> tuple[str, str] | None:
    """Which of two things is taller or longer."""
    names = _draw(room, 4, rng)
    for a, b in pairwise(names):
        fact = _first(shuffled(of_pair(room, a, b), rng), "taller", "longer")
        if fact:
            asked = COMPARISONS[fact.kind].format(a=a, b=b)
            return asked, say(room, fact, rng)
    return None


def ask_nearer(room: Room, rng: np.random.Generator) -> tuple[str, str] | None:
    """Which of two things is closer to a third."""
    names = _draw(room, 3, rng)
    if len(names) < 3:
        return None
    a, b, c = names
    fact = _first(of_three(room, a, b, c), "nearer")
    if fact is None:
        return None
    asked = f"Is the {a} closer to the {b} or to the {c}?"
    return asked, say(room, fact, rng)


def ask_presence(room: Room, rng: np.random.Generator) -> tuple[str, str] | None:
    """Whether something is there; a yes and a no are as likely in a filmed room."""
    missing = [Fact("absent", (name,)) for name in ABSENT]
    missing = [fact for fact in missing if holds(room, fact)]
    asked = ("Is there {A} in the room?", "Do you see {A} here?")
    if missing and rng.random() < 0.5:
        fact = pick(missing, rng)
        text = pick(asked, rng).format(A=indefinite(fact.things[0]))
        return text, f"No. {say(room, fact, rng)}"
    there = [Fact("count", (name,), "1") for name in room.singles]
    if not there:
        return None
    fact = pick(there, rng)
    text = pick(asked, rng).format(A=indefinite(fact.things[0]))
    return text, f"Yes. {say(room, fact, rng)}"


def ask_ceiling(room: Room, rng: np.random.Generator) -> tuple[str, str] | None:
    """How high the ceiling is."""
    fact = _first(overview(room), "height")
    if fact is None:
        return None
    return "How high is the ceiling?", say(room, fact, rng)


def ask_together(room: Room, rng: np.random.Generator) -> tuple[str, str] | None:
    """How many things of two kinds there are together."""
    several = [name for name in room.named if room.scene.count(name) > 1]
    if len(several) < 2:
        return None
    a, b = shuffled(several, rng)[:2]
    counts = [room.scene.count(name) for name in (a, b)]
    parts = [amount(count, name) for count, name in zip(counts, (a, b), strict=True)]
    asked = f"How many are there of the {parts[0].split(' ', 1)[1]} and the "
    asked += f"{parts[1].split(' ', 1)[1]} together?"
    return asked, f"There are {parts[0]} and {parts[1]}, which makes {sum(counts)}."


SMALL: tuple[Callable[[Room, np.random.Generator], tuple[str, str] | None], ...] = (
    ask_height,
    ask_wall,
    ask_nearest,
    ask_comparison,
    ask_nearer,
    ask_presence,
    ask_ceiling,
    ask_together,
)
