"""Rows of queries over one set of keys that all of them see, by an online softmax.

The keys of a prefix (``models/shared``) have no batch axis: ``[K,S,H]``, filled up to a
length that may be traced. Blocks of keys past it are not visited; int8 keys and values
are widened block by block.

Axes: K kv heads, R rows per kv head, S keys, H head dim.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vica_jax.models.blockwise import NEG_INF
from vica_jax.models.layers import on_one_cpu, precision_of
from vica_jax.models.quantize import Int8, MaybeInt8

KEY_BLOCK = 1024
QUERY_ROWS = 1024  # rows of one block product

Softmax = tuple[jax.Array, jax.Array, jax.Array]  # largest score, sum, weighted sum


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
                scores = _product(rows, keys, (1, 1)) * scale
                place = start + jnp.arange(bk)
                seen = (place >= j * bk) & (place < length)
                scores = jnp.where(seen[None], scores, NEG_INF)
                return _online(carry, scores, values)

            last = (length + bk - 1) // bk
            done = jax.lax.fori_loop(0, last, key_block, _begin(rows))
            top, total, acc = done
            return acc / total[:, None], top + jnp.log(total), rows

        done = _map_in_place(query_block, blocks)[:2]
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
        return head(out, lse, _row(q, i), block)

    def batched(out, lse, q, k, v):
        def block(start):
            cut = lambda x: jax.lax.dynamic_slice_in_dim(x, start, bk)
            return [_widened(jax.tree.map(cut, x), q.dtype) for x in (k, v)]

        return head(out, lse, q, block)

    written = jnp.zeros(q.shape, jnp.float32), jnp.zeros(q.shape[:2], jnp.float32)
    if on_one_cpu():
        out, lse = _map_in_place(one, written)
    else:
        out, lse = jax.vmap(batched)(*written, q, k, v)
    return out[:, :R], lse[:, :R]


def _widened(block: MaybeInt8, dtype: jnp.dtype) -> jax.Array:
    """Keys or values ``[bk,H]`` as they are, or out of int8."""
    if isinstance(block, Int8):
        return (block.values * block.scale[:, None]).astype(dtype)
    return block


def _begin(rows: jax.Array) -> Softmax:
    """The online softmax of ``rows [R,H]`` over no keys yet."""
    R = rows.shape[0]
    return (
        jnp.full(R, NEG_INF, jnp.float32),
        jnp.zeros(R, jnp.float32),
        jnp.zeros(rows.shape, jnp.float32),
    )


def _online(carry: Softmax, scores: jax.Array, values: jax.Array) -> Softmax:
    """Take in a block of keys: scores ``[R,bk]``, values ``[bk,H]``."""
    top, total, acc = carry
    new_top = jnp.maximum(top, scores.max(-1))
    weights = jnp.exp(scores - new_top[:, None])
    shrink = jnp.exp(top - new_top)
    part = _product(weights.astype(values.dtype), values, (1, 0))
    total = total * shrink + weights.sum(-1)
    return new_top, total, acc * shrink[:, None] + part


def _map_in_place(
    function: Callable[..., tuple[jax.Array, ...]], written: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """``layers.map_in_place`` for several arrays: ``function(i, rows)`` -> rows."""
    if written[0].shape[0] == 1:
        return tuple(x[None] for x in function(0, tuple(x[0] for x in written)))

    def step(i, written):
        rows = function(i, tuple(_row(x, i) for x in written))
        return tuple(
            jax.lax.dynamic_update_index_in_dim(x, row, i, 0)
            for x, row in zip(written, rows, strict=True)
        )

    return jax.lax.fori_loop(0, written[0].shape[0], step, written)


def _row(x: jax.Array, i: jax.Array | int) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, i, keepdims=False)


def _product(x: jax.Array, y: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """2-D product over one axis of each, in float32."""
    return jax.lax.dot_general(
        x,
        y,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=precision_of(x.dtype),
        preferred_element_type=jnp.float32,
    )
