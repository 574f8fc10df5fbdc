"""LoRA folders against sums made in HF's own layout; every refusal."""

import json
import re
from math import sqrt
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from convert.adapter import AdapterError, open_adapter, read_adapter
from convert.rules import ConversionError, convert
from convert.safetensors_io import CheckpointError
from convert.vica import model_rows
from vica_jax.models.variants import VARIANTS

ROWS = model_rows(VARIANTS["tiny"])
SHAPES = {row.hf: row.hf_shape for row in ROWS}
NATIVE = {row.hf: row.native for row in ROWS}
LAYER = "model.layers.{}.{}"
LINEAR = (
    *(LAYER.format(0, f"self_attn.{x}_proj") for x in "qkvo"),
    *(LAYER.format(2, f"mlp.{x}_proj") for x in ("gate", "up", "down")),
    "model.mm_projector.0",
    "model.sam_projector.2",
    "lm_head",
)
CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "lora_dropout": 0.05,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "target_modules": ["q_proj"],
    "task_type": "CAUSAL_LM",
    "use_dora": False,
    "use_rslora": False,
}
PEFT = "base_model.model."


def pair(module: str, rank: int = 4, *, seed: int = 0, default: bool = False):
    """A and B of one linear layer, under PEFT's names."""
    rng = np.random.default_rng(seed)
    out, wide = SHAPES[f"{module}.weight"]
    middle = ".default" if default else ""
    return {
        f"{PEFT}{module}.lora_A{middle}.weight": f32(rng, (rank, wide)),
        f"{PEFT}{module}.lora_B{middle}.weight": f32(rng, (out, rank)),
    }


def f32(rng, shape):
    return rng.standard_normal(shape).astype(np.float32)


def save(folder: Path, tensors, **config) -> Path:
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return folder


def native(hf_name: str, value: np.ndarray) -> np.ndarray:
    """A tensor of HF's layout in ours, by the conversion of a base weight."""
    row = [row for row in ROWS if row.hf == hf_name]
    ((_, array),) = convert(row, {hf_name: value}.__getitem__)
    return array


def oracle(tensors, module: str, scale: float, middle: str = "") -> np.ndarray:
    a = tensors[f"{PEFT}{module}.lora_A{middle}.weight"].astype(np.float64)
    b = tensors[f"{PEFT}{module}.lora_B{middle}.weight"].astype(np.float64)
    delta = np.einsum("or,ri->oi", b, a) * scale
    return native(f"{module}.weight", delta.astype(np.float32))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------- deltas
@pytest.mark.parametrize("default", [False, True])
def test_deltas_of_every_kind_of_layer(tmp_path, default):
    tensors = {}
    for seed, module in enumerate(LINEAR):
        tensors |= pair(module, seed=seed, default=default)
    updates = {u.native_path: u for u in read_adapter(save(tmp_path, tensors), ROWS)}
    assert set(updates) == {NATIVE[f"{module}.weight"] for module in LINEAR}
    for module in LINEAR:
        update = updates[NATIVE[f"{module}.weight"]]
        assert not update.replaces and update.value.dtype == np.float32
        close(update.value, oracle(tensors, module, 2.0, ".default" if default else ""))


def test_apply_adds_to_the_base_and_keeps_its_dtype(tmp_path):
    module, other = LINEAR[0], NATIVE["model.norm.weight"]
    tensors = pair(module)
    adapter = open_adapter(save(tmp_path, tensors), ROWS)
    path = NATIVE[f"{module}.weight"]
    assert adapter.native_paths == (path,)
    base = f32(np.random.default_rng(1), SHAPES[f"{module}.weight"])
    hf = base + 2.0 * (
        tensors[f"{PEFT}{module}.lora_B.weight"]
        @ tensors[f"{PEFT}{module}.lora_A.weight"]
    )
    close(
        adapter.apply(path, native(f"{module}.weight", base)),
        native(f"{module}.weight", hf),
    )
    half = native(f"{module}.weight", base).astype(ml_dtypes.bfloat16)
    merged = adapter.apply(path, half)
    assert merged.dtype == half.dtype
    exact = half.astype(np.float32) + adapter.update(path).value
    assert merged.tobytes() == exact.astype(half.dtype).tobytes()
    untouched = np.ones(64, np.float32)
    assert adapter.apply(other, untouched) is untouched


@given(r=st.integers(1, 6), alpha=st.integers(1, 64), rslora=st.booleans())
def test_scale(tmp_path_factory, r, alpha, rslora):
    tensors = pair(LINEAR[1], r)
    config = {"r": r, "lora_alpha": alpha, "use_rslora": rslora}
    folder = save(tmp_path_factory.mktemp("adapter"), tensors, **config)
    (update,) = read_adapter(folder, ROWS)
    scale = alpha / (sqrt(r) if rslora else r)
    np.testing.assert_allclose(
        update.value, oracle(tensors, LINEAR[1], scale), rtol=1e-4, atol=1e-4
    )


def test_patterns_give_a_module_its_own_rank_and_alpha(tmp_path):
    q0, q1 = (LAYER.format(l, "self_attn.q_proj") for l in (0, 1))
    k, v = (LAYER.format(0, f"self_attn.{x}_proj") for x in "kv")
    tensors = pair(q0, 2) | pair(q1) | pair(k, 3) | pair(v)
    config = {
        "rank_pattern": {"layers.0.self_attn.q_proj": 2, "k_proj": 3},
        "alpha_pattern": {"k_proj": 6, r"layers\.\d+\.self_attn\.v_proj": 16},
    }
    adapter = open_adapter(save(tmp_path, tensors, **config), ROWS)
    for module, scale in [(q0, 8 / 2), (q1, 8 / 4), (k, 6 / 3), (v, 16 / 4)]:
        value = adapter.update(NATIVE[f"{module}.weight"]).value
        close(value, oracle(tensors, module, scale))


def test_half_precision_adapters_multiply_in_float32(tmp_path):
    for dtype in (np.float16, ml_dtypes.bfloat16):
        tensors = {k: v.astype(dtype) for k, v in pair(LINEAR[3]).items()}
        (update,) = read_adapter(save(tmp_path, tensors), ROWS)
        assert update.value.dtype == np.float32
        close(update.value, oracle(tensors, LINEAR[3], 2.0))


def test_embedding_pairs(tmp_path):
    rng = np.random.default_rng(0)
    a, b = f32(rng, (4, 600)), f32(rng, (64, 4))
    name = f"{PEFT}model.embed_tokens.lora_embedding_"
    (update,) = read_adapter(save(tmp_path, {f"{name}A": a, f"{name}B": b}), ROWS)
    assert update.native_path == "llm/embedder/embedding"
    close(update.value, 2.0 * (b @ a).T)


@pytest.mark.parametrize("middle", ["", "modules_to_save.", "modules_to_save.default."])
def test_modules_to_save_replace(tmp_path, middle):
    rng = np.random.default_rng(0)
    weight, bias = f32(rng, (64, 48)), f32(rng, (64,)).astype(np.float16)
    name = f"{PEFT}model.mm_projector.0.{middle}"
    tensors = {f"{name}weight": weight, f"{name}bias": bias} | pair(LINEAR[0])
    config = {"modules_to_save": ["mm_projector"]}
    adapter = open_adapter(save(tmp_path, tensors, **config), ROWS)
    update = adapter.update("siglip_projector/fc1/kernel")
    assert update.replaces and update.value.tobytes() == weight.T.tobytes()
    leaf = np.zeros(64, ml_dtypes.bfloat16)
    new = adapter.apply("siglip_projector/fc1/bias", leaf)
    assert new.tobytes() == bias.astype(leaf.dtype).tobytes()
    assert not adapter.update(NATIVE[f"{LINEAR[0]}.weight"]).replaces


# -------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3' .*'LORA'"),
        ({"peft_type": None}, "peft_type = None"),
        ({"use_dora": True}, "use_dora = True .*False"),
        ({"bias": "all"}, "bias = 'all' .*'none'"),
        ({"bias": "lora_only"}, "bias = 'lora_only'"),
        ({"lora_bias": True}, "lora_bias = True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora'"),
        ({"layer_replication": [[0, 2]]}, "layer_replication = .*null"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"r": 0}, "r = 0 is not a positive number"),
        ({"r": None}, "r = None is not a positive number"),
        ({"lora_alpha": "8"}, "lora_alpha = '8'"),
        ({"rank_pattern": {"q_proj": -1}}, r"rank_pattern.q_proj. = -1"),
        ({"alpha_pattern": [1]}, "alpha_pattern is not an object"),
        ({"alpha_pattern": {"(": 1}}, r"bad pattern '\('"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_configs_refused(tmp_path, config, message):
    with pytest.raises(AdapterError, match=message):
        open_adapter(save(tmp_path, pair(LINEAR[0]), **config), ROWS)


def test_tensors_that_do_not_fit_are_listed_all_at_once(tmp_path):
    rng = np.random.default_rng(0)
    q, k, v, o, *_ = LINEAR
    tensors = pair(q) | pair(k, 3)
    tensors |= {
        f"{PEFT}{v}.lora_A.weight": f32(rng, (4, 64)),
        f"{PEFT}{o}.lora_B.weight": f32(rng, (63, 4)),
        f"{PEFT}{o}.lora_A.weight": f32(rng, (4, 64)),
        f"{PEFT}{o}.lora_A.default.weight": f32(rng, (4, 64)),
        f"{PEFT}{q}.weight": f32(rng, (64, 64)),
        f"{PEFT}model.layers.9.mlp.up_proj.lora_A.weight": f32(rng, (4, 64)),
        f"{PEFT}{LINEAR[6]}.lora_magnitude_vector": f32(rng, (64,)),
        f"{PEFT}model.norm.lora_A.weight": f32(rng, (4, 64)),
        f"{PEFT}model.norm.lora_B.weight": f32(rng, (64, 4)),
        f"{PEFT}lm_head.weight": f32(rng, (599, 64)),
    }
    with pytest.raises(AdapterError) as caught:
        open_adapter(save(tmp_path, tensors), ROWS)
    text = str(caught.value)
    for message in (
        r"layers\.9\.mlp\.up_proj\.lora_A\.weight: not a weight of this model",
        r"lora_magnitude_vector: not a weight of this model",
        r"o_proj\.lora_A\S*weight: stands for the same as",
        r"o_proj\.lora_B\.weight: expected shape \[64, 4\], found \[63, 4\]",
        r"k_proj\.lora_A\.weight: expected shape \[4, 64\], found \[3, 64\]",
        r"v_proj\.weight: \S*v_proj\.lora_A\.weight alone or mixed",
        r"q_proj\.weight: .* alone or mixed",
        r"norm\.lora_A\.weight: expected shape",
        r"lm_head\.weight: expected shape \[600, 64\], found \[599, 64\]",
    ):
        assert re.search(message, text), message
    count = int(re.search(r"\((\d+) problems\)", text)[1])
    assert count == 11 and len(text.splitlines()) == 12


def test_an_empty_adapter_is_refused(tmp_path):
    with pytest.raises(AdapterError, match="holds no tensors"):
        open_adapter(save(tmp_path, {}), ROWS)


def test_values_that_are_not_finite_are_named(tmp_path):
    tensors = pair(LINEAR[0])
    key = f"{PEFT}{LINEAR[0]}.lora_B.weight"
    tensors[key][0, 0] = np.nan
    with pytest.raises(ConversionError, match=f"tensor {re.escape(key)} holds NaN"):
        list(read_adapter(save(tmp_path, tensors), ROWS))


def test_a_sum_that_overflows_is_named(tmp_path):
    tensors = {k: np.full_like(v, 1e4) for k, v in pair(LINEAR[0]).items()}
    adapter = open_adapter(save(tmp_path, tensors), ROWS)
    (path,) = adapter.native_paths
    leaf = np.zeros((64, 4, 16), np.float16)
    with pytest.raises(ConversionError, match=f"tensor {path} holds NaN or Inf"):
        adapter.apply(path, leaf)


def test_folders_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such adapter folder"):
        open_adapter(tmp_path / "none", ROWS)
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json"):
        open_adapter(tmp_path, ROWS)
    folder = save(tmp_path / "a", pair(LINEAR[0]))
    (folder / "adapter_model.bin").write_bytes(b"x")
    assert open_adapter(folder, ROWS).native_paths  # the safetensors file beside it
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is a pickle"):
        open_adapter(folder, ROWS)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: cannot be"):
        open_adapter(folder, ROWS)
    # LLaVA's own scripts leave the projector in a pickle beside the adapter.
    folder = save(tmp_path / "b", pair(LINEAR[0]))
    (folder / "non_lora_trainables.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"non_lora_trainables\.bin is a pickle"):
        open_adapter(folder, ROWS)
