"""Scenes as plain JSON: lossless for generated ones, a line for every fault."""

import json
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from any_json import any_json, survives
from hypothesis import given, settings
from hypothesis import strategies as st

from vica_jax.world.check import check_scene
from vica_jax.world.generate import make_scene
from vica_jax.world.scene import Scene, SceneError
from vica_jax.world.scene_file import read_scenes, scene_json, write_scene

CHAIR = {"category": "chair", "centre": [0, 0, 0.5], "size": [0.5, 0.5, 1]}
TABLE = {"category": "table", "centre": [2, 0, 0.4], "size": [1.2, 0.8, 0.8], "yaw": 90}
SCENE = {"name": "attic", "area": 15, "boxes": [CHAIR, TABLE]}
SQUARE = [[-3, -3], [3, -3], [3, 3], [-3, 3]]


def read(folder: Path, value) -> tuple[list[Scene], list[str]]:
    path = folder / "scenes.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return read_scenes(path)


def same(a: Scene, b: Scene) -> None:
    """Equal to the last bit, dtypes and order of tables included."""
    for field in fields(Scene):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if field.name in ("boxes", "doors"):
            assert len(one) == len(other)
            for x, y in zip(one, other, strict=True):
                for key in vars(x):
                    equal(getattr(x, key), getattr(y, key))
        elif field.name == "colours":
            assert list(one) == list(other)
            for key in one:
                equal(one[key], other[key])
        else:
            equal(one, other)


def equal(a, b) -> None:
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    else:
        assert a == b
        assert not isinstance(a, dict) or list(a) == list(b)


def test_generated_scenes_read_back_to_the_last_bit(tmp_path):
    scenes = [make_scene(4, number) for number in range(20)]
    scenes[1] = scenes[1].with_first_seen(
        {name: 0.1 + 0.2 * k for k, name in enumerate(scenes[1].categories)}
    )
    for scene in scenes:
        write_scene(tmp_path / f"{scene.name}.json", scene)
    found, lines = read_scenes(tmp_path)
    assert lines == []
    for scene, back in zip(scenes, found, strict=True):
        same(scene, back)
    # A file of several, and the same again from what was read.
    (tmp_path / "all").mkdir()
    entries = json.dumps([scene_json(scene) for scene in found])
    (tmp_path / "all" / "rooms.json").write_text(entries)
    for scene, back in zip(scenes, read_scenes(tmp_path / "all")[0], strict=True):
        same(scene, back)


def test_written_files_are_the_same_every_time(tmp_path):
    scene = make_scene(4, 3)
    write_scene(tmp_path / "a.json", scene)
    write_scene(tmp_path / "b.json", scene)
    text = (tmp_path / "a.json").read_text()
    assert text == (tmp_path / "b.json").read_text()
    assert len(text.splitlines()) < len(scene.boxes) + 15  # a line for each box


def test_a_scene_without_finite_numbers_is_not_written(tmp_path):
    scene = Scene(name="a", dataset="b", boxes=(), area=math.nan)
    with pytest.raises(SceneError, match="scene a: a number in it is not finite"):
        write_scene(tmp_path / "a.json", scene)
    assert list(tmp_path.iterdir()) == []


def test_the_least_there_may_be(tmp_path):
    (scene,), lines = read(tmp_path, {"area": 15, "boxes": [CHAIR, TABLE]})
    assert lines == []
    assert (scene.name, scene.dataset, scene.area) == ("scenes", "scans", 15.0)
    assert scene.outline is None
    assert scene.first_seen is None
    chair, table = scene.boxes
    np.testing.assert_array_equal(chair.axes, np.eye(3))
    np.testing.assert_allclose(
        table.axes, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-9
    )
    np.testing.assert_allclose(table.high - table.low, [0.8, 1.2, 0.8])


def test_words_numbers_and_outlines_as_people_write_them(tmp_path):
    value = {
        "name": "attic",
        "area": None,
        "boxes": [{**CHAIR, "category": " Potted_Plant ", "colour": None}, CHAIR],
        "outline": [[0, 0], [0, 4], [5, 4], [5, 0], [0, 0]],  # clockwise and closed
        "doors": [{"wall": 1, "start": 1.0, "width": 0.9, "height": 2}],
        "counts": {"CHAIR": 2.0},
        "height": 3,
    }
    for box in value["boxes"]:
        box["centre"] = [2, 2, 0.5]
    (scene,), lines = read(tmp_path, value)
    assert lines == []
    assert scene.categories == ("chair", "potted plant")
    assert scene.area == 20.0
    assert scene.outline.tolist() == [[5, 0], [5, 4], [0, 4], [0, 0]]
    assert (scene.doors[0].wall, scene.doors[0].start) == (1, pytest.approx(3.1))
    assert scene.counts == {"chair": 2}
    assert scene.height == 3.0


def test_a_room_is_as_high_as_its_highest_box_where_nobody_says(tmp_path):
    high = {**CHAIR, "size": [0.5, 0.5, 3.0], "centre": [0, 0, 1.5]}
    (scene,), lines = read(tmp_path, {"boxes": [high], "outline": SQUARE})
    assert lines == []
    assert scene.height == 3.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boxes": []}, "has no objects"),
        ({"boxes": 5}, "boxes is 5, not a list"),
        ({"area": None}, "has neither area nor outline"),
        ({"area": "big"}, "has neither area nor outline"),
        ({"area": math.nan}, "room area is nan"),
        ({"area": 0}, "room area is 0"),
        ({"area": True}, "has neither area nor outline"),
        ({"area": None, "outline": [[0, 0], [1, 1], [1, 0], [0, 1]]}, "area is nan"),
        ({"name": 7}, "name is 7, not a text"),
        ({"name": "../../etc/passwd"}, "cannot be a file's name"),
        ({"name": "a\nb"}, "cannot be a file's name"),
        ({"name": "\ud800"}, "cannot be a file's name"),
        ({"name": "x" * 300}, "cannot be a file's name"),
        ({"name": ""}, "not a text"),
        ({"dataset": ".."}, "dataset '..' cannot be a file's name"),
        ({"boxes": [{"category": "chair"}]}, "none of its objects can be used"),
    ],
)
def test_a_refused_scene_leaves_the_others(tmp_path, changes, words):
    other = {**SCENE, "name": "cellar"}
    found, lines = read(tmp_path, [{**SCENE, **changes}, other])
    assert [scene.name for scene in found] == ["cellar"]
    assert words in " ".join(lines)
    for line in lines:
        assert "scene attic: " in line or "scenes.json: scene 0" in line
        assert "\n" not in line


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (5, "box 1 is 5, not an object"),
        ({**CHAIR, "category": 3}, "box 1: category is 3, not a word"),
        ({**CHAIR, "category": " _ "}, "box 1: category is ' _ ', not a word"),
        ({**CHAIR, "category": "a\x00b"}, "not a word"),
        ({**CHAIR, "centre": [1, 2]}, "box 1 (chair): centre is [1, 2], not three"),
        ({**CHAIR, "centre": None}, "centre is None, not three numbers"),
        ({**CHAIR, "centre": [1, 2, "3"]}, "not three numbers"),
        ({**CHAIR, "centre": [1, 2, True]}, "not three numbers"),
        ({**CHAIR, "centre": [1, 2, math.inf]}, "is not finite"),
        ({**CHAIR, "centre": [1, 2, 10**400]}, "is not finite"),
        ({**CHAIR, "size": [1, 0, 1]}, "box 1 (chair): size [1, 0, 1] is not above 0"),
        ({**CHAIR, "size": [1, -2, 1]}, "is not above 0"),
        ({**CHAIR, "size": 3}, "size is 3, not three numbers"),
        ({**CHAIR, "yaw": "north"}, "yaw is 'north', not degrees"),
        ({**CHAIR, "yaw": math.nan}, "yaw is nan, not degrees"),
        ({**CHAIR, "axes": [[1, 0], [0, 1]]}, "not three rows of three"),
        ({**CHAIR, "axes": [[2, 0, 0], [0, 2, 0], [0, 0, 2]]}, "not unit vectors"),
        ({**CHAIR, "yaw": 1, "axes": np.eye(3).tolist()}, "both yaw and axes"),
        ({**CHAIR, "colour": "red"}, "colour is 'red', not three numbers"),
        ({**CHAIR, "category": "flurb"}, "'flurb'"),
        ({**CHAIR, "centre": [9, 0, 0.5]}, "m through a wall"),
    ],
)
def test_a_faulty_box_leaves_the_others(tmp_path, box, words):
    scene = {**SCENE, "area": 36, "boxes": [TABLE, box, CHAIR], "outline": SQUARE}
    (found,), lines = read(tmp_path, scene)
    assert [kept.category for kept in found.boxes] == ["table", "chair"]
    (line,) = lines
    assert line.startswith("scene attic: ")
    assert words in line
    lost = isinstance(box, dict) and box["category"] == "chair"
    assert found.count("chair") == (2 if lost else 1)


def test_lines_name_boxes_by_their_place_in_the_file(tmp_path):
    flat = {**TABLE, "size": [1, 1, 0]}
    _, lines = read(tmp_path, {**SCENE, "boxes": [5, CHAIR, {"category": "x"}, flat]})
    assert lines[-1].startswith("scene attic: box 3 (table): size")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outline": 5}, "outline is not a list of corners"),
        ({"outline": [[0, 0], [1, 1], [1, 0], [0, 1]]}, "outline crosses itself"),
        ({"outline": [[0, 0], [1, 1]]}, "outline is not three or more corners"),
        ({"doors": []}, "doors without an outline"),
        ({"height": "high"}, "height is 'high', not a number"),
        ({"height": -1}, "height is -1 m"),
        ({"video": 3}, "video is 3, not a text"),
        ({"counts": [1]}, "counts is [1], not an object"),
        ({"counts": {"chair": 1.5}}, "counts: 'chair' is 1.5"),
        ({"counts": {"chair": True}}, "counts: 'chair' is True"),
        ({"counts": {"chair": 1e300}}, "counts: 'chair' is 1e+300"),
        ({"counts": {"": 1}}, "counts: '' is 1"),
        (
            {"first_seen": {"table": 1, "chair": "soon"}},
            "first_seen: 'chair': 'soon' left out",
        ),
        (
            {"first_seen": {"table": 1, "chair": math.nan}},
            "'chair' is first seen at nan s",
        ),
        ({"colours": {"sky": [0, 0, 1]}}, "colours: 'sky'"),
        ({"colours": {"floor": [0, 0, 2]}}, "colour of the floor"),
        ({"color": 1}, "unknown key 'color' of a scene, ignored"),
        ({"boxes": [CHAIR, {**TABLE, "roll": 3}]}, "unknown key 'roll' of a box"),
    ],
)
def test_faults_that_cost_no_more_than_themselves(tmp_path, changes, words):
    found, lines = read(tmp_path, {**SCENE, **changes})
    (line,) = lines
    assert line.startswith("scene attic: ")
    assert words in line
    (scene,) = found
    assert len(scene.boxes) == 2
    assert check_scene(scene) == []


@pytest.mark.parametrize("door", [5, {}, {"wall": 0.5, "start": 1, "width": 1}])
def test_doors_that_are_none(tmp_path, door):
    value = {**SCENE, "area": 36, "outline": SQUARE, "doors": [door]}
    (scene,), (line,) = read(tmp_path, value)
    assert line.startswith("scene attic: door 0 ")
    assert scene.doors == ()


def test_an_unknown_key_of_many_scenes_is_said_once(tmp_path):
    scenes = [{**SCENE, "name": f"room{i}", "colour": 1} for i in range(90)]
    found, lines = read(tmp_path, scenes)
    assert len(found) == 90
    assert lines == [
        "scene room0 and 89 more: unknown key 'colour' of a scene, ignored"
    ]


def test_scenes_of_the_same_name(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps(SCENE))
    (tmp_path / "c.json").write_text(json.dumps({**SCENE, "dataset": "elsewhere"}))
    (tmp_path / "a.json").write_text(json.dumps({**SCENE, "area": 30}))
    found, (line,) = read_scenes(tmp_path)
    assert [(s.area, s.dataset) for s in found] == [(30, "scans"), (15, "elsewhere")]
    assert line.startswith("scene attic: a second scene of that name")
    assert "b.json" in line


def test_keys_that_are_there_twice(tmp_path):
    text = '{"name": "attic", "area": 15, "area": 3, "boxes": [%s]}'
    (scene,), (line,) = read(tmp_path, text % json.dumps(CHAIR))
    assert scene.area == 15
    assert "'area' is there twice; the first counts" in line


GOOD = json.dumps(SCENE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (GOOD[:-7].encode(), "no JSON, or cut short"),
        (b"name: attic", "no JSON, or cut short: Expecting value (line 1, column 1)"),
        (b"\xff\xfe\x00", "not a text in UTF-8"),
        (b"[" * 100000, "nested too deeply"),
        (b"[1" + b"0" * 5000 + b"]", "an integer of thousands of digits"),
    ],
)
def test_files_that_are_no_json(tmp_path, content, words):
    path = tmp_path / "b.json"
    path.write_bytes(content)
    with pytest.raises(SceneError) as error:
        read_scenes(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    (tmp_path / "a.json").write_text(GOOD)  # in a folder the others go on
    found, lines = read_scenes(tmp_path)
    assert [scene.name for scene in found] == ["attic"]
    assert lines == [str(error.value)]


def test_a_mark_at_the_beginning_is_no_fault(tmp_path):
    (tmp_path / "a.json").write_text("\ufeff" + GOOD, encoding="utf-8")
    assert len(read_scenes(tmp_path)[0]) == 1


def test_nowhere_to_read(tmp_path):
    with pytest.raises(SceneError, match="cannot be read: No such file"):
        read_scenes(tmp_path / "none.json")
    with pytest.raises(SceneError, match="a folder without"):
        read_scenes(tmp_path)
    with pytest.raises(SceneError, match="cannot be read"):
        read_scenes("a\0b")
    assert read(tmp_path, []) == (
        [],
        [f"{tmp_path}/scenes.json: a list without scenes"],
    )
    assert "is 'x', not an object" in read(tmp_path, ["x"])[1][0]


WORDS = "doors counts category centre size yaw axes colour wall start floor chair table"
words = st.sampled_from([*SCENE, *WORDS.split()])
anything = any_json(words, [SQUARE, CHAIR], 3)
FULL = {
    **SCENE,
    "dataset": "own",
    "area": 36,
    "outline": SQUARE,
    "height": 2.6,
    "doors": [{"wall": 0, "start": 0.5, "width": 1, "height": 2}],
    "counts": {"chair": 2},
    "first_seen": {"chair": 0.5},
    "video": "attic.mp4",
    "complete": True,
    "colours": {"floor": [0, 0.5, 1]},
    "boxes": [
        {**CHAIR, "colour": [1, 0, 0]},
        {**CHAIR, "axes": [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]},
        TABLE,
    ],
}


@st.composite
def nearly_good(draw):
    """A good scene, some of its parts put anew or taken away, at any depth."""
    scene = json.loads(json.dumps(FULL))
    for _ in range(draw(st.integers(1, 3))):
        part = scene
        while True:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = isinstance(part[key], dict | list)
            if inner and draw(st.integers(0, 3)):
                part = part[key]
                continue
            if draw(st.booleans()) and draw(st.booleans()):
                del part[key]
            else:
                part[key] = draw(anything)
            break
    return scene


@given(st.one_of(anything, nearly_good(), st.lists(nearly_good(), max_size=2)))
@settings(max_examples=200, deadline=None)
def test_whatever_json_is_given(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    survives(read_scenes, path)


@given(st.integers(0, len(GOOD)), st.binary(max_size=6), st.integers(0, 4))
@settings(max_examples=100, deadline=None)
def test_whatever_bytes_are_given(tmp_path_factory, where, put, gone):
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(GOOD[:where].encode() + put + GOOD[where + gone :].encode())
    survives(read_scenes, path)


def test_what_first_seen_leaves_out_is_said(tmp_path):
    (scene,), (line,) = read(tmp_path, {**SCENE, "first_seen": {"Chair": 1.0}})
    assert line == (
        "scene attic: first_seen lacks 'table': nothing is asked about them"
    )
    assert scene.first_seen == {"chair": 1.0}


def test_complete_is_said_and_needs_what_it_says(tmp_path):
    whole = {**SCENE, "area": 36, "outline": SQUARE, "height": 2.6, "complete": True}
    (scene,), lines = read(tmp_path, whole)
    assert lines == [] and scene.complete
    assert scene_json(scene)["complete"] is True
    (scene,), lines = read(tmp_path, {**whole, "complete": False})
    assert lines == [] and not scene.complete and "complete" not in scene_json(scene)
    for changes, words in (
        ({"height": None}, "complete without an outline and a height"),
        ({"outline": None}, "complete without an outline and a height"),
        ({"complete": 1}, "complete is 1, not true or false"),
        ({"boxes": [CHAIR, TABLE, 5]}, "box 2 is 5"),
        ({"boxes": [CHAIR, {**TABLE, "size": [1, 1]}]}, "box 1 (table)"),
        ({"doors": [5]}, "door 0"),
        ({"doors": 5}, "doors"),
    ):
        (scene,), (line,) = read(tmp_path, {**whole, **changes})
        assert words in line
        assert not scene.complete
