"""Exact geometry against slow independent ways: sampling, projections, complex numbers.

200 rooms of boxes turned at random, and 200 generated rooms.
"""

import math
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vica_jax.world.generate import make_scene
from vica_jax.world.geometry import (
    bearing,
    box_distance,
    category_distance,
    closest_points,
    distances,
    footprint,
    gap,
    inside,
    longest_dimension,
    overlaps,
    polygon_contains_box,
    quadrant,
    side,
    triangle,
    wall_distance,
)
from vica_jax.world.scene import Box, Scene, SceneError, polygon_area
from vica_jax.world.scene import upright as turned

ROOMS = 200
SMALL_TURNS = (0.0, 1e-12, 1e-9, 1e-7, 1e-4, 0.3, math.pi / 2, math.pi)


def upright(category: str, centre, size, yaw: float) -> Box:
    return turned(category, np.array(centre, float), np.array(size, float), float(yaw))


@cache
def generated() -> tuple[Scene, ...]:
    return tuple(make_scene(3, number) for number in range(ROOMS))


def any_box(rng: np.random.Generator) -> Box:
    """Upright, tilted, mirrored, axis-aligned; flat, long and small ones too."""
    centre, size = rng.uniform(-3, 3, 3), rng.uniform(0.02, 2.5, 3)
    if rng.random() < 0.4:
        return upright("box", centre, size, rng.choice(SMALL_TURNS))
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if rng.random() < 0.2:
        axes = np.eye(3)[rng.permutation(3)]
    return Box(category="box", centre=centre, size=size, axes=axes)


@pytest.fixture(scope="module")
def rooms() -> list[tuple[Box, ...]]:
    """200 rooms of boxes turned at random, then 200 generated ones."""
    rng = np.random.default_rng(0)
    drawn = [
        tuple(any_box(rng) for _ in range(rng.integers(4, 15))) for _ in range(200)
    ]
    return drawn + [scene.boxes for scene in generated()]


def is_in(box: Box, points: np.ndarray, slack: float = 0.0) -> np.ndarray:
    """Which points ``[...,3]`` are in the box, by its own axes."""
    return (np.abs((points - box.centre) @ box.axes.T) <= box.size / 2 + slack).all(-1)


def onto(box: Box, points: np.ndarray) -> np.ndarray:
    """The points of the box nearest to ``points [...,3]``."""
    local = (points - box.centre) @ box.axes.T
    return box.centre + np.clip(local, -box.size / 2, box.size / 2) @ box.axes


def grid(box: Box, n: int) -> np.ndarray:
    """``n^3`` points all over a box, its surface included."""
    line = np.linspace(-0.5, 0.5, n)
    places = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    return box.centre + (places * box.size) @ box.axes


def test_closest_points_are_in_the_boxes_and_no_others_are_closer(rooms):
    """A plane between two boxes proves it: it keeps them as far apart as the points."""
    apart = together = 0
    for boxes in rooms:
        pairs = list(combinations(boxes, 2))
        for a, b in pairs[:: max(1, len(pairs) // 6)]:
            distance, p, q = closest_points(a, b)
            assert is_in(a, p, 1e-11)
            assert is_in(b, q, 1e-11)
            assert math.isclose(math.dist(p, q), distance, abs_tol=1e-12)
            if distance == 0:
                together += 1
                assert is_in(a, q, 1e-11)
                continue
            normal = (q - p) / distance
            between = (b.corners @ normal).min() - (a.corners @ normal).max()
            assert between == pytest.approx(distance, abs=1e-12 / min(1, distance))
            apart += 1
    assert apart > 1500
    assert together > 50


def test_distances_against_sampled_points_and_alternating_projections(rooms):
    """No sampled point is nearer, and projecting to and fro gets down to the answer."""
    for boxes in rooms[::4]:
        a, b, c = boxes[:3]
        for one, other in ((a, b), (c, a)):
            exact = box_distance(one, other)
            samples = grid(one, 7)
            across = onto(other, samples)
            lengths = np.linalg.norm(samples - across, axis=1)
            assert lengths.min() >= exact - 1e-12
            step = np.linalg.norm(one.size) / 6  # as far as a sample is off, at most
            assert lengths.min() <= exact + step / 2 + 1e-12
            point = samples[lengths.argmin()]
            for _ in range(150):
                point = onto(one, onto(other, point))
            refined = math.dist(point, onto(other, point))
            assert exact - 1e-12 <= refined <= exact + 0.01


def test_the_matrix_of_a_room_is_its_pairs(rooms):
    for boxes in rooms[::25]:
        table = distances(boxes, boxes)
        assert table.shape == (len(boxes), len(boxes))
        np.testing.assert_array_equal(np.diag(table), 0)
        np.testing.assert_allclose(table, table.T, atol=1e-13)
        for i, j in combinations(range(len(boxes)), 2):
            assert table[i, j] == box_distance(boxes[i], boxes[j])
    assert distances([], rooms[0]).shape == (0, len(rooms[0]))


def test_gaps_are_the_best_of_all_directions(rooms):
    """Random directions never part two boxes better than the 15 axes, and where boxes
    overlap the best of many comes near."""
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    deep = 0
    for boxes in rooms[:ROOMS:2]:
        for a, b in combinations(boxes[:4], 2):
            best = gap(a, b)
            low = (b.corners @ directions.T).min(0) - (a.corners @ directions.T).max(0)
            if best >= 0:
                assert best <= box_distance(a, b) + 1e-12
                continue
            deep += 1
            assert low.max() <= best + 1e-12
            assert low.max() >= best - 0.2
    assert deep > 30


def test_overlaps_against_sampled_points(rooms):
    seen = 0
    for boxes in rooms[::3]:
        for a, b in combinations(boxes[:4], 2):
            shared = is_in(b, grid(a, 9)).any() or is_in(a, grid(b, 9)).any()
            depth = -gap(a, b)
            if shared:
                assert depth >= -1e-12
            if depth > 0.02:  # the point that closest_points names is in both
                assert overlaps(a, b)
                common = closest_points(a, b)[1]
                assert is_in(a, common, 1e-11)
                assert is_in(b, common, 1e-11)
                seen += 1
            if not overlaps(a, b):
                assert not is_in(b, grid(a, 9), -1e-9).any()
    assert seen > 25


def test_margins_of_overlaps():
    a = upright("box", [0, 0, 0.5], [1, 1, 1], 0.0)
    beside = upright("box", [1.1, 0, 0.5], [1, 1, 1], 0.0)
    within = upright("box", [0.95, 0, 0.5], [1, 1, 1], 0.0)
    touching = upright("box", [1, 1, 0.5], [1, 1, 1], 0.0)
    assert not overlaps(a, beside)
    assert not overlaps(a, beside, 0.09)
    assert overlaps(a, beside, 0.11)
    assert overlaps(a, within)
    assert overlaps(a, within, -0.04)
    assert not overlaps(a, within, -0.06)
    assert not overlaps(a, touching)
    assert box_distance(a, touching) == 0
    # Corner to corner it is the distance that counts, not the widest axis.
    corner = upright("box", [1.1, 1.1, 0.5], [1, 1, 1], 0.0)
    assert not overlaps(a, corner, 0.12)
    assert overlaps(a, corner, 0.15)


@pytest.mark.parametrize(
    ("centre", "yaw", "distance"),
    [
        ((3, 0, 0), 0.0, 2.0),  # face to face
        ((0, 0, 1.5), 0.3, 0.5),  # one above the other
        ((2, 2, 0), 0.0, math.sqrt(2)),  # edge to edge, parallel
        ((2, 2, 2), 0.0, math.sqrt(3)),  # corner to corner
        ((3, 0, 0), math.pi / 4, 2.5 - math.sqrt(0.5)),  # edge to face
        ((0.2, 0.1, 0), 0.7, 0.0),  # one in the other
        ((1, 0, 0), 0.0, 0.0),  # touching
    ],
)
def test_distances_known_by_hand(centre, yaw, distance):
    a = upright("box", [0, 0, 0], [1, 1, 1], 0.0)
    b = upright("box", centre, [1, 1, 1], yaw)
    found, p, q = closest_points(a, b)
    assert found == pytest.approx(distance, abs=1e-15)
    assert math.dist(p, q) == pytest.approx(distance, abs=1e-12)


def test_two_edges_that_cross_at_a_distance():
    """Neither has a corner near the other: only edges know the distance."""
    a = Box(
        category="box",
        centre=np.zeros(3),
        size=np.array([4.0, 1, 1]),
        axes=np.array([[1, 0, 0], [0, 1, 1], [0, -1, 1]]) / [[1], [2**0.5], [2**0.5]],
    )
    b = Box(
        category="box",
        centre=np.array([0.3, 0.2, 3]),
        size=np.array([1.0, 4, 1]),
        axes=np.array([[1, 0, 1], [0, 1, 0], [-1, 0, 1]]) / [[2**0.5], [1], [2**0.5]],
    )
    distance, p, q = closest_points(a, b)
    assert distance == pytest.approx(3 - math.sqrt(2))
    np.testing.assert_allclose(p[:2], [0.3, 0], atol=1e-12)
    np.testing.assert_allclose(q[:2], [0.3, 0], atol=1e-12)


def test_nearest_of_a_category():
    boxes = [upright("chair", [x, 0, 0.5], [0.5, 0.5, 1], 0.0) for x in (0.0, 2.0)]
    boxes.append(upright("table", [4, 0, 0.5], [1, 1, 1], 0.0))
    scene = Scene(name="a", dataset="world", boxes=tuple(boxes), area=20.0)
    assert category_distance(scene, "chair", "table") == pytest.approx(1.25)
    assert category_distance(scene, "table", "chair") == pytest.approx(1.25)
    with pytest.raises(SceneError, match="scene a: has no lamp"):
        category_distance(scene, "chair", "lamp")


def test_longest_dimension_is_the_longest_edge_between_corners(rooms):
    for boxes in rooms:
        corners = boxes[0].corners
        # Corners 0 and 1, 2, 4 differ in one of the three signs.
        edges = [math.dist(corners[0], corners[other]) for other in (1, 2, 4)]
        assert longest_dimension(boxes[0]) == pytest.approx(max(edges), abs=1e-12)


def test_footprints_reach_as_far_as_the_corners_in_every_direction(rooms):
    turns = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    ways = np.stack([np.cos(turns), np.sin(turns)])
    for boxes in rooms:
        for box in boxes[:3]:
            outline = footprint(box)
            assert outline.shape in ((4, 2), (6, 2))
            far = (box.corners[:, :2] @ ways).max(0)
            np.testing.assert_allclose((outline @ ways).max(0), far, atol=1e-9)
            after = np.roll(outline, -1, 0) - outline
            then = np.roll(after, -1, 0)
            assert (after[:, 0] * then[:, 1] - after[:, 1] * then[:, 0] > 0).all()


def winding(outline: np.ndarray, point: np.ndarray) -> int:
    """How often a polygon goes round a point, by angles of complex numbers."""
    around = (outline[:, 0] - point[0]) + 1j * (outline[:, 1] - point[1])
    return round(np.angle(np.roll(around, -1) / around).sum() / (2 * math.pi))


def any_outline(rng: np.random.Generator) -> np.ndarray:
    """A star-shaped polygon, counter-clockwise, with corners that point inwards."""
    turns = (np.arange(9) + rng.uniform(0.1, 0.9, 9)) * 2 * math.pi / 9
    reach = rng.uniform(0.5, 4, 9)
    return np.stack([np.cos(turns) * reach, np.sin(turns) * reach], 1)


@cache
def outlines() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    made = [scene.outline for scene in generated()]
    return [any_outline(rng) for _ in range(ROOMS)] + [o for o in made if o is not None]


def test_inside_against_winding_numbers():
    rng = np.random.default_rng(3)
    seen = 0
    for outline in outlines():
        points = rng.uniform(-4, 4, (8, 3))
        expected = [winding(outline, point) != 0 for point in points]
        np.testing.assert_array_equal(inside(outline, points), expected)
        seen += sum(expected)
        # On the walls is inside, and tolerance reaches over them.
        middles = (outline + np.roll(outline, -1, 0)) / 2
        assert inside(outline, middles, 1e-12).all()
        out = points[~np.array(expected)]
        away = wall_distance(outline, out)
        assert inside(outline, out, 1e-9 + away.max(initial=0)).all()
        assert not inside(outline, out, 0.999 * away.min(initial=1)).any()
    assert seen > 500


def double(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def ears(outline: np.ndarray) -> float:
    """Area by cutting off triangles that hold no other corner."""
    corners, total = list(outline.tolist()), 0.0
    while len(corners) > 2:
        for i, b in enumerate(corners):
            a, c = corners[i - 1], corners[(i + 1) % len(corners)]
            size = double(a, b, c)
            others = [p for p in corners if p not in (a, b, c)]
            free = not any(
                min(double(a, b, p), double(b, c, p), double(c, a, p)) >= -1e-12
                for p in others
            )
            if abs(size) < 1e-12 or (size > 0 and free):
                total += size / 2
                del corners[i]
                break
        else:
            raise AssertionError("no ear")
    return total


def test_areas_against_triangulation():
    for outline in outlines()[::2]:
        assert polygon_area(outline) == pytest.approx(ears(outline), rel=1e-12)
        assert polygon_area(outline[::-1]) == pytest.approx(-polygon_area(outline))


def test_boxes_within_outlines_against_sampled_points():
    """``tolerance`` is what may stick out."""
    rng = np.random.default_rng(4)
    line = np.linspace(-0.5, 0.5, 15)
    places = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    kept = dropped = 0
    for outline in outlines():
        for _ in range(2):
            centre, size = [*rng.uniform(-1.5, 1.5, 2), 0.5], rng.uniform(0.2, 1.5, 3)
            box = upright("box", centre, size, rng.uniform(0, 6))
            samples = box.centre[:2] + (places * size[:2]) @ box.axes[:2, :2]
            out = samples[~inside(outline, samples)]
            if polygon_contains_box(outline, box):
                assert not len(out)
                assert polygon_contains_box(outline, box, 0.1)
                kept += 1
            else:  # a corner is out, or one of the room's inner corners is in the box
                poking = np.insert(outline, 2, box.centre[2], axis=1)
                assert len(out) or is_in(box, poking).any()
                dropped += 1
            corners = footprint(box)
            far = corners[~inside(outline, corners, 0.1)]
            if len(far):
                assert not polygon_contains_box(outline, box, 0.0999)
    assert kept > 100
    assert dropped > 100


def test_a_wall_that_juts_into_a_box():
    """All corners are inside, yet the room's inner corner is not free."""
    outline = np.array([[0, 0], [4, 0], [4, 4], [2.2, 4], [2.2, 2], [1.8, 2], [1.8, 4]])
    outline = np.concatenate([outline, [[0, 4]]]).astype(float)
    box = upright("sofa", [2, 2.5, 0.4], [2, 0.8, 0.8], 0.0)
    assert inside(outline, footprint(box)).all()
    assert not polygon_contains_box(outline, box, 0.02)
    below = upright("sofa", [2, 1.61, 0.4], [2, 0.8, 0.8], 0.0)  # 0.01 into the wall
    assert not polygon_contains_box(outline, below)
    assert polygon_contains_box(outline, below, 0.02)


def test_pictures_thinner_than_the_tolerance_hang_on_walls():
    room = np.array([[0.0, 0], [4, 0], [4, 3], [0, 3]])
    for out in (-0.01, 0.0, 0.015):  # how far its back is in the wall
        picture = upright("picture", [2, -out + 0.01, 1.5], [1, 0.02, 0.8], 0.0)
        assert polygon_contains_box(room, picture, 0.02)
    assert not polygon_contains_box(
        room, upright("picture", [2, -0.02, 1.5], [1, 0.02, 0.8], 0.0), 0.02
    )


def test_generated_rooms_have_no_overlaps_and_stay_within_their_walls():
    for scene in generated()[:40]:
        for a, b in combinations(scene.boxes, 2):
            assert not overlaps(a, b, -0.02)
        for box in scene.boxes:
            assert polygon_contains_box(scene.outline, box, 0.02)


places = st.tuples(*[st.floats(-10, 10, allow_subnormal=False)] * 2)


@given(places, places, places)
@settings(max_examples=300, deadline=None)
def test_bearings_against_complex_numbers(stand, face, target):
    s, f, t = (complex(*place) for place in (stand, face, target))
    if min(abs(f - s), abs(t - s)) < 1e-6:
        return
    ratio = (t - s) / (f - s)
    angle = bearing(np.array([*stand, 1.0]), np.array(face), np.array([*target, 2.0]))
    assert -math.pi < angle <= math.pi
    assert np.exp(1j * angle) == pytest.approx(ratio / abs(ratio), abs=1e-12)
    if min(abs(ratio.real), abs(ratio.imag)) > 1e-9:
        depth = "front" if ratio.real > 0 else "back"
        assert quadrant(angle) == f"{depth}-{'left' if ratio.imag > 0 else 'right'}"
        if abs(abs(angle) - 0.75 * math.pi) > 1e-9:
            behind = -ratio.real > abs(ratio.imag)
            across = "left" if ratio.imag > 0 else "right"
            assert side(angle) == ("back" if behind else across)


def test_left_is_positive():
    here, north = np.zeros(3), np.array([0, 1.0, 0])
    assert bearing(here, north, np.array([-1.0, 0, 0])) == pytest.approx(math.pi / 2)
    assert bearing(here, north, np.array([1.0, 0, 0])) == pytest.approx(-math.pi / 2)
    assert bearing(here, north, -north) == math.pi
    with pytest.raises(SceneError, match="no direction"):
        bearing(here, north, np.array([0, 0, 5.0]))


def test_triangles_against_the_law_of_cosines(rooms):
    for boxes in rooms:
        a, b, c = boxes[:3]
        (ab, bc, ca), angles = triangle(a, b, c)
        assert ab == pytest.approx(math.dist(a.centre, b.centre), rel=1e-14)
        assert bc == pytest.approx(math.dist(b.centre, c.centre), rel=1e-14)
        assert ca == pytest.approx(math.dist(c.centre, a.centre), rel=1e-14)
        assert angles.sum() == pytest.approx(math.pi)
        assert math.cos(angles[0]) == pytest.approx(
            (ab**2 + ca**2 - bc**2) / (2 * ab * ca), abs=1e-9
        )
        assert math.cos(angles[1]) == pytest.approx(
            (ab**2 + bc**2 - ca**2) / (2 * ab * bc), abs=1e-9
        )
    with pytest.raises(SceneError, match="no triangle"):
        triangle(boxes[0], boxes[0], boxes[1])
