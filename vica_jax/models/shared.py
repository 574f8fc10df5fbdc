"""Attention of many rows over one prefix that all of them see, and over their own keys.

Questions about one video begin with the same tokens, so the prefix has no batch axis:
``k, v [K,P,H]``, filled up to a length that is an argument of the program. All queries
of a batch attend to it together, as one matrix of rows per kv head; each row's own keys
follow it and are attended to apart. Two softmaxes over parts of the keys merge exactly
by their log-sum-exps (the identity behind online softmax, Milakov and Gimelshein 2018;
used so for shared prompts by Juravsky et al. 2024, "Hydragen").

An int8 prefix (``models/quantize``) is never widened whole: its scales are applied to
scores and weights, or blocks are widened one at a time (on the CPU always, where a
product wants float operands, and XLA would make those of all layers before the loop of
decode steps).

Axes: B batch, T queries, S own keys, P prefix slots, N heads, K kv heads, G = N / K,
R = B * T * G rows per kv head, H head dim.
"""

import math

import jax
import jax.numpy as jnp

from vica_jax.models.attention import SHORT_LIMIT
from vica_jax.models.blockwise import blockwise_with_lse
from vica_jax.models.cache import KV
from vica_jax.models.cached import attend_slots
from vica_jax.models.layers import on_one_cpu, precision_of
from vica_jax.models.online_softmax import NEG_INF
from vica_jax.models.quantize import Int8, MaybeInt8
from vica_jax.models.rows import attend_rows

SHORT = 2**21  # scores over the prefix, per kv head, that are held at once


def attend_shared(
    q: jax.Array,
    own: KV,
    prefix: KV,
    prefix_length: jax.Array,
    lengths: jax.Array | None = None,
) -> jax.Array:
    """q ``[B,T,N,H]`` over a prefix ``[K,P,H]`` and own keys ``[B,S,K,H]``.

    Every query sees the first ``prefix_length`` prefix slots. Without ``lengths`` T ==
    S and query t sees own keys 0..t as well (a prompt after the prefix); with them T is
    1 and row b sees its first ``lengths[b]`` own keys (a decode step). Returns
    ``[B,T,N,H]``. Differentiable up to ``SHORT`` scores over the prefix per kv head.
    """
    B, T, N, H = q.shape
    K = prefix[0].shape[0]
    rows = q.reshape(B, T, K, N // K, H).transpose(2, 0, 1, 3, 4).reshape(K, -1, H)
    out, lse = _over_prefix(rows, *prefix, prefix_length, lengths is not None)
    shared = out.reshape(K, B, T, N // K, H).transpose(1, 2, 0, 3, 4)
    shared_lse = lse.reshape(K, B, T, N // K).transpose(1, 2, 0, 3)
    if lengths is None and T * T > SHORT_LIMIT:
        k, v = own
        assert not isinstance(k, Int8) and not isinstance(v, Int8)
        out, lse = blockwise_with_lse(q, k, v, causal=True)
        rest = out.astype(jnp.float32).reshape(shared.shape)
        rest_lse = lse.reshape(shared_lse.shape)
    else:
        rest, rest_lse = _own(q, own, lengths)
    both = jnp.logaddexp(shared_lse, rest_lse)
    merged = (
        shared * jnp.exp(shared_lse - both)[..., None]
        + rest * jnp.exp(rest_lse - both)[..., None]
    )
    return merged.reshape(B, T, N, H).astype(q.dtype)


def _over_prefix(
    rows: jax.Array, k: MaybeInt8, v: MaybeInt8, length: jax.Array, decoding: bool
) -> tuple[jax.Array, jax.Array]:
    """``attend_rows``, or all scores at once: in a decode step, or where few."""
    few = decoding or rows.shape[1] * k.shape[1] <= SHORT
    if isinstance(k, Int8) and isinstance(v, Int8):
        if few and not on_one_cpu():
            return _direct_int8(rows, k, v, length)
        return attend_rows(rows, k, v, length)
    assert not isinstance(k, Int8) and not isinstance(v, Int8)
    if not few:
        return attend_rows(rows, k, v, length)
    if not decoding:
        filled = (jnp.arange(k.shape[1]) < length)[:, None]
        k, v = (jnp.where(filled, x, 0) for x in (k, v))
    return _direct_rows(rows, k, v, length)


def _direct_rows(
    rows: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """``attend_rows`` with all scores ``[K,R,P]`` at once, where they are few."""
    k, v = (x.astype(rows.dtype) for x in (k, v))
    scores = _product("KRH,KPH->KRP", rows, k) / math.sqrt(rows.shape[-1])
    scores = jnp.where(jnp.arange(k.shape[1]) < length, scores, NEG_INF)
    return _softmax("KRP,KPH->KRH", scores, v)


def _direct_int8(
    rows: jax.Array, k: Int8, v: Int8, length: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The same over an int8 prefix, whose scales go to scores and weights."""
    # Tied to the rows, the prefix is not widened before a loop of decode steps.
    rows, k, v = jax.lax.optimization_barrier((rows, k, v))
    keys, values = (x.values.astype(rows.dtype) for x in (k, v))
    scale = k.scale[:, None] / math.sqrt(rows.shape[-1])
    scores = _product("KRH,KPH->KRP", rows, keys) * scale
    scores = jnp.where(jnp.arange(k.shape[1]) < length, scores, NEG_INF)
    return _softmax("KRP,KPH->KRH", scores, values, v.scale[:, None])


def _own(
    q: jax.Array, own: KV, lengths: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Float32 ``[B,T,K,G,H]``, log-sum-exp ``[B,T,K,G]`` over each row's own keys."""
    B, T, N, H = q.shape
    S, K = own[0].shape[1:3]
    q = q.reshape(B, T, K, N // K, H)
    k, v = own
    if lengths is not None:
        out, lse = attend_slots(q[:, 0], k, v, lengths)
        return out[:, None], lse[:, None]
    assert not isinstance(k, Int8) and not isinstance(v, Int8)
    scores = _product("BTKGH,BSKH->BTKGS", q, k.astype(q.dtype)) / math.sqrt(H)
    seen = (jnp.arange(T)[:, None] >= jnp.arange(S))[None, :, None, None]
    scores = jnp.where(seen, scores, NEG_INF)
    return _softmax("BTKGS,BSKH->BTKGH", scores, v.astype(q.dtype))


def _product(axes: str, x: jax.Array, y: jax.Array) -> jax.Array:
    precision = precision_of(x.dtype)
    return jnp.einsum(
        axes, x, y, precision=precision, preferred_element_type=jnp.float32
    )


def _softmax(
    axes: str, scores: jax.Array, v: jax.Array, scale: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Values weighted by the softmax over the last axis, and its log-sum-exp.

    With ``scale``, which goes with the scores' axes, ``v`` is int8's values.
    """
    top = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - top)
    total = weights.sum(-1)
    if scale is not None:
        weights = weights * scale
    out = _product(axes, weights.astype(v.dtype), v) / total[..., None]
    return out, top[..., 0] + jnp.log(total)
