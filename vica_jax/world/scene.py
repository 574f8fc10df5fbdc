"""A scene: a room with things in it, each an oriented box, in metres, z up.

What a generator draws and what annotations of real scans say take the same form. A
real scan has no outline as a rule, and its things have no colours: it can be asked
about, but not filmed.
"""

import math
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from vica_jax.errors import InputError

WORLD_UP = (0.0, 0.0, 1.0)
TOLERANCE = 0.02  # metres a box may reach through a wall or another box


class SceneError(InputError):
    """A scene that cannot be used; the message names it and says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Box:
    """A thing: an oriented box with a category.

    ``centre float64[3]`` metres, ``size float64[3]`` full lengths along its own axes,
    ``axes float64[3,3]`` those axes as unit rows (a point is
    ``centre + (u * size / 2) @ axes`` with u in [-1, 1]^3), ``colour float32[3]`` in
    0..1 or None where nobody knows.
    """

    category: str
    centre: np.ndarray
    size: np.ndarray
    axes: np.ndarray
    colour: np.ndarray | None = None

    @property
    def corners(self) -> np.ndarray:
        """``float64[8,3]``."""
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"))
        return self.centre + (signs.reshape(3, 8).T * self.size / 2) @ self.axes

    @property
    def low(self) -> np.ndarray:
        """Lower corner of the axis-aligned bounds, ``float64[3]``."""
        return self.centre - self._reach

    @property
    def high(self) -> np.ndarray:
        """Upper corner of the axis-aligned bounds, ``float64[3]``."""
        return self.centre + self._reach

    @property
    def _reach(self) -> np.ndarray:
        return (np.abs(self.axes) * self.size[:, None] / 2).sum(0)


def upright(
    category: str,
    centre: np.ndarray,
    size: np.ndarray,
    yaw: float,
    colour: np.ndarray | None = None,
) -> Box:
    """A box standing on its base, turned by ``yaw`` radians counter-clockwise."""
    c, s = math.cos(yaw), math.sin(yaw)
    return Box(
        category=category,
        centre=np.asarray(centre, np.float64),
        size=np.asarray(size, np.float64),
        axes=np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]),
        colour=None if colour is None else np.asarray(colour, np.float32),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Door:
    """An opening in a wall: ``wall`` counts outline edges (i: from corner i to i+1),
    ``start`` and ``width`` are metres along it, ``height`` metres."""

    wall: int
    start: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A room: its things and, where known, its outline.

    ``outline float64[n,2]`` are the floor's corners, counter-clockwise, no corner
    twice. ``area`` is the floor's in square metres. ``counts`` are what annotations
    say of how many of a category there are, which may differ from the boxes.
    ``first_seen`` (category: second) is for scenes with a film of their own.
    ``colours`` float32[3] each: ``floor`` ``wall`` ``ceiling`` ``door``. ``complete``
    says that boxes, doors and height are all that there is, as in drawn rooms.
    """

    name: str
    dataset: str
    boxes: tuple[Box, ...]
    area: float
    outline: np.ndarray | None = None
    height: float = 2.6
    doors: tuple[Door, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    first_seen: dict[str, float] | None = None
    video: str | None = None
    colours: dict[str, np.ndarray] = field(default_factory=dict)
    complete: bool = False

    def count(self, category: str) -> int:
        """How many there are: what annotations say, else the boxes counted."""
        if category in self.counts:
            return self.counts[category]
        return Counter(box.category for box in self.boxes)[category]

    def of(self, category: str) -> tuple[Box, ...]:
        return tuple(box for box in self.boxes if box.category == category)

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories with a box, in alphabetical order."""
        return tuple(sorted({box.category for box in self.boxes}))

    def single(self) -> tuple[Box, ...]:
        """Boxes that are the only one of their category, in alphabetical order."""
        alone = [c for c in self.categories if self.count(c) == 1]
        return tuple(self.of(c)[0] for c in alone)

    def with_first_seen(self, seen: dict[str, float]) -> "Scene":
        return replace(self, first_seen=dict(seen))


def polygon_area(outline: np.ndarray) -> float:
    """Area of a simple polygon ``[n,2]``; negative where it runs clockwise."""
    x, y = outline[:, 0], outline[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)
