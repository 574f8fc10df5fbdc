"""After ``Assistant.warm_up`` the first question compiles nothing."""

import logging
from contextlib import contextmanager

import jax
import pytest
from two_layers import make_assistant, pixels

from vica_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("abstract_arrays")

COMPILED = "/jax/core/compile/backend_compile_duration"
# Long enough for a second chunk of decoding.
SETTINGS = {"max_new_tokens": 30, "num_frames": 6, "source_fps": 2.0}
QUESTION = "How many chairs are there?"


@pytest.fixture
def assistant():
    assistant = make_assistant()
    # No answer ends early, whatever the model says.
    assistant.generation_config["eos_token_id"] = assistant.cfg.llm.vocab_size - 1
    return assistant


@pytest.fixture
def compilations():
    """A context that counts programs compiled or read from the compilation cache."""
    jax.clear_caches()
    events = []

    def listen(name, seconds, **_):
        events.append(name)

    @contextmanager
    def counted():
        events.clear()
        found = []
        yield found
        found += [name for name in events if name == COMPILED]

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield counted
    jax.monitoring.unregister_event_duration_listener(listen)


def test_an_answer(assistant, compilations, caplog):
    caplog.set_level(logging.INFO, "vica_jax")
    with compilations() as found:
        seconds = assistant.warm_up(frame_hw=(40, 60), **SETTINGS)
    assert list(seconds) == ["encode", "prefill", "begin", "decode"]
    assert all(value > 0 for value in seconds.values()) and len(found) >= 4
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "warm-up: 256 positions, a cache of 320"
    assert [line.split()[2] for line in lines[1:]] == list(seconds)
    with compilations() as found:
        answer = assistant.answer(pixels(6), QUESTION, **SETTINGS)
    assert found == [] and len(answer.token_ids) == 30
    # The count sees what was not warmed: another bucket of frames.
    with compilations() as found:
        assistant.answer(pixels(6, hw=(80, 60)), QUESTION, **SETTINGS)
    assert len(found) == 1


def test_a_session(assistant, compilations):
    seconds = assistant.warm_up(questions=3, frame_hw=(40, 60), **SETTINGS)
    assert list(seconds) == ["encode", "prefill", "questions", "begin", "decode"]
    with compilations() as found:
        session = assistant.open(pixels(6), **SETTINGS)
        answers = session.ask([QUESTION, "And tables?", "What is it?", "Where?"])
    assert found == [] and len(answers[3].token_ids) == 30


def test_what_cannot_be_warmed(assistant):
    with pytest.raises(InputError, match="0 questions of 64 tokens"):
        assistant.warm_up(questions=0, **SETTINGS)
    with pytest.raises(InputError, match="past the context length"):
        assistant.warm_up(question_tokens=40_000, **SETTINGS)
