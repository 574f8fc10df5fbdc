"""Attention by an online softmax over key blocks, O(T) memory both ways.

Axes: B batch, T queries, S keys, N heads, K kv heads, G = N / K, H head dim.

The softmax runs over blocks of keys (Rabe and Staats 2021; Milakov and Gimelshein
2018), so no T x S array is ever held. On one CPU device the heads are mapped one after
the other: each step is then a plain 2-D product, several times faster there than a
batched 4-D one. Elsewhere they are a batch axis. The backward pass (FlashAttention-2's
scheme, Dao 2023) needs the output and one log-sum-exp per query and head.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vica_jax.models.layers import on_one_cpu
from vica_jax.models.online_softmax import (
    NEG_INF,
    Softmax,
    begin,
    log_sum,
    map_rows,
    mean,
    product,
    row_of,
    set_row,
    take_in,
)

KEY_BLOCK = 512  # few keys: a causal block past the diagonal is wasted work
QUERY_ROWS = 2048  # rows (G x queries) of one block product
ONE_BLOCK = 1024  # keys that all queries see are one block up to here
KEPT = "attention"  # name of what the forward pass keeps for the backward one


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What the block loops need to know besides the arrays."""

    causal: bool
    valid: int  # keys before padding
    bq: int  # queries of a block, for each of the G heads
    bk: int  # keys of a block
    one_by_one: bool  # heads one after the other, not as batch axes

    def stop(self, start: jax.Array | int, blocks: int) -> jax.Array | int:
        """How many key blocks the queries of the block at ``start`` see."""
        if not self.causal or blocks == 1:
            return blocks
        return jnp.minimum((start + self.bq + self.bk - 1) // self.bk, blocks)


def blockwise(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool,
    query_rows: int = QUERY_ROWS,
    key_block: int = KEY_BLOCK,
) -> jax.Array:
    """Online-softmax attention in blocks; shapes as ``attend``.

    Causal blocks past the diagonal are skipped, not masked. Memory beyond the output:
    one ``query_rows x key_block`` tile per head in flight. The backward pass computes
    the tiles again; for it the output and one log-sum-exp per query and head are kept,
    both named ``KEPT`` for remat policies that save by name.
    """
    return _blockwise(_plan(q, k, causal, query_rows, key_block), q, k, v)


def blockwise_with_lse(
    q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool
) -> tuple[jax.Array, jax.Array]:
    """``blockwise`` and the log-sum-exp of every query, float32 ``[B,T,N]``."""
    plan = _plan(q, k, causal, QUERY_ROWS, KEY_BLOCK)
    out, (*_, lse) = _blockwise_forward(plan, q, k, v)
    return out, _by_token(lse, q.shape[:3])


def _plan(
    q: jax.Array, k: jax.Array, causal: bool, query_rows: int, key_block: int
) -> _Plan:
    S, G = k.shape[1], q.shape[2] // k.shape[2]
    bq = _block(q.shape[1], max(query_rows // G, 1))
    one = not causal and S <= ONE_BLOCK and key_block == KEY_BLOCK
    bk = S if one else _block(S, key_block)
    return _Plan(causal, S, bq, bk, on_one_cpu())


def _block(length: int, most: int) -> int:
    """At most ``most``; a divisor of the length if one is near: padding is a copy."""
    if length <= most:
        return length
    divisors = (n for n in range(most, most // 2, -1) if length % n == 0)
    return next(divisors, most)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise(plan: _Plan, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return _attend_heads(plan, q, k, v, with_lse=False)[0]


def _blockwise_forward(plan: _Plan, q: jax.Array, k: jax.Array, v: jax.Array):
    out, lse = _attend_heads(plan, q, k, v, with_lse=True)
    out = checkpoint_name(out, KEPT)
    return out, (q, k, v, out, checkpoint_name(lse, KEPT))


def _attend_heads(
    plan: _Plan, q: jax.Array, k: jax.Array, v: jax.Array, with_lse: bool
) -> tuple[jax.Array, ...]:
    """The output ``[B,T,N,H]`` and, if asked for, log-sum-exps ``[B,K,T,G]``.

    One by one, heads are read out of the arrays as they come and the output is written
    over the queries, tile by tile: nothing of the size of q is moved or held besides.
    """
    (B, T, N, H), K = q.shape, k.shape[2]
    G = N // K
    q = _pad_axis(q, 1, plan.bq)
    k, v = (_pad_axis(x, 1, plan.bk) for x in (k, v))
    lse = (jnp.zeros((B, K, q.shape[1], G), jnp.float32),) * with_lse
    if not plan.one_by_one:
        heads = q.reshape(B, -1, K, G, H).swapaxes(1, 2)
        keys = (x.swapaxes(1, 2) for x in (k, v))
        one: Any = functools.partial(_attend_head, plan)
        out, *lse = jax.vmap(jax.vmap(one))(heads, *keys, *lse)
        return _by_token(out, (B, T, N, H)), *lse

    def head(n, written):
        b, i = n // K, n % K

        def own(x):  # a copy of one head's: every key block is read many times
            x = jax.lax.dynamic_slice(x, (b, 0, i, 0), (1, x.shape[1], 1, H))
            return x.reshape(-1, plan.bk, H)

        keys, values = own(k), own(v)

        def query_block(j, written):
            out, *lse = written
            at, size = (b, j * plan.bq, i * G, 0), (1, plan.bq, G, H)
            rows = jax.lax.dynamic_slice(out, at, size).reshape(-1, H)
            done = _attend_rows(plan, rows, keys, values, j * plan.bq)
            tile = mean(done).astype(out.dtype).reshape(size)
            out = jax.lax.dynamic_update_slice(out, tile, at)
            if lse:
                row = log_sum(done).reshape(1, 1, plan.bq, G)
                at = (b, i, j * plan.bq, 0)
                lse = [jax.lax.dynamic_update_slice(lse[0], row, at)]
            return out, *lse

        return jax.lax.fori_loop(0, q.shape[1] // plan.bq, query_block, written)

    out, *lse = jax.lax.fori_loop(0, B * K, head, (q, *lse))
    return out[:, :T], *lse


def _blockwise_backward(plan: _Plan, kept: tuple[jax.Array, ...], g: jax.Array):
    q, k, v, out, lse = kept
    # A query's mean, by its weights, of their gradients: known without either row.
    delta = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    g, delta = (_queries_by_head(plan, x, k.shape[2]) for x in (g, delta))

    def one(q, dk, dv, *read):  # dk, dv: places to write, not what is in them
        return _head_gradients(plan, q, *read)

    heads = _by_head(plan, q, k, v)
    # Keys and values are read from arrays that are not written over: where a head's
    # were, XLA copied all heads' at each head.
    dq, dk, dv = _map_heads(plan, one, heads, (*heads[1:], g, lse, delta[..., 0]))
    return _by_token(dq, q.shape), _by_token(dk, k.shape), _by_token(dv, v.shape)


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)


def _queries_by_head(plan: _Plan, x: jax.Array, kv_heads: int) -> jax.Array:
    """``[B,T,N,H]`` -> ``[B,K,T,G,H]``, T padded to whole blocks."""
    B, T, N, H = x.shape
    x = x.reshape(B, T, kv_heads, N // kv_heads, H)
    return _pad_axis(x, 1, plan.bq).swapaxes(1, 2)


def _by_head(plan: _Plan, q: jax.Array, *keys: jax.Array) -> tuple[jax.Array, ...]:
    """The queries so and each ``[B,S,K,H]`` -> ``[B,K,S,H]``, S in whole blocks."""
    keys = tuple(_pad_axis(x, 1, plan.bk).swapaxes(1, 2) for x in keys)
    return _queries_by_head(plan, q, keys[0].shape[1]), *keys


def _by_token(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Back from either layout to ``shape``, without the padding."""
    return x.swapaxes(1, 2)[:, : shape[1]].reshape(shape)


def _map_heads(
    plan: _Plan,
    function: Callable[..., tuple[jax.Array, ...]],
    written: tuple[jax.Array, ...],
    read: tuple[jax.Array, ...],
) -> tuple[jax.Array, ...]:
    """``function(*written, *read)`` per example and kv head: the two leading axes.

    The results take the places (and have the shapes) of ``written``.
    """
    if not plan.one_by_one:
        return jax.vmap(jax.vmap(function))(*written, *read)
    leading = written[0].shape[:2]
    written, read = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:]), (tuple(written), tuple(read))
    )
    out = map_rows(
        lambda i, row: function(*row, *(row_of(x, i) for x in read)), written
    )
    return tuple(x.reshape(*leading, *x.shape[1:]) for x in out)


def _scores(
    plan: _Plan, rows: jax.Array, keys: jax.Array, start: jax.Array | int, j: jax.Array
) -> jax.Array:
    """Scaled, masked scores of the queries from ``start`` on and key block ``j``."""
    scores = product(rows, keys, (1, 1)) * (1.0 / math.sqrt(rows.shape[-1]))
    column = j * plan.bk + jnp.arange(plan.bk)
    if plan.causal:
        position = start + jnp.arange(rows.shape[0]) // (rows.shape[0] // plan.bq)
        return jnp.where(column[None] <= position[:, None], scores, NEG_INF)
    if plan.valid % plan.bk:
        return jnp.where(column[None] < plan.valid, scores, NEG_INF)
    return scores


def _attend_rows(
    plan: _Plan,
    rows: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    start: jax.Array | int,
) -> Softmax:
    """The queries ``rows [R,H]`` from ``start`` on over blocks ``[n,bk,H]`` of keys."""

    def key_block(j, carry):
        scores = _scores(plan, rows, row_of(keys, j), start, j)
        return take_in(carry, scores, row_of(values, j))

    last = plan.stop(start, keys.shape[0])
    return jax.lax.fori_loop(0, last, key_block, begin(rows))


def _attend_head(
    plan: _Plan, q: jax.Array, k: jax.Array, v: jax.Array, lse: jax.Array | None = None
) -> tuple[jax.Array, ...]:
    """One kv head: q ``[T,G,H]`` with k, v ``[S,H]``, multiples of bq and bk.

    Returns the output and, where ``lse [T,G]`` is given to be written, log-sum-exp.
    """
    T, G, H = q.shape
    keys, values = (x.reshape(-1, plan.bk, H) for x in (k, v))

    def query_block(i, written):
        rows = written[0].reshape(plan.bq * G, H)
        done = _attend_rows(plan, rows, keys, values, i * plan.bq)
        out = mean(done).astype(q.dtype)
        results = (out,) if lse is None else (out, log_sum(done))
        return tuple(x.reshape(w.shape) for x, w in zip(results, written, strict=True))

    written = (q,) if lse is None else (q, lse)
    blocks = tuple(x.reshape(T // plan.bq, plan.bq, *x.shape[1:]) for x in written)
    out = map_rows(query_block, blocks)
    return tuple(x.reshape(w.shape) for x, w in zip(out, written, strict=True))


def _head_gradients(
    plan: _Plan,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    g: jax.Array,
    lse: jax.Array,
    delta: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of one kv head: shapes as ``_attend_head``, g like q, delta like lse.

    Padded queries have g = 0 and so add nothing.
    """
    T, G, H = q.shape
    keys, values = (x.reshape(-1, plan.bk, H) for x in (k, v))
    blocks = lambda x: x.reshape(T // plan.bq, plan.bq * G, *x.shape[2:])
    gs, lses, deltas = (blocks(x) for x in (g, lse, delta))
    scale = 1.0 / math.sqrt(H)

    def query_block(i, carry):
        q, dk, dv = carry
        rows, g, lse, delta = (row_of(x, i) for x in (q, gs, lses, deltas))
        start = i * plan.bq

        def key_block(j, carry):
            dq, dk, dv = carry
            scores = _scores(plan, rows, row_of(keys, j), start, j)
            weights = jnp.exp(scores - lse[:, None])
            dweights = product(g, row_of(values, j), (1, 1))
            dscores = (weights * (dweights - delta[:, None])).astype(rows.dtype)
            dq = dq + product(dscores, row_of(keys, j), (1, 0))
            dk = set_row(dk, j, row_of(dk, j) + product(dscores, rows, (0, 0)))
            weights = weights.astype(rows.dtype)
            dv = set_row(dv, j, row_of(dv, j) + product(weights, g, (0, 0)))
            return dq, dk, dv

        last = plan.stop(start, keys.shape[0])
        first = (jnp.zeros(rows.shape, jnp.float32), dk, dv)
        dq, dk, dv = jax.lax.fori_loop(0, last, key_block, first)
        return set_row(q, i, (dq * scale).astype(q.dtype)), dk, dv

    zeros = jnp.zeros(keys.shape, jnp.float32)
    carry = (blocks(q), zeros, zeros)
    dq, dk, dv = jax.lax.fori_loop(0, T // plan.bq, query_block, carry)
    dk = (dk * scale).astype(k.dtype)
    return dq.reshape(q.shape), dk.reshape(k.shape), dv.astype(v.dtype).reshape(v.shape)


def _pad_axis(x: jax.Array, axis: int, multiple: int) -> jax.Array:
    extra = -x.shape[axis] % multiple
    if not extra:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, extra)
    return jnp.pad(x, widths)
