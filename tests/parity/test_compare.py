"""A native checkpoint beside a Hugging Face folder, part by part."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert import torch_peer
from convert.compare import REPORT, TOLERANCE, compare, verify_against
from convert.hiera import TRANSFORMERS, hiera_rows
from convert.load import to_native
from convert.qwen2 import qwen2_rows
from convert.rules import Row
from convert.safetensors_io import open_checkpoint, write_sharded
from convert.twins import parts
from convert.vica import HIERA_PREFIX, model_rows, open_folder
from vica_jax.errors import InputError
from vica_jax.models.variants import HIERA_TINY, QWEN2_TINY, VARIANTS

pytestmark = pytest.mark.parity


@pytest.fixture(scope="session")
def native(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("native") / golden_dir.name
    to_native(golden_dir / "checkpoint", target)
    return target


def rewritten(folder: Path, target: Path, names: set[str], change) -> Path:
    """A copy of an HF folder in which ``change(name, x)`` took the place of tensors."""
    source = open_checkpoint(folder)
    tensors = {name: source.read(name) for name in source.names}
    tensors |= {name: change(name, tensors[name]) for name in names}
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors*"))
    return write_weights(target, tensors)


def write_weights(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    write_sharded(folder, [(n, x.shape, x.dtype, x) for n, x in tensors.items()])
    return folder


# ------------------------------------------------------------------ the whole model
def test_golden_checkpoints_agree(golden_dir: Path, native: Path):
    seen = []
    report = verify_against(native, golden_dir / "checkpoint", seen.append)
    assert report["ok"] and 0 < report["worst"] < 1e-5
    assert len(seen) == len(report["rows"])
    assert report["versions"].keys() == {"vica_jax", "jax", "torch", "transformers"}
    assert json.loads((native / REPORT).read_text()) == report
    found = {row["module"] for row in report["rows"]}
    streams = {"siglip", "siglip_projector", "newline", "llm"}
    if "vica2" in golden_dir.name:
        streams |= {"hiera", "hiera_projector"}
    assert found == streams


def test_every_leaf_is_compared_once(golden_dir: Path):
    source = open_folder(golden_dir / "checkpoint")
    for row in source.rows:
        owners = [part for part in parts(source.config) if part.owns(row.native)]
        assert len(owners) == 1, row.native


@pytest.mark.parametrize("variant", ["vica_7b", "vica2_7b", "vica2_7b_hiera_large"])
def test_every_leaf_of_the_published_models_is_compared_once(variant: str):
    config = VARIANTS[variant]
    every = list(parts(config))
    for row in model_rows(config):
        assert sum(part.owns(row.native) for part in every) == 1, row.native


def test_changed_weights_are_found_and_named(
    golden_dir: Path, native: Path, tmp_path: Path
):
    vision = "model.vision_tower.vision_tower.vision_model."
    changes = {
        ("siglip", "embeddings"): vision + "embeddings.position_embedding.weight",
        ("siglip", "layers/1"): vision + "encoder.layers.1.mlp.fc1.weight",
        ("siglip", "post_norm (unused)"): vision + "post_layernorm.bias",
        ("siglip_projector", "fc1, gelu, fc2"): "model.mm_projector.2.bias",
        ("hiera", "embeddings"): HIERA_PREFIX + "pos_embed_window",
        ("hiera", "blocks/4"): HIERA_PREFIX + "blocks.4.attn.qkv.weight",
        ("hiera_projector", "fc1, gelu, fc2"): "model.sam_projector.0.weight",
        ("newline", "embedding"): "model.image_newline",
        ("llm", "embedder"): "model.embed_tokens.weight",
        ("llm", "layers/0"): "model.layers.0.self_attn.q_proj.weight",
        ("llm", "layers/3"): "model.layers.3.self_attn.k_proj.bias",
        ("llm", "final_norm, lm_head"): "lm_head.weight",
    }
    source = golden_dir / "checkpoint"
    have = open_checkpoint(source).names
    changes = {part: name for part, name in changes.items() if name in have}

    def change(name: str, x: np.ndarray) -> np.ndarray:
        if name.endswith("q_proj.weight"):  # what a wrong head order looks like
            return np.roll(x, 16, axis=0)
        x.reshape(-1)[7] += x.dtype.type(0.5)
        return x

    other = rewritten(source, tmp_path / "hf", set(changes.values()), change)
    wrong = [row for row in compare(native, other) if not row["ok"]]
    found = {(row["module"], row["part"]): row["differing"] for row in wrong}
    assert found == {part: [name] for part, name in changes.items()}
    for row in wrong:
        # A token that is not looked up, and a key's bias, which softmax all but
        # cancels, are seen in the weights alone.
        assert row["max_rel"] > TOLERANCE or row["part"] in ("embedder", "layers/3")


def test_bfloat16_conversion_is_compared_as_bfloat16(golden_dir: Path, tmp_path: Path):
    target = tmp_path / "native"
    to_native(golden_dir / "checkpoint", target, dtype="bfloat16")
    assert all(row["ok"] for row in compare(target, golden_dir / "checkpoint"))


# ---------------------------------------------------------------------- components
def check_component(cfg, tensors: dict[str, np.ndarray], path: Path) -> list[dict]:
    folder, target = write_weights(path / "hf", tensors), path / "native"
    config = torch_peer.config(cfg).to_dict()
    (folder / "config.json").write_text(json.dumps(config))
    to_native(folder, target)
    rows = compare(target, folder)
    assert all(row["ok"] for row in rows)
    return rows


def test_qwen2_folder_with_tied_embeddings_agrees(random_tensors, tmp_path: Path):
    cfg = replace(QWEN2_TINY, tie_embeddings=True)
    tensors = random_tensors(qwen2_rows(cfg), 0)
    rows = check_component(cfg, tensors, tmp_path)
    assert rows[-1]["part"] == "final_norm, lm_head"


def test_transformers_hiera_folder_agrees(random_tensors, tmp_path: Path):
    tensors = random_tensors(hiera_rows(HIERA_TINY, "", TRANSFORMERS), 0)
    rows = check_component(HIERA_TINY, tensors, tmp_path)
    assert len(rows) == 1 + sum(HIERA_TINY.depths)


def test_peer_reads_the_tensors_of_a_model_folder(golden_dir: Path):
    """As a bench does: a tower of a folder, under the names of transformers' class."""
    source = open_folder(golden_dir / "checkpoint")
    if source.config.hiera is None:
        pytest.skip("a model without Hiera")
    cfg = source.config.hiera
    peer_rows: list[Row] = hiera_rows(cfg, "", TRANSFORMERS)
    tensors = torch_peer.rename(source.checkpoint.read, source.rows, peer_rows)
    first = source.checkpoint.read(HIERA_PREFIX + "blocks.0.mlp.layers.1.bias")
    np.testing.assert_array_equal(tensors["blocks.0.mlp.proj_out.bias"], first)
    peer = torch_peer.hiera(cfg, tensors)
    size = (1, 3, cfg.image_size, cfg.image_size)
    out = torch_peer.run(peer, np.zeros(size, np.float32))["last_hidden_state"]
    assert out.shape == (1, 4, 4, cfg.stage_widths[-1])


# ------------------------------------------------------------------------- refusals
def test_other_sizes_are_refused(golden_dir: Path, native: Path, tmp_path: Path):
    source = golden_dir / "checkpoint"
    other = shutil.copytree(source, tmp_path / "hf")
    config = json.loads((other / "config.json").read_text()) | {"rope_theta": 5.0}
    (other / "config.json").write_text(json.dumps(config))
    message = r"llm\.rope_theta is 1000000\.0 in the first and 5\.0 in the second"
    with pytest.raises(InputError, match=message):
        compare(native, other)


def test_other_family_is_refused(golden_dir: Path, native: Path, tmp_path: Path):
    name = {"tiny-vica2": "tiny-vica", "tiny-vica": "tiny-vica2"}[golden_dir.name]
    with pytest.raises(InputError, match="different models"):
        compare(native, golden_dir.parent / name / "checkpoint")


def test_folders_in_the_wrong_place_are_refused(golden_dir: Path, native: Path):
    hf = golden_dir / "checkpoint"
    with pytest.raises(InputError, match="looks like a Hugging Face folder"):
        compare(hf, hf)
    with pytest.raises(InputError, match=r"config\.json"):
        compare(native, native)


def test_missing_torch_is_one_line(golden_dir: Path, native: Path, monkeypatch):
    def absent():
        raise ImportError("No module named 'torch'")

    monkeypatch.setattr(torch_peer, "versions", absent)
    with pytest.raises(InputError, match=r"needs the extra \[parity\]"):
        compare(native, golden_dir / "checkpoint")
