"""Sessions on disk: the same answers, and no answers from another model's memory."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from two_layers import SHORT, assert_same, make_assistant, pixels

from vica_jax.decode.assistant import Assistant
from vica_jax.decode.session_file import SessionFileError
from vica_jax.decode.settings import AnswerSettings

ASKED = ["How many chairs are there?", "Why?", ["Why?", "So.", "And now?"]]


@pytest.fixture(scope="module")
def session(assistant):
    return assistant.open(pixels(3), **SHORT)  # repeats frames, and says so


@pytest.fixture(scope="module")
def saved(session, tmp_path_factory):
    path = tmp_path_factory.mktemp("sessions") / "new" / "folders" / "room.safetensors"
    session.save(path)
    return path


def copy_of(assistant, **changes):
    """Another assistant, the same but for ``changes``."""
    parts = {
        "cfg": assistant.cfg,
        "params": assistant.params,
        "tokenizer": assistant.tokenizer,
        "generation_config": assistant.generation_config,
        "dtype": assistant.dtype,
    } | changes
    return Assistant(**parts)


# ------------------------------------------------------------------- there and back
def test_a_loaded_session_answers_the_same(assistant, session, saved):
    loaded = copy_of(assistant).load_session(saved)
    rows = session.ask(ASKED)
    assert_same(loaded.ask(ASKED), rows)
    assert "3 frames" in rows[0].notes[0]
    assert len(rows[0].frame_times) == 8
    assert loaded.settings == session.settings
    assert (loaded.chunks, loaded.length) == (session.chunks, session.length)
    assert_same(loaded.ask(ASKED[:1], seed=4), session.ask(ASKED[:1], seed=4))


def test_it_can_be_saved_again(assistant, saved, tmp_path):
    again = tmp_path / "again.safetensors"
    assistant.load_session(saved).save(again)
    assert again.read_bytes() == saved.read_bytes()


def test_settings_of_every_kind_come_back(assistant, session, tmp_path):
    settings = AnswerSettings(
        num_frames=8,
        fps=1.0,
        token_ratio=(8, 4, 1),
        options=("A. one", "B. two"),
        prompt_style="vica_readme",
        temperature=0.5,
        repetition_penalty=1.2,
    )
    model = assistant.model(settings)
    assert model != session.model
    replace(session, settings=settings, model=model).save(tmp_path / "session")
    loaded = assistant.load_session(tmp_path / "session")
    assert (loaded.settings, loaded.model) == (settings, model)


def test_images_come_back(assistant, session, tmp_path):
    """Without running a model: the media differ in what was seen alone."""
    seen = replace(session.seen, sample=None, reader=None, count=2, notes=("a", "b"))
    images = replace(session, seen=seen, chunks=((1, 2), (3,)))
    images.save(tmp_path / "images")
    loaded = assistant.load_session(tmp_path / "images")
    assert loaded.seen == seen and loaded.chunks == ((1, 2), (3,))


def with_random_prefix(session, assistant, dtype):
    keys = jax.random.split(jax.random.key(0), 8)
    shape = session.prefix.layers[0][0].shape
    layers = [
        tuple(jax.random.normal(key, shape, dtype) for key in pair)
        for pair in keys[:4].reshape(2, 2)
    ]
    prefix = session.prefix.replace(layers=layers)
    return replace(session, assistant=assistant, prefix=prefix)


def test_bfloat16_keeps_every_bit(assistant, session, tmp_path):
    half = copy_of(assistant, dtype="bfloat16")
    random = with_random_prefix(session, half, jnp.bfloat16)
    random.save(tmp_path / "half")
    loaded = half.load_session(tmp_path / "half")
    length = session.length
    for old, new in zip(random.prefix.layers, loaded.prefix.layers, strict=True):
        for x, y in zip(old, new, strict=True):
            assert y.dtype == jnp.bfloat16 and y.shape == x.shape
            assert np.array_equal(x[:, :length], y[:, :length])
            assert not y[:, length:].any()
    with safe_open(tmp_path / "half", framework="numpy") as file:
        assert file.get_slice("layers.0.k").get_shape() == [2, length, 16]


@pytest.mark.slow
def test_bfloat16_answers_the_same(tmp_path):
    assistant = make_assistant("bfloat16")
    session = assistant.open(pixels(), **SHORT)
    session.save(tmp_path / "half")
    loaded = assistant.load_session(tmp_path / "half")
    assert_same(loaded.ask(ASKED), session.ask(ASKED))


# ------------------------------------------------------------------- what is refused
def other_weights(assistant):
    scale = assistant.params["llm"]["final_norm"]["scale"]
    scale = scale.at[5].set(jnp.nextafter(scale[5], jnp.inf))
    llm = {**assistant.params["llm"], "final_norm": {"scale": scale}}
    return copy_of(assistant, params={**assistant.params, "llm": llm})


def other_ratio(assistant):
    layout = assistant.cfg.layout.with_token_ratio(8, 4, 1, num_frames=8)
    return copy_of(assistant, cfg=assistant.cfg.with_layout(layout))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (other_weights, "weights"),
        (lambda assistant: copy_of(assistant, dtype="bfloat16"), "dtype"),
        (other_ratio, "config"),
    ],
)
def test_another_model(assistant, saved, change, name):
    with pytest.raises(SessionFileError, match=f"^{saved}: made with {name} "):
        change(assistant).load_session(saved)


def rewrite(saved, path, change):
    """The saved file with another header or other tensors."""
    with safe_open(saved, framework="numpy") as file:
        header = json.loads(file.metadata()["session"])
    tensors = load_file(saved)
    change(header, tensors)
    save_file(tensors, path, metadata={"session": json.dumps(header)})


def flip_a_bit(_, tensors):
    tensors["layers.0.k"].view(np.uint8).reshape(-1)[5] ^= 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda header, _: header.update(format="another 2"),
            "^[^:]*: not a session of this",
        ),
        (lambda header, _: header["settings"].update(new_key=1), "new_key"),
        (lambda header, _: header.pop("seen"), "seen"),
        (lambda _, tensors: tensors.pop("layers.1.v"), r"layers\.1\.v"),
        (flip_a_bit, r"layers\.0\.k is not what was written"),
    ],
    ids=["version", "setting", "key", "tensor", "bit"],
)
def test_a_file_with_other_contents(assistant, saved, tmp_path, change, match):
    rewrite(saved, tmp_path / "other", change)
    with pytest.raises(SessionFileError, match=match):
        assistant.load_session(tmp_path / "other")


@pytest.mark.parametrize(
    ("cut", "match"),
    [
        (lambda data: data[:-1], "cannot be read"),
        (lambda data: data[: len(data) // 2], "cannot be read"),
        (lambda data: data[:4], "cannot be read"),
        (lambda data: b"", "cannot be read"),
        (lambda data: b"not a session at all", "cannot be read"),
    ],
    ids=["last byte", "half", "head", "empty", "text"],
)
def test_a_damaged_file(assistant, saved, tmp_path, cut, match):
    damaged = tmp_path / "damaged"
    damaged.write_bytes(cut(saved.read_bytes()))
    with pytest.raises(SessionFileError, match=match):
        assistant.load_session(damaged)


def test_no_session_file(assistant, tmp_path):
    with pytest.raises(SessionFileError, match=r": no such session file$"):
        assistant.load_session(tmp_path / "missing")
    save_file({"x": np.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(SessionFileError, match=r"^[^:]*: not a session"):
        assistant.load_session(tmp_path / "weights.safetensors")
    with pytest.raises(SessionFileError, match=f"{tmp_path}: .*cannot be read"):
        assistant.load_session(tmp_path)  # a folder


# ------------------------------------------------------------------- failing writes
def test_nothing_is_left_behind(session, tmp_path, monkeypatch):
    path = tmp_path / "room.safetensors"
    path.write_bytes(b"before")

    def full(*_, **__):
        next(tmp_path.glob(".room*")).write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr("vica_jax.decode.session_file.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        session.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["room.safetensors"]
    assert path.read_bytes() == b"before"


def test_a_folder_in_its_place(session, tmp_path):
    (tmp_path / "room" / "photos").mkdir(parents=True)
    with pytest.raises(OSError):
        session.save(tmp_path / "room")
    assert [file.name for file in tmp_path.iterdir()] == ["room"]
