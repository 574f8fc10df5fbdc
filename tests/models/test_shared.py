"""Attention over a shared prefix: exactly softmax over all keys, nothing copied."""

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
    prefill_after,
    start,
)
from vica_jax.models import layers, shared
from vica_jax.models import rows as rows_module
from vica_jax.models.cache import Prefix
from vica_jax.models.shared import attend_shared
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import Vica, abstract_vica

# ------------------------------------------------------------------- the numbers
# Padding of a prefix is finite in practice: it is computed from padding tokens. Its
# keys may be anything, their scores are replaced; its values have weight 0 and so may
# be large, but not NaN (0 * NaN): where key blocks are visited, they are multiplied.
NOTHING_TO_SEE = {"k": np.nan, "v": 1e30}


def random_inputs(seed, B, T, S, heads, H, P, prefix_length, lengths=None):
    """q, own keys, prefix; what may not be seen is filled with poison."""
    rng = np.random.default_rng(seed)
    K, G = heads
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    q = normal(B, T, K * G, H) * 2  # some scores stand out
    own = normal(B, S, K, H), normal(B, S, K, H)
    prefix = normal(K, P, H), normal(K, P, H)
    for name, mine, theirs in zip("kv", own, prefix, strict=True):
        theirs[:, prefix_length:] = NOTHING_TO_SEE[name]
        for b, length in enumerate(lengths if lengths is not None else ()):
            mine[b, length:] = NOTHING_TO_SEE[name]
    return q, own, prefix


def oracle(q, own, prefix, prefix_length, lengths=None):
    """Concatenate, mask, softmax: numpy float64, row by row."""
    q, *keys = (np.asarray(x, np.float64) for x in (q, *own, *prefix))
    B, T, N, H = q.shape
    out = np.zeros(q.shape)
    for b in range(B):
        for t in range(T):
            seen = t + 1 if lengths is None else lengths[b]
            k, v = (
                np.concatenate(
                    [shared[:, :prefix_length], mine[b, :seen].swapaxes(0, 1)], 1
                )
                for mine, shared in zip(keys[:2], keys[2:], strict=True)
            )
            for n in range(N):
                head = n // (N // k.shape[0])
                scores = k[head] @ q[b, t, n] / np.sqrt(H)
                weights = np.exp(scores - scores.max())
                out[b, t, n] = weights @ v[head] / weights.sum()
    return out


def run(q, own, prefix, prefix_length, lengths=None):
    """``attend_shared`` in one program, traced anew: the block sizes are constants."""
    attend = jax.jit(lambda *inputs: attend_shared(*inputs))
    lengths = None if lengths is None else jnp.asarray(lengths, jnp.int32)
    return np.asarray(
        attend(q, own, prefix, jnp.int32(prefix_length), lengths), np.float32
    )


@st.composite
def sizes(draw):
    P = draw(st.integers(1, 45))
    return {
        "seed": draw(st.integers(0, 99)),
        "B": draw(st.integers(1, 3)),
        "heads": draw(st.sampled_from([(1, 1), (2, 2), (1, 7), (3, 1)])),
        "H": draw(st.sampled_from([4, 9])),
        "P": P,
        "prefix_length": draw(st.integers(1, P)),
    }


@settings(max_examples=8)
@given(
    sizes=sizes(),
    T=st.integers(1, 19),
    rows=st.sampled_from([3, 16, 1024]),
    keys=st.sampled_from([4, 11, 1024]),
    limit=st.sampled_from([0, 256 * 256]),
    short=st.sampled_from([0, shared.SHORT]),
)
def test_a_prompt_equals_softmax_over_all_keys(sizes, T, rows, keys, limit, short):
    """Whatever the block sizes, and prefix and own keys at once or in blocks."""
    q, own, prefix = random_inputs(T=T, S=T, **sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "QUERY_ROWS", rows)
        patch.setattr(rows_module, "KEY_BLOCK", keys)
        patch.setattr(shared, "SHORT_LIMIT", limit)
        patch.setattr(shared, "SHORT", short)
        out = run(q, own, prefix, sizes["prefix_length"])
    expected = oracle(q, own, prefix, sizes["prefix_length"])
    np.testing.assert_allclose(out, expected, atol=1e-5)


@settings(max_examples=6)
@given(sizes=sizes(), S=st.integers(1, 20), data=st.data())
def test_a_decode_step_equals_softmax_over_all_keys(sizes, S, data):
    lengths = [data.draw(st.integers(1, S)) for _ in range(sizes["B"])]
    q, own, prefix = random_inputs(T=1, S=S, lengths=lengths, **sizes)
    out = run(q, own, prefix, sizes["prefix_length"], lengths)
    expected = oracle(q, own, prefix, sizes["prefix_length"], lengths)
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("short", [0, shared.SHORT])
def test_blocks_past_the_prefix_are_not_visited(monkeypatch, short):
    """There even NaN values do no harm."""
    monkeypatch.setattr(rows_module, "KEY_BLOCK", 8)
    monkeypatch.setattr(shared, "SHORT", short)
    q, own, prefix = random_inputs(0, 2, 5, 5, (2, 2), 4, P=40, prefix_length=16)
    prefix[1][:, 16:] = np.nan
    expected = oracle(q, own, prefix, 16)
    np.testing.assert_allclose(run(q, own, prefix, 16), expected, atol=1e-5)


def test_batched_heads_equal_mapped_heads(monkeypatch):
    """On several devices and on accelerators heads are a batch axis."""
    monkeypatch.setattr(rows_module, "KEY_BLOCK", 16)
    monkeypatch.setattr(shared, "SHORT", 0)
    inputs = random_inputs(0, 2, 9, 9, (3, 2), 8, P=40, prefix_length=33)
    mapped = run(*inputs, 33)
    monkeypatch.setattr(layers, "on_many_devices", lambda: True)
    np.testing.assert_allclose(run(*inputs, 33), mapped, atol=1e-6)


@pytest.mark.parametrize("lengths", [None, [3, 12]])
def test_bfloat16_within_its_rounding(lengths):
    """Weights, one partial result and the result are rounded, to 2^-9 of a value."""
    T, S = (12, 12) if lengths is None else (1, 12)
    q, own, prefix = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.bfloat16),
        random_inputs(0, 2, T, S, (2, 3), 16, 64, 50, lengths),
    )
    exact = oracle(q, own, prefix, 50, lengths)
    largest = float(jnp.abs(prefix[1][:, :50]).max())
    out = run(q, own, prefix, 50, lengths)
    np.testing.assert_allclose(out, exact, atol=3 * 2**-9 * largest)


# -------------------------------------------------------------------- the memory
LLM = replace(VARIANTS["tiny"].llm, depth=2, head_dim=64)
CFG = replace(VARIANTS["tiny"], llm=LLM)
WEIGHTS, _ = abstract_vica(CFG)
K, H = LLM.num_kv_heads, LLM.head_dim
T, NEW = 64, 64
LONG = 65_536  # slots: the prefix is far larger than anything of the questions'
SAMPLING = Sampling(eos_ids=(1,), pad_id=0, vocab_limit=LLM.vocab_size)


def prompt(weights, tokens, lengths, layers, length):
    prefix = Prefix(layers, length)
    return prefill_after(Vica(CFG), T + NEW, weights, tokens, lengths, prefix)


def steps(weights, logits, lengths, cache, layers, length):
    rows = Rows(first=0, real=logits.shape[0], after=length)
    choice, key = SAMPLING.choice(), jax.random.key(0)
    state = start(choice, logits, lengths, key, cache, rows)
    return decode(Vica(CFG), NEW, weights, choice, state, NEW, Prefix(layers, length))


def ints(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def abstract_prefix(slots):
    return [(floats(K, slots, H), floats(K, slots, H))] * LLM.depth, ints()


def temporaries(lowered) -> int:
    return lowered.compile().memory_analysis().temp_size_in_bytes


def prompt_temporaries(rows, slots):
    asked = ints(rows, T), ints(rows), *abstract_prefix(slots)
    return temporaries(jax.jit(prompt).lower(WEIGHTS, *asked))


def steps_temporaries(rows, slots):
    cache = [(floats(rows, T + NEW, K, H), floats(rows, T + NEW, K, H))] * LLM.depth
    after = floats(rows, LLM.vocab_size), ints(rows), cache, *abstract_prefix(slots)
    return temporaries(jax.jit(steps, donate_argnames="cache").lower(WEIGHTS, *after))


def test_a_prompt_needs_the_same_memory_behind_any_prefix():
    """Nothing of the prefix is copied, whether it fills whole key blocks or not."""
    used = prompt_temporaries(8, LONG)
    assert used == prompt_temporaries(8, LONG + 512)
    assert used < 4 * K * LONG * H / 2  # the keys of one layer


def test_a_step_adds_the_scores_of_a_row():
    """Float32 ``[K,R,P]``, before and after the softmax: here a thirtieth of what a
    copy of one layer's prefix for each row would be."""
    one, eight = steps_temporaries(1, LONG), steps_temporaries(8, LONG)
    assert eight < 4 * K * LONG * H  # the keys of one layer
    scores = 2 * 4 * LLM.num_heads * LONG
    own = 2 * 4 * LLM.depth * K * (T + NEW) * H
    assert eight - one < 7 * (scores + own)
