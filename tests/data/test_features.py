"""The cache of Hiera's features: keys, damage, misses, and the way into a batch."""

import json
import os
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from vica_jax.data.example import Example, collate_training
from vica_jax.data.features import (
    FeatureCache,
    FeatureError,
    feature_keys,
    open_cache,
    place_features,
)
from vica_jax.data.loader import Loader
from vica_jax.data.mixture import read_mixture
from vica_jax.data.settings import DataSettings, ShapeBuckets
from vica_jax.data.shapes import BatchShape
from vica_jax.data.slots import read_example
from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.layout import VisualLayout
from vica_jax.models.variants import VARIANTS

TOKENIZER = Path(__file__).parents[1] / "goldens" / "tiny-vica2" / "checkpoint"
LAYOUT = VARIANTS["tiny"].layout
SIDE = LAYOUT.hiera_grid


def features(count=1, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, SIDE, SIDE, 6))
    return values.astype(ml_dtypes.bfloat16)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(folder=tmp_path / "cache", hiera_hash="w", layout=LAYOUT)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 10)).save(path)
    return path


def test_what_is_written_is_read_bit_for_bit(cache, image):
    key = cache.key("a.png", image, [])
    values = features(3)
    cache.write(key, values)
    again = cache.read(key, 3)
    assert again.dtype == values.dtype
    assert again.tobytes() == values.tobytes()
    path = cache.path(key)
    assert path.parent.name == key[:2] and len(key) == 64
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no partial file


def test_a_key_names_all_that_the_features_depend_on(cache, image, tmp_path):
    key = cache.key("a.png", image, [0, 2])
    assert key == cache.key("a.png", image, (0, 2))
    others = [
        cache.key("b/a.png", image, [0, 2]),
        cache.key("a.png", image, [0, 3]),
        replace(cache, hiera_hash="v").key("a.png", image, [0, 2]),
        replace(cache, layout=replace(LAYOUT, output_stage=3)).key(
            "a.png", image, [0, 2]
        ),
    ]
    stat = image.stat()
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    others.append(cache.key("a.png", image, [0, 2]))
    with open(image, "ab") as file:
        file.write(b"more")
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    others.append(cache.key("a.png", image, [0, 2]))
    assert len({key, *others}) == 7
    with pytest.raises(FeatureError, match="cannot look at it"):
        cache.key("a.png", tmp_path / "gone.png", [])


def test_a_folder_of_frames_is_its_files(cache, tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (4, 4)).save(folder / f"{i}.png")
    key = cache.key("clip", folder, [0])
    assert cache.key("clip", folder, [0]) == key
    (folder / "1.png").write_bytes(b"other")
    assert cache.key("clip", folder, [0]) != key


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "other"])
def test_damage_is_a_miss_with_a_reason(cache, image, damage):
    key = cache.key("a.png", image, [])
    cache.write(key, features())
    path = cache.path(key)
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[-5] ^= 1
    path.write_bytes(
        {
            "cut": data[:-3],
            "flip": bytes(flipped),
            "empty": b"",
            "text": b"hello, this is no file of features",
            "other": data,
        }[damage]
    )
    frames = 2 if damage == "other" else 1
    words = r"damaged in the feature cache .*remove that file and run python -m"
    with pytest.raises(FeatureError, match=words) as error:
        cache.read(key, frames)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_what_is_not_there_and_what_cannot_be_written(cache, tmp_path):
    with pytest.raises(FeatureError, match="not in the feature cache: run python -m"):
        cache.read("0" * 64, 1)
    for wrong in (features().astype(np.float32), features()[0], features()[:, 1:]):
        with pytest.raises(FeatureError, match="features must be bfloat16"):
            cache.write("0" * 64, wrong)
    (tmp_path / "file").write_text("")
    blocked = replace(cache, folder=tmp_path / "file")
    with pytest.raises(FeatureError, match="cannot write the features"):
        blocked.write("0" * 64, features())


def test_settings_that_name_no_cache(tmp_path):
    settings = DataSettings(mixture="a.json", hiera_cache=str(tmp_path))
    with pytest.raises(FeatureError, match="no Hiera"):
        open_cache(VisualLayout(), settings, "w")
    with pytest.raises(FeatureError, match="hash of Hiera's weights"):
        open_cache(LAYOUT, settings, "")


def test_examples_take_features_in_place_of_raw_frames(tmp_path):
    """A video, two images and text; one image is not in the cache: unreadable."""
    (tmp_path / "clip").mkdir()
    for i in range(5):
        Image.new("RGB", (8, 8), (i,) * 3).save(tmp_path / f"clip/{i}.png")
    for name in "ab":
        Image.new("RGB", (9, 9)).save(tmp_path / f"{name}.png")
    media = [{"video": "clip"}, {"image": "a.png"}, {"image": str(tmp_path / "b.png")}]
    records = [
        {
            "id": i,
            **medium,
            "conversations": [
                {"from": "human", "value": "<image>\nWhat?" if medium else "What?"},
                {"from": "gpt", "value": "A room."},
            ],
        }
        for i, medium in enumerate([*media, {}])
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    settings = DataSettings(
        mixture=str(tmp_path / "data.json"),
        image_folder=str(tmp_path),
        video_folder=str(tmp_path),
        num_frames=5,
        num_workers=0,
    )
    mixture = read_mixture(settings.mixture, seed=0, cache_folder=tmp_path)
    cached = replace(settings, hiera_cache=str(tmp_path / "cache"))
    cache = open_cache(LAYOUT, cached, "w")
    tokenizer = load_tokenizer(TOKENIZER)
    plain = []
    for i in range(2):  # not the second image
        record = mixture[i].value
        example = read_example(
            mixture, i, tokenizer=tokenizer, layout=LAYOUT, settings=settings
        )
        (key,) = feature_keys(cache, record, example, settings)
        (medium,) = example.media
        assert medium.raw is not None
        cache.write(key, features(len(medium.raw), seed=i))
        with pytest.raises(ValueError, match="zip"):
            place_features(cache, example, [])
        plain.append(example)
    arguments = {"tokenizer": tokenizer, "layout": LAYOUT, "settings": cached}
    video = read_example(mixture, 0, **arguments, hiera_hash="w")
    assert video.chunks == plain[0].chunks and video.media[0].raw is None
    np.testing.assert_array_equal(video.media[0].hiera, features(3))
    loader = Loader(
        mixture,
        range(4),
        tokenizer_folder=TOKENIZER,
        layout=LAYOUT,
        settings=cached,
        seed=0,
        global_batch_size=4,
        rows=range(4),
        hiera_hash="w",
    )
    (loaded,) = loader
    (bad,) = loaded.bad
    assert bad.id == "2"
    assert bad.reason == (
        "not in the feature cache: run python -m scripts.cache_features"
    )
    rows: list[Example] = loaded.examples
    shape = BatchShape.of(rows, LAYOUT, ShapeBuckets(), num_frames=5)
    batch = collate_training(rows, LAYOUT, shape)
    assert batch["hiera_frame_features"].shape == (4, 3, SIDE, SIDE, 6)
    assert batch["hiera_image_features"].shape == (4, 1, SIDE, SIDE, 6)
    assert "hiera_frames" not in batch and "hiera_images" not in batch
    with pytest.raises(FeatureError, match="hash"):
        Loader(
            mixture,
            range(4),
            tokenizer_folder=TOKENIZER,
            layout=LAYOUT,
            settings=cached,
            seed=0,
            global_batch_size=4,
            rows=[0],
        )
    bare = replace(plain[0], media=[replace(plain[0].media[0], indices=())])
    with pytest.raises(ValueError, match="numbers of its frames"):
        feature_keys(cache, mixture[0].value, bare, settings)
