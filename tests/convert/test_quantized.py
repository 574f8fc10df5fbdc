"""Checkpoints of int8: what they hold, how large they are, what is refused."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from convert.compare import compare
from convert.load import load_assistant, to_hf, to_native
from convert.quantize import quantize_native, quantized
from vica_jax.checkpoint import (
    CheckpointError,
    CheckpointWriter,
    iter_leaves,
    read_manifest,
)
from vica_jax.errors import InputError
from vica_jax.models.quantize import is_quantized, quantize_kernel, scale_path

CHECKPOINT = Path(__file__).parents[1] / "goldens" / "tiny-vica2" / "checkpoint"
SHIPPED = Path(__file__).parents[2] / "checkpoints" / "vica2-world"


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("exact") / "native"
    to_native(CHECKPOINT, target)
    return target


@pytest.fixture(scope="module")
def int8(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("int8") / "native"
    notes = to_native(CHECKPOINT, target, quantize="int8")
    assert "4 layers of the language model and the output matrix" in notes[-1]
    return target


def test_kernels_and_their_scales_take_the_place_of_kernels(exact, int8):
    before, after = dict(iter_leaves(exact)), dict(iter_leaves(int8))
    for path, leaf in before.items():
        found = after.pop(path)
        if is_quantized(path):
            values, scale = quantize_kernel(path, leaf)
            assert found.dtype == np.int8 and np.array_equal(found, values)
            stored = after.pop(scale_path(path))
            assert stored.dtype == np.float32 and np.array_equal(stored, scale)
        else:
            assert found.dtype == leaf.dtype and np.array_equal(found, leaf)
    assert not after
    manifest = read_manifest(int8)
    assert manifest.int8 and not read_manifest(exact).int8
    assert manifest.provenance["quantize"] == "int8"
    assert manifest.hf_config == read_manifest(exact).hf_config


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_dtype_is_for_what_is_left(int8, tmp_path, dtype):
    to_native(CHECKPOINT, tmp_path / "x", dtype=dtype, quantize="int8")
    for path, leaf in read_manifest(tmp_path / "x").leaves.items():
        wanted = "int8" if is_quantized(path) else dtype
        assert leaf.dtype == ("float32" if path.endswith("kernel_scale") else wanted)


def test_a_native_checkpoint_gives_the_same(exact, int8, tmp_path):
    quantize_native(exact, tmp_path / "again")
    wanted, found = dict(iter_leaves(int8)), dict(iter_leaves(tmp_path / "again"))
    assert wanted.keys() == found.keys()
    assert all(np.array_equal(leaf, found[path]) for path, leaf in wanted.items())
    made, before = (read_manifest(x) for x in (tmp_path / "again", exact))
    assert made.tokenizer == before.tokenizer and made.config == before.config
    assert made.provenance["base_provenance"] == before.provenance


def test_tied_embeddings_stay(tmp_path):
    notes = to_native(SHIPPED, tmp_path / "x", quantize="int8")
    assert "not the output matrix, which is the tied embedding" in notes[-1]
    leaves = read_manifest(tmp_path / "x").leaves
    assert leaves["llm/embedder/embedding"].dtype == "bfloat16"
    assert sum(leaf.dtype == "int8" for leaf in leaves.values()) == 7 * 8


def test_half_the_bytes_of_bfloat16_on_disk(tmp_path):
    """Leaves of a layer as wide as it takes for scales and headers not to count."""
    rng = np.random.default_rng(0)
    shapes = {"attn/q_proj": (256, 4, 64), "attn/o_proj": (4, 64, 256)}
    shapes |= {"mlp/gate_proj": (256, 1024), "mlp/down_proj": (1024, 256)}
    leaves = {
        f"llm/layers/0/{name}/kernel": rng.standard_normal(shape).astype(
            ml_dtypes.bfloat16
        )
        for name, shape in shapes.items()
    }
    size = {}
    forms = {"whole": leaves.items(), "int8": quantized(leaves.items())}
    for name, made in forms.items():
        with CheckpointWriter(tmp_path / name) as writer:
            for path, array in made:
                writer.write(path, array)
            writer.finish(family="component", config=None)
        files = (tmp_path / name / "params").rglob("*")
        size[name] = sum(file.stat().st_size for file in files if file.is_file())
    assert 0.5 < size["int8"] / size["whole"] < 0.53


# ------------------------------------------------------------------ what is refused
def test_int8_is_for_inference_only(int8, tmp_path):
    line = f"^{int8}: its weights are int8, for inference only: "
    with pytest.raises(CheckpointError, match=f"{line}the Hugging Face form needs"):
        to_hf(int8, tmp_path / "hf")
    with pytest.raises(CheckpointError, match=f"{line}quantising needs"):
        quantize_native(int8, tmp_path / "twice")
    with pytest.raises(CheckpointError, match=f"{line}merging an adapter needs"):
        load_assistant(int8, adapter=tmp_path)
    with pytest.raises(CheckpointError, match=f"{line}comparing with a Hugging"):
        compare(int8, CHECKPOINT)
    assert list(tmp_path.iterdir()) == []


def test_a_component_is_not_quantised(tmp_path):
    target = tmp_path / "part"
    with CheckpointWriter(target) as writer:
        writer.write("llm/lm_head/kernel", np.ones((2, 3), np.float32))
        writer.finish(family="component", config=None)
    with pytest.raises(InputError, match="--quantize takes a whole ViCA or ViCA2"):
        quantize_native(target, tmp_path / "x")
    assert not (tmp_path / "x").exists()
