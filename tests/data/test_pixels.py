"""Image pixels against the recorded reference, and what opening an image accepts."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vica_jax.data.pixels import (
    ImageError,
    anyres_views,
    bucket_frames,
    bucket_size,
    open_image,
    padded_view,
    resize_siglip,
)
from vica_jax.data.threads import num_threads, use_threads
from vica_jax.layout import VisualLayout

TILED = ("large", "small", "tall", "wide")


def normalised(views: np.ndarray) -> np.ndarray:
    """The pixels the encoder sees, in the reference's ``[n, 3, S, S]``."""
    scaled = (views.astype(np.float64) / 255 - 0.5) / 0.5
    return scaled.transpose(0, 3, 1, 2)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


# ------------------------------------------------------------- recorded pixels
def test_video_frames(golden_dir: Path):
    with np.load(golden_dir / "video_case.npz") as case:
        for video in ("s0", "s1"):
            recorded = case[f"{video}.siglip_pixel_values"]
            side = recorded.shape[-1]
            pixels = resize_siglip(case[f"{video}.frames"], side)
            assert pixels.shape == (len(case[f"{video}.frames"]), side, side, 3)
            assert pixels.dtype == np.uint8
            error = normalised(pixels)[: len(recorded)] - recorded
            assert np.abs(error).max() < 1e-6


def test_anyres_views(golden_dir: Path):
    with np.load(golden_dir / "image_case.npz") as case:
        names = [name for name in TILED if f"{name}.image" in case]
        assert len(names) == 3
        for name in names:
            recorded = case.get(f"{name}.siglip_pixel_values")
            step = 1
            if recorded is None:
                recorded, step = case[f"{name}.siglip_pixel_values_sub4"], 4
            side = recorded.shape[-1] * step
            layout = VisualLayout(siglip_image_size=side)
            image = open_image(case[f"{name}.image"])
            assert image.size == tuple(case[f"{name}.image_size_wh"])
            plan = layout.anyres(image.size)
            assert plan.resolution_wh == tuple(case[f"{name}.best_resolution_wh"])
            assert plan.tiles_wh == tuple(case[f"{name}.grid_wh"])
            views = anyres_views(image, layout)
            assert len(views) == case[f"{name}.num_crops_plus_base"]
            pixels = normalised(views)[case[f"{name}.crops_stored"]]
            error = pixels[:, :, ::step, ::step] - recorded
            assert np.abs(error).max() < 1e-6


def test_padded_view(golden_dir: Path):
    with np.load(golden_dir / "image_case.npz") as case:
        recorded = case["pad.siglip_pixel_values"]
        view = padded_view(open_image(case["pad.image"]), recorded.shape[-1])
        assert np.abs(normalised(view)[0] - recorded).max() < 1e-6


# --------------------------------------------------------------------- resizing
def test_array_and_images_resize_alike():
    frames = np.stack([noise(30, 50, seed) for seed in range(5)])
    images = [Image.fromarray(frame) for frame in frames]
    expected = resize_siglip(frames, 24)
    np.testing.assert_array_equal(resize_siglip(images, 24), expected)
    for number in range(5):  # the threads keep the order
        one = resize_siglip(frames[number : number + 1], 24)
        np.testing.assert_array_equal(one[0], expected[number])


def bicubic_weights(old: int, new: int) -> np.ndarray:
    """Pillow's antialiased bicubic as int64 ``[new, old]`` in units of 2**-22."""
    scale = old / new
    stretch = max(scale, 1.0)
    out = np.zeros((new, old), np.int64)
    for i in range(new):
        centre = (i + 0.5) * scale
        first = max(int(centre - 2 * stretch + 0.5), 0)
        last = min(int(centre + 2 * stretch + 0.5), old)
        x = np.abs((np.arange(first, last) - centre + 0.5) / stretch)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)
        weights = np.where(x < 1, near, np.where(x < 2, far, 0))
        weights /= weights.sum()
        out[i, first:last] = np.trunc(weights * 2**22 + np.copysign(0.5, weights))
    return out


def fixed_point(frame: np.ndarray, size: int) -> np.ndarray:
    """The resize as two integer products, columns first, rounded to bytes between."""

    def rounded(total: np.ndarray) -> np.ndarray:
        return np.clip((total + (1 << 21)) >> 22, 0, 255)

    height, width = frame.shape[:2]
    across = np.einsum("xw,hwc->hxc", bicubic_weights(width, size), frame)
    columns = rounded(across)
    return rounded(np.einsum("yh,hxc->yxc", bicubic_weights(height, size), columns))


@pytest.mark.parametrize("height, width", [(61, 97), (97, 61), (30, 20), (48, 90)])
@pytest.mark.parametrize("threads", [1, 4])
def test_every_pixel_is_that_of_the_integer_products(
    height: int, width: int, threads: int
):
    frames = np.stack([noise(height, width, seed) for seed in range(5)])
    before = num_threads()
    use_threads(threads)
    pixels = resize_siglip(frames, 48)
    use_threads(before)
    np.testing.assert_array_equal(pixels, [fixed_point(f, 48) for f in frames])


def test_grey_images_are_made_rgb():
    grey = Image.fromarray(noise(30, 50)[..., 0])
    (one,) = resize_siglip([grey], 24)
    np.testing.assert_array_equal(one, resize_siglip([grey.convert("RGB")], 24)[0])


def test_pixels_of_the_wanted_size_pass_through():
    frames = noise(24, 24)[None]
    np.testing.assert_array_equal(resize_siglip(frames, 24), frames)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 8, 8), "uint8"),
        ((2, 8, 8, 4), "uint8"),
        ((2, 8, 8, 3), "float32"),
        ((2, 0, 8, 3), "uint8"),
    ],
)
def test_frames_of_another_form(shape: tuple[int, ...], dtype: str):
    with pytest.raises(ImageError, match=f"{dtype} of shape") as caught:
        resize_siglip(np.zeros(shape, dtype), 8)
    assert str(shape) in str(caught.value)


def test_no_frames():
    with pytest.raises(ImageError, match="no frames"):
        resize_siglip(np.zeros((0, 8, 8, 3), np.uint8), 8)


@given(width=st.integers(20, 200), height=st.integers(20, 200))
def test_tiles_hold_the_whole_image_on_black(width: int, height: int):
    layout = VisualLayout(siglip_image_size=28, siglip_patch_size=1)
    views = anyres_views(Image.new("RGB", (width, height), (255, 255, 255)), layout)
    plan = layout.anyres((width, height))
    across, down = plan.tiles_wh
    assert views.shape == (1 + across * down, 28, 28, 3)
    assert (views[0] == 255).all()  # the base is not padded
    tiles = views[1:].reshape(down, across, 28, 28, 3).transpose(0, 2, 1, 3, 4)
    canvas = tiles.reshape(down * 28, across * 28, 3)
    assert np.isin(canvas, (0, 255)).all()
    rows, cols = canvas[..., 0].any(1), canvas[..., 0].any(0)
    assert canvas[rows][:, cols].all()  # one rectangle
    assert rows.all() or cols.all()  # that touches two edges, and is centred
    for inside in (rows, cols):
        assert abs(int(inside.argmax()) - int(inside[::-1].argmax())) <= 1


def test_padding_is_grey_and_centred():
    view = padded_view(Image.new("RGB", (20, 10), (255, 0, 0)), 20)
    assert view.shape == (1, 20, 20, 3)
    assert (view[0, :5] == 127).all()
    assert (view[0, -5:] == 127).all()
    assert (view[0, 5:15] == (255, 0, 0)).all()


# ---------------------------------------------------------------------- buckets
@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((480, 640), (512, 640)),
        ((720, 1280), (768, 1280)),
        ((1080, 1920), (1088, 1920)),
        ((968, 1296), (1024, 1344)),
        ((64, 1), (64, 64)),
    ],
)
def test_buckets_of_usual_sizes(size: tuple[int, int], bucket: tuple[int, int]):
    assert bucket_size(*size) == bucket


@given(height=st.integers(1, 70), width=st.integers(1, 70), multiple=st.integers(1, 40))
def test_buckets_pad_below_and_right(height: int, width: int, multiple: int):
    frames = noise(height, width)[None] | 1
    padded, size = bucket_frames(frames, multiple)
    assert size == (height, width)
    assert padded.shape[1:3] == bucket_size(height, width, multiple)
    assert all(side % multiple == 0 for side in padded.shape[1:3])
    assert padded.dtype == np.uint8
    np.testing.assert_array_equal(padded[:, :height, :width], frames)
    assert not padded[:, height:].any()
    assert not padded[:, :, width:].any()


def test_frames_that_fill_their_bucket_are_not_copied():
    frames = noise(64, 128)[None]
    assert bucket_frames(frames)[0] is frames


def test_a_bucket_for_a_whole_batch():
    padded, size = bucket_frames(noise(5, 6)[None], bucket=(8, 16))
    assert (padded.shape, size) == ((1, 8, 16, 3), (5, 6))
    with pytest.raises(ImageError, match="frames of 5x6 exceed the bucket 4x16"):
        bucket_frames(noise(5, 6)[None], bucket=(4, 16))


# ---------------------------------------------------------------------- opening
def test_images_open_from_files_arrays_and_pil(tmp_path: Path):
    array = noise(8, 12)
    Image.fromarray(array).save(tmp_path / "a.png")
    for source in (array, Image.fromarray(array), tmp_path / "a.png"):
        image = open_image(source)
        assert (image.mode, image.size) == ("RGB", (12, 8))
        np.testing.assert_array_equal(np.asarray(image), array)
    np.testing.assert_array_equal(open_image(str(tmp_path / "a.png")), array)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path):
    image = Image.new(mode, (5, 4))
    image.save(tmp_path / "a.tiff")
    assert open_image(tmp_path / "a.tiff").mode == "RGB"
    assert open_image(image).size == (5, 4)


@pytest.mark.parametrize(
    ("orientation", "turn"), [(1, 0), (3, 2), (6, -1), (8, 1)], ids=lambda v: str(v)
)
def test_photos_of_phones_stand_upright(tmp_path: Path, orientation: int, turn: int):
    array = noise(8, 12)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    image = open_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image, np.rot90(array, turn))
    np.testing.assert_array_equal(open_image(image), image)  # not turned twice


def test_images_that_cannot_be_read(tmp_path: Path):
    Image.fromarray(noise(64, 64)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, message in {
        "none.png": "no such image file",
        "cut.jpg": "cannot read the image",
        "text.png": "not a readable image",
        "empty.png": "not a readable image",
    }.items():
        with pytest.raises(ImageError, match=message) as caught:
            open_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="cannot read the image"):
        open_image(tmp_path)


@pytest.mark.parametrize(
    "array", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)]
)
def test_arrays_that_are_no_image(array: np.ndarray):
    with pytest.raises(ImageError, match="an image must be uint8"):
        open_image(array)
