"""Adapters written as PEFT folders: read back, merged, refused."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from convert import peft
from convert.adapter import open_adapter
from convert.load import load_assistant
from convert.peft import write_adapter
from convert.rules import flatten
from convert.safetensors_io import CheckpointError, open_file
from convert.vica import model_rows
from vica_jax.errors import InputError
from vica_jax.models.stack import stack_layers
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import abstract_vica
from vica_jax.train.lora import LoraConfig, init_lora, merge, merge_kernel

VICA = Path(__file__).parents[1] / "goldens" / "tiny-vica" / "checkpoint"
TINY = VARIANTS["tiny"]
ROWS = {row.native: row for row in model_rows(TINY)}
CONFIG = LoraConfig(
    rank=3,
    alpha=7.5,
    dropout=0.05,
    targets=(
        "llm/layers/.*_proj",
        "siglip/layers/.*/(._proj|fc.)",
        "hiera/blocks/.*/(qkv|o_proj|fc.|proj)",
        "(siglip|hiera)_projector/fc.",
    ),
)


def draw(shapes: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes
    )


def adapters_of(shapes: Any, config: LoraConfig = CONFIG) -> dict[str, Any]:
    init = lambda: init_lora(shapes, config, jax.random.key(0))
    return draw(jax.eval_shape(init))


@pytest.fixture(scope="module")
def tree() -> dict[str, Any]:
    """An adapter beside every layer of the tiny model that takes one, as a tree."""
    return adapters_of(abstract_vica(TINY)[0])


def write(target: Path, leaves: Any, **fields: Any) -> Path:
    fields = {"alpha": CONFIG.alpha, "dropout": CONFIG.dropout} | fields
    return write_adapter(target, [*ROWS.values()], leaves, **fields)


def test_round_trip_of_every_kind_of_layer(tree, tmp_path):
    """What the reader adds to a kernel is what training's own merge adds, bit for bit.

    The reader's sums are checked against others in test_adapter.
    """
    leaves = flatten(tree)
    adapter = open_adapter(write(tmp_path / "a", leaves), [*ROWS.values()])
    kernels = {path.rpartition("/")[0] + "/kernel" for path in leaves}
    assert set(adapter.native_paths) == kernels and len(kernels) > 80
    rng = np.random.default_rng(1)
    for path in kernels:
        kernel = rng.standard_normal(ROWS[path].native_shape).astype(np.float32)
        module = path.removesuffix("kernel")
        a, b = leaves[f"{module}lora_a"], leaves[f"{module}lora_b"]
        for dtype in (np.float32, ml_dtypes.bfloat16):
            base = kernel.astype(dtype)
            merged = merge_kernel(base, a, b, CONFIG.scale)
            assert merged.tobytes() == adapter.apply(path, base).tobytes(), path
            assert merged.tobytes() != base.tobytes()


def test_names_shapes_and_config(tree, tmp_path):
    folder = write(tmp_path / "a", flatten(tree), base_name="org/base", alpha=6)
    shapes = open_file(folder / "adapter_model.safetensors").shapes
    qkv = "base_model.model.model.sam_tower.vision_tower.blocks.3.attn.qkv"
    assert shapes[f"{qkv}.lora_A.weight"] == (3, 32)
    assert shapes[f"{qkv}.lora_B.weight"] == (3 * 64, 3)
    down = "model.layers.2.mlp.down_proj"
    assert shapes[f"base_model.model.{down}.lora_A.weight"] == (3, 128)
    assert shapes[f"base_model.model.{down}.lora_B.weight"] == (64, 3)
    config = json.loads((folder / "adapter_config.json").read_text())
    targets = config.pop("target_modules")
    assert down in targets and 2 * len(targets) == len(shapes)
    assert {f"base_model.model.{m}.lora_A.weight" for m in targets} < shapes.keys()
    assert config == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "org/base",
        "revision": None,
        "inference_mode": True,
        "r": 3,
        "lora_alpha": 6,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
    }
    assert {path.name for path in tmp_path.rglob("*")} == {
        "a",
        "adapter_model.safetensors",
        "adapter_config.json",
    }


def test_stacks_are_taken_apart(tree, tmp_path):
    stacked = dict(tree)
    for part in ("siglip", "llm"):
        stacked[part] = {"layers": stack_layers(tree[part]["layers"])}
    assert "llm/layers/block/mlp/up_proj/lora_a" in flatten(stacked)
    one, two = (
        write(tmp_path / str(i), flatten(t)) for i, t in enumerate((tree, stacked))
    )
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_leaves_trained_whole_go_along(tree, tmp_path):
    pair = {p: x for p, x in flatten(tree).items() if p.startswith("llm/layers/1/attn")}
    names = ("siglip_projector/fc1/kernel", "siglip_projector/fc1/bias", "newline")
    names += ("siglip/layers/1/attn/q_proj/kernel", "siglip/layers/1/attn/q_proj/bias")
    whole = draw({p: np.empty(ROWS[p].native_shape, np.float32) for p in names})
    folder = write(tmp_path / "a", pair | whole)
    adapter = open_adapter(folder, [*ROWS.values()])
    for path, leaf in whole.items():
        update = adapter.update(path)
        assert update.replaces
        np.testing.assert_array_equal(update.value, leaf)
    config = json.loads((folder / "adapter_config.json").read_text())
    tower = "model.vision_tower.vision_tower.vision_model.encoder.layers.1"
    assert config["modules_to_save"] == [
        "model.mm_projector.0",
        f"{tower}.self_attn.q_proj",
    ]
    assert config["target_modules"] == [
        f"model.layers.1.self_attn.{name}_proj" for name in "qkvo"
    ]


def test_an_assistant_with_the_adapter_is_the_merged_one(tmp_path):
    base = load_assistant(VICA, dtype="float32")
    config = replace(CONFIG, targets=("llm/layers/.*_proj", "siglip/layers/.*/fc."))
    adapters = adapters_of(base.params, config)
    rows = model_rows(base.cfg)
    write_adapter(tmp_path / "a", rows, flatten(adapters), alpha=CONFIG.alpha)
    adapted = load_assistant(VICA, dtype="float32", adapter=tmp_path / "a")
    merged = merge(base.params, adapters, CONFIG)
    assert not np.array_equal(
        adapted.params["llm"]["layers"]["0"]["attn"]["q_proj"]["kernel"],
        base.params["llm"]["layers"]["0"]["attn"]["q_proj"]["kernel"],
    )
    jax.tree.map(np.testing.assert_array_equal, dict(adapted.params), merged)


# -------------------------------------------------------------------- refusals
Q = "llm/layers/0/attn/q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{Q}/lora_b": None}, "q_proj: has half an adapter, lora_a alone"),
        ({f"{Q}/lora_a": None}, "q_proj: has half an adapter, lora_b alone"),
        ({f"{Q}/lora_a": (64, 2)}, r"lora_a \[64, 2\] and lora_b \[3, 4, 16\] do not"),
        ({f"{Q}/lora_b": (3, 16, 4)}, "do not fit the kernel"),
        ({f"{Q}/kernel": (64, 4, 16)}, "trained both whole and by an adapter"),
        ({"llm/layers/9/mlp/up_proj/lora_a": (3, 3)}, "1 leaves are not of this model"),
        (
            {"llm/final_norm/lora_a": (64, 3)},
            "not of this model, llm/final_norm/lora_a",
        ),
        ({"newline": (63,)}, r"newline: expected shape \[64\], found \[63\]"),
        (
            {"siglip/patch_embed/lora_a": (2, 3), "siglip/patch_embed/lora_b": (3, 2)},
            "patch_embed: is no matrix product",
        ),
        (
            {f"{Q}/lora_a": (64, 2), f"{Q}/lora_b": (2, 4, 16)},
            "one rank; these leaves have 2, 3",
        ),
    ],
)
def test_leaves_refused(change, message, tree, tmp_path):
    leaves = flatten({"llm": {"layers": {"0": tree["llm"]["layers"]["0"]}}})
    for path, shape in change.items():
        leaves.pop(path, None)
        if shape is not None:
            leaves[path] = np.ones(shape, np.float32)
    with pytest.raises(InputError, match=message) as caught:
        write(tmp_path / "a", leaves)
    assert len(str(caught.value).splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_without_an_adapter_there_is_no_folder(tmp_path):
    with pytest.raises(InputError, match="no adapter among them"):
        write(tmp_path / "a", {"newline": np.ones(64, np.float32)})


def test_values_that_are_not_finite_are_named(tree, tmp_path):
    leaves = {p: x.copy() for p, x in flatten(tree).items() if p.startswith(Q)}
    leaves[f"{Q}/lora_b"][0, 0, 0] = np.inf
    with pytest.raises(InputError, match=f"tensor {Q}/lora_b holds NaN or Inf"):
        write(tmp_path / "a", leaves)


def test_a_folder_is_whole_or_not_there(tree, tmp_path, monkeypatch):
    leaves = {p: x for p, x in flatten(tree).items() if p.startswith(Q)}
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    with pytest.raises(CheckpointError, match="is not an empty folder"):
        write(taken, leaves)

    def full(*_):
        raise OSError(28, os.strerror(28))

    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", leaves)  # an empty folder will do
    monkeypatch.setattr(peft, "write_json", full)
    with pytest.raises(CheckpointError, match=r"cannot write here: .*No space left"):
        write(tmp_path / "a", leaves)
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "empty"}
