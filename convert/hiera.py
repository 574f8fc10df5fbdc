"""SAM 2.1's Hiera backbone, under the reference's names and under transformers'.

Axis letters of a block: ``I`` width coming in, ``C`` width going out, ``N`` heads,
``M`` mlp width; of the position maps: ``bh bw`` background, ``w`` window.
"""

from convert.ops import Conv, FusedQKV, Identity, MergeHeads, PosEmbed, Transpose
from convert.rules import Ignored, Row, Rule, expand
from vica_jax.models.config import HieraConfig


def _rules(patch_embed: str, norm: str, fc1: str, fc2: str) -> tuple[Rule, ...]:
    stem = (
        (f"{patch_embed}.weight", "patch_embed/kernel", Conv(), "C 3 7 7"),
        (f"{patch_embed}.bias", "patch_embed/bias", Identity(), "C"),
        ("pos_embed", "pos_embed/embedding", PosEmbed(), "1 C bh bw"),
        ("pos_embed_window", "pos_embed_window/embedding", PosEmbed(), "1 C w w"),
    )
    block = (
        (f"{norm}1.weight", "norm1/scale", Identity(), "I"),
        (f"{norm}1.bias", "norm1/bias", Identity(), "I"),
        ("attn.qkv.weight", "attn/qkv/kernel", FusedQKV("N"), "3*C I"),
        ("attn.qkv.bias", "attn/qkv/bias", FusedQKV("N"), "3*C"),
        ("attn.proj.weight", "attn/o_proj/kernel", MergeHeads("N"), "C C"),
        ("attn.proj.bias", "attn/o_proj/bias", Identity(), "C"),
        (f"{norm}2.weight", "norm2/scale", Identity(), "C"),
        (f"{norm}2.bias", "norm2/bias", Identity(), "C"),
        (f"{fc1}.weight", "mlp/fc1/kernel", Transpose(), "M C"),
        (f"{fc1}.bias", "mlp/fc1/bias", Identity(), "M"),
        (f"{fc2}.weight", "mlp/fc2/kernel", Transpose(), "C M"),
        (f"{fc2}.bias", "mlp/fc2/bias", Identity(), "C"),
    )
    return (
        *(Rule(hf, "hiera/" + own, op, shape) for hf, own, op, shape in stem),
        *(
            Rule("blocks.{l}." + hf, "hiera/blocks/{l}/" + own, op, shape)
            for hf, own, op, shape in block
        ),
    )


REFERENCE = _rules("patch_embed.proj", "norm", "mlp.layers.0", "mlp.layers.1")
TRANSFORMERS = _rules(
    "patch_embed.projection", "layer_norm", "mlp.proj_in", "mlp.proj_out"
)
# The shortcut has a projection of its own in blocks where the width changes.
SHORTCUT = (
    Rule("blocks.{l}.proj.weight", "hiera/blocks/{l}/proj/kernel", Transpose(), "C I"),
    Rule("blocks.{l}.proj.bias", "hiera/blocks/{l}/proj/bias", Identity(), "C"),
)


def hiera_rows(
    config: HieraConfig, prefix: str, rules: tuple[Rule, ...] = REFERENCE
) -> list[Row]:
    """Rows of the backbone; ``prefix`` ends where ``patch_embed`` begins."""
    sizes = {
        "C": config.width,
        "bh": config.pos_embed_size[0],
        "bw": config.pos_embed_size[1],
        "w": config.windows[0],
    }
    blocks, width = {}, config.width
    for block in range(sum(config.depths)):
        stage = config.stage_of(block)
        out = config.stage_widths[stage]
        blocks[block] = {
            "I": width,
            "C": out,
            "N": config.stage_heads[stage],
            "M": int(out * config.mlp_ratio),
        }
        width = out
    wider = {number: own for number, own in blocks.items() if own["I"] != own["C"]}
    return [
        *expand(rules, sizes, blocks, prefix=prefix),
        *expand(SHORTCUT, {}, wider, prefix=prefix),
    ]


def outside_backbone(prefix: str) -> tuple[Ignored, ...]:
    """Everything of a SAM 2 model that is not under ``prefix``."""
    why = "SAM 2's neck, prompt, mask and memory parts: only the backbone is used"
    return (Ignored("*", why, outside=prefix),) if prefix else ()
