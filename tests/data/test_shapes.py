"""Batch shapes: buckets hold and settle, vectors carry them between processes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vica_jax.data.example import Example, image_medium, video_medium
from vica_jax.data.settings import ShapeBuckets
from vica_jax.data.shapes import BatchShape
from vica_jax.layout import VisualLayout
from vica_jax.models.variants import VARIANTS

LAYOUT = VARIANTS["tiny"].layout
BUCKETS = ShapeBuckets()
HW = st.tuples(st.integers(0, 3000), st.integers(0, 3000))


@st.composite
def exact_shapes(draw):
    frames = draw(st.integers(0, 130))
    return BatchShape(
        length=draw(st.integers(1, 40_000)),
        targets=draw(st.integers(0, 40_000)),
        frames=frames,
        views=draw(st.integers(0, 60)),
        hiera_frames=LAYOUT.num_hiera_frames(frames),
        frame_hw=draw(HW),
        hiera_images=draw(st.integers(0, 30)),
        image_hw=draw(HW),
        resampled=draw(st.integers(0, 40_000)),
        hiera_channels=draw(st.sampled_from([0, 64])),
    )


@given(exact_shapes(), exact_shapes())
def test_buckets_hold_and_settle(a, b):
    """What processes agree on is itself a bucketed shape: no further programs."""
    small, large = a.bucketed(LAYOUT, BUCKETS), b.bucketed(LAYOUT, BUCKETS)
    assert small.holds(a) and large.holds(b)
    agreed = small.union(large)
    assert agreed == large.union(small)
    assert agreed.holds(a) and agreed.holds(b)
    assert agreed.bucketed(LAYOUT, BUCKETS) == agreed
    assert agreed == a.union(b).bucketed(LAYOUT, BUCKETS)


@given(exact_shapes())
def test_vectors_carry_shapes(shape):
    vector = shape.to_vector()
    assert vector.dtype == np.int64 and vector.ndim == 1
    again = BatchShape.from_vector(vector)
    assert again == shape and hash(again) == hash(shape)
    assert all(type(n) is int for n in [again.length, *again.frame_hw])


@pytest.mark.parametrize(
    ("field", "size", "bucket"),
    [
        ("length", 1, 1024),
        ("length", 22_500, 24_576),
        ("length", 32_769, 32_768 + 8192),
        ("views", 3, 5),
        ("views", 21, 30),
        ("hiera_images", 17, 24),
        ("resampled", 0, 0),
        ("resampled", 16_385, 24_576),
        ("targets", 0, 64),
        ("frame_hw", (480, 641), (512, 768)),
    ],
)
def test_buckets(field, size, bucket):
    shape = replace(BatchShape(), **{field: size}).bucketed(LAYOUT, BUCKETS)
    assert getattr(shape, field) == bucket


def test_one_bucket_is_repeated():
    buckets = ShapeBuckets(lengths=(100,))
    shape = BatchShape(length=101).bucketed(LAYOUT, buckets)
    assert shape.length == 200


def video(frames):
    return video_medium(np.zeros((frames, 40, 300, 3), np.uint8), LAYOUT)


def test_any_video_takes_the_full_number_of_frames():
    text = Example(chunks=[[1]])
    clip = Example(chunks=[[1], [2]], media=[video(3)])
    longer = Example(chunks=[[1], [2]], media=[video(LAYOUT.num_frames + 1)])
    of = lambda *rows, **kw: BatchShape.of(rows, LAYOUT, BUCKETS, **kw)
    assert of(text).frames == of(text).hiera_frames == 0
    assert of(text, clip).frames == LAYOUT.num_frames
    assert of(clip, num_frames=4).frames == 4
    assert of(clip, num_frames=4).hiera_frames == 2
    assert of(clip, longer).frames == LAYOUT.num_frames + 1
    assert of(clip).frame_hw == (256, 512)


def test_images_count_views_and_their_largest_sides():
    images = [
        image_medium(Image.new("RGB", wh), LAYOUT, "padded")
        for wh in ((300, 20), (20, 600), (9, 9))
    ]
    rows = [
        Example(chunks=[[1], [], []], media=images[:2]),
        Example(chunks=[[1], []], media=images[2:]),
    ]
    shape = BatchShape.of(rows, LAYOUT, BUCKETS)
    assert (shape.views, shape.hiera_images) == (2, 2)
    assert shape.image_hw == (768, 512)
    plain = VisualLayout(siglip_image_size=72)
    assert BatchShape.of(rows, plain, BUCKETS).hiera_images == 0


def test_keys_and_sizes_come_from_the_shape_alone():
    arrays = BatchShape(length=8).arrays(2, LAYOUT)
    assert set(arrays) == {"tokens", "visual_index", "lengths"}
    shape = BatchShape(
        length=8,
        targets=3,
        frames=4,
        hiera_frames=2,
        frame_hw=(64, 128),
        views=1,
        hiera_images=1,
        image_hw=(64, 64),
        resampled=5,
    )
    arrays = shape.arrays(2, LAYOUT)
    assert arrays["hiera_frames"] == ((2, 2, 64, 128, 3), np.uint8)
    assert arrays["hiera_image_sizes"] == ((2, 1, 2), np.int32)
    assert arrays["targets"] == ((2, 3), np.int32)
    cached = replace(shape, hiera_channels=16, frame_hw=(0, 0), image_hw=(0, 0))
    changed = cached.arrays(2, LAYOUT)
    side = LAYOUT.hiera_grid
    assert changed["hiera_frame_features"][0] == (2, 2, side, side, 16)
    assert changed["hiera_image_features"][1].name == "bfloat16"
    assert not any("hiera" in name and "features" not in name for name in changed)
    assert BatchShape(length=8).num_bytes(2, LAYOUT) == 2 * (8 * 4 * 2 + 4)


def test_a_shape_is_one_line():
    text = str(BatchShape(length=8, frames=4, hiera_frames=2, frame_hw=(64, 128)))
    assert text == "length 8, targets 0, frames 4, hiera_frames 2 of 64x128"
