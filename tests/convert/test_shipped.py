"""The small model in the checkout: its form, its size, and what its card says."""

import json
from pathlib import Path

import pytest

from convert.load import load_assistant, to_hf, to_native
from convert.safetensors_io import open_checkpoint
from vica_jax import VARIANTS

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "vica2-world"
KINDS = {".json", ".safetensors", ".txt", ".md", ".png"}


def test_it_is_small_and_nothing_in_it_runs():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= KINDS
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert 0 < sum(path.stat().st_size for path in weights) <= 15_000_000
    found = open_checkpoint(SHIPPED)
    assert {found.dtype(name).name for name in found.names} == {"bfloat16"}


@pytest.fixture(scope="module")
def native(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("shipped") / "native"
    to_native(SHIPPED, target)
    return target


def test_it_is_the_variant_that_is_pretrained(native):
    found, made = load_assistant(native).cfg, VARIANTS["world"]
    for part in ("siglip", "hiera", "llm"):
        assert getattr(found, part) == getattr(made, part), part
    assert found.layout == made.layout


def test_it_goes_back_to_the_same_tensors(native, tmp_path):
    to_hf(native, tmp_path / "hf")
    shipped, back = open_checkpoint(SHIPPED), open_checkpoint(tmp_path / "hf")
    assert sorted(shipped.names) == sorted(back.names)
    for name in shipped.names:
        assert shipped.dtype(name) == back.dtype(name)
        assert (shipped.read(name) == back.read(name)).all(), name


def test_the_card_tells_how_it_was_made():
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    for command in ("make_world", "pretrain_world", "scripts.train", "eval_vsibench"):
        assert command in card
    for word in ("--seed=1", "6,103,976", "auxiliary", "cannot"):
        assert word in card
    config = json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "vica_qwen"
