"""Answers with the thoughts before them, as ViCA-Thinking-2.68k has them.

    <|im_start|>think
    The steps, each true of the scene.
    <|im_start|>response
    The answer in a sentence.
    <|im_start|>final
    \\[ \\boxed{\\text{C. chair}} \\]

The marks of the segments and the box are those by which an evaluation finds the answer
(``vica_jax.eval.thinking``); line breaks between them are ours. Steps are measured on
the boxes anew and must lead to the question's own answer.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from vica_jax.world.dialogue import answer_aloud
from vica_jax.world.facts import counts, say_counts, shuffled
from vica_jax.world.geometry import bearing
from vica_jax.world.question import Question
from vica_jax.world.room import Room
from vica_jax.world.scene import Box, SceneError
from vica_jax.world.wording import listed, number, pick

MOST_COUNTED = 8  # things that are gone through one by one
ORDINALS = ("One", "Another", "A third", "A fourth", "A fifth", "A sixth")


class _Wrong(Exception):
    """The steps lead to another answer."""


def think(room: Room, question: Question, rng: np.random.Generator) -> str | None:
    """The assistant's turn for a question of this room.

    None where the scene does not tell how one comes to the answer.

    Raises:
      SceneError: the steps lead to another answer than the question's.
    """
    steps_of = STEPS.get(question.task)
    if steps_of is None or room.shared & set(question.objects):
        return None
    try:
        steps = steps_of(room, question, rng)
    except _Wrong as error:
        raise SceneError(
            f"scene {room.scene.name}: {question.task}: the answer is "
            f"{question.text_answer!r}, thinking gives {error}"
        ) from None
    if steps is None:
        return None
    return "\n".join(
        [
            "<|im_start|>think",
            " ".join(steps),
            "<|im_start|>response",
            answer_aloud(question, rng),
            "<|im_start|>final",
            rf"\[ \boxed{{\text{{{question.text_answer}}}}} \]",
        ]
    )


def think_of_room(
    room: Room,
    questions: Sequence[Question],
    rng: np.random.Generator,
    *,
    most: int = 1,
) -> list[tuple[Question, str]]:
    """Up to ``most`` questions of different tasks, each with its assistant's turn."""
    by_task: dict[str, list[Question]] = {}
    for question in questions:
        if question.task in STEPS:
            by_task.setdefault(question.task, []).append(question)
    found: list[tuple[Question, str]] = []
    for task in shuffled(list(by_task), rng):
        if len(found) == most:
            break
        question = pick(by_task[task], rng)
        if (text := think(room, question, rng)) is not None:
            found.append((question, text))
    return found


def _expect(question: Question, answer: str) -> None:
    if question.text_answer.partition(". ")[2] != answer and question.options:
        raise _Wrong(repr(answer))
    if not question.options and question.answer != answer:
        raise _Wrong(repr(answer))


# ----------------------------------------------------------------------------- numbers
def _count(
    room: Room, question: Question, rng: np.random.Generator
) -> list[str] | None:
    category = question.objects[0]
    boxes = room.scene.of(category)
    _expect(question, str(room.scene.count(category)))
    if len(boxes) != room.scene.count(category):
        return None  # annotations count more than they show
    steps = [
        pick(
            (
                "I go through the video and look for every {c}.",
                "I have to find each {c} once.",
                "Let me look for each {c} in turn.",
            ),
            rng,
        ).format(c=category)
    ]
    marks = {name: box for name, box in room.singles.items() if name != category}
    if marks and len(boxes) <= min(MOST_COUNTED, len(ORDINALS)):
        for word, box in zip(ORDINALS, boxes, strict=False):
            gaps = {name: room.distance(box, mark) for name, mark in marks.items()}
            nearest = min(gaps, key=lambda name: gaps[name])
            noun = f" {category}" if word == "One" else ""
            gap = number(gaps[nearest])
            place = f"{gap} meters from" if gap != "0.0" else "right by"
            steps.append(f"{word}{noun} is {place} the {nearest}.")
    else:
        steps.append("They are " + ", ".join(map(str, range(1, len(boxes) + 1))) + ".")
    steps.append(f"That makes {len(boxes)}.")
    return steps


def _centres_apart(a: Box, b: Box) -> str:
    return number(float(np.linalg.norm(a.centre - b.centre)))


def _abs_distance(
    room: Room, question: Question, rng: np.random.Generator
) -> list[str]:
    a, b = question.objects
    boxes = room.singles[a], room.singles[b]
    gap = number(room.distance(*boxes))
    _expect(question, gap)
    return [
        pick(
            (
                f"I picture the {a} and the {b} in the room.",
                f"I need the closest points of the {a} and the {b}.",
                f"First I find the {a}, then the {b}.",
            ),
            rng,
        ),
        f"From the center of the {a} to the center of the {b} it is "
        f"{_centres_apart(*boxes)} meters.",
        f"Their closest points are nearer to each other: {gap} meters apart.",
    ]


def _size(room: Room, question: Question, rng: np.random.Generator) -> list[str]:
    (a,) = question.objects
    sides = sorted((number(100 * side, 0) for side in room.singles[a].size), key=float)
    _expect(question, sides[-1])
    return [
        pick(
            (
                f"I look at the {a} from all sides.",
                f"I measure the {a} along its three sides.",
                f"The {a} has three dimensions to compare.",
            ),
            rng,
        ),
        f"Its sides measure {sides[0]}, {sides[1]} and {sides[2]} centimeters.",
        f"The longest of them is {sides[2]} centimeters.",
    ]


def _room(room: Room, question: Question, rng: np.random.Generator) -> list[str]:
    scene = room.scene
    area = number(scene.area)
    _expect(question, area)
    if room.rectangle is not None:
        long, short = (number(side, 2) for side in room.rectangle)
        steps = [
            "The floor is a rectangle.",
            f"Its sides are {long} and {short} meters long.",
        ]
    elif room.space is not None and scene.outline is not None:
        sides = scene.outline.max(0) - scene.outline.min(0)
        long, short = (number(side, 2) for side in sorted(sides, reverse=True))
        whole = float(sides.prod())
        steps = [
            f"The floor has {len(room.corners)} corners.",
            f"It lies within a rectangle of {long} by {short} meters, which has "
            f"{number(whole)} square meters.",
            f"Of that, {number(whole - scene.area)} square meters are not part of the "
            "room.",
        ]
    else:
        things = shuffled(counts(room), rng)[:6]
        steps = ["I look at how much floor there is around the things."]
        if things:
            steps.append(say_counts(room, things, rng))
    return [*steps, f"So the floor has {area} square meters."]


# ----------------------------------------------------------------------------- choices
def _rel_distance(
    room: Room, question: Question, rng: np.random.Generator
) -> list[str]:
    category, *others = question.objects
    box = room.singles[category]
    gaps = {
        name: min(room.distance(box, other) for other in room.scene.of(name))
        for name in others
    }
    nearest = min(gaps, key=lambda name: gaps[name])
    _expect(question, nearest)
    said = [f"{number(gaps[name])} meters to the {name}" for name in others]
    return [
        pick(
            (
                f"I compare how far each of them is from the {category}.",
                f"I take the distances from the {category} one by one.",
                f"Starting at the {category}, I measure to the closest point of each.",
            ),
            rng,
        ),
        f"From the {category} it is {listed(said)}.",
        f"The smallest of these distances is that to the {nearest}, "
        f"{number(gaps[nearest])} meters.",
    ]


def turned(degrees: float) -> str:
    """ "63 degrees to the left"."""
    side = "left" if degrees > 0 else "right"
    return f"{abs(round(degrees))} degrees to the {side}"


def _direction(room: Room, question: Question, rng: np.random.Generator) -> list[str]:
    a, b, c = question.objects
    places = [room.singles[name].centre for name in (a, b, c)]
    degrees = math.degrees(bearing(*places))
    side = "left" if degrees > 0 else "right"
    steps = [
        pick(
            (
                f"I put myself at the {a} and look at the {b}.",
                f"My place is at the {a}, and the {b} is straight ahead.",
                f"At the {a} I turn until I face the {b}.",
            ),
            rng,
        ),
        f"From there I have to turn {turned(degrees)} to face the {c}.",
    ]
    if question.task.endswith("hard"):
        depth = "front" if abs(degrees) < 90 else "back"
        limit = "less" if depth == "front" else "more"
        answer = f"{depth}-{side}"
        steps.append(
            f"This is {limit} than 90 degrees, so it is in the {depth}, on the {side} "
            "side."
        )
    elif question.task.endswith("medium") and abs(degrees) > 135:
        answer = "back"
        steps.append("This is more than 135 degrees, so it is at my back.")
    else:
        answer = side
        steps.append(f"This is less than 135 degrees, so it is on the {side}.")
    _expect(question, answer)
    return steps


def _route(room: Room, question: Question, rng: np.random.Generator) -> list[str]:
    start, face = question.objects[:2]
    stops = list(question.truth["stops"])
    centre = {name: room.singles[name].centre for name in (start, face, *stops)}
    steps, turns = [f"I begin at the {start} and face the {face}."], []

    def turn(degrees: float, text: str) -> None:
        side = "Turn Left" if degrees > 0 else "Turn Right"
        turns.append("Turn Back" if abs(degrees) > 135 else side)
        steps.append(f"{text} I turn {turned(degrees)}: {turns[-1]}.")

    path = [start, *stops]
    if question.truth["first_turn"]:
        angle = bearing(centre[start], centre[face], centre[stops[0]])
        turn(math.degrees(angle), f"To walk to the {stops[0]}")
    steps.append(f"I go forward to the {stops[0]}.")
    for a, b, c in zip(path, path[1:], path[2:], strict=False):
        ahead = centre[b] + (centre[b] - centre[a])
        angle = bearing(centre[b], ahead, centre[c])
        turn(math.degrees(angle), f"At the {b}, to get to the {c},")
        steps.append(f"I go forward to the {c}.")
    _expect(question, ", ".join(turns))
    return steps


def _order(room: Room, question: Question, rng: np.random.Generator) -> list[str]:
    seen = room.scene.first_seen or {}
    order = sorted(question.objects, key=lambda name: seen[name])
    _expect(question, ", ".join(order))
    said = [f"the {name} at {number(seen[name])} seconds" for name in question.objects]
    return [
        pick(
            (
                "I note when each of them comes into view.",
                "I watch for the first sight of each.",
                "For each thing I look for the moment when it first shows.",
            ),
            rng,
        ),
        f"I first see {listed(said)}.",
        f"Sorted by time: {', '.join(order)}.",
    ]


STEPS: dict[str, Callable[[Room, Question, np.random.Generator], list[str] | None]] = {
    "object_counting": _count,
    "object_abs_distance": _abs_distance,
    "object_size_estimation": _size,
    "room_size_estimation": _room,
    "object_rel_distance": _rel_distance,
    "object_rel_direction_easy": _direction,
    "object_rel_direction_medium": _direction,
    "object_rel_direction_hard": _direction,
    "route_planning": _route,
    "obj_appearance_order": _order,
}
