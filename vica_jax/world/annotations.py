"""Annotations of real scans in whichever of the known forms a file has."""

import os
from pathlib import Path
from typing import Any

from vica_jax.world.json_values import Notes, read_json
from vica_jax.world.meta_info import read_meta_info
from vica_jax.world.scene import Scene, SceneError
from vica_jax.world.scene_file import read_scenes

_META_KEYS = {"object_bbox", "object_counts", "room_size"}


def is_meta_info(value: Any) -> bool:
    """Whether a JSON value looks like VSI-Bench's ``meta_info``, and not like the plain
    form: an object whose parts are scenes."""
    if not isinstance(value, dict) or "boxes" in value:
        return False
    return any(isinstance(v, dict) and _META_KEYS & set(v) for v in value.values())


def read_annotations(path: str | os.PathLike[str]) -> tuple[list[Scene], list[str]]:
    """Scenes of a JSON file, or of all in a folder, and one line for each fault.

    Each file is recognised by what is in it: the plain form of ``scene_file`` or
    ``meta_info``. The usable scenes come in the files' order; of two with the same
    dataset and name the first counts.

    Raises:
      SceneError: no such file, no JSON in the folder, or a file that is no JSON. In a
        folder such a file costs a line.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise SceneError(f"{path}: a folder without *.json; give one with scenes")
    scenes: dict[tuple[str, str], Scene] = {}
    lines: list[str] = []
    for file in files:
        try:
            meta = is_meta_info(read_json(file, Notes()))
            found, faults = (read_meta_info if meta else read_scenes)(file)
        except SceneError as error:
            if file == path:
                raise
            lines.append(str(error))
            continue
        lines += faults
        for scene in found:
            key = scene.dataset, scene.name
            if key in scenes:
                lines.append(
                    f"scene {scene.name}: a second scene of that name in dataset "
                    f"{scene.dataset} ({file.name}); left out"
                )
            else:
                scenes[key] = scene
    return list(scenes.values()), lines
