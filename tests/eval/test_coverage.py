"""Greedy coverage of voxels: recorded cases, Python sets as the oracle, bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vica_jax.eval.coverage import (
    CoverageError,
    greedy_cover,
    median_confidence,
    read_point_map,
    voxel_coverage,
    voxel_sets,
)

RECORDED = Path(__file__).parents[1] / "goldens" / "vsibench.json"


def recorded(kind: str) -> list[dict]:
    return json.loads(RECORDED.read_text())["space_aware_sampling"][kind]


def cloud(seed: int = 0, frames: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Points of a camera that moves along x, and their confidences above 0.1."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(frames, 5, 7, 3)).astype(np.float32)
    points[..., 0] += np.arange(frames, dtype=np.float32)[:, None, None]
    return points, rng.uniform(0.2, 3, (frames, 5, 7)).astype(np.float32)


# ------------------------------------------------------------------ recorded cases
def test_every_recorded_choice_of_sets():
    cases = recorded("max_coverage")
    assert len(cases) == 6
    for case in cases:
        assert greedy_cover(case["sets"], case["K"]) == case["selected_in_order"]


def test_every_recorded_point_map():
    cases = recorded("full")
    assert len(cases) == 2
    for case in cases:
        confidence = case["world_points_conf"]
        assert float(median_confidence(confidence)) == case["conf_median"]
        places = voxel_coverage(case["world_points"], confidence, case["K"])
        assert places.tolist() == case["selected_sorted"]


# ------------------------------------------------------------------------- oracles
def cover_by_sets(sets: list[set], most: int) -> list[int]:
    taken, covered = [], set()
    for _ in range(most):
        gains = [len(part - covered) for part in sets]
        if not gains or not max(gains):
            break
        taken.append(gains.index(max(gains)))
        covered |= sets[taken[-1]]
    return taken


def voxels_one_by_one(points: np.ndarray, confidence: np.ndarray) -> list[set]:
    """The rule spelled out for one point at a time, all in float32."""
    middle = np.percentile(confidence, 50)
    valid = (confidence >= middle) & (confidence > np.float32(0.1))
    low, high = points[valid].min(0), points[valid].max(0)
    side = min(high - low) / np.float32(20)
    return [
        {
            tuple(np.floor((point - low) / side).tolist())
            for point, counts in zip(frame.reshape(-1, 3), mask.ravel(), strict=True)
            if counts
        }
        for frame, mask in zip(points, valid, strict=True)
    ]


SETS = st.lists(st.sets(st.integers(-3, 12) | st.just(2**62), max_size=9), max_size=9)


@given(sets=SETS, most=st.integers(0, 12))
def test_greedy_takes_the_largest_gain_at_each_step(sets: list[set], most: int):
    taken = greedy_cover(sets, most)
    assert taken == cover_by_sets(sets, most)
    assert len({*taken}) == len(taken) <= most
    assert greedy_cover([sorted(part) * 2 for part in sets], most) == taken
    if most >= len(sets):
        assert set().union(*(sets[place] for place in taken)) == set().union(*sets)


def test_ties_go_to_the_lowest_place():
    assert greedy_cover([[1], [2, 3], [4, 5], [2, 3], [6, 7]], 3) == [1, 2, 4]
    assert greedy_cover([[], [], [7]], 3) == [2]
    assert greedy_cover([[], []], 3) == greedy_cover([], 3) == []


@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 8),
    size=st.tuples(st.integers(2, 4), st.integers(2, 5)),
    thickness=st.sampled_from([1.0, 1e-3, 1e-6]),
    most=st.integers(1, 10),
)
def test_voxels_equal_those_of_one_point_at_a_time(
    seed: int, frames: int, size: tuple[int, int], thickness: float, most: int
):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(frames, *size, 3)) * [1, 2, thickness]
    points = (points + rng.normal(size=3)).astype(np.float32)
    # A coarse grid of confidences: values at the median, and many equal ones.
    confidence = rng.integers(1, 5, (frames, *size)).astype(np.float32)
    counted = points[confidence >= np.percentile(confidence, 50)]
    assume(np.ptp(counted, axis=0).all())
    expected = voxels_one_by_one(points, confidence)
    sets = voxel_sets(points, confidence)
    assert [len(part) for part in sets] == [len(part) for part in expected]
    for one in range(frames):
        for other in range(one):
            common = len(np.intersect1d(sets[one], sets[other]))
            assert common == len(expected[one] & expected[other])
    places = voxel_coverage(points, confidence, most)
    assert places.tolist() == sorted(cover_by_sets(expected, most))
    assert places.tolist() == sorted({*places.tolist()})
    assert len(places) <= min(most, frames)


def test_almost_flat_points_pass_the_numbering_of_all_voxels():
    """1e10 x 1e10 x 20 voxels are more than an int64 counts."""
    points, confidence = cloud()
    points[..., :2] *= 1e9
    points[..., 2] *= 1e-2
    extent = np.ptp(points.reshape(-1, 3), axis=0)
    assert np.prod(extent / extent[2] * 20.0) > 2.0**63
    expected = voxels_one_by_one(points, confidence)
    sets = voxel_sets(points, confidence)
    assert [len(part) for part in sets] == [len(part) for part in expected]
    assert len(np.unique(np.concatenate(sets))) == len(set().union(*expected))


@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_frames_does_not_change_what_they_see(seed: int):
    points, confidence = cloud(seed)
    order = np.random.default_rng(seed).permutation(len(points))
    sets = voxel_sets(points, confidence)
    permuted = voxel_sets(points[order], confidence[order])
    assert all((permuted[i] == sets[j]).all() for i, j in enumerate(order))


# ---------------------------------------------------------------- who counts as seen
def test_the_median_is_counted_and_a_tenth_is_not():
    """Of 0.05 0.05 0.1 0.3 0.3 the median is float32's 0.1, which is not above it."""
    points = np.zeros((1, 1, 5, 3), np.float32)
    points[0, 0, 3:] = [[0, 0, 0], [1, 1, 1]]
    points[0, 0, 2] = 9  # would widen the box
    confidence = np.array([[[0.05, 0.05, 0.1, 0.3, 0.3]]], np.float32)
    assert median_confidence(confidence) == np.float32(0.1)
    assert [len(part) for part in voxel_sets(points, confidence)] == [2]
    confidence[0, 0, 2] = 0.11  # the median, and above 0.1
    assert median_confidence(confidence) == np.float32(0.11)
    assert [len(part) for part in voxel_sets(points, confidence)] == [3]


def test_a_frame_without_a_point_that_counts_is_never_taken():
    points, confidence = cloud()
    confidence[2] = 0.15
    assert len(voxel_sets(points, confidence)[2]) == 0
    assert 2 not in voxel_coverage(points, confidence, 6).tolist()


def test_frames_that_add_nothing_are_left_out():
    points, confidence = cloud(frames=2)
    points, confidence = np.tile(points, (3, 1, 1, 1)), np.tile(confidence, (3, 1, 1))
    assert voxel_coverage(points, confidence, 6).tolist() == [0, 1]


# ----------------------------------------------------------------------- bad input
def test_no_point_with_enough_confidence():
    points, confidence = cloud()
    with pytest.raises(CoverageError, match=r"above 0\.1 \(the highest is 0\.1\)"):
        voxel_sets(points, np.full_like(confidence, 0.1))


@pytest.mark.parametrize("axis", range(3))
def test_flat_points(axis: int):
    points, confidence = cloud()
    points[..., axis] = 2.5
    with pytest.raises(CoverageError, match="they need an extent along all three axes"):
        voxel_sets(points, confidence)
    # So little extent that a 20th of it is no float32 any more.
    points[0, :, :, axis] = 0
    points[1:, ..., axis] = 1e-45
    with pytest.raises(CoverageError, match="they need an extent along all three axes"):
        voxel_sets(points, confidence)


def test_a_single_point_that_counts():
    points, confidence = cloud()
    confidence[:] = 0
    confidence[0, 0, 0] = 1
    with pytest.raises(CoverageError, match="the points that count measure 0 x 0 x 0"):
        voxel_sets(points, confidence)


def test_points_too_far_apart_for_float32():
    points, confidence = cloud()
    points[0], points[1] = -3e38, 3e38
    with pytest.raises(CoverageError, match="measure inf x inf x inf"):
        voxel_sets(points, confidence)


@pytest.mark.parametrize(
    ("points", "confidence", "message"),
    [
        ((2, 3, 4), (2, 3, 4), r"must be [T, H, W, 3], got (2, 3, 4)"),
        ((2, 3, 4, 2), (2, 3, 4), r"must be [T, H, W, 3], got (2, 3, 4, 2)"),
        ((0, 3, 4, 3), (0, 3, 4), r"must be [T, H, W, 3], got (0, 3, 4, 3)"),
        ((2, 3, 4, 3), (2, 4, 3), "must be [2, 3, 4] like the points, got [2, 4, 3]"),
    ],
)
def test_wrong_shapes(points: tuple, confidence: tuple, message: str):
    with pytest.raises(CoverageError, match=re.escape(message)):
        voxel_sets(np.zeros(points), np.zeros(confidence))


def test_a_negative_number_of_frames():
    with pytest.raises(CoverageError, match="must not be below 0, got -1"):
        greedy_cover([[1]], -1)


# --------------------------------------------------------------------- point maps
def arrays(**changes: object) -> dict:
    points, confidence = cloud()
    file = {
        "world_points": points,
        "world_points_conf": confidence,
        "frame_indices": np.arange(6) * 4,
    }
    return {
        name: value for name, value in (file | changes).items() if value is not None
    }


def test_a_point_map_comes_back_as_written(tmp_path: Path):
    for save in (np.savez, np.savez_compressed):
        written = arrays(frame_indices=np.arange(6, dtype=np.uint16), extra=np.ones(3))
        save(tmp_path / "scene.npz", **written)
        read = read_point_map(tmp_path / "scene.npz")
        np.testing.assert_array_equal(read.world_points, written["world_points"])
        np.testing.assert_array_equal(read.confidence, written["world_points_conf"])
        assert read.frame_indices.tolist() == [0, 1, 2, 3, 4, 5]
        assert read.frame_indices.dtype == np.int64


def with_hole(value: float) -> np.ndarray:
    points, _ = cloud()
    points[1, 2, 3, 0] = value
    return points


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world_points_conf": None}, "no array named world_points_conf"),
        (
            {"world_points": None, "frame_indices": None},
            "no array named world_points, frame_indices",
        ),
        (
            {"world_points": cloud()[0].astype(np.float64)},
            "must be float32, is float64",
        ),
        ({"world_points_conf": cloud()[1].astype(np.float16)}, "float32, is float16"),
        ({"frame_indices": np.arange(6.0)}, "must be integers, are float64"),
        ({"frame_indices": np.arange(5)}, "6 frames of points, frame_indices of shape"),
        ({"frame_indices": np.arange(6)[:, None]}, r"shape \(6, 1\)"),
        ({"frame_indices": np.array([0, 1, 2, 2, 3, 4])}, "must ascend"),
        ({"frame_indices": np.arange(6)[::-1]}, "must ascend"),
        ({"frame_indices": np.arange(-1, 5)}, "must ascend from 0"),
        ({"world_points": cloud()[0][:, :4]}, r"must be \[6, 4, 7\] like the points"),
        (
            {"world_points": with_hole(np.nan)},
            "world_points hold 1 values that are not",
        ),
        (
            {"world_points": with_hole(np.inf)},
            "world_points hold 1 values that are not",
        ),
        ({"world_points_conf": with_hole(np.nan)[..., 0]}, "confidences hold 1 values"),
        ({"frame_indices": np.array([{}] * 6)}, "not a readable .npz file"),
    ],
)
def test_an_unfit_point_map_is_one_line_that_names_it(
    tmp_path: Path, changes: dict, message: str
):
    np.savez(tmp_path / "scene.npz", **arrays(**changes))
    with pytest.raises(CoverageError, match=message) as error:
        read_point_map(tmp_path / "scene.npz")
    assert str(error.value).startswith(f"{tmp_path / 'scene.npz'}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.npz", b"not a zip file", "not a readable .npz file"),
        ("empty.npz", b"", "not a readable .npz file"),
        ("cut.npz", None, "not a readable .npz file"),
        ("missing.npz", ..., "no such point map"),
        ("folder.npz", "folder", "not a readable .npz file"),
    ],
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, name: str, content: object, message: str
):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content is None:
        np.savez_compressed(path, **arrays())
        path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(CoverageError, match=message) as error:
        read_point_map(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_damaged_bytes_and_single_arrays(tmp_path: Path):
    np.savez(tmp_path / "scene.npz", **arrays())
    content = bytearray((tmp_path / "scene.npz").read_bytes())
    content[600] ^= 255
    (tmp_path / "scene.npz").write_bytes(content)
    with pytest.raises(CoverageError, match="not a readable"):
        read_point_map(tmp_path / "scene.npz")
    np.save(tmp_path / "single.npy", np.ones(3))
    with pytest.raises(CoverageError, match="a single array"):
        read_point_map(tmp_path / "single.npy")
