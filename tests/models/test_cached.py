"""Caches, exact and of int8: the attention of what they stand for, and no copies."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vica_jax.decode.generate import (
    Rows,
    Sampling,
    decode,
    prefill,
    prefill_prefix,
    start,
)
from vica_jax.models import cached, layers, shared
from vica_jax.models import rows as rows_module
from vica_jax.models.cache import Prefix
from vica_jax.models.cached import attend_cache, write_cache
from vica_jax.models.quantize import Int8, to_int8
from vica_jax.models.shared import attend_shared
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import Vica, abstract_vica


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def widened(x: Int8) -> np.ndarray:
    return np.asarray(x.values) * np.asarray(x.scale)[..., None]


def oracle(q, k, v):
    """One query ``[N,H]`` over keys ``[S,K,H]`` in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, len(q) // x.shape[1], axis=1) for x in (k, v))
    scores = np.einsum("nh,snh->ns", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("ns,snh->nh", weights / weights.sum(-1, keepdims=True), v)


@given(st.integers(0, 99), st.sampled_from([1e-30, 1.0, 1e30]))
def test_a_token_is_within_half_a_scale(seed, size):
    x = normal(seed, 3, 4, 2, 8) * np.float32(size)
    x[1, 2] = 0
    kept = to_int8(jnp.asarray(x))
    assert kept.values.dtype == jnp.int8 and kept.scale.shape == (3, 4, 2)
    assert not np.asarray(kept.values)[1, 2].any()
    gap = np.abs(widened(kept) - x)
    assert (gap <= 0.5001 * np.asarray(kept.scale)[..., None]).all()


@settings(max_examples=10)
@given(
    seed=st.integers(0, 99),
    S=st.integers(1, 21),
    heads=st.sampled_from([(1, 1), (4, 2), (7, 1)]),
    block=st.sampled_from([1, 4, 1024]),
    one_cpu=st.booleans(),
    exact=st.booleans(),
    data=st.data(),
)
def test_a_step_over_a_cache(seed, S, heads, block, one_cpu, exact, data):
    """By blocks or at once; what is past a row's length is never seen."""
    (N, K), H = heads, 8
    lengths = [data.draw(st.integers(1, S)) for _ in range(2)]
    q = normal(seed, 2, 1, N, H) * 2
    k, v = (normal(seed + i, 2, S, K, H) for i in (1, 2))
    if not exact:
        k, v = (to_int8(jnp.asarray(x)) for x in (k, v))
    hidden = np.array(k if exact else k.scale)
    for b, length in enumerate(lengths):
        hidden[b, length:] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached, "SLOT_BLOCK", block)
        patch.setattr(cached, "on_one_cpu", lambda: one_cpu)
        step = jax.jit(lambda *inputs: attend_cache(*inputs))
        keys = hidden if exact else k._replace(scale=hidden)
        out = step(q, keys, v, jnp.asarray(lengths))
    for b, length in enumerate(lengths):
        seen = [(x if exact else widened(x))[b, :length] for x in (k, v)]
        np.testing.assert_allclose(out[b, 0], oracle(q[b, 0], *seen), atol=1e-5)


@settings(max_examples=6)
@given(
    seed=st.integers(0, 99),
    P=st.integers(1, 40),
    decoding=st.booleans(),
    one_cpu=st.booleans(),
    short=st.sampled_from([0, shared.SHORT]),
    keys=st.sampled_from([4, 1024]),
    data=st.data(),
)
def test_an_int8_prefix(seed, P, decoding, one_cpu, short, keys, data):
    """A prompt behind it, whose own keys are exact, and a step, whose are int8."""
    B, T, N, K, H = 2, 1 if decoding else 5, 4, 2, 8
    length = data.draw(st.integers(1, P))
    q = normal(seed, B, T, N, H) * 2
    prefix = [to_int8(jnp.asarray(normal(seed + i, K, P, H))) for i in (1, 2)]
    own = [jnp.asarray(normal(seed + i, B, 5, K, H)) for i in (3, 4)]
    lengths = jnp.array([2, 5]) if decoding else None
    if decoding:
        own = [to_int8(x) for x in own]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "SHORT", short)
        patch.setattr(rows_module, "KEY_BLOCK", keys)
        for module in (layers, shared, cached, rows_module):
            patch.setattr(module, "on_one_cpu", lambda: one_cpu)
        attend = jax.jit(lambda *inputs: attend_shared(*inputs))
        out = attend(q, tuple(own), tuple(prefix), jnp.int32(length), lengths)
    first = [widened(x).swapaxes(0, 1)[:length] for x in prefix]
    rest = [widened(x) if isinstance(x, Int8) else np.asarray(x) for x in own]
    for b in range(B):
        for t in range(T):
            seen = t + 1 if lengths is None else int(lengths[b])
            k, v = (
                np.concatenate([x, y[b, :seen]])
                for x, y in zip(first, rest, strict=True)
            )
            np.testing.assert_allclose(out[b, t], oracle(q[b, t], k, v), atol=1e-5)


def test_a_new_key_goes_to_its_slot():
    cache = tuple(to_int8(jnp.asarray(normal(i, 3, 4, 2, 8))) for i in (0, 1))
    new = tuple(jnp.asarray(normal(i, 3, 1, 2, 8)) for i in (2, 3))
    after = write_cache(cache, new, jnp.array([0, 3, 4]))  # the last is past the end
    for old, x, now in zip(cache, new, after, strict=True):
        added = to_int8(x)
        for leaf, one, whole in zip(old, added, now, strict=True):
            wanted = np.array(leaf)
            wanted[0, 0], wanted[1, 3] = one[0, 0], one[1, 0]
            assert whole.dtype == leaf.dtype
            np.testing.assert_array_equal(whole, wanted)


# ------------------------------------------------------------------- the memory
LLM = replace(VARIANTS["tiny"].llm, depth=4, head_dim=64)
CFG = replace(VARIANTS["tiny"], llm=LLM)
K, H, L = LLM.num_kv_heads, LLM.head_dim, LLM.depth
LONG, OWN, NEW = 65_536, 128, 16
SAMPLING = Sampling(eos_ids=(1,), pad_id=0, vocab_limit=LLM.vocab_size)
form = jax.ShapeDtypeStruct


def int8(*shape):
    return Int8(form(shape, jnp.int8), form(shape[:-1], jnp.float32))


def exact(*shape):
    return form(shape, jnp.float32)


def steps(params, logits, lengths, cache, layers, after):
    rows = Rows(first=0, real=1, after=after)
    choice, key = SAMPLING.choice(), jax.random.key(0)
    state = start(choice, logits, lengths, key, cache, rows)
    prefix = None if layers is None else Prefix(layers, after)
    return decode(Vica(CFG), NEW, params, choice, state, NEW, prefix)


@pytest.mark.parametrize("kept", [exact, int8], ids=lambda kept: kept.__name__)
@pytest.mark.parametrize("where", ["cache", "prefix"])
def test_no_copy_of_a_long_cache(where, kept):
    """The float32 program: a copy of one layer's keys alone would be 34 MB.

    The scores over a prefix are there at once where it is exact: 1 MB.
    """
    params, _ = abstract_vica(CFG)
    slots = LONG if where == "cache" else OWN
    cache = [(kept(1, slots, K, H),) * 2] * L
    prefix = None if where == "cache" else [(kept(K, LONG, H),) * 2] * L
    text = form((1, LLM.vocab_size), jnp.float32), form((1,), jnp.int32)
    asked = params, *text, cache, prefix, form((), jnp.int32)
    compiled = jax.jit(steps, donate_argnums=3).lower(*asked).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * K * LONG * H / 8


def test_what_prefill_leaves_is_a_quarter_of_float32():
    params, _ = abstract_vica(CFG)
    text = {name: form((1, 512), jnp.int32) for name in ("tokens", "visual_index")}
    text["lengths"] = form((1,), jnp.int32)
    model = Vica(CFG, kv_dtype="int8")
    _, cache = jax.eval_shape(
        lambda *inputs: prefill(model, 640, *inputs), params, text, None
    )
    prefix = jax.eval_shape(
        lambda *inputs: prefill_prefix(model, *inputs).layers, params, text, None
    )
    for layers_, slots in ((cache, 640), (prefix, 512)):
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(layers_))
        assert size == 2 * L * K * slots * (H + 4)
