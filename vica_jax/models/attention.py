"""One front door to attention: which way is chosen at trace time, or named.

Axes: B batch, T queries, S keys, N heads, K kv heads, G = N / K, H head dim.

============== ===================================================== ===============
``reference``  one einsum, all scores held: the oracle               any
``short``      all scores held, heads and batch as leading axes      windows, text
``blockwise``  an online softmax over key blocks, O(T) memory both   long
               ways (``models/blockwise``); heads one by one on CPUs
``cudnn``      cuDNN's flash attention, O(T) memory both ways        long, in half
                                                                     precision, GPUs
============== ===================================================== ===============

``auto`` takes ``short`` up to ``SHORT_LIMIT`` scores per head, above it ``cudnn`` where
it can run and agrees with ``blockwise`` in a self-test, else ``blockwise``. An explicit
choice always wins: the argument ``implementation``, the context ``using(...)`` around
the call of a jitted function, or the environment's ``VICA_JAX_ATTENTION``, in this
order.

There are no mask tensors: sequences are padded on the right, so a causal mask hides
the padding from every real query.
"""

import functools
import logging
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from vica_jax.errors import InputError
from vica_jax.models.blockwise import blockwise
from vica_jax.models.layers import precision_of
from vica_jax.models.online_softmax import NEG_INF

Implementation = Literal["auto", "reference", "short", "blockwise", "cudnn"]
VARIABLE = "VICA_JAX_ATTENTION"  # of the environment: the choice where none is made
SHORT_LIMIT = 256 * 256  # T * S up to which all scores are held
SELF_TEST_GAP = 0.03  # of the largest element; bfloat16 rounds by 0.004

log = logging.getLogger(__name__)
# Part of the key of jit's cache: another choice is another program.
_context: Any = jax.make_user_context(default_value=None)


class AttentionError(InputError):
    """An implementation that there is not, or that cannot do what is asked."""


def using(implementation: Implementation) -> AbstractContextManager[None]:
    """A context in which ``attend`` is run this way, jitted functions included.

    Raises:
      AttentionError: there is no such implementation.
    """
    return _context(_known(implementation, "attention"))


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    implementation: Implementation | None = None,
) -> jax.Array:
    """Softmax attention. q ``[B,T,N,H]``, k and v ``[B,S,K,H]`` -> ``[B,T,N,H]``.

    With ``causal``, T == S and query t sees keys 0..t.

    Raises:
      ValueError: causal with T != S.
      AttentionError: an implementation that there is not, or ``cudnn`` by name where
        it cannot run.
    """
    T, S = q.shape[1], k.shape[1]
    if causal and T != S:
        raise ValueError(f"causal attention needs T == S, got {T} and {S}")
    chosen = _known(implementation, "implementation") if implementation else _default()
    if chosen == "auto":
        return _auto(q, k, v, causal)
    if chosen == "cudnn":
        if reason := _without_cudnn(q):
            raise AttentionError(f"attention=cudnn: {reason}: choose auto or blockwise")
        return _cudnn(q, k, v, causal)
    return _PLAIN[chosen](q, k, v, causal)


def _known(name: Any, where: str) -> Implementation:
    if name not in get_args(Implementation):
        names = ", ".join(get_args(Implementation))
        raise AttentionError(f"{where}={name}: take one of {names}")
    return name


def _default() -> Implementation:
    """The context's choice, the environment's, or ``auto``."""
    return _context.value or _known(os.environ.get(VARIABLE) or "auto", VARIABLE)


def _auto(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    if q.shape[1] * k.shape[1] <= SHORT_LIMIT:
        return _short(q, k, v, causal)
    trusted = not _without_cudnn(q) and _cudnn_agrees(
        *_kernel_kind(q, causal), gradients=False
    )
    return (_trusted_cudnn if trusted else _blockwise)(q, k, v, causal)


def _without_cudnn(q: jax.Array) -> str | None:
    """Why cuDNN's kernel cannot take these queries; None where it can."""
    if jax.default_backend() != "gpu":
        return f"it needs an NVIDIA GPU, this is {jax.default_backend()}"
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it takes bfloat16 or float16, not {q.dtype.name}"
    if q.shape[-1] % 8:
        return f"it takes head dims in multiples of 8, not {q.shape[-1]}"
    return None


def _reference(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
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


def _short(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    """Batch and kv heads lead every product, as XLA's CPU products want them.

    There the einsum above takes two to three times as long on Hiera's windows.
    """
    B, T, N, H = q.shape
    S, K = k.shape[1:3]
    G = N // K
    rows = q.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4).reshape(B, K, G * T, H)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    scores = _product(rows, k, 3) * (1.0 / math.sqrt(H))
    if causal:
        seen = jnp.arange(T)[:, None] >= jnp.arange(S)[None]
        scores = jnp.where(jnp.tile(seen, (G, 1)), scores, NEG_INF)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    out = _product(weights.astype(q.dtype), v, 2) / total
    out = out.astype(q.dtype).reshape(B, K, G, T, H).transpose(0, 3, 1, 2, 4)
    return out.reshape(B, T, N, H)


def _product(x: jax.Array, y: jax.Array, contract: int) -> jax.Array:
    """``[B,K,R,.]`` by ``[B,K,.,.]``, over x's last axis and y's ``contract``."""
    return jax.lax.dot_general(
        x,
        y,
        (((3,), (contract,)), ((0, 1), (0, 1))),
        precision=precision_of(x.dtype),
        preferred_element_type=jnp.float32,
    )


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, implementation="cudnn"
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _trusted_cudnn(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    """cuDNN's kernel; its backward pass is tried out only where one is asked for."""
    return _cudnn(q, k, v, causal)


def _trusted_forward(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool):
    trusted = _cudnn_agrees(*_kernel_kind(q, causal), gradients=True)
    kernel = functools.partial(_cudnn if trusted else blockwise, causal=causal)
    return jax.vjp(kernel, q, k, v)


def _trusted_backward(causal: bool, pullback: Callable, g: jax.Array):
    return pullback(g)


_trusted_cudnn.defvjp(_trusted_forward, _trusted_backward)


def _blockwise(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    return blockwise(q, k, v, causal=causal)


_PLAIN: dict[str, Callable[..., jax.Array]] = {
    "reference": _reference,
    "short": _short,
    "blockwise": _blockwise,
}


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

    rng, gaps = np.random.default_rng(0), []
    with jax.ensure_compile_time_eval():
        q, k, v, g = (
            jnp.asarray(rng.standard_normal((1, 512 + odd, heads, head_dim)), dtype)
            for heads in (4, 2, 2, 4)
        )
        try:
            pairs = zip(
                run(_cudnn, q, k, v, g), run(blockwise, q, k, v, g), strict=True
            )
            gaps += [gap(fused, plain) for fused, plain in pairs]
            agrees = all(x < SELF_TEST_GAP for x in gaps)  # NaN does not agree
            reason = f"it differs by {max(gaps):.3f}"
        except Exception as error:  # any failure of an optional kernel: say and go on
            agrees, reason = False, f"{type(error).__name__}: {error}"
    what = "attention's gradients" if gradients else "attention"
    kind = f"{what} ({dtype}, head dim {head_dim}{', causal' * causal})"
    if agrees:
        log.info("cuDNN computes %s: within %.1e of blockwise", kind, max(gaps))
    else:
        log.warning(
            "cuDNN does not compute %s: %s; blockwise attention takes its place",
            kind,
            reason,
        )
    return agrees
