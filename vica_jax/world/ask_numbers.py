"""Questions whose answer is a number: how many, how long, how large the room.

Filters are those of the field (the VSI-Bench tasks of VLM-3R's data process): what is
counted comes at least twice, what is measured once.
"""

import numpy as np

from vica_jax.world.askable import Askable, draw
from vica_jax.world.catalogue import plural, shared_plurals
from vica_jax.world.geometry import longest_dimension
from vica_jax.world.question import Question, format_number, make_question
from vica_jax.world.scene import SceneError

FEWEST = 2  # things of a kind that are worth counting
LEAST_AREA = 1.0  # square metres; annotations without a size say 0
LEAST_SIZE = 0.01  # metres, since the answer is in whole centimetres


def ask_counting(
    askable: Askable, rng: np.random.Generator, most: int, problems: list[str] | None
) -> list[Question]:
    """How many of a category there are. ``truth``: ``count``.

    A category without a plural, or with that of another, cannot be asked about: a line
    goes to ``problems``.

    Raises:
      SceneError: there is such a category, and ``problems`` is None.
    """
    scene = askable.scene
    plurals: dict[str, str] = {}
    shared: set[str] = set()
    for name, names in shared_plurals({*scene.categories, *scene.counts}).items():
        shared |= set(names)
        line = (
            f"scene {scene.name}: no count of {' or '.join(map(repr, names))}: "
            f"{name!r} means all of them; name them apart"
        )
        if problems is None:
            raise SceneError(line)
        problems.append(line)
    for category in askable.counted:
        if category in shared or scene.count(category) < FEWEST:
            continue
        try:
            plurals[category] = plural(category)
        except SceneError as error:
            line = f"scene {scene.name}: no count of {category!r}: {error}"
            if problems is None:
                raise SceneError(line) from error
            problems.append(line)
    groups: dict[int, list[str]] = {}
    for category in plurals:
        groups.setdefault(scene.count(category), []).append(category)
    return [
        make_question(
            scene,
            rng,
            "object_counting",
            [category],
            answer=format_number(scene.count(category), 0),
            slots={"category": category, "plural": plurals[category]},
            truth={"count": scene.count(category)},
        )
        for category in draw(rng, groups.values(), most)
    ]


def ask_size(askable: Askable, rng: np.random.Generator, most: int) -> list[Question]:
    """The longest dimension of a single thing, in whole centimetres.
    ``truth``: ``metres``."""
    lengths = {c: longest_dimension(askable.box(c)) for c in askable.single}
    large = [c for c in lengths if lengths[c] >= LEAST_SIZE]
    return [
        make_question(
            askable.scene,
            rng,
            "object_size_estimation",
            [category],
            answer=format_number(lengths[category] * 100, 0),
            slots={"category": category},
            truth={"metres": lengths[category]},
        )
        for category in draw(rng, [large], most)
    ]


def ask_room(askable: Askable, rng: np.random.Generator, most: int) -> list[Question]:
    """The floor's area, one question. ``truth``: ``square_metres``."""
    scene = askable.scene
    if not LEAST_AREA <= scene.area < np.inf or most < 1:
        return []
    return [
        make_question(
            scene,
            rng,
            "room_size_estimation",
            [],
            answer=format_number(scene.area, 1),
            slots={},
            truth={"square_metres": float(scene.area)},
        )
    ]
