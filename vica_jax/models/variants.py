"""Published and tiny models, as data."""

from vica_jax.models.config import (
    HieraConfig,
    Qwen2Config,
    SiglipConfig,
    VicaConfig,
    make_layout,
)

SIGLIP_SO400M = SiglipConfig(
    image_size=384, patch_size=14, width=1152, depth=26, num_heads=16, mlp_dim=4304
)
HIERA_BASE_PLUS = HieraConfig(
    image_size=1024,
    width=112,
    num_heads=2,
    depths=(2, 3, 16, 3),
    global_blocks=(12, 16, 20),
    windows=(8, 4, 14, 7),
    pos_embed_size=(14, 14),
)
HIERA_LARGE = HieraConfig(
    image_size=1024,
    width=144,
    num_heads=2,
    depths=(2, 6, 36, 4),
    global_blocks=(23, 33, 43),
    windows=(8, 4, 16, 8),
    pos_embed_size=(7, 7),
)
QWEN2_7B = Qwen2Config(
    width=3584,
    depth=28,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    mlp_dim=18944,
    vocab_size=152064,
)
QWEN2_0_5B = Qwen2Config(
    width=896,
    depth=24,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
    mlp_dim=4864,
    vocab_size=151936,
    tie_embeddings=True,
)
SIGLIP_TINY = SiglipConfig(
    image_size=72, patch_size=14, width=48, depth=2, num_heads=4, mlp_dim=96
)
HIERA_TINY = HieraConfig(
    image_size=128,
    width=16,
    num_heads=1,
    depths=(1, 2, 4, 2),
    global_blocks=(4, 6),
    windows=(4, 2, 6, 3),
    pos_embed_size=(7, 7),
)
QWEN2_TINY = Qwen2Config(
    width=64,
    depth=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_dim=128,
    vocab_size=600,
)
# The model that learns on generated rooms (vica_jax.world): no published sizes.
SIGLIP_WORLD = SiglipConfig(
    image_size=96, patch_size=16, width=192, depth=4, num_heads=4, mlp_dim=512
)
HIERA_WORLD = HieraConfig(
    image_size=96,
    width=24,
    num_heads=1,
    depths=(1, 1, 3, 1),
    global_blocks=(3,),
    windows=(4, 4, 6, 3),
    pos_embed_size=(4, 4),
)
QWEN2_WORLD = Qwen2Config(
    width=192,
    depth=8,
    num_heads=4,
    num_kv_heads=2,
    head_dim=48,
    mlp_dim=512,
    vocab_size=2048,
    tie_embeddings=True,
)


def _dual(hiera: HieraConfig) -> VicaConfig:
    return VicaConfig(
        siglip=SIGLIP_SO400M,
        hiera=hiera,
        llm=QWEN2_7B,
        layout=make_layout(SIGLIP_SO400M, hiera),
    )


VARIANTS: dict[str, VicaConfig] = {
    "vica_7b": VicaConfig(
        siglip=SIGLIP_SO400M, llm=QWEN2_7B, layout=make_layout(SIGLIP_SO400M)
    ),
    "vica2_7b": _dual(HIERA_BASE_PLUS),
    "vica2_7b_hiera_large": _dual(HIERA_LARGE),
    "tiny": VicaConfig(
        siglip=SIGLIP_TINY,
        hiera=HIERA_TINY,
        llm=QWEN2_TINY,
        layout=make_layout(SIGLIP_TINY, HIERA_TINY),
    ),
    # Token ratio (8, 4, 1): eight of sixteen frames, last stage, not pooled.
    "world": VicaConfig(
        siglip=SIGLIP_WORLD,
        hiera=HIERA_WORLD,
        llm=QWEN2_WORLD,
        layout=make_layout(
            SIGLIP_WORLD,
            HIERA_WORLD,
            num_frames=16,
            pool_stride=1,
            context_length=4096,
        ),
    ),
    # The same without Hiera, to compare with.
    "world_siglip": VicaConfig(
        siglip=SIGLIP_WORLD,
        llm=QWEN2_WORLD,
        layout=make_layout(SIGLIP_WORLD, num_frames=16, context_length=4096),
    ),
}
