"""A scene with what sentences are about measured once: distances, walls, free floor."""

from collections import Counter
from collections.abc import Iterable
from functools import cached_property

import numpy as np

from vica_jax.world.catalogue import shared_plurals
from vica_jax.world.floor_space import FloorSpace, covered_share, floor_space
from vica_jax.world.geometry import distances, footprint, wall_distance
from vica_jax.world.scene import Box, Scene

STRAIGHT = 0.01  # metres by which a corner of a wall that goes straight on may be off


class Room:
    """A scene and its measures.

    ``hidden`` are numbers of boxes that the camera never sees. Nothing is said of a
    category with a hidden box, nor of one that is missing in ``first_seen`` where that
    is known, nor of one that shares its plural with another (``shared``). ``named`` are
    the other categories, ``singles`` the things among them that are alone of their
    kind, by name; both alphabetical.
    """

    def __init__(self, scene: Scene, hidden: Iterable[int] = ()):
        self.scene = scene
        boxes = Counter(box.category for box in scene.boxes)
        out = {scene.boxes[number].category for number in hidden}
        alike = shared_plurals({*scene.categories, *scene.counts})
        self.shared = frozenset(name for names in alike.values() for name in names)
        out |= self.shared
        self.named = tuple(
            category
            for category in scene.categories
            if category not in out
            and (scene.first_seen is None or category in scene.first_seen)
        )
        self.singles: dict[str, Box] = {
            category: scene.of(category)[0]
            for category in self.named
            if boxes[category] == scene.count(category) == 1
        }
        self._boxes = boxes
        self._place = {id(box): k for k, box in enumerate(scene.boxes)}
        self._reachable: dict[float, dict[str, bool | None]] = {}
        self._fits: dict[tuple[float, float], bool | None] = {}

    @cached_property
    def filmed(self) -> bool:
        """Whether the boxes are all that there is: a drawn room, not annotations."""
        scene = self.scene
        whole = all(self._boxes[c] == count for c, count in scene.counts.items())
        return scene.complete and scene.outline is not None and whole

    @cached_property
    def _distances(self) -> np.ndarray:
        return distances(self.scene.boxes, self.scene.boxes)

    def distance(self, a: Box, b: Box) -> float:
        """Metres between the closest points of two things of the scene."""
        return float(self._distances[self._place[id(a)], self._place[id(b)]])

    def neighbours(self, box: Box) -> list[tuple[float, Box]]:
        """All other things, nearest first; ties in the scene's order."""
        others = [(self.distance(box, b), b) for b in self.scene.boxes if b is not box]
        return sorted(others, key=lambda pair: pair[0])

    def wall_distance(self, box: Box) -> float:
        """Metres from a thing's footprint to the nearest wall; needs the outline."""
        outline, base = self.scene.outline, footprint(box)
        assert outline is not None
        # The closest points of two polygons' sides: one of them is a corner.
        gaps = wall_distance(outline, base).min(), wall_distance(base, outline).min()
        return float(min(gaps))

    @cached_property
    def corners(self) -> np.ndarray:
        """The outline's corners where its walls do turn, ``float64[n,2]``; needs the
        outline."""
        assert self.scene.outline is not None
        corners = list(self.scene.outline)
        k = 0
        while k < len(corners) and len(corners) > 3:
            before, after = corners[k - 1], corners[(k + 1) % len(corners)]
            if wall_distance(np.array([before, after]), corners[k][None])[0] < STRAIGHT:
                del corners[k]
                k = max(k - 1, 0)
            else:
                k += 1
        return np.array(corners)

    @cached_property
    def rectangle(self) -> tuple[float, float] | None:
        """Longer and shorter side of a rectangular floor; None of another."""
        if self.scene.outline is None or len(self.corners) != 4:
            return None
        outline = self.corners
        along = np.roll(outline, -1, 0) - outline
        lengths = np.linalg.norm(along, axis=1)
        turns = (along * np.roll(along, -1, 0)).sum(1) / lengths / np.roll(lengths, -1)
        if np.abs(turns).max() > 0.01:
            return None
        return float(lengths.max()), float(lengths.min())

    @cached_property
    def space(self) -> FloorSpace | None:
        """The free floor of a filmed room; nobody knows what else is in others."""
        return floor_space(self.scene) if self.filmed else None

    @cached_property
    def covered(self) -> float:
        """The share of the floor under things."""
        return covered_share(self.scene)

    @cached_property
    def circle(self) -> tuple[float, float]:
        """Bounds of the largest free circle's diameter; needs ``space``."""
        assert self.space is not None
        return self.space.widest_circle()

    def reachable(self, width: float) -> dict[str, bool | None]:
        """``FloorSpace.reachable``, nothing where the floor is not known."""
        if self.space is None:
            return {}
        if width not in self._reachable:
            self._reachable[width] = self.space.reachable(width)
        return self._reachable[width]

    def fits(self, size: tuple[float, float]) -> bool | None:
        """Whether a rectangle of so many metres fits in, as ``FloorSpace.fits``; None
        where the floor is not known."""
        if self.space is None:
            return None
        if size not in self._fits:
            self._fits[size] = self.space.fits(size)
        return self._fits[size]
