"""Frame sampling against recorded cases; exact frames from every kind of source."""

import json
import os
import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vica_jax.data.video import (
    VideoError,
    read_video,
    sample_frames,
    time_instruction,
)

WIDTH, HEIGHT, FPS = 96, 64, 30
READERS = ["decord", "pyav"]
OPEN_GOP = "open-gop=1:scenecut=0:b-adapt=0"


def scene(number: int) -> np.ndarray:
    """A frame that tells its number and which way is up."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frame = np.stack([x * 2 + number * 5, y * 3 + number * 3, x + y + number * 7], -1)
    frame = (frame % 256).astype(np.uint8)
    frame[8:24, number % (WIDTH - 20) :][:, :16] = 255
    frame[32:56, 40:72] = np.random.default_rng(number).integers(0, 256, (24, 32, 3))
    return frame


def write(
    path: Path,
    count: int = 60,
    codec: str = "h264",
    gop: int = 12,
    b_frames: int = 2,
    times: np.ndarray | None = None,
    container_options: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """A video of ``scene`` frames; ``times`` in milliseconds make its rate vary."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(scene(number), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def truth(path: Path) -> np.ndarray:
    """Every frame as one decoder without seeking gives it, not turned."""
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return np.stack(frames)


def edit(path: Path, out: Path, box: bytes, offset: int, data: bytes) -> Path:
    """A copy with ``data`` at ``offset`` behind the name of the first such box."""
    content = bytearray(path.read_bytes())
    at = content.index(box) + len(box) + offset
    content[at : at + len(data)] = data
    out.write_bytes(content)
    return out


def garble(path: Path, out: Path, place: float, size: int) -> Path:
    content = bytearray(path.read_bytes())
    first = content.index(b"mdat") + 4
    at = first + int(place * (len(content) - first))
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    content[at : at + size] = noise.tobytes()
    out.write_bytes(content)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def h264(folder: Path) -> Path:
    """Closed GOPs of 12 with B-frames; the index stands before the data."""
    options = {"movflags": "faststart"}
    return write(folder / "h264.mp4", container_options=options)


def skip_without(reader: str) -> None:
    if reader == "decord":
        pytest.importorskip("decord")


# ---------------------------------------------------------------------- sampling
def test_sampling_equals_every_recorded_case(golden_dir: Path):
    cases = json.loads((golden_dir / "misc_case.json").read_text())["frame_sampling"]
    assert len(cases) == 24
    for case in cases:
        limit = case["frames_upbound"]
        uniform = case["force_sample"] and limit > 0
        sample = sample_frames(
            case["total_frames"],
            case["avg_fps"],
            num_frames=limit or None,
            fps=None if uniform else case["video_fps"],
        )
        assert sample.indices.tolist() == case["frame_idx"]
        assert sample.frame_time == case["frame_time"]
        assert sample.duration_s == case["video_time"]
        assert len(sample.indices) == case["num_frames"]
        assert time_instruction(sample) == case["time_instruction"]


def test_sampling_of_the_recorded_videos(golden_dir: Path):
    with np.load(golden_dir / "video_case.npz") as case:
        for video in ("s0", "s1"):
            total, fps = int(case[f"{video}.total_frames"]), case[f"{video}.fps"]
            count = len(case[f"{video}.frame_idx"])
            sample = sample_frames(total, float(fps), num_frames=count)
            np.testing.assert_array_equal(sample.indices, case[f"{video}.frame_idx"])
            assert sample.frame_time == str(case[f"{video}.frame_time"])
            assert sample.duration_s == pytest.approx(case[f"{video}.video_time"])
    with np.load(golden_dir / "train_case.npz") as case:
        total, fps = int(case["s0.total_frames"]), float(case["s0.fps"])
        sample = sample_frames(total, fps, num_frames=len(case["s0.frame_idx"]))
        np.testing.assert_array_equal(sample.indices, case["s0.frame_idx"])
        assert time_instruction(sample) in str(case["s0.time_prompt"])


@pytest.mark.parametrize(
    ("avg_fps", "fps", "indices", "times"),
    [
        (2.5, 1, [0, 2, 4], [0, 1, 2]),  # 2.5 rounds to the even 2
        (3.5, 1, [0, 4], [0, 1]),  # and 3.5 to 4
        (30.0, 15, [0, 2, 4], [0, 1, 2]),  # the reference's times past 1 fps
        (0.4, 1, [0, 1, 2, 3, 4], [0, 2.5, 5, 7.5, 10]),  # its step would be 0
    ],
)
def test_rounding_of_the_step(
    avg_fps: float, fps: float, indices: list[int], times: list[float]
):
    sample = sample_frames(5, avg_fps, fps=fps)
    assert sample.indices.tolist() == indices
    np.testing.assert_allclose(sample.times, times)


def test_more_frames_at_fps_than_the_limit_are_taken_uniformly():
    assert sample_frames(64, 1.0, num_frames=64, fps=1).times[1] == 1.0
    sample = sample_frames(65, 1.0, num_frames=3, fps=1)
    assert sample.indices.tolist() == [0, 32, 64]


@given(
    total=st.integers(1, 5000),
    num_frames=st.integers(1, 200),
    avg_fps=st.floats(0.5, 240),
    fps=st.none() | st.floats(0.1, 60),
)
def test_samples_are_in_range_and_in_order(
    total: int, num_frames: int, avg_fps: float, fps: float | None
):
    sample = sample_frames(total, avg_fps, num_frames=num_frames, fps=fps)
    assert 1 <= len(sample.indices) <= num_frames
    assert sample.indices[0] == 0
    assert sample.indices[-1] <= total - 1
    assert (np.diff(sample.indices) >= (0 if fps is None else 1)).all()
    if fps is None:
        assert len(sample.indices) == num_frames
        assert sample.indices[-1] == (total - 1 if num_frames > 1 else 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps must be a positive number, got 0"),
        ({"fps": -1.0}, "fps must be a positive number, got -1.0"),
        ({"fps": float("nan")}, "fps must be a positive number, got nan"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"source_fps": 0}, "source_fps must be a positive number, got 0"),
    ],
)
def test_numbers_out_of_range(options: dict[str, float], message: str):
    with pytest.raises(VideoError, match=message):
        read_video(np.zeros((3, 8, 8, 3), np.uint8), **options)


def test_sampling_without_any_number():
    with pytest.raises(VideoError, match="state fps or num_frames"):
        sample_frames(5, 1.0, num_frames=None)


# ----------------------------------------------------------------- files, exactly
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("intra.mp4", {"gop": 1, "b_frames": 0}),
        ("gop12.mkv", {}),
        ("gop250.mp4", {"gop": 250, "b_frames": 3}),
        ("no_b.mp4", {"b_frames": 0}),
        ("mpeg4.mp4", {"codec": "mpeg4", "b_frames": 0}),
        ("mpeg4.avi", {"codec": "mpeg4", "b_frames": 0}),
    ],
)
def test_both_readers_give_the_same_frames(folder: Path, name: str, options: dict):
    decord = pytest.importorskip("decord")
    path = write(folder / name, **options)
    full, reference = truth(path), decord.VideoReader(str(path), num_threads=1)
    for sampling in ({"num_frames": 17}, {"num_frames": 64, "fps": 4}):
        clips = [read_video(path, reader=reader, **sampling) for reader in READERS]
        assert [clip.reader for clip in clips] == READERS
        for clip in clips:
            assert clip.total_frames == len(reference) == 60
            assert clip.avg_fps == reference.get_avg_fps() == FPS
            assert clip.duration_s == 2.0
            # MPEG-4 part 2 leaves the inverse DCT open: two FFmpegs, two levels.
            error = clip.frames.astype(int) - full[clip.indices]
            assert np.abs(error).max() <= (2 if "mpeg4" in name else 0)
    clip = read_video(path, num_frames=17)  # MPEG-4 part 2 is left to decord
    assert clip.reader == ("decord" if "mpeg4" in name else "pyav")
    whole = reference.get_batch(clip.indices.tolist()).asnumpy()
    np.testing.assert_array_equal(clip.frames, whole)
    assert clip.notes == ()


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("open.mp4", {"codec": "mpeg4"}, "open GOPs"),
        ("open264.mp4", {"b_frames": 3, "x264-params": OPEN_GOP}, "open GOPs"),
        ("b.avi", {}, "no usable frame times"),
        ("raw.h264", {}, "no usable frame times"),
        ("b.ts", {}, "mpegts"),
    ],
)
def test_files_that_decord_would_misread_go_to_pyav(
    folder: Path, name: str, options: dict, why: str
):
    pytest.importorskip("decord")
    path = write(folder / name, **options)
    clip = read_video(path, num_frames=23)
    assert clip.reader == "pyav"
    assert why in clip.notes[0]
    assert clip.total_frames == 60
    np.testing.assert_array_equal(clip.frames, truth(path)[clip.indices])
    with pytest.raises(VideoError, match=r"decord cannot .*; use reader 'pyav'"):
        read_video(path, reader="decord")


def test_why_open_gops_are_not_for_decord(folder: Path):
    decord = pytest.importorskip("decord")
    path = write(folder / "why.mp4", codec="mpeg4")
    reference, full = decord.VideoReader(str(path), num_threads=1), truth(path)
    jumps = [reference[number].asnumpy() for number in reversed(range(60))]
    assert not np.array_equal(np.stack(jumps[::-1]), full)


def test_variable_frame_rate(folder: Path):
    """Frames go by number, and times by the average rate, as in the reference."""
    steps = np.random.default_rng(1).choice([20, 33, 50, 200], 50)
    path = write(folder / "vfr.mp4", count=50, times=np.cumsum(steps))
    decord = pytest.importorskip("decord")
    for reader in READERS:
        clip = read_video(path, num_frames=16, reader=reader)
        assert clip.total_frames == 50
        assert clip.avg_fps == decord.VideoReader(str(path)).get_avg_fps()
        np.testing.assert_array_equal(clip.frames, truth(path)[clip.indices])
        np.testing.assert_array_equal(clip.times, clip.indices / clip.avg_fps)
    slow = np.concatenate([np.full(25, 20), np.full(25, 400)]).cumsum()
    clip = read_video(write(folder / "slow.mp4", count=50, times=slow))
    assert any("variable frame rate" in note for note in clip.notes)


def test_a_hole_in_a_steady_rate_is_told(folder: Path):
    times = np.arange(50) * 40
    times[30:] += 400
    clip = read_video(write(folder / "hole.mp4", count=50, times=times), num_frames=4)
    assert clip.notes == ("frames are missing: about 10, the first after 1.16 s",)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("count", [1, 3])
def test_few_frames_repeat(folder: Path, reader: str, count: int):
    skip_without(reader)
    path = write(folder / f"{count}_{reader}.mp4", count=count)
    clip = read_video(path, num_frames=8, reader=reader)
    assert clip.frames.shape == (8, HEIGHT, WIDTH, 3)
    assert clip.indices.tolist() == np.linspace(0, count - 1, 8, dtype=int).tolist()
    np.testing.assert_array_equal(clip.frames, truth(path)[clip.indices])
    assert f"the video has {count} frames, 8 are taken: they repeat" in clip.notes


def test_a_limit_that_overrules_fps_is_told(h264: Path):
    clip = read_video(h264, num_frames=4, fps=5)
    assert clip.indices.tolist() == [0, 19, 39, 59]
    assert "10 frames at 5 fps pass the limit: 4 are taken uniformly" in clip.notes
    assert read_video(h264, num_frames=10, fps=5).notes == ()


def test_source_fps_overrules_the_file(h264: Path):
    clip = read_video(h264, num_frames=3, source_fps=10)
    assert clip.times.tolist() == [0.0, 2.9, 5.9]


def test_files_are_closed(h264: Path):
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc")
    for reader in ("auto", "pyav"):
        read_video(h264, num_frames=4, reader=reader)
        links = [os.path.realpath(link) for link in descriptors.iterdir()]
        assert str(h264) not in links


# ------------------------------------------------------------ decord is optional
def test_without_decord_pyav_reads(h264: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    clip = read_video(h264, num_frames=7)
    assert (clip.reader, clip.notes) == ("pyav", ())
    np.testing.assert_array_equal(clip.frames, truth(h264)[clip.indices])
    with pytest.raises(VideoError, match="decord is not installed; use reader 'pyav'"):
        read_video(h264, reader="decord")


def test_where_decord_fails_pyav_reads(folder: Path, monkeypatch: pytest.MonkeyPatch):
    decord = pytest.importorskip("decord")
    path = write(folder / "left_to_decord.mp4", codec="mpeg4", b_frames=0)

    def fail(*args: object, **kwargs: object) -> None:
        raise decord.DECORDError("[01:02:03] /src/reader.cc:12: no such codec\nstack")

    monkeypatch.setattr(decord, "VideoReader", fail)
    clip = read_video(path, num_frames=7)
    assert clip.reader == "pyav"
    assert clip.notes == ("read by PyAV instead of decord: no such codec",)
    with pytest.raises(VideoError, match=r"decord cannot \(no such codec\)"):
        read_video(path, num_frames=7, reader="decord")


# ------------------------------------------------------------------- orientation
ONE = 1 << 16
MATRICES = {  # a b c d of the display matrix, and what makes the stored frame upright
    "90": ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),
    "180": ((-1, 0, 0, -1), lambda f: np.rot90(f, 2)),
    "270": ((0, -1, 1, 0), lambda f: np.rot90(f, 1)),
    "left_right": ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
    "top_bottom": ((1, 0, 0, -1), lambda f: f[::-1]),
    "transpose": ((0, 1, 1, 0), lambda f: f.swapaxes(0, 1)),
    "anti_transpose": ((0, -1, -1, 0), lambda f: np.rot90(f, 2).swapaxes(0, 1)),
}


def with_matrix(path: Path, name: str, a: int, b: int, c: int, d: int) -> Path:
    """A copy whose track header (version 0) has that display matrix."""
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return edit(path, path.with_name(f"{name}.mp4"), b"tkhd", 40, matrix)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", MATRICES)
def test_frames_stand_upright(h264: Path, reader: str, name: str):
    skip_without(reader)
    entries, upright = MATRICES[name]
    path = with_matrix(h264, name, *(ONE * entry for entry in entries))
    clip = read_video(path, num_frames=5, reader=reader)
    expected = np.stack([upright(frame) for frame in truth(path)[clip.indices]])
    np.testing.assert_array_equal(clip.frames, expected)
    assert "as the file says" in clip.notes[0]


def test_other_display_matrices_are_left_out_and_told(h264: Path):
    path = with_matrix(h264, "skew", 46341, 46341, -46341, 46341)
    clip = read_video(path, num_frames=5)
    np.testing.assert_array_equal(clip.frames, truth(path)[clip.indices])
    assert clip.notes == ("a display matrix that is no quarter turn is left out",)


@pytest.mark.parametrize("skipped", [5, 20, 31])
def test_frames_before_an_edit_list_do_not_count(h264: Path, skipped: int):
    """Cut videos keep frames from the last keyframe on, which players do not show."""
    content = h264.read_bytes()
    at = content.index(b"elst") + 12
    duration, start = struct.unpack(">Ii", content[at : at + 8])
    ticks = 512  # of a frame: PyAV writes a time scale of 15360 at 30 fps
    data = struct.pack(">Ii", duration - skipped * 1000 // FPS, start + skipped * ticks)
    path = edit(h264, h264.with_name(f"cut{skipped}.mp4"), b"elst", 8, data)
    clip = read_video(path, num_frames=9)
    assert clip.reader == "pyav"
    assert clip.total_frames == 60 - skipped
    expected = truth(h264)[skipped:][clip.indices]
    np.testing.assert_array_equal(clip.frames, expected)
    assert "does not show" in clip.notes[0]


# ------------------------------------------------------------------------ damage
@pytest.mark.parametrize("reader", [*READERS, "auto"])
@pytest.mark.parametrize(("codec", "size"), [("h264", 1500), ("mpeg4", 16)])
def test_garbled_data_is_an_error_that_names_the_frame(
    folder: Path, codec: str, size: int, reader: str
):
    skip_without(reader)
    path = write(folder / f"whole_{codec}.mp4", codec=codec, b_frames=0)
    for place in (0.3, 0.5, 0.7):
        bad = garble(path, folder / f"bad_{codec}.mp4", place, size)
        with pytest.raises(VideoError, match=r"bad_.*: frame \d+ \(.* s\) of 60") as e:
            read_video(bad, num_frames=12, reader=reader)
        assert "\n" not in str(e.value)


def test_damage_that_decord_conceals_is_an_error(folder: Path):
    """decord alone hands out broken pictures without a word."""
    decord = pytest.importorskip("decord")
    path = write(folder / "whole.mp4", codec="mpeg4", b_frames=0)
    full, outcomes = read_video(path, num_frames=60).frames, []
    for place in np.linspace(0.2, 0.8, 8):
        bad = garble(path, folder / "byte.mp4", place, 1)
        try:
            frames = decord.VideoReader(str(bad), num_threads=1).get_batch(range(60))
        except decord.DECORDError:
            continue
        if not np.array_equal(frames.asnumpy(), full):
            try:
                read_video(bad, num_frames=60)
            except VideoError:
                outcomes.append("found")
            else:
                outcomes.append("another picture, but a legal one")
    assert outcomes.count("found") > len(outcomes) / 2


@pytest.mark.parametrize("reader", [*READERS, "auto"])
def test_a_file_cut_short(folder: Path, h264: Path, reader: str):
    skip_without(reader)
    for path in (h264, write(folder / "whole.mkv")):
        cut = folder / f"cut{path.suffix}"
        content = path.read_bytes()
        cut.write_bytes(content[: len(content) * 6 // 10])
        with pytest.raises(VideoError, match=r"cut\.m.*: frame \d+ \(.*cut short"):
            read_video(cut, num_frames=12, reader=reader)


def test_damage_after_the_last_wanted_frame_does_no_harm(folder: Path, h264: Path):
    bad = garble(h264, folder / "late.mp4", 0.9, 200)
    clip = read_video(bad, num_frames=1)
    np.testing.assert_array_equal(clip.frames, truth(h264)[:1])


# ------------------------------------------------------------------ no video at all
def no_video(folder: Path) -> dict[str, tuple[Path, str]]:
    text, garbage, audio = folder / "a.txt", folder / "b.mp4", folder / "c.m4a"
    text.write_text("no video\n" * 50)
    garbage.write_bytes(b"no video" * 50)
    (folder / "empty.mp4").write_bytes(b"")
    with av.open(str(audio), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(folder / "frameless.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    Image.new("RGB", (8, 8)).save(folder / "picture.png")
    (folder / "nothing").mkdir(exist_ok=True)
    (folder / "nothing" / "notes.txt").write_text("no frames")
    return {
        "missing": (folder / "none.mp4", "no such video file"),
        "text": (text, "not a video"),
        "garbage": (garbage, "no video, or too damaged to open"),
        "empty": (folder / "empty.mp4", "no video, or too damaged to open"),
        "picture": (folder / "picture.png", "a picture or a text, not a video"),
        "audio": (audio, "no video stream"),
        "frameless": (folder / "frameless.avi", "holds no frames"),
        "folder": (folder / "nothing", "a folder without image files"),
    }


def test_what_is_no_video(tmp_path: Path):
    for path, message in no_video(tmp_path).values():
        with pytest.raises(VideoError, match=message) as caught:
            read_video(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


# --------------------------------------------------------------- frames already cut
def test_folder_of_frames_counts_as_2_fps(tmp_path: Path):
    for number in range(12):  # 10.png sorts before 2.png by letters, not by number
        Image.fromarray(scene(number)).save(tmp_path / f"{number}.png")
    for name in ("poses.txt", "._1.png"):
        (tmp_path / name).write_text("ignored")
    clip = read_video(tmp_path, num_frames=4)
    assert clip.indices.tolist() == [0, 3, 7, 11]
    assert (clip.avg_fps, clip.duration_s, clip.reader) == (2.0, 6.0, "images")
    assert clip.frame_time == "0.00s,1.50s,3.50s,5.50s"
    np.testing.assert_array_equal(clip.frames, [scene(i) for i in clip.indices])
    assert clip.notes == ("frames without a clock: taken as 2 per second",)
    clip = read_video(str(tmp_path), num_frames=12, fps=1, source_fps=4)
    assert (clip.indices.tolist(), clip.notes) == ([0, 4, 8], ())


def test_folders_that_cannot_be_read(tmp_path: Path):
    for number in range(3):
        Image.fromarray(scene(number)).save(tmp_path / f"{number}.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoError, match=r"1\.png: cannot read the image"):
        read_video(tmp_path, num_frames=3)
    Image.fromarray(scene(1)[:48, :80]).save(tmp_path / "1.png")
    size = r"1\.png: 80x48 pixels, the frames before it 96x64"
    with pytest.raises(VideoError, match=size):
        read_video(tmp_path, num_frames=3)


def test_frames_in_memory(tmp_path: Path):
    frames = np.stack([scene(number) for number in range(9)])
    images = [Image.fromarray(frame) for frame in frames]
    for source, reader in ((frames, "array"), (images, "images")):
        clip = read_video(source, num_frames=3, source_fps=3)
        np.testing.assert_array_equal(clip.frames, frames[[0, 4, 8]])
        assert (clip.reader, clip.duration_s, clip.notes) == (reader, 3.0, ())
    clip = read_video(frames, num_frames=3)
    assert clip.avg_fps == 2.0
    assert "2 per second" in clip.notes[0]
    clip.frames[:] = 0
    np.testing.assert_array_equal(frames[0], scene(0))  # the source is left alone


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((3, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((3, 3, 8, 8), np.uint8),
    ],
)
def test_arrays_of_another_form(frames: np.ndarray):
    with pytest.raises(VideoError, match=r"must be uint8 \[n, h, w, 3\]") as caught:
        read_video(frames)
    assert str(frames.shape) in str(caught.value)


def test_no_frames_in_memory():
    for source in (np.zeros((0, 8, 8, 3), np.uint8), []):
        with pytest.raises(VideoError, match="holds no frames"):
            read_video(source)
