"""SigLIP vision tower: Hugging Face names and shapes beside our paths.

``S`` is the side of a patch in pixels.
"""

from convert.ops import Conv, Identity, MergeHeads, SplitHeads, Transpose
from convert.rules import Ignored, Row, Rule, expand
from vica_jax.models.config import SiglipConfig

LAYER = (
    ("layer_norm1.weight", "norm1/scale", Identity(), "D"),
    ("layer_norm1.bias", "norm1/bias", Identity(), "D"),
    ("self_attn.q_proj.weight", "attn/q_proj/kernel", SplitHeads("N"), "D D"),
    ("self_attn.q_proj.bias", "attn/q_proj/bias", SplitHeads("N"), "D"),
    ("self_attn.k_proj.weight", "attn/k_proj/kernel", SplitHeads("N"), "D D"),
    ("self_attn.k_proj.bias", "attn/k_proj/bias", SplitHeads("N"), "D"),
    ("self_attn.v_proj.weight", "attn/v_proj/kernel", SplitHeads("N"), "D D"),
    ("self_attn.v_proj.bias", "attn/v_proj/bias", SplitHeads("N"), "D"),
    ("self_attn.out_proj.weight", "attn/o_proj/kernel", MergeHeads("N"), "D D"),
    ("self_attn.out_proj.bias", "attn/o_proj/bias", Identity(), "D"),
    ("layer_norm2.weight", "norm2/scale", Identity(), "D"),
    ("layer_norm2.bias", "norm2/bias", Identity(), "D"),
    ("mlp.fc1.weight", "mlp/fc1/kernel", Transpose(), "M D"),
    ("mlp.fc1.bias", "mlp/fc1/bias", Identity(), "M"),
    ("mlp.fc2.weight", "mlp/fc2/kernel", Transpose(), "D M"),
    ("mlp.fc2.bias", "mlp/fc2/bias", Identity(), "D"),
)
STEM = (
    ("embeddings.patch_embedding.weight", "patch_embed/kernel", Conv(), "D 3 S S"),
    ("embeddings.patch_embedding.bias", "patch_embed/bias", Identity(), "D"),
    (
        "embeddings.position_embedding.weight",
        "pos_embed/embedding",
        Identity(),
        "P D",
    ),
    # Computed and discarded by the reference; kept so that the round trip is identical.
    ("post_layernorm.weight", "post_norm/scale", Identity(), "D"),
    ("post_layernorm.bias", "post_norm/bias", Identity(), "D"),
)
RULES = (
    *(Rule(hf, "siglip/" + own, op, shape) for hf, own, op, shape in STEM),
    *(
        Rule("encoder.layers.{l}." + hf, "siglip/layers/{l}/" + own, op, shape)
        for hf, own, op, shape in LAYER
    ),
)

# A SigLIP folder on its own is the whole image-text model.
TEXT_HALF = (
    Ignored("text_model.*", "SigLIP's text half is not part of the vision tower"),
    Ignored("logit_scale", "SigLIP's contrastive loss is not used"),
    Ignored("logit_bias", "SigLIP's contrastive loss is not used"),
)


def siglip_rows(config: SiglipConfig, prefix: str) -> list[Row]:
    """Rows of the kept layers; ``prefix`` ends where ``embeddings`` begins."""
    sizes = {
        "D": config.width,
        "N": config.num_heads,
        "M": config.mlp_dim,
        "P": config.grid**2,
        "S": config.patch_size,
    }
    layers = {layer: {} for layer in range(config.depth)}
    return expand(RULES, sizes, layers, prefix=prefix)


def siglip_ignored(config: SiglipConfig, prefix: str) -> tuple[Ignored, ...]:
    """What a vision tower may hold beyond ``siglip_rows``."""
    depth = config.depth
    return (
        Ignored(prefix + "head.*", "SigLIP's pooling head: features come before it"),
        Ignored(
            prefix + "encoder.layers.{l}.*",
            f"SigLIP layers from number {depth} on are dropped, as in the reference",
            first=depth,
        ),
        Ignored(prefix + "embeddings.position_ids", "position numbers, a buffer"),
    )
