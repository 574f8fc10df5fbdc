import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pretrain.small_rooms import VOCAB
from vica_jax.data.conversation import always_supervised
from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.pretrain.rooms import CATEGORIES, NAMES, training_texts
from vica_jax.pretrain.words import (
    JOINED,
    TURN,
    TURN_END,
    name_ids,
    train_tokenizer,
    write_tokenizer,
)

SPELLINGS = [spelling for spellings in NAMES for spelling in spellings]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    made = train_tokenizer(training_texts(9, 12), SPELLINGS, VOCAB)
    write_tokenizer(made, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


@given(text=st.text(max_size=60))
def test_any_text_comes_back(tokenizer, text):
    ids = ids_of(tokenizer, text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert all(0 <= token < len(tokenizer) for token in ids)


def test_every_name_is_one_token_however_it_is_joined(tokenizer):
    ids = name_ids(tokenizer, NAMES)
    assert len(ids) == 2 * len(JOINED) * len(CATEGORIES)
    inside = ids_of(tokenizer, "How many chairs stand by the chair, the tv, sofa?")
    found = [CATEGORIES[ids[token]] for token in inside if token in ids]
    assert found == ["chair", "chair", "tv", "sofa"]


def test_a_name_that_is_no_word_of_the_tokenizer_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="'chaise longue' is"):
        name_ids(tokenizer, [("chaise longue",)])


def test_digits_and_letters_of_options_stand_alone(tokenizer):
    pieces = [tokenizer.decode([i]) for i in ids_of(tokenizer, "A. 35.18\nB. 7")]
    assert [piece for piece in pieces if piece.strip(". \n")] == [*"A3518B7"]


def test_training_finds_its_three_tokens(tokenizer):
    ids = always_supervised(tokenizer)
    assert ids == {ids_of(tokenizer, text)[0] for text in (TURN, TURN_END, "\n")}


def test_the_same_texts_make_the_same_files(folder, tmp_path):
    made = train_tokenizer(training_texts(9, 12), SPELLINGS, VOCAB)
    write_tokenizer(made, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
