"""One front door to attention: direct, blockwise, or cuDNN's fused kernel.

Axes: B batch, T queries, S keys, N heads, K kv heads, G = N / K, H head dim.

* small products (windows, short prompts) go through one einsum;
* large ones through an online softmax over key blocks (``models/blockwise``);
* large ones in bfloat16/float16 on an NVIDIA GPU through cuDNN's flash attention, after
  a self-test.

Large products keep O(T) memory when differentiated too.

There are no mask tensors: sequences are padded on the right, so a causal mask hides
the padding from every real query.
"""

import functools
import logging
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vica_jax.models.blockwise import NEG_INF, blockwise
from vica_jax.models.layers import precision_of

DIRECT_LIMIT = 256 * 256  # T * S up to which one einsum is used
SELF_TEST_GAP = 0.03  # of the largest element; bfloat16 rounds by 0.004


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
    if _use_cudnn(q, causal):
        return _fused(q, k, v, causal)
    return blockwise(q, k, v, causal=causal)


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


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, implementation="cudnn"
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _fused(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    """cuDNN's kernel; its backward pass is tried out only where one is asked for."""
    return _cudnn(q, k, v, causal)


def _fused_forward(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool):
    trusted = _cudnn_agrees(*_kernel_kind(q, causal), gradients=True)
    kernel = functools.partial(_cudnn if trusted else blockwise, causal=causal)
    return jax.vjp(kernel, q, k, v)


def _fused_backward(causal: bool, pullback: Callable, g: jax.Array):
    return pullback(g)


_fused.defvjp(_fused_forward, _fused_backward)


def _use_cudnn(q: jax.Array, causal: bool) -> bool:
    if q.dtype not in (jnp.bfloat16, jnp.float16) or q.shape[-1] % 8:
        return False
    if jax.default_backend() != "gpu":
        return False
    return _cudnn_agrees(*_kernel_kind(q, causal), gradients=False)


def _kernel_kind(q: jax.Array, causal: bool) -> tuple[str, int, bool, bool]:
    """What cuDNN's choice of a kernel may hang on: dtype, H, causal, odd length."""
    return q.dtype.name, q.shape[-1], causal, bool(q.shape[1] % 2)


@functools.cache
def _cudnn_agrees(
    dtype: str, head_dim: int, causal: bool, odd: bool, *, gradients: bool
) -> bool:
    """Run cuDNN's kernel once beside the blockwise one before it is trusted."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(kernel, q, k, v, g):
        if not gradients:
            return [kernel(q, k, v, causal=causal)]
        out, pullback = jax.vjp(functools.partial(kernel, causal=causal), q, k, v)
        return [out, *pullback(g)]

    def gap(x, y):
        x, y = (np.asarray(a, np.float32) for a in (x, y))
        return float(np.abs(x - y).max() / np.abs(y).max())

    rng = np.random.default_rng(0)
    with jax.ensure_compile_time_eval():
        q, k, v, g = (
            jnp.asarray(rng.standard_normal((1, 512 + odd, heads, head_dim)), dtype)
            for heads in (4, 2, 2, 4)
        )
        try:
            pairs = zip(
                run(_cudnn, q, k, v, g), run(blockwise, q, k, v, g), strict=True
            )
            gaps = [gap(fused, plain) for fused, plain in pairs]
            agrees = all(x < SELF_TEST_GAP for x in gaps)  # NaN does not agree
            reason = f"it differs by {max(gaps):.3f}"
        except Exception as error:  # any failure of an optional kernel: say and go on
            agrees, reason = False, f"{type(error).__name__}: {error}"
    if not agrees:
        logging.getLogger(__name__).warning(
            "cuDNN attention is not used%s (%s, head dim %d): %s; blockwise attention "
            "takes its place",
            " for gradients" if gradients else "",
            dtype,
            head_dim,
            reason,
        )
    return agrees
