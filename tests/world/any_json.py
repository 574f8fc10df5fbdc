"""JSON of any kind for the readers of scenes, and what must hold whatever it says."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from vica_jax.errors import InputError
from vica_jax.world.check import check_scene
from vica_jax.world.scene import Box, Scene
from vica_jax.world.scene_file import scene_json

NUMBERS = (0, 1, -1, 1e-320, 1e160, 1e308, 10**400)
Reader = Callable[[Path], tuple[list[Scene], list[str]]]


def any_json(
    words: st.SearchStrategy[str], parts: Sequence[Any], length: int
) -> st.SearchStrategy[Any]:
    """Values nested at any depth: ``words`` as keys and texts, numbers past all
    bounds, ``parts`` of good input, lists of ``length`` more often than by chance."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | words
        | st.sampled_from([*NUMBERS, "\ud800", *parts])
    )
    return st.recursive(
        leaves,
        lambda part: (
            st.lists(part, max_size=4)
            | st.lists(part, min_size=length, max_size=length)
            | st.dictionaries(words | st.text(max_size=3), part, max_size=4)
        ),
        max_leaves=12,
    )


def survives(read: Reader, path: Path) -> None:
    """Scenes and lines, or an InputError: never anything else, nor a warning."""
    try:
        scenes, lines = read(path)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert scenes or lines
    for line in lines:
        assert "\n" not in line
        assert len(line) < 500
        line.encode()  # printable anywhere
    for scene in scenes:
        assert check_scene(scene) == []
        assert scene.boxes
        assert 0 < scene.area < math.inf
        for box in scene.boxes:
            assert isinstance(box, Box)
            assert np.isfinite(box.corners).all()
            assert (box.size > 0).all()
        json.dumps(scene_json(scene), allow_nan=False)
