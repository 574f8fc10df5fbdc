"""Attention: blockwise equals direct, causal skips are exact, decode equals prefill."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vica_jax.models import attention
from vica_jax.models.attention import AttentionError, attend
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
    monkeypatch.setattr("vica_jax.models.blockwise.on_one_cpu", lambda: False)
    batched = blockwise(q, k, v, causal=True, query_rows=16, key_block=16)
    np.testing.assert_allclose(batched, mapped, atol=1e-6)


# What the towers run, at lengths that divide nothing: Hiera's windows and global blocks
# (56, pooled queries), SigLIP (72), Qwen2-0.5B (64) and 7B (128), each with its groups.
SHAPES = {
    "window": (49, 49, 4, 4, 56, False),
    "pooled": (49, 197, 8, 8, 56, False),
    "global": (301, 1207, 2, 2, 56, False),
    "siglip": (729, 729, 2, 2, 72, False),
    "0.5B": (515, 515, 14, 2, 64, True),
    "7B": (389, 389, 7, 1, 128, True),
    "short text": (77, 77, 7, 1, 128, True),
}


def with_gradients(implementation, q, k, v, g, causal):
    def run(q, k, v):
        return attend(q, k, v, causal=causal, implementation=implementation)

    out, pull = jax.vjp(run, q, k, v)
    return [out, *pull(g)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("implementation", ["auto", "short", "blockwise"])
def test_every_implementation_equals_the_reference(implementation, shape):
    """Within 2e-6 of the largest element, gradients too."""
    *sizes, causal = SHAPES[shape]
    q, k, v = qkv(*sizes, B=1)
    g = jnp.asarray(np.random.default_rng(1).standard_normal(q.shape), jnp.float32)
    run = jax.jit(with_gradients, static_argnums=(0, 5))
    expected = run("reference", q, k, v, g, causal)
    for x, y in zip(run(implementation, q, k, v, g, causal), expected, strict=True):
        assert np.abs(x - y).max() < 2e-6 * np.abs(y).max()


@settings(max_examples=15)
@given(
    T=st.integers(1, 40),
    extra=st.integers(0, 20),
    heads=st.sampled_from([(1, 1), (4, 2), (7, 1)]),
    causal=st.booleans(),
    implementation=st.sampled_from(["reference", "short", "blockwise"]),
)
def test_explicit_implementations_equal_softmax(
    T, extra, heads, causal, implementation
):
    q, k, v = qkv(T, T if causal else T + extra, *heads, H=8)
    out = attend(q, k, v, causal=causal, implementation=implementation)
    np.testing.assert_allclose(out, oracle(q, k, v, causal), atol=2e-6)


@pytest.fixture
def taken(monkeypatch):
    """The implementations that were run, in order."""
    names = []

    def noting(name, function):
        return lambda *x: (names.append(name), function(*x))[1]

    for name, function in list(attention._PLAIN.items()):
        monkeypatch.setitem(attention._PLAIN, name, noting(name, function))
        monkeypatch.setattr(attention, f"_{name}", noting(name, function))
    return names


def test_auto_chooses_by_length(taken):
    attend(*qkv(256, 256, 1, 1, 8))
    attend(*qkv(256, 257, 1, 1, 8))
    assert taken == ["short", "blockwise"]


def test_an_explicit_choice_wins(taken, monkeypatch):
    short, long = qkv(5, 5, 1, 1, 8), qkv(300, 300, 1, 1, 8)
    run = jax.jit(lambda q, k, v: attend(q, k, v))  # retraced where the choice changes
    run(*short)
    with attention.using("blockwise"):
        run(*short)
        with attention.using("reference"):
            run(*long)
        attend(*long, implementation="short")
    run(*short)  # compiled already
    monkeypatch.setenv(attention.VARIABLE, "reference")
    attend(*short)
    with attention.using("auto"):
        attend(*short)
    assert taken == ["short", "blockwise", "reference", "short", "reference", "short"]


def test_unknown_choices_are_refused(monkeypatch):
    x = qkv(3, 3, 1, 1, 8)
    names = "take one of auto, reference, short, blockwise, cudnn"
    monkeypatch.setenv(attention.VARIABLE, "flash")
    with pytest.raises(AttentionError, match=f"VICA_JAX_ATTENTION=flash: {names}"):
        attend(*x)


def test_cudnn_by_name_says_why_it_cannot_run(monkeypatch):
    x = qkv(3, 3, 1, 1, 8)
    with pytest.raises(AttentionError, match="needs an NVIDIA GPU, this is cpu"):
        attend(*x, implementation="cudnn")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(AttentionError, match="bfloat16 or float16, not float32"):
        attend(*x, implementation="cudnn")
    half = [a.astype(jnp.bfloat16) for a in qkv(3, 3, 1, 1, 9)]
    with pytest.raises(AttentionError, match="multiples of 8, not 9"):
        attend(*half, implementation="cudnn")


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
    # The keys of a head, and tiles: less than q (4.2 MB) where scores are 268 MB.
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * T * 4 * 64 * 2
