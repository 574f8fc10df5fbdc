"""Assistants of int8: from a checkpoint, with an int8 cache, and sessions on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from two_layers import CHECKPOINT, SHORT, assert_same, pixels

from convert.load import load_assistant, to_native
from vica_jax.decode.assistant import Assistant
from vica_jax.decode.session_file import SessionFileError
from vica_jax.errors import InputError
from vica_jax.models.quantize import dequantize, is_quantized, quantize
from vica_jax.train.partition import leaves

ASKED = ["How many chairs are there?", "Why?"]


def with_kv(assistant: Assistant, kv_dtype="int8", **changes) -> Assistant:
    return Assistant(
        assistant.cfg,
        changes.get("params", assistant.params),
        assistant.tokenizer,
        generation_config=assistant.generation_config,
        dtype=assistant.dtype,
        kv_dtype=kv_dtype,
    )


@pytest.fixture(scope="module")
def int8(assistant):
    return with_kv(assistant)


@pytest.fixture(scope="module")
def opened(int8):
    return int8.open(pixels(), **SHORT)


def test_a_session_of_an_int8_cache_scores_almost_the_same(session, opened):
    """Log-probabilities of options through an int8 prefix (0.02 was seen)."""
    letters = ("A", "B", "C")
    exact, rounded = (s.ask(ASKED, exact=[letters] * 2) for s in (session, opened))
    gaps = [
        abs(x.exact.log_probs[a] - y.exact.log_probs[a])
        for x, y in zip(exact, rounded, strict=True)
        for a in letters
    ]
    assert 0 < max(gaps) < 0.1
    assert rounded[0].settings["kv_dtype"] == "int8"
    assert exact[0].settings["kv_dtype"] == "float32"
    kept = opened.prefix.layers[0][0]
    assert kept.values.dtype == jnp.int8 and kept.scale.dtype == jnp.float32


def test_an_int8_session_comes_back_from_disk(int8, opened, tmp_path):
    opened.save(tmp_path / "room")
    again = with_kv(int8).load_session(tmp_path / "room")
    assert_same(again.ask(ASKED), opened.ask(ASKED))
    for old, new in zip(
        *map(jax.tree.leaves, (opened.prefix, again.prefix)), strict=True
    ):
        cut = (slice(None), slice(opened.length)) if old.ndim else ()
        assert old.dtype == new.dtype and np.array_equal(old[cut], new[cut])
    stored = load_file(tmp_path / "room")
    assert stored["layers.0.k"].dtype == np.int8
    assert stored["layers.0.k_scale"].shape == stored["layers.0.k"].shape[:2]


def test_a_session_of_another_cache_is_refused(assistant, session, opened, tmp_path):
    opened.save(tmp_path / "int8")
    session.save(tmp_path / "exact")
    with pytest.raises(SessionFileError, match="with kv_dtype int8, here it is No"):
        assistant.load_session(tmp_path / "int8")
    with pytest.raises(SessionFileError, match="with kv_dtype None, here it is int"):
        with_kv(assistant).load_session(tmp_path / "exact")


def test_another_cache_dtype(assistant):
    with pytest.raises(InputError, match="kv_dtype='int4': keys and values"):
        with_kv(assistant, "int4")


# ------------------------------------------------------------------- int8 weights
@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("int8") / "native"
    to_native(CHECKPOINT, target, quantize="int8")
    return target


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_of_int8_is_loaded_as_it_is(folder, dtype):
    loaded = Assistant.load(folder, dtype=dtype, kv_dtype="int8")
    assert loaded.kv_dtype == "int8"
    whole = load_assistant(CHECKPOINT, dtype="float32")
    wanted = dict(leaves(quantize(whole.params)))
    for path, leaf in leaves(loaded.params):
        kind = wanted[path].dtype
        scale = path.endswith("kernel_scale")
        assert leaf.dtype == (kind if is_quantized(path) or scale else dtype)
        if leaf.dtype == kind:
            np.testing.assert_array_equal(leaf, wanted[path])


def test_logits_are_those_of_the_dequantised_weights(folder):
    loaded = Assistant.load(folder, dtype="float32")
    wide = with_kv(loaded, None, params=dequantize(loaded.params))
    settings = {"num_frames": SHORT["num_frames"], "source_fps": 2.0}
    ours, theirs = (x.logits(pixels(), ASKED[0], **settings) for x in (loaded, wide))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert loaded.fingerprint != replace_one(loaded).fingerprint


def replace_one(assistant: Assistant) -> Assistant:
    """The same with one weight another integer."""
    params = jax.tree.map(lambda x: x, assistant.params)
    head = params["llm"]["lm_head"]
    head["kernel"] = head["kernel"].at[0, 0].add(1)
    return with_kv(assistant, None, params=params)
