"""Rotary position embedding, halves rotated (Su et al. 2021, as Qwen2 applies it)."""

import jax
import jax.numpy as jnp


def rope_table(
    positions: jax.Array, head_dim: int, theta: float
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines, float32 ``[B,T,H/2]``, for positions int32 ``[B,T]``."""
    exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    frequency = 1.0 / theta**exponent
    angle = positions.astype(jnp.float32)[..., None] * frequency
    return jnp.cos(angle), jnp.sin(angle)


def apply_rope(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotate ``[B,T,N,H]`` by the table of its positions; float32 inside."""
    cos, sin = (part[:, :, None] for part in table)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
