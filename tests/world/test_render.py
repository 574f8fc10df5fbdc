"""Rendered ids and depths against rays cut with every face, and the look of it."""

import math
from itertools import pairwise

import numpy as np
import pytest

from vica_jax.world.camera import Camera, basis
from vica_jax.world.film import pixel_counts
from vica_jax.world.generate import make_scene
from vica_jax.world.render import CHUNK, Renderer
from vica_jax.world.scene import Box, Door, Scene, SceneError, upright
from vica_jax.world.walk import make_walk

CEILING, FLOOR, WALL, DOOR = -1, -2, -3, -4
SQUARE = np.array([[-3.0, -2.5], [3.0, -2.5], [3.0, 2.5], [-3.0, 2.5]])
CORNERED = np.array([[-3.0, -2.5], [3, -2.5], [3, 0.5], [0.8, 0.5], [0.8, 2], [-3, 2]])
GREY = np.array([0.5, 0.5, 0.5])


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(Camera(width=64, height=48))


def room(*boxes: Box, outline: np.ndarray = SQUARE, **keys) -> Scene:
    given = {"name": "test", "dataset": "world", "area": 30.0, "height": 2.6, **keys}
    return Scene(boxes=boxes, outline=outline, **given)


def look(renderer: Renderer, scene: Scene, place, yaw: float, pitch: float = 0.0):
    """Colours, ids and depths of one frame."""
    frames = renderer.render_depths(
        scene, np.array([place], float), np.array([yaw]), np.array([pitch])
    )
    return tuple(array[0] for array in frames)


def random_box(rng: np.random.Generator) -> Box:
    """Anywhere in the room but where the camera is, turned about all three axes."""
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    angle, far = rng.uniform(0, math.tau), rng.uniform(1.4, 2.4)
    centre = [far * math.cos(angle), far * math.sin(angle), rng.uniform(0.2, 2)]
    size = rng.uniform(0.1, 0.8, 3)
    return Box(
        category="box", centre=np.array(centre), size=size, axes=axes, colour=GREY
    )


def cut_faces(scene: Scene, place: np.ndarray, rays: np.ndarray):
    """Ids and depths by cutting each ray with each face of each thing, in float64."""
    depths, ids = np.full(len(rays), np.inf), np.zeros(len(rays), int)

    def offer(depth: np.ndarray, there: np.ndarray, number: int) -> None:
        nearer = there & (depth > 0) & (depth < depths)
        depths[nearer], ids[nearer] = depth[nearer], number

    with np.errstate(divide="ignore", invalid="ignore"):
        everywhere = np.ones(len(rays), bool)
        offer(-place[2] / rays[:, 2], everywhere, FLOOR)
        offer((scene.height - place[2]) / rays[:, 2], everywhere, CEILING)
        for number, start in enumerate(scene.outline):
            edge = scene.outline[(number + 1) % len(scene.outline)] - start
            length = np.linalg.norm(edge)
            to = start - place[:2]
            cross = rays[:, 0] * edge[1] - rays[:, 1] * edge[0]
            depth = (to[0] * edge[1] - to[1] * edge[0]) / cross
            along = (to[0] * rays[:, 1] - to[1] * rays[:, 0]) / cross * length
            offer(depth, (along > -1e-3) & (along < length + 1e-3), WALL)
            level = place[2] + depth * rays[:, 2]
            for door in scene.doors:
                wide = (along > door.start) & (along < door.start + door.width)
                if door.wall == number:
                    offer(depth / 1.0002, wide & (level < door.height), DOOR)
        for number, box in enumerate(scene.boxes):
            for axis in range(3):
                others = [other for other in range(3) if other != axis]
                for sign in (-1, 1):
                    normal = sign * box.axes[axis]
                    face = box.centre + box.size[axis] / 2 * normal
                    depth = (face - place) @ normal / (rays @ normal)
                    hits = place + depth[:, None] * rays
                    own = np.abs((hits - box.centre) @ box.axes.T) <= box.size / 2
                    offer(depth, own[:, others].all(1), number)
    return ids, depths


@pytest.mark.parametrize("seed", range(4))
def test_ids_and_depths_against_rays_cut_with_every_face(renderer, seed):
    rng = np.random.default_rng(seed)
    scene = room(
        *(random_box(rng) for _ in range(12 + 5 * seed)),
        outline=CORNERED if seed % 2 else SQUARE,
        doors=(Door(wall=0, start=2.0, width=0.9, height=2.0),),
    )
    count = 6
    places = rng.uniform([-0.3, -0.3, 1.2], [0.3, 0.3, 1.7], (count, 3))
    yaws, pitches = rng.uniform(0, math.tau, count), rng.uniform(-0.7, 0.5, count)
    rgb, ids, depths = renderer.render_depths(scene, places, yaws, pitches)
    assert rgb.dtype == np.uint8 and ids.dtype == np.int16
    assert rgb.shape == (*ids.shape, 3) == (count, 48, 64, 3)
    seen = set()
    for frame in range(count):
        rays = renderer.camera.rays(yaws[frame], pitches[frame]).reshape(-1, 3)
        known, far = cut_faces(scene, places[frame], rays)
        same = known == ids[frame].ravel()
        assert (~same).sum() <= 1  # a ray that grazes an edge, in float32
        np.testing.assert_allclose(depths[frame].ravel()[same], far[same], rtol=3e-4)
        seen |= set(known)
    assert {FLOOR, WALL} < seen and len(seen) > 6


@pytest.mark.slow
def test_what_is_visible_in_200_rooms(renderer):
    """Generated rooms, two frames of a walk each: pixel counts of every box."""
    wrong = shown = 0
    for number in range(200):
        scene = make_scene(11, number)
        walk = make_walk(scene, np.random.default_rng(number)).at(np.array([0, 60]))
        poses = walk.positions, walk.yaws, walk.pitches
        counts = renderer.count_pixels(scene, *poses)
        for frame in range(2):
            rays = renderer.camera.rays(walk.yaws[frame], walk.pitches[frame])
            known, _ = cut_faces(scene, walk.positions[frame], rays.reshape(-1, 3))
            wanted = [(known == box).sum() for box in range(len(scene.boxes))]
            wrong += np.abs(counts[frame] - wanted).sum()
            shown += sum(wanted)
    assert shown > 100_000 and wrong <= 3  # grazing rays, in float32


def test_generated_rooms_hold_no_gap(renderer):
    """Every ray ends on something in the room, no farther than its far corner."""
    for number in range(3):
        scene = make_scene(1, number)
        walk = make_walk(scene, np.random.default_rng(number), frames=12)
        poses = walk.positions, walk.yaws, walk.pitches
        _, ids, depths = renderer.render_depths(scene, *poses)
        farthest = np.linalg.norm([*np.ptp(scene.outline, axis=0), scene.height])
        assert depths.min() > 0 and depths.max() < farthest
        counts = renderer.count_pixels(scene, *poses)
        np.testing.assert_array_equal(counts, pixel_counts(ids, len(scene.boxes)))


def test_known_depths(renderer):
    box = upright("box", np.array([2.0, 0.0, 1.5]), np.array([0.5, 1, 1]), 0.0, GREY)
    _, ids, depths = look(renderer, room(box), [-1.0, 0.0, 1.5], 0.0)
    assert ids[24, 32] == 0 and depths[24, 32] == pytest.approx(2.75, rel=1e-5)
    _, ids, depths = look(renderer, room(), [-1.0, 0.0, 1.5], math.pi)
    assert ids[24, 32] == WALL and depths[24, 32] == pytest.approx(2.0, rel=1e-5)


def test_projected_corners_bound_what_is_drawn(renderer):
    box = upright(
        "box", np.array([1.8, 0.4, 0.9]), np.array([0.6, 0.9, 0.8]), 0.5, GREY
    )
    place, yaw, pitch = np.array([-1.0, 0.2, 1.5]), 0.1, -0.15
    _, ids, _ = look(renderer, room(box), place, yaw, pitch)
    points = renderer.camera.project(box.corners, place, yaw, pitch)
    rows, columns = np.nonzero(ids == 0)
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    np.testing.assert_allclose([columns.min(), rows.min()], low, atol=1)
    np.testing.assert_allclose([columns.max() + 1, rows.max() + 1], high, atol=1)


def test_projection_inverts_rays():
    camera = Camera(width=20, height=10)
    place = np.array([0.3, -1.0, 1.4])
    rays = camera.rays(2.0, -0.3)
    points = camera.project(place + 2.5 * rays.reshape(-1, 3), place, 2.0, -0.3)
    rows, columns = np.mgrid[:10, :20]
    wanted = np.stack([columns + 0.5, rows + 0.5, np.full((10, 20), 2.5)], -1)
    np.testing.assert_allclose(points, wanted.reshape(-1, 3), atol=1e-9)
    ahead, right, up = basis(2.0, -0.3)
    np.testing.assert_allclose(np.cross(ahead, right), -up, atol=1e-12)
    behind = camera.project(place[None] - ahead, place, 2.0, -0.3)
    assert np.isnan(behind[0, :2]).all() and behind[0, 2] == pytest.approx(-1)


def test_each_wall_has_its_own_shade(renderer):
    """Walls that face +x, +y, -y, -x, from bright to dark: the heading can be told."""
    white = {"wall": np.ones(3, np.float32)}
    shades = []
    for yaw in (math.pi, -math.pi / 2, math.pi / 2, 0.0):
        rgb, ids, _ = look(renderer, room(colours=white), [0, 0, 1.5], yaw)
        assert ids[20, 32] == WALL
        shades.append(int(rgb[20, 32].mean()))
    assert min(a - b for a, b in pairwise(shades)) > 15


def test_the_top_of_a_box_is_brightest(renderer):
    box = upright("box", np.array([1.5, 0, 0.5]), np.ones(3), 0.4, np.ones(3))
    rgb, ids, _ = look(renderer, room(box), [-1.0, 0.0, 1.6], 0.0, -0.3)
    rows, columns = np.nonzero(ids == 0)
    middle = round(columns.mean())
    top, side = rows[columns == middle].min() + 2, rows[columns == middle].max() - 2
    assert rgb[top, middle].mean() > 1.2 * rgb[side, middle].mean()


def test_things_keep_their_hue(renderer):
    red = np.array([0.9, 0.1, 0.1])
    box = upright("box", np.array([1.5, 0, 1.5]), np.ones(3), 0.4, red)
    rgb, ids, _ = look(renderer, room(box), [-1.0, 0.0, 1.6], 0.0)
    shown = rgb[ids == 0].astype(float)
    assert (shown[:, 0] > 5 * shown[:, 1]).all()


def test_a_camera_in_a_box_sees_through_it(renderer):
    box = upright("box", np.array([0, 0, 1.5]), np.ones(3), 0.3, GREY)
    _, ids, _ = look(renderer, room(box), [0.1, 0.0, 1.5], 0.0)
    assert ids[24, 32] == WALL and (ids != 0).all()


def test_parts_of_a_film_are_what_it_is_whole(renderer):
    scene = make_scene(2, 0)
    count = CHUNK + 3
    walk = make_walk(scene, np.random.default_rng(0), frames=count)
    rgb, ids = renderer.render(scene, walk.positions, walk.yaws, walk.pitches)
    assert len(rgb) == count
    for at in ([0], [count - 1], []):
        some = walk.at(np.array(at, int))
        part = renderer.render(scene, some.positions, some.yaws, some.pitches)
        np.testing.assert_array_equal(part[0], rgb[at])
        np.testing.assert_array_equal(part[1], ids[at])
    assert renderer.count_pixels(scene, *empty_poses()).shape == (0, len(scene.boxes))


def empty_poses():
    return np.zeros((0, 3)), np.zeros(0), np.zeros(0)


def test_many_boxes(renderer):
    """More than one padding holds; those out of view cost others nothing."""
    boxes = [
        upright("box", np.array([2.5, y, 1.5]), np.array([0.05, 0.08, 0.3]), 0.0, GREY)
        for y in np.linspace(-2, 2, 40)
    ]
    _, ids, _ = look(renderer, room(*boxes), [-2.0, 0.0, 1.5], 0.0)
    shown = ids[24][ids[24] >= 0]
    assert len(set(shown)) > 20 and (np.diff(shown) <= 0).all()


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (room(outline=None), "scene test: no outline"),
        (
            room(upright("sofa", np.zeros(3), np.ones(3), 0.0)),
            r"scene test: box 0 \(sofa\) has no colour",
        ),
    ],
)
def test_what_cannot_be_drawn(renderer, scene, said):
    with pytest.raises(SceneError, match=said):
        renderer.render(scene, *empty_poses())
