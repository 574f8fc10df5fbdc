"""Frames of given numbers, from every kind of source."""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vica_jax.data.video import VideoError, read_video, read_video_frames

COUNT, FPS = 30, 10


def write(path: Path, count: int = COUNT) -> Path:
    """A video with B-frames in which every frame differs from the others."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        stream.codec_context.gop_size = 8
        for number in range(count):
            picture = np.full((16, 32, 3), number * 8, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("frames") / "scene.mp4")


@pytest.fixture(scope="module")
def every_frame(video: Path) -> np.ndarray:
    with av.open(str(video)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return np.stack(frames)


@pytest.mark.parametrize("reader", ["auto", "pyav"])
def test_frames_of_a_file_come_in_the_order_asked_for(
    video: Path, every_frame: np.ndarray, reader: str
):
    for numbers in ([0, 7, 8, 29], [29, 3, 3, 11], [15], np.arange(COUNT, dtype="u1")):
        clip = read_video_frames(video, numbers, reader=reader)
        assert clip.indices.tolist() == [*numbers]
        assert clip.indices.dtype == np.int64
        np.testing.assert_array_equal(clip.frames, every_frame[numbers])
        np.testing.assert_array_equal(clip.times, np.array(numbers) / FPS)
        assert (clip.total_frames, clip.avg_fps, clip.notes) == (COUNT, FPS, ())


def test_a_function_chooses_by_number_of_frames_and_rate(video: Path):
    seen = []

    def choose(total: int, rate: float) -> list[int]:
        seen.append((total, rate))
        return [total - 1, 0]

    assert read_video_frames(video, choose).indices.tolist() == [29, 0]
    assert read_video_frames(video, choose, source_fps=4).times.tolist() == [7.25, 0]
    assert seen == [(COUNT, FPS), (COUNT, 4)]


def test_the_sample_of_read_video_read_by_its_numbers(video: Path):
    sampled = read_video(video, num_frames=9)
    again = read_video_frames(video, sampled.indices)
    np.testing.assert_array_equal(again.frames, sampled.frames)
    np.testing.assert_array_equal(again.times, sampled.times)


def test_folders_images_and_arrays(tmp_path: Path):
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 4, 6, 3), np.uint8
    )
    images = [Image.fromarray(frame) for frame in frames]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    for source, reader in ((tmp_path, "images"), (images, "images"), (frames, "array")):
        clip = read_video_frames(source, [4, 1])
        np.testing.assert_array_equal(clip.frames, frames[[4, 1]])
        assert clip.times.tolist() == [2.0, 0.5]
        assert clip.reader == reader
        assert clip.notes == ("frames without a clock: taken as 2 per second",)
        assert read_video_frames(source, [2], source_fps=8).notes == ()


@given(numbers=st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_any_numbers(numbers: list[int]):
    frames = np.arange(7 * 12, dtype=np.uint8).reshape(7, 2, 2, 3)
    clip = read_video_frames(frames, numbers)
    np.testing.assert_array_equal(clip.frames, frames[numbers])
    assert clip.indices.tolist() == numbers


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([0, 30], r"scene\.mp4: frame 30 is asked for, there are 30 frames \(from 0\)"),
        ([-1], "frame -1 is asked for"),
        ([], "must be a list of integers"),
        ([0.5], "must be a list of integers, got float64"),
        ([[1, 2]], r"must be a list of integers, got int64 of shape \(1, 2\)"),
        ([True], "must be a list of integers, got bool"),
    ],
)
def test_numbers_that_are_no_frames(video: Path, numbers: list, message: str):
    with pytest.raises(VideoError, match=message) as error:
        read_video_frames(video, lambda total, rate: np.array(numbers))
    assert "\n" not in str(error.value)


def test_what_is_no_video(tmp_path: Path):
    with pytest.raises(VideoError, match="no such video file"):
        read_video_frames(tmp_path / "missing.mp4", [0])
    with pytest.raises(VideoError, match="source_fps must be a positive number"):
        read_video_frames(np.zeros((3, 2, 2, 3), np.uint8), [0], source_fps=-1)
    with pytest.raises(
        VideoError, match="the video: frame 3 is asked for, there are 3"
    ):
        read_video_frames(np.zeros((3, 2, 2, 3), np.uint8), [3])


def test_a_codec_that_nobody_knows(video: Path, tmp_path: Path):
    data = video.read_bytes()
    place = data.index(b"stsd") + 16
    strange = tmp_path / "strange.mp4"
    strange.write_bytes(data[:place] + b"zzzz" + data[place + 4 :])
    with pytest.raises(VideoError, match="no decoder for its video stream"):
        read_video(strange, num_frames=2)
