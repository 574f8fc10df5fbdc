"""A decode step over the rows' own cache: its new key written, its queries attended.

A cache is exact (the compute dtype) or int8 with a scale for each token and kv head
(``models/quantize``). The keys' scale is applied to scores and the values' to weights.
The CPU's products want operands whole, in float and with heads first, so there a block
of slots is read at a time: no copy of a cache is made, and none of what is not filled.

Axes: B batch, S slots, N heads, K kv heads, G = N / K, H head dim.
"""

import math

import jax
import jax.numpy as jnp

from vica_jax.models.cache import KV
from vica_jax.models.layers import on_one_cpu, precision_of
from vica_jax.models.online_softmax import NEG_INF
from vica_jax.models.quantize import Int8, MaybeInt8, to_int8

SLOT_BLOCK = 1024  # slots of a cache that the CPU reads at a time


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
    K = k.shape[2]
    out, _ = attend_slots(q.reshape(B, K, N // K, H), k, v, lengths)
    return out.reshape(B, 1, N, H).astype(q.dtype)


def attend_slots(
    q: jax.Array, k: MaybeInt8, v: MaybeInt8, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """q ``[B,K,G,H]`` over the first ``lengths[b]`` (>= 1) of a cache's keys.

    Returns float32 ``[B,K,G,H]`` and the log-sum-exp ``[B,K,G]``. On one CPU device
    blocks of slots past all lengths are not visited.
    """
    S = k.shape[1]
    block = min(S, SLOT_BLOCK) if on_one_cpu() else S

    def take_in(j, carry):
        top, total, acc = carry
        # The last block ends where the slots end.
        start = jnp.minimum(j * block, S - block)
        keys, values = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, block, 1), (k, v)
        )
        slot = start + jnp.arange(block)
        seen = (slot >= j * block) & (slot < lengths[:, None])
        scores = jnp.where(seen[:, None, None], _scores(q, keys), NEG_INF)
        new_top = jnp.maximum(top, scores.max(-1))
        weights = jnp.exp(scores - new_top[..., None])
        shrink = jnp.exp(top - new_top)
        total = total * shrink + weights.sum(-1)
        part = _weighted_sum(weights, values, q.dtype)
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


def _scores(q: jax.Array, keys: MaybeInt8) -> jax.Array:
    """Float32 scores ``[B,K,G,S]`` of q ``[B,K,G,H]`` and keys ``[B,S,K,H]``."""
    values, scale = _parts(keys)
    scores = jnp.einsum(
        "BKGH,BSKH->BKGS",
        q,
        values.astype(q.dtype),
        precision=precision_of(q.dtype),
        preferred_element_type=jnp.float32,
    )
    return scores * (scale / math.sqrt(q.shape[-1]))


def _weighted_sum(weights: jax.Array, values: MaybeInt8, dtype: jnp.dtype) -> jax.Array:
    """Values ``[B,S,K,H]`` summed by float32 weights ``[B,K,G,S]``: float32."""
    values, scale = _parts(values)
    return jnp.einsum(
        "BKGS,BSKH->BKGH",
        (weights * scale).astype(dtype),
        values.astype(dtype),
        precision=precision_of(dtype),
        preferred_element_type=jnp.float32,
    )


def _parts(kept: MaybeInt8) -> tuple[jax.Array, jax.Array | float]:
    """Elements ``[B,S,K,H]`` and what multiplies them, for scores ``[B,K,G,S]``."""
    if isinstance(kept, Int8):
        return kept.values, kept.scale.swapaxes(1, 2)[:, :, None]
    return kept, 1.0
