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

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vica_jax.models.layers import precision_of
from vica_jax.sharding import on_many_devices

NEG_INF = -0.7 * float(jnp.finfo(jnp.float32).max)
KEY_BLOCK = 1024
QUERY_ROWS = 1024  # rows (G x queries) of one block product
GRADIENT_KEY_BLOCK = 512  # of the causal backward pass
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


def _heads_one_by_one() -> bool:
    return jax.default_backend() == "cpu" and not on_many_devices()


def _plan(
    q: jax.Array, k: jax.Array, causal: bool, query_rows: int, key_block: int
) -> _Plan:
    S, G = k.shape[1], q.shape[2] // k.shape[2]
    bq = min(q.shape[1], max(query_rows // G, 1))
    return _Plan(causal, S, bq, min(S, key_block), _heads_one_by_one())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise(plan: _Plan, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    def one(q, k, v):
        return _attend_head(plan, q, k, v, None)

    heads = _by_head(plan, q, k, v)
    (out,) = _map_heads(plan, one, heads[:1], heads[1:])
    return _by_token(out, q.shape)


def _blockwise_forward(plan: _Plan, q: jax.Array, k: jax.Array, v: jax.Array):
    def one(q, lse, k, v):
        return _attend_head(plan, q, k, v, lse)

    heads = _by_head(plan, q, k, v)
    lse = jnp.zeros(heads[0].shape[:-1], jnp.float32)
    out, lse = _map_heads(plan, one, (heads[0], lse), heads[1:])
    out = checkpoint_name(_by_token(out, q.shape), KEPT)
    return out, (q, k, v, out, checkpoint_name(lse, KEPT))


def _blockwise_backward(plan: _Plan, kept: tuple[jax.Array, ...], g: jax.Array):
    q, k, v, out, lse = kept
    if plan.causal:  # smaller blocks waste less on the diagonal: 15% at T = 4096
        plan = dataclasses.replace(plan, bk=min(plan.bk, GRADIENT_KEY_BLOCK))
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
    out = _map_in_place(
        lambda i, row: function(*row, *(_row(x, i) for x in read)), written
    )
    return tuple(x.reshape(*leading, *x.shape[1:]) for x in out)


def _map_in_place(
    function: Callable[..., tuple[jax.Array, ...]], written: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """``layers.map_in_place`` for several arrays: ``function(i, rows)`` -> rows."""
    if written[0].shape[0] == 1:
        return tuple(x[None] for x in function(0, tuple(x[0] for x in written)))

    def step(i, written):
        rows = function(i, tuple(_row(x, i) for x in written))
        return tuple(_set_row(x, i, row) for x, row in zip(written, rows, strict=True))

    return jax.lax.fori_loop(0, written[0].shape[0], step, written)


def _row(x: jax.Array, i: jax.Array | int) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, i, keepdims=False)


def _set_row(x: jax.Array, i: jax.Array | int, row: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(x, row, i, 0)


def _product(x: jax.Array, y: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """2-D product over one axis of each, in float32."""
    return jax.lax.dot_general(
        x,
        y,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=precision_of(x.dtype),
        preferred_element_type=jnp.float32,
    )


def _scores(
    plan: _Plan, rows: jax.Array, keys: jax.Array, start: jax.Array | int, j: jax.Array
) -> jax.Array:
    """Scaled, masked scores of the queries from ``start`` on and key block ``j``."""
    scores = _product(rows, keys, (1, 1)) * (1.0 / math.sqrt(rows.shape[-1]))
    column = j * plan.bk + jnp.arange(plan.bk)
    if plan.causal:
        position = start + jnp.arange(rows.shape[0]) // (rows.shape[0] // plan.bq)
        return jnp.where(column[None] <= position[:, None], scores, NEG_INF)
    if plan.valid % plan.bk:
        return jnp.where(column[None] < plan.valid, scores, NEG_INF)
    return scores


Softmax = tuple[jax.Array, jax.Array, jax.Array]  # largest score, sum, weighted sum


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


def _mean(carry: Softmax) -> jax.Array:
    """The values, weighted by the softmax of the scores."""
    _, total, acc = carry
    return acc / total[:, None]


def _log_sum(carry: Softmax) -> jax.Array:
    """The log-sum-exp of the scores."""
    top, total, _ = carry
    return top + jnp.log(total)


def _attend_head(
    plan: _Plan, q: jax.Array, k: jax.Array, v: jax.Array, lse: jax.Array | None
) -> tuple[jax.Array, ...]:
    """One kv head: q ``[T,G,H]`` with k, v ``[S,H]``, multiples of bq and bk.

    Returns the output and, where ``lse [T,G]`` is given to be written, log-sum-exp.
    """
    T, G, H = q.shape
    keys, values = (x.reshape(-1, plan.bk, H) for x in (k, v))

    def query_block(i, written):
        rows = written[0].reshape(plan.bq * G, H)
        start = i * plan.bq

        def key_block(j, carry):
            scores = _scores(plan, rows, _row(keys, j), start, j)
            return _online(carry, scores, _row(values, j))

        last = plan.stop(start, keys.shape[0])
        done = jax.lax.fori_loop(0, last, key_block, _begin(rows))
        out = _mean(done).astype(q.dtype)
        results = (out,) if lse is None else (out, _log_sum(done))
        return tuple(x.reshape(w.shape) for x, w in zip(results, written, strict=True))

    written = (q,) if lse is None else (q, lse)
    blocks = tuple(x.reshape(T // plan.bq, plan.bq, *x.shape[1:]) for x in written)
    out = _map_in_place(query_block, blocks)
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
        rows, g, lse, delta = (_row(x, i) for x in (q, gs, lses, deltas))
        start = i * plan.bq

        def key_block(j, carry):
            dq, dk, dv = carry
            scores = _scores(plan, rows, _row(keys, j), start, j)
            weights = jnp.exp(scores - lse[:, None])
            dweights = _product(g, _row(values, j), (1, 1))
            dscores = (weights * (dweights - delta[:, None])).astype(rows.dtype)
            dq = dq + _product(dscores, _row(keys, j), (1, 0))
            dk = _set_row(dk, j, _row(dk, j) + _product(dscores, rows, (0, 0)))
            weights = weights.astype(rows.dtype)
            dv = _set_row(dv, j, _row(dv, j) + _product(weights, g, (0, 0)))
            return dq, dk, dv

        last = plan.stop(start, keys.shape[0])
        first = (jnp.zeros(rows.shape, jnp.float32), dk, dv)
        dq, dk, dv = jax.lax.fori_loop(0, last, key_block, first)
        return _set_row(q, i, (dq * scale).astype(q.dtype)), dk, dv

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
