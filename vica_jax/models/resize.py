"""Torch's resizing rules: bilinear with and without antialias, bicubic for tables.

All follow ``interpolate(align_corners=False)``: output cell i looks at source
coordinate ``(i + 0.5) * size / out - 0.5``.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vica_jax.layout import bilinear_taps


def pool_bilinear(x: jax.Array, out: int) -> jax.Array:
    """Square grids ``[..., g, g, C]`` -> ``[..., out, out, C]``, static sizes."""
    lower, upper, weight = bilinear_taps(x.shape[-2], out)
    for axis in (-2, -3):
        w = weight.reshape(-1, *[1] * (-axis - 1)).astype(np.float32)
        a, b = jnp.take(x, lower, axis), jnp.take(x, upper, axis)
        x = (a * (1 - w) + b * w).astype(x.dtype)
    return x


def resize_frames(
    frames: jax.Array, sizes: jax.Array, out: int, antialias: bool
) -> jax.Array:
    """Float frames ``[n,h,w,3]`` in a bucket, real ``sizes int32[n,2]`` -> ``out``.

    Without antialias two taps per side; with it torchvision's triangle filter whose
    support grows with the shrink factor. Padding is never read.
    """
    resize = _antialiased if antialias else _two_taps

    def one(frame, size):
        frame = resize(frame, size[0], out)  # rows
        return resize(frame.swapaxes(0, 1), size[1], out).swapaxes(0, 1)

    return jax.vmap(one)(frames, sizes)


def _scaled_centres(
    size: jax.Array, out: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``size / out`` in float32, and its products with 0.5, 1.5, ... as exact sums.

    torch divides once and rounds each product once; XLA multiplies by the reciprocal of
    a constant and may or may not fuse what follows. A divisor it cannot see makes the
    division true, and the scale split after its 12th bit makes both products exact:
    their sum is then the same with and without fusing. A last bit here is 1e-4 in a
    pixel of a large frame.
    """
    divisor = jnp.where(size > 0, jnp.float32(out), 1.0)
    scale = size.astype(jnp.float32) / divisor
    bits = jax.lax.bitcast_convert_type(scale, jnp.uint32) & jnp.uint32(0xFFFFF000)
    upper = jax.lax.bitcast_convert_type(bits, jnp.float32)
    centre = jnp.arange(out, dtype=jnp.float32) + 0.5
    return scale, upper * centre, (scale - upper) * centre


def _two_taps(x: jax.Array, size: jax.Array, out: int) -> jax.Array:
    _, coarse, fine = _scaled_centres(size, out)
    source = jnp.maximum((coarse - 0.5) + fine, 0.0)
    lower = jnp.minimum(source.astype(jnp.int32), size - 1)
    upper = jnp.minimum(lower + 1, size - 1)
    weight = (source - lower).reshape(-1, *[1] * (x.ndim - 1))
    return jnp.take(x, lower, 0) * (1 - weight) + jnp.take(x, upper, 0) * weight


def _antialiased(x: jax.Array, size: jax.Array, out: int) -> jax.Array:
    scale, coarse, fine = _scaled_centres(size, out)
    support = jnp.maximum(scale, 1.0)
    centre = coarse + fine
    tap = jnp.arange(x.shape[0], dtype=jnp.float32) + 0.5
    distance = jnp.abs(tap[None] - centre[:, None]) / support
    weights = jnp.maximum(1.0 - distance, 0.0)
    weights = jnp.where(jnp.arange(x.shape[0])[None] < size, weights, 0.0)
    weights = weights / weights.sum(1, keepdims=True)
    return jnp.tensordot(weights, x, axes=1, precision=jax.lax.Precision.HIGHEST)


def bicubic_matrix(size: int, out: int, a: float = -0.75) -> np.ndarray:
    """float32 ``[out, size]``: Keys' cubic with border taps clamped, no antialias."""
    matrix = np.zeros((out, size), np.float64)
    for i in range(out):
        source = (i + 0.5) * size / out - 0.5
        first = int(np.floor(source))
        for tap in range(first - 1, first + 3):
            d = abs(source - tap)
            if d <= 1:
                w = ((a + 2) * d - (a + 3)) * d * d + 1
            else:
                w = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
            matrix[i, min(max(tap, 0), size - 1)] += w
    return matrix.astype(np.float32)


def resize_bicubic(table: jax.Array, out: tuple[int, int]) -> jax.Array:
    """A position table ``[h,w,C]`` -> ``[H,W,C]``."""
    rows = bicubic_matrix(table.shape[0], out[0])
    cols = bicubic_matrix(table.shape[1], out[1])
    return jnp.einsum(
        "Hh,Ww,hwC->HWC",
        rows,
        cols,
        table.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
