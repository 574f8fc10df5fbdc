"""The assistant on the recorded tiny checkpoints (random weights)."""

import threading

import jax
import numpy as np
import pytest
from PIL import Image

from convert.load import load_assistant
from vica_jax.data import media as media_module
from vica_jax.data.conversation import PromptError, chatml, tokenize_chunks, user_turn
from vica_jax.data.example import Example, LengthError, collate, video_medium
from vica_jax.data.frame_cache import FrameCache
from vica_jax.data.threads import num_threads, use_threads
from vica_jax.decode import generate
from vica_jax.decode.generate import make_generate
from vica_jax.decode.measure import OutOfMemoryError
from vica_jax.decode.settings import (
    AnswerSettings,
    GenerationConfigError,
    make_sampling,
)
from vica_jax.layout import LayoutError
from vica_jax.models.vica import Vica


@pytest.fixture(scope="module")
def assistant(request):
    folder = request.path.parent.parent / "goldens" / "tiny-vica2" / "checkpoint"
    return load_assistant(folder, dtype="float32")


def video(frames=8, seed=0, hw=(40, 60)):
    return np.random.default_rng(seed).integers(0, 256, (frames, *hw, 3), np.uint8)


SHORT = {"max_new_tokens": 20, "num_frames": 8, "source_fps": 2.0}


def compiled():
    """Programs compiled so far by the three jitted steps."""
    steps = (generate.encode, generate.prefill, generate.decode)
    return [step._cache_size() for step in steps]


def test_a_second_question_compiles_nothing(assistant):
    assistant.answer(video(), "How many chairs are there?", **SHORT)
    before = compiled()
    other = assistant.answer(video(seed=1), "What is near the red lamp?", **SHORT)
    assistant.answer(video(seed=2), "Which is closest?", **SHORT | {"seed": 5})
    assert compiled() == before
    assert other.tokens["siglip"] == 96
    assert other.tokens["hiera"] == 24


def test_another_penalty_compiles_nothing(assistant):
    assistant.answer(video(), "How many?", **SHORT)
    before = compiled()
    assistant.answer(video(), "How many?", **SHORT, repetition_penalty=1.3)
    assert compiled() == before


def test_batch_rows_are_what_each_is_alone(assistant):
    """Different media, lengths and frame counts in one right-padded batch."""
    image = video(1, 5, (90, 50))[0]
    questions = [
        (video(8, 3), "How far is the chair from the table, in metres?"),
        (video(8, 4, (70, 36)), "Which of these is closest to the stove?\nA. lamp"),
        (image, "What is this?"),
        (None, "Say something."),
        ([image, image], "Compare them."),
    ]
    together = assistant.answer_batch(questions, **SHORT)
    for (media, question), row in zip(questions, together, strict=True):
        alone = assistant.answer(media, question, **SHORT)
        assert row.token_ids == alone.token_ids
        assert row.text == alone.text
        assert row.tokens == alone.tokens


def test_stream_joins_to_the_answer(assistant):
    whole = assistant.answer(video(), "What now?", **SHORT | {"max_new_tokens": 40})
    pieces, steps = (
        [],
        assistant.stream(video(), "What now?", **SHORT | {"max_new_tokens": 40}),
    )
    while True:
        try:
            pieces.append(next(steps))
        except StopIteration as stop:
            answer = stop.value
            break
    assert "".join(pieces) == whole.text
    assert answer.token_ids == whole.token_ids
    assert len(pieces) > 1


def test_generate_is_the_same_in_one_program(assistant):
    """The pure function gives the assistant's tokens, then padding."""
    cfg = assistant.cfg
    turn = user_turn("What now?", num_media=1)
    chunks = tokenize_chunks(assistant.tokenizer, chatml([(turn, None)]))
    medium = video_medium(video(), cfg.layout)
    batch = collate([Example(chunks=chunks, media=[medium])], cfg.layout)
    sampling = make_sampling(
        assistant.generation_config,
        {},
        assistant.tokenizer,
        AnswerSettings(),
        cfg.llm.vocab_size,
    )
    tokens = make_generate(Vica(cfg), sampling, 20)(
        assistant.params, batch, jax.random.key(0)
    )
    ids = assistant.answer(video(), "What now?", **SHORT).token_ids
    assert np.asarray(tokens)[0, : len(ids)].tolist() == ids
    assert set(np.asarray(tokens)[0, len(ids) :].tolist()) <= {sampling.pad_id}


def test_sampling_follows_the_seed_not_the_row(assistant):
    hot = SHORT | {"temperature": 2.0, "top_p": 0.95}
    first = assistant.answer(video(), "What now?", **hot, seed=1)
    again = assistant.answer(video(), "What now?", **hot, seed=1)
    other = assistant.answer(video(), "What now?", **hot, seed=2)
    assert first.token_ids == again.token_ids != other.token_ids


def test_logits_agree_with_the_first_token(assistant):
    logits = assistant.logits(video(), "What now?", num_frames=8)
    ids = assistant.answer(video(), "What now?", **SHORT).token_ids
    assert int(logits[: len(assistant.tokenizer)].argmax()) == ids[0]
    every = assistant.logits(video(), "What now?", num_frames=8, all_positions=True)
    np.testing.assert_allclose(every[-1], logits, atol=2e-5)


def test_every_setting_stands_in_the_answer(assistant):
    answer = assistant.answer(video(), "What?", **SHORT, time_instruction=True)
    told = answer.to_json()
    assert told["settings"]["time_instruction"] is True
    assert told["settings"]["repetition_penalty"] == 1.05  # the checkpoint's
    assert told["settings"]["hiera"] == {
        "frame_stride": 2,
        "output_stage": 4,
        "pool_stride": 2,
    }
    assert told["frame_indices"] == list(range(8))
    assert told["frame_times"] == [i / 2 for i in range(8)]
    assert {"read", "pixels", "encode", "prefill"} <= told["seconds"].keys()
    total = told["tokens"]
    assert total["total"] == total["siglip"] + total["hiera"] + total["text"]


def test_a_short_video_repeats_frames_and_says_so(assistant):
    answer = assistant.answer(video(3), "What?", **SHORT)
    assert len(answer.frame_indices) == 8
    assert any("3" in note for note in answer.notes)


def test_token_ratio(assistant):
    same = assistant.answer(video(), "What?", **SHORT, token_ratio=(4, 4, 2))
    plain = assistant.answer(video(), "What?", **SHORT)
    assert same.token_ids == plain.token_ids
    more = assistant.answer(video(), "What?", **SHORT, token_ratio=(8, 4, 1))
    assert more.tokens["hiera"] == 8 * 4 * 5
    with pytest.raises(LayoutError, match="N_hiera = 3 does not divide 8"):
        assistant.answer(video(), "What?", **SHORT, token_ratio=(3, 4, 2))
    with pytest.raises(LayoutError, match=r"stage 3 is 64 wide.*takes 128"):
        assistant.answer(video(), "What?", **SHORT, token_ratio=(4, 3, 2))
    with pytest.raises(LayoutError, match=r"1\.\.4, got 5"):
        assistant.answer(video(), "What?", **SHORT, token_ratio=(4, 5, 2))


def test_past_the_context(assistant):
    words = "chair " * 40_000
    with pytest.raises(LengthError, match="past the context length of 32,768"):
        assistant.answer(None, words)


def test_an_empty_question(assistant):
    with pytest.raises(PromptError, match="empty"):
        assistant.answer(None, "  \n")


@pytest.mark.parametrize(
    ("key", "value"), [("num_beams", 4), ("no_repeat_ngram_size", 3)]
)
def test_generation_settings_that_cannot_be_honoured(assistant, key, value):
    with pytest.raises(GenerationConfigError, match=f"{key} = {value}"):
        make_sampling({key: value}, {}, assistant.tokenizer, AnswerSettings(), 600)


def test_out_of_memory_names_part_and_setting(assistant, monkeypatch):
    def burst(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr("vica_jax.decode.assistant.prefill", burst)
    with pytest.raises(OutOfMemoryError, match="in prefill: try --frames=4"):
        assistant.answer(video(), "What?", **SHORT)


@pytest.fixture
def film(tmp_path):
    for number, frame in enumerate(video(6)):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    return tmp_path


def test_a_video_asked_again_is_not_read_again(assistant, film, monkeypatch):
    monkeypatch.setattr(assistant, "frame_cache", FrameCache())
    first = assistant.answer(film, "How many?", **SHORT)
    again = assistant.answer(str(film), "How many?", **SHORT)
    assert again.token_ids == first.token_ids and again.notes == first.notes
    assert again.frame_times == first.frame_times
    assert again.settings == first.settings
    reading = {"read", "pixels", "cache"}
    assert first.seconds.keys() & reading == reading
    assert again.seconds.keys() & reading == {"cache"}
    fewer = assistant.answer(film, "How many?", **SHORT | {"num_frames": 4})
    assert fewer.seconds.keys() >= {"read"}
    assert (assistant.frame_cache.hits, assistant.frame_cache.misses) == (1, 2)
    monkeypatch.setattr(assistant, "frame_cache", None)
    plain = assistant.answer(film, "How many?", **SHORT)
    assert plain.token_ids == first.token_ids
    assert plain.seconds.keys() & reading == {"read", "pixels"}


def test_a_batch_reads_each_video_once_and_several_side_by_side(
    assistant, film, monkeypatch
):
    monkeypatch.setattr(assistant, "frame_cache", None)
    before = num_threads()
    use_threads(2)
    meet, real, opened = threading.Barrier(2, timeout=20), media_module.read_video, []

    def reading(source, **options):
        opened.append(source)
        meet.wait()  # two at a time, or nobody gets past
        return real(source, **options)

    monkeypatch.setattr(media_module, "read_video", reading)
    other = video(8, seed=3)
    asked = [(film, "How many?"), (other, "Where?"), (str(film), "Which?")]
    answers = assistant.answer_batch(asked, **SHORT)
    use_threads(before)
    monkeypatch.setattr(media_module, "read_video", real)
    assert len(opened) == 2
    for (source, question), answer in zip(asked, answers, strict=True):
        alone = assistant.answer(source, question, **SHORT)
        assert alone.token_ids == answer.token_ids
