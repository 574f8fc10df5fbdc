"""VSI-Bench's per-scene metadata (``data/meta_info/*.json``), one file a dataset.

    {scene name: {
        dataset, video_path,
        room_size      square metres
        room_center    [x, y, z], not used: questions know no origin
        object_counts  {category: number of things}
        object_bbox    {category: [{
            centroid        [x, y, z] metres, z up
            axesLengths     [three full lengths]
            normalizedAxes  [nine numbers: three unit axes, one after the other]
            min, max        axis-aligned bounds, not used: the box says them
        }, ...]}}}

``object_counts`` may name categories that ``object_bbox`` lacks, and the reverse: what
it says of a category is its number, whatever the boxes. Source: the files of
https://github.com/vision-x-nyu/thinking-in-space, of which nothing is copied here.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vica_jax.world.json_values import (
    Notes,
    array,
    category_name,
    file_name,
    number,
    show,
    table,
    whole_numbers,
)
from vica_jax.world.scene import Box, Scene, SceneError
from vica_jax.world.scene_file import Draft, read_files

SCENE_KEYS = (
    "dataset",
    "video_path",
    "room_size",
    "room_center",
    "object_counts",
    "object_bbox",
)
BOX_KEYS = ("centroid", "axesLengths", "normalizedAxes", "min", "max")


def read_meta_info(path: str | os.PathLike[str]) -> tuple[list[Scene], list[str]]:
    """Scenes of a ``meta_info`` file or of a folder of them, and what was wrong.

    Returns and raises as ``scene_file.read_scenes``.
    """
    return read_files(path, _parse)


def _parse(value: Any, file: Path, notes: Notes) -> Iterator[Draft | SceneError]:
    if not isinstance(value, dict) or not value:
        yield SceneError(f"{file}: is {show(value)}, not an object {{scene: ...}}")
        return
    for name, entry in value.items():
        try:
            yield _scene(name, entry, file, notes)
        except SceneError as error:
            yield error


def _scene(name: str, entry: Any, file: Path, notes: Notes) -> Draft:
    name = file_name(name, "scene name", str(file))
    where = f"scene {name}"
    if not isinstance(entry, dict):
        raise SceneError(f"{where}: is {show(entry)}, not an object; left out")
    notes.unknown(where, "a scene", entry, SCENE_KEYS)
    dataset = file_name(entry.get("dataset"), "dataset", where)
    area = number(entry.get("room_size"))
    if area is None:
        text = f"room_size is {show(entry.get('room_size'))}, not square metres"
        raise SceneError(f"{where}: {text}; left out")
    video = entry.get("video_path")
    if video is not None and not isinstance(video, str):
        notes.say(where, f"video_path is {show(video)}, not a text; left out")
        video = None
    boxes, labels, counts = _boxes(entry.get("object_bbox", {}), where, notes)
    stated = entry.get("object_counts", {})
    counts |= whole_numbers(stated, "object_counts", where, notes)
    scene = Scene(
        name=name,
        dataset=dataset,
        boxes=boxes,
        area=area,
        counts=counts,
        video=video,
    )
    return scene, labels


def _boxes(
    value: Any, where: str, notes: Notes
) -> tuple[tuple[Box, ...], list[str], dict[str, int]]:
    """The boxes that are boxes, what to call them, and how many of a category there
    are where some of it are none."""
    boxes, labels, listed, lost = [], [], {}, set()
    for key, entries in table(value, "object_bbox", where, notes).items():
        category = category_name(key)
        if category is None or not isinstance(entries, list):
            text = f"object_bbox: {show(key)} is {show(entries)}, not a list of boxes"
            notes.say(where, f"{text}; left out")
            continue
        listed[category] = listed.get(category, 0) + len(entries)
        for place, entry in enumerate(entries):
            label = f"{key!r} {place}"
            try:
                boxes.append(_box(entry, category))
                labels.append(label)
                notes.unknown(where, "a box", entry, BOX_KEYS)
            except SceneError as error:
                notes.say(where, f"{label}: {error}; left out")
                lost.add(category)
    return (
        tuple(boxes),
        labels,
        {category: listed[category] for category in sorted(lost)},
    )


def _box(entry: Any, category: str) -> Box:
    if not isinstance(entry, dict):
        raise SceneError(f"is {show(entry)}, not an object")
    parts = {}
    for key, length in (("centroid", 3), ("axesLengths", 3), ("normalizedAxes", 9)):
        parts[key] = array(entry.get(key), (length,))
        if parts[key] is None:
            raise SceneError(f"{key} is {show(entry.get(key))}, not {length} numbers")
    return Box(
        category=category,
        centre=parts["centroid"],
        size=parts["axesLengths"],
        axes=parts["normalizedAxes"].reshape(3, 3),
    )
