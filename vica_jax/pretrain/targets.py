"""What the auxiliary losses ask for: what is where, known from the rooms themselves.

Axes: F frames, g cells along a side of the pooled token grid, C categories.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int16

from vica_jax.world.question import Question
from vica_jax.world.scene import Scene
from vica_jax.world.walk import Walk

SEEN_SHARE = 0.004  # of a cell's pixels from which a thing counts as seen in it
FAR = 4.0  # metres that one unit of a target stands for
ANSWER = 24  # tokens of an answer at most
MARKS = 12  # newlines and ends of turns in a question at most; the rest is left out
CAPTION = "caption."  # begins the names of a caption's arrays
LISTED = 16  # slots of a room as a list: its pieces, and itself
# Numbers of each target, below.
CELL, PLACE, MENTION, POSE, PAIR, FACT = 4, 3, 7, 6, 2, 3
THING, ROOM = 9, 4  # numbers of one, in a list


class CellTargets(NamedTuple):
    """Of every cell and category the instance with most pixels, if any is seen.

    ``cells [F,g,g,C,4]``: seen (0 or 1), its centre to the east and north of the camera
    (+x and +y of the room, in units of FAR metres), its longest dimension (metres).
    ``places [F,g,g,C,3]``: seen, and its centre in the room (units of FAR metres).
    """

    cells: np.ndarray
    places: np.ndarray


def cell_targets(
    scene: Scene,
    walk: Walk,
    ids: Int16[np.ndarray, "F H W"],
    side: int,
    categories: tuple[str, ...],
) -> CellTargets:
    """Targets of the frames whose ids and poses are given."""
    F, H, W = ids.shape
    C, count = len(categories), len(scene.boxes)
    rows, columns = (np.arange(n) * side // n for n in (H, W))
    cell = rows[:, None] * side + columns
    frame = np.arange(F)[:, None, None] * side * side
    slot = (frame + cell) * (count + 1) + np.maximum(ids, -1) + 1
    pixels = np.bincount(slot.ravel(), minlength=F * side * side * (count + 1))
    pixels = pixels.reshape(F, side * side, count + 1)[:, :, 1:]
    cells = np.zeros((F, side * side, C, CELL), np.float32)
    places = np.zeros((F, side * side, C, PLACE), np.float32)
    if not count:
        return CellTargets(*(_grid(x, side) for x in (cells, places)))
    centres = np.stack([box.centre[:2] for box in scene.boxes])
    longest = np.array([box.size.max() for box in scene.boxes])
    away = centres - walk.positions[:, None, :2]
    least = SEEN_SHARE * H * W / side**2
    every = np.arange(F)[:, None]
    for number, category in enumerate(categories):
        own = [i for i, box in enumerate(scene.boxes) if box.category == category]
        if not own:
            continue
        most = pixels[:, :, own].argmax(-1)
        seen = pixels[:, :, own].max(-1) >= least
        which = np.array(own)[most]
        cells[:, :, number, 0] = places[:, :, number, 0] = seen
        cells[:, :, number, 1:3] = away[every, which] / FAR
        cells[:, :, number, 3] = longest[which]
        places[:, :, number, 1:] = centres[which] / FAR
    return CellTargets(*(_grid(x, side) for x in (cells, places)))


def _grid(x: np.ndarray, side: int) -> np.ndarray:
    return x.reshape(len(x), side, side, *x.shape[2:])


def pose_targets(scene: Scene, walk: Walk) -> Float32[np.ndarray, "F 6"]:
    """Where the camera is and looks, and half the room's sides, per frame."""
    reach = np.zeros(2)
    if scene.outline is not None:
        reach = np.ptp(scene.outline, axis=0) / 2
    columns = [
        walk.positions[:, 0] / FAR,
        walk.positions[:, 1] / FAR,
        np.cos(walk.yaws),
        np.sin(walk.yaws),
        np.full(len(walk.yaws), reach[0] / FAR),
        np.full(len(walk.yaws), reach[1] / FAR),
    ]
    return np.stack(columns, -1).astype(np.float32)


def mention_targets(
    scene: Scene, first_seen: dict[str, float], categories: tuple[str, ...]
) -> Float32[np.ndarray, "C 7"]:
    """What a category's name stands for in a room, float32 ``[C,7]``.

    there at all; how many; alone (0 or 1); then of a thing that is alone its centre in
    the room (x, y in units of FAR metres) and longest dimension (metres); and the share
    of the film before it is first seen (1: never).
    """
    targets = np.zeros((len(categories), MENTION), np.float32)
    targets[:, 6] = 1.0
    for number, category in enumerate(categories):
        boxes = scene.of(category)
        if not boxes:
            continue
        targets[number, :2] = 1.0, len(boxes)
        if len(boxes) == 1:
            x, y, _ = boxes[0].centre / FAR
            targets[number, 2:6] = 1.0, x, y, boxes[0].size.max()
        targets[number, 6] = first_seen.get(category, 1.0)
    assert math.isfinite(float(targets.sum()))
    return targets


def list_objects(
    scene: Scene,
    first_seen: dict[str, float],
    categories: tuple[str, ...],
    rng: np.random.Generator,
) -> Float32[np.ndarray, "LISTED n"]:
    """A room as a list in place of a film: things in any order, and itself.

    Of a thing: its category (one of C), centre in the room (x, y, z in units of FAR
    metres), size (metres), cosine and sine of twice its yaw (a box turned half round is
    the same box), and the share of the film before its category is first seen. Of the
    room: half its sides (units of FAR metres) and its area (units of FAR^2). What is no
    thing and not the room is 0.
    """
    C = len(categories)
    rows = np.zeros((LISTED, C + THING + ROOM), np.float32)
    for row, k in zip(rows, rng.permutation(len(scene.boxes)), strict=False):
        box = scene.boxes[int(k)]
        turn = 2 * math.atan2(box.axes[0, 1], box.axes[0, 0])
        row[categories.index(box.category)] = 1.0
        row[C : C + THING] = [
            *box.centre / FAR,
            *box.size,
            math.cos(turn),
            math.sin(turn),
            first_seen.get(box.category, 1.0),
        ]
    if scene.outline is not None:
        reach = np.ptp(scene.outline, axis=0) / 2 / FAR
        rows[-1, C + THING :] = 1.0, *reach, scene.area / FAR**2
    return rows


def pair_targets(
    scene: Scene, named: Sequence[int], categories: tuple[str, ...], anchor: int = -1
) -> Float32[np.ndarray, "T 2"]:
    """From one thing that is named to the next, of each token but the first named.

    ``named[t]`` is the number of the category that token t names, or -1. East and
    north in units of FAR metres, from the thing named before it, or always from the
    category ``anchor`` if it is given; NaN where one of the two is not alone.
    """
    targets = np.full((len(named), PAIR), np.nan, np.float32)
    before = anchor
    for at, number in enumerate(named):
        if number < 0:
            continue
        if before >= 0:
            ends = [scene.of(categories[k]) for k in (before, number)]
            if all(len(boxes) == 1 for boxes in ends):
                gap = ends[1][0].centre - ends[0][0].centre
                targets[at] = gap[:PAIR] / FAR
        if anchor < 0:
            before = number
    return targets


def answer_facts(question: Question) -> list[list[float | None]]:
    """What an answer follows from, ``FACT`` numbers each: the logarithm of a number, or
    an angle's cosine and sine, of a route those of every turn; empty where there is no
    such thing."""
    truth = question.truth
    if question.options is None:
        for name in ("metres", "square_metres", "count"):
            if name in truth:
                return [[math.log(truth[name]), None, None]]
    angles = np.radians(np.atleast_1d(truth.get("degrees", [])))
    return [[None, math.cos(angle), math.sin(angle)] for angle in angles]


def option_facts(question: Question) -> dict[str, float]:
    """The logarithm of each candidate's distance, of a relative distance."""
    metres = question.truth.get("metres")
    if not isinstance(metres, dict):
        return {}
    return {name: math.log(max(value, 0.05)) for name, value in metres.items()}
