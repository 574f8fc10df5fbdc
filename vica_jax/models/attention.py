"""One front door to attention: direct, blockwise, or cuDNN's fused kernel.

Axes: B batch, T queries, S keys, N heads, K kv heads, G = N / K, H head dim.

* small products (windows, short prompts) go through one einsum;
* large ones through an online softmax over key blocks (Rabe and Staats 2021; Milakov
  and Gimelshein 2018), which never holds a T x S array. On one CPU device the heads
  are mapped one after the other: each step is then a plain 2-D product, several times
  faster there than a batched 4-D one. Elsewhere they are a batch axis;
* bfloat16/float16 on an NVIDIA GPU takes cuDNN's flash attention, after a self-test.

There are no mask tensors: sequences are padded on the right, so a causal mask hides
the padding from every real query.
"""

import functools
import logging
import math

import jax
import jax.numpy as jnp

from vica_jax.models.layers import map_in_place, precision_of
from vica_jax.sharding import on_many_devices

NEG_INF = -0.7 * float(jnp.finfo(jnp.float32).max)
DIRECT_LIMIT = 256 * 256  # T * S up to which one einsum is used
KEY_BLOCK = 1024
QUERY_ROWS = 1024  # rows (G x queries) of one block product


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool = False
) -> jax.Array:
    """Softmax attention. q ``[B,T,N,H]``, k and v ``[B,S,K,H]`` -> ``[B,T,N,H]``.

    With ``causal``, T == S and query t sees keys 0..t.
    """
    T, S = q.shape[1], k.shape[1]
    if causal and T != S:
        raise ValueError(f"causal attention needs T == S, got {T} and {S}")
    if T * S <= DIRECT_LIMIT:
        return _direct(q, k, v, causal)
    if _use_cudnn(q.dtype, q.shape[-1]):
        return jax.nn.dot_product_attention(
            q, k, v, is_causal=causal, implementation="cudnn"
        )
    return blockwise(q, k, v, causal=causal)


def attend_cache(
    q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array
) -> jax.Array:
    """One decode step: q ``[B,1,N,H]`` over the first ``lengths[b]`` cached keys.

    k and v are ``[B,S,K,H]``; returns ``[B,1,N,H]``.
    """
    B, _, N, H = q.shape
    S, K = k.shape[1:3]
    q = q.reshape(B, K, N // K, H)
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


def _direct(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    B, T, N, H = q.shape
    S, K = k.shape[1:3]
    precision = precision_of(q.dtype)
    scores = jnp.einsum(
        "BTKGH,BSKH->BKGTS",
        q.reshape(B, T, K, N // K, H),
        k,
        precision=precision,
        preferred_element_type=jnp.float32,
    ) / math.sqrt(H)
    if causal:
        seen = jnp.arange(T)[:, None] >= jnp.arange(S)[None]
        scores = jnp.where(seen, scores, NEG_INF)
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    out = jnp.einsum(
        "BKGTS,BSKH->BTKGH",
        weights,
        v,
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    return out.reshape(B, T, N, H).astype(q.dtype)


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
    one ``query_rows x key_block`` tile per head in flight.
    """
    B, T, N, H = q.shape
    S, K = k.shape[1:3]
    G = N // K
    bq = min(T, max(query_rows // G, 1))
    bk = min(S, key_block)
    q = _pad_axis(q.reshape(B, T, K, G, H), 1, bq)
    k, v = _pad_axis(k, 1, bk), _pad_axis(v, 1, bk)
    one = functools.partial(_one_kv_head, causal=causal, valid=S, bq=bq, bk=bk)
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # [B,K,T,G,H], [B,K,S,H]
    if jax.default_backend() == "cpu" and not on_many_devices():
        q, k, v = (x.reshape(B * K, *x.shape[2:]) for x in (q, k, v))
        out = map_in_place(lambda i, head: one(head, k[i], v[i]), q)
        out = out.reshape(B, K, *out.shape[1:])
    else:
        out = jax.vmap(jax.vmap(one))(q, k, v)
    return out.swapaxes(1, 2)[:, :T].reshape(B, T, N, H)


def _one_kv_head(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool,
    valid: int,
    bq: int,
    bk: int,
) -> jax.Array:
    """q ``[T,G,H]`` with one head's k, v ``[S,H]``; T, S multiples of bq, bk."""
    T, G, H = q.shape
    num_keys = k.shape[0] // bk
    precision = precision_of(q.dtype)
    scale = 1.0 / math.sqrt(H)

    def query_block(block, start):
        rows = block.reshape(bq * G, H)
        position = start + jnp.repeat(jnp.arange(bq), G)

        def key_block(j, carry):
            top, total, acc = carry
            keys = jax.lax.dynamic_slice_in_dim(k, j * bk, bk)
            values = jax.lax.dynamic_slice_in_dim(v, j * bk, bk)
            scores = scale * jax.lax.dot_general(
                rows,
                keys,
                (((1,), (1,)), ((), ())),
                precision=precision,
                preferred_element_type=jnp.float32,
            )
            column = j * bk + jnp.arange(bk)
            if causal:
                seen = column[None] <= position[:, None]
                scores = jnp.where(seen, scores, NEG_INF)
            elif valid % bk:
                scores = jnp.where(column[None] < valid, scores, NEG_INF)
            new_top = jnp.maximum(top, scores.max(-1))
            weights = jnp.exp(scores - new_top[:, None])
            shrink = jnp.exp(top - new_top)
            part = jax.lax.dot_general(
                weights.astype(q.dtype),
                values,
                (((1,), (0,)), ((), ())),
                precision=precision,
                preferred_element_type=jnp.float32,
            )
            total = total * shrink + weights.sum(-1)
            return new_top, total, acc * shrink[:, None] + part

        first = (
            jnp.full(bq * G, NEG_INF, jnp.float32),
            jnp.zeros(bq * G, jnp.float32),
            jnp.zeros((bq * G, H), jnp.float32),
        )
        stop = jnp.minimum((start + bq + bk - 1) // bk, num_keys)
        last = stop if causal and num_keys > 1 else num_keys
        _, total, acc = jax.lax.fori_loop(0, last, key_block, first)
        return (acc / total[:, None]).astype(q.dtype).reshape(bq, G, H)

    if bq == T:
        return query_block(q, 0).reshape(T, G, H)
    blocks = q.reshape(T // bq, bq, G, H)
    out = map_in_place(lambda i, block: query_block(block, i * bq), blocks)
    return out.reshape(T, G, H)


def _pad_axis(x: jax.Array, axis: int, multiple: int) -> jax.Array:
    extra = -x.shape[axis] % multiple
    if not extra:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, extra)
    return jnp.pad(x, widths)


def _use_cudnn(dtype: jnp.dtype, head_dim: int) -> bool:
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16) or head_dim % 8:
        return False
    return jax.default_backend() == "gpu" and _cudnn_agrees(jnp.dtype(dtype).name)


@functools.cache
def _cudnn_agrees(dtype: str) -> bool:
    """Run cuDNN's kernel once beside the blockwise one before it is trusted."""
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0), 3)
        shapes = [(1, 512, 4, 128), (1, 512, 2, 128), (1, 512, 2, 128)]
        q, k, v = (
            jax.random.normal(key, shape, jnp.float32).astype(dtype)
            for key, shape in zip(keys, shapes, strict=True)
        )
        try:
            fused = jax.nn.dot_product_attention(
                q, k, v, is_causal=True, implementation="cudnn"
            )
            plain = blockwise(q, k, v, causal=True)
            gap = jnp.abs(fused.astype(jnp.float32) - plain.astype(jnp.float32)).max()
            agrees = float(gap) < 0.05
            reason = f"it differs by {float(gap):.3f}"
        except Exception as error:  # any failure of an optional kernel: say and go on
            agrees, reason = False, f"{type(error).__name__}: {error}"
    if not agrees:
        logging.getLogger(__name__).warning(
            "cuDNN attention is not used (%s); blockwise attention takes its place",
            reason,
        )
    return agrees
