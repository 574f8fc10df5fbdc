"""Captions of single frames: what is in view, where in the picture, how far away.

A caption is made from the frame's map of things (``render``): which pixels show which
box, wall or door. Words have fixed meanings:

* in view: at least ``LEAST_SHARE`` of the picture's pixels; what shows less is not
  spoken of, and its kind is not counted;
* left, middle, right: the third of the picture's width in which the mean of the visible
  pixels lies, at least ``EDGE`` of the width from its border;
* near, far: the closest point of the thing is less than ``NEAR`` or more than ``FAR``
  metres from the camera; distances are those of the closest point;
* largest: ``LARGER`` times the pixels of any other thing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from vica_jax.world.facts import shuffled
from vica_jax.world.scene import Box, Scene
from vica_jax.world.wording import amount, indefinite, listed, number, pick

LEAST_SHARE = 0.003
EDGE = 0.03
NEAR, FAR = 1.5, 3.0
LARGER = 1.3
CLOSER = 0.3  # metres by which one thing is closer than another
MOST = 6  # things in a caption
PLACES = ("on the left", "in the middle", "on the right")
CEILING, FLOOR, WALL, DOOR = -1, -2, -3, -4  # in the map of things

ASK = (
    "Describe this view.",
    "What is in the picture?",
    "Say what you see and where it is.",
    "Give a short caption of this image.",
    "Which things are in view here?",
    "What does this frame of the room show?",
    "Write down what this picture shows.",
    "Name what is visible and how far away it is.",
)


@dataclass(frozen=True)
class View:
    """What a frame shows.

    ``pixels int64[boxes]`` of each box of the scene, ``columns float64[boxes]`` the
    mean column of its visible pixels as a share of the width (NaN where there are
    none), ``size`` all pixels; ``wall`` and ``door`` pixels, ``door_column`` likewise.
    """

    pixels: np.ndarray
    columns: np.ndarray
    size: int
    wall: int
    door: int
    door_column: float


def spread(frames: int, count: int, rng: np.random.Generator) -> list[int]:
    """Numbers of ``count`` frames of a film, one drawn from each part of it."""
    count = min(count, frames)
    borders = np.arange(count + 1) * frames // max(count, 1)
    return [int(rng.integers(a, b)) for a, b in pairwise(borders.tolist())]


def see(ids: np.ndarray, boxes: int) -> View:
    """The view of a map of things ``int[H,W]``: box numbers from 0, and -1 the ceiling,
    -2 the floor, -3 a wall, -4 a door."""
    columns = np.broadcast_to((np.arange(ids.shape[1]) + 0.5) / ids.shape[1], ids.shape)
    kinds = ids.astype(np.int64).ravel() - DOOR
    counts = np.bincount(kinds, minlength=boxes - DOOR)
    sums = np.bincount(kinds, columns.ravel(), minlength=boxes - DOOR)
    with np.errstate(invalid="ignore"):
        means = sums / counts
    return View(
        pixels=counts[-DOOR:],
        columns=means[-DOOR:],
        size=ids.size,
        wall=int(counts[WALL - DOOR]),
        door=int(counts[0]),
        door_column=float(means[0]),
    )


def place(column: float) -> str | None:
    """One of ``PLACES``; None near a border."""
    if min(abs(column - 1 / 3), abs(column - 2 / 3)) < EDGE:
        return None
    return PLACES[min(int(column * 3), 2)]


def camera_distance(box: Box, position: np.ndarray) -> float:
    """Metres from the camera to the closest point of a box."""
    beyond = np.abs((position - box.centre) @ box.axes.T) - box.size / 2
    return float(np.linalg.norm(np.maximum(beyond, 0)))


def caption_frame(
    scene: Scene, view: View, position: np.ndarray, rng: np.random.Generator
) -> tuple[str, str]:
    """A question and the caption of one frame seen from ``position float64[3]``.

    Every sentence is true by the words' meanings above.
    """
    least = LEAST_SHARE * view.size
    shown = [k for k in np.argsort(-view.pixels, kind="stable") if view.pixels[k]]
    large = [int(k) for k in shown if view.pixels[k] >= least]
    sentences = []
    if large:
        form = pick((_list_things, _place_things, _measure_things), rng)
        drawn = large[: int(rng.integers(2, MOST + 1))]
        sentences += form(scene, view, position, drawn, rng)
        sentences += _compare(scene, view, position, large, rng)
    if view.door >= least and (where := place(view.door_column)):
        # Two doors in view may have their mean between them.
        if len(scene.doors) == 1:
            sentences.append(pick(("A door is {w}.", "There is a door {w}."), rng))
            sentences[-1] = sentences[-1].format(w=where)
        else:
            sentences.append("A door is in view.")
    if not len(shown):
        sentences.append(
            pick(("No furniture is in view.", "No thing is to be seen."), rng)
        )
    if view.wall > view.size / 2:
        sentences.append(
            pick(("Walls fill most of the picture.", "Most of it is wall."), rng)
        )
    if not sentences:
        sentences.append("Little is in view but the bare room.")
    return pick(ASK, rng), " ".join(sentences)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _whole_kinds(scene: Scene, view: View) -> set[str]:
    """Categories of which all that shows is in view."""
    little = (view.pixels > 0) & (view.pixels < LEAST_SHARE * view.size)
    doubtful = {scene.boxes[k].category for k in np.flatnonzero(little)}
    return set(scene.categories) - doubtful


def _list_things(
    scene: Scene,
    view: View,
    position: np.ndarray,
    drawn: Sequence[int],
    rng: np.random.Generator,
) -> list[str]:
    """One sentence: what is where; those alike in one place are counted together."""
    groups = [(scene.boxes[k].category, place(view.columns[k])) for k in drawn]
    whole = _whole_kinds(scene, view)
    parts = []
    for category, where in dict.fromkeys(groups):
        alike = [
            k
            for k, box in enumerate(scene.boxes)
            if box.category == category and view.pixels[k]
        ]
        # All of the kind that show in this place, and each of them clearly there.
        sure = category in whole and all(
            place(view.columns[k]) is not None for k in alike
        )
        here = [k for k in alike if place(view.columns[k]) == where]
        count = len(here) if sure and where else 1
        named = amount(count, category) if count > 1 else indefinite(category)
        parts.append(f"{named} {where}" if where else named)
    said = pick(("{}.", "I see {}.", "In view: {}.", "The picture shows {}."), rng)
    return [_sentence(said.format(listed(parts)))]


def _tell_each(
    say: Callable[[str, str | None, float], str],
    scene: Scene,
    view: View,
    position: np.ndarray,
    drawn: Sequence[int],
    rng: np.random.Generator,
) -> list[str]:
    """A sentence a thing, which ``say`` makes of what it is, where and how far away."""
    sentences = []
    for k in drawn:
        named = indefinite(scene.boxes[k].category)
        metres = camera_distance(scene.boxes[k], position)
        sentences.append(_sentence(say(named, place(view.columns[k]), metres)))
    return sentences


def _say_place(named: str, where: str | None, metres: float) -> str:
    """Where a thing is, whether near or far."""
    far = "near" if metres < NEAR else "far away" if metres > FAR else None
    words = [each for each in (where, far) if each]
    return f"{named} is {', '.join(words or ['in view'])}."


def _say_distance(named: str, where: str | None, metres: float) -> str:
    """Where a thing is and how many meters away."""
    named = f"{named} {where}" if where else named
    return f"{named}, {number(metres)} meters away."


_place_things = partial(_tell_each, _say_place)
_measure_things = partial(_tell_each, _say_distance)


def _compare(
    scene: Scene,
    view: View,
    position: np.ndarray,
    large: Sequence[int],
    rng: np.random.Generator,
) -> list[str]:
    """At most one comparison of two things that are alone of their kind in view."""
    shown = [box.category for k, box in enumerate(scene.boxes) if view.pixels[k]]
    alone = [k for k in large if shown.count(scene.boxes[k].category) == 1]
    sentences = []
    if (
        len(large) > 1
        and large[0] in alone
        and view.pixels[large[0]] >= LARGER * view.pixels[large[1]]
    ):
        sentences.append(f"The {scene.boxes[large[0]].category} takes the most space.")
    if len(alone) > 1:
        a, b = shuffled(alone, rng)[:2]
        gaps = [camera_distance(scene.boxes[k], position) for k in (a, b)]
        if gaps[0] > gaps[1]:
            (a, b), gaps = (b, a), gaps[::-1]
        if gaps[1] - gaps[0] >= CLOSER:
            names = scene.boxes[a].category, scene.boxes[b].category
            sentences.append(
                "The {} is closer to the camera than the {}.".format(*names)
            )
    return shuffled(sentences, rng)[: int(rng.integers(2))]
