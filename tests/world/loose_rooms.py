"""Rooms thrown together for tests of questions: nothing is placed with care."""

import re
from functools import lru_cache

import numpy as np

from vica_jax.world.asking import ask_all
from vica_jax.world.catalogue import CATALOGUE
from vica_jax.world.question import Question
from vica_jax.world.scene import Box, Scene, polygon_area, upright

NAMES = tuple(sorted(CATALOGUE))
ROOMS = 60


def loose_room(number: int) -> Scene:
    """Boxes anywhere in a rectangle or an L, some over each other, some tilted.

    Every category is seen at some second of a film, now and then two at once.
    """
    rng = np.random.default_rng([77, number])
    width, depth = rng.uniform(3, 8, 2)
    outline = np.array([[0, 0], [width, 0], [width, depth], [0, depth]])
    if number % 2:
        x, y = rng.uniform(0.3, 0.7, 2) * [width, depth]
        outline = np.array(
            [[0, 0], [width, 0], [width, y], [x, y], [x, depth], [0, depth]]
        )
    boxes: list[Box] = []
    for name in rng.permutation(NAMES)[: rng.integers(4, 12)]:
        for _ in range(int(rng.choice([1, 1, 1, 2, 3, 5]))):
            place = rng.uniform([0, 0, 0.1], [width, depth, 2.0])
            box = upright(str(name), place, rng.uniform(0.1, 1.2, 3), rng.uniform(0, 6))
            if rng.random() < 0.2:
                turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
                box = Box(category=box.category, centre=place, size=box.size, axes=turn)
            boxes.append(box)
    names = sorted({box.category for box in boxes})
    seconds = np.round(rng.uniform(0, 15, len(names)), 1)
    return Scene(
        name=f"loose_{number:03}",
        dataset="test",
        boxes=tuple(boxes),
        area=polygon_area(outline),
        outline=outline,
        first_seen=dict(zip(names, seconds.tolist(), strict=True)),
    )


def line_of(*places: float) -> Scene:
    """Five cubes of 20 cm in a row, at metres along it."""
    boxes = [
        upright(name, np.array([x, 0, 0.1]), np.full(3, 0.2), 0.0)
        for name, x in zip(
            ["chair", "desk", "lamp", "plant", "tv"], places, strict=True
        )
    ]
    return Scene(name="row", dataset="test", boxes=tuple(boxes), area=20.0)


def ask(scene: Scene, seed: int = 0, **flags) -> list[Question]:
    return ask_all(scene, np.random.default_rng(seed), **flags)


@lru_cache
def asked(rooms: int = ROOMS, per_task: int = 6) -> tuple[tuple[Scene, Question], ...]:
    """The questions on the first rooms, each with its room."""
    pairs: list[tuple[Scene, Question]] = []
    for number in range(rooms):
        scene = loose_room(number)
        rng = np.random.default_rng([78, number])
        pairs += [(scene, q) for q in ask_all(scene, rng, per_task=per_task)]
    return tuple(pairs)


def asked_of(task: str) -> list[tuple[Scene, Question]]:
    """Those of one task, or of several whose names begin so."""
    return [pair for pair in asked() if pair[1].task.startswith(task)]


def right_option(question: Question) -> str:
    """What stands after the letter of the right option, found in the row's own way."""
    row = question.vsi_row(0)
    found = [o for o in row["options"] if o.startswith(f"{row['ground_truth']}. ")]
    assert len(found) == 1, row
    return found[0][3:]


def read(pattern: str, question: Question) -> tuple[str, ...]:
    """The groups of a pattern in VSI-Bench's wording of a question."""
    found = re.search(pattern, question.vsi_row(0)["question"])
    assert found, question.question
    return found.groups()


def only(scene: Scene, category: str) -> Box:
    """The one box of a category."""
    (box,) = scene.of(category)
    return box


def project_apart(a: list[Box], b: list[Box], steps: int = 400) -> np.ndarray:
    """Distances of pairs of boxes, ``float64[n]``, by going to and fro between them.

    Each step is to the nearest point of the other box. Slow and plain; it comes down
    to the distance from above.
    """

    def nearest(boxes: list[Box], points: np.ndarray) -> np.ndarray:
        centres, axes, halves = (
            np.array([getattr(box, name) for box in boxes])
            for name in ("centre", "axes", "size")
        )
        own = np.einsum("nij,nj->ni", axes, points - centres)
        held = np.clip(own, -halves / 2, halves / 2)
        return centres + np.einsum("nij,ni->nj", axes, held)

    points = np.array([box.centre for box in a])
    others = points
    for _ in range(steps):
        others = nearest(b, points)
        points = nearest(a, others)
    return np.sqrt(((points - others) ** 2).sum(1))
