"""A session answers, token for token, what independent questions answer.

The questions are such that no step has two best tokens within 0.003 of each other:
what is summed in another order differs in its last bit.
"""

from dataclasses import replace

import pytest
from two_layers import SHORT, assert_same, pixels

from vica_jax.data.conversation import PromptError
from vica_jax.data.example import LengthError
from vica_jax.decode import generate
from vica_jax.decode.measure import OutOfMemoryError
from vica_jax.decode.session import SessionError, batch_bucket
from vica_jax.errors import InputError
from vica_jax.models.vica import Vica

QUESTIONS = [
    "How many chairs are there?",
    "Why?",
    "What is the distance between the stove and the window, in metres?",
    "Which is closest to the door?\nA. the lamp\nB. the table\nC. the bed",
    "How large is this room?",
    "How long is the table, in centimetres?",
    *(f"Is there {thing} in the room?" for thing in ("a bed", "a red lamp", "a sofa")),
    "If I stand by the stove, facing the table, is the lamp to my left or right?",
    *(f"How many {things} can you see?" for things in ("tables", "doors", "windows")),
    "In which order do these appear?\nA. lamp, bed\nB. bed, lamp",
    "?",
    "What is near the red lamp? Name three things, from left to right.",
    "Describe it.",
    "And now?",
]


@pytest.fixture(scope="module")
def alone(assistant):
    return [assistant.answer(pixels(), question, **SHORT) for question in QUESTIONS]


# ------------------------------------------------------------------ the same answers
@pytest.mark.parametrize("batch", [1, 5, None])
def test_answers_are_those_of_independent_questions(session, alone, batch):
    assert len(QUESTIONS) == 18
    assert_same(session.ask(QUESTIONS, batch=batch), alone)


def test_the_answers_differ(alone):
    """What makes the test above one."""
    assert len({tuple(answer.token_ids) for answer in alone}) >= 15
    assert len({answer.tokens["text"] for answer in alone}) >= 10


@pytest.mark.parametrize(
    ("question", "changes"),
    [
        (["How many chairs?", "Three.", "And tables?"], {}),
        (["Why?", "So.", "Why?"], {"prompt_style": "vica_readme"}),
        ("How many chairs are there?", {"prompt_style": "vica_readme"}),
        ("Which is closest?", {"options": ("A. chair", "B. table")}),
        ("<image>How many chairs?", {"prompt_style": "raw"}),
        ("<image>\nHow many chairs?", {}),
        ("How many?", {"time_instruction": True}),
        ("How many?", {"repetition_penalty": 1.4, "max_new_tokens": 3}),
    ],
)
def test_every_way_to_ask(assistant, session, question, changes):
    expected = assistant.answer(pixels(), question, **SHORT | changes)
    assert_same(session.ask([question], **changes), [expected])


def test_a_raw_session_asks_raw(assistant):
    """What a session is opened with holds for its questions."""
    style = SHORT | {"prompt_style": "raw", "seed": 3}
    asked = ["<image> Why?"]
    expected = [assistant.answer(pixels(), question, **style) for question in asked]
    assert_same(assistant.open(pixels(), **style).ask(asked), expected)


@pytest.mark.parametrize("count", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_images(assistant, count):
    source = [pixels(1, seed, (150, 100))[0] for seed in range(count)]
    session = assistant.open(source, **SHORT)
    asked = ["Compare them.", ["What is this?", "A room.", "Which?"]]
    expected = [assistant.answer(source, question, **SHORT) for question in asked]
    assert_same(session.ask(asked, batch=1), expected)
    assert session.seen.count == count == len(session.chunks)


def test_sampling_follows_the_seed_not_the_batch(session):
    hot = {"temperature": 2.0, "top_p": 0.95, "seed": 7}
    rows = session.ask(["Why?"] * 4, **hot)
    assert_same(session.ask(["Why?"] * 4, batch=1, **hot), rows)
    assert len({tuple(row.token_ids) for row in rows}) == 4
    other = session.ask(["Why?"] * 4, **hot | {"seed": 8})
    assert other[0].token_ids != rows[0].token_ids


def test_a_second_session_compiles_nothing(assistant, session):
    session.ask(QUESTIONS[:4])
    steps = (
        generate.encode,
        generate.prefill_prefix,
        generate.prefill_after,
        generate.decode,
    )
    before = [step._cache_size() for step in steps]
    other = assistant.open(pixels(seed=1), **SHORT)
    rows = other.ask(QUESTIONS[4:7], seed=5, repetition_penalty=1.2)
    assert len(rows) == 3
    assert [step._cache_size() for step in steps] == before


def test_what_is_read_is_opened(assistant, session):
    """``read`` is the host's part of ``open``."""
    loaded = assistant.read(pixels(), **SHORT)
    other = assistant.open(loaded, **SHORT)
    assert other.seconds.keys() == {"read", "pixels", "encode", "prefill"}
    assert_same(other.ask(["Why?"]), session.ask(["Why?"]))


# ------------------------------------------------------------------------ the context
def test_a_question_past_the_context(session):
    long = "chair " * 40_000
    with pytest.raises(LengthError, match=r"past the context length of 32,768"):
        session.ask(["Why?", long])
    with pytest.raises(LengthError, match="open fewer frames"):
        session.check(long)


def test_room_for_new_tokens_ends_with_the_context(assistant, session, alone):
    """The prompt of 142 + 11 tokens leaves 3 of 156."""
    cfg = assistant.cfg
    layout = replace(cfg.layout, context_length=156)
    near = replace(session, model=Vica(cfg.with_layout(layout)))
    length = session.length + len(session._own_tokens("Why?", session.settings))
    (row,) = near.ask(["Why?"])
    assert row.token_ids == alone[1].token_ids[: 156 - length]
    assert len(row.token_ids) == 156 - length < 12
    assert f"at most {156 - length} new tokens fit the context of 156" in row.notes[-1]
    # A longer question beside it has less room, and takes none of this one's.
    layout = replace(layout, context_length=length + 12)
    near = replace(session, model=Vica(cfg.with_layout(layout)))
    long, short = near.ask(["Why? " * 2, "Why?"])
    assert short.token_ids == alone[1].token_ids and not short.notes
    assert len(long.token_ids) < 12 and "new tokens fit" in long.notes[-1]


# -------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_frames": 4}, "num_frames = 4: the video was opened with 8"),
        ({"token_ratio": (8, 4, 1)}, "token_ratio"),
        ({"image_mode": "padded"}, "image_mode"),
        ({"exact": ["number", None]}, "1 questions, 2 entries of exact"),
        ({"exact": []}, "1 questions, 0 entries of exact"),
        ({"batch": 0}, "batches of 0"),
    ],
)
def test_changes_that_a_session_cannot_make(session, changes, match):
    with pytest.raises(SessionError, match=match):
        session.ask(["Why?"], **changes)


def test_text_before_the_video(session):
    with pytest.raises(SessionError, match="leave out text before <image>"):
        session.ask(["Why?", "Look at this: <image>\nWhy?"])


@pytest.mark.parametrize(
    ("questions", "match"),
    [
        ([], "no question"),
        (["Why?", "  \n"], "empty"),
        ([["Why?", "So."]], "an odd number of texts, got 2"),
        (["<image> and <image>"], r"2 <image> tag\(s\) but 1"),
        ("Why?", "a list of questions"),
    ],
)
def test_questions_that_cannot_be_asked(session, questions, match):
    with pytest.raises(PromptError, match=match):
        session.ask(questions)


def test_nothing_to_share(assistant):
    with pytest.raises(SessionError, match="give one"):
        assistant.open(None, **SHORT)


def test_a_video_past_the_context(assistant):
    with pytest.raises(InputError, match="context length of 32,768"):
        assistant.open(pixels(), num_frames=4000)


def test_out_of_memory_names_what_to_try(session, monkeypatch):
    from jax.errors import JaxRuntimeError

    def burst(*_):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr("vica_jax.decode.session.prefill_after", burst)
    with pytest.raises(OutOfMemoryError, match="in prefill: try batch=9 instead of 18"):
        session.ask(QUESTIONS)


def test_batches_are_filled_up():
    assert [batch_bucket(n) for n in (1, 2, 3, 5, 8, 9, 16, 17)] == [
        *(1, 2, 4, 8, 8, 16, 16, 24)
    ]
