"""Rotary tables: exact to float32 at the far end of the context, also under jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vica_jax.models.rope import apply_rope, rope_table


@pytest.mark.parametrize(("head_dim", "theta"), [(128, 1e6), (64, 1e6), (16, 1e4)])
def test_table_is_exact_far_out(head_dim, theta):
    """The reference rounds the frequencies to float32, then the angle, then looks up.

    A compiler that folds the frequencies differently is off by 2e-3 at 22k positions.
    """
    positions = np.array([[0, 1, 1000, 22_144, 32_767]], np.int32)
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    power = np.power(np.float64(theta), exponent.astype(np.float64)).astype(np.float32)
    frequency = (np.float32(1) / power).astype(np.float32)
    angle = positions[..., None].astype(np.float32) * frequency
    table = jax.jit(lambda p: rope_table(p, head_dim, theta))(positions)
    for ours, function in zip(table, (np.cos, np.sin), strict=True):
        np.testing.assert_allclose(ours, function(angle.astype(np.float64)), atol=2e-6)


def test_scores_depend_on_the_distance_only():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((1, 1, 1, 32)), jnp.float32) for _ in "qk")

    def score(i, j):
        a = apply_rope(q, rope_table(jnp.array([[i]]), 32, 1e4))
        b = apply_rope(k, rope_table(jnp.array([[j]]), 32, 1e4))
        return float((a * b).sum())

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert abs(score(7, 3) - score(7, 5)) > 1e-3
