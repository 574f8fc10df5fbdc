"""The small model in the checkout: its form, its size, and what its card says."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from convert.load import load_assistant, to_hf, to_native
from vica_jax import VARIANTS

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "vica2-world"
KINDS = {".json", ".safetensors", ".txt", ".md", ".png"}


def test_it_is_small_and_nothing_in_it_runs():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= KINDS
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert 0 < sum(path.stat().st_size for path in weights) <= 15_000_000
    for path in weights:
        with safe_open(path, "np") as file:
            assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"BF16"}


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


def test_it_goes_back_to_the_same_bytes(native, tmp_path):
    to_hf(native, tmp_path / "hf")
    for path in SHIPPED.glob("*.safetensors"):
        assert (tmp_path / "hf" / path.name).read_bytes() == path.read_bytes()


def test_the_card_tells_how_it_was_made():
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    for command in ("make_world", "pretrain_world", "scripts.train", "eval_vsibench"):
        assert command in card
    for word in ("--seed=1", "6,103,976", "auxiliary", "cannot"):
        assert word in card
    config = json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "vica_qwen"
