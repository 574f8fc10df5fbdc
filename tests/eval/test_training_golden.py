"""Training against the recorded runs of the PyTorch reference."""

import json
import shutil
from pathlib import Path

import pytest

from configs import vica2_stage1_align, vica2_stage3_spatial, vica_finetune
from convert.load import load_assistant
from convert.rules import hf_tensors
from convert.vica import model_rows
from vica_jax.eval.golden import GoldenError, read_record
from vica_jax.eval.training import Case, Model, verify_training


def model_of(folder: Path) -> Model:
    assistant = load_assistant(folder / "checkpoint", dtype="float32")
    rows = model_rows(assistant.cfg)
    full = vica2_stage3_spatial if assistant.cfg.hiera else vica_finetune
    return Model(
        cfg=assistant.cfg,
        params=assistant.params,
        tokenizer=assistant.tokenizer,
        to_hf=lambda tree: hf_tensors(tree, rows),
        names={row.hf: row.native for row in rows},
        tables={
            "stage1": vica2_stage1_align.get_config().trainable,
            "stage2_3": full.get_config().trainable,
        },
    )


@pytest.mark.slow
def test_everything_recorded_is_reproduced(golden_dir: Path):
    rows, notes = verify_training(model_of(golden_dir), golden_dir)
    assert [row for row in rows if not row.ok] == []
    assert notes == []
    cases = {row.case for row in rows}
    norms = json.loads((golden_dir / "train_grad_norms_per_param.json").read_text())
    assert sum(row.case == "grad norm" for row in rows) >= len(norms)
    assert {"s0", "s1", "s2", "batch", "gradient", "schedule"} < cases
    assert "steps stage3" in cases


def test_samples_are_equal_and_a_changed_label_is_noticed(golden_dir: Path):
    model = model_of(golden_dir)
    record = read_record(golden_dir / "train_case.npz")
    records = json.loads((golden_dir / "train_samples.json").read_text())
    rows = list(Case(model, record, records).samples())
    assert all(row.ok for row in rows)
    assert {"input_ids", "labels", "expanded_labels"} <= {r.quantity for r in rows}
    changed = record["s0.labels"].copy()
    changed[-1] += 1
    record["s0.labels"] = changed
    wrong = [row for row in Case(model, record, records).samples() if not row.ok]
    assert [(row.case, row.quantity) for row in wrong] == [("s0", "labels")]


def test_a_folder_without_training_is_refused(golden_dir: Path, tmp_path: Path):
    folder = tmp_path / "golden"
    shutil.copytree(golden_dir, folder)
    (folder / "train_samples.json").unlink()
    with pytest.raises(GoldenError, match=r"train_samples\.json"):
        verify_training(model_of(golden_dir), folder)
