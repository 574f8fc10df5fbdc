"""Hiera, the image encoder of SAM 2.1 (Ryali et al. 2023; Bolya et al. 2023).

A 7x7 convolution of stride 4, a bicubic-resized position table plus a tiled window
table, then blocks with window attention (global in a few), whose queries are
max-pooled 2x2 where a stage begins. No neck, no final norm.

Deliberate details of the reference: windows are padded with zeros *after* the norm and
the padding is not masked, so padded positions attend (their keys and values are the
bias) and take part in query pooling; the first block of a stage uses the window of the
stage before; where the width changes, the shortcut is a pooled linear map of the
normed input.

Axes: B frames, R rows and columns of the map (square), C channels, N heads, H head dim.
Blocks change width and window, so they are always a Python loop.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from vica_jax.models.attention import attend
from vica_jax.models.config import HieraConfig
from vica_jax.models.layers import LayerNorm, Linear, Mlp, normal, precision_of
from vica_jax.models.resize import resize_bicubic, resize_frames
from vica_jax.models.stack import Remat, rematerialised
from vica_jax.sharding import constrain, declare

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def hiera_pixels(frames: jax.Array, sizes: jax.Array, cfg: HieraConfig) -> jax.Array:
    """Raw uint8 frames ``[B,h,w,3]`` in a bucket -> float32 ``[B,S,S,3]``.

    ``sizes int32[B,2]`` are the frames' (height, width) inside the bucket. Float
    bilinear resize without keeping the aspect ratio, then ImageNet statistics.
    """
    x = frames.astype(jnp.float32) / 255.0
    x = resize_frames(x, sizes, cfg.image_size, cfg.antialias)
    mean, std = jnp.array(IMAGENET_MEAN), jnp.array(IMAGENET_STD)
    return (x - mean) / std


def to_windows(x: jax.Array, window: int) -> jax.Array:
    """``[B,R,R,C]`` -> ``[B*n*n,window,window,C]``, zero-padded to whole windows."""
    B, R, _, C = x.shape
    extra = -R % window
    if extra:
        x = jnp.pad(x, ((0, 0), (0, extra), (0, extra), (0, 0)))
    n = (R + extra) // window
    x = x.reshape(B, n, window, n, window, C).swapaxes(2, 3)
    return x.reshape(B * n * n, window, window, C)


def from_windows(x: jax.Array, size: int) -> jax.Array:
    """Inverse of ``to_windows``; padding is cut off down to ``size``."""
    window, C = x.shape[1], x.shape[-1]
    n = -(-size // window)
    x = x.reshape(-1, n, n, window, window, C).swapaxes(2, 3)
    return x.reshape(-1, n * window, n * window, C)[:, :size, :size]


def max_pool(x: jax.Array, stride: int) -> jax.Array:
    """Max over ``stride x stride`` cells of ``[B,R,R,...]``."""
    B, R, _, *rest = x.shape
    n = R // stride
    return x.reshape(B, n, stride, n, stride, *rest).max((2, 4))


class Attention(nn.Module):
    """Attention inside each window, queries pooled by ``pool`` (1: not)."""

    width: int
    num_heads: int
    pool: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        B, _, _, C = x.shape
        N, H = self.num_heads, self.width // self.num_heads
        shape, axes = (C, 3, N, H), ("embed", "qkv", "heads", "head_dim")
        qkv = Linear(shape, axes, name="qkv")(x)
        q, k, v = (qkv[:, :, :, i] for i in range(3))
        if self.pool > 1:
            q = max_pool(q, self.pool)
        side = q.shape[1]
        q, k, v = (t.reshape(B, -1, N, H) for t in (q, k, v))
        x = attend(q, k, v).reshape(B, side, side, N, H)
        out = Linear(
            (N, H, self.width), ("heads", "head_dim", "embed"), 2, name="o_proj"
        )
        return out(x)


class Block(nn.Module):
    """One multi-scale block, ``[B,R,R,C]`` -> ``[B,R',R',C']``."""

    cfg: HieraConfig
    index: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, index = self.cfg, self.index
        x = constrain(x, "frames", None, None, None)
        stage = c.stage_of(index)
        width, window = c.stage_widths[stage], c.window_of(index)
        pool = c.pool if index in c.pool_blocks else 1

        shortcut = x
        x = LayerNorm(c.norm_eps, name="norm1")(x)
        if x.shape[-1] != width:
            shortcut = Linear((x.shape[-1], width), ("embed", "mlp"), name="proj")(x)
            shortcut = max_pool(shortcut, pool) if pool > 1 else shortcut
        attention = Attention(width, c.stage_heads[stage], pool, name="attn")
        if window:
            x = attention(to_windows(x, window))
            x = from_windows(x, shortcut.shape[1])
        else:
            x = attention(x)
        x = shortcut + x
        mlp = Mlp(int(width * c.mlp_ratio), False, name="mlp")
        return x + mlp(LayerNorm(c.norm_eps, name="norm2")(x))


class PosTable(nn.Module):
    """A learned 2-D table, ``[h,w,C]``."""

    shape: tuple[int, int, int]

    @nn.compact
    def __call__(self) -> jax.Array:
        init = declare(normal(0.02), ("position", "position", "channels"))
        return self.param("embedding", init, self.shape, jnp.float32)


class PatchEmbed(nn.Module):
    """7x7 convolution of stride 4, padding 3: ``[B,S,S,3]`` -> ``[B,S/4,S/4,C]``."""

    cfg: HieraConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = self.cfg.width
        init = declare(
            nn.initializers.xavier_uniform(), ("patch", "patch", "channels", "embed")
        )
        kernel = self.param("kernel", init, (7, 7, 3, width), jnp.float32)
        zeros = declare(nn.initializers.zeros, ("embed",))
        bias = self.param("bias", zeros, (width,), jnp.float32)
        y = jax.lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            (self.cfg.patch_stride,) * 2,
            ((3, 3), (3, 3)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision_of(x.dtype),
            preferred_element_type=jnp.float32,
        )
        return (y + bias.astype(jnp.float32)).astype(x.dtype)


class Blocks(nn.Module):
    """Blocks up to the end of stage ``num_stages``; the rest is never run.

    Stage 0 is the input itself.
    """

    cfg: HieraConfig
    num_stages: int
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.cfg
        block = rematerialised(Block, self.remat, in_scan=False)
        ends = {sum(c.depths[: s + 1]) - 1: s + 1 for s in range(len(c.depths))}
        depth = sum(c.depths if self.is_initializing() else c.depths[: self.num_stages])
        output = x
        for index in range(depth):
            x = block(c, index, name=str(index))(x)
            stage = ends.get(index)
            if stage is not None:
                self.sow("intermediates", f"stage{stage}", x)
            if stage == self.num_stages:
                output = x
        return output


class Hiera(nn.Module):
    """Float pixels ``[B,S,S,3]`` -> the map of stage ``num_stages``, ``[B,R,R,C]``."""

    cfg: HieraConfig
    num_stages: int = 4
    dtype: jax.typing.DTypeLike = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        c = self.cfg
        x = PatchEmbed(c, name="patch_embed")(pixels.astype(self.dtype))
        positions = resize_bicubic(
            PosTable((*c.pos_embed_size, c.width), name="pos_embed")(),
            (x.shape[1], x.shape[2]),
        )
        window = c.windows[0]
        tile = PosTable((window, window, c.width), name="pos_embed_window")()
        repeats = (x.shape[1] // window, x.shape[2] // window, 1)
        positions = positions + jnp.tile(tile.astype(jnp.float32), repeats)
        self.sow("intermediates", "positions", positions)
        x = x + positions.astype(x.dtype)
        return Blocks(c, self.num_stages, self.remat, name="blocks")(x)
