"""Pieces of attention over blocks of keys, shared by ``blockwise`` and ``rows``.

A softmax that takes its scores in block by block (Milakov and Gimelshein 2018): of each
row it holds the largest score so far, the sum of exponentials and the weighted sum.

Axes: R rows, S keys of a block, H head dim.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vica_jax.models.layers import precision_of

NEG_INF = -0.7 * float(jnp.finfo(jnp.float32).max)

Softmax = tuple[jax.Array, jax.Array, jax.Array]  # largest score, sum, weighted sum


def begin(rows: jax.Array) -> Softmax:
    """The online softmax of ``rows [R,H]`` over no keys yet."""
    R = rows.shape[0]
    return (
        jnp.full(R, NEG_INF, jnp.float32),
        jnp.zeros(R, jnp.float32),
        jnp.zeros(rows.shape, jnp.float32),
    )


def take_in(carry: Softmax, scores: jax.Array, values: jax.Array) -> Softmax:
    """Take in a block of keys: scores ``[R,bk]``, values ``[bk,H]``."""
    top, total, acc = carry
    new_top = jnp.maximum(top, scores.max(-1))
    weights = jnp.exp(scores - new_top[:, None])
    shrink = jnp.exp(top - new_top)
    part = product(weights.astype(values.dtype), values, (1, 0))
    total = total * shrink + weights.sum(-1)
    return new_top, total, acc * shrink[:, None] + part


def mean(carry: Softmax) -> jax.Array:
    """The values, weighted by the softmax of the scores."""
    _, total, acc = carry
    return acc / total[:, None]


def log_sum(carry: Softmax) -> jax.Array:
    """The log-sum-exp of the scores."""
    top, total, _ = carry
    return top + jnp.log(total)


def map_rows(
    function: Callable[..., tuple[jax.Array, ...]], written: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """``layers.map_in_place`` for several arrays: ``function(i, rows)`` -> rows."""
    if written[0].shape[0] == 1:
        return tuple(x[None] for x in function(0, tuple(x[0] for x in written)))

    def step(i, written):
        rows = function(i, tuple(row_of(x, i) for x in written))
        return tuple(set_row(x, i, row) for x, row in zip(written, rows, strict=True))

    return jax.lax.fori_loop(0, written[0].shape[0], step, written)


def row_of(x: jax.Array, i: jax.Array | int) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, i, keepdims=False)


def set_row(x: jax.Array, i: jax.Array | int, row: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(x, row, i, 0)


def product(x: jax.Array, y: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """2-D product over one axis of each, in float32."""
    return jax.lax.dot_general(
        x,
        y,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=precision_of(x.dtype),
        preferred_element_type=jnp.float32,
    )
