"""Hugging Face's words for each part of the model: families, Qwen2, SigLIP, Hiera.

``hf_config.py`` puts the parts together. Everything that a model could silently compute
differently is checked: a value outside what we compute is refused by name.
"""

import os
from collections.abc import Mapping
from typing import Any

from vica_jax.layout import LayoutError
from vica_jax.models.config import ConfigError, HieraConfig, Qwen2Config, SiglipConfig

Hf = Mapping[str, Any]
Where = str | os.PathLike

# model_type -> the family whose tables fit
FAMILIES = {
    "vica_qwen": "vica_qwen",
    "llava_qwen": "llava_qwen",
    "qwen2": "qwen2",
    "siglip": "siglip",
    "siglip_vision_model": "siglip",
    "hiera": "hiera",
    "sam2": "sam2",
    "sam2_video": "sam2",
    "sam2_vision_model": "sam2",
    "sam2_hiera_det_model": "sam2",
}
LLM_KEYS = {
    "hidden_size": "width",
    "intermediate_size": "mlp_dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "vocab_size": "vocab_size",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tie_embeddings",
}
_NEEDED: Any = object()


class Keys:
    """Typed look-ups in one JSON object; every failure names file, key and value."""

    def __init__(self, values: Hf, path: Where, section: str = ""):
        self.values, self.path, self.section = values, path, section

    def fail(self, key: str, value: Any, supported: str) -> ConfigError:
        shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        return ConfigError(
            f"{self.path}: {self.section}{key} = {shown} is not supported "
            f"(supported: {supported})"
        )

    def get(self, key: str, default: Any = _NEEDED) -> Any:
        """The value; ``default`` when the key is absent or null."""
        value = self.values.get(key)
        if value is not None:
            return value
        if default is _NEEDED:
            raise ConfigError(f"{self.path}: key {self.section}{key} is missing")
        return default

    def integer(self, key: str, default: Any = _NEEDED, least: int = 1) -> int:
        value = self.get(key, default)
        if type(value) is not int or value < least:
            raise self.fail(key, value, f"an integer of at least {least}")
        return value

    def number(self, key: str, default: Any = _NEEDED) -> float:
        value = self.get(key, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise self.fail(key, value, "a positive number")
        return float(value)

    def boolean(self, key: str, default: Any = _NEEDED) -> bool:
        value = self.get(key, default)
        if type(value) is not bool:
            raise self.fail(key, value, "true or false")
        return value

    def integers(self, key: str, default: Any = _NEEDED, least: int = 1) -> tuple:
        value = self.get(key, default)
        if not isinstance(value, list | tuple) or not all(
            type(n) is int and n >= least for n in value
        ):
            raise self.fail(key, value, f"a list of integers of at least {least}")
        return tuple(value)

    def pair(self, key: str, default: Any = _NEEDED) -> tuple[int, int]:
        """Two integers; one stands for both."""
        value = self.get(key, default)
        if type(value) is int:
            value = [value, value]
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise self.fail(key, value, "two integers")
        first, second = Keys({key: value}, self.path, self.section).integers(key)
        return first, second

    def square(self, key: str, default: Any = _NEEDED) -> int:
        first, second = self.pair(key, default)
        if first != second:
            raise self.fail(key, [first, second], "the same number twice")
        return first

    def only(self, key: str, *supported: Any, optional: bool = True) -> None:
        """Refuse any other value; an absent or null key passes when ``optional``."""
        if self.values.get(key) is None and optional:
            return
        value = self.get(key)
        if not any(type(value) is type(s) and value == s for s in supported):
            choices = " or ".join(repr(s) for s in supported) or "null"
            raise self.fail(key, value, choices)

    def inside(self, key: str) -> "Keys":
        value = self.get(key)
        if not isinstance(value, Mapping):
            raise self.fail(key, value, "an object")
        return Keys(value, self.path, f"{self.section}{key}.")


# -------------------------------------------------------------------- families
def family_of(hf: Hf, path: Where = "config.json") -> str:
    """Which tables fit: vica_qwen, llava_qwen, qwen2, siglip, hiera or sam2.

    Raises:
      ConfigError: another ``model_type``, or none.
    """
    kind = hf.get("model_type")
    if kind in (None, "") and {"embed_dim", "stages"} <= set(hf):
        return "hiera"  # the reference's backbone config, written by hand
    known = ", ".join(FAMILIES)
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ConfigError(f"{path}: unknown model_type {kind!r} (known: {known})")
    if kind == "hiera" and "depths" in hf and "stages" not in hf:
        raise ConfigError(
            f"{path}: model_type 'hiera' with key depths is transformers' image "
            "classifier; the backbone of SAM 2 is needed"
        )
    return FAMILIES[kind]


def require_family(hf: Hf, wanted: tuple[str, ...], path: Where = "config.json") -> str:
    """The family, or ConfigError when it is not one of ``wanted``."""
    family = family_of(hf, path)
    if family not in wanted:
        raise ConfigError(
            f"{path}: a checkpoint of family {family}, but {' or '.join(wanted)} is "
            "needed"
        )
    return family


# ------------------------------------------------------------------ components
def qwen2_from_hf(hf: Hf, path: Where = "config.json") -> Qwen2Config:
    """Language-model sizes from the keys of Qwen2 (top level of every family)."""
    keys = Keys(hf, path)
    keys.only("hidden_act", "silu")
    keys.only("use_sliding_window", False)
    keys.only("quantization_config")
    kinds = keys.get("layer_types", [])
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise keys.fail("layer_types", kinds, "full_attention throughout")
    fields = {
        ours: keys.integer(theirs)
        for theirs, ours in LLM_KEYS.items()
        if ours not in ("norm_eps", "tie_embeddings")
    }
    if keys.get("head_dim", None) is None and fields["width"] % fields["num_heads"]:
        raise keys.fail(
            "num_attention_heads", fields["num_heads"], "a divisor of hidden_size"
        )
    return built(
        path,
        Qwen2Config,
        **fields,
        head_dim=keys.integer("head_dim", fields["width"] // fields["num_heads"]),
        norm_eps=keys.number("rms_norm_eps"),
        rope_theta=_rope_theta(keys),
        tie_embeddings=keys.boolean("tie_word_embeddings", False),
    )


def _rope_theta(keys: Keys) -> float:
    """Base of the rotary angles, from ``rope_theta`` or ``rope_parameters``."""
    for name in ("rope_scaling", "rope_parameters"):
        if keys.get(name, None) is not None:
            inner = keys.inside(name)
            kinds = {inner.values.get(k, "default") for k in ("rope_type", "type")}
            if kinds != {"default"}:
                raise keys.fail(name, keys.values[name], "null or rope_type 'default'")
    if keys.get("rope_parameters", None) is None:
        return keys.number("rope_theta")
    theta = keys.inside("rope_parameters").number("rope_theta")
    if keys.number("rope_theta", theta) != theta:
        raise keys.fail("rope_theta", keys.values["rope_theta"], f"{theta} as below it")
    return theta


def siglip_from_hf(hf: Hf, path: Where = "config.json") -> SiglipConfig:
    """Vision tower of a SigLIP folder; its last layer is dropped as in ViCA."""
    require_family(hf, ("siglip",), path)
    keys = Keys(hf, path)
    return siglip_config(
        keys.inside("vision_config") if "vision_config" in hf else keys
    )


def siglip_config(keys: Keys) -> SiglipConfig:
    """SigLIP from a vision config or from our own section."""
    keys.only("hidden_act", "gelu_pytorch_tanh")
    keys.only("num_channels", 3)
    keys.only("resample", "bicubic(PIL)")
    layers = keys.integer("num_hidden_layers")
    depth = keys.integer("num_hidden_layers_kept", layers - 1)
    if depth > layers:
        raise keys.fail("num_hidden_layers_kept", depth, f"at most {layers}")
    patch, image = keys.integer("patch_size"), keys.integer("image_size")
    if patch > image:
        raise keys.fail("patch_size", patch, f"at most image_size, {image}")
    return built(
        keys.path,
        SiglipConfig,
        image_size=image,
        patch_size=patch,
        width=keys.integer("hidden_size"),
        depth=depth,
        num_heads=keys.integer("num_attention_heads"),
        mlp_dim=keys.integer("intermediate_size"),
        norm_eps=keys.number("layer_norm_eps", 1e-6),
        pixel_mean=keys.number("mean", 0.5),
        pixel_std=keys.number("std", 0.5),
    )


def hiera_from_hf(hf: Hf, path: Where = "config.json") -> HieraConfig:
    """Hiera backbone of the reference's own folder or of a transformers SAM 2 folder.

    Absent keys have the defaults of the class that wrote the file.
    """
    keys = Keys(hf, path)
    if require_family(hf, ("hiera", "sam2"), path) == "sam2":
        for name in ("vision_config", "backbone_config"):
            keys = keys.inside(name) if name in keys.values else keys
        return _sam2(keys)
    defaults = {
        "embed_dim": 96,
        "num_heads": 1,
        "stages": (2, 3, 16, 3),
        "global_att_blocks": (12, 16, 20),
        "window_spec": (8, 4, 14, 7),
        "window_pos_embed_bkg_spatial_size": (14, 14),
        "resolution": 1024,
    }
    return hiera_config(Keys({**defaults, **hf}, path))


def hiera_config(keys: Keys) -> HieraConfig:
    """Hiera in the reference's words; its sizes are needed, ratios may be absent."""
    return built(
        keys.path,
        HieraConfig,
        image_size=keys.integer("resolution"),
        width=keys.integer("embed_dim"),
        num_heads=keys.integer("num_heads"),
        depths=keys.integers("stages"),
        global_blocks=keys.integers("global_att_blocks", least=0),
        windows=keys.integers("window_spec"),
        pos_embed_size=keys.pair("window_pos_embed_bkg_spatial_size"),
        num_pools=keys.integer("q_pool", 3, least=0),
        pool=keys.square("q_stride", 2),
        width_mul=keys.number("dim_mul", 2.0),
        head_mul=keys.number("head_mul", 2.0),
        mlp_ratio=keys.number("mlp_ratio", 4.0),
        norm_eps=keys.number("layer_norm_eps", 1e-6),
        antialias=keys.boolean("antialias", False),
    )


def _sam2(keys: Keys) -> HieraConfig:
    """Hiera in transformers' words (``Sam2HieraDetConfig``)."""
    keys.only("hidden_act", "gelu")
    keys.only("num_channels", 3)
    for name, size in (("kernel_size", 7), ("stride", 4), ("padding", 3)):
        if keys.square(f"patch_{name}", size) != size:
            raise keys.fail(f"patch_{name}", keys.get(f"patch_{name}"), str(size))
    widths = keys.integers("embed_dim_per_stage", (96, 192, 384, 768))
    heads = keys.integers("num_attention_heads_per_stage", (1, 2, 4, 8))
    config = built(
        keys.path,
        HieraConfig,
        image_size=keys.square("image_size", 1024),
        width=keys.integer("hidden_size", 96),
        num_heads=keys.integer("num_attention_heads", 1),
        depths=keys.integers("blocks_per_stage", (1, 2, 7, 2)),
        global_blocks=keys.integers("global_attention_blocks", (5, 7, 9), least=0),
        windows=keys.integers("window_size_per_stage", (8, 4, 14, 7)),
        pos_embed_size=keys.pair("window_positional_embedding_background_size", (7, 7)),
        num_pools=keys.integer("num_query_pool_stages", 3, least=0),
        pool=keys.square("query_stride", 2),
        width_mul=widths[1] / widths[0] if len(widths) > 1 else 2.0,
        head_mul=heads[1] / heads[0] if len(heads) > 1 else 2.0,
        mlp_ratio=keys.number("mlp_ratio", 4.0),
        norm_eps=keys.number("layer_norm_eps", 1e-6),
    )
    if config.stage_widths != widths:
        raise keys.fail("embed_dim_per_stage", list(widths), "one ratio for all stages")
    if config.stage_heads != heads:
        raise keys.fail(
            "num_attention_heads_per_stage", list(heads), "one ratio for all stages"
        )
    return config


def built(path: Where, make, **fields):
    """``make(**fields)``, with the file named in what it raises."""
    try:
        return make(**fields)
    except (ConfigError, LayoutError, OverflowError) as error:
        raise ConfigError(f"{path}: {error}") from None
