"""Dense layers and norms shared by every tower.

Products take the activations' dtype, accumulate in float32 and are cast back: right on
GPUs and several times faster than a plain bfloat16 product on CPUs. float32 products
ask for full precision, so that GPUs do not silently compute them in TF32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from vica_jax.sharding import Axes, declare


def precision_of(dtype: jnp.dtype) -> jax.lax.Precision:
    full = jnp.dtype(dtype) == jnp.float32
    return jax.lax.Precision.HIGHEST if full else jax.lax.Precision.DEFAULT


def dot(x: jax.Array, kernel: jax.Array, contract: int = 1) -> jax.Array:
    """``x``'s last ``contract`` axes with ``kernel``'s first ones, in float32."""
    lhs = tuple(range(x.ndim - contract, x.ndim))
    return jax.lax.dot_general(
        x,
        kernel.astype(x.dtype),
        ((lhs, tuple(range(contract))), ((), ())),
        precision=precision_of(x.dtype),
        preferred_element_type=jnp.float32,
    )


def map_in_place(
    function: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array
) -> jax.Array:
    """``function(i, x[i])`` over the leading axis, results written over ``x``.

    ``jax.lax.map`` would fill a fresh zero buffer per call; XLA merges the zeros of
    all layers into one constant and keeps a copy per layer alive from the start, which
    cost 17 GB at 28 layers of 22.5k tokens.
    """

    def step(i, x):
        row = jax.lax.dynamic_index_in_dim(x, i, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(x, function(i, row), i, 0)

    return jax.lax.fori_loop(0, x.shape[0], step, x)


class Linear(nn.Module):
    """Affine map over the last ``contract`` axes; the kernel keeps its shape.

    ``shape`` is the whole kernel's, e.g. ``(D, N, H)`` maps ``[..., D]`` to
    ``[..., N, H]``. Initialised by Xavier's rule.
    """

    shape: tuple[int, ...]
    axes: Axes
    contract: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        ins = tuple(range(self.contract))
        outs = tuple(range(self.contract, len(self.shape)))
        xavier = nn.initializers.variance_scaling(
            1.0, "fan_avg", "uniform", in_axis=ins, out_axis=outs
        )
        kernel = self.param(
            "kernel", declare(xavier, self.axes), self.shape, jnp.float32
        )
        y = dot(x, kernel, self.contract)
        if self.use_bias:
            zeros = declare(nn.initializers.zeros, self.axes[self.contract :])
            bias = self.param("bias", zeros, self.shape[self.contract :], jnp.float32)
            y = y + bias.astype(jnp.float32)
        return y.astype(x.dtype)


class LayerNorm(nn.Module):
    """Layer norm with scale and bias, computed in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1:]
        ones = declare(nn.initializers.ones, ("channels",))
        zeros = declare(nn.initializers.zeros, ("channels",))
        scale = self.param("scale", ones, width, jnp.float32).astype(jnp.float32)
        bias = self.param("bias", zeros, width, jnp.float32).astype(jnp.float32)
        y = x.astype(jnp.float32)
        mean = y.mean(-1, keepdims=True)
        centred = y - mean
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps) * scale + bias
        return y.astype(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm; normalised in float32, cast back, then scaled."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        ones = declare(nn.initializers.ones, ("channels",))
        scale = self.param("scale", ones, x.shape[-1:], jnp.float32)
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return y.astype(x.dtype) * scale.astype(x.dtype)


def gelu(x: jax.Array) -> jax.Array:
    """Exact (erf) GELU in float32."""
    return nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """Tanh-approximated GELU in float32."""
    return nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


class Mlp(nn.Module):
    """Two-layer perceptron of the vision towers."""

    hidden: int
    tanh_gelu: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = Linear((width, self.hidden), ("embed", "mlp"), name="fc1")(x)
        x = gelu_tanh(x) if self.tanh_gelu else gelu(x)
        return Linear((self.hidden, width), ("mlp", "embed"), name="fc2")(x)


def normal(std: float):
    """Normal initialiser of a given standard deviation."""
    return nn.initializers.normal(std)
