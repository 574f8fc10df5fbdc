"""On a mesh too a question compiles nothing after ``Assistant.warm_up``."""

import jax
import pytest
from two_layers import CHECKPOINT, pixels

from convert.load import load_assistant
from vica_jax.sharding import make_mesh

pytestmark = pytest.mark.usefixtures("abstract_arrays")


def test_a_session_on_four_devices():
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    assistant = load_assistant(CHECKPOINT, mesh=mesh)
    assistant.generation_config["eos_token_id"] = assistant.cfg.llm.vocab_size - 1
    # Two chunks of decoding: the second's state has come out of the first.
    settings = {"max_new_tokens": 30, "num_frames": 2, "source_fps": 2.0}
    seconds = assistant.warm_up(questions=2, frame_hw=(40, 60), **settings)
    assert list(seconds)[-2:] == ["decode", "decode again"]
    compiled = []

    def listen(name, _, **more):
        compiled.extend([name] if name.endswith("backend_compile_duration") else [])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        session = assistant.open(pixels(2), **settings)
        first, _ = session.ask(["How many chairs are there?", "Why?"])
        assert compiled == [] and len(first.token_ids) == 30
        assistant.open(pixels(2, hw=(80, 60)), **settings)
        assert compiled  # it counts
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
