"""Pixel resizing on the device equals the rounding of the reference, torch-free."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vica_jax.layout import bilinear_taps
from vica_jax.models.resize import pool_bilinear, resize_frames

# Sizes whose quotient is inexact in float32: one wrong bit there is 1e-4 in a pixel.
SIZES = [((97, 80), 96), ((480, 641), 160), ((211, 503), 160), ((50, 44), 192)]


def two_taps(x, out):
    for axis in (0, 1):
        lower, upper, weight = bilinear_taps(x.shape[axis], out)
        w = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = x.take(lower, axis) * (1 - w) + x.take(upper, axis) * w
    return x


def triangle(size, out):
    scale = np.float32(size) / np.float32(out)
    support = np.maximum(scale, np.float32(1))
    centre = (np.arange(out, dtype=np.float32) + np.float32(0.5)) * scale
    distance = np.abs(np.arange(size) + 0.5 - centre[:, None].astype(np.float64))
    weights = np.maximum(1 - distance / support, 0)
    return weights / weights.sum(1, keepdims=True)


def antialiased(x, out):
    rows, cols = (triangle(n, out) for n in x.shape[:2])
    x = np.tensordot(rows, x.astype(np.float64), 1)
    return np.tensordot(cols, x, (1, 1)).swapaxes(0, 1)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("hw", "out"), SIZES)
def test_frames_in_a_bucket(hw, out, antialias):
    rng = np.random.default_rng(0)
    x = rng.random((*hw, 3), np.float32)
    bucket = np.full((2, hw[0] + 7, hw[1] + 2, 3), 9, np.float32)
    bucket[:, : hw[0], : hw[1]] = x
    resize = jax.jit(resize_frames, static_argnums=(2, 3))
    ours = resize(bucket, np.array([hw, hw], np.int32), out, antialias)
    expected = antialiased(x, out) if antialias else two_taps(x, out)
    np.testing.assert_allclose(ours[0], expected, atol=1.5e-6)
    np.testing.assert_array_equal(ours[0], ours[1])


def test_pooling_is_the_same_two_taps():
    rng = np.random.default_rng(1)
    grid = rng.random((27, 27, 4), np.float32)
    np.testing.assert_allclose(
        pool_bilinear(jnp.asarray(grid)[None], 14)[0], two_taps(grid, 14), atol=1e-6
    )
