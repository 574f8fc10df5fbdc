"""Eight fake devices: the same tokens, each device holding its share."""

import jax
import numpy as np
import pytest

from convert.load import load_assistant
from vica_jax.decode.generate import prefill, text_of
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import Vica, abstract_vica
from vica_jax.sharding import make_mesh, parse_mesh

MESHES = [
    "fsdp:2,tensor:4",
    pytest.param("data:2,fsdp:2,tensor:2", marks=pytest.mark.slow),
    pytest.param("fsdp:8", marks=pytest.mark.slow),
]
SETTINGS = {"max_new_tokens": 12, "num_frames": 8, "source_fps": 2.0}


@pytest.fixture(scope="module")
def checkpoint(request):
    return request.path.parent.parent / "goldens" / "tiny-vica2" / "checkpoint"


@pytest.fixture(scope="module")
def video():
    return np.random.default_rng(0).integers(0, 256, (8, 40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(checkpoint, video):
    assistant = load_assistant(checkpoint, dtype="float32")
    return assistant.answer(video, "How many?", **SETTINGS).token_ids


@pytest.mark.parametrize("text", MESHES)
def test_tokens_equal_one_device(text, checkpoint, video, expected):
    mesh = make_mesh(parse_mesh(text))
    assistant = load_assistant(checkpoint, mesh=mesh, dtype="float32")
    answer = assistant.answer(video, "How many?", **SETTINGS)
    assert answer.token_ids == expected
    assert answer.settings["mesh"] == parse_mesh(text)


def test_each_device_holds_its_share(checkpoint):
    mesh = make_mesh(parse_mesh("fsdp:2,tensor:4"))
    assistant = load_assistant(checkpoint, mesh=mesh, dtype="float32")
    leaves = jax.tree.leaves(assistant.params)
    total = sum(leaf.nbytes for leaf in leaves)
    for device in mesh.devices.flat:
        held = sum(
            shard.data.nbytes
            for leaf in leaves
            for shard in leaf.addressable_shards
            if shard.device == device
        )
        # Norms, biases and tables that do not divide stay whole; kernels are split.
        assert held < 0.35 * total
    kernel = assistant.params["llm"]["layers"]["0"]["mlp"]["up_proj"]["kernel"]
    assert {s.data.shape for s in kernel.addressable_shards} == {(32, 32)}


def test_constraints_stand_in_the_lowered_program():
    cfg = VARIANTS["tiny"]
    shapes, _ = abstract_vica(cfg)
    batch = {
        "tokens": np.zeros((2, 64), np.int32),
        "visual_index": np.full((2, 64), -1, np.int32),
        "lengths": np.full(2, 64, np.int32),
    }
    with jax.set_mesh(make_mesh({"fsdp": 2, "tensor": 4})):
        lowered = prefill.lower(Vica(cfg), 64, shapes, text_of(batch), None)
    text = lowered.as_text()
    assert text.count("sharding_constraint") >= 3 * cfg.llm.depth
    assert '"fsdp"' in text


@pytest.mark.slow
def test_a_batch_is_split_over_fsdp(checkpoint, video):
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    assistant = load_assistant(checkpoint, mesh=mesh, dtype="float32")
    alone = load_assistant(checkpoint, dtype="float32")
    questions = [(video, "How many?"), (None, "Say something.")]
    rows = assistant.answer_batch(questions, **SETTINGS)
    for row, (media, question) in zip(rows, questions, strict=True):
        assert row.token_ids == alone.answer(media, question, **SETTINGS).token_ids
