"""The tables: goldens both ways, published sizes by shapes only, component folders."""

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest

from convert.hf_config import fresh_hf, to_hf
from convert.hiera import TRANSFORMERS, hiera_rows
from convert.qwen2 import qwen2_rows
from convert.rules import (
    AuditError,
    ConversionError,
    audit,
    count_parameters,
    flatten,
    invert,
    invert_lazily,
    nest,
)
from convert.safetensors_io import (
    CheckpointError,
    LazyCheckpoint,
    TensorInfo,
    open_checkpoint,
    write_json,
    write_sharded,
)
from convert.siglip import siglip_rows
from convert.vica import (
    HIERA_PREFIX,
    SIGLIP_PREFIX,
    audit_checkpoint,
    family_for,
    model_ignored,
    model_rows,
    open_folder,
)
from vica_jax.models.config import ConfigError
from vica_jax.models.variants import (
    HIERA_BASE_PLUS,
    HIERA_LARGE,
    HIERA_TINY,
    QWEN2_0_5B,
    QWEN2_TINY,
    SIGLIP_SO400M,
    SIGLIP_TINY,
    VARIANTS,
)

GOLDENS = Path(__file__).parents[1] / "goldens"
FULL = VARIANTS["vica2_7b"]


def on_paper(hf, shapes) -> LazyCheckpoint:
    """A checkpoint that has names and shapes but no values."""
    infos = {
        name: TensorInfo(Path("none"), np.dtype(np.float32), shape, 0)
        for name, shape in shapes.items()
    }
    return LazyCheckpoint(Path("paper"), (), infos, hf)


def shapes_of(rows):
    return {row.hf: row.hf_shape for row in rows}


def save(folder: Path, hf, shapes) -> Path:
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    write_sharded(folder, [(n, x.shape, x.dtype, x) for n, x in arrays.items()])
    write_json(folder / "config.json", hf)
    return folder


# --------------------------------------------------------------------- goldens
def test_rows_are_the_reference_state_dict(golden_dir):
    listed = json.loads((golden_dir / "state_dict_keys.json").read_text())
    folder = open_folder(golden_dir / "checkpoint")
    assert shapes_of(folder.rows) == {k: tuple(v) for k, v in listed.items()}
    assert folder.report.tensors == len(listed)
    assert folder.report.num_ignored == 0 and folder.notes == ()
    assert folder.family == family_for(folder.config)
    assert folder.hf_config == dict(folder.checkpoint.config)


def test_goldens_round_trip_through_the_tree_and_disk(golden_dir, tmp_path):
    folder = open_folder(golden_dir / "checkpoint")
    flat = flatten(nest(folder.tensors()))
    back = dict(invert(folder.rows, flat.__getitem__))
    for name in folder.checkpoint.names:
        assert back[name].tobytes() == folder.checkpoint.read(name).tobytes()

    dtype_of = lambda path: flat[path].dtype
    lazy = invert_lazily(folder.rows, flat.__getitem__, dtype_of)
    write_sharded(tmp_path, lazy, max_shard_bytes=300_000)
    hf = to_hf(folder.checkpoint.config, folder.config)
    write_json(tmp_path / "config.json", hf)
    again = open_folder(tmp_path)
    assert (again.family, again.config) == (folder.family, folder.config)
    assert again.hf_config == folder.hf_config
    assert len(again.checkpoint.files) > 1
    for name in folder.checkpoint.names:
        a, b = folder.checkpoint.read(name), again.checkpoint.read(name)
        assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


def test_bfloat16_survives_the_round_trip(golden_dir, tmp_path):
    folder = open_folder(golden_dir / "checkpoint")
    flat = dict(folder.tensors("bfloat16"))
    assert {x.dtype.name for x in flat.values()} == {"bfloat16"}
    write_sharded(tmp_path, invert_lazily(folder.rows, flat.__getitem__, "bfloat16"))
    hf = to_hf(folder.hf_config, folder.config, dtype="bfloat16")
    write_json(tmp_path / "config.json", hf)
    again = open_folder(tmp_path)
    assert again.hf_config["torch_dtype"] == "bfloat16"
    for path, x in again.tensors():
        assert x.tobytes() == flat[path].tobytes()
    for path, x in again.tensors("float32"):
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, flat[path].astype(np.float32))


def test_tree_of_the_tiny_model():
    tree = nest((row.native, row.native_shape) for row in model_rows(VARIANTS["tiny"]))
    assert set(tree) == {
        "siglip", "hiera", "siglip_projector", "hiera_projector", "newline", "llm",
    }  # fmt: skip
    assert tree["newline"] == (64,)
    siglip = tree["siglip"]
    assert siglip["patch_embed"] == {"kernel": (14, 14, 3, 48), "bias": (48,)}
    assert siglip["pos_embed"] == {"embedding": (25, 48)}
    assert siglip["post_norm"] == {"scale": (48,), "bias": (48,)}
    assert set(siglip["layers"]) == {"0", "1"}
    heads = {"kernel": (48, 4, 12), "bias": (4, 12)}
    assert siglip["layers"]["1"] == {
        "norm1": {"scale": (48,), "bias": (48,)},
        "attn": {
            "q_proj": heads,
            "k_proj": heads,
            "v_proj": heads,
            "o_proj": {"kernel": (4, 12, 48), "bias": (48,)},
        },
        "norm2": {"scale": (48,), "bias": (48,)},
        "mlp": {
            "fc1": {"kernel": (48, 96), "bias": (96,)},
            "fc2": {"kernel": (96, 48), "bias": (48,)},
        },
    }
    hiera = tree["hiera"]
    assert hiera["patch_embed"] == {"kernel": (7, 7, 3, 16), "bias": (16,)}
    assert hiera["pos_embed"] == {"embedding": (7, 7, 16)}
    assert hiera["pos_embed_window"] == {"embedding": (4, 4, 16)}
    assert hiera["blocks"]["3"] == {
        "norm1": {"scale": (32,), "bias": (32,)},
        "attn": {
            "qkv": {"kernel": (32, 3, 4, 16), "bias": (3, 4, 16)},
            "o_proj": {"kernel": (4, 16, 64), "bias": (64,)},
        },
        "norm2": {"scale": (64,), "bias": (64,)},
        "mlp": {
            "fc1": {"kernel": (64, 256), "bias": (256,)},
            "fc2": {"kernel": (256, 64), "bias": (64,)},
        },
        "proj": {"kernel": (32, 64), "bias": (64,)},
    }
    wider = {number for number, block in hiera["blocks"].items() if "proj" in block}
    assert wider == {"1", "3", "7"}
    assert tree["hiera_projector"] == {
        "fc1": {"kernel": (128, 64), "bias": (64,)},
        "fc2": {"kernel": (64, 64), "bias": (64,)},
    }
    assert tree["siglip_projector"]["fc1"]["kernel"] == (48, 64)
    llm = tree["llm"]
    assert llm["embedder"] == {"embedding": (600, 64)}
    assert llm["final_norm"] == {"scale": (64,)}
    assert llm["lm_head"] == {"kernel": (64, 600)}
    assert llm["layers"]["3"] == {
        "attn_norm": {"scale": (64,)},
        "attn": {
            "q_proj": {"kernel": (64, 4, 16), "bias": (4, 16)},
            "k_proj": {"kernel": (64, 2, 16), "bias": (2, 16)},
            "v_proj": {"kernel": (64, 2, 16), "bias": (2, 16)},
            "o_proj": {"kernel": (4, 16, 64)},
        },
        "mlp_norm": {"scale": (64,)},
        "mlp": {
            "gate_proj": {"kernel": (64, 128)},
            "up_proj": {"kernel": (64, 128)},
            "down_proj": {"kernel": (128, 64)},
        },
    }


# ------------------------------------------------------------- published sizes
def test_parameter_counts_of_the_published_models():
    rows = model_rows(FULL)
    part = lambda name: count_parameters(r for r in rows if r.native.startswith(name))
    assert part("llm/") == 7_615_616_512
    assert part("siglip/") == 397_747_744
    assert part("siglip_projector/") == 16_980_992
    assert part("hiera_projector/") == 16_063_488
    assert part("newline") == 3_584
    assert part("hiera/") == 68_675_712
    assert count_parameters(rows) - part("hiera/") == 8_046_412_320
    report = audit(rows, shapes_of(rows), model_ignored(FULL))
    assert report.parameters == 8_115_088_032
    vica = count_parameters(model_rows(VARIANTS["vica_7b"]))
    assert vica == report.parameters - part("hiera/") - part("hiera_projector/")


@pytest.mark.parametrize("name", VARIANTS)
def test_native_shapes_hold_as_many_values(name):
    rows = model_rows(VARIANTS[name])
    assert (
        len({row.native for row in rows}) == len({row.hf for row in rows}) == len(rows)
    )
    for row in rows:
        assert prod(row.native_shape) == prod(row.hf_shape)
        assert row.op.hf_shape(row.native_shape) == row.hf_shape


@pytest.mark.parametrize("name", ["vica2_7b", "vica2_7b_hiera_large", "vica_7b"])
def test_published_folders_without_sections_fit(name):
    config = VARIANTS[name]
    hf = {k: v for k, v in fresh_hf(config).items() if not k.endswith("_config")}
    folder = audit_checkpoint(on_paper(hf, shapes_of(model_rows(config))))
    assert folder.config == config
    assert len(folder.notes) == 1 + (config.hiera is not None)


# --------------------------------------------------------------------- ignored
def test_what_a_checkpoint_may_hold_beyond_the_model():
    rows = model_rows(FULL)
    extra = (
        SIGLIP_PREFIX + "head.probe",
        SIGLIP_PREFIX + "head.mlp.fc1.weight",
        SIGLIP_PREFIX + "encoder.layers.26.mlp.fc1.weight",
        SIGLIP_PREFIX + "embeddings.position_ids",
        "model.layers.27.self_attn.rotary_emb.inv_freq",
        "model.rotary_emb.inv_freq",
    )
    report = audit(
        rows, shapes_of(rows) | dict.fromkeys(extra, (1,)), model_ignored(FULL)
    )
    assert sorted(n for names in report.ignored.values() for n in names) == sorted(
        extra
    )
    assert all(reason in report.summary() for reason in report.ignored)


def test_what_it_may_not_hold():
    rows = model_rows(FULL)
    extra = (
        SIGLIP_PREFIX + "encoder.layers.25.mlp.fc3.weight",
        HIERA_PREFIX + "head.weight",
        "model.layers.28.mlp.up_proj.weight",
        "model.vision_resampler.weight",
        "lm_head.bias",
    )
    found = shapes_of(rows) | dict.fromkeys(extra, (1,))
    with pytest.raises(AuditError) as caught:
        audit(rows, found, model_ignored(FULL))
    assert sorted(caught.value.unexpected) == sorted(extra)


def test_tied_embeddings_have_no_head():
    config = replace(FULL, llm=QWEN2_0_5B)
    untied = replace(config, llm=replace(QWEN2_0_5B, tie_embeddings=False))
    rows = model_rows(config)
    assert not any("lm_head" in row.native for row in rows)
    found = shapes_of(rows)
    assert audit(rows, found, model_ignored(config)).num_ignored == 0
    found["lm_head.weight"] = (151936, 896)
    report = audit(rows, found, model_ignored(config))
    assert report.ignored == {
        "lm_head is tied to the token embedding": ("lm_head.weight",)
    }
    del found["lm_head.weight"]
    with pytest.raises(AuditError, match=r"missing: lm_head\.weight"):
        audit(model_rows(untied), found)


# ----------------------------------------------------------------- wrong folders
def test_another_family_is_refused():
    vica2 = GOLDENS / "tiny-vica2/checkpoint"
    with pytest.raises(ConfigError, match="family vica_qwen, but llava_qwen is needed"):
        open_folder(vica2, ("llava_qwen",))
    hf = dict(open_checkpoint(vica2).config) | {"model_type": "llava_qwen"}
    shapes = shapes_of(model_rows(VARIANTS["tiny"]))
    with pytest.raises(AuditError, match="122 unexpected"):
        audit_checkpoint(on_paper(hf, shapes))


def test_all_violations_are_reported_before_anything_is_read():
    hf = fresh_hf(VARIANTS["tiny"])
    shapes = shapes_of(model_rows(VARIANTS["tiny"]))
    shapes["model.norm.weight"] = (65,)
    del shapes["model.image_newline"], shapes["lm_head.weight"]
    shapes["model.extra"] = (1,)
    with pytest.raises(AuditError) as caught:
        audit_checkpoint(on_paper(hf, shapes))
    text = str(caught.value)
    assert "paper: " in text and "2 missing, 1 unexpected, 1 wrong shape" in text
    for line in (
        "missing: model.image_newline",
        "missing: lm_head.weight",
        "unexpected: model.extra",
        "wrong shape: model.norm.weight: expected [64], found [65]",
    ):
        assert line in text


def test_a_nan_in_a_file_is_named(tmp_path):
    hf, rows = fresh_hf(VARIANTS["tiny"]), model_rows(VARIANTS["tiny"])
    arrays = {row.hf: np.zeros(row.hf_shape, np.float16) for row in rows}
    arrays["model.norm.weight"][3] = np.nan
    write_sharded(tmp_path, [(n, x.shape, x.dtype, x) for n, x in arrays.items()])
    write_json(tmp_path / "config.json", hf)
    with pytest.raises(ConversionError, match=r"tensor model\.norm\.weight holds NaN"):
        for _ in open_folder(tmp_path).tensors("bfloat16"):
            pass


def test_a_folder_without_weights_is_refused(tmp_path):
    write_json(tmp_path / "config.json", fresh_hf(VARIANTS["tiny"]))
    with pytest.raises(CheckpointError, match="no safetensors weights"):
        open_folder(tmp_path)


# ------------------------------------------------------------------ components
SIGLIP_HF = {
    "model_type": "siglip",
    "vision_config": {
        "hidden_size": 48,
        "image_size": 72,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "patch_size": 14,
    },
}
HIERA_HF = {
    "model_type": "hiera",
    "embed_dim": 16,
    "num_heads": 1,
    "stages": [1, 2, 4, 2],
    "global_att_blocks": [4, 6],
    "window_spec": [4, 2, 6, 3],
    "window_pos_embed_bkg_spatial_size": [7, 7],
    "resolution": 128,
}
SAM2_HF = {
    "model_type": "sam2_video",
    "vision_config": {
        "backbone_config": {
            "hidden_size": 16,
            "num_attention_heads": 1,
            "image_size": [128, 128],
            "blocks_per_stage": [1, 2, 4, 2],
            "embed_dim_per_stage": [16, 32, 64, 128],
            "num_attention_heads_per_stage": [1, 2, 4, 8],
            "window_size_per_stage": [4, 2, 6, 3],
            "global_attention_blocks": [4, 6],
            "window_positional_embedding_background_size": [7, 7],
        }
    },
}
QWEN2_HF = {k: v for k, v in fresh_hf(VARIANTS["tiny"]).items() if "mm_" not in k} | {
    "model_type": "qwen2"
}


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_siglip_folder(tmp_path, prefix):
    shapes = shapes_of(siglip_rows(replace(SIGLIP_TINY, depth=3), prefix)) | {
        prefix + "head.probe": (1, 1, 48),
    }
    if prefix:
        shapes |= {"text_model.x.weight": (2,), "logit_scale": (1,), "logit_bias": (1,)}
    folder = open_folder(save(tmp_path, SIGLIP_HF, shapes), ("siglip",))
    assert folder.config == SIGLIP_TINY
    assert folder.report.num_ignored == 16 + 1 + (3 if prefix else 0)
    own = {r.native for r in model_rows(VARIANTS["tiny"]) if r.native[:7] == "siglip/"}
    assert {path for path, _ in folder.tensors()} == own


@pytest.mark.parametrize("prefix", ["hiera.", ""])
def test_hiera_folder_of_the_reference(tmp_path, prefix):
    rows = hiera_rows(HIERA_TINY, prefix)
    folder = open_folder(save(tmp_path, HIERA_HF, shapes_of(rows)), ("hiera", "sam2"))
    assert (folder.family, folder.config) == ("hiera", HIERA_TINY)
    own = {r.native for r in model_rows(VARIANTS["tiny"]) if r.native[:6] == "hiera/"}
    assert {path for path, _ in folder.tensors()} == own


@pytest.mark.parametrize("prefix", ["vision_encoder.backbone.", "backbone.", ""])
def test_hiera_folder_of_transformers(tmp_path, prefix):
    rows = hiera_rows(HIERA_TINY, prefix, TRANSFORMERS)
    shapes = shapes_of(rows)
    if prefix:
        shapes |= {"mask_decoder.iou_token.weight": (2,), "no_memory_embedding": (1,)}
    folder = open_folder(save(tmp_path, SAM2_HF, shapes))
    assert (folder.family, folder.config) == ("sam2", HIERA_TINY)
    assert folder.report.num_ignored == (2 if prefix else 0)
    assert [row.native for row in folder.rows] == [
        row.native for row in hiera_rows(HIERA_TINY, "")
    ]


def test_inside_the_backbone_nothing_is_ignored():
    prefix = "vision_encoder.backbone."
    shapes = shapes_of(hiera_rows(HIERA_TINY, prefix, TRANSFORMERS))
    with pytest.raises(AuditError, match=r"unexpected: vision_encoder\.backbone\.x"):
        audit_checkpoint(on_paper(SAM2_HF, shapes | {prefix + "x": (1,)}))


def test_a_tower_that_is_not_there_is_all_missing():
    with pytest.raises(AuditError, match=r"missing: hiera\.patch_embed\.proj\.weight"):
        audit_checkpoint(on_paper(HIERA_HF, {}))


def test_qwen2_folder(tmp_path):
    rows = qwen2_rows(QWEN2_TINY)
    folder = open_folder(save(tmp_path, QWEN2_HF, shapes_of(rows)), ("qwen2",))
    assert folder.config == QWEN2_TINY
    assert all(path.startswith("llm/") for path, _ in folder.tensors())


# ---------------------------------------------------- against transformers' classes
@pytest.fixture
def meta():
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        yield torch


def state(model):
    return {name: tuple(x.shape) for name, x in model.state_dict().items()}


@pytest.mark.parity
@pytest.mark.parametrize("config", [HIERA_BASE_PLUS, HIERA_LARGE, HIERA_TINY])
def test_sam2_of_transformers_has_our_names(meta, config):
    from transformers import Sam2Config, Sam2Model

    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": config.width,
        "num_attention_heads": config.num_heads,
        "image_size": [config.image_size] * 2,
        "blocks_per_stage": list(config.depths),
        "embed_dim_per_stage": list(config.stage_widths),
        "num_attention_heads_per_stage": list(config.stage_heads),
        "window_size_per_stage": list(config.windows),
        "global_attention_blocks": list(config.global_blocks),
        "window_positional_embedding_background_size": list(config.pos_embed_size),
    }
    hf = Sam2Config(
        vision_config={
            "backbone_config": backbone,
            "backbone_channel_list": list(config.stage_widths[::-1]),
        }
    )
    written = json.loads(hf.to_json_string(use_diff=True))
    folder = audit_checkpoint(on_paper(written, state(Sam2Model(hf))))
    assert (folder.family, folder.config) == ("sam2", config)
    assert folder.report.parameters == count_parameters(hiera_rows(config, ""))


@pytest.mark.parity
def test_siglip_of_transformers_has_our_names(meta):
    from transformers import SiglipVisionConfig, SiglipVisionModel

    hf = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
    )
    written = json.loads(hf.to_json_string(use_diff=True))
    folder = audit_checkpoint(on_paper(written, state(SiglipVisionModel(hf))))
    assert folder.config == SIGLIP_SO400M
    assert folder.report.parameters == 397_747_744


@pytest.mark.parity
@pytest.mark.parametrize("tied", [True, False])
def test_qwen2_of_transformers_has_our_names(meta, tied):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = replace(QWEN2_0_5B, tie_embeddings=tied)
    hf = Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=151936,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    written = json.loads(hf.to_json_string(use_diff=True))
    folder = audit_checkpoint(on_paper(written, state(Qwen2ForCausalLM(hf))))
    assert folder.config == config
    assert folder.report.num_ignored == int(tied)
