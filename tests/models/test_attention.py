"""Attention: blockwise equals direct, causal skips are exact, decode equals prefill."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vica_jax.models import attention
from vica_jax.models.attention import attend
from vica_jax.models.blockwise import blockwise
from vica_jax.models.cached import attend_cache


def qkv(T, S, N, K, H, B=2, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(B, T, N, H), (B, S, K, H), (B, S, K, H)]
    return [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes]


def oracle(q, k, v, causal):
    """Softmax attention in numpy float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    groups = q.shape[2] // k.shape[2]
    k, v = (np.repeat(x, groups, axis=2) for x in (k, v))
    scores = np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(q.shape[-1])
    if causal:
        seen = np.tril(np.ones(scores.shape[-2:], bool))
        scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bnts,bsnh->btnh", weights, v)


@settings(max_examples=15)
@given(
    T=st.integers(1, 70),
    heads=st.sampled_from([(1, 1), (4, 2), (7, 1)]),
    rows=st.sampled_from([1, 8, 21, 64]),
    keys=st.sampled_from([4, 16, 33, 128]),
    causal=st.booleans(),
)
def test_blockwise_equals_softmax(T, heads, rows, keys, causal):
    q, k, v = qkv(T, T, *heads, H=8)
    out = blockwise(q, k, v, causal=causal, query_rows=rows, key_block=keys)
    np.testing.assert_allclose(out, oracle(q, k, v, causal), atol=2e-6)


def test_batched_heads_equal_mapped_heads(monkeypatch):
    q, k, v = qkv(50, 50, 4, 2, 8)
    mapped = blockwise(q, k, v, causal=True, query_rows=16, key_block=16)
    monkeypatch.setattr("vica_jax.models.blockwise.on_many_devices", lambda: True)
    batched = blockwise(q, k, v, causal=True, query_rows=16, key_block=16)
    np.testing.assert_allclose(batched, mapped, atol=1e-6)


def test_direct_and_blockwise_meet_at_the_limit(monkeypatch):
    q, k, v = qkv(40, 60, 4, 2, 8)
    direct = attend(q, k, v)
    monkeypatch.setattr(attention, "DIRECT_LIMIT", 0)
    np.testing.assert_allclose(attend(q, k, v), direct, atol=1e-6)


def test_causal_needs_square_inputs():
    q, k, v = qkv(3, 5, 2, 2, 4)
    with pytest.raises(ValueError, match="T == S, got 3 and 5"):
        attend(q, k, v, causal=True)


def test_a_decode_step_is_the_last_row_of_causal_attention():
    q, k, v = qkv(9, 9, 4, 2, 8)
    whole = attend(q, k, v, causal=True)
    lengths = jnp.array([9, 5])
    step = attend_cache(q[jnp.arange(2), lengths - 1][:, None], k, v, lengths)
    expected = whole[jnp.arange(2), lengths - 1][:, None]
    np.testing.assert_allclose(step, expected, atol=1e-6)


def test_no_square_array_in_the_blockwise_program():
    T = 4096
    shape = jax.ShapeDtypeStruct((1, T, 4, 64), jnp.float32)
    kv = jax.ShapeDtypeStruct((1, T, 2, 64), jnp.float32)
    compiled = (
        jax.jit(lambda q, k, v: attend(q, k, v, causal=True))
        .lower(shape, kv, kv)
        .compile()
    )
    # q, its transposed copy and the result, and tiles: far from 4 x T x T floats.
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * T * T
