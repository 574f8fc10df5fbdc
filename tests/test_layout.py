"""Token counts and index maps: recorded cases, published numbers, and oracles."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vica_jax.layout import (
    NEWLINE_ROW,
    LayoutError,
    VisualLayout,
    bilinear_taps,
    default_pinpoints,
)

VICA = VisualLayout()
VICA2 = VisualLayout(hiera_image_size=1024)
RECORDED = {"72": VisualLayout(siglip_image_size=72), "384": VICA}


def blend(values: np.ndarray, size: int, out: int) -> np.ndarray:
    lower, upper, weight = bilinear_taps(size, out)
    return values[lower] * (1 - weight) + values[upper] * weight


# -------------------------------------------------------------- published numbers
def test_published_counts():
    assert (VICA.siglip_grid, VICA.siglip_pooled_grid) == (27, 14)
    assert (VICA2.hiera_grid, VICA2.hiera_pooled_grid) == (32, 16)
    assert VICA.video_tokens(64) == 13_440
    assert VICA2.siglip_video_tokens(64) == 13_440
    assert VICA2.hiera_video_tokens(64) == 8_704
    assert VICA2.video_tokens(64) == 22_144
    assert VICA2.hiera_image_tokens() == 1_056
    assert VICA.padded_image_tokens() == 730
    assert VICA2.padded_image_tokens() == 730 + 1_056


@pytest.mark.parametrize(
    ("ratio", "hiera_tokens"),
    [
        ((32, 4, 2), 8_704),
        ((64, 4, 2), 17_408),
        ((16, 4, 1), 16_896),
        ((16, 3, 2), 16_896),  # 64 x 64 at stage 3, 32 x 32 pooled
        ((8, 3, 4), 2_176),
        ((1, 1, 8), 1_056),  # 256 x 256 at stage 1
        ((64, 4, 32), 128),
    ],
)
def test_token_ratios_of_64_frames(ratio: tuple[int, int, int], hiera_tokens: int):
    layout = VICA2.with_token_ratio(*ratio)
    assert layout.hiera_video_tokens(64) == hiera_tokens
    assert layout.num_hiera_frames(64) == ratio[0]
    assert layout.video_tokens(64) == 13_440 + hiera_tokens


def test_odd_frame_counts_round_hiera_up():
    assert [VICA2.num_hiera_frames(n) for n in (1, 2, 5, 63, 64)] == [1, 1, 3, 32, 32]
    assert VICA.num_hiera_frames(5) == 0


# ------------------------------------------------------------------ recorded cases
@pytest.mark.parametrize("size", ["72", "384"])
def test_anyres_equals_every_recorded_case(golden_dir: Path, size: str):
    cases = json.loads((golden_dir / "misc_case.json").read_text())["anyres"]
    assert len(cases) == 40
    layout = RECORDED[size]
    for case in cases:
        image, expected = tuple(case["size_wh"]), case[size]
        plan = layout.anyres(image)
        assert list(plan.resolution_wh) == expected["best_resolution"]
        assert list(plan.tiles_wh) == expected["grid_wh"]
        assert list(plan.crop[2:]) == expected["unpadded_hw"]
        assert plan.times == expected["times"]
        assert list(plan.final_hw) == expected["final_hw"]
        assert layout.anyres_image_tokens(image) == expected["num_tokens"]


def test_counts_of_the_recorded_runs(golden_dir: Path):
    """The tiny models: 72 / 14 pixels for SigLIP, 128 for Hiera."""
    hiera = 128 if golden_dir.name == "tiny-vica2" else None
    layout = VisualLayout(siglip_image_size=72, hiera_image_size=hiera)
    with np.load(golden_dir / "video_case.npz") as case:
        for video in ("s0", "s1"):
            count = len(case[f"{video}.frames"])
            assert layout.video_tokens(count) == case[f"{video}.num_visual_tokens"]
            pooled = case[f"{video}.siglip_tokens"].shape[0]
            assert layout.siglip_video_tokens(count) == pooled
    with np.load(golden_dir / "image_case.npz") as case:
        for name in ("large", "small", "tall", "wide"):
            if f"{name}.image" in case:
                image = tuple(case[f"{name}.image_size_wh"].tolist())
                total = case[f"{name}.num_visual_tokens"]
                assert layout.anyres_image_tokens(image) == total
        assert layout.padded_image_tokens() == case["pad.num_visual_tokens"]


# --------------------------------------------------------------------- video rows
# Fields, not layouts: checking a dataclass's types draws random numbers, which
# hypothesis forbids inside strategies.
FIELDS = st.fixed_dictionaries(
    {
        "siglip_image_size": st.integers(14, 90),
        "siglip_pool_stride": st.integers(1, 5),
        "hiera_image_size": st.none() | st.sampled_from([32, 64, 128, 256]),
        "frame_stride": st.integers(1, 9),
        "output_stage": st.integers(1, 4),
        "pool_stride": st.integers(1, 9),
    }
)


@given(fields=FIELDS, num_frames=st.integers(1, 12), extra=st.integers(0, 3))
def test_video_rows(fields: dict, num_frames: int, extra: int):
    """Counts agree, every pooled token stands once and in order, rows end in newlines.

    The bank may have more slots than the video fills (other rows of the batch do).
    """
    layout = VisualLayout(**fields)
    hiera = layout.num_hiera_frames(num_frames)
    bank = layout.bank(frames=num_frames + extra, hiera_frames=hiera and hiera + extra)
    rows = layout.video_rows(bank, num_frames)
    assert rows.dtype == np.int32
    assert len(rows) == layout.video_tokens(num_frames)
    cut = layout.siglip_video_tokens(num_frames)
    parts = [(rows[:cut], bank.frames, num_frames, layout.siglip_pooled_grid)]
    if layout.has_hiera:
        side = layout.hiera_pooled_grid
        parts.append((rows[cut:], bank.hiera_frames, hiera, side))
        assert bank.hiera_frames == bank.frames + (num_frames + extra) * (
            layout.siglip_pooled_grid**2
        )
    for part, first, frames, side in parts:
        grid = part.reshape(frames * side, side + 1)
        assert (grid[:, -1] == NEWLINE_ROW).all()
        expected = first + np.arange(frames * side * side)
        np.testing.assert_array_equal(grid[:, :-1].reshape(-1), expected)
    assert rows.max() < bank.total


@given(
    frames=st.integers(1, 70),
    num_hiera=st.integers(1, 70),
    stage=st.integers(1, 4),
    pool=st.integers(1, 40),
)
def test_a_token_ratio_holds_or_is_refused(
    frames: int, num_hiera: int, stage: int, pool: int
):
    grid = 256 >> (stage - 1)
    side = math.ceil(grid / pool)
    total = frames * 14 * 15 + num_hiera * side * (side + 1)
    if frames % num_hiera or total > 32768:
        with pytest.raises(LayoutError):
            VICA2.with_token_ratio(num_hiera, stage, pool, num_frames=frames)
        return
    layout = VICA2.with_token_ratio(num_hiera, stage, pool, num_frames=frames)
    assert layout.num_hiera_frames(frames) == num_hiera
    assert layout.video_tokens(frames) == total


# --------------------------------------------------------------------- image rows
@given(
    fields=FIELDS,
    width=st.integers(1, 600),
    height=st.integers(1, 600),
    view=st.integers(0, 5),
    slot=st.integers(0, 2),
    before=st.integers(0, 50),
)
def test_anyres_rows(
    fields: dict, width: int, height: int, view: int, slot: int, before: int
):
    layout = VisualLayout(**fields)
    assume(max(width, height) < layout.siglip_grid * min(width, height))
    image = (width, height)
    plan = layout.anyres(image)
    side, views = layout.siglip_grid, 1 + math.prod(plan.tiles_wh)
    bank = layout.bank(
        views=view + views,
        hiera_images=slot + 1 if layout.has_hiera else 0,
        resampled=before + math.prod(plan.final_hw),
    )
    index = layout.anyres_rows(
        bank, image, view=view, hiera_image=slot, resampled=before
    )
    assert len(index.rows) == layout.anyres_image_tokens(image)
    area = side * side
    first = bank.views + view * area
    base, rest = index.rows[:area], index.rows[area:]
    np.testing.assert_array_equal(base, first + np.arange(area))
    h, w = plan.final_hw
    tiles = rest[: h * (w + 1)].reshape(h, w + 1)
    assert (tiles[:, -1] == NEWLINE_ROW).all()
    top, left, rows, cols = plan.crop
    if (h, w) == (rows, cols):
        assert len(index.taps) == 0
        y, x = np.mgrid[top : top + rows, left : left + cols]
        tile = y // side * plan.tiles_wh[0] + x // side
        cell = y % side * side + x % side
        expected = first + area * (1 + tile) + cell
        np.testing.assert_array_equal(tiles[:, :-1], expected)
    else:
        assert plan.times > 1.1
        start = bank.resampled + before
        expected = start + np.arange(h * w).reshape(h, w)
        np.testing.assert_array_equal(tiles[:, :-1], expected)
        assert index.taps.shape == index.weights.shape == (h * w, 4)
        assert index.taps.min() >= first + area
        assert index.taps.max() < first + views * area
        np.testing.assert_allclose(index.weights.sum(-1), 1, atol=1e-6)
    hiera = rest[h * (w + 1) :]
    if layout.has_hiera:
        grid = hiera.reshape(layout.hiera_grid, layout.hiera_grid + 1)
        assert (grid[:, -1] == NEWLINE_ROW).all()
        start = bank.hiera_images + slot * layout.hiera_grid**2
        expected = start + np.arange(layout.hiera_grid**2)
        np.testing.assert_array_equal(grid[:, :-1].reshape(-1), expected)
    else:
        assert len(hiera) == 0
    assert index.rows.max() < bank.total


def test_resampled_rows_blend_the_unpadded_tile_map():
    """Gathered and blended, a smooth map comes out as that map resized."""
    layout = RECORDED["72"]
    image = (646, 430)
    plan = layout.anyres(image)
    top, left, rows, cols = plan.crop
    assert plan.final_hw != (rows, cols)
    across, down = plan.tiles_wh
    views = 1 + across * down
    bank = layout.bank(views=views, resampled=math.prod(plan.final_hw))
    index = layout.anyres_rows(bank, image, view=0, hiera_image=0, resampled=0)
    value = np.zeros(bank.total)
    side = layout.siglip_grid
    y, x = np.mgrid[: down * side, : across * side]
    tile = 1 + y // side * across + x // side
    value[bank.views + tile * side**2 + y % side * side + x % side] = 3 * y + x
    blended = (value[index.taps] * index.weights).sum(-1).reshape(plan.final_hw)
    rows_at = blend(np.arange(top, top + rows), rows, plan.final_hw[0])
    cols_at = blend(np.arange(left, left + cols), cols, plan.final_hw[1])
    np.testing.assert_allclose(blended, 3 * rows_at[:, None] + cols_at, atol=1e-4)


@given(fields=FIELDS, view=st.integers(0, 4), slot=st.integers(0, 3))
def test_padded_rows(fields: dict, view: int, slot: int):
    layout = VisualLayout(**fields)
    bank = layout.bank(
        frames=2, views=view + 1, hiera_images=slot + 1 if layout.has_hiera else 0
    )
    rows = layout.padded_rows(bank, view=view, hiera_image=slot)
    area = layout.siglip_grid**2
    assert len(rows) == layout.padded_image_tokens()
    np.testing.assert_array_equal(
        rows[:area], bank.views + view * area + np.arange(area)
    )
    assert rows[area] == NEWLINE_ROW
    assert rows.max() < bank.total


# ---------------------------------------------------------------------- resizing
@given(size=st.integers(1, 400), out=st.integers(1, 400))
def test_bilinear_taps(size: int, out: int):
    """Against half-pixel bilinear sampling with clamped edges, in exact integers."""
    lower, upper, weight = bilinear_taps(size, out)
    assert lower.dtype == upper.dtype == np.int32
    assert weight.dtype == np.float32
    assert ((lower >= 0) & (upper < size) & (upper - lower <= 1)).all()
    assert ((weight >= 0) & (weight <= 1)).all()
    # Position (i + 1/2) size / out - 1/2, in units of 1 / (2 out).
    position = np.maximum((2 * np.arange(out) + 1) * size - out, 0) / (2 * out)
    expected = np.minimum(position, size - 1)
    got = lower + np.where(upper > lower, weight, 0)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_bilinear_taps_at_pooling_by_two():
    """27 to 14: the grid the published SigLIP stream is pooled by."""
    lower, upper, weight = bilinear_taps(27, 14)
    assert (lower[0], upper[0]) == (0, 1)
    assert weight[0] == pytest.approx(27 / 28 - 0.5)
    assert (lower[-1], upper[-1]) == (25, 26)
    even = bilinear_taps(32, 16)  # the mean of two neighbours
    np.testing.assert_array_equal(even[0], np.arange(16) * 2)
    np.testing.assert_array_equal(even[2], np.full(16, 0.5, np.float32))
    same = bilinear_taps(9, 9)
    np.testing.assert_array_equal(same[0], np.arange(9))
    assert not same[2].any()


def test_default_pinpoints_go_from_one_tile_to_six_by_six():
    points = default_pinpoints(384)
    assert len(points) == 36
    assert points[:2] == ((384, 384), (384, 768))
    assert points[-1] == (2304, 2304)
    assert VICA.grid_pinpoints_wh == points


def test_an_image_below_one_tile_still_has_one():
    plan = VICA.anyres((1, 1))
    assert (plan.tiles_wh, plan.final_hw) == ((1, 1), (27, 27))
    assert VICA.anyres_image_tokens((1, 1)) == 729 + 27 * 28


# ------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("ratio", "parts"),
    [
        ((24, 4, 2), ("(24, 4, 2)", "N_hiera = 24 does not divide 64 frames")),
        ((0, 4, 2), ("(0, 4, 2)", "N_hiera = 0")),
        ((-2, 4, 2), ("(-2, 4, 2)", "N_hiera = -2")),
        ((128, 4, 2), ("(128, 4, 2)", "N_hiera = 128 does not divide 64 frames")),
        ((32, 5, 2), ("(32, 5, 2)", "output_stage must lie in 1..4, got 5")),
        ((32, 0, 2), ("(32, 0, 2)", "output_stage must lie in 1..4, got 0")),
        ((32, 4, 0), ("(32, 4, 0)", "pool_stride must be at least 1, got 0")),
        (
            (32, 4, 1),
            ("(32, 4, 1)", "47,232", "13,440 SigLIP", "33,792 Hiera", "32,768"),
        ),
    ],
)
def test_an_illegal_token_ratio_says_the_numbers(
    ratio: tuple[int, int, int], parts: tuple[str, ...]
):
    with pytest.raises(LayoutError) as caught:
        VICA2.with_token_ratio(*ratio)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_token_ratio_needs_hiera():
    with pytest.raises(LayoutError, match="no Hiera stream"):
        VICA.with_token_ratio(32, 4, 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frame_stride", 0),
        ("pool_stride", -1),
        ("siglip_pool_stride", 0),
        ("num_frames", 0),
        ("output_stage", 5),
    ],
)
def test_fields_out_of_range(field: str, value: int):
    with pytest.raises(LayoutError, match=rf"{field} must .*, got {value}"):
        VisualLayout(**{field: value})


def test_too_many_frames():
    VICA.check_video(156)
    with pytest.raises(LayoutError, match=r"157 frames make 32,970 visual tokens"):
        VICA.check_video(157)


def test_an_image_too_elongated_for_a_single_token():
    layout = VisualLayout(
        siglip_image_size=42, grid_pinpoints_wh=((2100, 42),), max_tiles=1
    )
    with pytest.raises(LayoutError, match="4000x30 pixels is too elongated"):
        layout.anyres((4000, 30))


def test_an_empty_tile_map_is_left_empty():
    """Very elongated images: base and Hiera tokens remain, as in the reference."""
    layout = VisualLayout(siglip_image_size=56, siglip_patch_size=14)
    plan = layout.anyres((400, 1))
    assert 0 in plan.final_hw
    rows = layout.anyres_rows(
        layout.bank(views=7), (400, 1), view=0, hiera_image=0, resampled=0
    ).rows
    height, width = plan.final_hw
    assert (
        len(rows) == 16 + height * (width + 1) == layout.anyres_image_tokens((400, 1))
    )
