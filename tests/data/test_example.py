"""Prompts and batches: where media stand, what is counted, what is refused."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vica_jax.data.conversation import PromptError, chatml, user_turn
from vica_jax.data.example import (
    Example,
    LengthError,
    bucket_length,
    check_length,
    collate,
    image_medium,
    truncations,
    video_medium,
)
from vica_jax.data.media import Images, MediaError, Video, open_media
from vica_jax.layout import LayoutError
from vica_jax.models.variants import VARIANTS

LAYOUT = VARIANTS["tiny"].layout


def clip(frames=3, hw=(30, 44)):
    rng = np.random.default_rng(frames)
    return rng.integers(1, 255, (frames, *hw, 3), np.uint8)


# --------------------------------------------------------------------- prompts
def test_plain():
    assert user_turn("How many?", num_media=1) == "<image>\nHow many?"
    assert user_turn("How many?", num_media=0) == "How many?"
    assert user_turn("Same?", num_media=2) == "<image>\n<image>\nSame?"


def test_time_instruction_stands_between():
    text = user_turn("How many?", num_media=1, time_instruction="The video lasts.")
    assert text == "<image>\nThe video lasts.\nHow many?"


def test_readme_wrapper_number_and_choice():
    assert user_turn("How many?", num_media=1, style="vica_readme") == (
        "<image>\n\n\nThese are frames of a video.\n\nQuestion: How many?\n"
        "Please answer the question using a single word or phrase.\n"
    )
    choice = user_turn(
        "Which?", num_media=1, style="vica_readme", options=["A. lamp", "B. chair"]
    )
    assert choice == (
        "<image>\n\n\nThese are frames of a video.\n\nQuestion: Which?\n"
        "A. lamp\nB. chair\n"
        "Answer with the option\u2019s letter from the given choices directly.\n"
    )


def test_own_tags_stay_where_they_are():
    assert user_turn("Look: <image> now", num_media=1) == "Look: <image> now"
    assert user_turn("x <image>", num_media=1, style="raw") == "x <image>"


@pytest.mark.parametrize(
    ("question", "media", "style", "words"),
    [
        ("", 1, "plain", "empty"),
        ("<image> <image> same?", 1, "plain", r"2 <image> tag\(s\) but 1"),
        ("no tag", 1, "raw", r"0 <image> tag\(s\) but 1"),
        ("<image> hi", 0, "plain", r"1 <image> tag\(s\) but 0"),
        ("hi", 1, "fancy", "unknown prompt style 'fancy'"),
        ("<image> hi", 1, "vica_readme", "takes no prompt style"),
    ],
)
def test_prompts_refused(question, media, style, words):
    with pytest.raises(PromptError, match=words):
        user_turn(question, num_media=media, style=style)


def test_chatml():
    assert chatml([("a", "b"), ("c", None)]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    )


# --------------------------------------------------------------------- batches
@given(st.integers(1, 40_000))
def test_buckets_hold_and_are_not_wasteful(length):
    bucket = bucket_length(length)
    assert length <= bucket <= max(64, 2 * length)
    assert bucket_length(bucket) == bucket


def test_media_stand_between_their_chunks():
    example = Example(chunks=[[1, 2], [3]], media=[video_medium(clip(), LAYOUT)])
    batch = collate([example], LAYOUT, pad_id=9)
    visual = example.visual_tokens(LAYOUT)
    n = example.length(LAYOUT)
    assert visual == 3 * 3 * 4 + 2 * 2 * 3
    index = batch["visual_index"][0]
    assert (index[2 : 2 + visual] >= 0).all()
    assert (np.delete(index, range(2, 2 + visual)) == -1).all()
    assert batch["tokens"][0, [0, 1, 2 + visual]].tolist() == [1, 2, 3]
    assert (batch["tokens"][0, n:] == 9).all()
    assert batch["lengths"].tolist() == [n]


def test_hiera_sees_every_second_raw_frame_in_a_bucket():
    frames = clip(5)
    batch = collate(
        [Example(chunks=[[1], [2]], media=[video_medium(frames, LAYOUT)])], LAYOUT
    )
    assert batch["hiera_frames"].shape == (1, 3, 64, 64, 3)
    assert batch["hiera_frame_sizes"].tolist() == [[30, 44]]
    raw = batch["hiera_frames"][0, :, :30, :44]
    np.testing.assert_array_equal(raw, frames[[0, 2, 4]])


def test_images_of_several_sizes_share_a_batch():
    small = Image.fromarray(clip(1)[0])
    large = Image.fromarray(clip(1, (300, 220))[0])
    media = [image_medium(i, LAYOUT, "anyres") for i in (small, large)]
    rows = [Example(chunks=[[1], [2]], media=[m]) for m in media]
    batch = collate([*rows, Example(chunks=[[7, 8]])], LAYOUT)
    assert batch["lengths"].tolist() == [r.length(LAYOUT) for r in rows] + [2]
    assert "resample_taps" in batch  # the large one is shrunk
    np.testing.assert_allclose(batch["resample_weights"][1].sum(-1), 1, atol=1e-6)
    assert (batch["visual_index"][2] == -1).all()
    for row, example in enumerate(rows):
        used = (batch["visual_index"][row] >= 0).sum()
        assert used == example.visual_tokens(LAYOUT)


def test_two_videos_in_one_prompt_are_refused():
    video = video_medium(clip(), LAYOUT)
    with pytest.raises(LayoutError, match="one video per prompt, got 2"):
        collate([Example(chunks=[[1], [2], [3]], media=[video, video])], LAYOUT)


def test_inference_refuses_and_training_truncates(caplog):
    layout = replace(LAYOUT, context_length=100)
    video = video_medium(clip(8), replace(LAYOUT, context_length=500))
    long = Example(chunks=[[1] * 10, [2] * 10], media=[video])
    short = Example(chunks=[[3] * 20])
    assert long.length(layout) == 140
    with pytest.raises(LengthError, match=r"140 tokens \(120 visual \+ 20 text\)"):
        check_length(long, layout)
    with pytest.raises(LengthError, match="context length of 100"):
        collate([long], layout)
    assert truncations([short, long], layout) == {1: (140, 100)}
    with caplog.at_level(logging.WARNING):
        batch = collate([short, long], layout, truncate=True)
    assert "row 1 is cut from 140 to 100 tokens" in caplog.text
    assert batch["lengths"].tolist() == [20, 100]
    assert batch["tokens"].shape == (2, 128)
    whole = collate([long], replace(layout, context_length=500))
    np.testing.assert_array_equal(
        batch["visual_index"][1, :100], whole["visual_index"][0, :100]
    )


# ----------------------------------------------------------------------- media
def test_media_by_what_they_are(tmp_path):
    image = Image.fromarray(clip(1)[0])
    image.save(tmp_path / "a.png")
    assert open_media(None) is None
    assert isinstance(open_media(tmp_path / "a.png"), Images)
    assert isinstance(open_media(clip(1)[0]), Images)
    assert len(open_media([image, tmp_path / "a.png"]).images) == 2
    video = open_media(clip(4), num_frames=2, source_fps=2.0)
    assert isinstance(video, Video)
    assert video.clip.indices.tolist() == [0, 3]
    assert open_media(video) is video
    with pytest.raises(MediaError, match="cannot read int"):
        open_media(3)
    with pytest.raises(MediaError, match="cannot read list"):
        open_media([])
