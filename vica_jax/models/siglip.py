"""SigLIP vision tower (Zhai et al. 2023), as the reference uses it.

Patches of 14 pixels cut without padding (384 -> 27 x 27, six pixels ignored), learned
positions, pre-norm blocks with tanh GELU. The output is the raw hidden state after the
last kept block: ``post_norm`` is a leaf of the checkpoint that nothing reads.

Axes: B images, P patches, D width, N heads, H head dim.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from vica_jax.models.attention import attend
from vica_jax.models.config import SiglipConfig
from vica_jax.models.layers import LayerNorm, Linear, Mlp, normal
from vica_jax.models.stack import Remat, Stack
from vica_jax.sharding import constrain, declare


def siglip_pixels(pixels: jax.Array, cfg: SiglipConfig) -> jax.Array:
    """uint8 ``[B,S,S,3]`` -> float32 of mean 0.5 and deviation 0.5, that is -1 .. 1."""
    scaled = pixels.astype(jnp.float32) * jnp.float32(1 / 255)
    return (scaled - cfg.pixel_mean) / cfg.pixel_std


class Attention(nn.Module):
    """Full self-attention, ``[B,P,D]`` -> ``[B,P,D]``."""

    cfg: SiglipConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.cfg
        shape = (c.width, c.num_heads, c.head_dim)
        axes = ("embed", "heads", "head_dim")
        q, k, v = (
            Linear(shape, axes, name=f"{name}_proj")(x) for name in ("q", "k", "v")
        )
        x = attend(q, k, v)
        out = Linear(
            (c.num_heads, c.head_dim, c.width),
            ("heads", "head_dim", "embed"),
            contract=2,
            name="o_proj",
        )
        return out(x)


class Block(nn.Module):
    """Pre-norm transformer block, ``[B,P,D]`` -> ``[B,P,D]``."""

    cfg: SiglipConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, None]:
        c = self.cfg
        x = constrain(x, "frames", "length", None)
        x = x + Attention(c, name="attn")(LayerNorm(c.norm_eps, name="norm1")(x))
        x = x + Mlp(c.mlp_dim, True, name="mlp")(LayerNorm(c.norm_eps, name="norm2")(x))
        self.sow("intermediates", "output", x)
        return x, None


def cut_patches(pixels: jax.Array, size: int) -> jax.Array:
    """``[B,S,S,3]`` -> ``[B,P,size,size,3]``, row by row; the rest is cut off."""
    side = pixels.shape[1] // size
    x = pixels[:, : side * size, : side * size]
    x = x.reshape(-1, side, size, side, size, 3).swapaxes(2, 3)
    return x.reshape(-1, side * side, size, size, 3)


class PosEmbed(nn.Module):
    """Learned positions, ``[P,D]``."""

    cfg: SiglipConfig

    @nn.compact
    def __call__(self) -> jax.Array:
        shape = (self.cfg.grid**2, self.cfg.width)
        init = declare(normal(0.02), ("position", "embed"))
        return self.param("embedding", init, shape, jnp.float32)


class Siglip(nn.Module):
    """uint8 pixels ``[B,S,S,3]`` -> hidden state ``[B,P,D]`` of the last kept block."""

    cfg: SiglipConfig
    dtype: jax.typing.DTypeLike = jnp.float32
    scan: bool = False
    remat: Remat = "full"

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        c = self.cfg
        x = siglip_pixels(pixels, c).astype(self.dtype)
        patch_embed = Linear(
            (c.patch_size, c.patch_size, 3, c.width),
            ("patch", "patch", "channels", "embed"),
            contract=3,
            name="patch_embed",
        )
        x = patch_embed(cut_patches(x, c.patch_size))
        x = x + PosEmbed(c, name="pos_embed")().astype(x.dtype)
        self.sow("intermediates", "embeddings", x)
        x, _ = Stack(Block, c, c.depth, self.scan, self.remat, name="layers")(x)
        if self.is_initializing():
            LayerNorm(c.norm_eps, name="post_norm")(x)
        return x
