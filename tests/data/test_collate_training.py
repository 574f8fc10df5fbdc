"""Training batches: recorded labels, truncation, padding that changes nothing."""

import json
from dataclasses import replace
from functools import reduce
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convert.hf_config import from_hf
from convert.load import load_assistant
from vica_jax.data.example import (
    Example,
    collate_training,
    image_medium,
    video_medium,
)
from vica_jax.data.settings import ShapeBuckets
from vica_jax.data.shapes import BatchShape
from vica_jax.layout import VisualLayout
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import Vica

LAYOUT = VARIANTS["tiny"].layout
GOLDENS = Path(__file__).parents[1] / "goldens"
IMAGE_TOKEN, IGNORED = -200, -100
EMPTY = Example(chunks=((),))


def recorded_examples(folder: Path, layout: VisualLayout):
    """The three samples of ``train_case.npz``, from their recorded ids and labels."""
    record = np.load(folder / "train_case.npz")
    examples = []
    for name in ("s0", "s1", "s2"):
        ids, labels = record[f"{name}.input_ids"], record[f"{name}.labels"]
        cuts = np.flatnonzero(ids == IMAGE_TOKEN)
        chunks = [part[part != IMAGE_TOKEN] for part in np.split(ids, cuts)]
        flags = np.split(labels != IGNORED, cuts)
        flags = [flags[0], *(part[1:] for part in flags[1:])]
        if f"{name}.frames" in record:
            medium = video_medium(record[f"{name}.frames"], layout)
        else:
            image = Image.fromarray(record[f"{name}.image"])
            medium = image_medium(image, layout, "anyres")
        examples.append(
            Example(
                chunks=[chunk.tolist() for chunk in chunks],
                media=[medium],
                supervised=[part.tolist() for part in flags],
            )
        )
    return record, examples


def expanded(batch, length):
    """Labels ``[B, length]`` shifted back from a batch's targets."""
    labels = np.full((len(batch["lengths"]), length), IGNORED)
    for row, (at, ids) in enumerate(
        zip(batch["target_positions"], batch["targets"], strict=True)
    ):
        labels[row, at[ids >= 0] + 1] = ids[ids >= 0]
    return labels


@pytest.fixture(scope="module")
def recorded(golden_dir):
    config = json.loads((golden_dir / "checkpoint" / "config.json").read_text())
    layout = from_hf(config)[1].layout
    return layout, *recorded_examples(golden_dir, layout)


def test_targets_are_the_recorded_labels(recorded):
    layout, record, examples = recorded
    shape = BatchShape.of(examples, layout, ShapeBuckets())
    batch = collate_training(examples, layout, shape)
    wanted = record["batch.expanded_labels"].copy()
    wanted[:, 0] = IGNORED  # shifted out of every loss
    np.testing.assert_array_equal(expanded(batch, wanted.shape[1]), wanted)
    counts = (batch["targets"] >= 0).sum(1)
    assert counts.tolist() == record["num_loss_tokens"].tolist()
    kept = record["batch.expanded_attention_mask"].sum(1)
    assert batch["lengths"].tolist() == kept.tolist()
    nll = record["token_nll"]
    rows = np.arange(len(examples))[:, None]
    at = batch["target_positions"]
    np.testing.assert_array_equal(nll[rows, at] != 0, batch["targets"] >= 0)


@pytest.mark.parametrize("limit", [100, 276, 277, 278])
def test_truncation_keeps_the_first_positions(recorded, limit):
    """The reference cuts embeddings and labels at the limit after the insertion."""
    layout, record, examples = recorded
    short = replace(layout, context_length=limit)
    shape = BatchShape.of(examples, short, ShapeBuckets(lengths=(64, 128, 512)))
    batch = collate_training(examples, short, shape)
    wanted = record["batch.expanded_labels"].copy()
    wanted[:, 0] = wanted[:, limit:] = IGNORED
    np.testing.assert_array_equal(expanded(batch, wanted.shape[1]), wanted)
    kept = record["batch.expanded_attention_mask"][:, :limit].sum(1)
    assert batch["lengths"].tolist() == kept.tolist()
    whole = collate_training(examples, layout, replace(shape, length=512, targets=256))
    for name in ("tokens", "visual_index"):
        for row, n in enumerate(kept):
            np.testing.assert_array_equal(batch[name][row, :n], whole[name][row, :n])
            assert (batch[name][row, n:] == batch[name][row, n:][:1]).all()


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans())), min_size=1),
    st.integers(1, 30),
)
def test_targets_follow_their_positions(parts, limit):
    """Text chunks between padded images, against a plain walk over the sequence."""
    layout = replace(LAYOUT, context_length=limit)
    medium = image_medium(Image.new("RGB", (8, 8)), LAYOUT, "padded")
    example = Example(
        chunks=[[id for id, _ in part] for part in parts],
        media=[medium] * (len(parts) - 1),
        supervised=[[flag for _, flag in part] for part in parts],
    )
    visual = [(None, False)] * layout.padded_image_tokens()
    walk = [*parts[0]]
    for part in parts[1:]:
        walk += visual + part
    walk = walk[:limit]
    wanted = [(t - 1, id) for t, (id, flag) in enumerate(walk) if flag and t]
    positions, ids = example.targets(layout)
    assert list(zip(positions.tolist(), ids.tolist(), strict=True)) == wanted
    assert positions.dtype == ids.dtype == np.int32


def mixed(layout=LAYOUT, seed=0):
    """A video, two anyres images of one sample (one is shrunk), text, and nothing."""
    rng = np.random.default_rng(seed)
    pixels = lambda *size: rng.integers(0, 256, (*size, 3), np.uint8)
    ids = lambda n: rng.integers(0, 500, n).tolist()
    images = [
        image_medium(Image.fromarray(pixels(h, w)), layout, "anyres")
        for h, w in ((30, 44), (220, 300))
    ]
    video = video_medium(pixels(3, 40, 56), layout)
    flags = lambda chunks: [[i % 2 == 0 for i in range(len(c))] for c in chunks]
    rows = [
        ([ids(5), ids(9)], [video]),
        ([ids(4), ids(2), ids(6)], images),
        ([ids(12)], []),
        ([[]], []),
    ]
    return [
        Example(chunks=chunks, media=media, supervised=flags(chunks))
        for chunks, media in rows
    ]


def test_a_batch_has_exactly_the_arrays_of_its_shape():
    rows = mixed()
    small = BatchShape.of(rows, LAYOUT, ShapeBuckets(lengths=(512, 1024)))
    large = small.union(BatchShape(length=2048, views=20, frame_hw=(512, 512)))
    for shape in (small, large):
        for part in (rows, rows[2:], [EMPTY]):
            batch = collate_training(part, LAYOUT, shape, pad_id=7)
            sizes = {name: (x.shape, x.dtype) for name, x in batch.items()}
            assert sizes == shape.arrays(len(part), LAYOUT)
            assert (batch["tokens"][-1] == 7).all()
    assert batch["lengths"].tolist() == [1]
    assert (batch["visual_index"] == -1).all() and (batch["targets"] == -1).all()
    assert (batch["hiera_frame_sizes"] == 1).all()
    assert (batch["hiera_image_sizes"] == 1).all()


def test_what_does_not_fit_is_refused():
    rows = mixed()
    shape = BatchShape.of(rows, LAYOUT, ShapeBuckets(lengths=(512,)))
    collate_training(rows, LAYOUT, shape)
    for change in (
        {"length": 64},
        {"targets": 3},
        {"frames": 2},
        {"views": 2},
        {"frame_hw": (40, 55)},
        {"resampled": 0},
        {"hiera_channels": 64},  # raw frames among cached features
    ):
        with pytest.raises(ValueError, match="does not fit the shape"):
            collate_training(rows, LAYOUT, replace(shape, **change))
    with pytest.raises(ValueError, match="without target slots"):
        collate_training(rows, LAYOUT, replace(shape, targets=0))
    bare = replace(rows[0].media[0], raw=None)
    with pytest.raises(ValueError, match="neither raw frames nor"):
        Example(chunks=[[], []], media=[bare]).shape(LAYOUT)
    with pytest.raises(ValueError, match="supervision flags"):
        Example(chunks=[[1, 2]], supervised=[[True]])


def test_padding_changes_no_row():
    """Logits at a row's positions: minimal sizes against larger buckets and company."""
    tiny = load_assistant(GOLDENS / "tiny-vica2" / "checkpoint", dtype="float32")
    layout, apply = tiny.cfg.layout, jax.jit(Vica(tiny.cfg).apply)
    logits = lambda batch: apply({"params": tiny.params}, batch)
    rows = mixed(layout)
    exact = reduce(BatchShape.union, (row.shape(layout) for row in rows))
    larger = BatchShape(
        length=exact.length + 70,
        targets=exact.targets + 9,
        frames=5,
        hiera_frames=3,
        views=exact.views + 2,
        hiera_images=exact.hiera_images + 1,
        frame_hw=(512, 256),
        image_hw=exact.image_hw,
        resampled=exact.resampled + 8,
    )
    few = logits(collate_training(rows, layout, exact))
    many = logits(collate_training([*reversed(rows)], layout, larger, pad_id=9))
    for row, example in enumerate(rows):
        n = example.length(layout)
        np.testing.assert_allclose(many[-1 - row, :n], few[row, :n], atol=2e-5)
    assert np.isfinite(many).all()


def test_cached_features_stand_in_place_of_raw_frames():
    rows, side = mixed(), LAYOUT.hiera_grid
    bf16 = np.dtype(ml_dtypes.bfloat16)

    def cached(example):
        media = []
        for i, medium in enumerate(example.media):
            shape = (len(medium.raw), side, side, 6)
            values = np.full(shape, i + 1, bf16)
            media.append(replace(medium, raw=None, hiera=values))
        return replace(example, media=media)

    rows = [cached(example) for example in rows]
    shape = BatchShape.of(rows, LAYOUT, ShapeBuckets(lengths=(512,)), num_frames=8)
    assert shape.hiera_channels == 6 and shape.frame_hw == (0, 0)
    batch = collate_training(rows, LAYOUT, shape)
    assert batch["hiera_frame_features"].shape == (4, 4, side, side, 6)
    assert batch["hiera_frame_features"].dtype == bf16
    sums = batch["hiera_frame_features"].astype(np.float32).mean((2, 3, 4))
    assert sums.tolist() == [[1, 1, 0, 0], [0] * 4, [0] * 4, [0] * 4]
    sums = batch["hiera_image_features"].astype(np.float32).mean((2, 3, 4))
    assert sums.tolist() == [[0, 0], [1, 2], [0, 0], [0, 0]]
    assert "hiera_frames" not in batch and "hiera_image_sizes" not in batch
