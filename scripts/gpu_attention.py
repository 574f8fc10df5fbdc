"""Attention at the model's own shapes, forward and backward, by each way there is."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scripts.gpu_timing import Options, Row, Skip, compute_dtype, on_gpu, rated, timed
from vica_jax.data.example import bucket_length
from vica_jax.models.attention import attend
from vica_jax.models.config import VicaConfig
from vica_jax.models.variants import VARIANTS

WAYS = ("auto", "cudnn", "blockwise")
WHERE = ("qwen2", "siglip", "hiera")
FRAME_CHUNK = 8  # frames encoded at a time
TEXT = 150  # tokens beside the video's


@dataclass(frozen=True, kw_only=True)
class Shape:
    """q ``[batch,length,heads,head_dim]``; keys and values of ``kv_heads``."""

    batch: int
    length: int
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool

    @property
    def flops(self) -> float:
        """Of both products forward; causal ones count the pairs that are seen."""
        T = self.length
        pairs = T * (T + 1) // 2 if self.causal else T * T
        return 4.0 * self.batch * pairs * self.heads * self.head_dim

    def __str__(self) -> str:
        heads = f"{self.heads}/{self.kv_heads}" if self.causal else f"{self.heads}"
        sizes = f"{self.batch},{self.length},{heads},{self.head_dim}"
        return f"[{sizes}]{' causal' * self.causal}"


def shape_of(where: str, cfg: VicaConfig, frames: int) -> Shape:
    """The largest attention of a tower, for a video of so many frames."""
    if where == "qwen2":
        return Shape(
            batch=1,
            length=bucket_length(cfg.layout.video_tokens(frames) + TEXT),
            heads=cfg.llm.num_heads,
            kv_heads=cfg.llm.num_kv_heads,
            head_dim=cfg.llm.head_dim,
            causal=True,
        )
    if where == "siglip":
        heads, head_dim = cfg.siglip.num_heads, cfg.siglip.head_dim
        length = cfg.siglip.grid**2
    else:
        assert cfg.hiera is not None
        block = cfg.hiera.global_blocks[0]
        stage = cfg.hiera.stage_of(block)
        heads = cfg.hiera.stage_heads[stage]
        head_dim = cfg.hiera.stage_widths[stage] // heads
        side = cfg.hiera.image_size // cfg.hiera.patch_stride // cfg.hiera.pool**stage
        length = side * side
    return Shape(
        batch=min(FRAME_CHUNK, frames),
        length=length,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        causal=False,
    )


class AttentionWays:
    """One part for each shape and way: ``qwen2_cudnn``, ``hiera_blockwise`` ..."""

    def __init__(self, options: Options):
        self.options = options
        self.cfg = VARIANTS["tiny" if options.reduced else "vica2_7b"]
        self.frames = 8 if options.reduced else self.cfg.layout.num_frames

    def __getattr__(self, name: str) -> Callable[[], list[Row]]:
        where, _, way = name.partition("_")
        if where not in WHERE or way not in WAYS:
            raise AttributeError(name)
        return functools.partial(self._measure, where, way)

    def _measure(self, where: str, way: Any) -> list[Row]:
        shape = shape_of(where, self.cfg, self.frames)
        if way == "cudnn" and not on_gpu():
            raise Skip("cuDNN needs an NVIDIA GPU")
        keys = iter(jax.random.split(jax.random.key(0), 4))

        def draw(heads: int) -> jax.Array:
            sizes = (shape.batch, shape.length, heads, shape.head_dim)
            return jax.random.normal(next(keys), sizes).astype(compute_dtype())

        N, K = shape.heads, shape.kv_heads
        q, k, v, g = map(draw, (N, K, K, N))
        attention = functools.partial(attend, causal=shape.causal)
        function = functools.partial(attention, implementation=way)
        forward = jax.jit(function)

        @jax.jit
        def both(q, k, v, g):
            out, pullback = jax.vjp(function, q, k, v)
            return out, pullback(g)

        title, repeats = f"{where} {shape}, {way}", self.options.repeats
        row = rated(timed(lambda: forward(q, k, v), repeats=repeats), shape.flops)
        if way != "blockwise":
            plain = jax.jit(functools.partial(attention, implementation="blockwise"))
            row["gap"] = gap(forward(q, k, v), plain(q, k, v))
            row["note"] = f"{row['gap']:.1e} off blockwise"
        rows = [{"name": title} | row]
        # Backward: twice the forward's products, whatever is computed again.
        row = rated(timed(lambda: both(q, k, v, g), repeats=repeats), 3 * shape.flops)
        return [*rows, {"name": f"{title}, with gradients"} | row]


def gap(x: jax.Array, y: jax.Array) -> float:
    """The largest difference, of the largest element."""
    found, expected = (np.asarray(jnp.asarray(a, jnp.float32)) for a in (x, y))
    return float(np.abs(found - expected).max() / np.abs(expected).max())
