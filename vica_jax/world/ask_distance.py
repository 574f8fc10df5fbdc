"""Questions on distances: between two things, to the nearest of four, in a triangle.

Distances are those of closest points, but the triangle joins centres. As in VLM-3R's
data process, things nearer than 0.2 m (0.15 m for the nearest of four) are left out,
and so are near ties.
"""

import math
from itertools import combinations

import numpy as np

from vica_jax.world.askable import Askable, draw
from vica_jax.world.geometry import triangle
from vica_jax.world.question import (
    Question,
    format_number,
    letter_options,
    make_question,
)

LEAST_DISTANCE = 0.2  # metres
LEAST_NEAREST = 0.15
LEAST_LEAD = 0.15  # metres by which the nearest of four leads
LEAST_RATIO = 1.15  # and how many times as far the second must be
LARGE_ROOM = 40.0  # square metres, from where the lead must be twice as long
TRIES = 10  # sets of four that are looked at for each question

LEAST_SIDE = 0.5  # metres, of a triangle
LEAST_ANGLE = 10  # degrees


def ask_abs_distance(
    askable: Askable, rng: np.random.Generator, most: int
) -> list[Question]:
    """Metres between two single things. ``truth``: ``metres``."""
    pairs = [
        pair
        for pair in combinations(askable.single, 2)
        if askable.gap(*pair) >= LEAST_DISTANCE
    ]
    questions = []
    for pair in draw(rng, [pairs], most):
        first, second = (pair[k] for k in rng.permutation(2))
        metres = askable.gap(first, second)
        questions.append(
            make_question(
                askable.scene,
                rng,
                "object_abs_distance",
                [first, second],
                answer=format_number(metres, 1),
                slots={"first": first, "second": second},
                truth={"metres": metres},
            )
        )
    return questions


def lead(metres: list[float], area: float) -> bool:
    """Whether the smallest of some distances is clearly so, and no touch."""
    nearest, second = sorted(metres)[:2]
    least = 2 * LEAST_LEAD if area > LARGE_ROOM else LEAST_LEAD
    return (
        nearest >= LEAST_NEAREST
        and second - nearest >= least
        and second >= LEAST_RATIO * nearest
    )


def ask_rel_distance(
    askable: Askable, rng: np.random.Generator, most: int
) -> list[Question]:
    """Which of four categories is the closest to a single thing.

    ``truth``: ``metres`` (category: distance), ``nearest``. ``objects``: the single
    thing, then the four.
    """
    scene = askable.scene
    groups: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    met = set()
    if len(askable.categories) < 5 or not askable.single:
        return []
    for _ in range(TRIES * most):
        category = askable.single[int(rng.integers(len(askable.single)))]
        others = [c for c in askable.categories if c != category]
        four = tuple(others[k] for k in sorted(rng.permutation(len(others))[:4]))
        if (category, four) in met:
            continue
        met.add((category, four))
        metres = [askable.gap(category, c) for c in four]
        if lead(metres, scene.area):
            nearest = four[int(np.argmin(metres))]
            groups.setdefault(nearest, []).append((category, four))
    questions = []
    for category, four in draw(rng, groups.values(), most):
        metres = {c: askable.gap(category, c) for c in four}
        nearest = min(metres, key=metres.__getitem__)
        options, answer = letter_options(
            rng, nearest, [c for c in four if c != nearest]
        )
        listed = [option[3:] for option in options]
        questions.append(
            make_question(
                scene,
                rng,
                "object_rel_distance",
                [category, *listed],
                answer=answer,
                options=options,
                slots={"category": category, "listed": ", ".join(listed)},
                truth={"metres": metres, "nearest": nearest},
            )
        )
    return questions


def ask_triangle(
    askable: Askable, rng: np.random.Generator, most: int
) -> list[Question]:
    """Sides and angles of the triangle between three single things' centres.

    ``truth``: ``sides`` (metres: ab, bc, ca), ``angles`` (degrees at a, b, c). The
    answer is "Sides: 1.9, 2.3, 3.1. Angles: 47, 98, 35.".
    """
    questions: list[Question] = []
    triples = list(combinations(askable.single, 3))
    for number in rng.permutation(len(triples)):
        if len(questions) >= most:
            break
        a, b, c = (triples[number][k] for k in rng.permutation(3))
        centres = [askable.box(category).centre for category in (a, b, c)]
        if min(math.dist(*pair) for pair in combinations(centres, 2)) < LEAST_SIDE:
            continue
        sides, radians = triangle(*(askable.box(category) for category in (a, b, c)))
        angles = np.degrees(radians)
        if angles.min() < LEAST_ANGLE:
            continue
        lengths = ", ".join(format_number(side, 1) for side in sides)
        degrees = ", ".join(format_number(angle, 0) for angle in angles)
        questions.append(
            make_question(
                askable.scene,
                rng,
                "triangular_positional_relationship",
                [a, b, c],
                answer=f"Sides: {lengths}. Angles: {degrees}.",
                slots={"a": a, "b": b, "c": c},
                truth={"sides": sides.tolist(), "angles": angles.tolist()},
            )
        )
    return questions
