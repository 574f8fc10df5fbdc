"""Faults of scenes: each costs a line that names the scene, and no more than itself."""

from dataclasses import replace

import numpy as np
import pytest

from vica_jax.world.check import (
    check_scene,
    counter_clockwise,
    examine,
    orthonormal,
    outline_fault,
    usable,
)
from vica_jax.world.generate import make_scene
from vica_jax.world.scene import Box, Door, Scene, SceneError, polygon_area, upright

ROOM = np.array([[-2.0, -1.5], [2, -1.5], [2, 1.5], [-2, 1.5]])
TURNED = np.array([[0.6, 0.8, 0], [-0.8, 0.6, 0], [0, 0, 1.0]])


def thing(category: str = "chair", x: float = 0.0, y: float = 0.0, **changes) -> Box:
    box = upright(category, np.array([x, y, 0.5]), np.array([0.5, 0.5, 1.0]), 0.3)
    return replace(box, **changes)


def room(*boxes: Box, **changes) -> Scene:
    boxes = boxes or (thing(), thing("table", x=1.0))
    scene = Scene(name="attic", dataset="own", boxes=boxes, area=12.0, outline=ROOM)
    return replace(scene, **changes)


def only_line(scene: Scene) -> str:
    """The one line of a scene, which must name it."""
    lines = check_scene(scene)
    assert len(lines) == 1, lines
    assert lines[0].startswith("scene attic: ")
    assert "\n" not in lines[0]
    return lines[0]


def test_generated_scenes_pass_as_they_are():
    for number in range(50):
        scene = make_scene(11, number)
        good, lines = examine(scene)
        assert lines == []
        assert good is not None
        assert good.boxes == scene.boxes
        assert (good.area, good.height) == (scene.area, scene.height)
        assert good.counts == scene.counts
        assert [vars(door) for door in good.doors] == [vars(d) for d in scene.doors]
        np.testing.assert_array_equal(good.outline, scene.outline)


nan, inf = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": np.array([0.5, 0.0, 1])}, "size [0.5, 0, 1] is not above 0"),
        ({"size": np.array([0.5, -0.2, 1])}, "size [0.5, -0.2, 1] is not above 0"),
        ({"size": np.array([0.5, 1e-300, 1])}, "is not above 0"),
        ({"size": np.array([0.5, nan, 1])}, "size [0.5, nan, 1] is not finite"),
        ({"size": np.array([0.5, inf, 1])}, "size [0.5, inf, 1] is not finite"),
        ({"size": np.array([500.0, 600, 1000])}, "are these metres?"),
        ({"centre": np.array([nan, 0, 0.5])}, "centre [nan, 0, 0.5] is not finite"),
        ({"centre": np.array([0, -inf, 0.5])}, "centre [0, -inf, 0.5] is not finite"),
        ({"centre": np.array([1e300, 0, 0.5])}, "beyond 1e+07 m"),
        ({"centre": np.zeros(2)}, "are not 3, 3 and 3x3 numbers"),
        ({"axes": TURNED * 1.5}, "not unit vectors at right angles"),
        ({"axes": TURNED * 1e200}, "not unit vectors"),
        ({"axes": TURNED * 0}, "not unit vectors at right angles"),
        ({"axes": TURNED * nan}, "not unit vectors"),
        ({"axes": TURNED[[0, 0, 2]]}, "not unit vectors at right angles"),
        ({"centre": np.array([2.0, 0, 0.5])}, "through a wall"),
        ({"centre": np.array([9.0, 0, 0.5])}, "reaches 7.31 m through a wall"),
        ({"centre": np.array([0, 0, 0.4])}, "reaches 0.10 m through the floor"),
        ({"centre": np.array([0, 0, 2.3])}, "reaches 0.20 m through the ceiling"),
    ],
)
def test_a_faulty_box_costs_that_box(changes, words):
    scene = room(thing(), thing(**changes), thing("table", x=1))
    line = only_line(scene)
    assert line.startswith("scene attic: box 1 (chair): ")
    assert words in line
    assert line.endswith("; left out")
    good = usable(scene)
    assert [box.category for box in good.boxes] == ["chair", "table"]
    assert check_scene(good) == []


def test_a_category_keeps_its_number_when_a_box_goes():
    """Nobody takes the chair that is left for the only one."""
    scene = room(thing(), thing(size=np.zeros(3)), thing("table", x=1))
    good = usable(scene)
    assert good.count("chair") == 2
    assert len(good.of("chair")) == 1
    assert [box.category for box in good.single()] == ["table"]
    stated = usable(replace(scene, counts={"chair": 7}))
    assert stated.count("chair") == 7


def test_walls_are_known_by_the_outline_alone():
    far = room(thing(x=9.0), outline=None)
    assert check_scene(far) == []
    slightly = room(thing(x=2.0 - 0.32))  # reaches 0.0015 m into the wall
    assert check_scene(slightly) == []


def test_the_room_s_inner_corner_is_a_wall():
    ell = np.array([[0.0, 0], [4, 0], [4, 2], [2, 2], [2, 4], [0, 4]])
    box = Box(
        category="table",
        centre=np.array([2.0, 2.0, 0.5]),
        size=np.array([3.0, 0.4, 0.5]),
        axes=np.array([[1, -1, 0], [1, 1, 0], [0, 0, 2**0.5]]) / 2**0.5,
    )
    assert "reaches through a wall" in only_line(
        room(thing(x=1, y=1), box, outline=ell)
    )


def test_nothing_to_ask_about():
    for scene, words in (
        (room(outline=None, area=nan), "room area is nan m2"),
        (room(outline=None, area=0.0), "room area is 0 m2"),
        (room(outline=None, area=-3.0), "room area is -3 m2"),
        (room(outline=None, area=inf), "room area is inf m2"),
        (replace(room(), boxes=()), "has no objects"),
    ):
        assert words in only_line(scene)
        with pytest.raises(SceneError, match=f"^scene attic: {words}"):
            usable(scene)
    scene = room(thing(size=np.zeros(3)))
    assert examine(scene)[0] is None
    assert check_scene(scene)[-1] == (
        "scene attic: none of its objects can be used; left out"
    )


def test_categories_without_a_plural():
    scene = room(
        thing(),
        thing("flurb", x=1.0),
        counts={"chair": 1, "glorp": 2},
        first_seen={"chair": 1.0, "flurb": 2.0},
    )
    lines = check_scene(scene)
    assert [line[:13] for line in lines] == ["scene attic: "] * 2
    assert "'flurb'" in lines[0]
    assert "left out (1 boxes)" in lines[0]
    assert "'glorp'" in lines[1]
    good = usable(scene)
    assert good.categories == ("chair",)
    assert good.counts == {"chair": 1}
    assert good.first_seen == {"chair": 1.0}


@pytest.mark.parametrize("count", [-1, True])
def test_counts_that_are_no_number_of_things(count):
    scene = room(counts={"chair": count, "table": 3})
    assert "count of 'chair'" in only_line(scene)
    assert usable(scene).counts == {"table": 3}


@pytest.mark.parametrize("second", [nan, -1.0, inf])
def test_times_that_are_none(second):
    scene = room(first_seen={"chair": second, "table": 0.5})
    assert "'chair' is first seen at" in only_line(scene)
    assert usable(scene).first_seen == {"table": 0.5}


@pytest.mark.parametrize(
    ("outline", "words"),
    [
        (ROOM[[0, 2, 1, 3]], "crosses itself (walls 0 and 2)"),
        (ROOM[[0, 1, 1, 2, 3]], "touches itself"),
        (ROOM[:2], "three or more corners"),
        (np.zeros((4, 3)), "three or more corners"),
        (np.zeros((4, 2)), "touches itself"),
        (np.where(ROOM > 1, nan, ROOM), "not finite"),
        (ROOM * 1e9, "not finite or beyond"),
        (np.array([[0, 0], [4, 0], [2, 0], [2, 3.0]]), "touches itself"),  # there, back
        (np.zeros((2000, 2)), "has 2000 corners"),
    ],
)
def test_outlines_that_are_no_floor(outline, words):
    scene = room(outline=outline, doors=(door(),))
    assert words in only_line(scene)
    good = usable(scene)
    assert good.outline is None
    assert good.doors == ()
    assert good.area == 12.0


def door(**changes) -> Door:
    return replace(Door(wall=1, start=0.5, width=0.9, height=2.0), **changes)


def test_outlines_without_a_fault():
    assert outline_fault(ROOM) is None
    ell = np.array([[0.0, 0], [4, 0], [4, 2], [2, 2], [2, 4], [0, 4]])
    straight = np.array([[0.0, 0], [1, 0], [4, 0], [4, 4], [0, 4]])
    for outline in (ell, straight, ell[::-1]):
        assert outline_fault(outline) is None
    for number in range(50):
        assert outline_fault(make_scene(11, number).outline) is None


def test_a_clockwise_outline_is_turned_round_with_its_doors():
    scene = room(outline=ROOM[::-1], doors=(door(wall=2), door(wall=3, start=0.1)))
    assert check_scene(scene) == []
    good = usable(scene)
    assert polygon_area(good.outline) == 12.0
    for old, new in zip(scene.doors, good.doors, strict=True):
        there = ends(good.outline, new)[::-1]
        np.testing.assert_allclose(ends(scene.outline, old), there, atol=1e-12)
    again = counter_clockwise(good.outline, good.doors)
    np.testing.assert_array_equal(again[0], scene.outline)
    assert [new.wall for new in again[1]] == [2, 3]


def ends(outline: np.ndarray, door: Door) -> np.ndarray:
    """Where a door begins and ends, ``[2,2]``."""
    here, there = outline[door.wall], outline[(door.wall + 1) % len(outline)]
    way = (there - here) / np.linalg.norm(there - here)
    start = here + door.start * way
    return np.stack([start, start + door.width * way])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wall": 4}, "is in wall 4 of 4"),
        ({"wall": -1}, "is in wall -1 of 4"),
        ({"start": -0.5}, "runs from -0.5 to 0.4 m of a wall of 3 m"),
        ({"start": 2.5}, "runs from 2.5 to 3.4 m of a wall of 3 m"),
        ({"start": nan}, "runs from nan"),
        ({"width": 0.0}, "measures 0 x 2 m"),
        ({"height": nan}, "measures 0.9 x nan m"),
        ({"height": 3.0}, "is 3 m high in a room of 2.6 m"),
    ],
)
def test_doors_that_are_in_no_wall(changes, words):
    scene = room(doors=(door(), door(**changes)))
    assert f"door 1 {words}" in only_line(scene)
    assert [kept.start for kept in usable(scene).doors] == [0.5]


def test_area_height_and_colours():
    assert "outline's 12; the outline counts" in only_line(room(area=20.0))
    assert usable(room(area=20.0)).area == 12.0
    assert usable(room(area=12.05)).area == 12.0
    assert "room area is nan m2" in only_line(room(area=nan))
    assert usable(room(area=nan)).area == 12.0
    assert "height is nan m" in only_line(room(height=nan))
    assert usable(room(height=-1.0)).height == 2.6
    odd = room(colours={"floor": np.array([0, 0, 2.0]), "wall": np.array([0, 0, 1.0])})
    assert "colour of the floor" in only_line(odd)
    assert list(usable(odd).colours) == ["wall"]
    box = room(thing(colour=np.array([0, nan, 1.0])))
    assert "box 0 (chair): colour" in only_line(box)
    assert usable(box).boxes[0].colour is None


@pytest.mark.parametrize("mark", "<>{}|,")
def test_categories_with_marks_of_templates_are_refused(mark):
    scene = room(thing(), thing(f"red{mark} lamp", x=1.0), complete=True)
    line = only_line(scene)
    assert repr(f"red{mark} lamp") in line
    assert line.endswith("left out (1 boxes)")
    good = usable(scene)
    assert good.categories == ("chair",)
    assert not good.complete


def test_what_is_left_out_leaves_no_scene_complete():
    for changes in (
        {"boxes": (thing(), thing(size=np.zeros(3)))},
        {"boxes": (thing(), thing("flurb", x=1.0))},
        {"doors": (door(wall=9),)},
        {"height": nan},
        {"outline": ROOM[[0, 2, 1, 3]]},
    ):
        assert not usable(room(complete=True, **changes)).complete, changes
    assert usable(room(complete=True)).complete
    assert not usable(room()).complete


def test_axes_are_put_right_where_they_nearly_are():
    rng = np.random.default_rng(0)
    for _ in range(50):
        exact, _ = np.linalg.qr(rng.normal(size=(3, 3)))  # left-handed ones, too
        axes = exact + rng.uniform(-2e-3, 2e-3, (3, 3))
        box = thing(axes=axes, size=np.full(3, 0.2))
        (good,) = usable(room(box)).boxes
        np.testing.assert_allclose(good.axes @ good.axes.T, np.eye(3), atol=1e-14)
        np.testing.assert_allclose(good.axes, exact, atol=5e-3)
        assert np.linalg.det(good.axes) * np.linalg.det(exact) > 0
        np.testing.assert_allclose(orthonormal(exact), exact, atol=1e-14)
    box = thing()
    assert usable(room(box)).boxes[0] is box


def test_all_faults_of_a_scene_are_said_at_once():
    scene = room(
        thing(size=np.zeros(3)),
        thing("flurb"),
        thing("table", x=50.0),
        thing("sofa"),
        counts={"sofa": -1},
        height=nan,
        area=5.0,
        doors=(door(wall=9),),
    )
    assert len(check_scene(scene)) == 7
    assert usable(scene).categories == ("sofa",)
