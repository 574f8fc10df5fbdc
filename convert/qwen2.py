"""Qwen2: Hugging Face names and shapes beside our paths."""

from convert.ops import Identity, MergeHeads, SplitHeads, Transpose
from convert.rules import Ignored, Row, Rule, expand
from vica_jax.models.config import Qwen2Config

LAYER = (
    ("input_layernorm.weight", "attn_norm/scale", Identity(), "D"),
    ("self_attn.q_proj.weight", "attn/q_proj/kernel", SplitHeads("N"), "N*H D"),
    ("self_attn.q_proj.bias", "attn/q_proj/bias", SplitHeads("N"), "N*H"),
    ("self_attn.k_proj.weight", "attn/k_proj/kernel", SplitHeads("K"), "K*H D"),
    ("self_attn.k_proj.bias", "attn/k_proj/bias", SplitHeads("K"), "K*H"),
    ("self_attn.v_proj.weight", "attn/v_proj/kernel", SplitHeads("K"), "K*H D"),
    ("self_attn.v_proj.bias", "attn/v_proj/bias", SplitHeads("K"), "K*H"),
    ("self_attn.o_proj.weight", "attn/o_proj/kernel", MergeHeads("N"), "D N*H"),
    ("post_attention_layernorm.weight", "mlp_norm/scale", Identity(), "D"),
    ("mlp.gate_proj.weight", "mlp/gate_proj/kernel", Transpose(), "M D"),
    ("mlp.up_proj.weight", "mlp/up_proj/kernel", Transpose(), "M D"),
    ("mlp.down_proj.weight", "mlp/down_proj/kernel", Transpose(), "D M"),
)
RULES = (
    Rule("model.embed_tokens.weight", "llm/embedder/embedding", Identity(), "V D"),
    *(
        Rule("model.layers.{l}." + hf, "llm/layers/{l}/" + own, op, shape)
        for hf, own, op, shape in LAYER
    ),
    Rule("model.norm.weight", "llm/final_norm/scale", Identity(), "D"),
)
LM_HEAD = Rule("lm_head.weight", "llm/lm_head/kernel", Transpose(), "V D")

_ROTARY = "rotary frequencies are computed from rope_theta"
IGNORED = (
    Ignored("model.layers.{l}.self_attn.rotary_emb.inv_freq", _ROTARY),
    Ignored("model.rotary_emb.inv_freq", _ROTARY),
)
TIED = Ignored("lm_head.weight", "lm_head is tied to the token embedding")


def qwen2_rows(config: Qwen2Config) -> list[Row]:
    """Rows of a Qwen2 decoder; ``lm_head`` is left out where it is tied."""
    sizes = {
        "D": config.width,
        "N": config.num_heads,
        "K": config.num_kv_heads,
        "H": config.head_dim,
        "M": config.mlp_dim,
        "V": config.vocab_size,
    }
    rules = RULES if config.tie_embeddings else (*RULES, LM_HEAD)
    return expand(rules, sizes, {layer: {} for layer in range(config.depth)})


def qwen2_ignored(config: Qwen2Config) -> tuple[Ignored, ...]:
    return (*IGNORED, TIED) if config.tie_embeddings else IGNORED
