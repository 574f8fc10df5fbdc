"""Folders to folders and to assistants: round trips, assembly, adapters, refusals."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from convert import load
from convert.hiera import REFERENCE, TRANSFORMERS, hiera_rows
from convert.load import HubError, leaf_table, load_assistant, to_hf, to_native
from convert.ops import ConversionError
from convert.projectors import hiera_projector_rows
from convert.qwen2 import qwen2_rows
from convert.rules import AuditError, Row, flatten, invert
from convert.safetensors_io import open_checkpoint, write_json, write_sharded
from convert.siglip import siglip_rows
from convert.vica import open_folder
from vica_jax.checkpoint import (
    CheckpointError,
    CheckpointWriter,
    iter_leaves,
    read_manifest,
)
from vica_jax.data.tokenizer import TokenizerError
from vica_jax.decode.measure import OutOfMemoryError
from vica_jax.errors import InputError
from vica_jax.models.config import ConfigError, VicaConfig

GOLDENS = Path(__file__).parents[1] / "goldens"
VICA, VICA2 = (GOLDENS / name / "checkpoint" for name in ("tiny-vica", "tiny-vica2"))
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
QUESTION = "How many chairs are there?"

Tensors = dict[str, np.ndarray]


def tensors_of(folder: Path) -> Tensors:
    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.names}


def same_bits(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, x in a.items():
        y = b[name]
        assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes()), name


def json_of(path: Path) -> dict:
    return json.loads(path.read_text())


def save(folder: Path, config: dict, tensors: Tensors) -> Path:
    write_sharded(folder, [(n, x.shape, x.dtype, x) for n, x in tensors.items()])
    write_json(folder / "config.json", config)
    return folder


def edited(source: Path, folder: Path, change) -> Path:
    """A copy of a checkpoint in one file, its tensors changed by ``change``."""
    tensors = tensors_of(source)
    change(tensors)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model*"))
    return save(folder, json_of(source / "config.json"), tensors)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Native forms of the two goldens and what goes back to HF from them."""
    folder = tmp_path_factory.mktemp("made")
    for source in (VICA, VICA2):
        name = source.parent.name
        to_native(source, folder / name)
        to_hf(folder / name, folder / f"{name}-hf")
    return folder


# ----------------------------------------------------------------- round trips
@pytest.mark.parametrize("source", [VICA, VICA2], ids=["vica", "vica2"])
def test_hf_native_hf_is_the_same_folder(source, made):
    back = made / f"{source.parent.name}-hf"
    same_bits(tensors_of(source), tensors_of(back))
    for name in ("config.json", "generation_config.json"):
        assert json_of(back / name) == json_of(source / name)
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"):
        assert (back / name).read_bytes() == (source / name).read_bytes()
    assert open_folder(back).config == open_folder(source).config


def test_the_manifest_tells_where_weights_come_from(made):
    manifest = read_manifest(made / "tiny-vica2")
    assert manifest.family == "vica_qwen"
    assert manifest.hf_config == json_of(VICA2 / "config.json")
    hashes = manifest.provenance["sha256"]
    assert {name.partition("-")[0] for name in hashes} == {"config.json", "model"}
    assert len(hashes) == 5 and all(len(digest) == 64 for digest in hashes.values())


@pytest.mark.parametrize("cast_on_the_way_in", [True, False])
def test_a_cast_is_said_in_torch_dtype(tmp_path, made, cast_on_the_way_in):
    native, back, way = made / "tiny-vica", tmp_path / "hf", {"dtype": "bfloat16"}
    if cast_on_the_way_in:
        native = tmp_path / "native"
        to_native(VICA, native, **way)
        assert {x.dtype for x in read_manifest(native).leaves.values()} == {"bfloat16"}
    to_hf(native, back, **({} if cast_on_the_way_in else way))
    config = json_of(VICA / "config.json")
    assert json_of(back / "config.json") == config | {"torch_dtype": "bfloat16"}
    half = {name: x.astype(BFLOAT16) for name, x in tensors_of(VICA).items()}
    same_bits(tensors_of(back), half)


def test_tensors_of_several_dtypes_keep_them(tmp_path):
    """Files hold wider dtypes first, whatever the order of the layers."""

    def mix(tensors):
        kinds = (np.dtype(np.float32), BFLOAT16, np.dtype(np.float16))
        for i, name in enumerate(tensors):
            tensors[name] = tensors[name].astype(kinds[i % 3])

    source = edited(VICA, tmp_path / "source", mix)
    to_native(source, tmp_path / "native")
    to_hf(tmp_path / "native", tmp_path / "back")
    same_bits(tensors_of(source), tensors_of(tmp_path / "back"))
    assert json_of(tmp_path / "back" / "config.json") == json_of(VICA / "config.json")


# ------------------------------------------------------------------ components
def leaves_of(source: Path) -> Tensors:
    return dict(open_folder(source).tensors())


def component(folder: Path, config: dict, rows: list[Row]) -> Path:
    """A tower's own folder, with the weights it has in the recorded ViCA2."""
    return save(folder, config, dict(invert(rows, leaves_of(VICA2).__getitem__)))


def tiny() -> VicaConfig:
    config = open_folder(VICA2).config
    assert isinstance(config, VicaConfig)
    return config


def siglip_folder(folder: Path) -> Path:
    config = {
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
    return component(folder, config, siglip_rows(tiny().siglip, "vision_model."))


def qwen2_folder(folder: Path) -> Path:
    hf = json_of(VICA2 / "config.json")
    config = {key: value for key, value in hf.items() if "mm_" not in key}
    return component(folder, config | {"model_type": "qwen2"}, qwen2_rows(tiny().llm))


def hiera_folder(folder: Path, form: str = "reference") -> Path:
    hiera = tiny().hiera
    assert hiera is not None
    if form == "reference":
        hf = json_of(VICA2 / "config.json")["hiera_config"]
        return component(
            folder,
            {"model_type": "hiera", **hf},
            hiera_rows(hiera, "hiera.", REFERENCE),
        )
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": hiera.width,
        "num_attention_heads": hiera.num_heads,
        "image_size": [hiera.image_size] * 2,
        "blocks_per_stage": list(hiera.depths),
        "embed_dim_per_stage": list(hiera.stage_widths),
        "num_attention_heads_per_stage": list(hiera.stage_heads),
        "window_size_per_stage": list(hiera.windows),
        "global_attention_blocks": list(hiera.global_blocks),
        "window_positional_embedding_background_size": list(hiera.pos_embed_size),
    }
    config = {"model_type": "sam2", "vision_config": {"backbone_config": backbone}}
    prefix = "vision_encoder.backbone."
    return component(folder, config, hiera_rows(hiera, prefix, TRANSFORMERS))


COMPONENTS = {
    "siglip": siglip_folder,
    "qwen2": qwen2_folder,
    "hiera": hiera_folder,
    "sam2": lambda folder: hiera_folder(folder, "transformers"),
}


@pytest.mark.parametrize("family", COMPONENTS)
def test_components_convert_on_their_own(family, tmp_path, made):
    source, target = COMPONENTS[family](tmp_path / family), tmp_path / "native"
    to_native(source, target)
    manifest = read_manifest(target)
    assert manifest.family == "component"
    assert manifest.provenance["source_family"] == family
    model = dict(iter_leaves(made / "tiny-vica2"))
    part = {"qwen2": "llm/", "sam2": "hiera/"}.get(family, f"{family}/")
    same_bits(
        dict(iter_leaves(target)),
        {path: x for path, x in model.items() if path.startswith(part)},
    )
    assert leaf_table(target)[1] == leaf_table(source)[1]
    with pytest.raises(InputError, match="component checkpoint has no HF form"):
        to_hf(target, tmp_path / "back")
    for folder in (source, target):
        with pytest.raises(InputError, match=r"llava_qwen|single tower"):
            load_assistant(folder)
    assert not (tmp_path / "back").exists()


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["siglip", "qwen2", "sam2"])
def test_folders_that_transformers_writes(kind, tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3}
    if kind == "siglip":
        vision = {**sizes, "num_attention_heads": 4, "image_size": 72, "patch_size": 14}
        text = {**sizes, "num_attention_heads": 4, "vocab_size": 90}
        config = transformers.SiglipConfig(vision_config=vision, text_config=text)
        model = transformers.SiglipModel(config)
        name, op = "vision_model.encoder.layers.1.mlp.fc1.weight", lambda x: x.T
        path = "siglip/layers/1/mlp/fc1/kernel"
    elif kind == "qwen2":
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        config = transformers.Qwen2Config(**sizes, **heads, vocab_size=90)
        model = transformers.Qwen2ForCausalLM(config)
        name, op = "model.layers.2.mlp.up_proj.weight", lambda x: x.T
        path = "llm/layers/2/mlp/up_proj/kernel"
    else:
        config = transformers.Sam2Config(
            **{"vision_config": json_of(hiera_sam2(tmp_path))["vision_config"]}
        )
        model = transformers.Sam2Model(config)
        name = "vision_encoder.backbone.blocks.1.mlp.proj_in.weight"
        path, op = "hiera/blocks/1/mlp/fc1/kernel", lambda x: x.T
    model.save_pretrained(tmp_path / "hf")
    to_native(tmp_path / "hf", tmp_path / "native")
    ((_, leaf),) = iter_leaves(tmp_path / "native", [path])
    np.testing.assert_array_equal(leaf, op(model.state_dict()[name].numpy()))


def hiera_sam2(folder: Path) -> Path:
    return hiera_folder(folder / "sam2", "transformers") / "config.json"


# -------------------------------------------------------------------- assembly
@pytest.fixture(scope="module", params=["reference", "transformers"])
def assembled(request, tmp_path_factory) -> Path:
    """ViCA2-Init of the recorded ViCA and the recorded ViCA2's Hiera, native."""
    folder = tmp_path_factory.mktemp(request.param)
    hiera = hiera_folder(folder / "hiera", request.param)
    notes = to_native(VICA, folder / "init", hiera=hiera, seed=3)
    assert any("Xavier, seed 3" in note for note in notes)
    return folder / "init"


def test_assembly_takes_towers_from_both_and_a_fresh_projector(assembled):
    leaves = dict(iter_leaves(assembled))
    vica2 = leaves_of(VICA2)
    assert leaves.keys() == vica2.keys()
    fresh = {path for path in leaves if path.startswith("hiera_projector/")}
    hiera = {path: x for path, x in vica2.items() if path.startswith("hiera/")}
    given = {p: x for p, x in leaves.items() if p not in fresh}
    same_bits(given, leaves_of(VICA) | hiera)
    assert fresh == {r.native for r in hiera_projector_rows(128, 64)}
    for layer, (fan_in, fan_out) in {"fc1": (128, 64), "fc2": (64, 64)}.items():
        kernel = leaves[f"hiera_projector/{layer}/kernel"]
        limit = np.sqrt(6 / (fan_in + fan_out))
        assert kernel.shape == (fan_in, fan_out)
        assert 0.95 * limit < np.abs(kernel).max() <= limit
        assert abs(kernel.std() - limit / np.sqrt(3)) < 0.03 * limit
        assert not leaves[f"hiera_projector/{layer}/bias"].any()
    manifest = read_manifest(assembled)
    assert (manifest.family, manifest.config) == ("vica_qwen", tiny())
    assert {"model.safetensors", "hiera/model.safetensors"} <= manifest.provenance[
        "sha256"
    ].keys()


def test_an_assembled_checkpoint_goes_to_hf_and_back(assembled, tmp_path):
    to_hf(assembled, tmp_path / "hf")
    hf, llava = json_of(tmp_path / "hf" / "config.json"), json_of(VICA / "config.json")
    assert (hf["model_type"], hf["architectures"]) == (
        "vica_qwen",
        ["VicaQwenForCausalLM"],
    )
    assert {key: hf[key] for key in llava} | {
        "model_type": "llava_qwen",
        "architectures": ["LlavaQwenForCausalLM"],
    } == llava
    to_native(tmp_path / "hf", tmp_path / "again")
    same_bits(dict(iter_leaves(assembled)), dict(iter_leaves(tmp_path / "again")))
    assert read_manifest(tmp_path / "again").config == read_manifest(assembled).config


def test_an_assembled_checkpoint_answers(tmp_path):
    """With the Hiera stream's own projector, not with none."""
    to_native(VICA, tmp_path / "init", hiera=hiera_folder(tmp_path / "hiera"))
    assistant = load_assistant(tmp_path / "init", dtype="float32")
    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 96, 3), np.uint8)
    answer = assistant.answer(
        frames, "How many?", num_frames=8, source_fps=2.0, max_new_tokens=1
    )
    assert answer.tokens["hiera"] == 4 * 2 * 3
    assert len(answer.token_ids) == 1


def test_another_seed_is_another_projector(assembled, tmp_path):
    hiera, kernels = hiera_folder(tmp_path / "hiera"), []
    for name, seed in (("a", 3), ("b", 4)):
        to_native(VICA, tmp_path / name, hiera=hiera, seed=seed)
        path = "hiera_projector/fc1/kernel"
        kernels.append(dict(iter_leaves(tmp_path / name, [path]))[path].tobytes())
    ((_, again),) = iter_leaves(assembled, [path])
    assert again.tobytes() == kernels[0] != kernels[1]


@pytest.mark.parametrize(
    ("source", "hiera", "message"),
    [
        (VICA2, VICA2, "family vica_qwen, but llava_qwen is needed"),
        (VICA, VICA, "family llava_qwen, but hiera or sam2 is needed"),
    ],
)
def test_assembly_of_the_wrong_folders(source, hiera, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        to_native(source, tmp_path / "target", hiera=hiera)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------- assistant
@pytest.fixture(scope="module")
def logits(made):
    """Of the plain ViCA checkpoint; both forms are the same model."""
    hf = load_assistant(VICA, dtype="float32").logits(None, QUESTION)
    native = load_assistant(made / "tiny-vica", dtype="float32")
    np.testing.assert_array_equal(hf, native.logits(None, QUESTION))
    return hf


LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """A LoRA on attention, MLP, a projector and the head of every kind of axes."""
    folder, rng = tmp_path_factory.mktemp("adapter"), np.random.default_rng(0)
    shapes = open_checkpoint(VICA).shapes
    modules = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.k_proj",
        "model.layers.2.self_attn.o_proj",
        "model.layers.3.mlp.down_proj",
        "model.mm_projector.0",
        "lm_head",
    ]
    tensors = {}
    for module in modules:
        out, wide = shapes[f"{module}.weight"]
        name = f"base_model.model.{module}"
        for part, shape in (("lora_A", (4, wide)), ("lora_B", (out, 4))):
            values = 0.1 * rng.standard_normal(shape)
            tensors[f"{name}.{part}.weight"] = values.astype(np.float32)
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", LORA)
    return folder


def test_an_adapter_is_merged_as_by_hand(adapter, logits, made, tmp_path):
    pairs = safetensors.numpy.load_file(adapter / "adapter_model.safetensors")

    def merge(tensors):
        for key in (key for key in pairs if "lora_A" in key):
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            delta = pairs[key.replace("lora_A", "lora_B")] @ pairs[key]
            tensors[name] = tensors[name] + delta * np.float32(8 / 4)

    by_hand = edited(VICA, tmp_path / "by-hand", merge)
    expected = load_assistant(by_hand, dtype="float32").logits(None, QUESTION)
    assert np.abs(expected - logits).max() > 0.1
    for folder in (VICA, made / "tiny-vica"):
        merged = load_assistant(folder, dtype="float32", adapter=adapter)
        np.testing.assert_allclose(
            merged.logits(None, QUESTION), expected, atol=2e-5, rtol=0
        )


def test_an_adapter_is_looked_at_before_the_weights(adapter, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the weights were read")

    monkeypatch.setattr(load, "_from_hf", never)
    shutil.copytree(adapter, tmp_path / "adapter")
    write_json(tmp_path / "adapter" / "adapter_config.json", LORA | {"r": 5})
    with pytest.raises(InputError, match=r"lora_A\.weight: expected shape \[5, 64\]"):
        load_assistant(VICA, adapter=tmp_path / "adapter")


def test_every_leaf_has_the_asked_dtype(made):
    for folder in (VICA, made / "tiny-vica"):
        assistant = load_assistant(folder, dtype="bfloat16")
        leaves = flatten(assistant.params).values()
        assert {leaf.dtype for leaf in leaves} == {BFLOAT16}


def test_out_of_memory_while_loading(made, monkeypatch):
    def burst(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 2 GiB")

    monkeypatch.setattr(jax, "device_put", burst)
    for folder in (VICA, made / "tiny-vica"):
        with pytest.raises(OutOfMemoryError, match="loading the weights: try --dtype="):
            load_assistant(folder, dtype="float32")


def test_a_tokenizer_of_another_model(tmp_path, made):
    """Ids past the embedding would silently become something else."""
    hf = json_of(VICA / "config.json") | {"vocab_size": 500}

    def shrink(tensors):
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][:500]

    folder = edited(VICA, tmp_path / "small", shrink)
    write_json(folder / "config.json", hf)
    for convert in (load_assistant, lambda source: to_native(source, tmp_path / "x")):
        with pytest.raises(
            TokenizerError, match=r"makes 503 ids, the model embeds 500"
        ):
            convert(folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small"]


# ------------------------------------------------------------ nothing half-done
def interrupt_after(count: int, wrapped):
    """``wrapped``, stopped by Ctrl-C in its ``count``-th call."""
    calls = iter(range(count))

    def write(*args, **kwargs):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return wrapped(*args, **kwargs)

    return write


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    stop = interrupt_after(40, CheckpointWriter.write)
    monkeypatch.setattr(CheckpointWriter, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        to_native(VICA, tmp_path / "target")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_nothing(tmp_path, made, monkeypatch):
    def leaves(*args) -> Iterator:
        for i, leaf in enumerate(iter_leaves(*args)):
            if i == 40:
                raise KeyboardInterrupt
            yield leaf

    monkeypatch.setattr(load, "iter_leaves", leaves)
    with pytest.raises(KeyboardInterrupt):
        to_hf(made / "tiny-vica2", tmp_path / "target")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("full", ["native", "hf"])
def test_a_full_disk_leaves_nothing(tmp_path, made, monkeypatch, full):
    def burst(*_):
        raise OSError(28, "No space left on device")

    if full == "hf":
        monkeypatch.setattr(os, "fsync", burst)
        with pytest.raises(InputError, match="No space left on device"):
            to_hf(made / "tiny-vica", tmp_path / "target")
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**5))
        with pytest.raises(CheckpointError, match=r"needs 0\.0 GB and the disk has"):
            to_native(VICA, tmp_path / "target")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["native", "hf"])
def test_a_target_that_is_taken_is_left_alone(tmp_path, made, form):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine.txt").write_text("mine")
    convert = (
        (lambda target: to_native(VICA, target))
        if form == "native"
        else (lambda target: to_hf(made / "tiny-vica", target))
    )
    for target in (tmp_path / "target", tmp_path / "target" / "mine.txt"):
        with pytest.raises(CheckpointError, match="exists and is not an empty folder"):
            convert(target)
    with pytest.raises(CheckpointError, match="cannot write here"):
        convert(tmp_path / "target" / "mine.txt" / "below")
    assert [p.name for p in tmp_path.rglob("*")] == ["target", "mine.txt"]
    (tmp_path / "empty").mkdir()
    convert(tmp_path / "empty")
    assert len(list((tmp_path / "empty").iterdir())) > 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.pop("lm_head.weight"), AuditError, r"1 missing.*lm_head\.weight"),
        (
            lambda t: t.update({"model.norm.weight": np.ones(63, np.float32)}),
            AuditError,
            r"model\.norm\.weight: expected \[64\], found \[63\]",
        ),
        (
            lambda t: t.update({"model.more": np.ones(3, np.float32)}),
            AuditError,
            r"unexpected: model\.more",
        ),
        (
            lambda t: t["model.norm.weight"].__setitem__(3, np.nan),
            ConversionError,
            r"broken: tensor model\.norm\.weight holds NaN or Inf",
        ),
    ],
    ids=["missing", "shape", "extra", "nan"],
)
def test_tensors_that_do_not_fit(change, error, message, tmp_path):
    def own(tensors):
        tensors.update({name: x.copy() for name, x in tensors.items()})
        change(tensors)

    source = edited(VICA, tmp_path / "broken", own)
    with pytest.raises(error, match=f"(?s){message}"):
        to_native(source, tmp_path / "target")
    with pytest.raises(error, match=f"(?s){message}"):
        load_assistant(source)
    assert [p.name for p in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize("name", ["no/such/folder", "nowhere"])
def test_what_is_no_folder_and_no_hub_id(name):
    with pytest.raises(HubError, match="no such folder"):
        load.resolve(name)


def test_a_hub_id_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"org/none: no such folder.*out of reach"):
        load.resolve("org/none")
