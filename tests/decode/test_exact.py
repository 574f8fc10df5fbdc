"""Exact answers: the grammar of numbers, and probabilities as the model gives them."""

import functools
import itertools
import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from two_layers import SHORT, assert_same, pixels

from vica_jax.data.example import Example, collate
from vica_jax.decode.assistant import Assistant
from vica_jax.decode.exact import (
    COMPLETE,
    EMPTY,
    NUMBER_TOKENS,
    ExactError,
    check_wanted,
    letter_ids,
    number_table,
    read_numbers,
)
from vica_jax.decode.prompt import prompt_chunks
from vica_jax.models.vica import apply

BEGUN = r"[0-9]+(\.[0-9]*)?"
NUMBER = r"[0-9]+(\.[0-9]+)?"
DIGITS = [*"0123456789."]


# ---------------------------------------------------------------- the grammar's table
class Words:
    """A tokenizer of given words."""

    def __init__(self, words):
        self.words = words

    def __len__(self):
        return len(self.words)

    def encode(self, text, add_special_tokens=False):
        return [self.words.index(text)] if text in self.words else [0, 0]

    def decode(self, ids, skip_special_tokens=True):
        return "".join(self.words[i] for i in ids)


words = st.lists(st.text("0123456789.a -٣²", max_size=4), unique=True)


@given(words=words, data=st.data())
def test_every_path_spells_a_number(words, data):
    table = number_table(Words([*words, "7"]), len(words) + 3)
    text, written = "", EMPTY
    for _ in range(data.draw(st.integers(1, 6))):
        allowed = np.flatnonzero(table[written] >= 0).tolist()
        if not allowed:
            break
        token = data.draw(st.sampled_from(allowed))
        text += [*words, "7"][token]
        written = table[written, token]
        assert re.fullmatch(BEGUN, text) or text == ""
        assert (written in COMPLETE) == bool(re.fullmatch(NUMBER, text))


@given(text=st.from_regex(NUMBER, fullmatch=True), data=st.data())
def test_every_number_has_a_path(text, data):
    """However its text is cut into tokens."""
    cuts = data.draw(st.sets(st.integers(1, max(len(text) - 1, 1))))
    places = [0, *sorted(cuts), len(text)]
    parts = [text[i:j] for i, j in itertools.pairwise(places) if i < j]
    table = number_table(Words(parts), len(parts))
    written = EMPTY
    for token in range(len(parts)):
        written = table[written, token]
        assert written >= 0
    assert written in COMPLETE


def test_nothing_else_has_one():
    """Empty tokens would never end, and ids past the tokenizer stand for nothing."""
    refused = ["", " 1", "-1", "1e3", "1,000", "٣", "1.2.3", ".", ".5", "..", "½"]
    table = number_table(Words([*refused, "1"]), len(refused) + 5)
    assert table[EMPTY].tolist() == [-1] * len(refused) + [1] + [-1] * 4


def test_a_tokenizer_without_digits():
    with pytest.raises(ExactError, match="no token made of digits"):
        number_table(Words(["one", ".", "two"]), 3)


def test_a_number_cut_behind_its_point():
    tokens = np.array([[*range(1, 5), 10, -1], [3, 10, 4, -1, -1, -1], [-1] * 6])
    half = np.full(3, 0.5)
    found = read_numbers(tokens, half, np.log(half), [0, 1], Words(DIGITS))
    assert [found[row].answer for row in (0, 1)] == ["1234", "3.4"]
    assert found.keys() == {0, 1}


# ------------------------------------------------------------------- letters as tokens
def test_letters():
    tokenizer = Words(["?", "A", "B", "(A)"])
    assert letter_ids(tokenizer, ("B", "A")) == [2, 1]
    for letters in (("A", "C"), ("A", "A"), ("A", "AB")):
        with pytest.raises(ExactError, match=r"'[AC]B?' is not a token of its own"):
            letter_ids(tokenizer, letters)
    with pytest.raises(ExactError, match="no options"):
        letter_ids(tokenizer, ())


# ------------------------------------------------------------------------- with a model
ASKED = [
    "How many chairs are there?",
    "How large is this room?",
    "Which is closest?",
    "How many tables?",
]


@pytest.fixture(scope="module")
def pointed(assistant):
    """A model that likes to write points: their logit is near that of 6."""
    llm = assistant.params["llm"]
    head = llm["lm_head"]["kernel"]
    six, point = assistant.tokenizer.encode("6.", add_special_tokens=False)
    head = head.at[:, point].set(1.02 * head[:, six])
    llm = {**llm, "lm_head": {**llm["lm_head"], "kernel": head}}
    return Assistant(
        assistant.cfg,
        {**assistant.params, "llm": llm},
        assistant.tokenizer,
        generation_config=assistant.generation_config,
    )


@functools.partial(jax.jit, static_argnums=0)
def every_logit(model, params, batch):
    return apply(model, params, batch)


def spell_number(assistant, question):
    """A token at a time, the whole prompt again for each: text, two log-probabilities.

    Allowed is what continues the text of a number, by regular expressions.
    """
    tokenizer, layout = assistant.tokenizer, assistant.cfg.layout
    loaded = assistant.read(pixels(), **SHORT)
    settings = assistant.open(loaded, **SHORT).settings
    chunks = prompt_chunks(tokenizer, question, loaded.seen, settings)
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    ends = set(assistant.generation_config["eos_token_id"])
    ids, text, share, total = [], "", 0.0, 0.0
    while len(ids) < NUMBER_TOKENS:
        example = Example(chunks=[chunks[0], chunks[1] + ids], media=loaded.media)
        batch = collate([example], layout)
        logits = every_logit(assistant.model(settings), assistant.params, batch)
        last = np.asarray(logits, np.float64)[0, batch["lengths"][0] - 1]
        allowed = [
            i
            for i, new in enumerate(texts)
            if (i in ends and re.fullmatch(NUMBER, text))
            or (i not in ends and new and re.fullmatch(BEGUN, text + new))
        ]
        best = max(allowed, key=lambda i: last[i])
        share += last[best] - np.logaddexp.reduce(last[allowed])
        total += last[best] - np.logaddexp.reduce(last)
        if best in ends:
            break
        ids.append(best)
        text += texts[best]
    return text.removesuffix("."), share, total


def assert_spelled(assistant, answers, questions):
    for answer, question in zip(answers, questions, strict=True):
        text, share, total = spell_number(assistant, question)
        assert answer.exact.answer == text
        assert answer.exact.confidence == pytest.approx(np.exp(share), rel=1e-4)
        assert answer.exact.log_probs == {text: pytest.approx(total, abs=1e-4)}


def test_numbers_are_those_of_a_slow_loop(assistant, session):
    """Of different lengths, in a batch where one row wants none."""
    questions = [*ASKED[:2], ASKED[3]]
    wanted = ["number", "number", None, "number"]
    rows = session.ask(ASKED, exact=wanted)
    assert rows.pop(2).exact is None
    assert len({len(row.exact.answer) for row in rows}) == 3
    assert_spelled(assistant, rows, questions)


def test_numbers_with_a_point(pointed):
    rows = pointed.open(pixels(), **SHORT).ask(ASKED, exact=["number"] * 4)
    assert any("." in row.exact.answer for row in rows[:2])
    assert_spelled(pointed, rows[:2], ASKED[:2])


def test_choices_are_scored_by_the_models_probabilities(assistant, session):
    letters = [("A", "B"), ("A", "B", "C", "D"), ("C", "A", "E"), ("B",)]
    rows = session.ask(ASKED, exact=letters)
    for question, options, row in zip(ASKED, letters, rows, strict=True):
        logits = assistant.logits(pixels(), question, num_frames=8, source_fps=2.0)
        every = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))
        ids = [assistant.tokenizer.encode(x)[0] for x in options]
        expected = dict(zip(options, every[ids].tolist(), strict=True))
        assert row.exact.log_probs == pytest.approx(expected, abs=2e-5)
        assert row.exact.answer == max(expected, key=expected.__getitem__)
        shares = np.exp(every[ids] - every[ids].max())
        assert row.exact.confidence == pytest.approx(shares.max() / shares.sum(), 1e-4)
    assert rows[3].exact.confidence == 1
    assert len({row.exact.answer for row in rows}) > 1
    json.dumps(rows[0].to_json())


def test_free_text_does_not_change(session):
    plain = session.ask(ASKED)
    assert "exact" not in plain[0].to_json()
    wanted = ["number", ("A", "B"), None, "number"]
    rows = session.ask(ASKED, exact=wanted)
    found = [row.exact for row in rows]
    assert [exact is not None for exact in found] == [True, True, False, True]
    assert_same([replace(row, exact=None) for row in rows], plain)


def test_what_is_wanted_does_not_depend_on_the_batch(session):
    wanted = [("A", "B"), "number", ("B", "C"), "number"]
    together = session.ask(ASKED, exact=wanted)
    for row, one in zip(
        together, session.ask(ASKED, exact=wanted, batch=1), strict=True
    ):
        assert row.exact.answer == one.exact.answer
        assert row.exact.log_probs == pytest.approx(one.exact.log_probs, abs=2e-5)


def test_letters_that_this_tokenizer_cannot_tell_apart(session):
    for letters in (("A", "AB"), ("A", "A"), ()):
        with pytest.raises(ExactError):
            session.ask(["Which?"], exact=[letters])
    for other in (["A", "B"], "numbers"):
        with pytest.raises(ExactError, match="None, 'number' or a tuple"):
            check_wanted(other, session.assistant.tokenizer)
