"""Recorded outputs of the PyTorch reference are reproduced, and a change is seen."""

import json
import shutil

import numpy as np
import pytest

from convert.load import load_assistant
from vica_jax.eval.golden import GoldenError, check_golden_folder, verify_golden


@pytest.fixture(scope="module")
def rows(golden_dir):
    assistant = load_assistant(check_golden_folder(golden_dir), dtype="float32")
    return verify_golden(assistant, golden_dir)[0]


def test_everything_within_tolerance(rows):
    assert [row for row in rows if not row.ok] == []


def test_every_kind_of_case_was_compared(rows, golden_dir):
    quantities = {row.quantity for row in rows}
    wanted = {
        "input_ids", "frame_idx", "siglip_pixel_values", "siglip_features",
        "siglip_projected", "siglip_pooled", "siglip_tokens", "inputs_embeds",
        "logits", "lm_hidden_states", "gen_ids", "gen_ids_full_vocab",
        "gen_ids_rp105", "gen_ids_custom_eos", "best_resolution_wh",
        "num_visual_tokens",
    }  # fmt: skip
    if golden_dir.name == "tiny-vica2":
        wanted |= {"hiera_stage1", "hiera_stage4", "hiera_pos_embed", "hiera_tokens"}
    assert wanted <= quantities
    tokens = [row for row in rows if row.quantity.startswith("gen_ids")]
    assert len(tokens) >= 20
    assert {"s0", "s1", "batch", "t0", "t1", "pad", "small"} <= {r.case for r in rows}


def test_a_changed_weight_is_seen(golden_dir, tmp_path):
    """Text cases only: a layer's weight moved by one part in a hundred."""
    (tmp_path / "checkpoint").mkdir()
    shutil.copy(golden_dir / "text_case.npz", tmp_path)
    shutil.copy(golden_dir / "checkpoint" / "config.json", tmp_path / "checkpoint")
    assistant = load_assistant(golden_dir / "checkpoint", dtype="float32")
    layer = assistant.params["llm"]["layers"]["1"]["mlp"]["up_proj"]
    layer["kernel"] = layer["kernel"] * 1.01
    rows, notes = verify_golden(assistant, tmp_path)
    assert "video_case.npz: not there" in notes
    assert any(row.quantity == "logits" and not row.ok for row in rows)


def test_folders_that_are_no_goldens(golden_dir, tmp_path):
    with pytest.raises(GoldenError, match="no such folder"):
        check_golden_folder(tmp_path / "nowhere")
    with pytest.raises(GoldenError, match=r"no checkpoint/config\.json"):
        check_golden_folder(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps({}))
    with pytest.raises(GoldenError, match="none of"):
        check_golden_folder(tmp_path)


def test_a_golden_file_that_is_broken(golden_dir, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    shutil.copy(golden_dir / "checkpoint" / "config.json", tmp_path / "checkpoint")
    assistant = load_assistant(golden_dir / "checkpoint", dtype="float32")
    (tmp_path / "text_case.npz").write_bytes(b"no archive")
    with pytest.raises(GoldenError, match=r"text_case\.npz: cannot be read"):
        verify_golden(assistant, tmp_path)
    np.savez(tmp_path / "text_case.npz", **{"t0.prompt": np.array("hello")})
    with pytest.raises(GoldenError, match=r"t0\.input_ids"):
        verify_golden(assistant, tmp_path)
