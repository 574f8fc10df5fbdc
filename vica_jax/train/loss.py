"""Next-token loss at supervised positions only, the vocabulary in chunks.

Full logits (22.5k positions x 152k ids) never exist: hidden states are gathered at the
supervised positions first, and their logits are made chunk by chunk, again in the
backward pass.

Axes: B batch, T tokens, K supervised positions, D width, V vocabulary, C chunk.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vica_jax.models.layers import precision_of
from vica_jax.models.vica import Vica
from vica_jax.typing import Batch, Params

VOCAB_CHUNK = 16384


def target_nll(module: Vica, batch: Batch) -> jax.Array:
    """Negative log-likelihoods float32 ``[B,K]`` of the targets, 0 where unused."""
    hidden = module.hidden_states(batch)
    at = batch["target_positions"]
    hidden = jnp.take_along_axis(hidden, at[..., None], axis=1)
    hidden = module.llm.final_norm(hidden)
    targets = batch["targets"]
    kernel = module.llm.output_kernel().astype(hidden.dtype)
    nll = cross_entropy(hidden, kernel, jnp.maximum(targets, 0))
    return jnp.where(targets >= 0, nll, 0.0)


def batch_nll(
    model: Vica, params: Params, batch: Batch, dropout: jax.Array | None = None
) -> jax.Array:
    """``target_nll`` of plain parameters; ``dropout`` is a key, for LoRA only."""
    rngs: dict[str, Any] = {} if dropout is None else {"dropout": dropout}
    nll: Any = model.apply({"params": params}, batch, method=target_nll, rngs=rngs)
    return nll


def cross_entropy(
    hidden: jax.Array, kernel: jax.Array, targets: jax.Array, chunk: int = VOCAB_CHUNK
) -> jax.Array:
    """``logsumexp(hidden @ kernel) - (hidden @ kernel)[target]``, float32.

    hidden ``[B,K,D]``, kernel ``[D,V]``, targets int32 ``[B,K]`` -> ``[B,K]``. At most
    ``[B,K,chunk]`` logits exist at a time, in the gradient too.
    """
    V = kernel.shape[1]
    least = -(-V // chunk)
    divisors = (n for n in range(least, 4 * least) if V % n == 0)
    return _cross_entropy(hidden, kernel, targets, next(divisors, least))


def _in_parts(kernel: jax.Array, count: int) -> jax.Array:
    """``[D,V]`` -> ``[count,D,C]``; part i holds the ids of remainder i.

    Interleaved, so that a vocabulary split over devices stays split in every part.
    Padded with zeros where count does not divide V.
    """
    D, V = kernel.shape
    kernel = jnp.pad(kernel, ((0, 0), (0, -V % count)))
    return kernel.reshape(D, -1, count).transpose(2, 0, 1)


def _logits(hidden: jax.Array, part: jax.Array, i: jax.Array, ids: Any) -> jax.Array:
    """Logits of part i; ``ids`` (V, count): padding never has a probability."""
    logits = jax.lax.dot_general(
        hidden,
        part,
        (((2,), (0,)), ((), ())),
        precision=precision_of(hidden.dtype),
        preferred_element_type=jnp.float32,
    )
    V, count = ids
    if V % count:
        logits = jnp.where(jnp.arange(part.shape[1]) * count + i < V, logits, -jnp.inf)
    return logits


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _cross_entropy(hidden, kernel, targets, count):
    return _forward(hidden, kernel, targets, count)[0]


def _forward(hidden, kernel, targets, count):
    def step(carry, inputs):
        top, total, label = carry
        i, part = inputs
        logits = _logits(hidden, part, i, ids)
        new_top = jnp.maximum(top, logits.max(-1))
        total = total * jnp.exp(top - new_top)
        total = total + jnp.exp(logits - new_top[..., None]).sum(-1)
        own = jnp.take_along_axis(logits, (targets // count)[..., None], -1)[..., 0]
        label = jnp.where(targets % count == i, own, label)
        return (new_top, total, label), None

    ids = kernel.shape[1], count
    zeros = jnp.zeros(targets.shape, jnp.float32)
    first = (jnp.full(targets.shape, -jnp.inf, jnp.float32), zeros, zeros)
    parts = (jnp.arange(count), _in_parts(kernel, count))
    (top, total, label), _ = jax.lax.scan(step, first, parts)
    lse = top + jnp.log(total)
    return lse - label, (hidden, kernel, targets, lse)


def _backward(count, saved, g):
    hidden, kernel, targets, lse = saved
    precision = precision_of(hidden.dtype)
    ids = kernel.shape[1], count

    def step(d_hidden, inputs):
        i, part = inputs
        p = jnp.exp(_logits(hidden, part, i, ids) - lse[..., None])
        column = jnp.arange(part.shape[1])
        hit = (targets // count)[..., None] == column
        hit &= (targets % count == i)[..., None]
        d_logits = ((p - hit) * g[..., None]).astype(hidden.dtype)
        d_hidden += jax.lax.dot_general(
            d_logits,
            part,
            (((2,), (1,)), ((), ())),
            precision=precision,
            preferred_element_type=jnp.float32,
        )
        d_part = jax.lax.dot_general(
            hidden,
            d_logits,
            (((0, 1), (0, 1)), ((), ())),
            precision=precision,
            preferred_element_type=jnp.float32,
        )
        return d_hidden, d_part.astype(kernel.dtype)

    first = jnp.zeros(hidden.shape, jnp.float32)
    parts = (jnp.arange(count), _in_parts(kernel, count))
    d_hidden, d_parts = jax.lax.scan(step, first, parts)
    D, V = kernel.shape
    d_kernel = d_parts.transpose(1, 2, 0).reshape(D, -1)[:, :V]
    return d_hidden.astype(hidden.dtype), d_kernel, None


_cross_entropy.defvjp(_forward, _backward)
