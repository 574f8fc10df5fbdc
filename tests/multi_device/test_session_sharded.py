"""A session on a mesh: its prefix is split over kv heads, its answers are the same."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import micro
import numpy as np
import pytest
from two_layers import CHECKPOINT, assert_same, pixels

from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.decode.assistant import Assistant, shardings_for
from vica_jax.models.config import VicaConfig, make_layout
from vica_jax.models.vica import abstract_vica
from vica_jax.sharding import make_mesh

LLM = replace(micro.LLM, depth=1, vocab_size=600)  # the tokenizer's
CFG = VicaConfig(
    siglip=replace(micro.SIGLIP, depth=1),
    llm=LLM,
    layout=make_layout(micro.SIGLIP, context_length=128),
)
SETTINGS = {"num_frames": 2, "source_fps": 1.0, "max_new_tokens": 6}
ASKED = ["How many chairs are there?", "Why?", ["Why?", "So.", "And?"], "How large?"]
WANTED = [None, ("A", "B"), None, "number"]
MESH = {"fsdp": 2, "tensor": 2}


@pytest.fixture(scope="module")
def alone():
    shapes, _ = abstract_vica(CFG)
    rng = np.random.default_rng(0)

    def draw(x):
        if x.ndim == 1:  # norms and biases
            return jnp.ones(x.shape)
        return jnp.asarray(rng.normal(0, x.shape[0] ** -0.5, x.shape), jnp.float32)

    params = jax.tree.map(draw, shapes)
    tokenizer = load_tokenizer(CHECKPOINT)
    return Assistant(CFG, params, tokenizer, generation_config={"eos_token_id": 502})


@pytest.fixture(scope="module")
def sharded(alone):
    mesh = make_mesh(MESH)
    params = jax.device_put(alone.params, shardings_for(CFG, mesh))
    given = alone.generation_config
    return Assistant(CFG, params, alone.tokenizer, generation_config=given, mesh=mesh)


def test_a_session_answers_as_on_one_device(alone, sharded, tmp_path):
    one, four = (x.open(pixels(2), **SETTINGS) for x in (alone, sharded))
    expected = one.ask(ASKED, exact=WANTED)
    found = four.ask(ASKED, exact=WANTED)
    assert len({tuple(row.token_ids) for row in expected}) >= 3
    assert_same([plain(row) for row in found], [plain(row) for row in expected])
    for row, other in zip(found, expected, strict=True):
        if other.exact is not None:
            assert row.exact.answer == other.exact.answer
            assert row.exact.confidence == pytest.approx(other.exact.confidence, 1e-4)
    # One of two kv heads on each half of the devices, for all rows alike.
    keys, _ = four.prefix.layers[0]
    heads, slots, width = one.prefix.layers[0][0].shape
    assert {s.data.shape for s in keys.addressable_shards} == {
        (heads // 2, slots, width)
    }
    # What one device saved the others take up, where it belongs.
    one.save(tmp_path / "session")
    loaded = sharded.load_session(tmp_path / "session")
    for x, y in zip(*map(jax.tree.leaves, (loaded.prefix, four.prefix)), strict=True):
        assert x.ndim == 0 or x.sharding.is_equivalent_to(y.sharding, x.ndim)
    assert np.array_equal(loaded.prefix.layers[0][0][:, : one.length], saved_keys(one))


def saved_keys(session):
    return session.prefix.layers[0][0][:, : session.length]


def plain(answer):
    """Without what a mesh says of itself, and what is a number of float32."""
    return replace(answer, exact=None, settings={**answer.settings, "mesh": None})
