"""Hugging Face config.json <-> our frozen configs: the whole model, both ways.

HF's own words live only here and, part by part, in ``hf_parts.py``.

Published ViCA and ViCA2 folders do not carry the sizes of SigLIP and Hiera: the
published constants apply. A ``siglip_config`` or ``hiera_config`` section overrides
them.
"""

import copy
import re
from typing import Any

from convert.hf_parts import (
    LLM_KEYS,
    Hf,
    Keys,
    Where,
    built,
    family_of,
    hiera_config,
    hiera_from_hf,
    qwen2_from_hf,
    require_family,
    siglip_config,
    siglip_from_hf,
)
from vica_jax.layout import VisualLayout
from vica_jax.models.config import (
    ConfigError,
    HieraConfig,
    Qwen2Config,
    VicaConfig,
    make_layout,
)
from vica_jax.models.variants import HIERA_BASE_PLUS, HIERA_LARGE, SIGLIP_SO400M

__all__ = [
    "Keys",
    "family_of",
    "fresh_hf",
    "from_hf",
    "hiera_from_hf",
    "notes",
    "published_hiera",
    "qwen2_from_hf",
    "require_family",
    "siglip_from_hf",
    "to_hf",
    "vica2_from_llava",
]

ARCHITECTURES = {
    "vica_qwen": "VicaQwenForCausalLM",
    "llava_qwen": "LlavaQwenForCausalLM",
}
# What the multimodal part must be: key, the one value that we compute, and whether the
# key may be absent (the reference's default is then the same).
MULTIMODAL = (
    ("mm_projector_type", "mlp2x_gelu", False),
    ("mm_patch_merge_type", "spatial_unpad", False),
    ("mm_newline_position", "grid", False),
    ("mm_spatial_pool_mode", "bilinear", False),
    ("add_faster_video", False, True),
    ("mm_use_im_start_end", False, True),
    ("mm_use_im_patch_token", False, True),
)
SO400M = "siglip-so400m-patch14-384"
POOL_STRIDE = 2  # of SigLIP's video maps; the reference reads no key for it


# ------------------------------------------------------------- the whole model
def published_hiera(width: int) -> HieraConfig:
    """The published backbone whose first stage is that wide (112: base plus)."""
    return HIERA_LARGE if width == HIERA_LARGE.width else HIERA_BASE_PLUS


def from_hf(
    hf: Hf, path: Where = "config.json", *, hiera: HieraConfig = HIERA_BASE_PLUS
) -> tuple[str, VicaConfig]:
    """``(family, config)`` of a ViCA or ViCA2 folder's config.json.

    Args:
      hf: the parsed file.
      path: for messages.
      hiera: the backbone of a ViCA2 folder without a ``hiera_config`` section.

    Raises:
      ConfigError: a key is missing, of a wrong type, or has a value that we do not
        compute; the message names file, key, value and what is supported.
    """
    family = require_family(hf, ("vica_qwen", "llava_qwen"), path)
    keys = Keys(hf, path)
    llm = qwen2_from_hf(hf, path)
    for key, value, optional in MULTIMODAL:
        keys.only(key, value, optional=optional)
    keys.only("mm_resampler_type")
    ratio: dict[str, int] = {}
    if "siglip_config" in hf:
        section = keys.inside("siglip_config")
        siglip = siglip_config(section)
        ratio["num_frames"] = section.integer("num_frames", VisualLayout.num_frames)
    elif SO400M in str(keys.get("mm_vision_tower")):
        siglip = SIGLIP_SO400M
    else:
        raise keys.fail(
            "mm_vision_tower", hf["mm_vision_tower"], f"{SO400M} or siglip_config"
        )
    if keys.integer("mm_hidden_size", siglip.width) != siglip.width:
        raise keys.fail("mm_hidden_size", hf["mm_hidden_size"], f"{siglip.width}")
    if family == "llava_qwen":
        backbone = None
    elif "hiera_config" in hf:
        section = keys.inside("hiera_config")
        backbone = hiera_config(section)
        for name in ("frame_stride", "output_stage", "pool_stride"):
            ratio[name] = section.integer(name, getattr(VisualLayout, name))
    else:
        backbone = hiera
    limits = [keys.integer("max_position_embeddings")]
    limits.append(keys.integer("tokenizer_model_max_length", limits[0]))
    layout = built(
        path,
        make_layout,
        siglip=siglip,
        hiera=backbone,
        siglip_pool_stride=POOL_STRIDE,
        context_length=min(limits),
        max_tiles=_max_tiles(keys),
        grid_pinpoints_wh=_pinpoints(keys, siglip.image_size),
        **ratio,
    )
    config = built(
        path, VicaConfig, siglip=siglip, llm=llm, layout=layout, hiera=backbone
    )
    return family, config


def _max_tiles(keys: Keys) -> int:
    value = keys.get("image_aspect_ratio")
    match = re.fullmatch(r"anyres_max_([1-9][0-9]*)", str(value))
    if match is None:
        raise keys.fail("image_aspect_ratio", value, "anyres_max_N, such as 9")
    return int(match[1])


def _pinpoints(keys: Keys, tile: int) -> tuple[tuple[int, int], ...]:
    """Tile canvases in pixels: a list, or "(1x1),...,(6x6)" in units of a tile."""
    value = keys.get("image_grid_pinpoints")
    pairs = _unfold(value, tile) if isinstance(value, str) else value
    good = isinstance(pairs, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(n) is int and n >= tile and n % tile == 0 for n in pair)
        for pair in pairs
    )
    if not good or not pairs:
        form = f'a list of [w, h], multiples of {tile}, or "(1x1),...,(6x6)"'
        raise keys.fail("image_grid_pinpoints", value, form)
    return tuple((w, h) for w, h in pairs)


def _unfold(text: str, tile: int) -> list[list[int]]:
    """All canvases between the first and the last "(across x down)" of the text."""
    ends = [(int(a), int(b)) for a, b in re.findall(r"\((\d+)x(\d+)\)", text)]
    if not ends:
        return []
    (left, top), (right, bottom) = ends[0], ends[-1]
    return [
        [across * tile, down * tile]
        for across in range(left, right + 1)
        for down in range(top, bottom + 1)
    ]


def notes(hf: Hf) -> list[str]:
    """What a reader of this config.json should know: keys that change nothing here."""
    said = []
    stride = hf.get("mm_spatial_pool_stride", POOL_STRIDE)
    if stride != POOL_STRIDE:
        said.append(
            f"mm_spatial_pool_stride = {stride!r} is not read by the reference, which "
            f"always pools video frames by {POOL_STRIDE}; so do we"
        )
    sections = ["siglip_config"]
    sections += ["hiera_config"] if hf.get("model_type") == "vica_qwen" else []
    for name in sections:
        if name not in hf:
            said.append(f"no {name} section: the published sizes apply")
    return said


# ---------------------------------------------------------------- back to HF
def to_hf(
    original: Hf, config: VicaConfig, *, dtype: str | None = None
) -> dict[str, Any]:
    """config.json of ``config``, every key that says the same left as it was.

    Both sections are written, so that the folder says its own sizes. ``dtype`` (such as
    "bfloat16") is the weights' dtype where it changed.

    Raises:
      ConfigError: ``original`` is of the other family, or HF's keys cannot say what
        ``config`` holds.
    """
    hiera = config.hiera or HIERA_BASE_PLUS
    family, was = from_hf(original, hiera=hiera)
    if (family == "vica_qwen") != (config.hiera is not None):
        raise ConfigError(
            f"config.json is of family {family}, the model is of the other"
        )
    hf = copy.deepcopy(dict(original))
    if was.llm != config.llm:
        _write_llm(hf, config.llm)
    layout = config.layout
    if "siglip_config" not in hf or _siglip_says(was) != _siglip_says(config):
        _write_section(hf, "siglip_config", siglip_section(config))
    if was.siglip.width != config.siglip.width:
        hf["mm_hidden_size"] = config.siglip.width
    if config.hiera and (
        "hiera_config" not in hf or _hiera_says(was) != _hiera_says(config)
    ):
        _write_section(hf, "hiera_config", hiera_section(config))
    if was.layout.context_length != layout.context_length:
        hf["tokenizer_model_max_length"] = layout.context_length
        longest = max(hf["max_position_embeddings"], layout.context_length)
        hf["max_position_embeddings"] = longest
    if was.layout.max_tiles != layout.max_tiles:
        hf["image_aspect_ratio"] = f"anyres_max_{layout.max_tiles}"
    if was.layout.grid_pinpoints_wh != layout.grid_pinpoints_wh:
        hf["image_grid_pinpoints"] = [list(pair) for pair in layout.grid_pinpoints_wh]
    if dtype is not None:
        # transformers 5 calls it dtype; a file may hold either name, or both.
        for name in {"dtype", "torch_dtype"} & set(hf) or {"torch_dtype"}:
            hf[name] = dtype
    if from_hf(hf) != (family, config):
        raise ConfigError("config.json cannot say what this model's config holds")
    return hf


def _siglip_says(config: VicaConfig) -> tuple:
    return config.siglip, config.layout.num_frames


def _hiera_says(config: VicaConfig) -> tuple:
    layout = config.layout
    ratio = (layout.frame_stride, layout.output_stage, layout.pool_stride)
    return config.hiera, ratio


def _write_section(hf: dict[str, Any], name: str, section: dict[str, Any]) -> None:
    """Replace what we know of a section; keys of others stay."""
    kept = {
        key: value
        for key, value in hf.get(name, {}).items()
        if key not in ("num_frames", "antialias")  # written only where not the default
    }
    hf[name] = kept | section


def _write_llm(hf: dict[str, Any], llm: Qwen2Config) -> None:
    hf |= {theirs: getattr(llm, ours) for theirs, ours in LLM_KEYS.items()}
    if "head_dim" in hf or llm.head_dim != llm.width // llm.num_heads:
        hf["head_dim"] = llm.head_dim
    if hf.get("rope_parameters") is not None:
        hf["rope_parameters"]["rope_theta"] = llm.rope_theta
    if "rope_theta" in hf or hf.get("rope_parameters") is None:
        hf["rope_theta"] = llm.rope_theta
    if "layer_types" in hf:
        hf["layer_types"] = ["full_attention"] * llm.depth


def siglip_section(config: VicaConfig) -> dict[str, Any]:
    """The ``siglip_config`` section; ``num_frames`` only where it is not 64."""
    siglip, frames = config.siglip, config.layout.num_frames
    section = {
        "hidden_size": siglip.width,
        "intermediate_size": siglip.mlp_dim,
        "num_hidden_layers": siglip.depth + 1,
        "num_attention_heads": siglip.num_heads,
        "image_size": siglip.image_size,
        "patch_size": siglip.patch_size,
        "num_hidden_layers_kept": siglip.depth,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": siglip.norm_eps,
        "grid": siglip.grid,
        "resample": "bicubic(PIL)",
        "mean": siglip.pixel_mean,
        "std": siglip.pixel_std,
    }
    return section | (
        {} if frames == VisualLayout.num_frames else {"num_frames": frames}
    )


def hiera_section(config: VicaConfig) -> dict[str, Any]:
    """The ``hiera_config`` section, token ratio included; ``antialias`` if it is on."""
    hiera, layout = config.hiera, config.layout
    assert hiera is not None
    section = {
        "embed_dim": hiera.width,
        "num_heads": hiera.num_heads,
        "stages": list(hiera.depths),
        "global_att_blocks": list(hiera.global_blocks),
        "window_spec": list(hiera.windows),
        "window_pos_embed_bkg_spatial_size": list(hiera.pos_embed_size),
        "q_pool": hiera.num_pools,
        "q_stride": [hiera.pool, hiera.pool],
        "dim_mul": hiera.width_mul,
        "head_mul": hiera.head_mul,
        "mlp_ratio": hiera.mlp_ratio,
        "layer_norm_eps": hiera.norm_eps,
        "resolution": hiera.image_size,
        "grid": layout.hiera_grid,
        "out_dim": config.hiera_out_width,
        "frame_stride": layout.frame_stride,
        "output_stage": layout.output_stage,
        "pool_stride": layout.pool_stride,
    }
    return section | ({"antialias": True} if hiera.antialias else {})


def fresh_hf(config: VicaConfig, *, dtype: str = "bfloat16") -> dict[str, Any]:
    """A complete config.json for a model that was never a Hugging Face folder."""
    family = "vica_qwen" if config.hiera else "llava_qwen"
    layout = config.layout
    hf: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "hidden_act": "silu",
        "max_position_embeddings": layout.context_length,
        "tokenizer_model_max_length": layout.context_length,
        "tokenizer_padding_side": "right",
        "rope_scaling": None,
        "use_sliding_window": False,
        "mm_vision_tower": f"google/{SO400M}",
        "mm_hidden_size": config.siglip.width,
        "mm_spatial_pool_stride": POOL_STRIDE,
        **{key: value for key, value, _ in MULTIMODAL},
        "image_aspect_ratio": f"anyres_max_{layout.max_tiles}",
        "image_grid_pinpoints": [list(pair) for pair in layout.grid_pinpoints_wh],
        "siglip_config": siglip_section(config),
        "torch_dtype": dtype,
    }
    _write_llm(hf, config.llm)
    if config.hiera:
        hf["hiera_config"] = hiera_section(config)
    return to_hf(hf, config)


def vica2_from_llava(
    hf: Hf, hiera: HieraConfig, path: Where = "config.json", **ratio: int
) -> dict[str, Any]:
    """config.json of a ViCA2 that begins from a LLaVA-Video (or ViCA) folder.

    ``ratio`` may set ``frame_stride``, ``output_stage`` and ``pool_stride``.

    Raises:
      ConfigError: ``hf`` is not of family llava_qwen, or from_hf refuses it.
    """
    require_family(hf, ("llava_qwen",), path)
    _, llava = from_hf(hf, path)
    layout = llava.layout
    fields = {
        name: getattr(layout, name)
        for name in ("context_length", "max_tiles", "grid_pinpoints_wh", "num_frames")
    }
    config = built(
        path,
        lambda: VicaConfig(
            siglip=llava.siglip,
            llm=llava.llm,
            hiera=hiera,
            layout=make_layout(llava.siglip, hiera, **fields, **ratio),
        ),
    )
    changed = copy.deepcopy(dict(hf))
    changed |= {
        "model_type": "vica_qwen",
        "architectures": [ARCHITECTURES["vica_qwen"]],
        "hiera_config": hiera_section(config),
    }
    return to_hf(changed, config)
