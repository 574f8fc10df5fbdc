"""Videos' pixels in memory and on disk: what is found, what is not, and what goes."""

import json
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from vica_jax.data import frame_cache as module
from vica_jax.data.cache_files import file_of
from vica_jax.data.frame_cache import FrameCache, FrameCacheError, video_pixels
from vica_jax.data.loader import Loader
from vica_jax.data.mixture import read_mixture
from vica_jax.data.pixels import preview_frames
from vica_jax.data.settings import DataSettings, SettingsError
from vica_jax.data.slots import read_example
from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.data.video import VideoClip
from vica_jax.models.variants import VARIANTS

TOKENIZER = Path(__file__).parents[1] / "goldens" / "tiny-vica2" / "checkpoint"
LAYOUT = VARIANTS["tiny"].layout
HOW = {"num_frames": 6, "fps": None}


def pixels(seed: int = 0, frames: int = 6):
    rng = np.random.default_rng(seed)
    clip = VideoClip(
        indices=np.arange(frames) * 3,
        times=np.arange(frames) * 0.1,
        total_frames=frames * 3,
        avg_fps=30000 / 1001,
        frames=rng.integers(0, 256, (frames, 20, 32, 3), np.uint8),
        reader="pyav",
        notes=("turned",),
    )
    return video_pixels(clip, LAYOUT)


def size(of) -> int:
    return module._size(of)


def same(a, b) -> bool:
    arrays = (
        (a.medium.siglip, b.medium.siglip),
        (a.medium.raw, b.medium.raw),
        (a.sample.indices, b.sample.indices),
        (a.sample.times, b.sample.times),
        (a.preview, b.preview),
    )
    media = [(x.medium.kind, x.medium.image_wh, x.medium.indices) for x in (a, b)]
    facts = [
        (x.reader, x.notes, x.sample.total_frames, x.sample.avg_fps) for x in (a, b)
    ]
    return (
        media[0] == media[1]
        and facts[0] == facts[1]
        and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in arrays)
    )


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "room.mp4"
    path.write_bytes(b"a video")
    return path


def key_of(cache: FrameCache, path: Path, **how) -> str:
    key = cache.key(path, LAYOUT, **(HOW | how))
    assert key is not None
    return key


@pytest.mark.parametrize("memory", [0, 0.1])
def test_what_is_put_is_found_bit_for_bit(tmp_path: Path, video: Path, memory: float):
    cache = FrameCache(tmp_path / "cache", memory_gb=memory)
    key, entry = key_of(cache, video), pixels()
    assert cache.get(key) is None
    cache.put(key, entry)
    found = cache.get(key)
    assert found is not None and same(found, entry)
    assert (cache.hits, cache.misses, cache.damaged) == (1, 1, 0)
    other = FrameCache(tmp_path / "cache", memory_gb=memory)  # another process
    found = other.get(key)
    assert found is not None and same(found, entry)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.name for path in files] == [f"{key}.frames"]
    in_memory = FrameCache()
    in_memory.put(key, entry)
    assert in_memory.get(key) is not None and FrameCache(memory_gb=0).get(key) is None


def test_without_hiera_no_raw_frames_are_kept(tmp_path: Path):
    bare = replace(pixels(), medium=replace(pixels().medium, raw=None))
    cache = FrameCache(tmp_path, memory_gb=0)
    cache.put("0" * 64, bare)
    found = cache.get("0" * 64)
    assert found is not None and found.medium.raw is None


def test_what_is_given_out_twice_cannot_be_written_to():
    cache = FrameCache()
    cache.put("a", pixels())
    found = cache.get("a")
    assert found is not None and found.medium.raw is not None
    for array in (found.medium.siglip, found.medium.raw, found.sample.times):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert found.medium.raw.base is None  # not a view that keeps all frames alive


def test_a_key_names_all_that_the_pixels_depend_on(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = FrameCache()
    key = key_of(cache, video)
    (tmp_path / "link.mp4").symlink_to(video)
    assert key_of(cache, tmp_path / "link.mp4") == key
    hiera = replace(LAYOUT, hiera_image_size=2 * LAYOUT.hiera_image_size)
    assert cache.key(video, hiera, **HOW) == key  # its resize runs on the device
    keys = {
        key,
        key_of(cache, video, num_frames=7),
        key_of(cache, video, fps=1.0),
        key_of(cache, video, reader="decord"),
        cache.key(video, replace(LAYOUT, frame_stride=3), **HOW),
        cache.key(video, replace(LAYOUT, siglip_image_size=56), **HOW),
    }
    stat = video.stat()
    os.utime(video, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    keys.add(key_of(cache, video))
    with open(video, "ab") as file:
        file.write(b", longer")
    os.utime(video, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    keys.add(key_of(cache, video))
    monkeypatch.setattr(module, "_versions", lambda: ["another PyAV"])
    keys.add(key_of(cache, video))
    assert len(keys) == 9
    assert cache.key(tmp_path / "gone.mp4", LAYOUT, **HOW) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "facts"])
def test_damage_is_a_miss_that_is_told_and_replaced(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    cache, key, entry = FrameCache(tmp_path, memory_gb=0), "ab" * 32, pixels()
    cache.put(key, entry)
    path = file_of(tmp_path, key, ".frames")
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[-5] ^= 1
    path.write_bytes(
        {
            "cut": data[:-3],
            "flip": bytes(flipped),
            "empty": b"",
            "text": b"hello, this is no file of frames",
            "facts": data.replace(b"turned", b"burned"),
        }[damage]
    )
    with caplog.at_level(logging.WARNING):
        assert cache.get(key) is None
    assert "is damaged" in caplog.text and "read again" in caplog.text
    assert (cache.misses, cache.damaged) == (1, 1)
    assert not path.exists()
    cache.put(key, entry)
    found = cache.get(key)
    assert found is not None and same(found, entry)


def test_memory_keeps_the_last_used():
    gigabytes = 2.5 * size(pixels()) / 1e9
    cache = FrameCache(memory_gb=gigabytes)
    for name in "abc":
        cache.put(name, pixels())
        cache.get("a")
    assert cache.get("a") and cache.get("c") and cache.get("b") is None
    small = FrameCache(memory_gb=gigabytes / 3)
    small.put("a", pixels())
    assert small.get("a") is None


def test_the_folder_keeps_the_last_used_and_touches_nothing_else(tmp_path: Path):
    limit = 3.5 * size(pixels()) / 1e9
    caches = [FrameCache(tmp_path, folder_gb=limit, memory_gb=0) for _ in range(2)]
    names = [f"{i:02x}" * 32 for i in range(4)]
    (tmp_path / "00").mkdir()
    strangers = [tmp_path / "00" / "film.frames", tmp_path / "00" / names[0]]
    strangers.append(file_of(tmp_path, names[1], ".safetensors"))
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size(pixels())))
    for i, name in enumerate(names[:3]):
        caches[i % 2].put(name, pixels(i))
        os.utime(file_of(tmp_path, name, ".frames"), (i, i))
    left = tmp_path / "00" / f".{names[0]}.frames.x1y2.frames"  # its writer was killed
    left.write_bytes(b"half")
    os.utime(left, (5, 5))
    new = left.with_name(f".{names[0]}.frames.z3.frames")  # its writer is at it
    new.write_bytes(b"half")
    assert caches[0].get(names[0])  # now the last used, also for the other process
    caches[1].put(names[3], pixels(3))
    assert [bool(caches[0].get(name)) for name in names] == [True, False, True, True]
    assert not left.exists() and new.exists() and all(p.exists() for p in strangers)


def test_what_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "ab").write_text("where a folder would be")
    cache = FrameCache(tmp_path, memory_gb=0)
    tiny = FrameCache(tmp_path / "tiny", folder_gb=1e-6, memory_gb=0)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            cache.put("ab" * 32, pixels())
            tiny.put("cd" * 32, pixels())
    assert [r.message.count("cannot be written") for r in caplog.records] == [1, 1]
    assert "pass the limit of 1,000" in caplog.text
    assert cache.get("ab" * 32) is None
    (tmp_path / "file").write_text("")
    with pytest.raises(FrameCacheError, match="this is a file"):
        FrameCache(tmp_path / "file")
    for wrong in ({"folder_gb": 0}, {"memory_gb": -1}, {"folder_gb": float("nan")}):
        with pytest.raises(FrameCacheError, match="give positive sizes"):
            FrameCache(tmp_path, **wrong)


def test_threads_share_a_cache(tmp_path: Path):
    entries = {f"{i:02x}" * 32: pixels(i) for i in range(6)}
    limit = 3.2 * size(pixels()) / 1e9
    cache = FrameCache(tmp_path, memory_gb=limit, folder_gb=limit)
    wrong, start = [], threading.Barrier(4, timeout=20)

    def use(seed: int) -> None:
        start.wait()
        for i in np.random.default_rng(seed).integers(0, 6, 40):
            key = f"{i:02x}" * 32
            found = cache.get(key)
            if found is None:
                cache.put(key, entries[key])
            elif not same(found, entries[key]):
                wrong.append(key)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and cache.hits + cache.misses == 160 and not cache.damaged


def test_previews_are_small_and_their_own_previews():
    frames = np.random.default_rng(0).integers(0, 256, (20, 30, 40, 3), np.uint8)
    small = preview_frames(frames)
    assert small.shape == (8, 120, 160, 3)
    np.testing.assert_array_equal(preview_frames(small), small)
    assert len(preview_frames(frames[:3])) == 3


# ---------------------------------------------------------------------- training
@pytest.fixture
def records(tmp_path: Path) -> DataSettings:
    """Two videos, an image and text; a cache of frames for them."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.new("RGB", (12, 8), (i * 40, 9, 80)).save(
                tmp_path / name / f"{i}.png"
            )
    Image.new("RGB", (9, 9)).save(tmp_path / "c.png")
    media = [{"video": "a"}, {"video": "b"}, {"image": "c.png"}, {}]
    turns = [
        [
            {"from": "human", "value": "<image>\nWhat?" if medium else "What?"},
            {"from": "gpt", "value": "A room."},
        ]
        for medium in media
    ]
    values = [
        {"id": i, **medium, "conversations": said}
        for i, (medium, said) in enumerate(zip(media, turns, strict=True))
    ]
    (tmp_path / "data.json").write_text(json.dumps(values))
    return DataSettings(
        mixture=str(tmp_path / "data.json"),
        image_folder=str(tmp_path),
        video_folder=str(tmp_path),
        num_frames=4,
        num_workers=0,
        group_by_length=False,
        frame_cache=str(tmp_path / "cache"),
    )


def test_examples_from_the_cache_are_those_that_were_read(
    records: DataSettings, tmp_path
):
    mixture = read_mixture(records.mixture, seed=0, cache_folder=tmp_path)
    tokenizer = load_tokenizer(TOKENIZER)
    cache = FrameCache(records.frame_cache, memory_gb=0)
    for i in range(4):
        made = [
            read_example(
                mixture,
                i,
                tokenizer=tokenizer,
                layout=LAYOUT,
                settings=records,
                frames=frames,
            )
            for frames in (None, cache, cache)
        ]
        for one in made[1:]:
            assert (one.chunks, one.supervised) == (made[0].chunks, made[0].supervised)
            for a, b in zip(one.media, made[0].media, strict=True):
                assert (a.kind, a.image_wh, a.indices) == (
                    b.kind,
                    b.image_wh,
                    b.indices,
                )
                np.testing.assert_array_equal(a.siglip, b.siglip)
                np.testing.assert_array_equal(a.raw, b.raw)
    assert (cache.hits, cache.misses) == (2, 2)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_later_epoch_finds_its_videos(records: DataSettings, workers: int, tmp_path):
    arguments = {
        "tokenizer_folder": TOKENIZER,
        "layout": LAYOUT,
        "settings": replace(records, num_workers=workers),
        "seed": 0,
        "global_batch_size": 4,
        "rows": range(4),
    }
    mixture = read_mixture(records.mixture, seed=0, cache_folder=tmp_path)
    with Loader(mixture, range(4), epochs=2, **arguments) as loader:
        first, second = loader
    if not workers:  # else the other worker may be ahead
        assert (first.frame_cache, second.frame_cache) == ((0, 2), (2, 0))
    with Loader(mixture, range(4), **arguments) as loader:
        assert [loaded.frame_cache for loaded in loader] == [(2, 0)]
    arguments["settings"] = replace(records, frame_cache="")
    with Loader(mixture, range(4), **arguments) as loader:
        assert next(loader).frame_cache is None
    with pytest.raises(SettingsError, match="frame_cache_gb: must be positive"):
        replace(records, frame_cache_gb=0.0)


def test_entries_are_ordinary_safetensors(tmp_path: Path):
    FrameCache(tmp_path).put("0" * 64, pixels())
    with safe_open(file_of(tmp_path, "0" * 64, ".frames"), framework="np") as file:
        assert {"siglip", "raw", "indices"} <= set(file.keys())
