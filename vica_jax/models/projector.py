"""Projector from a tower's width to the language model's: Linear, exact GELU, Linear.

Source: LLaVA's ``mlp2x_gelu``. Projection comes before pooling.
"""

import jax
from flax import linen as nn

from vica_jax.models.layers import Linear, gelu


class Projector(nn.Module):
    """``[..., C]`` -> ``[..., D]``."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Linear((x.shape[-1], self.width), ("embed", "mlp"), name="fc1")(x)
        return Linear((self.width, self.width), ("mlp", "embed"), name="fc2")(gelu(x))
