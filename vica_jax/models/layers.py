"""Dense layers and norms shared by every tower.

Products take the activations' dtype, accumulate in float32 and are cast back: right on
GPUs and several times faster than a plain bfloat16 product on CPUs. float32 products
ask for full precision, so that GPUs do not silently compute them in TF32.

Beside a kernel may stand a low-rank branch (LoRA, Hu et al. 2021): leaves ``lora_a``
``[in..., r]``, ``lora_b`` ``[r, out...]`` and ``lora_scale``, put there by
``vica_jax.train.lora``. The product is then ``x W + scale (x A) B``; W itself is never
changed, so no gradient of W exists where only A and B train.

A kernel of int8 has its scale beside it, ``kernel_scale`` (``models/quantize``), and is
an ``Int8`` in the products; nothing trains then.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.custom_derivatives import SymbolicZero

from vica_jax.models.quantize import SCALE, Int8, MaybeInt8
from vica_jax.sharding import Axes, declare, on_many_devices

KERNEL_BLOCK = 2**20  # elements of an int8 kernel that the CPU widens at a time


def precision_of(dtype: jnp.dtype) -> jax.lax.Precision:
    full = jnp.dtype(dtype) == jnp.float32
    return jax.lax.Precision.HIGHEST if full else jax.lax.Precision.DEFAULT


def dot(x: jax.Array, kernel: MaybeInt8, contract: int = 1) -> jax.Array:
    """``x``'s last ``contract`` axes with ``kernel``'s first ones, in float32.

    Its gradients are such products too, of operands in ``x``'s dtype: the rule that JAX
    derives would multiply the float32 gradient as it is, with a kernel widened to
    float32. A gradient that nobody asks for is not made and its operand not kept.
    """
    if isinstance(kernel, Int8):
        return _int8_dot(x, kernel, contract)
    return _dot(x, kernel, contract)


def _int8_dot(x: jax.Array, kernel: Int8, contract: int) -> jax.Array:
    """``(x values) scale``, without a float copy of all kernels.

    What does not change in the loop of decode steps XLA computes before it: on the CPU
    the float copies of all kernels, and a barrier does not keep it from that. So there
    a loop over blocks widens each on its own. Elsewhere the conversion is the product's
    to fuse, and a barrier that ties the kernel to ``x`` keeps it in its place.
    """
    values, scale = kernel
    if on_one_cpu():
        return _blocked_dot(x, values, scale, contract)
    x, values = jax.lax.optimization_barrier((x, values))
    inner = tuple(range(x.ndim - contract, x.ndim))
    y = _product(x, values.astype(x.dtype), inner, tuple(range(contract)))
    return y * scale


def _blocked_dot(
    x: jax.Array, values: jax.Array, scale: jax.Array, contract: int
) -> jax.Array:
    """The product by blocks of output channels, each widened on its own."""
    leading, outs = x.shape[: x.ndim - contract], values.shape[contract:]
    ins, channels = prod(values.shape[:contract]), prod(outs)
    x, values = x.reshape(-1, ins), values.reshape(ins, channels)
    scale = scale.reshape(channels)
    # Two at least: of a loop of one XLA makes none, and the widened kernel moves out.
    width = min(max(KERNEL_BLOCK // ins, 1), -(-channels // 2))

    def block(j, y):
        # The last block ends where the channels end.
        start = jnp.minimum(j * width, channels - width)
        part = jax.lax.dynamic_slice_in_dim(values, start, width, 1)
        part = _product(x, part.astype(x.dtype), (1,), (0,))
        part = part * jax.lax.dynamic_slice_in_dim(scale, start, width)
        return jax.lax.dynamic_update_slice_in_dim(y, part, start, 1)

    # Any values will do to be written over; XLA would make one constant of the zeros of
    # all layers and copy it for each of them at the start.
    y = jnp.broadcast_to(x[:, :1].astype(jnp.float32), (x.shape[0], channels))
    y = jax.lax.fori_loop(0, -(-channels // width), block, y)
    return y.reshape(*leading, *outs)


def on_one_cpu() -> bool:
    """Whether the program runs on one CPU device."""
    return jax.default_backend() == "cpu" and not on_many_devices()


def read_scale(module: nn.Module, kernel: jax.Array) -> MaybeInt8:
    """A module's kernel with the scale beside it, if it is one of int8.

    Raises:
      ValueError: an int8 kernel without a scale.
    """
    if module.has_variable("params", SCALE):
        return Int8(kernel, module.get_variable("params", SCALE))
    if kernel.dtype == jnp.int8:
        raise ValueError(
            f"{'/'.join(module.path)}: an int8 kernel without {SCALE}: quantise the "
            "parameters with vica_jax.models.quantize"
        )
    return kernel


def _product(
    x: jax.Array, y: jax.Array, x_axes: tuple[int, ...], y_axes: tuple[int, ...]
) -> jax.Array:
    return jax.lax.dot_general(
        x,
        y,
        ((x_axes, y_axes), ((), ())),
        precision=precision_of(x.dtype),
        preferred_element_type=jnp.float32,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dot(x, kernel, contract):
    inner = tuple(range(x.ndim - contract, x.ndim))
    return _product(x, kernel.astype(x.dtype), inner, tuple(range(contract)))


def _dot_forward(x, kernel, contract):
    y = _dot(x.value, kernel.value, contract)
    kept_x = x.value if kernel.perturbed else None
    kept_kernel = kernel.value if x.perturbed else None
    dtypes = jnp.empty(0, x.value.dtype), jnp.empty(0, kernel.value.dtype)
    return y, (kept_x, kept_kernel, dtypes)


def _dot_backward(contract, kept, gradient):
    x, kernel, (of_x, of_kernel) = kept
    g = instantiate(gradient).astype(of_x.dtype)
    d_x = d_kernel = None
    if kernel is not None:
        outs = kernel.ndim - contract
        g_axes, k_axes = range(g.ndim - outs, g.ndim), range(contract, kernel.ndim)
        d_x = _product(g, kernel.astype(g.dtype), tuple(g_axes), tuple(k_axes))
        d_x = d_x.astype(g.dtype)
    if x is not None:
        rows = tuple(range(x.ndim - contract))
        d_kernel = _product(x, g, rows, rows).astype(of_kernel.dtype)
    return d_x, d_kernel


_dot.defvjp(_dot_forward, _dot_backward, symbolic_zeros=True)


def instantiate(gradient: Any) -> jax.Array:
    """An incoming gradient of a ``custom_vjp`` with symbolic zeros, as an array."""
    if isinstance(gradient, SymbolicZero):
        aval: Any = gradient.aval
        return jnp.zeros(aval.shape, aval.dtype)
    return gradient


class LowRank(NamedTuple):
    """A branch beside a kernel; with a ``key`` its input is dropped out at ``rate``."""

    a: jax.Array
    b: jax.Array
    scale: jax.Array
    rate: jax.Array | None = None
    key: jax.Array | None = None


def low_rank(module: nn.Module) -> LowRank | None:
    """The branch that stands in a module's parameters, if any.

    It drops out where it has a rate and the model is applied with a ``dropout`` key.
    """

    def leaf(name):
        return module.get_variable("params", name)

    if not module.has_variable("params", "lora_a"):
        return None
    if not module.has_variable("params", "lora_scale"):
        raise ValueError(
            f"{'/'.join(module.path)}: lora_a without lora_scale: give the parameters "
            "through vica_jax.train.lora.attach"
        )
    branch = LowRank(leaf("lora_a"), leaf("lora_b"), leaf("lora_scale"))
    if not module.has_variable("params", "lora_dropout"):
        return branch
    if not module.has_rng("dropout"):
        return branch
    return branch._replace(rate=leaf("lora_dropout"), key=module.make_rng("dropout"))


def multiply(
    x: jax.Array, kernel: MaybeInt8, branch: LowRank | None, contract: int = 1
) -> jax.Array:
    """``dot`` with a kernel and the branch beside it, in float32."""
    y = dot(x, kernel, contract)
    if branch is None:
        return y
    if branch.rate is not None and branch.key is not None:
        x = dropout(x, branch.rate, branch.key)
    inner = dot(x, branch.a, contract) * branch.scale
    return y + dot(inner.astype(x.dtype), branch.b)


def dropout(x: jax.Array, rate: jax.Array, key: jax.Array) -> jax.Array:
    """Every element zero with probability ``rate``, else divided by ``1 - rate``."""
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


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
        y = multiply(x, read_scale(self, kernel), low_rank(self), self.contract)
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
