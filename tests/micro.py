"""A ViCA2 so small that a training step compiles in seconds, and examples for it."""

import numpy as np

from vica_jax.data.example import Example, Medium, collate_training
from vica_jax.data.settings import ShapeBuckets
from vica_jax.data.shapes import BatchShape
from vica_jax.models.config import (
    HieraConfig,
    Qwen2Config,
    SiglipConfig,
    VicaConfig,
    make_layout,
)
from vica_jax.typing import Batch

SIGLIP = SiglipConfig(
    image_size=28, patch_size=14, width=16, depth=2, num_heads=2, mlp_dim=32
)
HIERA = HieraConfig(
    image_size=32,
    width=8,
    num_heads=1,
    depths=(1, 1),
    global_blocks=(),
    windows=(4, 2),
    pos_embed_size=(3, 3),
    num_pools=1,
)
LLM = Qwen2Config(
    width=32,
    depth=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=64,
    vocab_size=96,
)
CFG = VicaConfig(
    siglip=SIGLIP,
    hiera=HIERA,
    llm=LLM,
    layout=make_layout(SIGLIP, HIERA, output_stage=2, num_frames=2, context_length=128),
)
BUCKETS = ShapeBuckets(
    lengths=(64, 128),
    targets=(32,),
    views=(2,),
    images=(1,),
    resampled=(64,),
    raw_side=16,
)
TABLE = "hiera/.*=frozen, siglip/.*=siglip, .*=base"
RATES = {"base": 1e-3, "siglip": 2e-4}


def example(rng: np.random.Generator, *, video: bool = True) -> Example:
    """A video of two frames (or none) between random tokens; the last are labels."""
    before, after = rng.integers(2, 6), rng.integers(6, 20)
    chunks = [rng.integers(0, LLM.vocab_size, n).tolist() for n in (before, after)]
    learned = int(rng.integers(1, 6))
    marks = [[False] * len(chunks[0]), [False] * (after - learned) + [True] * learned]
    if not video:
        return Example(chunks=chunks[1:], supervised=marks[1:])
    medium = Medium(
        kind="video",
        siglip=rng.integers(0, 256, (2, 28, 28, 3), dtype=np.uint8),
        raw=rng.integers(0, 256, (1, 12, 16, 3), dtype=np.uint8),
        image_wh=(16, 12),
    )
    return Example(chunks=chunks, media=[medium], supervised=marks)


def examples(count: int, seed: int = 0) -> list[Example]:
    """Videos, with a text-only row in every fourth place."""
    rng = np.random.default_rng(seed)
    return [example(rng, video=i % 4 != 3) for i in range(count)]


def batch(rows: list[Example], micro_batches: int = 1) -> Batch:
    """A numpy batch ``[A, M, ...]``."""
    shape = BatchShape.of(rows, CFG.layout, BUCKETS)
    flat = collate_training(rows, CFG.layout, shape)
    split = lambda x: x.reshape(micro_batches, -1, *x.shape[1:])
    found: Batch = {key: split(value) for key, value in flat.items()}  # pyright: ignore
    return found
