"""What may be asked of a scene: what the film shows, distances, angles.

Made once a scene, so that all tasks share the distances of all pairs.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np

from vica_jax.world.geometry import distances
from vica_jax.world.scene import Box, Scene

T = TypeVar("T")


class Askable:
    """A scene and what of it a question may name.

    ``hidden`` are numbers of boxes that the camera never sees. A category with a hidden
    box is not asked about at all, nor is one that is missing in ``scene.first_seen``
    where that is known.
    """

    def __init__(self, scene: Scene, hidden: Iterable[int] = ()):
        self.scene = scene
        unseen = {scene.boxes[number].category for number in hidden}
        self._out = {
            category
            for category in {*scene.categories, *scene.counts}
            if category in unseen
            or (scene.first_seen is not None and category not in scene.first_seen)
        }

    @cached_property
    def counted(self) -> tuple[str, ...]:
        """Categories that may be counted, alphabetical; some may have no box."""
        every = {*self.scene.categories, *self.scene.counts}
        return tuple(sorted(every - self._out))

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Categories whose boxes are all there, alphabetical.

        Annotations may say that there are more of a kind than there are boxes; then
        nobody knows where the closest is.
        """
        scene = self.scene
        boxes: dict[str, int] = {}
        for box in scene.boxes:
            boxes[box.category] = boxes.get(box.category, 0) + 1
        return tuple(
            category
            for category in scene.categories
            if category not in self._out and scene.count(category) == boxes[category]
        )

    @cached_property
    def single(self) -> tuple[str, ...]:
        """Those of ``categories`` with one box, alphabetical: "the sofa" is clear."""
        return tuple(c for c in self.categories if self.scene.count(c) == 1)

    @cached_property
    def _boxes(self) -> dict[str, Box]:
        return {box.category: box for box in self.scene.boxes}

    def box(self, category: str) -> Box:
        """The box of a single category."""
        return self._boxes[category]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {category: number for number, category in enumerate(self.categories)}

    @cached_property
    def _gaps(self) -> np.ndarray:
        """Between the closest things of two categories, ``float64[n,n]`` metres."""
        boxes = [b for b in self.scene.boxes if b.category in self._places]
        order = np.array([self._places[b.category] for b in boxes], np.int64)
        apart = distances(boxes, boxes)
        n = len(self.categories)
        gaps = np.full((n, n), np.inf)
        np.minimum.at(gaps, (order[:, None], order[None, :]), apart)
        return gaps

    def gap(self, first: str, second: str) -> float:
        """Metres between the closest points of the closest things of two categories."""
        return float(self._gaps[self._places[first], self._places[second]])

    @cached_property
    def centres(self) -> np.ndarray:
        """Centres of the single things, ``float64[n,3]``, ordered as ``single``."""
        return np.array([self.box(c).centre for c in self.single]).reshape(-1, 3)

    @cached_property
    def single_gaps(self) -> np.ndarray:
        """Closest-point distances of the single things, ``float64[n,n]`` metres."""
        places = [self._places[c] for c in self.single]
        return self._gaps[np.ix_(places, places)]

    @cached_property
    def apart(self) -> np.ndarray:
        """Distances of the single things' centres on the floor, ``float64[n,n]``."""
        away = self.centres[:, None, :2] - self.centres[None, :, :2]
        return np.sqrt((away**2).sum(-1))

    @cached_property
    def headings(self) -> np.ndarray:
        """Heading from each single thing's centre to each other's, ``float64[n,n]``
        radians counter-clockwise from the x axis."""
        away = self.centres[None, :, :2] - self.centres[:, None, :2]
        return np.arctan2(away[..., 1], away[..., 0])


def wrap(angles: np.ndarray) -> np.ndarray:
    """Angles in radians brought into [-pi, pi)."""
    return (angles + np.pi) % (2 * np.pi) - np.pi


def draw(
    rng: np.random.Generator,
    groups: Iterable[Sequence[T]],
    most: int,
    accept: Callable[[T], bool] = lambda candidate: True,
) -> list[T]:
    """At most ``most`` candidates without repeats, evenly from all groups.

    Candidates with the same answer make up a group, so that the rare answers of a room
    come as often as the common ones. The groups take turns, in an order drawn anew each
    round; a candidate that is not accepted costs its group nothing.
    """
    orders = ((group, rng.permutation(len(group))) for group in groups)
    left = [[group[k] for k in order] for group, order in orders]
    drawn: list[T] = []
    while len(drawn) < most and left:
        for number in rng.permutation(len(left)):
            group = left[number]
            while group and not accept(group[-1]):
                group.pop()
            if group and len(drawn) < most:
                drawn.append(group.pop())
        left = [group for group in left if group]
    return drawn
