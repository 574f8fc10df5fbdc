"""VSI-Bench's meta_info as it is published, and with every fault it may have."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from any_json import any_json, survives
from hypothesis import given, settings
from hypothesis import strategies as st

from vica_jax.world.generate import make_scene
from vica_jax.world.geometry import box_distance
from vica_jax.world.meta_info import read_meta_info
from vica_jax.world.scene import Scene, SceneError

CHAIR = {
    "centroid": [0.5, -1.0, 0.4],
    "axesLengths": [0.5, 0.6, 0.9],
    "normalizedAxes": [0.6, 0.8, 0, -0.8, 0.6, 0, 0, 0, 1],
    "min": [0.0, -1.4, -0.05],
    "max": [1.0, -0.6, 0.85],
}
ENTRY = {
    "dataset": "arkitscenes",
    "video_path": "arkitscenes/41069025.mp4",
    "room_size": 17.5,
    "room_center": [0.1, 0.2, 0.3],
    "object_counts": {"chair": 2, "table": 4},
    "object_bbox": {"chair": [CHAIR, {**CHAIR, "centroid": [2, 0, 0.4]}]},
}


def read(folder: Path, value) -> tuple[list[Scene], list[str]]:
    path = folder / "meta_info.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return read_meta_info(path)


def published(scene: Scene) -> dict:
    """A scene in the published form."""
    boxes: dict[str, list] = {}
    for box in scene.boxes:
        entry = {"centroid": box.centre.tolist(), "axesLengths": box.size.tolist()}
        entry["normalizedAxes"] = box.axes.ravel().tolist()
        entry |= {"min": box.low.tolist(), "max": box.high.tolist()}
        boxes.setdefault(box.category, []).append(entry)
    counts = {category: len(found) for category, found in boxes.items()}
    return {
        "dataset": scene.dataset,
        "video_path": f"{scene.dataset}/{scene.name}.mp4",
        "room_size": scene.area,
        "room_center": [0, 0, 1.2],
        "object_counts": counts,
        "object_bbox": boxes,
    }


def test_a_scene_as_published(tmp_path):
    (scene,), lines = read(tmp_path, {"41069025": ENTRY})
    assert lines == []
    assert (scene.name, scene.dataset, scene.area) == ("41069025", "arkitscenes", 17.5)
    assert scene.video == "arkitscenes/41069025.mp4"
    assert scene.outline is None
    assert scene.categories == ("chair",)
    assert (scene.count("chair"), scene.count("table")) == (2, 4)
    box = scene.boxes[0]
    np.testing.assert_array_equal(box.axes[0], [0.6, 0.8, 0])  # row by row
    np.testing.assert_array_equal(box.size, [0.5, 0.6, 0.9])
    np.testing.assert_allclose(box.low, [0.11, -1.38, -0.05])
    assert box.colour is None


def test_generated_scenes_in_the_published_form(tmp_path):
    """Their boxes come back as they are, category by category."""
    scenes = [make_scene(8, number) for number in range(20)]
    found, lines = read(tmp_path, {scene.name: published(scene) for scene in scenes})
    assert lines == []
    for scene, back in zip(scenes, found, strict=True):
        assert (back.name, back.area) == (scene.name, scene.area)
        assert back.categories == scene.categories
        for category in scene.categories:
            assert back.count(category) == len(scene.of(category))
            pairs = zip(scene.of(category), back.of(category), strict=True)
            for box, again in pairs:
                np.testing.assert_array_equal(box.centre, again.centre)
                np.testing.assert_array_equal(box.size, again.size)
                np.testing.assert_array_equal(box.axes, again.axes)
        first = [scene.of(category)[0] for category in scene.categories[:2]]
        again = [back.of(category)[0] for category in scene.categories[:2]]
        assert box_distance(*first) == box_distance(*again)


def test_a_folder_of_datasets(tmp_path):
    for dataset in ("scannet", "arkitscenes"):
        path = tmp_path / f"{dataset}_meta_info_val.json"
        path.write_text(json.dumps({"a": {**ENTRY, "dataset": dataset}}))
    found, lines = read_meta_info(tmp_path)
    assert [scene.dataset for scene in found] == ["arkitscenes", "scannet"]
    assert lines == []


def test_counts_may_differ_from_the_boxes(tmp_path):
    entry = {**ENTRY, "object_counts": {"chair": 5, "stool": 1}}
    entry["object_bbox"] = {**ENTRY["object_bbox"], "table": [CHAIR]}
    (scene,), lines = read(tmp_path, {"a": entry})
    assert lines == []
    assert [scene.count(c) for c in ("chair", "stool", "table")] == [5, 1, 1]
    assert [box.category for box in scene.single()] == ["table"]


def test_underscores_spaces_and_two_spellings(tmp_path):
    entry = {
        **ENTRY,
        "object_counts": {"trash_bin": 1, "trash bin": 2},
        "object_bbox": {"trash_bin": [CHAIR], "Trash Bin": [CHAIR, CHAIR]},
    }
    (scene,), lines = read(tmp_path, {"a": entry})
    assert lines == []
    assert scene.categories == ("trash bin",)
    assert scene.count("trash bin") == 3
    assert len(scene.boxes) == 3


def test_rounded_axes_are_put_right(tmp_path):
    rounded = {**CHAIR, "normalizedAxes": [0.601, 0.8, 0, -0.8, 0.6, 0, 0, 0.001, 1]}
    (scene,), lines = read(
        tmp_path, {"a": {**ENTRY, "object_bbox": {"bed": [rounded]}}}
    )
    assert lines == []
    axes = scene.boxes[0].axes
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-14)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"object_bbox": {}}, "has no objects"),
        ({"object_bbox": {"chair": []}}, "has no objects"),
        ({"room_size": None}, "room_size is None, not square metres"),
        ({"room_size": "12"}, "room_size is '12', not square metres"),
        ({"room_size": math.nan}, "room area is nan"),
        ({"room_size": -4}, "room area is -4"),
        ({"room_size": 0.0}, "room area is 0"),
        ({"dataset": None}, "dataset is None, not a text"),
        ({"dataset": "a/b"}, "dataset 'a/b' cannot be a file's name"),
    ],
)
def test_a_refused_scene_leaves_the_others(tmp_path, changes, words):
    found, lines = read(tmp_path, {"a": {**ENTRY, **changes}, "b": ENTRY})
    assert [scene.name for scene in found] == ["b"]
    assert lines[-1].startswith("scene a: ")
    assert words in lines[-1]


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (None, "is None, not an object"),
        ({**CHAIR, "centroid": [1, 2]}, "centroid is [1, 2], not 3 numbers"),
        ({**CHAIR, "centroid": [1, 2, math.nan]}, "centre [1, 2, nan] is not finite"),
        ({**CHAIR, "axesLengths": [1, 0, 1]}, "size [1, 0, 1] is not above 0"),
        ({**CHAIR, "axesLengths": None}, "axesLengths is None, not 3 numbers"),
        ({**CHAIR, "normalizedAxes": [1, 0, 0]}, "not 9 numbers"),
        ({**CHAIR, "normalizedAxes": np.eye(3).tolist()}, "not 9 numbers"),
        ({**CHAIR, "normalizedAxes": [1] * 9}, "not unit vectors at right angles"),
    ],
)
def test_a_faulty_box_leaves_the_others(tmp_path, box, words):
    boxes = {"sofa": [CHAIR], "table": [CHAIR, box]}
    entry = {**ENTRY, "object_counts": {}, "object_bbox": boxes}
    (scene,), (line,) = read(tmp_path, {"a": entry})
    assert line.startswith("scene a: 'table' 1: ")
    assert words in line
    assert [kept.category for kept in scene.boxes] == ["sofa", "table"]
    assert scene.count("table") == 2  # so that the one left is not taken for the only


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"object_counts": 3}, "object_counts is 3, not an object"),
        ({"object_counts": {"chair": 1.5}}, "object_counts: 'chair' is 1.5"),
        ({"object_counts": {"flurb": 2}}, "'flurb'"),
        ({"object_bbox": {"chair": [CHAIR], "bed": 1}}, "object_bbox: 'bed' is 1"),
        ({"object_bbox": {"chair": [CHAIR], "flurb": [CHAIR]}}, "'flurb'"),
        ({"object_bbox": {"bed": [{**CHAIR, "uid": 1}]}}, "unknown key 'uid' of a box"),
        ({"video_path": 5}, "video_path is 5, not a text"),
        ({"floors": 2}, "unknown key 'floors' of a scene"),
    ],
)
def test_faults_that_cost_no_more_than_themselves(tmp_path, changes, words):
    (scene,), (line,) = read(tmp_path, {"a": {**ENTRY, **changes}})
    assert line.startswith("scene a: ")
    assert words in line
    assert scene.boxes


def test_names_that_are_none_or_twice(tmp_path):
    entry = json.dumps(ENTRY)
    found, lines = read(tmp_path, f'{{"a": {entry}, "a": {entry}, "x/y": {entry}}}')
    assert [scene.name for scene in found] == ["a"]
    assert "'a' is there twice; the first counts" in lines[0]
    assert "scene name 'x/y' cannot be a file's name" in lines[1]
    found, lines = read(tmp_path, {"a": 5, "b": ENTRY})
    assert lines == ["scene a: is 5, not an object; left out"]
    assert [scene.name for scene in found] == ["b"]


def test_files_that_are_none(tmp_path):
    with pytest.raises(SceneError, match="empty, where JSON"):
        read(tmp_path, "")
    with pytest.raises(SceneError, match="cut short"):
        read(tmp_path, json.dumps({"a": ENTRY})[:-3])
    for value in ([], {}, 5, None, [ENTRY]):
        found, (line,) = read(tmp_path, value)
        assert found == []
        assert "not an object {scene: ...}" in line


words = st.sampled_from([*ENTRY, *CHAIR, "chair", "table"])
anything = any_json(words, [CHAIR, [0] * 9], 9)


@given(
    st.fixed_dictionaries(
        {},
        optional={key: st.just(part) | anything for key, part in ENTRY.items()},
    ),
    st.fixed_dictionaries(
        {},
        optional={key: st.just(part) | anything for key, part in CHAIR.items()},
    ),
    anything,
)
@settings(max_examples=100, deadline=None)
def test_whatever_json_is_given(tmp_path_factory, entry, box, whole):
    path = tmp_path_factory.getbasetemp() / "any_meta_info.json"
    bbox = {"chair": [box, CHAIR], "sofa": [box]}
    near = {"a": entry, "b": {**ENTRY, "object_bbox": bbox}, "c": whole}
    for value in (near, whole):
        path.write_text(json.dumps(value))
        survives(read_meta_info, path)
