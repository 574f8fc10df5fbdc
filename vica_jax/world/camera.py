"""A pinhole camera that looks along a yaw and a pitch, without roll.

World axes: x and y span the floor, z is up. Yaw 0 looks along +x and grows
counter-clockwise seen from above; pitch is positive upwards. Pixels are square, their
centres lie at (column + 0.5, row + 0.5), row 0 is the top.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Size in pixels and horizontal field of view in radians."""

    width: int = 192
    height: int = 144
    field_of_view: float = math.radians(80)

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return self.width / 2 / math.tan(self.field_of_view / 2)

    @property
    def columns(self) -> Float[np.ndarray, " W"]:
        """How far to the right a pixel's ray goes on one metre ahead."""
        return (np.arange(self.width) + 0.5 - self.width / 2) / self.focal

    @property
    def rows(self) -> Float[np.ndarray, " H"]:
        """How far up a pixel's ray goes on one metre ahead."""
        return -(np.arange(self.height) + 0.5 - self.height / 2) / self.focal

    def rays(self, yaw: float, pitch: float) -> Float[np.ndarray, "H W 3"]:
        """World directions through the pixel centres, one metre long along the axis.

        A point at depth t (metres along the optical axis) is ``position + t * ray``.
        """
        ahead, right, up = basis(yaw, pitch)
        return (
            ahead + self.columns[None, :, None] * right + self.rows[:, None, None] * up
        )

    def project(
        self,
        points: Float[np.ndarray, "N 3"],
        position: Float[np.ndarray, " 3"],
        yaw: float,
        pitch: float,
    ) -> Float[np.ndarray, "N 3"]:
        """(column, row, depth) of world points, in pixels and metres.

        Points at or behind the camera (depth <= 0) have nan for column and row.
        """
        seen = (np.asarray(points) - position) @ np.stack(basis(yaw, pitch)).T
        depth = seen[:, 0]
        scale = self.focal / np.where(depth > 0, depth, np.nan)
        column = self.width / 2 + seen[:, 1] * scale
        row = self.height / 2 - seen[:, 2] * scale
        return np.stack([column, row, depth], -1)


def basis(yaw: float, pitch: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors ahead, to the right and up of a camera, ``float64[3]`` each."""
    ahead = np.array(
        [
            math.cos(yaw) * math.cos(pitch),
            math.sin(yaw) * math.cos(pitch),
            math.sin(pitch),
        ]
    )
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    return ahead, right, np.cross(right, ahead)
