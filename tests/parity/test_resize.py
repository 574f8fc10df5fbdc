"""Our resizing against ``torch.nn.functional.interpolate``, on noise.

Noise is the hardest image: a source coordinate that is off by one part in a million
shows as an error of that size.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from convert import torch_peer
from vica_jax.layout import VisualLayout
from vica_jax.models.resize import (
    bicubic_matrix,
    pool_bilinear,
    resize_bicubic,
    resize_frames,
)

pytestmark = pytest.mark.parity

RESIZE = jax.jit(resize_frames, static_argnums=(2, 3))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def theirs(x: np.ndarray, size: tuple[int, int], **options) -> np.ndarray:
    """``[B,H,W,C]`` resized by torch."""
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return torch_peer.interpolate(x, size, **options).transpose(0, 2, 3, 1)


# ------------------------------------------------------------------ Hiera's pixels
@pytest.mark.parametrize("antialias", [False, True], ids=["two taps", "antialias"])
@pytest.mark.parametrize(
    ("height", "width", "out"),
    [
        (720, 1280, 1024),  # one side grows, the other shrinks
        (1080, 1920, 1024),
        (480, 640, 1024),
        (1024, 1024, 1024),
        (37, 53, 128),
        (301, 150, 128),
        (64, 1, 32),
        (1, 1, 8),
    ],
)
def test_frames_agree(height: int, width: int, out: int, antialias: bool, record_error):
    x = noise(1, height, width, 3, seed=height)
    size = jnp.array([[height, width]], jnp.int32)
    label = f"bilinear {height}x{width} to {out}" + ", antialias" * antialias
    peer = theirs(x, (out, out), mode="bilinear", antialias=antialias)
    ours = RESIZE(jnp.asarray(x), size, out, antialias)
    record_error("resize", label, ours, peer)


@settings(max_examples=20, phases=[Phase.generate])
@given(
    sizes=st.tuples(*[st.tuples(st.integers(1, 40), st.integers(1, 40))] * 3),
    out=st.sampled_from([1, 7, 16, 33]),  # a compilation each
    antialias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_frames_in_a_bucket_agree(sizes, out, antialias, seed, record_error):
    """Frames of several sizes in one bucket, whose padding must not matter."""
    bucket = np.full((len(sizes), 40, 40, 3), 1e3, np.float32)
    frames = [noise(1, *size, 3, seed=seed + i) for i, size in enumerate(sizes)]
    for slot, frame in zip(bucket, frames, strict=True):
        slot[: frame.shape[1], : frame.shape[2]] = frame[0]
    ours = RESIZE(jnp.asarray(bucket), jnp.array(sizes, jnp.int32), out, antialias)
    for a, frame in zip(ours, frames, strict=True):
        peer = theirs(frame, (out, out), mode="bilinear", antialias=antialias)
        label = "bilinear random" + ", antialias" * antialias
        record_error("resize", label, a, peer[0])


# -------------------------------------------------------------- position embedding
@pytest.mark.parametrize(
    ("size", "out"),
    [((14, 14), (256, 256)), ((7, 7), (256, 256)), ((7, 9), (5, 20)), ((1, 1), (3, 3))],
)
def test_position_tables_agree(size, out, record_error):
    table = noise(*size, 6) - 0.5
    peer = theirs(table[None], out, mode="bicubic")[0]
    label = f"bicubic {size[0]}x{size[1]} to {out[0]}x{out[1]}"
    ours = resize_bicubic(jnp.asarray(table), out)
    record_error("resize", label, ours, peer)


@settings(max_examples=40)
@given(size=st.integers(1, 30), out=st.integers(1, 60))
def test_bicubic_matrix_agrees(size: int, out: int):
    """The matrix is torch's answer to the unit vectors."""
    unit = np.eye(size, dtype=np.float32)[:, None, :, None]
    peer = torch_peer.interpolate(unit, (out, 1), mode="bicubic")[:, 0, :, 0].T
    np.testing.assert_allclose(bicubic_matrix(size, out), peer, atol=1e-5)


# ------------------------------------------------------------------------- pooling
@pytest.mark.parametrize(
    ("side", "stride"),
    [(27, 2), (32, 2), (27, 3), (32, 3), (64, 5), (256, 7), (5, 2), (5, 1), (3, 9)],
)
def test_pooling_agrees(side: int, stride: int, record_error):
    """To ceil(side / stride), as both streams are pooled.

    Where its CPU has fused multiply-add, torch rounds a source coordinate once and our
    taps twice: the last bit of coordinate 26 is 2e-6.
    """
    x = noise(2, side, side, 5) - 0.5
    layout = VisualLayout(siglip_image_size=side * 14, siglip_pool_stride=stride)
    out = layout.siglip_pooled_grid
    peer = theirs(x, (out, out), mode="bilinear")
    label = f"pooling {side} to {out}"
    ours = jax.jit(pool_bilinear, static_argnums=1)(jnp.asarray(x), out)
    record_error("resize", label, ours, peer)
