"""Pairs of oriented boxes at once: gaps, distances and closest points, in closed form.

What ``geometry`` builds on; boxes may be turned in any way and left-handed.
"""

from collections.abc import Sequence

import numpy as np

from vica_jax.world.scene import Box

_PARALLEL = 1e-12  # sine of an angle below which two directions are one
_SIGNS = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"))
CORNERS = _SIGNS.reshape(3, 8).T.astype(np.float64)
# The four edges along axis i: 0 there, all signs on the other two.
EDGES = np.array(
    [[np.insert([a, b], i, 0) for a in (-1, 1) for b in (-1, 1)] for i in range(3)],
    np.float64,
)
_SECOND = np.array([1, 2, 0])  # the two axes beside axis i, in turning order
_THIRD = np.array([2, 0, 1])
_FRAME = (np.arange(3), _SECOND, _THIRD)  # for each axis, itself and those beside it


class Pairs:
    """``n`` pairs of boxes, each in the frame of its first.

    ``centre float64[n,3]`` and ``turn float64[n,3,3]`` (axes as rows) are the second
    box's, ``a`` and ``b`` ``float64[n,3]`` half the sizes.
    """

    def __init__(self, first: Sequence[Box], second: Sequence[Box]):
        axes = np.array([box.axes for box in first], np.float64).reshape(-1, 3, 3)
        away = np.array(
            [b.centre - a.centre for a, b in zip(first, second, strict=True)],
            np.float64,
        ).reshape(-1, 3)
        turned = np.array([box.axes for box in second], np.float64).reshape(-1, 3, 3)
        self.a = np.array([box.size for box in first], np.float64).reshape(-1, 3) / 2
        self.b = np.array([box.size for box in second], np.float64).reshape(-1, 3) / 2
        self.centre = np.einsum("nij,nj->ni", axes, away)
        self.turn = turned @ axes.swapaxes(1, 2)

    def gap(self) -> np.ndarray:
        """Widest gap along any of the 15 axes, ``float64[n]``.

        Above 0: apart, by at least that. Below 0: how deep they are in each other (the
        shortest way that parts them).
        """
        centre, turn, a, b = self.centre, self.turn, self.a, self.b
        steep = np.abs(turn)
        own = np.abs(centre) - a - np.einsum("nji,nj->ni", steep, b)
        others = np.abs(np.einsum("nji,ni->nj", turn, centre)) - b
        others -= np.einsum("nji,ni->nj", steep, a)
        # Axis i crossed with the other box's axes j: [n,i,j].
        y, z = turn[:, :, _SECOND], turn[:, :, _THIRD]
        length = np.sqrt(y**2 + z**2).swapaxes(1, 2)
        second, third = centre[:, _SECOND, None], centre[:, _THIRD, None]
        y, z = y.swapaxes(1, 2), z.swapaxes(1, 2)
        between = np.abs(third * y - second * z)
        between -= a[:, _SECOND, None] * np.abs(z) + a[:, _THIRD, None] * np.abs(y)
        # |axis k of the other . (e_i x axis j)| for the two k beside j.
        for k, m in ((_SECOND, _THIRD), (_THIRD, _SECOND)):
            reach = steep[:, m].swapaxes(1, 2)  # e_i . (axis j x axis k) = +- axis m
            between -= b[:, None, k] * reach
        apart = length > _PARALLEL
        between = np.where(apart, between / np.where(apart, length, 1.0), -np.inf)
        return np.maximum(
            np.maximum(own.max(1), others.max(1)), between.reshape(-1, 9).max(1)
        )

    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """The second's corners in the first's frame and the first's in the second's,
        ``float64[n,8,3]`` each."""
        second = self.centre[:, None] + (CORNERS * self.b[:, None]) @ self.turn
        first = CORNERS * self.a[:, None] - self.centre[:, None]
        return second, first @ self.turn.swapaxes(1, 2)

    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Closest points inside an edge of each: distances ``float64[n,3,4,3,4]`` (axis
        and edge of the first, axis and edge of the second), infinite where there are no
        such points; where they lie from the edges' middles, in metres, along the first
        and the second; and the second's middles ``[n,3,4,3]``.
        """
        n = len(self.a)
        mine = EDGES * self.a[:, None, None]  # [n,3,4,3]
        yours = (EDGES * self.b[:, None, None]).reshape(n, 12, 3) @ self.turn
        yours = (yours + self.centre[:, None]).reshape(n, 3, 4, 3)
        x, y, z = (_apart(mine, yours, axes) for axes in _FRAME)
        dx, dy, dz = (_along(self.turn, axes) for axes in _FRAME)
        # Seen along the first's edge it is a point, and the second's a line.
        square = dy**2 + dz**2
        crossed = square > _PARALLEL**2
        square = np.where(crossed, square, 1.0)
        second = -(y * dy + z * dz) / square
        first = x + second * dx
        there = crossed & (np.abs(first) <= self.a[:, :, None, None, None])
        there &= np.abs(second) <= self.b[:, None, None, :, None]
        distance = np.abs(y * dz - z * dy) / np.sqrt(square)
        return np.where(there, distance, np.inf), first, second, yours

    def distance(self) -> np.ndarray:
        """``float64[n]``, 0 where the boxes touch or overlap."""
        second, first = self.corners()
        least = self.edges()[0].reshape(len(self.a), 144).min(1)
        for corners, half in ((second, self.a), (first, self.b)):
            beyond = np.maximum(np.abs(corners) - half[:, None], 0)
            least = np.minimum(least, np.sqrt((beyond**2).sum(-1)).min(1))
        return np.where(self.gap() > 0, least, 0.0)


def _apart(mine: np.ndarray, yours: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Middles of ``yours`` less those of ``mine`` along ``axes[i]``: [n,3,4,3,4]."""
    ours = mine[:, np.arange(3), :, axes].swapaxes(0, 1)
    theirs = yours[..., axes].transpose(0, 3, 1, 2)
    return theirs[:, :, None] - ours[:, :, :, None, None]


def _along(turn: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Directions ``turn`` along ``axes[i]``: [n,3,1,3,1]."""
    return turn[:, :, axes].swapaxes(1, 2)[:, :, None, :, None]


def common_point(a: Box, b: Box) -> np.ndarray:
    """A point in both of two boxes that touch or overlap, ``float64[3]``.

    Corners of what they share are the ends of an edge of one cut off by the other: the
    middle of the longest such piece.
    """
    slack = 1e-12 * (1 + a.size.max() + b.size.max())  # boxes that just touch
    best, common = -np.inf, a.centre
    for one, other in ((a, b), (b, a)):
        middles = (EDGES * one.size / 2).reshape(12, 3) @ one.axes + one.centre
        reach = (one.axes * one.size[:, None] / 2).repeat(4, axis=0)
        half = other.size / 2 + slack
        start = (middles - other.centre) @ other.axes.T
        step = reach @ other.axes.T
        level = np.abs(step) <= slack  # along a face: within its slab all the way
        safe = np.where(level, 1.0, step)
        ends = np.sort([(sign * half - start) / safe for sign in (-1, 1)], axis=0)
        never = np.where(np.abs(start) <= half, -np.inf, np.inf)
        enter = np.where(level, never, ends[0]).max(1).clip(min=-1)
        leave = np.where(level, -never, ends[1]).min(1).clip(max=1)
        pieces = (leave - enter) * np.linalg.norm(reach, axis=1)
        longest = int(np.argmax(pieces))
        if pieces[longest] > best:
            best = pieces[longest]
            where = np.clip((enter[longest] + leave[longest]) / 2, -1, 1)
            common = middles[longest] + where * reach[longest]
    return common
