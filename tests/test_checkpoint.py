"""Native checkpoints: bit-for-bit round trips, damage, interruption, bounded memory."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.checkpoint import (
    CheckpointError,
    CheckpointWriter,
    is_checkpoint,
    iter_leaves,
    model_config_from_dict,
    model_config_to_dict,
    read_manifest,
    reader,
    restore,
    writer,
)
from vica_jax.checkpoint.parts import flatten
from vica_jax.models.config import ConfigError
from vica_jax.models.variants import SIGLIP_TINY, VARIANTS

ROOT = Path(__file__).parents[1]
CONFIG = VARIANTS["tiny"]
HF = {"model_type": "vica_qwen", "rope_theta": 1000000.0, "eos": None, "x": [1, 2]}


def tree() -> dict[str, Any]:
    """Leaves of every floating dtype; bfloat16 holds NaNs, infinities, subnormals."""
    rng = np.random.default_rng(0)
    every = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    layer = lambda: {
        "attn": {"kernel": rng.standard_normal((6, 4)).astype(np.float32)},
        "bias": rng.standard_normal(4).astype(np.float16),
    }
    return {
        "llm": {
            "embedder": {"embedding": every.reshape(256, 256)},
            "layers": {str(i): layer() for i in range(11)},
        },
        "newline": np.float32(rng.standard_normal(3)),
        "scale": np.array(2.5, np.float32),
    }


def save(target: Path, params: Any = None, **options: Any) -> Path:
    with CheckpointWriter(target, **options) as new:
        new.write_tree(tree() if params is None else params)
        new.finish(family="vica_qwen", config=CONFIG, hf_config=HF)
    return target


def assert_same_bits(got: Any, want: Any):
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    got, want = (np.asarray(a, order="C").reshape(-1) for a in (got, want))
    np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in parts of 64 KiB: its embedding is cut into two blocks."""
    return save(tmp_path_factory.mktemp("saved") / "model", part_bytes=1 << 16)


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


# ---------------------------------------------------------------------- round trips
def test_leaves_come_back_bit_for_bit_in_order(saved: Path):
    want = dict(flatten(tree()))
    got = dict(iter_leaves(saved))
    assert list(got) == list(want)
    for path, array in got.items():
        assert_same_bits(array, want[path])
    assert len(read_manifest(saved).leaves["llm/embedder/embedding"].blocks) == 2
    assert read_manifest(saved).nbytes == sum(a.nbytes for a in want.values())


def test_restored_tree_is_the_saved_one(saved: Path):
    got, want = restore(saved), tree()
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(assert_same_bits, got, want)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, "float16", np.dtype(np.float32)])
def test_restored_dtype(tmp_path: Path, dtype: Any):
    params = {
        "a": np.linspace(-3, 3, 100, dtype=np.float32).reshape(20, 5),
        "count": np.arange(3, dtype=np.int32),
    }
    got = restore(save(tmp_path / "x", params, part_bytes=100), dtype=dtype)
    assert_same_bits(got["a"], params["a"].astype(dtype))
    assert_same_bits(got["count"], params["count"])


def test_restored_dtype_by_leaf(saved: Path):
    got = restore(saved, dtype=lambda path: jnp.bfloat16 if "attn" in path else None)
    for path, leaf in flatten(got):
        own = read_manifest(saved).leaves[path].dtype
        assert leaf.dtype == ("bfloat16" if "attn" in path else own)


def test_shardings_as_tree_and_as_function(saved: Path):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for shardings in (
        jax.tree.map(lambda _: device, tree()),
        lambda path, shape: device,
    ):
        jax.tree.map(assert_same_bits, restore(saved, shardings=shardings), tree())


def test_jax_arrays_memory_maps_and_views_are_written(tmp_path: Path):
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.save(tmp_path / "values.npy", values)
    params = {
        "jax": jnp.asarray(values, jnp.bfloat16),
        "map": np.load(tmp_path / "values.npy", mmap_mode="r"),
        "view": values.T,
        "strided": values[::2, ::3],
        "broadcast": np.broadcast_to(values[0], (5, 6)),
    }
    got = dict(iter_leaves(save(tmp_path / "x", params, part_bytes=40)))
    for name, array in params.items():
        assert_same_bits(got[name], array)


@given(
    shapes=st.lists(
        st.lists(st.integers(1, 7), max_size=3).map(tuple), min_size=1, max_size=5
    ),
    part_bytes=st.integers(1, 200),
)
def test_parts_are_bounded_and_lose_nothing(
    shapes: list[tuple[int, ...]], part_bytes: int
):
    """Packing alone: parts are kept in memory in place of orbax."""
    parts: dict[str, dict[str, np.ndarray]] = {}

    def save_part(part: Path, arrays: Any) -> Any:
        rows = [len(array) if array.ndim else 1 for array in arrays.values()]
        size = sum(array.nbytes for array in arrays.values())
        assert size <= part_bytes or rows == [1]  # a row is never cut
        parts[part.name] = dict(arrays)
        block = lambda path, n: writer.Block(part=part.name, rows=n, crc32=0)
        return {p: block(p, n) for p, n in zip(arrays, rows, strict=True)}, {}

    rng = np.random.default_rng(0)
    want = {
        f"leaf_{i}": rng.standard_normal(shape, np.float32)
        for i, shape in enumerate(shapes)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "save_part", save_part)
        patch.setattr(reader, "load_part", lambda part, *_: dict(parts[part.name]))
        with tempfile.TemporaryDirectory() as folder:
            target = save(Path(folder, "model"), want, part_bytes=part_bytes)
            got = dict(iter_leaves(target))
    assert list(got) == list(want)
    for path, array in got.items():
        assert_same_bits(array, want[path])


# ------------------------------------------------------------------------- manifest
def test_manifest_holds_what_was_given(tmp_path: Path, golden_dir: Path):
    source = golden_dir / "checkpoint"
    hf_config = json.loads((source / "config.json").read_text())
    generation = json.loads((source / "generation_config.json").read_text())
    with CheckpointWriter(tmp_path / "new" / "model", expected_bytes=24) as new:
        new.write("newline", np.zeros(6, np.float32))
        copied = new.copy_tokenizer(source)
        written = new.finish(
            family="vica_qwen",
            config=CONFIG,
            hf_config=hf_config,
            generation_config=generation,
            provenance={"source": "tiny", "sha256": {"model.safetensors": "00"}},
        )
    manifest = read_manifest(tmp_path / "new" / "model")
    assert manifest == written
    assert manifest.model_config == CONFIG and manifest.family == "vica_qwen"
    assert list(manifest.hf_config.items()) == list(hf_config.items())
    assert manifest.generation_config == generation
    assert manifest.provenance["source"] == "tiny"
    assert {"vica_jax", "date", "sha256"} <= manifest.provenance.keys()
    assert manifest.tokenizer == copied and "tokenizer.json" in copied
    for name in copied:
        copy = manifest.tokenizer_folder / name
        assert copy.read_bytes() == (source / name).read_bytes()
    assert os.listdir(tmp_path / "new") == ["model"]


def test_component_checkpoint(tmp_path: Path):
    with CheckpointWriter(tmp_path / "siglip") as new:
        new.write("scale", np.ones(2, np.float32))
        new.finish(family="component", config=SIGLIP_TINY)
    manifest = read_manifest(tmp_path / "siglip")
    assert manifest.config == SIGLIP_TINY and manifest.hf_config is None
    with pytest.raises(CheckpointError, match=r"a component \(SiglipConfig\)"):
        _ = manifest.model_config
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        _ = manifest.tokenizer_folder


@pytest.mark.parametrize("name", VARIANTS)
def test_model_configs_round_trip_through_json(name: str):
    values = json.loads(json.dumps(model_config_to_dict(VARIANTS[name])))
    assert model_config_from_dict(values) == VARIANTS[name]
    del values["llm"]["rope_theta"]
    with pytest.raises(ConfigError, match=r"config\.llm: field 'rope_theta'"):
        model_config_from_dict(values)


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("llava_qwen", CONFIG, "family llava_qwen has no Hiera tower"),
        ("vica_qwen", VARIANTS["vica_7b"], "family vica_qwen needs a Hiera tower"),
        ("vica_qwen", None, "family vica_qwen needs a VicaConfig"),
    ],
)
def test_family_and_config_agree(
    tmp_path: Path, family: Any, config: Any, message: str
):
    with (
        pytest.raises(ConfigError, match=message),
        CheckpointWriter(tmp_path / "x") as w,
    ):
        w.finish(family=family, config=config)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------- reading refusals
def refusal(function: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        function(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folders_that_are_no_checkpoint(tmp_path: Path, golden_dir: Path):
    assert refusal(read_manifest, tmp_path / "none").endswith("none: no such folder")
    assert "not a checkpoint (no manifest.json)" in refusal(read_manifest, tmp_path)
    hf = refusal(restore, golden_dir / "checkpoint")
    assert "looks like a Hugging Face folder" in hf
    assert "python -m scripts.convert_checkpoint" in hf
    file = tmp_path / "file"
    file.touch()
    assert "is a file" in refusal(read_manifest, file)
    (tmp_path / "half" / "params").mkdir(parents=True)
    assert "unfinished" in refusal(read_manifest, tmp_path / "half")
    assert not is_checkpoint(tmp_path / "half")


@pytest.mark.parametrize("text", ["", "{", '{"format_version": 1', "\xff"])
def test_corrupt_manifest(damaged: Path, text: str):
    (damaged / "manifest.json").write_bytes(text.encode("latin-1"))
    assert "manifest.json: cannot be read" in refusal(read_manifest, damaged)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_format_version(damaged: Path, version: Any):
    edit(damaged, format_version=version)
    assert f"format version {version!r}, but vica_jax" in refusal(restore, damaged)


def edit(folder: Path, **changes: Any) -> None:
    """Change fields of a manifest; names may be dotted, a None removes its key."""
    file = folder / "manifest.json"
    values = json.loads(file.read_text())
    for name, change in changes.items():
        *branches, last = name.split(".")
        node = values
        for branch in branches:
            node = node[int(branch) if branch.isdigit() else branch]
        if change is None and last != "format_version":
            del node[last]
        else:
            node[last] = change
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "llama"}, "manifest.family: takes 'vica_qwen' or 'llava_qwen'"),
        ({"family": "llava_qwen"}, "family llava_qwen has no Hiera tower"),
        ({"config.type": "LlamaConfig"}, "no config has the type 'LlamaConfig'"),
        ({"config.llm.width": "64"}, "manifest.config.llm.width: takes int, got str"),
        ({"config.siglip.depth": None}, "manifest.config.siglip: field 'depth'"),
        ({"config.hiera.head": 1}, "manifest.config.hiera: HieraConfig has no field"),
        ({"leaves": None}, "field 'leaves' of Manifest is missing"),
        ({"colour": 1}, "Manifest has no field 'colour'"),
        ({"tokenizer": ["../../x"]}, "unknown tokenizer file '../../x'"),
        ({"leaves.scale.dtype": "float33"}, "leaf scale has the unknown dtype"),
        ({"leaves.newline.shape": [4]}, "the blocks of leaf newline do not add up"),
        ({"leaves.newline.shape": [0]}, "the blocks of leaf newline do not add up"),
        ({"leaves.scale.blocks.0.part": "../x"}, "leaf scale names the unknown part"),
        ({"parts.part-00000": None}, "names the unknown part 'part-00000'"),
        (
            {"leaves.scale.blocks.0.crc32": None},
            "leaves.scale.blocks[0]: field 'crc32'",
        ),
    ],
)
def test_every_field_of_a_manifest_is_checked(
    damaged: Path, changes: Any, message: str
):
    edit(damaged, **changes)
    error = refusal(read_manifest, damaged)
    assert message in error and str(damaged / "manifest.json") in error


def leaf_files(folder: Path, leaf: str) -> list[Path]:
    """The files that hold the values of one leaf."""
    names = folder.glob(f"params/*/{leaf.replace('/', '.')}/*")
    return sorted(name for name in names if name.name[0] in "0123456789")


def flip_a_bit(file: Path) -> None:
    values = bytearray(file.read_bytes())
    values[len(values) // 2] ^= 4
    file.write_bytes(values)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [Path.unlink, truncate, flip_a_bit])
@pytest.mark.parametrize(
    "leaf", ["llm/layers/10/attn/kernel", "llm/layers/1/bias", "llm/embedder/embedding"]
)
def test_damaged_values_name_the_leaf_and_its_part(damaged: Path, harm: Any, leaf: str):
    file = leaf_files(damaged, leaf)[-1]
    harm(file)
    for read in (restore, lambda folder: list(iter_leaves(folder))):
        error = refusal(read, damaged)
        assert error.startswith(f"{file.parents[1]}: cannot read leaf {leaf}: ")
        assert "convert the checkpoint again" in error


def test_missing_parts(damaged: Path):
    part = read_manifest(damaged).leaves["scale"].blocks[0].part
    shutil.rmtree(leaf_files(damaged, "scale")[0].parent)
    assert f"{part}: cannot read leaf scale" in refusal(restore, damaged)
    shutil.rmtree(damaged / "params" / part)
    error = refusal(restore, damaged)
    assert re.search(rf"{part}: cannot read leaf .*: no such folder", error)


@pytest.mark.parametrize("name", ["_METADATA", "scale/.zarray"])
def test_damaged_description_of_a_part(damaged: Path, name: str):
    part = read_manifest(damaged).leaves["scale"].blocks[0].part
    file = damaged / "params" / part / name
    file.write_bytes(b"?" * file.stat().st_size)
    assert f"{part}: cannot read leaf " in refusal(restore, damaged)


def test_chosen_leaves_need_no_others(damaged: Path):
    paths = ["scale", "llm/embedder/embedding"]
    leaf_files(damaged, "newline")[0].unlink()
    got = list(iter_leaves(damaged, paths))
    assert [path for path, _ in got] == paths
    for path, array in got:
        assert_same_bits(array, dict(flatten(tree()))[path])
    assert "leaf newline: 0 is missing" in refusal(restore, damaged)
    with pytest.raises(CheckpointError, match="no leaf llm/none"):
        list(iter_leaves(damaged, ["scale", "llm/none"]))


def test_leaf_of_another_shape_or_dtype_than_the_manifest_says(damaged: Path):
    edit(damaged, **{"leaves.scale.dtype": "int32"})
    assert "leaf scale: float32[] instead of int32[]" in refusal(restore, damaged)
    edit(damaged, **{"leaves.scale.dtype": "float32", "leaves.newline.shape": [3, 1]})
    assert "leaf newline: float32[3] instead of float32[3, 1]" in refusal(
        restore, damaged
    )


def test_shardings_of_other_leaves(saved: Path):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: device, tree())
    shardings["llm"]["layers"]["0"]["norm"] = device
    error = refusal(restore, saved, shardings=shardings)
    assert "the checkpoint lacks leaf llm/layers/0/norm" in error
    shardings = {"scale": device}
    assert "no sharding is given for leaf" in refusal(
        restore, saved, shardings=shardings
    )


def test_float64_is_not_cut_silently(tmp_path: Path):
    folder = save(tmp_path / "x", {"a": np.ones(3)})
    assert "leaf a is float64, which jax cuts" in refusal(restore, folder)
    assert restore(folder, dtype=np.float32)["a"].dtype == np.float32


# ------------------------------------------------------------------- writing refusals
def test_target_that_is_taken(tmp_path: Path):
    (tmp_path / "taken").mkdir()
    save(tmp_path / "taken", {"a": np.ones(2)})  # an empty folder is welcome
    before = (tmp_path / "taken" / "manifest.json").read_bytes()
    (tmp_path / "file").touch()
    for name in ("taken", "file"):
        error = refusal(save, tmp_path / name, {"a": np.zeros(2)})
        assert f"{name} exists and is not an empty folder" in error
    assert (tmp_path / "taken" / "manifest.json").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["file", "taken"]


def test_target_that_is_taken_meanwhile(tmp_path: Path):
    with (
        pytest.raises(CheckpointError, match="exists and is not an empty"),
        CheckpointWriter(tmp_path / "x") as new,
    ):
        new.write("a", np.ones(2))
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "other").touch()
        new.finish(family="component", config=None)
    assert os.listdir(tmp_path) == ["x"] and os.listdir(tmp_path / "x") == ["other"]


@pytest.mark.parametrize(
    ("path", "array", "message"),
    [
        ("", np.ones(1), "cannot name a leaf"),
        ("a//b", np.ones(1), "cannot name a leaf"),
        ("../a", np.ones(1), "cannot name a leaf"),
        ("/a", np.ones(1), "cannot name a leaf"),
        ("a.b", np.ones(1), "cannot name a leaf"),
        ("llm", np.ones(1), "leaf llm clashes with leaf llm/a"),
        ("llm/a", np.ones(1), "leaf llm/a clashes with leaf llm/a"),
        ("llm/a/b", np.ones(1), "leaf llm/a/b clashes with leaf llm/a"),
        ("b", np.ones((0, 3)), "leaf b of shape (0, 3) is empty"),
        ("b", np.array([None]), "leaf b has the dtype object"),
        ("b", np.ones(1, ">f4"), "leaf b has the dtype >f4"),
    ],
)
def test_leaves_that_cannot_be_written(
    tmp_path: Path, path: str, array: np.ndarray, message: str
):
    with (
        pytest.raises(CheckpointError, match=re.escape(message)),
        CheckpointWriter(tmp_path / "x") as new,
    ):
        new.write("llm/a", np.ones(1))
        new.write(path, array)
    assert os.listdir(tmp_path) == []


def test_disk_that_is_too_small_or_fails(tmp_path: Path, monkeypatch: Any):
    error = refusal(save, tmp_path / "x", expected_bytes=10**18)
    assert "needs 1000000000.0 GB and the disk has" in error
    (tmp_path / "file").touch()
    assert "cannot write here" in refusal(save, tmp_path / "file" / "x")

    def fail(*args: Any, **options: Any):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orbax.checkpoint.Checkpointer.save", fail)
    error = refusal(save, tmp_path / "x")
    assert "part-00000: [Errno 28] No space left on device" in error
    assert os.listdir(tmp_path) == ["file"]


def test_folder_without_a_tokenizer(tmp_path: Path):
    (tmp_path / "vocab.json").write_text("{}")
    with CheckpointWriter(tmp_path / "x") as new:
        error = refusal(new.copy_tokenizer, tmp_path)
        assert "neither tokenizer.json nor vocab.json and merges.txt" in error
        (tmp_path / "merges.txt").touch()
        assert new.copy_tokenizer(tmp_path) == ("vocab.json", "merges.txt")
        new.write("a", np.ones(1))
        new.finish(family="component", config=None)


# ---------------------------------------------------------------------- interruption
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_interrupted_conversion_leaves_nothing(tmp_path: Path, error: Any):
    with pytest.raises(error), CheckpointWriter(tmp_path / "x", part_bytes=8) as new:
        new.write("a", np.ones(4))
        new.write("b", np.ones(4))
        assert [p.name[:11] for p in tmp_path.iterdir()] == [".x.partial-"]
        raise error
    assert os.listdir(tmp_path) == []


def test_forgotten_finish(tmp_path: Path):
    with pytest.raises(RuntimeError, match="finish"), CheckpointWriter(tmp_path / "x"):
        pass
    assert os.listdir(tmp_path) == []


def run(script: str, *args: Any, **options: Any) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, args)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options
    )


def test_killed_conversion_leaves_no_target(tmp_path: Path, caplog: Any):
    process = run(
        """
        import sys, time, numpy as np
        from vica_jax.checkpoint import CheckpointWriter
        with CheckpointWriter(sys.argv[1], part_bytes=8) as new:
            new.write("a", np.ones(4))
            print("written", flush=True)
            time.sleep(600)
        """,
        tmp_path / "x",
    )
    with process:
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert left.name == f".x.partial-{process.pid}" and any(left.glob("params/*"))
    error = refusal(read_manifest, tmp_path / "x")
    assert f"no such folder; {left} is an unfinished conversion" in error
    assert "unfinished" in refusal(read_manifest, left)
    with caplog.at_level(logging.WARNING):
        save(tmp_path / "x", {"a": np.ones(2, np.float32)})
    assert str(left) in caplog.text
    assert is_checkpoint(tmp_path / "x") and left.exists()


def test_a_dead_process_with_our_number_is_no_obstacle(tmp_path: Path):
    (tmp_path / f".x.partial-{os.getpid()}").mkdir()
    save(tmp_path / "x", {"a": np.ones(2, np.float32)})
    assert len(list(tmp_path.iterdir())) == 2


# ------------------------------------------------------------- processes of their own
def test_import_loads_no_jax_and_orbax_is_quiet(tmp_path: Path):
    script = """
        import sys
        from absl import logging
        from vica_jax.checkpoint import CheckpointWriter, iter_leaves, restore
        assert not {"jax", "orbax"} & sys.modules.keys()
        logging.set_verbosity(logging.INFO)
        import numpy as np
        with CheckpointWriter(sys.argv[1]) as new:
            new.write("a", np.ones(4, np.float32))
            new.finish(family="component", config=None)
        assert list(iter_leaves(sys.argv[1]))
        assert logging.get_verbosity() == logging.INFO
        restore(sys.argv[1])
    """
    with run(script, tmp_path / "x", stderr=subprocess.STDOUT) as process:
        assert process.stdout.read() == ""
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_stays_at_two_parts(tmp_path: Path):
    """A leaf of 600 MB, whose source takes no memory, in parts of 64 MiB."""
    script = """
        import gc, sys
        import jax, numpy as np
        from vica_jax.checkpoint import CheckpointWriter, iter_leaves

        def peak():
            status = open("/proc/self/status").read()
            return int(status.split("VmHWM:")[1].split()[0]) / 1024

        def write(target, rows):
            row = np.arange(75_000, dtype=np.float32)
            with CheckpointWriter(target, part_bytes=64 << 20) as new:
                new.write("a/b", np.broadcast_to(row, (rows, len(row))))
                new.finish(family="component", config=None)

        write(sys.argv[1] + "-small", 10)
        before = peak()
        write(sys.argv[1], 2000)
        written = peak()
        for _, leaf in iter_leaves(sys.argv[1]):
            assert leaf.nbytes == 600_000_000 and leaf[-1, -1] == 74_999
        print(written - before, peak() - before)
    """
    with run(script, tmp_path / "x") as process:
        written, read = map(float, process.stdout.read().split())
    assert 64 < written < 3 * 64
    assert read < 600e6 / 2**20 + 3 * 64
