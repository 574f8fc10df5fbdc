"""Questions on where a thing is for one who stands by another and faces a third.

Centres on the floor count. As in VLM-3R's data process, the three things are single
ones, 0.3 m to 5 m from each other, the angle keeps 10 degrees from every border, and at
most two of the target's eight corners are in another sector than its centre.
"""

import math
from collections.abc import Callable

import numpy as np

from vica_jax.world.askable import Askable, draw, wrap
from vica_jax.world.geometry import bearing, quadrant, side
from vica_jax.world.question import Question, letter_options, make_question

LEAST_GAP = 0.3  # metres between any two of the three things
MOST_GAP = 5.0
LEAST_APART = 0.6  # metres on the floor from where one stands to the other two centres
MARGIN = 10.0  # degrees from every border
MOST_CORNERS = 2  # that may be in another sector

# Borders of the sectors in degrees, 0 always one of them. The easy question is about
# left and right of what one faces, so the target must not be behind.
BORDERS = {
    "easy": (0.0, 135.0, -135.0),
    "medium": (0.0, 135.0, -135.0),
    "hard": (0.0, 90.0, -90.0, 180.0),
}
ANSWERS = {
    "easy": ("left", "right"),
    "medium": ("left", "right", "back"),
    "hard": ("front-left", "front-right", "back-left", "back-right"),
}
_NAME: dict[str, Callable[[float], str]] = {
    "easy": side,
    "medium": side,
    "hard": quadrant,
}


def sector(level: str, angles: np.ndarray) -> np.ndarray:
    """Numbers of the sectors in which angles (degrees) are: same shape, int64."""
    borders = np.sort(np.array(BORDERS[level]) % 360)
    return np.searchsorted(borders, angles % 360, "right") % len(borders)


def clear(level: str, angles: np.ndarray) -> np.ndarray:
    """Whether angles (degrees) keep the margin from every border: same shape, bool."""
    away = angles[..., None] - np.array(BORDERS[level])
    return np.all(np.abs((away + 180) % 360 - 180) >= MARGIN, axis=-1)


def ask_directions(
    askable: Askable, rng: np.random.Generator, most: int, level: str
) -> list[Question]:
    """``level`` is ``easy``, ``medium`` or ``hard``. ``truth``: ``degrees`` (left is
    positive) and ``direction``."""
    names = askable.single
    if len(names) < 3 or most < 1:
        return []
    gaps = askable.single_gaps
    near = (gaps >= LEAST_GAP) & (gaps <= MOST_GAP)
    reach = near & (askable.apart >= LEAST_APART)
    # [stand, face, target]
    allowed = reach[:, :, None] & reach[:, None, :] & near[None, :, :]
    ways = askable.headings
    angles = np.degrees(wrap(ways[:, None, :] - ways[:, :, None]))
    groups: dict[str, list[tuple[int, ...]]] = {}
    for places in np.argwhere(allowed & clear(level, angles)).tolist():
        answer = _NAME[level](math.radians(angles[tuple(places)]))
        if answer in ANSWERS[level]:
            groups.setdefault(answer, []).append(tuple(places))

    def accept(places: tuple[int, ...]) -> bool:
        stand, face, target = places
        box = askable.box(names[target])
        away = np.vstack([box.centre, box.corners])[:, :2] - askable.centres[stand, :2]
        seen = np.degrees(np.arctan2(away[:, 1], away[:, 0]) - ways[stand, face])
        sectors = sector(level, seen)
        return int((sectors != sectors[0]).sum()) <= MOST_CORNERS

    questions = []
    for places in draw(rng, groups.values(), most, accept):
        stand, face, target = (names[k] for k in places)
        angle = bearing(*(askable.box(c).centre for c in (stand, face, target)))
        right = _NAME[level](angle)
        wrong = [answer for answer in ANSWERS[level] if answer != right]
        options, answer = letter_options(rng, right, wrong)
        questions.append(
            make_question(
                askable.scene,
                rng,
                f"object_rel_direction_{level}",
                [stand, face, target],
                answer=answer,
                options=options,
                slots={"stand": stand, "face": face, "target": target},
                truth={"degrees": math.degrees(angle), "direction": right},
            )
        )
    return questions
