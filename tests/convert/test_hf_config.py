"""config.json <-> configs: goldens key for key, published sizes, every refusal."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.hf_config import (
    family_of,
    fresh_hf,
    from_hf,
    hiera_from_hf,
    notes,
    published_hiera,
    qwen2_from_hf,
    require_family,
    siglip_from_hf,
    to_hf,
    vica2_from_llava,
)
from vica_jax.layout import default_pinpoints
from vica_jax.models.config import ConfigError, VicaConfig, make_layout
from vica_jax.models.variants import (
    HIERA_BASE_PLUS,
    HIERA_LARGE,
    HIERA_TINY,
    QWEN2_0_5B,
    QWEN2_7B,
    QWEN2_TINY,
    SIGLIP_SO400M,
    SIGLIP_TINY,
    VARIANTS,
)

GOLDENS = Path(__file__).parents[1] / "goldens"
TINY2, TINY = (
    json.loads((GOLDENS / name / "checkpoint/config.json").read_text())
    for name in ("tiny-vica2", "tiny-vica")
)
SECTIONS = ("siglip_config", "hiera_config")
DROP = type("Missing", (), {"__repr__": lambda self: "missing"})()
# The keys of the published 7B folders that say something about the model.
VICA2 = {
    "architectures": ["VicaQwenForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 3584,
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": [list(p) for p in default_pinpoints(384)],
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "mm_hidden_size": 1152,
    "mm_newline_position": "grid",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_spatial_pool_mode": "bilinear",
    "mm_spatial_pool_stride": 2,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "model_type": "vica_qwen",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "tokenizer_model_max_length": 32768,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 152064,
}
LLAVA = VICA2 | {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava_qwen",
}


def changed(hf: dict[str, Any], /, **keys: Any) -> dict[str, Any]:
    """A copy with keys set or dropped; ``section__key`` reaches into a section."""
    hf = copy.deepcopy(hf)
    for name, value in keys.items():
        *outer, key = name.split("__")
        node = hf[outer[0]] if outer else hf
        if value is DROP:
            del node[key]
        else:
            node[key] = value
    return hf


# --------------------------------------------------------------------- reading
def test_goldens_are_the_tiny_variant():
    assert from_hf(TINY2) == ("vica_qwen", VARIANTS["tiny"])
    family, config = from_hf(TINY)
    assert family == "llava_qwen" and config.hiera is None
    assert (config.siglip, config.llm) == (SIGLIP_TINY, QWEN2_TINY)


def test_published_folders_without_sections_are_the_published_models():
    assert from_hf(VICA2) == ("vica_qwen", VARIANTS["vica2_7b"])
    assert from_hf(LLAVA) == ("llava_qwen", VARIANTS["vica_7b"])
    large = from_hf(VICA2, hiera=published_hiera(144))
    assert large == ("vica_qwen", VARIANTS["vica2_7b_hiera_large"])
    assert published_hiera(112) is HIERA_BASE_PLUS


def test_sections_override_and_carry_the_token_ratio():
    hf = changed(
        TINY2,
        hiera_config__frame_stride=4,
        hiera_config__output_stage=3,
        hiera_config__pool_stride=4,
        hiera_config__antialias=True,
        siglip_config__num_hidden_layers_kept=1,
        siglip_config__num_frames=16,
    )
    _, config = from_hf(hf)
    layout = config.layout
    assert (layout.frame_stride, layout.output_stage, layout.pool_stride) == (4, 3, 4)
    assert layout.num_frames == 16
    assert config.hiera is not None and config.hiera.antialias
    assert config.siglip.depth == 1
    assert config.hiera_out_width == 64


def test_context_is_the_smaller_limit():
    for tokenizer, positions in [(100, 200), (200, 100)]:
        hf = changed(
            TINY,
            tokenizer_model_max_length=tokenizer,
            max_position_embeddings=positions,
        )
        assert from_hf(hf)[1].layout.context_length == 100
    hf = changed(TINY, tokenizer_model_max_length=DROP, max_position_embeddings=64)
    assert from_hf(hf)[1].layout.context_length == 64


def test_pinpoints_as_a_string_are_units_of_a_tile():
    hf = changed(TINY, image_grid_pinpoints="(1x1),...,(6x6)")
    assert from_hf(hf) == from_hf(TINY)
    hf = changed(TINY, image_grid_pinpoints="(1x2),...,(2x3)")
    wh = from_hf(hf)[1].layout.grid_pinpoints_wh
    assert wh == ((72, 144), (72, 216), (144, 144), (144, 216))


def test_rope_in_the_words_of_old_and_new_transformers():
    new = {"rope_type": "default", "rope_theta": 1000000.0}
    hf = changed(TINY, rope_theta=DROP, rope_scaling=DROP, rope_parameters=new)
    assert from_hf(hf) == from_hf(TINY)
    assert from_hf(changed(TINY, rope_parameters=new)) == from_hf(TINY)
    assert from_hf(changed(TINY, rope_scaling={"type": "default"})) == from_hf(TINY)
    layers = {"layer_types": ["full_attention"] * 4}
    assert from_hf(TINY | layers) == from_hf(TINY)


def test_optional_keys_may_be_absent_or_null():
    optional = (
        "add_faster_video",
        "mm_use_im_start_end",
        "mm_use_im_patch_token",
        "mm_resampler_type",
        "use_sliding_window",
        "rope_scaling",
        "tie_word_embeddings",
        "hidden_act",
        "mm_hidden_size",
    )
    for value in (DROP, None):
        assert from_hf(changed(TINY, **dict.fromkeys(optional, value))) == from_hf(TINY)


def test_notes_say_what_has_no_effect():
    assert notes(TINY2) == notes(TINY) == []
    (note,) = notes(changed(TINY, mm_spatial_pool_stride=4))
    assert "mm_spatial_pool_stride = 4" in note
    assert from_hf(changed(TINY, mm_spatial_pool_stride=4)) == from_hf(TINY)
    assert len(notes(VICA2)) == 2 and len(notes(LLAVA)) == 1


# -------------------------------------------------------------------- refusals
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "llava_llama"}, "unknown model_type 'llava_llama' .known: vica_q"),
    ({"model_type": DROP}, "unknown model_type None"),
    ({"model_type": 3}, "unknown model_type 3"),
    ({"model_type": "qwen2"}, "family qwen2, but vica_qwen or llava_qwen is needed"),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling = .*'linear'"),
    ({"rope_scaling": 2}, "rope_scaling = 2 .*an object"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "rope_parameters"),
    (
        {"rope_parameters": {"rope_type": "default"}},
        "rope_parameters.rope_theta is mis",
    ),
    ({"rope_parameters": {"rope_theta": 5.0}}, "rope_theta = 1000000.0 .*5.0"),
    ({"rope_theta": DROP}, "key rope_theta is missing"),
    ({"rope_theta": 0}, "rope_theta = 0 .*a positive number"),
    ({"rope_theta": "1e6"}, "rope_theta = '1e6' .*a positive number"),
    ({"use_sliding_window": True}, "use_sliding_window = True .*False"),
    ({"layer_types": ["sliding_attention"]}, "layer_types"),
    ({"layer_types": "full_attention"}, "layer_types"),
    ({"quantization_config": {"bits": 4}}, "quantization_config = .*null"),
    ({"hidden_act": "gelu"}, "hidden_act = 'gelu' .*'silu'"),
    ({"mm_projector_type": "linear"}, "mm_projector_type = 'linear' .*'mlp2x_gelu'"),
    ({"mm_projector_type": DROP}, "key mm_projector_type is missing"),
    ({"mm_patch_merge_type": "flat"}, "mm_patch_merge_type = 'flat'"),
    ({"mm_newline_position": "one_token"}, "mm_newline_position = 'one_token'"),
    ({"mm_newline_position": DROP}, "key mm_newline_position is missing"),
    ({"mm_spatial_pool_mode": "average"}, "mm_spatial_pool_mode = 'average'"),
    ({"mm_resampler_type": "qformer"}, "mm_resampler_type = 'qformer' .*null"),
    ({"add_faster_video": True}, "add_faster_video = True .*False"),
    ({"mm_use_im_start_end": True}, "mm_use_im_start_end = True"),
    ({"mm_use_im_patch_token": True}, "mm_use_im_patch_token = True"),
    ({"mm_use_im_patch_token": 0}, "mm_use_im_patch_token = 0 .*False"),
    ({"mm_hidden_size": 1024}, "mm_hidden_size = 1024 .*48"),
    ({"image_aspect_ratio": "pad"}, "image_aspect_ratio = 'pad' .*anyres_max_N"),
    ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio = 'anyres'"),
    ({"image_aspect_ratio": "anyres_max_0"}, "image_aspect_ratio"),
    ({"image_aspect_ratio": 9}, "image_aspect_ratio = 9"),
    ({"image_aspect_ratio": DROP}, "key image_aspect_ratio is missing"),
    ({"image_grid_pinpoints": DROP}, "key image_grid_pinpoints is missing"),
    ({"image_grid_pinpoints": []}, "image_grid_pinpoints = .. .*multiples of 72"),
    ({"image_grid_pinpoints": "1x1"}, "image_grid_pinpoints = '1x1'"),
    ({"image_grid_pinpoints": "(2x2),...,(1x1)"}, "image_grid_pinpoints"),
    ({"image_grid_pinpoints": "(0x1),...,(1x1)"}, "image_grid_pinpoints"),
    ({"image_grid_pinpoints": [[72, 100]]}, "image_grid_pinpoints = ..72, 100"),
    ({"image_grid_pinpoints": [72, 72]}, "image_grid_pinpoints"),
    ({"image_grid_pinpoints": [[72, 72, 72]]}, "image_grid_pinpoints"),
    ({"image_grid_pinpoints": 5}, "image_grid_pinpoints = 5"),
    ({"hidden_size": DROP}, "key hidden_size is missing"),
    ({"hidden_size": 64.0}, "hidden_size = 64.0 .*an integer of at least 1"),
    ({"hidden_size": "64"}, "hidden_size = '64'"),
    ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
    ({"num_hidden_layers": True}, "num_hidden_layers = True"),
    ({"num_attention_heads": 3}, "num_attention_heads = 3 .*divisor"),
    ({"num_key_value_heads": 3}, "num_kv_heads = 3 does not divide"),
    ({"head_dim": 15}, "head_dim must be even"),
    ({"rms_norm_eps": "small"}, "rms_norm_eps = 'small'"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings = 'no' .*true or false"),
    ({"tokenizer_model_max_length": -1}, "tokenizer_model_max_length = -1"),
    ({"max_position_embeddings": DROP}, "key max_position_embeddings is missing"),
    ({"siglip_config": []}, "siglip_config = .. .*an object"),
    (
        {"siglip_config": DROP, "mm_vision_tower": "openai/clip-vit-large-patch14-336"},
        "mm_vision_tower = 'openai/.*siglip-so400m-patch14-384 or siglip_config",
    ),
    (
        {"siglip_config": DROP, "mm_vision_tower": DROP},
        "key mm_vision_tower is missing",
    ),
    ({"siglip_config": DROP}, "mm_hidden_size = 48 .*1152"),
    ({"siglip_config__hidden_act": "gelu"}, "siglip_config.hidden_act = 'gelu'"),
    ({"siglip_config__resample": "bilinear"}, "siglip_config.resample = 'bilinear'"),
    ({"siglip_config__hidden_size": DROP}, "key siglip_config.hidden_size is missing"),
    (
        {"siglip_config__num_hidden_layers_kept": 4},
        "num_hidden_layers_kept = 4 .*at mo",
    ),
    ({"siglip_config__num_attention_heads": 5}, "num_heads = 5 does not divide"),
    ({"siglip_config__patch_size": 73}, "siglip_config.patch_size = 73 .*most .*72"),
    ({"siglip_config__mean": [0.5] * 3}, "siglip_config.mean"),
    ({"hiera_config": None}, "key hiera_config is missing"),
    ({"hiera_config__q_stride": [2, 1]}, "hiera_config.q_stride = .2, 1. .*twice"),
    ({"hiera_config__q_stride": [2]}, "hiera_config.q_stride = .2. .*two integers"),
    ({"hiera_config__stages": [1, 2, 4]}, "4 windows for 3 stages"),
    ({"hiera_config__stages": DROP}, "key hiera_config.stages is missing"),
    ({"hiera_config__stages": [1, 2.5, 4, 2]}, "a list of integers"),
    ({"hiera_config__global_att_blocks": [7]}, "block 7 is global and query-pooling"),
    ({"hiera_config__global_att_blocks": [-1]}, "global_att_blocks = .-1."),
    ({"hiera_config__resolution": 100}, "image_size 100 is not a multiple"),
    ({"hiera_config__output_stage": 5}, "output_stage must lie in 1..4"),
    ({"hiera_config__frame_stride": 0}, "hiera_config.frame_stride = 0"),
    ({"hiera_config__antialias": "yes"}, "hiera_config.antialias = 'yes'"),
    ({"hiera_config__dim_mul": 1e200}, "cannot convert float infinity"),
    ({"hiera_config__dim_mul": -2.0}, "hiera_config.dim_mul = -2.0"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED, ids=lambda x: str(x)[:40])
def test_refused(keys, message):
    with pytest.raises(ConfigError, match=message) as caught:
        from_hf(changed(TINY2, **keys), "some/config.json")
    text = str(caught.value)
    assert text.startswith("some/config.json: ") and "\n" not in text


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.text(),
    st.integers(-2, 40),
    st.floats(),
    st.lists(st.integers(-2, 40)),
)


@given(
    st.sampled_from([None, *SECTIONS]).flatmap(
        lambda section: st.tuples(
            st.just(section),
            st.dictionaries(
                st.sampled_from(sorted(TINY2[section] if section else TINY2)),
                anything,
                min_size=1,
                max_size=4,
            ),
        )
    )
)
def test_anything_else_reads_or_is_refused(case):
    section, keys = case
    hf = TINY2 | ({section: TINY2[section] | keys} if section else keys)
    try:
        family, config = from_hf(hf)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert from_hf(to_hf(hf, config)) == (family, config)


# ------------------------------------------------------------------ back to HF
@pytest.mark.parametrize("hf", [TINY2, TINY], ids=["vica2", "vica"])
def test_goldens_come_back_as_they_were(hf):
    before = copy.deepcopy(hf)
    back = to_hf(hf, from_hf(hf)[1])
    assert json.dumps(back) == json.dumps(hf)  # the order of keys too
    back["image_grid_pinpoints"].clear()
    assert hf == before


@pytest.mark.parametrize("hf", [VICA2, LLAVA], ids=["vica2", "vica"])
def test_published_folders_gain_the_sections_and_keep_the_rest(hf):
    _, config = from_hf(hf)
    back = to_hf(hf, config)
    sections = ("siglip_config",) if hf is LLAVA else SECTIONS
    assert {k: v for k, v in back.items() if k not in sections} == hf
    assert from_hf(back) == from_hf(hf)
    assert set(back["siglip_config"]) == set(TINY["siglip_config"])
    assert back["siglip_config"]["num_hidden_layers"] == 27
    assert back["siglip_config"]["num_hidden_layers_kept"] == 26
    if hf is VICA2:
        assert set(back["hiera_config"]) == set(TINY2["hiera_config"])
        assert back["hiera_config"]["grid"] == 32
        assert back["hiera_config"]["out_dim"] == 896


def test_the_golden_sections_are_what_we_write():
    bare = {k: v for k, v in TINY2.items() if k not in SECTIONS}
    written = fresh_hf(VARIANTS["tiny"], dtype="float32")
    for name in SECTIONS:
        assert written[name] == TINY2[name]
    assert {k: written[k] for k in bare if k in written} == {
        k: bare[k] for k in bare if k in written
    } | {"mm_spatial_pool_stride": 2}


def test_dtype_is_written_only_when_asked():
    _, config = from_hf(TINY)
    assert to_hf(TINY, config)["torch_dtype"] == "float32"
    assert to_hf(TINY, config, dtype="bfloat16")["torch_dtype"] == "bfloat16"
    new = changed(TINY, torch_dtype=DROP, dtype="float32")
    back = to_hf(new, config, dtype="bfloat16")
    assert back["dtype"] == "bfloat16" and "torch_dtype" not in back


def test_changes_of_the_model_reach_every_key():
    _, config = from_hf(TINY2)
    assert config.hiera is not None
    siglip = replace(SIGLIP_TINY, width=24, depth=3)
    hiera = replace(HIERA_TINY, antialias=True, global_blocks=(4,))
    other = VicaConfig(
        siglip=siglip,
        hiera=hiera,
        llm=replace(QWEN2_TINY, depth=2, head_dim=8, vocab_size=503, rope_theta=1e4),
        layout=make_layout(
            siglip,
            hiera,
            frame_stride=4,
            output_stage=3,
            pool_stride=1,
            num_frames=8,
            context_length=65536,
            max_tiles=4,
            grid_pinpoints_wh=((72, 144),),
        ),
    )
    back = to_hf(TINY2, other)
    assert from_hf(back) == ("vica_qwen", other)
    assert back["vocab_size"] == 503 and back["head_dim"] == 8
    assert back["mm_hidden_size"] == 24
    assert back["hiera_config"]["grid"] == 8 and back["hiera_config"]["out_dim"] == 64
    again = to_hf(back, config)
    assert from_hf(again) == ("vica_qwen", config)
    assert "antialias" not in again["hiera_config"]


def test_to_hf_refuses_what_hf_cannot_say():
    _, config = from_hf(TINY2)
    layout = replace(config.layout, siglip_pool_stride=3)
    with pytest.raises(ConfigError, match="cannot say"):
        to_hf(TINY2, config.with_layout(layout))
    with pytest.raises(ConfigError, match="family llava_qwen, the model is of the oth"):
        to_hf(TINY, config)
    with pytest.raises(ConfigError, match="family vica_qwen, the model is of the oth"):
        to_hf(TINY2, from_hf(TINY)[1])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_a_config_json(name):
    config = VARIANTS[name]
    hf = json.loads(json.dumps(fresh_hf(config)))
    assert from_hf(hf) == (family_of(hf), config)
    assert hf["torch_dtype"] == "bfloat16"


def test_new_rope_words_are_kept():
    new = {"rope_type": "default", "rope_theta": 1000000.0}
    hf = changed(TINY, rope_theta=DROP, rope_parameters=new)
    _, config = from_hf(hf)
    slower = replace(config, llm=replace(config.llm, rope_theta=500.0))
    back = to_hf(hf, slower)
    assert back["rope_parameters"] == new | {"rope_theta": 500.0}
    assert "rope_theta" not in back


# ----------------------------------------------------------------- ViCA2-Init
def test_vica2_begins_from_llava():
    hf = vica2_from_llava(LLAVA, HIERA_BASE_PLUS)
    assert from_hf(hf) == ("vica_qwen", VARIANTS["vica2_7b"])
    assert hf["architectures"] == ["VicaQwenForCausalLM"]
    same = {k: v for k, v in hf.items() if k not in SECTIONS}
    assert same == LLAVA | {k: VICA2[k] for k in ("model_type", "architectures")}
    hf = vica2_from_llava(LLAVA, HIERA_LARGE, frame_stride=4, pool_stride=1)
    _, config = from_hf(hf)
    assert config.hiera == HIERA_LARGE
    assert (config.layout.frame_stride, config.layout.pool_stride) == (4, 1)


def test_vica2_from_llava_refuses():
    with pytest.raises(ConfigError, match="family vica_qwen, but llava_qwen"):
        vica2_from_llava(VICA2, HIERA_BASE_PLUS)
    with pytest.raises(ConfigError, match="output_stage must lie in"):
        vica2_from_llava(LLAVA, HIERA_BASE_PLUS, output_stage=9)


# ------------------------------------------------------------------ components
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
SIGLIP = {
    "model_type": "siglip",
    "text_config": {"hidden_size": 1152, "model_type": "siglip_text_model"},
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
}
HIERA = {
    "model_type": "hiera",
    "embed_dim": 112,
    "num_heads": 2,
    "drop_path_rate": 0.0,
    "q_pool": 3,
    "q_stride": [2, 2],
    "stages": [2, 3, 16, 3],
    "dim_mul": 2.0,
    "head_mul": 2.0,
    "window_pos_embed_bkg_spatial_size": [14, 14],
    "window_spec": [8, 4, 14, 7],
    "global_att_blocks": [12, 16, 20],
    "return_interm_layers": True,
    "weights_path": None,
}
BACKBONE = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 144,
    "num_attention_heads": 2,
    "blocks_per_stage": [2, 6, 36, 4],
    "embed_dim_per_stage": [144, 288, 576, 1152],
    "num_attention_heads_per_stage": [2, 4, 8, 16],
    "window_size_per_stage": [8, 4, 16, 8],
    "global_attention_blocks": [23, 33, 43],
    "window_positional_embedding_background_size": [7, 7],
    "image_size": [1024, 1024],
    "query_stride": [2, 2],
    "patch_stride": [4, 4],
}
SAM2 = {
    "model_type": "sam2_video",
    "vision_config": {"model_type": "sam2_vision_model", "backbone_config": BACKBONE},
}


def test_component_folders():
    assert qwen2_from_hf(QWEN2) == QWEN2_0_5B
    assert qwen2_from_hf(VICA2) == QWEN2_7B
    assert siglip_from_hf(SIGLIP) == SIGLIP_SO400M
    assert siglip_from_hf(SIGLIP["vision_config"]) == SIGLIP_SO400M
    assert hiera_from_hf(HIERA) == HIERA_BASE_PLUS
    assert hiera_from_hf(SAM2) == HIERA_LARGE
    assert hiera_from_hf(SAM2["vision_config"]) == HIERA_LARGE
    assert hiera_from_hf(BACKBONE) == HIERA_LARGE


def test_absent_hiera_keys_have_the_defaults_of_their_class():
    assert hiera_from_hf({"model_type": "hiera", "embed_dim": 112, "num_heads": 2}) == (
        HIERA_BASE_PLUS
    )
    tiny = hiera_from_hf({"model_type": "sam2", "vision_config": {}})
    assert (tiny.width, tiny.depths, tiny.global_blocks) == (
        96,
        (1, 2, 7, 2),
        (5, 7, 9),
    )


@pytest.mark.parametrize(
    ("hf", "family"),
    [
        (TINY2, "vica_qwen"),
        (TINY, "llava_qwen"),
        (QWEN2, "qwen2"),
        (SIGLIP, "siglip"),
        (SIGLIP["vision_config"], "siglip"),
        (HIERA, "hiera"),
        ({k: v for k, v in HIERA.items() if k != "model_type"}, "hiera"),
        (SAM2, "sam2"),
        (BACKBONE, "sam2"),
    ],
)
def test_families(hf, family):
    assert family_of(hf) == require_family(hf, (family,)) == family


@pytest.mark.parametrize(
    ("read", "hf", "message"),
    [
        (family_of, {"model_type": "hiera", "depths": [2]}, "image classifier"),
        (hiera_from_hf, SIGLIP, "family siglip, but hiera or sam2 is needed"),
        (siglip_from_hf, HIERA, "family hiera, but siglip is needed"),
        (siglip_from_hf, SIGLIP | {"vision_config": 1}, "vision_config = 1"),
        (
            hiera_from_hf,
            BACKBONE | {"patch_stride": [2, 2]},
            "patch_stride = .2, 2. .*4",
        ),
        (hiera_from_hf, BACKBONE | {"hidden_act": "relu"}, "hidden_act = 'relu'"),
        (
            hiera_from_hf,
            BACKBONE | {"embed_dim_per_stage": [144, 288, 500, 1000]},
            "embed_dim_per_stage = .*one ratio",
        ),
        (
            hiera_from_hf,
            BACKBONE | {"num_attention_heads_per_stage": [2, 4, 4, 8]},
            "num_attention_heads_per_stage = .*one ratio",
        ),
        (hiera_from_hf, HIERA | {"q_stride": [2, 4]}, "q_stride"),
    ],
)
def test_component_refusals(read, hf, message):
    with pytest.raises(ConfigError, match=message):
        read(hf)
