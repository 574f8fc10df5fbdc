"""Rotary position embedding, halves rotated (Su et al. 2021, as Qwen2 applies it)."""

import jax
import jax.numpy as jnp
import numpy as np


def rope_frequencies(head_dim: int, theta: float) -> np.ndarray:
    """Inverse frequencies, float32 ``[H/2]``, in the reference's two roundings.

    They are a constant, made here and not under jit: there XLA folds power and division
    into one rounding, and the last bit of a frequency, times position 22,000, moves a
    cosine by 0.002.
    """
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    power = np.float64(theta) ** exponent.astype(np.float64)
    return np.float32(1) / power.astype(np.float32)


def rope_table(
    positions: jax.Array, head_dim: int, theta: float
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines, float32 ``[B,T,H/2]``, for positions int32 ``[B,T]``."""
    frequency = rope_frequencies(head_dim, theta)
    angle = positions.astype(jnp.float32)[..., None] * frequency
    return jnp.cos(angle), jnp.sin(angle)


def apply_rope(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotate ``[B,T,N,H]`` by the table of its positions; float32 inside."""
    cos, sin = (part[:, :, None] for part in table)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
