"""Who decodes a file, once or twice, and in how many parts side by side."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.data import video_frames
from vica_jax.data.threads import num_threads, use_threads
from vica_jax.data.video import VideoError, read_video
from vica_jax.data.video_file import VideoFile, index_file

WIDTH, HEIGHT = 96, 64
Sizes = tuple[int, int]


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = num_threads()
    use_threads(4)
    yield
    use_threads(before)


def picture(number: int, width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(
        1
    )  # hard colour edges: chroma is what readers differ in
    frame = np.roll(rng.integers(0, 256, (height, width, 3), np.uint8), number * 3, 1)
    frame[: height // 2, : width // 2] = (number * 20 % 256, 255, 90)
    return np.ascontiguousarray(frame)


def write(
    path: Path,
    codec: str = "h264",
    pixels: str = "yuv420p",
    size: Sizes = (WIDTH, HEIGHT),
    count: int = 48,
    gop: int = 6,
    tags: dict[str, int] | None = None,
    **options: str,
) -> Path:
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.gop_size = gop
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, width, height), "rgb24")
            frame = frame.reformat(format=pixels)
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "how", "reader"),
    [
        ("h264.mp4", {}, "pyav"),
        ("odd_blocks.mp4", {"size": (98, 66)}, "pyav"),
        ("full_range.mp4", {"pixels": "yuvj420p"}, "pyav"),
        ("bt709.mp4", {"tags": {"colorspace": 1, "color_range": 1}}, "pyav"),
        ("bt2020.mp4", {"tags": {"colorspace": 9, "color_range": 2}}, "pyav"),
        ("vp9.webm", {"codec": "libvpx-vp9"}, "pyav"),
        ("vp8.mkv", {"codec": "libvpx"}, "pyav"),
        ("odd_height.mkv", {"codec": "libvpx-vp9", "size": (96, 63)}, "decord"),
        ("ten_bits.mp4", {"pixels": "yuv420p10le"}, "decord"),
        ("interlaced.mp4", {"x264-params": "interlaced=1"}, "decord"),
        ("more_chroma.mp4", {"pixels": "yuv422p"}, "decord"),
        ("mpeg4.mp4", {"codec": "mpeg4", "bf": "0"}, "decord"),
        ("pictures.mkv", {"codec": "mjpeg", "pixels": "yuvj420p"}, "decord"),
    ],
)
def test_pixels_are_those_of_decord_whoever_reads(
    tmp_path: Path, name: str, how: dict, reader: str, monkeypatch: pytest.MonkeyPatch
):
    """What PyAV reads is never opened by decord, whose class is one that counts."""
    decord = pytest.importorskip("decord")
    path = write(tmp_path / name, **how)
    numbers = np.linspace(0, 47, 13, dtype=int).tolist()
    expected = decord.VideoReader(str(path), num_threads=1).get_batch(numbers).asnumpy()
    opened, real = [], decord.VideoReader

    def reading(*args, **options):
        opened.append(args)
        return real(*args, **options)

    monkeypatch.setattr(decord, "VideoReader", reading)
    frames, used, notes = video_frames.read_frames(index_file(str(path)), numbers)
    assert (used, notes) == (reader, ())
    np.testing.assert_array_equal(frames, expected)
    assert len(opened) == (reader == "decord")


def test_parts_side_by_side_are_the_file_read_through(tmp_path: Path):
    for name, how in (
        ("closed.mp4", {}),
        ("open.mp4", {"x264-params": "open-gop=1:scenecut=0:b-adapt=0", "bf": "3"}),
        ("whole.mp4", {"gop": 250}),
    ):
        file = index_file(str(write(tmp_path / name, **how)))
        with av.open(file.path) as container:
            full = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        for numbers in ([0, 11, 17, 30, 31, 47], [5], list(range(48))):
            frames, _, _ = video_frames.read_frames(file, numbers)
            np.testing.assert_array_equal(frames, [full[i] for i in numbers])


def test_only_the_groups_of_wanted_frames_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, decoded = write(tmp_path / "a.mp4"), []
    real = video_frames.numbered_frames

    def counting(*args):
        for number, frame in real(*args):
            decoded.append(number)
            yield number, frame

    monkeypatch.setattr(video_frames, "numbered_frames", counting)
    read_video_numbers(path, [2, 20, 40])
    assert sorted(decoded) == [0, 1, 2, 18, 19, 20, 36, 37, 38, 39, 40]


def read_video_numbers(path: Path, numbers: list[int]) -> np.ndarray:
    return video_frames.read_frames(index_file(str(path)), numbers)[0]


@given(data=st.data(), count=st.integers(1, 8))
def test_parts_hold_every_place_once_and_begin_at_seeks(data, count: int):
    total = data.draw(st.integers(1, 120))
    keys = {0, *data.draw(st.sets(st.integers(0, total - 1), max_size=12))}
    numbers = sorted(data.draw(st.sets(st.integers(0, total - 1), min_size=1)))
    file = VideoFile(
        path="",
        total=total,
        avg_fps=30,
        time_base=1,
        keys=[(k, k) for k in sorted(keys)],
    )
    parts = video_frames._parts(file, numbers, count)
    assert [place for part in parts for place in part] == list(range(len(numbers)))
    assert 1 <= len(parts) <= count and all(map(len, parts))
    for part in parts[1:]:
        assert file.key_before(numbers[part[0]])[0] > numbers[part[0] - 1] + 1


@pytest.mark.parametrize("reader", ["auto", "pyav", "decord"])
def test_damage_is_told_as_by_one_thread(tmp_path: Path, reader):
    """Or not at all, where what is left is a legal stream: then pixels are the same."""
    if reader == "decord":
        pytest.importorskip("decord")
    content = write(tmp_path / "whole.mp4", count=60).read_bytes()
    first, errors = content.index(b"mdat") + 4, 0
    for place in (0.2, 0.4, 0.6, 0.8):
        at = first + int(place * (len(content) - first))
        bad = bytearray(content)
        bad[at : at + 1500] = np.random.default_rng(0).bytes(1500)
        (tmp_path / "bad.mp4").write_bytes(bad)
        outcomes = []
        for threads in (1, 4):
            use_threads(threads)
            try:
                clip = read_video(tmp_path / "bad.mp4", num_frames=20, reader=reader)
                outcomes.append(clip.frames.tobytes())
            except VideoError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]
        errors += isinstance(outcomes[0], str)
    assert errors >= 2


def test_frames_that_change_their_size_take_the_first_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "changing.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        at = 0
        for size in ((WIDTH, HEIGHT), (64, 48)):
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height = size
            encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 30)
            encoder.max_b_frames, encoder.gop_size = 0, 6
            encoder.open()
            frames = [picture(i, *size) for i in range(12)]
            wrapped = [av.VideoFrame.from_ndarray(f, format="rgb24") for f in frames]
            for frame in [*wrapped, None]:
                if frame is not None:
                    frame.pts, at = at, at + 1
                for packet in encoder.encode(frame):
                    packet.stream = stream
                    packet.time_base = Fraction(1, 30)
                    container.mux(packet)
    uneven, clips = [], []
    monkeypatch.setattr(
        video_frames._UnevenError, "__init__", lambda self: uneven.append(self)
    )
    for threads in (1, 4):
        use_threads(threads)
        clips.append(read_video(path, num_frames=8))
        assert bool(uneven) == (threads > 1)  # found out, and read again by one
    assert clips[0].frames.shape == (8, HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(clips[0].frames, clips[1].frames)
