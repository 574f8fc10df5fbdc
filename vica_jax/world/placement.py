"""Where furniture may stand: upright footprints as plain numbers, cheap to test.

A room of fourteen pieces asks some thousands of times whether two footprints meet, so
everything here is Python floats: numpy's cost per call would be the whole time.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")


class Draws:
    """Random numbers one at a time, drawn from ``rng`` in blocks, for speed."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._block: list[float] = []

    def unit(self) -> float:
        """Uniform in [0, 1)."""
        if not self._block:
            self._block = self._rng.random(1024).tolist()
        return self._block.pop()

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def ratio(self, low: float, high: float) -> float:
        """Log-uniform."""
        return low * (high / low) ** self.unit()

    def whole(self, low: int, high: int) -> int:
        """Uniform integer, both ends included."""
        return low + int((high - low + 1) * self.unit())

    def normal(self, deviation: float) -> float:
        radius = math.sqrt(-2 * math.log(1 - self.unit()))
        return deviation * radius * math.cos(math.tau * self.unit())

    def pick(self, things: Sequence[T]) -> T:
        return things[int(len(things) * self.unit())]

    def weighted(self, things: Sequence[T], weight: Callable[[T], float]) -> T:
        left = self.unit() * sum(weight(thing) for thing in things)
        for thing in things:
            left -= weight(thing)
            if left < 0:
                return thing
        return things[-1]


class Piece(NamedTuple):
    """An upright box: centre, half lengths, cosine and sine of its yaw, the radius of
    its footprint, lower and upper height. Metres."""

    x: float
    y: float
    half_x: float
    half_y: float
    cos: float
    sin: float
    radius: float
    low: float
    high: float

    @property
    def yaw(self) -> float:
        return math.atan2(self.sin, self.cos)


def piece(
    x: float,
    y: float,
    width: float,
    depth: float,
    yaw: float = 0.0,
    low: float = 0.0,
    high: float = 9.0,
) -> Piece:
    half_x, half_y = width / 2, depth / 2
    return Piece(
        x,
        y,
        half_x,
        half_y,
        math.cos(yaw),
        math.sin(yaw),
        math.hypot(half_x, half_y),
        low,
        high,
    )


def lane(
    start: tuple[float, float], stop: tuple[float, float], half_width: float
) -> Piece:
    """The strip within ``half_width`` of a segment, its ends square."""
    dx, dy = stop[0] - start[0], stop[1] - start[1]
    return piece(
        (start[0] + stop[0]) / 2,
        (start[1] + stop[1]) / 2,
        math.hypot(dx, dy) + 2 * half_width,
        2 * half_width,
        math.atan2(dy, dx),
    )


def meet(a: Piece, b: Piece, gap: float) -> bool:
    """Whether two pieces come nearer than ``gap`` on some separating axis's measure:
    exact overlap for gap 0, on the safe side above. Heights must overlap too."""
    dx, dy = b.x - a.x, b.y - a.y
    reach = a.radius + b.radius + gap
    if dx * dx + dy * dy > reach * reach or a.low >= b.high or b.low >= a.high:
        return False
    c = abs(a.cos * b.cos + a.sin * b.sin)
    s = abs(a.cos * b.sin - a.sin * b.cos)
    return (
        abs(dx * a.cos + dy * a.sin) < a.half_x + b.half_x * c + b.half_y * s + gap
        and abs(dy * a.cos - dx * a.sin) < a.half_y + b.half_x * s + b.half_y * c + gap
        and abs(dx * b.cos + dy * b.sin) < b.half_x + a.half_x * c + a.half_y * s + gap
        and abs(dy * b.cos - dx * b.sin) < b.half_y + a.half_x * s + a.half_y * c + gap
    )


class Wall(NamedTuple):
    """An edge of the outline, run counter-clockwise: its start, its direction (the
    inward normal is that turned left), its length."""

    x: float
    y: float
    dx: float
    dy: float
    length: float

    def at(self, along: float, away: float) -> tuple[float, float]:
        return (
            self.x + along * self.dx - away * self.dy,
            self.y + along * self.dy + away * self.dx,
        )


def walls_of(outline: Sequence[tuple[float, float]]) -> list[Wall]:
    walls = []
    for i, (x, y) in enumerate(outline):
        u, v = outline[(i + 1) % len(outline)]
        length = math.hypot(u - x, v - y)
        walls.append(Wall(x, y, (u - x) / length, (v - y) / length, length))
    return walls
