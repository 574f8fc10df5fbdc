"""Films: what the mp4 holds, what its frames show, and the side file."""

import json
import math
from dataclasses import replace

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.world.camera import Camera
from vica_jax.world.film import (
    Film,
    first_seen,
    hidden_boxes,
    make_film,
    pixel_counts,
    read_film,
    watch,
    write_film,
    write_video,
)
from vica_jax.world.generate import make_scene
from vica_jax.world.render import Renderer
from vica_jax.world.scene import Scene, SceneError, upright
from vica_jax.world.walk import Walk, make_walk

CAMERA = Camera(width=64, height=48)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(CAMERA)


@pytest.fixture(scope="module")
def filmed(renderer, tmp_path_factory):
    scene = make_scene(4, 1)
    walk = make_walk(scene, np.random.default_rng(0), frames=45)
    path = tmp_path_factory.mktemp("film") / "room.mp4"
    return scene, walk, path, make_film(scene, walk, renderer, path)


def decode(path) -> np.ndarray:
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.average_rate == 10 and stream.codec_context.pix_fmt == "yuv420p"
        frames = list(file.decode(stream))
    assert [frame.pts for frame in frames] == sorted(frame.pts for frame in frames)
    assert float(frames[-1].time) == pytest.approx((len(frames) - 1) / 10)
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def test_the_mp4_is_what_was_drawn(filmed, renderer):
    scene, walk, path, film = filmed
    drawn, _ = renderer.render(scene, walk.positions, walk.yaws, walk.pitches)
    shown = decode(path)
    assert shown.shape == drawn.shape == (45, 48, 64, 3)
    error = np.abs(shown.astype(float) - drawn).mean((1, 2, 3))
    assert error.max() < 6  # at 64x48 half of the pixels lie by an edge
    # Each frame is nearest to its own drawing, so that none is missing or late.
    moved = [np.abs(shown[20].astype(float) - other).mean() for other in drawn[15:26]]
    assert int(np.argmin(moved)) == 5
    assert film.seconds == 4.5 and film.frames == 45


def test_the_same_frames_give_the_same_bytes(filmed, renderer, tmp_path):
    scene, walk, path, _ = filmed
    for number in range(3):
        again = tmp_path / f"{number}.mp4"
        make_film(scene, walk, renderer, again)
        assert again.read_bytes() == path.read_bytes()


def test_watching_counts_what_a_film_shows(filmed, renderer):
    scene, walk, _, film = filmed
    np.testing.assert_array_equal(watch(scene, walk, renderer).pixels, film.pixels)
    assert film.pixels.dtype == np.int32 and film.pixels.any(0).sum() > 2


def still(pixels, rate: float = 10.0) -> Film:
    count = len(pixels)
    walk = Walk(
        positions=np.zeros((count, 3)),
        yaws=np.zeros(count),
        pitches=np.zeros(count),
        rate=rate,
    )
    return Film(walk=walk, camera=Camera(), pixels=np.array(pixels, np.int32))


def scene_of(*categories: str) -> Scene:
    boxes = [upright(name, np.zeros(3), np.ones(3), 0.0) for name in categories]
    return Scene(name="s", dataset="world", boxes=tuple(boxes), area=9.0)


def test_first_seen_takes_the_first_of_a_category():
    scene = scene_of("sofa", "chair", "chair", "lamp")
    film = still([[39, 0, 0, 0], [40, 0, 0, 0], [0, 0, 99, 0], [50, 99, 0, 3]])
    assert film.least_pixels == pytest.approx(40)
    assert first_seen(scene, film) == {"chair": 0.2, "sofa": 0.1}
    assert list(first_seen(scene, film)) == ["chair", "sofa"]
    assert first_seen(scene, film, 1) == {"chair": 0.2, "lamp": 0.3, "sofa": 0.0}
    assert hidden_boxes(film) == (3,) and hidden_boxes(film, 60) == (0, 3)


def test_a_smaller_picture_needs_fewer_pixels():
    film = still([[1]])
    half = replace(film, camera=Camera(width=96, height=72))
    assert half.least_pixels == pytest.approx(film.least_pixels / 4)


@given(st.data())
def test_pixel_counts(data):
    boxes = data.draw(st.integers(0, 5))
    shape = data.draw(st.tuples(*[st.integers(0, 4)] * 3))
    ids = data.draw(
        st.lists(
            st.integers(-4, boxes - 1),
            min_size=math.prod(shape),
            max_size=math.prod(shape),
        )
    )
    frames = np.array(ids, np.int16).reshape(shape)
    counts = pixel_counts(frames, boxes)
    assert counts.shape == (shape[0], boxes)
    for frame, row in zip(frames, counts, strict=True):
        assert row.tolist() == [(frame == number).sum() for number in range(boxes)]


# ------------------------------------------------------------------------ side file
def test_side_file_reads_back(filmed, tmp_path):
    _, walk, _, film = filmed
    write_film(tmp_path / "film.json", "room4_00001", film)
    read = read_film(tmp_path / "film.json")
    np.testing.assert_array_equal(read.pixels, film.pixels)
    for name in ("positions", "yaws", "pitches"):
        there = getattr(read.walk, name)
        np.testing.assert_allclose(there, getattr(walk, name), atol=6e-6)
    assert read.camera.field_of_view == pytest.approx(CAMERA.field_of_view)
    assert (read.camera.width, read.rate, read.seconds) == (64, 10.0, 4.5)
    value = json.loads((tmp_path / "film.json").read_text())
    assert value["scene"] == "room4_00001" and len(value["poses"]) == 45


@given(
    frames=st.integers(0, 4),
    boxes=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_any_pixels_read_back(tmp_path_factory, frames, boxes, seed):
    rng = np.random.default_rng(seed)
    film = still(rng.integers(0, 3, (frames, boxes)).reshape(frames, boxes))
    path = tmp_path_factory.mktemp("side") / "film.json"
    write_film(path, "s", film)
    np.testing.assert_array_equal(read_film(path).pixels, film.pixels)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: "[]",
        lambda value: "{",
        lambda value: json.dumps({**value, "poses": value["poses"][1:]}),
        lambda value: json.dumps({**value, "pixels": [[9, 1], []]}),
        lambda value: json.dumps({**value, "pixels": [[-1, 1], []]}),
        lambda value: json.dumps({**value, "pixels": [[0, 1, 0], []]}),
        lambda value: json.dumps({k: v for k, v in value.items() if k != "size"}),
    ],
)
def test_a_damaged_side_file_is_named(tmp_path, change):
    path = tmp_path / "film.json"
    write_film(path, "s", still([[1, 2], [0, 3]]))
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(SceneError, match=r"film\.json: not the side file") as caught:
        read_film(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("frames", "said"),
    [([], "without frames"), ([np.zeros((48, 63, 3), np.uint8)], "63x48")],
)
def test_what_is_no_film_leaves_no_file(tmp_path, frames, said):
    with pytest.raises(ValueError, match=said):
        write_video(tmp_path / "film.mp4", frames, 10.0)
    assert list(tmp_path.iterdir()) == []
