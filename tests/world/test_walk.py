"""Walks: where they go, what they keep clear of, and what they show when."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from vica_jax.world.generate import make_scene
from vica_jax.world.geometry import footprint, inside
from vica_jax.world.scene import Box, Scene, SceneError, upright
from vica_jax.world.walk import Walk, make_walk
from vica_jax.world.walkway import KEEP, KEEP_LOW, TALL, clearance, find_way

ROOMS = 40
SQUARE = np.array([[-2.0, -2.0], [2.0, -2.0], [2.0, 2.0], [-2.0, 2.0]])


@cache
def walks() -> tuple[tuple[Scene, Walk], ...]:
    scenes = [make_scene(9, number) for number in range(ROOMS)]
    return tuple(
        (scene, make_walk(scene, np.random.default_rng([9, number])))
        for number, scene in enumerate(scenes)
    )


def bare(*boxes: Box, outline=SQUARE) -> Scene:
    return Scene(name="bare", dataset="test", boxes=boxes, area=16.0, outline=outline)


def border(polygon: np.ndarray) -> np.ndarray:
    """Points a centimetre apart on a polygon's edges."""
    points = []
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        share = np.arange(0, 1, 0.01 / max(float(np.linalg.norm(b - a)), 0.01))
        points.append(a + share[:, None] * (b - a))
    return np.concatenate(points)


def test_positions_keep_clear_of_walls_and_furniture():
    for scene, walk in walks():
        assert scene.outline is not None
        floor = walk.positions[:, :2]
        assert inside(scene.outline, floor).all(), scene.name
        solids = [(border(scene.outline), KEEP)]
        for box in scene.boxes:
            polygon = footprint(box)
            assert not inside(polygon, floor).any(), (scene.name, box.category)
            solids.append((border(polygon), KEEP if box.high[2] > TALL else KEEP_LOW))
        for points, keep in solids:
            apart = np.linalg.norm(floor[:, None] - points, axis=-1).min()
            assert apart >= keep, scene.name
        # What the walk itself measures agrees with that.
        least = clearance(scene, floor).min()
        measured = min(
            np.linalg.norm(floor[:, None] - points, axis=-1).min() - keep
            for points, keep in solids
        )
        assert abs(least - measured) < 0.005, scene.name


def test_walks_are_a_persons():
    seconds = []
    for scene, walk in walks():
        assert scene.outline is not None
        n = len(walk)
        seconds.append(n / walk.rate)
        assert walk.positions.shape == (n, 3) and walk.pitches.shape == (n,)
        assert walk.rate == 10.0 and 12 <= seconds[-1] <= 30
        height = walk.positions[:, 2]
        assert np.ptp(height) == 0 and 1.45 <= height[0] <= 1.65
        speed = np.linalg.norm(np.diff(walk.positions, axis=0), axis=1) * walk.rate
        assert speed.max() < 1.3
        assert np.degrees(np.abs(np.diff(walk.yaws))).max() * walk.rate < 120
        assert np.degrees(np.abs(np.diff(walk.yaws, 2))).max() < 2  # no jerks
        assert walk.pitches.min() > -0.36 and walk.pitches.max() < -0.08
        assert np.ptp(walk.yaws) > np.radians(240)
        # In by the door, and back to it.
        door = scene.doors[0]
        start = scene.outline[door.wall]
        edge = scene.outline[(door.wall + 1) % len(scene.outline)] - start
        middle = start + (door.start + door.width / 2) * edge / np.linalg.norm(edge)
        assert np.linalg.norm(walk.positions[0, :2] - middle) < 0.75
        assert np.linalg.norm(walk.positions[0] - walk.positions[-1]) < 0.05
    assert np.ptp(seconds) > 5


def test_walks_turn_both_ways():
    senses = {bool(walk.yaws[-1] > walk.yaws[0]) for _, walk in walks()}
    assert senses == {False, True}
    rounds = set()
    for _, walk in walks():
        x, y = walk.positions[:, :2].T
        rounds.add(bool((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0))
    assert rounds == {False, True}


def seen_at(scene: Scene, walk: Walk) -> np.ndarray:
    """Frame by box: whether a point on a face is in an 80 degree view, nothing between.

    Slow and independent: points along the line of sight are tested against boxes.
    """
    seen = np.zeros((len(walk), len(scene.boxes)), bool)
    grid = np.stack(np.meshgrid(*[[-0.9, 0, 0.9]] * 3), -1).reshape(-1, 3)
    share = np.linspace(0.02, 0.98, 40)[:, None, None]
    for frame in range(len(walk)):
        eye, yaw, pitch = (
            walk.positions[frame],
            walk.yaws[frame],
            walk.pitches[frame],
        )
        ahead = np.array(
            [np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)]
        )
        left = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
        up = np.cross(ahead, left)
        for k, box in enumerate(scene.boxes):
            points = box.centre + (grid * box.size / 2) @ box.axes - eye
            depth = points @ ahead
            wide = np.abs(points @ left) < np.tan(np.radians(40)) * depth
            high = np.abs(points @ up) < np.tan(np.radians(40)) * 0.75 * depth
            points = points[wide & high & (depth > 0)]
            line = eye + share * points
            free = np.ones(len(points), bool)
            for other, solid in enumerate(scene.boxes):
                if other != k:
                    own = np.abs((line - solid.centre) @ solid.axes.T)
                    free &= ~(own < solid.size / 2).all(-1).any(0)
            if scene.outline is not None and len(scene.outline) > 4:
                free &= inside(scene.outline, line[..., :2]).all(0)
            seen[frame, k] = free.any()
    return seen


def test_sixteen_frames_show_nearly_everything_one_after_another():
    shown = total = 0
    first, at_once = [], []
    for scene, walk in walks()[:24]:
        taken = np.linspace(0, len(walk) - 1, 16).astype(int)
        seen = seen_at(scene, walk.at(taken))
        shown += int(seen.any(0).sum())
        total += len(scene.boxes)
        for name in scene.categories:
            own = [k for k, box in enumerate(scene.boxes) if box.category == name]
            if seen[:, own].any():
                first.append(int(seen[:, own].any(1).argmax()))
        at_once.append(len({*first[-len(scene.categories) :]}))
    assert shown / total >= 0.97
    assert np.mean(np.array(first) == 0) < 0.4
    assert np.mean(np.array(first) >= 8) > 0.1
    assert np.mean(np.array(at_once) >= 4) > 0.6


def test_the_same_generator_the_same_walk():
    scene = make_scene(9, 3)
    again = make_walk(scene, np.random.default_rng([9, 3]))
    walk = walks()[3][1]
    assert np.array_equal(again.positions, walk.positions)
    assert np.array_equal(again.yaws, walk.yaws)
    assert np.array_equal(again.pitches, walk.pitches)
    other = make_walk(scene, np.random.default_rng([9, 4]))
    assert not np.array_equal(other.yaws[:50], walk.yaws[:50])


def test_frames_and_rate_as_asked():
    scene = make_scene(9, 0)
    walk = make_walk(scene, np.random.default_rng(0), frames=16, rate=2.0)
    assert len(walk) == 16 and walk.rate == 2.0
    some = walk.at(np.array([0, 5, 15]))
    assert len(some) == 3 and some.rate == 2.0
    assert np.array_equal(some.positions, walk.positions[[0, 5, 15]])
    assert len(make_walk(scene, np.random.default_rng(0), frames=1)) == 1


def test_rooms_without_doors_or_furniture():
    walk = make_walk(bare(), np.random.default_rng(0))
    assert (clearance(bare(), walk.positions[:, :2]) >= 0).all()
    assert np.ptp(walk.positions[:, 0]) > 1


def test_a_tilted_box_is_walked_round():
    turn = np.radians(30)
    box = Box(
        category="box",
        centre=np.array([0.0, 0.0, 1.0]),
        size=np.array([1.0, 0.5, 2.0]),
        axes=np.array(
            [
                [np.cos(turn), 0, np.sin(turn)],
                [0, 1, 0],
                [-np.sin(turn), 0, np.cos(turn)],
            ]
        ),
    )
    floor = make_walk(bare(box), np.random.default_rng(1)).positions[:, :2]
    beyond = np.maximum(np.abs(floor) - (box.high - box.low)[:2] / 2, 0)
    assert (np.linalg.norm(beyond, axis=1) >= KEEP).all()


def test_axes_in_another_order_are_the_same_footprint():
    plain = upright("box", np.array([0.3, 0.1, 0.9]), np.array([1.2, 0.6, 1.8]), 0.4)
    order = [2, 0, 1]
    turned = replace(plain, size=plain.size[order], axes=plain.axes[order])
    points = np.random.default_rng(0).uniform(-2, 2, (200, 2))
    assert np.allclose(clearance(bare(plain), points), clearance(bare(turned), points))


def test_nowhere_to_stand():
    block = upright("bed", np.array([0, 0, 0.3]), np.array([3.8, 3.8, 0.6]), 0.0)
    with pytest.raises(SceneError, match=r"^bare: nowhere to stand"):
        make_walk(bare(block), np.random.default_rng(0))


def test_a_place_for_one():
    """A ring of beds leaves a spot, too small to walk about in."""
    narrow = np.array([[0.0, 0.0], [0.8, 0.0], [0.8, 0.8], [0.0, 0.8]])
    walk = make_walk(bare(outline=narrow), np.random.default_rng(0))
    assert (clearance(bare(outline=narrow), walk.positions[:, :2]) >= 0).all()
    assert 12 <= len(walk) / walk.rate <= 30


def test_no_outline_no_walk():
    scene = replace(bare(), outline=None)
    for ask in (find_way, make_walk):
        with pytest.raises(SceneError, match=r"^bare: no outline"):
            ask(scene, np.random.default_rng(0))
    with pytest.raises(SceneError, match=r"^bare: no outline"):
        clearance(scene, np.zeros((1, 2)))
