"""Scenes as plain JSON of oriented boxes: the form for one's own annotations.

A file holds one scene or a list of scenes; a folder's ``*.json`` are read in the order
of their names. Lengths are metres, z is up. A scene is an object with the keys

    name        text; becomes a file's name. One scene alone may go without: then it is
                called like its file
    dataset     text, the folder of its video; "scans" where missing
    boxes       list of the things (below)
    area        floor in square metres; may be missing where there is an outline
    outline     optional list of the floor's corners [x, y], in order, either way round;
                the floor is then at z = 0
    height      optional, of the room; else 2.6 or the highest box, what is more
    doors       optional list of {wall, start, width, height}: ``wall`` i is the one
                from corner i to the next, ``start`` where on it the door begins
    counts      optional {category: number}, where it differs from the boxes
    first_seen  optional {category: second}, when the video first shows it; nothing is
                asked about a category that is missing in it
    video       optional text, path of the video
    complete    optional, true where boxes, doors and height are all that there is: only
                then is it told what is *not* there, what is closest or how much floor
                is free. Needs outline and height
    colours     optional {floor | wall | ceiling | door: [r, g, b]}, in 0..1

and a box one with

    category    text; "_" counts as a space, capitals as small letters
    centre      [x, y, z]
    size        [full lengths along the box's own axes]
    yaw         degrees counter-clockwise, for a box that stands upright (default 0), or
    axes        three unit rows, the box's own axes; left-handed ones will do, and small
                errors are put right (``check.SKEW``)
    colour      optional [r, g, b], in 0..1

``null`` counts as missing, other keys are named and ignored. ``write_scene`` writes
every number so that it reads back the same.

Looked at instead: pydantic, jsonschema and msgspec judge a file as a whole; here a
faulty box costs that box, with a line that says so.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vica_jax.files import write_text
from vica_jax.world.check import counter_clockwise, examine, outline_fault
from vica_jax.world.json_values import (
    Notes,
    array,
    category_name,
    file_name,
    number,
    numbers,
    read_json,
    show,
    table,
    whole_numbers,
)
from vica_jax.world.scene import Box, Door, Scene, SceneError, polygon_area, upright

DATASET = "scans"
SCENE_KEYS = (
    "name",
    "dataset",
    "boxes",
    "area",
    "outline",
    "height",
    "doors",
    "counts",
    "first_seen",
    "video",
    "colours",
    "complete",
)
BOX_KEYS = ("category", "centre", "size", "yaw", "axes", "colour")
DOOR_KEYS = ("wall", "start", "width", "height")
SURFACES = ("floor", "wall", "ceiling", "door")


Draft = tuple[Scene, list[str]]  # a scene not yet checked, what to call its boxes
Parse = Callable[[Any, Path, Notes], Iterator[Draft | SceneError]]


def read_scenes(path: str | os.PathLike[str]) -> tuple[list[Scene], list[str]]:
    """Scenes of a JSON file or of a folder of them, and what was wrong.

    Returns:
        The usable scenes, in the order of the files, and one line for each scene or
        part of one that was left out; the line names the scene.

    Raises:
        SceneError: there is no such file, no JSON in the folder, or ``path`` is a file
            that is no JSON. In a folder such a file costs a line.
    """
    return read_files(path, _parse)


def read_files(
    path: str | os.PathLike[str], parse: Parse
) -> tuple[list[Scene], list[str]]:
    """``read_scenes`` for any form that ``parse`` knows."""
    notes, scenes = Notes(), []
    known: set[tuple[str, str]] = set()
    for file in _files(Path(path)):
        try:
            value = read_json(file, notes)
        except SceneError as error:
            if file == Path(path):
                raise
            notes.lines.append(str(error))
            continue
        for found in parse(value, file, notes):
            if isinstance(found, SceneError):
                notes.lines.append(str(found))
                continue
            scene, lines = examine(*found)
            notes.lines += lines
            if scene is None:
                continue
            if (scene.dataset, scene.name) in known:
                notes.say(
                    f"scene {scene.name}",
                    f"a second scene of that name in dataset {scene.dataset} "
                    f"({file.name}); left out",
                )
                continue
            known.add((scene.dataset, scene.name))
            scenes.append(scene)
    return scenes, notes.all()


def _files(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        files = sorted(path.glob("*.json"))
    except (OSError, ValueError) as error:
        raise SceneError(f"{path}: {error}") from error
    if not files:
        raise SceneError(f"{path}: a folder without *.json; give one with scenes")
    return files


def _parse(value: Any, file: Path, notes: Notes) -> Iterator[Draft | SceneError]:
    entries = value if isinstance(value, list) else [value]
    if not entries:
        yield SceneError(f"{file}: a list without scenes")
    for place, entry in enumerate(entries):
        where = f"{file}: scene {place}" if isinstance(value, list) else str(file)
        try:
            if not isinstance(entry, dict):
                raise SceneError(f"{where}: is {show(entry)}, not an object; left out")
            alone = file.stem if not isinstance(value, list) else None
            yield _scene(entry, alone, where, notes)
        except SceneError as error:
            yield error


def _scene(value: dict, name: str | None, where: str, notes: Notes) -> Draft:
    value = {key: part for key, part in value.items() if part is not None}
    name = file_name(value.get("name", name), "name", where)
    where = f"scene {name}"
    notes.unknown(where, "a scene", value, SCENE_KEYS)
    dataset = file_name(value.get("dataset", DATASET), "dataset", where)
    boxes, labels, counts = _boxes(value.get("boxes", []), where, notes)
    outline, doors = None, ()
    if "outline" in value:
        outline = array(value["outline"], (-1, 2))
        if outline is None:
            notes.say(
                where,
                "outline is not a list of corners [x, y]; left out",
            )
        else:
            outline, doors = _walls(outline, value.get("doors", []), where, notes)
    elif "doors" in value:
        notes.say(where, "doors without an outline; left out")
    area = number(value["area"]) if "area" in value else None
    if area is None:
        if "area" in value:
            notes.say(where, f"area is {show(value['area'])}, not a number")
        if outline is None:
            raise SceneError(f"{where}: has neither area nor outline; left out")
        area = math.nan if outline_fault(outline) else abs(polygon_area(outline))
    height = number(value["height"]) if "height" in value else None
    if height is None:
        if "height" in value:
            notes.say(where, f"height is {show(value['height'])}, not a number")
        with np.errstate(all="ignore"):
            tops = [float(box.high[2]) for box in boxes]
        height = max([Scene.height, *(top for top in tops if 0 < top < 100)])
    video = value.get("video")
    if video is not None and not isinstance(video, str):
        notes.say(where, f"video is {show(video)}, not a text; left out")
        video = None
    seen = None
    if "first_seen" in value:
        seen = numbers(value["first_seen"], "first_seen", where, notes)
        if isinstance(value["first_seen"], dict):
            _say_unseen(boxes, value["first_seen"], where, notes)
    colours = {}
    for key, part in table(value.get("colours", {}), "colours", where, notes).items():
        colour = array(part, (3,))
        if key not in SURFACES or colour is None:
            notes.say(where, f"colours: {show(key)}: {show(part)} left out")
        else:
            colours[key] = colour.astype(np.float32)
    stated = whole_numbers(value.get("counts", {}), "counts", where, notes)
    complete = value.get("complete", False)
    if not isinstance(complete, bool):
        notes.say(where, f"complete is {show(complete)}, not true or false; left out")
    elif complete and (outline is None or number(value.get("height")) is None):
        notes.say(where, "complete without an outline and a height; left out")
        complete = False
    # Of a list with an entry that is no box nobody knows all things.
    stated_doors = value.get("doors", [])
    complete = (
        complete is True
        and len(boxes) == len(value.get("boxes", []))
        and isinstance(stated_doors, list)
        and len(doors) == len(stated_doors)
    )
    scene = Scene(
        name=name,
        dataset=dataset,
        boxes=boxes,
        area=area,
        outline=outline,
        height=height,
        doors=doors,
        counts={**counts, **stated},
        first_seen=seen,
        video=video,
        colours=colours,
        complete=complete,
    )
    return scene, labels


def _say_unseen(
    boxes: tuple[Box, ...], seen: dict[str, Any], where: str, notes: Notes
) -> None:
    """A line for what times of first sight leave out."""
    unseen = {box.category for box in boxes} - set(map(category_name, seen))
    unseen = sorted(unseen)
    if unseen:
        more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
        named = ", ".join(map(show, unseen[:5])) + more
        notes.say(where, f"first_seen lacks {named}: nothing is asked about them")


def _boxes(
    value: Any, where: str, notes: Notes
) -> tuple[tuple[Box, ...], list[str], dict[str, int]]:
    """The boxes that are boxes, what to call them, and how many of a category there
    are where some of it are none."""
    if not isinstance(value, list):
        raise SceneError(f"{where}: boxes is {show(value)}, not a list; left out")
    boxes, labels, listed, lost = [], [], Counter(), set()
    for place, entry in enumerate(value):
        label = f"box {place}"
        if not isinstance(entry, dict):
            notes.say(where, f"{label} is {show(entry)}, not an object; left out")
            continue
        entry = {key: part for key, part in entry.items() if part is not None}
        notes.unknown(where, "a box", entry, BOX_KEYS)
        category = category_name(entry.get("category"))
        if category is None:
            text = f"{label}: category is {show(entry.get('category'))}, not a word"
            notes.say(where, f"{text}; left out")
            continue
        label = f"{label} ({category})"
        listed[category] += 1
        try:
            boxes.append(_box(entry, category))
            labels.append(label)
        except SceneError as error:
            notes.say(where, f"{label}: {error}; left out")
            lost.add(category)
    if value and not boxes:
        raise SceneError(f"{where}: none of its objects can be used; left out")
    return tuple(boxes), labels, {c: listed[c] for c in listed if c in lost}


def _box(entry: dict, category: str) -> Box:
    parts = {}
    for key in ("centre", "size"):
        parts[key] = array(entry.get(key), (3,))
        if parts[key] is None:
            raise SceneError(f"{key} is {show(entry.get(key))}, not three numbers")
    colour = array(entry.get("colour"), (3,))
    if colour is None and "colour" in entry:
        raise SceneError(f"colour is {show(entry['colour'])}, not three numbers")
    if "axes" not in entry:
        yaw = number(entry.get("yaw", 0))
        if yaw is None or not math.isfinite(yaw):
            raise SceneError(f"yaw is {show(entry.get('yaw'))}, not degrees")
        return upright(
            category, parts["centre"], parts["size"], math.radians(yaw), colour
        )
    if "yaw" in entry:
        raise SceneError("has both yaw and axes, where one says all")
    axes = array(entry["axes"], (3, 3))
    if axes is None:
        raise SceneError(f"axes is {show(entry['axes'])}, not three rows of three")
    if colour is not None:
        colour = colour.astype(np.float32)
    return Box(category=category, **parts, axes=axes, colour=colour)


def _walls(
    outline: np.ndarray, value: Any, where: str, notes: Notes
) -> tuple[np.ndarray, tuple[Door, ...]]:
    """Outline counter-clockwise, its first corner not repeated at the end; doors."""
    if len(outline) > 1 and (outline[0] == outline[-1]).all():
        outline = outline[:-1]
    doors = []
    if not isinstance(value, list):
        notes.say(where, f"doors is {show(value)}, not a list; left out")
        value = []
    for place, entry in enumerate(value):
        if not isinstance(entry, dict):
            notes.say(where, f"door {place} is {show(entry)}; left out")
            continue
        notes.unknown(where, "a door", entry, DOOR_KEYS)
        parts = [number(entry.get(key)) for key in DOOR_KEYS]
        known = [part for part in parts if part is not None]
        if len(known) < 4 or not (known[0].is_integer() and abs(known[0]) < 1e9):
            text = "has no wall (a whole number), start, width and height (metres)"
            notes.say(where, f"door {place} {text}; left out")
            continue
        wall, start, width, height = known
        doors.append(Door(wall=int(wall), start=start, width=width, height=height))
    if outline_fault(outline) is None and polygon_area(outline) < 0:
        return counter_clockwise(outline, tuple(doors))
    return outline, tuple(doors)


def scene_json(scene: Scene) -> dict[str, Any]:
    """The scene in the form above, as JSON types; axes in full, so that every number
    reads back the same.

    Raises:
        SceneError: a number is not finite.
    """
    value: dict[str, Any] = {"name": scene.name, "dataset": scene.dataset}
    value |= {"area": float(scene.area), "height": float(scene.height)}
    if scene.outline is not None:
        value["outline"] = scene.outline.tolist()
    if scene.doors:
        value["doors"] = [
            {
                "wall": int(door.wall),
                "start": float(door.start),
                "width": float(door.width),
                "height": float(door.height),
            }
            for door in scene.doors
        ]
    if scene.counts:
        value["counts"] = {key: int(count) for key, count in scene.counts.items()}
    if scene.complete:
        value["complete"] = True
    if scene.first_seen is not None:
        value["first_seen"] = {key: float(t) for key, t in scene.first_seen.items()}
    if scene.video is not None:
        value["video"] = scene.video
    if scene.colours:
        value["colours"] = {key: part.tolist() for key, part in scene.colours.items()}
    value["boxes"] = []
    for box in scene.boxes:
        entry = {"category": box.category, "centre": box.centre.tolist()}
        entry |= {"size": box.size.tolist(), "axes": box.axes.tolist()}
        if box.colour is not None:
            entry["colour"] = box.colour.tolist()
        value["boxes"].append(entry)
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise SceneError(f"scene {scene.name}: a number in it is not finite") from error
    return value


def write_scene(path: str | os.PathLike[str], scene: Scene) -> None:
    """Write one scene for ``read_scenes``, a line for each of its parts and boxes.

    Raises:
        SceneError: a number in it is not finite.
    """
    value = scene_json(scene)
    boxes = ",\n".join(f"  {json.dumps(box)}" for box in value.pop("boxes"))
    parts = [f" {json.dumps(key)}: {json.dumps(part)}" for key, part in value.items()]
    parts.append(f' "boxes": [\n{boxes}\n ]')
    write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")
