"""A scene as the padded arrays that ``render`` draws, and the light on its surfaces."""

import math
from typing import NamedTuple

import numpy as np

from vica_jax.world.scene import Scene, SceneError

CEILING, FLOOR, WALL, DOOR = -1, -2, -3, -4  # in the ids of a frame

# The light comes from the east, a little from the north, and from above. Half of it
# reaches round things (half-Lambert), so that surfaces facing +x, +y, -y, -x are 0.86,
# 0.74, 0.62, 0.50 as bright as their colour, what faces up 0.91, what faces down 0.45.
LIGHT = np.array([0.60, 0.20, math.sqrt(1 - 0.60**2 - 0.20**2)], np.float32)
# It is warm where it falls and bluish opposite, and from the north it comes through
# leaves: a hue tells the direction of a wall even where its brightness could be paint.
WARM = np.array([0.09, 0.0, -0.09], np.float32)  # by how far a surface faces east
LEAFY = np.array([-0.05, 0.06, -0.05], np.float32)  # and north
DARKEST, BRIGHTEST = 0.38, 0.98
CEILING_LIGHT = 0.95  # lit from below, as ceilings are by what the floor sends back
SEAM = 1e-3  # metres that walls reach past their corners, lest rays slip between
DOOR_AHEAD = 1.0002  # a door's nearness over its wall's: in front by a hair

COLOURS = {
    "floor": (0.55, 0.45, 0.36),
    "wall": (0.88, 0.87, 0.84),
    "ceiling": (0.95, 0.95, 0.94),
    "door": (0.36, 0.22, 0.13),
}


class Solids(NamedTuple):
    """A scene as float32 arrays padded to B boxes and P panels (walls, then doors).

    A panel stands on the floor from ``starts`` for ``lengths`` metres along the unit
    vector ``along``, up to ``tops``; the room is at its left.
    """

    num_boxes: np.ndarray  # int32[]
    centres: np.ndarray  # [B, 3]
    halves: np.ndarray  # [B, 3]
    axes: np.ndarray  # [B, 3, 3]
    box_colours: np.ndarray  # [B, 3]
    num_panels: np.ndarray  # int32[]
    starts: np.ndarray  # [P, 2]
    along: np.ndarray  # [P, 2]
    lengths: np.ndarray  # [P]
    tops: np.ndarray  # [P]
    ahead: np.ndarray  # [P]
    panel_colours: np.ndarray  # [P, 3]
    panel_ids: np.ndarray  # int32[P]
    height: np.ndarray  # []
    floor: np.ndarray  # [3]
    ceiling: np.ndarray  # [3]


def light_on(normal):
    """The light ``[..., 3]`` (rgb, about 0.4..1) on surfaces with unit ``normal``."""
    brightness = DARKEST + (BRIGHTEST - DARKEST) * (0.5 + 0.5 * (normal @ LIGHT))
    tint = 1 + normal[..., :1] * WARM + normal[..., 1:2] * LEAFY
    return brightness[..., None] * tint


def solids_of(scene: Scene) -> Solids:
    """A scene's padded arrays. SceneError without an outline or without colours."""
    if scene.outline is None or len(scene.outline) < 3:
        raise SceneError(
            f"scene {scene.name}: no outline, so it cannot be filmed: give it one"
        )
    for number, box in enumerate(scene.boxes):
        if box.colour is None:
            raise SceneError(
                f"scene {scene.name}: box {number} ({box.category}) has no colour, so "
                "it cannot be filmed: give it one"
            )
    colours = {
        name: np.asarray(scene.colours.get(name, default), np.float32)
        for name, default in COLOURS.items()
    }
    outline = np.asarray(scene.outline, np.float64)
    edges = np.roll(outline, -1, 0) - outline
    lengths = np.hypot(*edges.T)
    along = edges / lengths[:, None]
    walls = np.arange(len(outline))
    behind = [door.wall for door in scene.doors]
    starts = [
        *(outline - SEAM * along),
        *(outline[door.wall] + door.start * along[door.wall] for door in scene.doors),
    ]
    widths = [*(lengths + 2 * SEAM), *(door.width for door in scene.doors)]
    panels = np.concatenate([walls, np.array(behind, int)])
    normals = np.stack([-along[:, 1], along[:, 0], 0 * along[:, 0]], -1)
    paint = np.array([colours["wall"]] * len(walls) + [colours["door"]] * len(behind))
    paint = paint * light_on(normals)[panels]
    num_boxes = -(-max(len(scene.boxes), 1) // 16) * 16
    num_panels = -(-len(panels) // 16) * 16

    def boxes(values, *shape: int) -> np.ndarray:
        return pad(np.asarray(values, np.float32).reshape(-1, *shape), num_boxes)

    def padded(values, kind: type = np.float32) -> np.ndarray:
        return pad(np.asarray(values, kind), num_panels)

    return Solids(
        num_boxes=np.array(len(scene.boxes), np.int32),
        centres=boxes([box.centre for box in scene.boxes], 3),
        halves=boxes([box.size / 2 for box in scene.boxes], 3),
        axes=boxes([box.axes for box in scene.boxes], 3, 3),
        box_colours=boxes([box.colour for box in scene.boxes], 3),
        num_panels=np.array(len(panels), np.int32),
        starts=padded(starts),
        along=padded(along[panels]),
        lengths=padded(widths),
        tops=padded(
            [scene.height + 1.0] * len(walls) + [d.height for d in scene.doors]
        ),
        ahead=padded([1.0] * len(walls) + [DOOR_AHEAD] * len(behind)),
        panel_colours=padded(paint),
        panel_ids=padded([WALL] * len(walls) + [DOOR] * len(behind), np.int32),
        height=np.array(scene.height, np.float32),
        floor=colours["floor"] * light_on(np.array([0.0, 0, 1])).astype(np.float32),
        ceiling=colours["ceiling"] * np.float32(CEILING_LIGHT),
    )


def pad(array: np.ndarray, count: int) -> np.ndarray:
    """The array with zeros after it, ``count`` rows in all."""
    missing = count - len(array)
    return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
