"""A decode step over the rows' own cache: its new key written, its queries attended.

A cache is exact (the compute dtype) or int8 with a scale for each token and kv head
(``models/quantize``). The keys' scale is applied to scores and the values' to weights,
or, on the CPU, whose products want float operands whole, a block of slots is widened at
a time: no float copy of a cache is made.

Axes: B batch, S slots, N heads, K kv heads, G = N / K, H head dim.
"""

import math

import jax
import jax.numpy as jnp

from vica_jax.models.cache import KV
from vica_jax.models.layers import on_one_cpu, precision_of
from vica_jax.models.online_softmax import NEG_INF
from vica_jax.models.quantize import Int8, MaybeInt8, to_int8

SLOT_BLOCK = 1024  # slots of an int8 cache that the CPU widens at a time


def write_cache(cache: KV, new: tuple[jax.Array, jax.Array], lengths: jax.Array) -> KV:
    """The cache ``[B,S,K,H]`` with new ``[B,1,K,H]`` at slot ``lengths[b]`` of row b.

    Slots past the end are dropped.
    """
    row = jnp.arange(lengths.shape[0])

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        return old.at[row, lengths].set(new[:, 0].astype(old.dtype), mode="drop")

    def keep(old: MaybeInt8, new: jax.Array) -> MaybeInt8:
        if isinstance(old, Int8):
            return Int8(*map(put, old, to_int8(new)))
        return put(old, new)

    return keep(cache[0], new[0]), keep(cache[1], new[1])


def attend_cache(
    q: jax.Array, k: MaybeInt8, v: MaybeInt8, lengths: jax.Array
) -> jax.Array:
    """One decode step: q ``[B,1,N,H]`` over the first ``lengths[b]`` cached keys.

    k and v are ``[B,S,K,H]``; returns ``[B,1,N,H]``.
    """
    B, _, N, H = q.shape
    S, K = k.shape[1:3]
    q = q.reshape(B, K, N // K, H)
    if isinstance(k, Int8) and isinstance(v, Int8):
        out, _ = attend_int8(q, k, v, lengths)
        return out.reshape(B, 1, N, H).astype(q.dtype)
    assert not isinstance(k, Int8) and not isinstance(v, Int8)
    precision = precision_of(q.dtype)
    scores = jnp.einsum(
        "BKGH,BSKH->BKGS",
        q,
        k.astype(q.dtype),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    seen = jnp.arange(S)[None] < lengths[:, None]
    scores = jnp.where(seen[:, None, None], scores / math.sqrt(H), NEG_INF)
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    out = jnp.einsum(
        "BKGS,BSKH->BKGH",
        weights,
        v.astype(q.dtype),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    return out.reshape(B, 1, N, H).astype(q.dtype)


def attend_int8(
    q: jax.Array, k: Int8, v: Int8, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """q ``[B,K,G,H]`` over the first ``lengths[b]`` (>= 1) of an int8 cache's keys.

    Returns float32 ``[B,K,G,H]`` and the log-sum-exp ``[B,K,G]``. On one CPU device
    blocks of slots past all lengths are not visited.
    """
    S = k.shape[1]
    block = min(S, SLOT_BLOCK) if on_one_cpu() else S

    def take_in(j, carry):
        top, total, acc = carry
        # The last block ends where the slots end.
        start = jnp.minimum(j * block, S - block)
        keys, values = (
            Int8(*(jax.lax.dynamic_slice_in_dim(leaf, start, block, 1) for leaf in x))
            for x in (k, v)
        )
        slot = start + jnp.arange(block)
        seen = (slot >= j * block) & (slot < lengths[:, None])
        scores = jnp.where(seen[:, None, None], scores_of(q, keys), NEG_INF)
        new_top = jnp.maximum(top, scores.max(-1))
        weights = jnp.exp(scores - new_top[..., None])
        shrink = jnp.exp(top - new_top)
        total = total * shrink + weights.sum(-1)
        part = weighted_sum(weights, values, q.dtype)
        return new_top, total, acc * shrink[..., None] + part

    carry = (
        jnp.full(q.shape[:-1], NEG_INF, jnp.float32),
        jnp.zeros(q.shape[:-1], jnp.float32),
        jnp.zeros(q.shape, jnp.float32),
    )
    if block == S:
        carry = take_in(0, carry)
    else:
        last = (lengths.max() + block - 1) // block
        carry = jax.lax.fori_loop(0, last, take_in, carry)
    top, total, acc = carry
    return acc / total[..., None], top + jnp.log(total)


def scores_of(q: jax.Array, keys: Int8) -> jax.Array:
    """Float32 scores ``[B,K,G,S]`` of q ``[B,K,G,H]`` and int8 keys ``[B,S,K,H]``."""
    scores = jnp.einsum(
        "BKGH,BSKH->BKGS",
        q,
        keys.values.astype(q.dtype),
        precision=precision_of(q.dtype),
        preferred_element_type=jnp.float32,
    )
    return scores * (keys.scale.swapaxes(1, 2)[:, :, None] / math.sqrt(q.shape[-1]))


def weighted_sum(weights: jax.Array, values: Int8, dtype: jnp.dtype) -> jax.Array:
    """Int8 values ``[B,S,K,H]`` summed by float32 weights ``[B,K,G,S]``: float32."""
    weights = weights * values.scale.swapaxes(1, 2)[:, :, None]
    return jnp.einsum(
        "BKGS,BSKH->BKGH",
        weights.astype(dtype),
        values.values.astype(dtype),
        precision=precision_of(dtype),
        preferred_element_type=jnp.float32,
    )
