"""Records to examples: ids and labels as recorded, media, and what is refused."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vica_jax.data.conversation import always_supervised, chatml
from vica_jax.data.media import Images, Video
from vica_jax.data.pixels import ImageError
from vica_jax.data.record import (
    RecordError,
    check_record,
    count_words,
    input_ids,
    labels,
    make_example,
    media_paths,
    modality,
    read_media,
)
from vica_jax.data.settings import DataSettings
from vica_jax.data.tokenizer import TokenizerError, load_tokenizer
from vica_jax.data.video import VideoError, read_video, time_instruction
from vica_jax.layout import VisualLayout
from vica_jax.models.variants import VARIANTS

LAYOUT = VARIANTS["tiny"].layout
GOLDENS = Path(__file__).parents[1] / "goldens"
TOKENIZER = load_tokenizer(GOLDENS / "tiny-vica" / "checkpoint")
START, END = 501, 502  # <|im_start|> and <|im_end|> there


def turns(*said):
    """Human and gpt by turns."""
    roles = ("human", "gpt")
    return [{"from": roles[i % 2], "value": text} for i, text in enumerate(said)]


def record(*said, **media):
    return {"id": "r", "conversations": turns(*said), **media}


def settings(**changes):
    return DataSettings(mixture="m.json", **{"num_frames": 4, **changes})


def shown(entry, options):
    """Media without files: grey images, a clip of ten frames at 10 fps."""
    kind = modality(entry)
    if kind == "text":
        return None
    if kind == "video":
        frames = np.full((10, 20, 30, 3), 9, np.uint8)
        return Video(read_video(frames, num_frames=4, source_fps=10.0))
    paths = media_paths(entry, options)
    return Images(tuple(Image.new("RGB", (30, 20)) for _ in paths))


def example(entry, read=shown, **changes):
    options = settings(**changes)
    return make_example(
        entry, tokenizer=TOKENIZER, layout=LAYOUT, settings=options, read=read
    )


def prompt(made):
    """The text of an example with its tags."""
    return "<image>".join(TOKENIZER.decode(chunk) for chunk in made.chunks)


def learned(made):
    """The tokens that are supervised, as text."""
    marks = [m for row in made.supervised for m in row]
    ids = [t for row in made.chunks for t in row]
    return [TOKENIZER.decode([t]) for t, m in zip(ids, marks, strict=True) if m]


# ------------------------------------------------------------------ as recorded
@pytest.fixture
def recorded(golden_dir):
    case = np.load(golden_dir / "train_case.npz")
    records = json.loads((golden_dir / "train_samples.json").read_text())
    arch = json.loads((golden_dir / "tiny_arch.json").read_text())
    config = json.loads((golden_dir / "checkpoint/config.json").read_text())
    side = arch["siglip"]["image_size"]
    layout = VisualLayout(
        siglip_image_size=side,
        siglip_patch_size=arch["siglip"]["patch_size"],
        hiera_image_size=arch["hiera"]["resolution"] if "hiera" in arch else None,
        grid_pinpoints_wh=tuple(map(tuple, config["image_grid_pinpoints"])),
    )
    return case, records, layout, load_tokenizer(golden_dir / "checkpoint")


def write_media(folder: Path, case) -> None:
    """The recorded frames and images as files; the frames between are black."""
    (folder / "v.mp4").mkdir()
    blank = np.zeros_like(case["s0.frames"][0])
    frames = dict(zip(case["s0.frame_idx"].tolist(), case["s0.frames"], strict=True))
    for number in range(int(case["s0.total_frames"])):
        path = folder / f"v.mp4/{number}.png"
        Image.fromarray(frames.get(number, blank)).save(path)
    Image.fromarray(case["s1.image"]).save(folder / "a.png")
    Image.fromarray(case["s2.image"]).save(folder / "b.png")


def test_ids_and_labels_are_the_recorded_ones(recorded, tmp_path):
    case, records, layout, tokenizer = recorded
    write_media(tmp_path, case)
    options = settings(
        image_folder=str(tmp_path),
        video_folder=str(tmp_path),
        num_frames=len(case["s0.frames"]),
        folder_fps=float(case["s0.fps"]),
    )
    before = copy.deepcopy(records)
    names = ["s0", "s1", "s2"]
    for name, entry in zip(names, records, strict=False):
        for _ in range(2):  # a second fetch gives the same
            made = make_example(
                entry, tokenizer=tokenizer, layout=layout, settings=options
            )
            assert np.array_equal(input_ids(made), case[f"{name}.input_ids"])
            assert np.array_equal(labels(made), case[f"{name}.labels"])
        (medium,) = made.media
        assert len(medium.siglip) == case[f"{name}.num_crops_or_frames"]
        assert made.length(layout) <= case["batch.expanded_labels"].shape[1]
        if name == "s0" and medium.raw is not None:
            assert np.array_equal(medium.raw, case["s0.frames"][::2])
    assert records == before
    if "mix.s1.input_ids" in case:
        made = make_example(
            records[3], tokenizer=tokenizer, layout=layout, settings=options
        )
        assert np.array_equal(input_ids(made), case["mix.s1.input_ids"])
        assert np.array_equal(labels(made), case["mix.s1.labels"])


def test_the_time_instruction_is_the_recorded_one(recorded, tmp_path):
    case, records, _, _ = recorded
    write_media(tmp_path, case)
    media = read_media(
        records[0],
        settings(
            video_folder=str(tmp_path),
            num_frames=len(case["s0.frames"]),
            folder_fps=float(case["s0.fps"]),
        ),
    )
    assert isinstance(media, Video)
    text = str(case["s0.time_prompt"])
    assert time_instruction(media.clip) == text.split("\n")[1]
    assert np.array_equal(media.clip.frames, case["s0.frames"])


def test_lengths_of_the_recorded_records(recorded):
    _, records, _, _ = recorded
    assert [count_words(entry) for entry in records] == [20, 20, 26, -8]


# ---------------------------------------------------------- supervision in general
WORDS = st.sampled_from(
    ["red", "car.\n", "\n", "\n\n", "é", "<|im_end|>", "  ", "“x”", "12", "\t", ""]
)
TEXT = st.lists(WORDS, max_size=6).map(" ".join)


@given(st.lists(TEXT, min_size=1, max_size=5).filter(lambda t: "".join(t).split()))
def test_a_text_record_is_its_prompt_and_its_answers_are_learned(said):
    made = example(record(*said))
    pairs = [(said[i], said[i + 1]) for i in range(0, len(said) - 1, 2)]
    text = chatml(pairs)
    if len(said) % 2:
        text += f"<|im_start|>user\n{said[-1]}<|im_end|>\n"
    whole = TOKENIZER.encode(text, add_special_tokens=False)
    assert input_ids(made).tolist() == whole
    always = always_supervised(TOKENIZER)
    given = labels(made)
    for label, token in zip(given, whole, strict=True):
        assert label == token or (label == -100 and token not in always)
    if not any("<|im_end|>" in text for text in said):  # turns end where they should
        start = 0
        for place, token in enumerate(whole):
            if token == START:
                start += 1
            if token not in always:
                answer = start > 1 and start % 2 == 1
                assert (given[place] != -100) == answer


def test_newlines_and_turn_tokens_are_learned_everywhere():
    made = example(record("One\nTwo.\n", "Yes.\nNo"))
    assert learned(made) == [
        *["<|im_start|>", "\n", "<|im_end|>", "\n"],  # system
        *[
            "<|im_start|>",
            "\n",
            "\n",
            "<|im_end|>",
            "\n",
        ],  # ".\n" is another token: masked
        *["<|im_start|>", "as", "s", "istant", "\n"],
        *[TOKENIZER.decode([t]) for t in TOKENIZER.encode("Yes.\nNo")],
        *["<|im_end|>", "\n"],
    ]


def test_special_ids_come_from_the_tokenizer():
    assert always_supervised(TOKENIZER) == {START, END, 198}

    class Shifted:
        """The same words under other ids."""

        def __len__(self):
            return 1503

        def encode(self, text, /, *, add_special_tokens):
            return [i + 1000 for i in TOKENIZER.encode(text, add_special_tokens=False)]

        def decode(self, ids, /, *, skip_special_tokens):
            return TOKENIZER.decode([i - 1000 for i in ids])

    assert always_supervised(Shifted()) == {START + 1000, END + 1000, 1198}
    entry = record("<image>\nWhat?\nNow?", "This.", image="a.png")
    made = make_example(
        entry, tokenizer=Shifted(), layout=LAYOUT, settings=settings(), read=shown
    )
    usual = example(entry)
    assert made.supervised == usual.supervised
    plain = [token + 1000 for chunk in usual.chunks for token in chunk]
    assert [token for chunk in made.chunks for token in chunk] == plain


def test_another_tokenizer_is_refused():
    class Letters:
        def __len__(self):
            return 256

        def encode(self, text, /, *, add_special_tokens):
            return list(text.encode())

        def decode(self, ids, /, *, skip_special_tokens):
            return bytes(ids).decode()

    with pytest.raises(TokenizerError, match=r"'<\|im_start\|>' as 12 tokens, not one"):
        make_example(
            record("a", "b"), tokenizer=Letters(), layout=LAYOUT, settings=settings()
        )


# ----------------------------------------------------------------------- placement
@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("<image>\nWhat?", "<image>\nWhat?"),
        ("<image>What?", "<image>What?"),
        ("What? <image>", "<image>\nWhat?"),
        ("\n<image>\nWhat?\n", "<image>\nWhat?"),
        (" What <image> is it? ", "<image>\nWhat  is it?"),
        (" <image> ", "<image>"),
        ("noQA_GT_caption_based_noisyise <image>", "<image>\nnoise"),
    ],
)
def test_one_tag_moves_to_the_start_of_its_turn(said, text):
    made = example(record(said, "It is.", image="a.png"))
    assert f"<|im_start|>user\n{text}<|im_end|>" in prompt(made)
    assert len(made.chunks) == 2


def test_several_tags_stay():
    said = "First <image> and then <image>."
    made = example(record(said, "Yes.", image=["a.png", "b.png"]))
    assert f"user\n{said}<|im_end|>" in prompt(made)
    assert [medium.kind for medium in made.media] == ["padded", "padded"]
    assert [medium.raw.shape for medium in made.media] == [(1, 20, 30, 3)] * 2


def test_a_tag_in_a_later_turn_stays_in_its_turn():
    made = example(record("Hello.", "Hi.", "What? <image>", "It.", image="a.png"))
    assert "user\nHello.<|im_end|>" in prompt(made)
    assert "user\n<image>\nWhat?<|im_end|>" in prompt(made)
    assert labels(made)[input_ids(made) == -200].tolist() == [-100]


def test_tags_of_several_turns():
    made = example(
        record("One <image>", "A.", "Two <image>", "B.", image=["a.png", "b.png"])
    )
    assert "user\n<image>\nOne<|im_end|>" in prompt(made)
    assert "user\n<image>\nTwo<|im_end|>" in prompt(made)
    assert (input_ids(made) == -200).sum() == 2


@pytest.mark.parametrize("kind", ["anyres", "padded"])
def test_one_image_is_cut_as_the_settings_say(kind):
    for path in ("a.png", ["a.png"]):
        entry = record("<image>", "A.", image=path)
        assert modality(entry) == "image"
        assert [m.kind for m in example(entry, images=kind).media] == [kind]


# -------------------------------------------------------------- time instruction
TOLD = (
    "The video lasts for 1.00 seconds, and 4 frames are uniformly sampled from it. "
    "These frames are located at 0.00s,0.30s,0.60s,0.90s.Please answer the following "
    "questions related to this video."
)


@pytest.mark.parametrize(
    ("said", "first", "later"),
    [
        (["<image>\nWhat?", "A."], "<image>\n{}\n\nWhat?", ""),
        (["What <image> now?", "A."], "<image>\n{}\nWhat  now?", ""),
        (["What?", "A."], "<image>\n{}\nWhat?", ""),
        (["Hi.", "A.", "<image>\nWhat?", "B."], "<image>\n{}\nHi.", "What?"),
    ],
)
def test_the_time_instruction_goes_into_the_first_user_turn(said, first, later):
    entry = record(*said, video="v.mp4")
    before = copy.deepcopy(entry)
    made = example(entry)
    assert f"user\n{first.format(TOLD)}<|im_end|>" in prompt(made)
    assert f"user\n{later}<|im_end|>" in prompt(made) or not later
    assert [medium.kind for medium in made.media] == ["video"]
    assert entry == before
    assert input_ids(example(entry)).tolist() == input_ids(made).tolist()


def test_without_time_instruction_a_video_is_placed_like_an_image():
    entry = record("Hi.", "A.", "What? <image>", "B.", video="v.mp4")
    made = example(entry, time_instruction=False)
    assert "located at" not in prompt(made)
    assert "user\n<image>\nWhat?<|im_end|>" in prompt(made)
    untagged = record("What?", "A.", video="v.mp4")
    check_record(untagged)
    with pytest.raises(RecordError, match=r"0 <image> tag\(s\) but 1 video"):
        check_record(untagged, time_instruction=False)
    with pytest.raises(RecordError, match=r"0 <image> tag\(s\) but 1 video"):
        example(untagged, time_instruction=False)


def test_only_videos_are_told_the_time():
    for media in ({}, {"image": "a.png"}):
        made = example(record("<image>" * len(media) + "What?", "A.", **media))
        assert "located at" not in prompt(made)


# ------------------------------------------------------------------- roles, systems
def test_the_first_turn_of_the_assistant_is_left_out():
    entry = {"conversations": [{"from": "gpt", "value": "Well."}, *turns("A?", "B.")]}
    assert prompt(example(entry)) == prompt(example(record("A?", "B.")))
    tagged = {"conversations": [{"from": "gpt", "value": "<image>"}, *turns("A", "B")]}
    with pytest.raises(RecordError, match=r"0 <image> tag\(s\) but 1 image"):
        check_record({**tagged, "image": "a.png"})


def test_openai_names_are_read():
    entry = {
        "conversations": [
            {"role": "user", "content": "A?"},
            {"role": "assistant", "content": "B."},
            {"from": "user", "value": "C?"},
            {"from": "assistant", "value": "D."},
        ]
    }
    same = record("A?", "B.", "C?", "D.")
    assert prompt(example(entry)) == prompt(example(same))
    assert count_words(entry) == count_words(same) == -4


def test_system_turns():
    first = {"from": "system", "value": "Be brief."}
    made = example({"conversations": [first, *turns("A?", "B.")]})
    assert prompt(made).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_sta")
    assert "helpful" not in prompt(made) and "brief" not in "".join(learned(made))
    later = {"from": "system", "value": "Now rhyme."}
    made = example({"conversations": [*turns("A?", "B."), later, *turns("C?", "D.")]})
    assert prompt(made).count("<|im_start|>system\n") == 2
    assert "helpful" in prompt(made) and "rhyme" not in "".join(learned(made))


def test_a_record_may_teach_nothing_but_the_ids_that_are_always_learned():
    made = example(record("Anybody?"))
    always = {TOKENIZER.decode([token]) for token in always_supervised(TOKENIZER)}
    assert set(learned(made)) == always
    assert "assistant\n<|im_end|>" in prompt(example(record("Anybody?", "")))


# ---------------------------------------------------------------------- bad records
BAD = [
    ({"id": "r"}, "record 'r': no conversations"),
    ({}, "record: no conversations"),
    ({"conversations": None}, "no conversations"),
    ({"conversations": []}, "a list of turns, got an empty one"),
    ({"conversations": "What?"}, "a list of turns, got str"),
    ({"conversations": {}}, "a list of turns, got dict"),
    ({"conversations": ["What?"]}, "turn 1 is from None: known roles are human"),
    ({"conversations": [{"value": "A"}]}, "turn 1 is from None"),
    ({"conversations": [{"from": "bot", "value": "A"}]}, "turn 1 is from 'bot'"),
    ({"conversations": [{"from": ["x"], "value": "A"}]}, "turn 1 is from"),
    ({"conversations": [{"from": "human"}]}, "value of turn 1 must be text, got None"),
    (record("A", 5), "the value of turn 2 must be text, got int"),
    (record("A", ["B"]), "the value of turn 2 must be text, got list"),
    (record("", " \n"), "no words in its conversations"),
    ({"conversations": turns("A", "B")[::-1]}, "turn 1 is the assistant's where"),
    ({"conversations": turns("A", "B")[1:]}, "wrong role order: turn 1 is the assist"),
    ({"conversations": turns("A", "B")[:1] * 2}, "turn 2 is the user's where"),
    ({"conversations": [*turns("A", "B"), *turns("A", "B")[1:]]}, "turn 3 is the ass"),
    ({"conversations": [{"from": "system", "value": "A"}]}, "no turn of human and gpt"),
    (record("<image>What?", "B"), r"1 <image> tag\(s\) but 0 media"),
    (record("<image>" * 2, "B", image="a.png"), r"2 <image> tag\(s\) but 1 image"),
    (record("A<image>", "<image>", image="a.png"), r"2 <image> tag\(s\) but 1 image"),
    (record("<image>" * 2, "B", video="v.mp4"), r"2 <image> tag\(s\) but 1 video"),
    (record("<image>" * 3, "B", image=["a", "b"]), r"3 <image> tag\(s\) but 2 image"),
    (record("What?", "B", image="a.png"), r"0 <image> tag\(s\) but 1 image"),
    (record("<image>", "B", image=["a", "b"]), r"1 <image> tag\(s\) but 2 image"),
    (record("<image>", "B", image="a", video="b"), "has image and video"),
    (record("<image>", "B", image=5), "image must be a path or a list of paths, got 5"),
    (record("<image>", "B", image=""), "image must be a path or a list"),
    (record("What?", "B", image=[]), r"image must be a path or a list .*got \[\]"),
    (record("<image>", "B", image=["a", None]), "image must be a path or a list"),
    (record("<image>", "B", image="a\0b"), "image must be a path"),
    (record("<image>", "B", video=["a.mp4"]), "video must be a path, got"),
    (record("<image>", "B", video={"a": 1}), "video must be a path, got"),
    (record("<image>", "B", images=["a"]), "media under 'images' are not read"),
    (record("What?", "B", audio="a.wav"), "media under 'audio' are not read"),
]


@pytest.mark.parametrize(("entry", "words"), BAD)
def test_bad_records_are_one_clear_line(entry, words):
    opened = []
    with pytest.raises(RecordError, match=words) as caught:
        check_record(entry)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    with pytest.raises(RecordError, match=words):
        example(entry, read=lambda *both: opened.append(both))
    assert not opened  # it is refused before its media are opened
    assert count_words(entry) != 0


def test_null_media_are_no_media():
    entry = record("What?", "B.", image=None, video=None, images=[])
    check_record(entry)
    assert modality(entry) == "text" and count_words(entry) == -2
    entry = record("<image>What?", "B.", image="a.png", video=None)
    assert modality(entry) == "image" and count_words(entry) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("human"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["from", "value", "role", "content", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["id", "conversations", "image", "video", "images"]), JSON
    )
)
def test_anything_else_is_refused_as_a_record_error(entry):
    assert count_words(entry) != 0
    try:
        check_record(entry)
    except RecordError as error:
        assert "\n" not in str(error)
    else:
        assert input_ids(example(entry))[0] == START


# --------------------------------------------------------------------- media files
def test_paths_join_their_folder(tmp_path):
    options = settings(image_folder="images", video_folder=str(tmp_path))
    absolute = str(tmp_path / "b.png")
    entry = record("", image=["a/../../a.png", absolute])
    assert media_paths(entry, options) == [Path("images/a/../../a.png"), Path(absolute)]
    assert media_paths(record("", video="v"), options) == [tmp_path / "v"]
    assert media_paths(record(""), options) == []
    plain = settings()
    assert media_paths(record("", image="a.png"), plain) == [Path("a.png")]


def test_folders_of_frames_have_the_rate_of_the_settings(tmp_path):
    folder = tmp_path / "scene"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (30, 20), (number, 0, 0)).save(folder / f"{number}.png")
    entry = record("<image>What?", "That.", video="scene")
    for rate, last in ((2.0, "5.50s"), (4.0, "2.75s")):
        made = example(
            entry, read=read_media, video_folder=str(tmp_path), folder_fps=rate
        )
        assert f"lasts for {12 / rate:.2f} seconds, and 4 frames" in prompt(made)
        assert f",{last}.Please" in prompt(made)
        assert len(made.media[0].siglip) == 4


def test_several_image_files_are_read_in_their_order(tmp_path):
    for name, size in (("a.png", (30, 20)), ("b.jpg", (10, 40))):
        Image.new("RGB", size).save(tmp_path / name)
    entry = record("<image> <image>", "Two.", image=["b.jpg", "a.png"])
    made = example(entry, read=read_media, image_folder=str(tmp_path))
    assert [medium.image_wh for medium in made.media] == [(10, 40), (30, 20)]


def test_missing_and_broken_files_are_one_line(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    folders = {"image_folder": str(tmp_path), "video_folder": str(tmp_path)}
    for media, kind, words in (
        ({"image": "no.png"}, ImageError, r"no\.png: no such image file"),
        ({"image": "text.png"}, ImageError, r"text\.png: not a readable image"),
        ({"image": "empty"}, ImageError, "empty: cannot read the image"),
        ({"video": "no.mp4"}, VideoError, r"no\.mp4: no such video file or folder"),
        ({"video": "empty"}, VideoError, "empty: a folder without image files"),
        ({"video": "text.png"}, VideoError, r"text\.png"),
        ({"image": "x" * 5000}, (ImageError, RecordError), "cannot read"),
        ({"video": "x" * 5000}, (VideoError, RecordError), "x: "),
    ):
        with pytest.raises(kind, match=words) as caught:
            example(record("<image>What?", "B.", **media), read=read_media, **folders)
        assert "\n" not in str(caught.value)


def test_a_reader_must_bring_what_the_record_names():
    entry = record("<image>What?", "B.", image="a.png")
    with pytest.raises(RecordError, match="1 media are named, 0 read"):
        example(entry, read=lambda *_: None)
