"""What is wrong with a scene, line by line, and the scene without it.

Generated scenes pass as they are; annotations seldom do. A thing with a fault is left
out and its category keeps its number: questions of distance and size ask for categories
whose things are all there, counting asks for what the annotation says. A scene is
refused where too little is left to ask about, or where its floor's area is unknown.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vica_jax.world.catalogue import plural
from vica_jax.world.geometry import inside, polygon_contains_box, wall_distance
from vica_jax.world.scene import TOLERANCE, Box, Door, Scene, SceneError, polygon_area

SMALLEST, LARGEST = 1e-4, 100.0  # metres: what a thing or a room's height may measure
FARTHEST = 1e7  # metres from the origin: maps' coordinates are below this
WIDEST = 1e6  # square metres of floor
CORNERS = 1000  # of an outline
EXACT = 1e-9  # axes no more than this from orthonormal are taken as they are
SKEW = 0.02  # ... and none that are farther than this
AREA_ERROR = 0.01  # relative, between an area and its outline
FORBIDDEN = frozenset("<>{}|,")  # in categories: marks of templates, tags and lists

Say = Callable[[str], None]


def check_scene(scene: Scene) -> list[str]:
    """One line for each fault of a scene, empty where there is none."""
    return examine(scene)[1]


def usable(scene: Scene) -> Scene:
    """The scene without its faulty parts (``check_scene`` names them).

    Axes that are nearly orthonormal are made so; an outline that runs clockwise is
    turned round, with its doors.

    Raises:
        SceneError: nothing can be asked about what is left.
    """
    good, lines = examine(scene)
    if good is None:
        raise SceneError(lines[-1])
    return good


def examine(
    scene: Scene, labels: Sequence[str] | None = None
) -> tuple[Scene | None, list[str]]:
    """``usable`` and ``check_scene`` in one.

    ``labels`` is what lines call the boxes, else "box 0 (chair)". A scene that is
    refused is None, and the last line says why.
    """
    lines: list[str] = []

    say: Say = lambda text: lines.append(f"scene {scene.name}: {text}")
    if not scene.boxes:
        say("has no objects; left out")
        return None, lines
    scene = _check_room(scene, say)
    if labels is None:
        labels = [f"box {n} ({box.category})" for n, box in enumerate(scene.boxes)]
    unknown = _unknown_categories(scene, say)
    scene = _check_boxes(scene, labels, unknown, say)
    scene = _check_numbers(scene, unknown, say)
    if not 0 < scene.area <= WIDEST:
        say(f"room area is {scene.area:g} m2, not 0 to {WIDEST:g}; left out")
        return None, lines
    if not scene.boxes:
        say("none of its objects can be used; left out")
        return None, lines
    return scene, lines


def _check_room(scene: Scene, say: Say) -> Scene:
    """Outline, area, height, doors and colours; the area may still be unusable."""
    outline = scene.outline
    if outline is not None:
        outline = np.asarray(outline, np.float64)
        fault = outline_fault(outline)
        if fault:
            say(f"outline {fault}; it is left out, with its doors")
            scene = replace(scene, outline=None, doors=(), complete=False)
        elif polygon_area(outline) < 0:
            outline, doors = counter_clockwise(outline, scene.doors)
            scene = replace(scene, outline=outline, doors=doors)
    if scene.outline is not None:
        size = polygon_area(scene.outline)
        if not abs(scene.area - size) <= AREA_ERROR * size:
            say(
                f"room area is {scene.area:g} m2 and the outline's {size:.4g}; "
                "the outline counts"
            )
        scene = replace(scene, area=size)
    if not SMALLEST <= scene.height <= LARGEST:
        say(
            f"height is {scene.height:g} m, not 0 to {LARGEST:g}; "
            f"{Scene.height} m is taken"
        )
        scene = replace(scene, height=Scene.height, complete=False)
    doors = []
    for number, door in enumerate(scene.doors):
        fault = _door_fault(door, scene)
        if fault:
            say(f"door {number} {fault}; left out")
        else:
            doors.append(door)
    colours = {}
    for name, colour in scene.colours.items():
        if _is_colour(colour):
            colours[name] = colour
        else:
            say(f"colour of the {name} is not three numbers in 0..1; left out")
    if len(doors) < len(scene.doors):
        scene = replace(scene, doors=tuple(doors), complete=False)
    if len(colours) < len(scene.colours):
        scene = replace(scene, colours=colours)
    return scene


def outline_fault(outline: np.ndarray) -> str | None:
    """What is wrong with a floor's corners ``[n,2]``, to follow "outline ..."."""
    if outline.ndim != 2 or outline.shape[1] != 2 or len(outline) < 3:
        return "is not three or more corners of two numbers"
    if len(outline) > CORNERS:
        return f"has {len(outline)} corners, more than {CORNERS}"
    if not (np.abs(outline) <= FARTHEST).all():
        return f"has a corner that is not finite or beyond {FARTHEST:g} m"
    n = len(outline)
    # Corners on walls that are not theirs: [walls, corners].
    way = np.roll(outline, -1, axis=0) - outline
    square = (way**2).sum(1)
    away = outline[None] - outline[:, None]
    where = (away * way[:, None]).sum(-1) / np.where(square == 0, 1, square)[:, None]
    nearest = np.clip(where, 0, 1)[..., None] * way[:, None]
    near = ((away - nearest) ** 2).sum(-1) <= 1e-6**2
    wall, corner = np.indices((n, n))
    near &= (wall != corner) & ((wall + 1) % n != corner)
    if near.any():
        wall, corner = np.argwhere(near)[0]
        return f"touches itself (corner {corner} and wall {wall})"

    # Walls that cross: the ends of each on either side of the other.
    left = way[:, None, 0] * away[..., 1] - way[:, None, 1] * away[..., 0]
    splits = left * np.roll(left, -1, axis=1) < 0
    crossed = splits & splits.T
    if crossed.any():
        one, other = np.argwhere(crossed)[0]
        return f"crosses itself (walls {one} and {other})"
    return None


def counter_clockwise(
    outline: np.ndarray, doors: tuple[Door, ...]
) -> tuple[np.ndarray, tuple[Door, ...]]:
    """A clockwise outline ``[n,2]`` turned round, its doors where they were."""
    n = len(outline)
    lengths = np.linalg.norm(np.roll(outline, -1, axis=0) - outline, axis=1)
    turned = []
    for door in doors:
        if 0 <= door.wall < n:
            start = float(lengths[door.wall]) - door.start - door.width
            door = replace(door, wall=(n - 2 - door.wall) % n, start=start)
        turned.append(door)
    return outline[::-1].copy(), tuple(turned)


def _door_fault(door: Door, scene: Scene) -> str | None:
    outline = scene.outline
    if outline is None:
        return "has no outline to be in"
    if not 0 <= door.wall < len(outline):
        return f"is in wall {door.wall} of {len(outline)}"
    length = math.dist(outline[door.wall], outline[(door.wall + 1) % len(outline)])
    if not (door.width > 0 and door.height > 0):
        return f"measures {door.width:g} x {door.height:g} m"
    end = door.start + door.width
    if not (door.start >= -TOLERANCE and end <= length + TOLERANCE):
        return f"runs from {door.start:g} to {end:g} m of a wall of {length:.4g} m"
    if door.height > scene.height + TOLERANCE:
        return f"is {door.height:g} m high in a room of {scene.height:g} m"
    return None


def _is_colour(colour: np.ndarray) -> bool:
    colour = np.asarray(colour)
    return colour.shape == (3,) and bool(((colour >= 0) & (colour <= 1)).all())


def _unknown_categories(scene: Scene, say: Say) -> set[str]:
    """Categories that questions have no word for, or that would break their form."""
    boxes = Counter(box.category for box in scene.boxes)
    unknown = set()
    for category in sorted({*boxes, *scene.counts, *(scene.first_seen or ())}):
        if FORBIDDEN & set(category):
            unknown.add(category)
            say(
                f"category {category!r} has one of {''.join(sorted(FORBIDDEN))}; "
                f"left out ({boxes[category]} boxes)"
            )
            continue
        try:
            plural(category)
        except SceneError as error:
            unknown.add(category)
            say(f"{error}; left out ({boxes[category]} boxes)")
    return unknown


def _check_boxes(
    scene: Scene, labels: Sequence[str], unknown: set[str], say: Say
) -> Scene:
    """Without faulty boxes, whose categories keep their numbers, and unknown ones.

    What is left of a complete scene is no longer complete.
    """
    kept, counts = [], dict(scene.counts)
    for box, label in zip(scene.boxes, labels, strict=True):
        if box.category in unknown:
            continue
        fault = box_fault(box) or _place_fault(box, scene)
        if fault:
            say(f"{label}: {fault}; left out")
            counts.setdefault(box.category, scene.count(box.category))
            continue
        if box.colour is not None and not _is_colour(box.colour):
            say(f"{label}: colour is not three numbers in 0..1; left out")
            box = replace(box, colour=None)
        if np.abs(box.axes @ box.axes.T - np.eye(3)).max() > EXACT:
            box = replace(box, axes=orthonormal(box.axes))
        kept.append(box)
    complete = scene.complete and not unknown and len(kept) == len(scene.boxes)
    return replace(scene, boxes=tuple(kept), counts=counts, complete=complete)


def _check_numbers(scene: Scene, unknown: set[str], say: Say) -> Scene:
    """Without counts and times that are none, and those of unknown categories."""
    counts, seen = {}, {}
    for category, count in scene.counts.items():
        if category in unknown:
            continue
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            say(f"count of {category!r} is {count!r}, not 0, 1, 2, ...; left out")
        else:
            counts[category] = count
    for category, second in (scene.first_seen or {}).items():
        if category in unknown:
            continue
        if 0 <= second < math.inf:
            seen[category] = second
        else:
            say(f"{category!r} is first seen at {second:g} s; left out")
    times = None if scene.first_seen is None else seen
    return replace(scene, counts=counts, first_seen=times)


def box_fault(box: Box) -> str | None:
    """What is wrong with a box wherever it stands, None where nothing is."""
    shapes = [np.shape(part) for part in (box.centre, box.size, box.axes)]
    if shapes != [(3,), (3,), (3, 3)]:
        return "centre, size and axes are not 3, 3 and 3x3 numbers"
    if not (np.abs(box.centre) <= FARTHEST).all():
        return f"centre {_show(box.centre)} is not finite or beyond {FARTHEST:g} m"
    if not np.isfinite(box.size).all():
        return f"size {_show(box.size)} is not finite"
    if not (box.size >= SMALLEST).all():
        return f"size {_show(box.size)} is not above 0 (at least {SMALLEST:g} m)"
    if not (box.size <= LARGEST).all():
        return f"size {_show(box.size)} is beyond {LARGEST:g} (are these metres?)"
    if not (np.abs(box.axes) <= 2).all():
        return "axes are not unit vectors"
    if not np.abs(box.axes @ box.axes.T - np.eye(3)).max() <= SKEW:
        return "axes are not unit vectors at right angles"
    return None


def orthonormal(axes: np.ndarray) -> np.ndarray:
    """The orthonormal matrix nearest to one that nearly is, ``float64[3,3]``."""
    left, _, right = np.linalg.svd(axes)
    return left @ right


def _place_fault(box: Box, scene: Scene) -> str | None:
    """Through a wall, floor or ceiling, where they are known (floor: z = 0)."""
    outline = scene.outline
    if outline is None:
        return None
    if box.low[2] < -TOLERANCE:
        return f"reaches {-box.low[2]:.2f} m through the floor"
    if box.high[2] > scene.height + TOLERANCE:
        return f"reaches {box.high[2] - scene.height:.2f} m through the ceiling"
    if polygon_contains_box(outline, box, TOLERANCE):
        return None
    corners = box.corners
    out = ~inside(outline, corners)
    if not out.any():
        return "reaches through a wall"
    return f"reaches {wall_distance(outline, corners[out]).max():.2f} m through a wall"


def _show(numbers: np.ndarray) -> str:
    return "[" + ", ".join(f"{number:.6g}" for number in numbers) + "]"
