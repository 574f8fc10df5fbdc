"""Chosen frames of real files: which, at what times, and what is said about them."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.data.video import VideoClip, VideoError, read_video
from vica_jax.errors import InputError
from vica_jax.eval import frames
from vica_jax.eval.coverage import CoverageError, voxel_coverage
from vica_jax.eval.frames import (
    FrameSelection,
    SelectionError,
    find_point_map,
    select_clip,
    top_up,
)
from vica_jax.eval.maxvol import maxinfo

COUNT, FPS = 48, 4  # 12 seconds: 12 candidates at 1 fps
CANDIDATES = list(range(0, COUNT, FPS))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the video scannet/scene.mp4, whose frames tell their number."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "scannet").mkdir()
    with av.open(str(folder / "scannet" / "scene.mp4"), "w") as container:
        stream = container.add_stream("h264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for number in range(COUNT):
            picture = np.full((16, 32, 3), number * 5, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return folder


@pytest.fixture(scope="module")
def video(data: Path) -> Path:
    return data / "scannet" / "scene.mp4"


def embed(clip: VideoClip) -> np.ndarray:
    """Random embeddings that depend on the frame alone."""
    return np.stack([np.random.default_rng(i).normal(size=16) for i in clip.indices])


def write_points(path: Path, numbers: np.ndarray) -> Path:
    """A camera that moves along x in equal steps and sees a box 1 x 3 x 3 of points."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (len(numbers), 6, 6, 3)) * [1, 3, 3]
    points[..., 0] += np.arange(len(numbers))[:, None, None]
    np.savez(
        path,
        world_points=points.astype(np.float32),
        world_points_conf=np.ones(points.shape[:3], np.float32),
        frame_indices=numbers,
    )
    return path


def check_clip(clip: VideoClip, video: Path) -> None:
    """Frames ascend, are the video's own, and their times its clock's."""
    assert (np.diff(clip.indices) > 0).all()
    every = read_video(video, num_frames=COUNT)
    np.testing.assert_array_equal(clip.frames, every.frames[clip.indices])
    np.testing.assert_array_equal(clip.times, clip.indices / FPS)
    assert (clip.total_frames, clip.avg_fps) == (COUNT, FPS)


# ------------------------------------------------------------------ uniform and fps
def test_uniform_and_fps_are_those_of_read_video(video: Path):
    for selection, sampling in (
        (FrameSelection(num_frames=7), {"num_frames": 7}),
        (FrameSelection(kind="fps", fps=2), {"num_frames": 64, "fps": 2}),
        (FrameSelection(kind="fps", num_frames=5), {"num_frames": 5, "fps": 1}),
    ):
        clip, expected = select_clip(video, selection), read_video(video, **sampling)
        assert clip.indices.tolist() == expected.indices.tolist()
        assert clip.notes == expected.notes
        np.testing.assert_array_equal(clip.frames, expected.frames)
        np.testing.assert_array_equal(clip.times, expected.times)


# ------------------------------------------------------------------------- maxinfo
def test_maxinfo_chooses_among_frames_at_one_a_second(video: Path):
    asked = []

    def watch(clip: VideoClip) -> np.ndarray:
        asked.append(clip.indices.tolist())
        check_clip(clip, video)
        return embed(clip)

    selection = FrameSelection(kind="maxinfo", num_frames=9, rank=3, tol=0.7)
    clip = select_clip(video, selection, embed=watch)
    assert asked == [CANDIDATES]
    rows = np.stack([np.random.default_rng(i).normal(size=16) for i in CANDIDATES])
    places = maxinfo(rows, rank=3, tol=0.7, max_frames=9)
    assert 3 <= len(places) < 9  # tol ends it: else the next line shows nothing
    assert clip.indices.tolist() == [CANDIDATES[place] for place in places]
    check_clip(clip, video)
    chosen = len(places)
    assert clip.notes == (
        f"maxinfo: {chosen} of 12 candidate frames chosen: {chosen} frames instead of "
        "9",
    )


def test_maxinfo_filled_up(video: Path):
    selection = FrameSelection(kind="maxinfo", num_frames=9, rank=3, tol=0.7)
    few = select_clip(video, selection, embed=embed)
    filled = FrameSelection(**{**vars(selection), "fill": True})
    clip = select_clip(video, filled, embed=embed)
    check_clip(clip, video)
    assert len(clip.indices) == 9
    assert {*few.indices.tolist()} < {*clip.indices.tolist()} <= {*CANDIDATES}
    chosen = len(few.indices)
    assert clip.notes == (
        f"maxinfo: {chosen} of 12 candidate frames chosen, {9 - chosen} added evenly",
    )


def test_more_candidates_than_allowed_are_taken_uniformly(video: Path):
    counts = []

    def watch(clip: VideoClip) -> np.ndarray:
        counts.append(clip.indices.tolist())
        return embed(clip)

    selection = FrameSelection(kind="maxinfo", num_frames=3, candidates=5, fps=4)
    clip = select_clip(video, selection, embed=watch)
    assert counts == [[0, 11, 23, 35, 47]]
    check_clip(clip, video)
    assert clip.notes == ("maxinfo: 3 of 5 candidate frames chosen",)


def test_so_few_candidates_are_all_taken_without_embeddings(video: Path):
    def fail(clip: VideoClip) -> np.ndarray:
        raise AssertionError("nothing to choose")

    clip = select_clip(video, FrameSelection(kind="maxinfo", num_frames=12), embed=fail)
    assert clip.indices.tolist() == CANDIDATES
    assert clip.notes == ("maxinfo: all 12 candidate frames taken",)
    selection = FrameSelection(kind="maxinfo", num_frames=16)
    clip = select_clip(video, selection, embed=fail)
    assert clip.indices.tolist() == CANDIDATES
    assert clip.notes[0].endswith("taken: 12 frames instead of 16")
    check_clip(clip, video)


@pytest.mark.parametrize("wanted", [13, 16, 47, 48, 64])
def test_few_candidates_are_filled_up_from_the_video(video: Path, wanted: int):
    selection = FrameSelection(kind="maxinfo", num_frames=wanted, fill=True)
    clip = select_clip(video, selection, embed=embed)
    check_clip(clip, video)
    assert len(clip.indices) == min(wanted, COUNT)
    assert {*CANDIDATES} < {*clip.indices.tolist()}
    added = min(wanted, COUNT) - 12
    end = ": 48 frames instead of 64" if wanted > COUNT else ""
    assert clip.notes == (
        f"maxinfo: all 12 candidate frames taken, {added} added evenly{end}",
    )


MAXINFO = FrameSelection(kind="maxinfo", num_frames=4)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.ones((11, 16)), r"shape \(11, 16\) for 12 candidate frames: they must be"),
        (np.ones(12), r"shape \(12,\) for 12 candidate frames"),
        (np.full((12, 16), np.nan), "the embeddings: 12 of 12 rows are not finite"),
        (np.zeros((12, 16)), "the embeddings are zeros only"),
        (np.array([["a"] * 3] * 12), "the embeddings must be a matrix of real numbers"),
        (np.zeros((12, 0)), "the embeddings must be a matrix of at least one row"),
    ],
)
def test_embeddings_that_do_not_fit(video: Path, answer: np.ndarray, message: str):
    with pytest.raises(SelectionError, match=message) as error:
        select_clip(video, MAXINFO, embed=lambda clip: answer)
    assert str(error.value).startswith(f"{video}: ")
    assert "\n" not in str(error.value)


def test_no_embeddings(video: Path):
    with pytest.raises(SelectionError, match=r"scene\.mp4: frames by maxinfo need emb"):
        select_clip(video, MAXINFO)


# ------------------------------------------------------------------------ coverage
def test_coverage_reads_the_frames_of_the_point_map(video: Path, tmp_path: Path):
    numbers = np.array([0, 7, 9, 20, 33, 40, 47])
    path = write_points(tmp_path / "points.npz", numbers)
    file = np.load(path)
    for wanted in (1, 3, 5):
        selection = FrameSelection(kind="coverage", num_frames=wanted)
        clip = select_clip(video, selection, point_maps=path)
        points, confidence = file["world_points"], file["world_points_conf"]
        places = voxel_coverage(points, confidence, wanted)
        assert clip.indices.tolist() == numbers[places].tolist()
        check_clip(clip, video)
        note = f"coverage: {wanted} of the point map's 7 frames chosen"
        assert clip.notes == (note,)
    file.close()


@pytest.mark.parametrize(("wanted", "fill"), [(5, False), (5, True), (9, True)])
def test_coverage_ends_early_and_is_filled_up(
    video: Path, tmp_path: Path, wanted: int, fill: bool
):
    """Frames 2 to 6 of the point map see what frame 0 or 1 has seen."""
    numbers = np.array([0, 8, 16, 24, 32, 40, 47])
    path = write_points(tmp_path / "points.npz", numbers)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["world_points"][2:] = arrays["world_points"][[0, 1, 0, 1, 0]]
    np.savez(path, **arrays)
    selection = FrameSelection(kind="coverage", num_frames=wanted, fill=fill)
    clip = select_clip(video, selection, point_maps=path)
    check_clip(clip, video)
    if not fill:
        assert clip.indices.tolist() == [0, 8]
        end = ": 2 frames instead of 5"
    elif wanted == 5:  # the middles of 3 equal parts of the five frames left
        assert clip.indices.tolist() == [0, 8, 16, 32, 47]
        end = ", 3 added evenly"
    else:  # all of the point map's, then two of the video's other 41
        others = sorted({*range(COUNT)} - {*numbers.tolist()})
        both = [others[41 // 4], others[3 * 41 // 4]]
        assert clip.indices.tolist() == sorted([*numbers.tolist(), *both])
        end = ", 7 added evenly"
    assert clip.notes == (f"coverage: 2 of the point map's 7 frames chosen{end}",)


def test_a_point_map_of_another_video(video: Path, tmp_path: Path):
    path = write_points(tmp_path / "long.npz", np.array([0, 20, COUNT]))
    selection = FrameSelection(kind="coverage", num_frames=2)
    with pytest.raises(SelectionError, match="the point map of another video") as error:
        select_clip(video, selection, point_maps=path)
    line = f"{path}: its frame_indices go up to 48, {video} has 48 frames"
    assert str(error.value).startswith(line)
    path = write_points(tmp_path / "short.npz", np.arange(0, 30, 3))
    clip = select_clip(video, selection, point_maps=path)
    assert clip.notes[0] == "the point map ends 20 frames before the video does"


def test_an_unfit_point_map_names_its_file(video: Path, tmp_path: Path):
    path = write_points(tmp_path / "points.npz", np.arange(5))
    with np.load(path) as file:
        arrays = dict(file)
    selection = FrameSelection(kind="coverage", num_frames=2)
    for changes, message in (
        ({"world_points": arrays["world_points"] * [1, 0, 1]}, "must be float32"),
        (
            {"world_points": arrays["world_points"] * np.float32([1, 0, 1])},
            "an extent along all three axes",
        ),
        ({"world_points_conf": np.zeros((5, 6, 6), np.float32)}, "nothing to choose"),
        ({"world_points": np.full((5, 6, 6, 3), np.nan, np.float32)}, "not finite"),
        ({"frame_indices": np.arange(6)}, "5 frames of points"),
    ):
        np.savez(path, **(arrays | changes))
        with pytest.raises(CoverageError, match=message) as error:
            select_clip(video, selection, point_maps=path)
        assert str(error.value).startswith(f"{path}: ")
        assert str(error.value).count(str(path)) == 1
        assert "\n" not in str(error.value)
    with pytest.raises(CoverageError, match="no such point map"):
        select_clip(video, selection, point_maps=tmp_path / "none.npz")
    with pytest.raises(SelectionError, match="frames by coverage need its point map"):
        select_clip(video, selection)


def test_a_folder_of_point_maps(data: Path, video: Path, tmp_path: Path):
    folder = tmp_path / "maps"
    (folder / "scannet").mkdir(parents=True)
    with pytest.raises(
        SelectionError, match=r"no point map scannet/scene\.npz or scene"
    ):
        find_point_map(video, folder)
    outer = write_points(folder / "scene.npz", np.arange(5))
    assert find_point_map(video, folder) == outer
    inner = write_points(folder / "scannet" / "scene.npz", np.arange(0, 48, 9))
    assert find_point_map(video, folder) == inner
    assert find_point_map(str(video), str(folder)) == inner
    assert find_point_map(video, outer) == outer
    (tmp_path / "scannet" / "scene").mkdir(parents=True)  # a folder of frames
    assert find_point_map(tmp_path / "scannet" / "scene", folder) == inner
    with pytest.raises(SelectionError, match="needs videos with a path"):
        find_point_map(np.zeros((2, 4, 4, 3), np.uint8), folder)
    selection = FrameSelection(kind="coverage", num_frames=3)
    clip = select_clip(video, selection, point_maps=folder)
    assert {*clip.indices.tolist()} <= {*range(0, 48, 9)}


# ------------------------------------------------------------- whatever the source
def test_a_missing_or_broken_video_is_its_own_error(tmp_path: Path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    points = write_points(tmp_path / "points.npz", np.arange(5))
    for kind in frames.KINDS:
        selection = FrameSelection(kind=kind, num_frames=2)
        for name in ("missing.mp4", "broken.mp4"):
            with pytest.raises(VideoError, match=name):
                select_clip(tmp_path / name, selection, embed=embed, point_maps=points)


def test_frames_in_memory_go_by_the_rate_given():
    pictures = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    selection = FrameSelection(kind="maxinfo", num_frames=4)
    clip = select_clip(pictures, selection, embed=embed, source_fps=5)
    assert {*clip.indices.tolist()} <= {*range(0, 40, 5)}
    np.testing.assert_array_equal(clip.frames[:, 0, 0, 0], clip.indices)
    np.testing.assert_array_equal(clip.times, clip.indices / 5)
    with pytest.raises(SelectionError, match=r"^the frames: frames by maxinfo need"):
        select_clip(pictures, selection)


# --------------------------------------------------------------------------- fill
@given(
    pool=st.sets(st.integers(0, 200), max_size=60),
    chosen=st.data(),
    count=st.integers(0, 70),
)
def test_fill_adds_what_is_missing_and_no_frame_twice(
    pool: set[int], chosen: st.DataObject, count: int
):
    few = chosen.draw(st.sets(st.sampled_from(sorted(pool)))) if pool else set()
    rest = sorted(pool - few)
    numbers = top_up(np.array(sorted(few), int), np.array(sorted(pool), int), count)
    assert numbers.tolist() == sorted({*numbers.tolist()})
    assert few <= {*numbers.tolist()} <= pool
    assert len(numbers) == max(len(few), min(count, len(pool)))
    added = np.searchsorted(rest, sorted({*numbers.tolist()} - few))
    if len(added):  # one in each of as many parts of what is left, as equal as can be
        width = len(rest) / len(added)
        np.testing.assert_allclose(added, (np.arange(len(added)) + 0.5) * width, atol=1)


def test_fill_by_hand():
    assert top_up(np.array([5]), np.arange(10), 2).tolist() == [4, 5]
    assert top_up(np.array([0, 9]), np.arange(10), 6).tolist() == [0, 2, 4, 6, 8, 9]
    assert top_up(np.array([], int), np.arange(8), 4).tolist() == [1, 3, 5, 7]
    assert top_up(np.array([3, 1]), np.arange(4), 2).tolist() == [1, 3]


# ----------------------------------------------------------------------- settings
def test_the_recipe_names_what_has_an_effect():
    described = [FrameSelection(kind=kind).describe() for kind in frames.KINDS]
    assert described == [
        {"kind": "uniform", "num_frames": 64},
        {"kind": "fps", "num_frames": 64, "fps": 1.0},
        {
            "kind": "maxinfo", "num_frames": 64, "fps": 1.0, "candidates": 128,
            "rank": 8, "tol": 0.3, "fill": False,
        },
        {"kind": "coverage", "num_frames": 64, "fill": False},
    ]  # fmt: skip
    assert json.loads(json.dumps(described)) == described
    assert [FrameSelection(kind=kind).needs_embed for kind in frames.KINDS] == [
        False, False, True, False,
    ]  # fmt: skip
    assert FrameSelection(kind="coverage").needs_point_map


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"fps": 0.0}, "fps must be a positive number, got 0"),
        ({"fps": float("nan")}, "fps must be a positive number, got nan"),
        ({"tol": -0.5}, "tol must be a number not below 0, got -0.5"),
        ({"kind": "maxinfo", "num_frames": 129}, "128 candidates for 129 frames"),
    ],
)
def test_settings_out_of_range(settings: dict, message: str):
    with pytest.raises(SelectionError, match=message) as error:
        FrameSelection(**settings)
    assert isinstance(error.value, InputError)


def test_an_unknown_kind_is_told_with_the_known_ones():
    message = "no frame selection 'random': there are uniform, fps, maxinfo, coverage"
    with pytest.raises(SelectionError, match=message):
        FrameSelection(kind="random")
