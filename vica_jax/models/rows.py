"""Rows of queries over one set of keys that all of them see, by an online softmax.

The keys of a prefix (``models/shared``) have no batch axis: ``[K,S,H]``, filled up to a
length that may be traced. Blocks of keys past it are not visited; int8 keys and values
are widened block by block.

Axes: K kv heads, R rows per kv head, S keys, H head dim.
"""

import math

import jax
import jax.numpy as jnp

from vica_jax.models.layers import on_one_cpu
from vica_jax.models.online_softmax import (
    NEG_INF,
    begin,
    log_sum,
    map_rows,
    mean,
    product,
    row_of,
    take_in,
)
from vica_jax.models.quantize import Int8, MaybeInt8

KEY_BLOCK = 1024
QUERY_ROWS = 1024  # rows of one block product


def attend_rows(
    q: jax.Array, k: MaybeInt8, v: MaybeInt8, length: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Rows ``[K,R,H]`` over the first ``length`` of the keys ``[K,S,H]`` of their head.

    Returns float32 ``[K,R,H]`` and the log-sum-exp ``[K,R]``. ``length`` (>= 1) may be
    traced. Memory beyond the output: a tile of scores per head in flight. On one CPU
    device the heads are mapped one after the other, elsewhere they are a batch axis.
    """
    R, S = q.shape[1], k.shape[1]
    bq, bk = min(R, QUERY_ROWS), min(S, KEY_BLOCK)
    if extra := -R % bq:
        q = jnp.pad(q, [(0, 0), (0, extra), (0, 0)])
    scale = 1.0 / math.sqrt(q.shape[-1])

    def head(out, lse, q, block):
        blocks = tuple(x.reshape(-1, bq, *x.shape[1:]) for x in (out, lse, q))

        def query_block(_, written):
            rows = written[2]

            def key_block(j, carry):
                # The last block ends where the keys end: padding would copy them all.
                start = jnp.minimum(j * bk, S - bk)
                keys, values = block(start)
                scores = product(rows, keys, (1, 1)) * scale
                place = start + jnp.arange(bk)
                seen = (place >= j * bk) & (place < length)
                scores = jnp.where(seen[None], scores, NEG_INF)
                return take_in(carry, scores, values)

            last = (length + bk - 1) // bk
            done = jax.lax.fori_loop(0, last, key_block, begin(rows))
            return mean(done), log_sum(done), rows

        done = map_rows(query_block, blocks)[:2]
        return tuple(x.reshape(-1, *x.shape[2:]) for x in done)

    def one(i, written):
        # Blocks straight out of all heads' keys: a head's would be a copy.
        def block(start):
            def cut(x):
                at = (i, start, 0)[: x.ndim]
                size = (1, bk, q.shape[-1])[: x.ndim]
                return jax.lax.dynamic_slice(x, at, size)[0]

            return [_widened(jax.tree.map(cut, x), q.dtype) for x in (k, v)]

        out, lse = written
        return head(out, lse, row_of(q, i), block)

    def batched(out, lse, q, k, v):
        def block(start):
            cut = lambda x: jax.lax.dynamic_slice_in_dim(x, start, bk)
            return [_widened(jax.tree.map(cut, x), q.dtype) for x in (k, v)]

        return head(out, lse, q, block)

    written = jnp.zeros(q.shape, jnp.float32), jnp.zeros(q.shape[:2], jnp.float32)
    if on_one_cpu():
        out, lse = map_rows(one, written)
    else:
        out, lse = jax.vmap(batched)(*written, q, k, v)
    return out[:, :R], lse[:, :R]


def _widened(block: MaybeInt8, dtype: jnp.dtype) -> jax.Array:
    """Keys or values ``[bk,H]`` as they are, or out of int8."""
    if isinstance(block, Int8):
        return (block.values * block.scale[:, None]).astype(dtype)
    return block
