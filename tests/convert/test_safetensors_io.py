"""The reader and writer of safetensors folders, against the safetensors library."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from convert.safetensors_io import (
    DTYPES,
    CheckpointError,
    open_checkpoint,
    open_file,
    read_json,
    sha256,
    source_hashes,
    write_json,
    write_sharded,
)

BF16 = np.dtype(ml_dtypes.bfloat16)


def sample(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "a": rng.standard_normal((3, 5)).astype(np.float32),
        "b.half": rng.standard_normal((7,)).astype(np.float16),
        "b.brain": rng.standard_normal((2, 3, 4)).astype(BF16),
        "scalar": np.array(3.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "ids": np.arange(5, dtype=np.int64),
        "flags": np.array([True, False]),
    }


def items(tensors):
    return [(name, x.shape, x.dtype, x) for name, x in tensors.items()]


def folder_of(tmp_path, tensors, **kw):
    write_sharded(tmp_path, items(tensors), **kw)
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


# --------------------------------------------------------------------- writing
@pytest.mark.parametrize("limit", [10**9, 60, 1])
def test_what_is_written_reads_back_bit_for_bit(tmp_path, limit):
    tensors = sample()
    paths = write_sharded(tmp_path / "new", items(tensors), max_shard_bytes=limit)
    (tmp_path / "new/config.json").write_text('{"x": 1}')
    names = [path.name for path in paths]
    if limit == 10**9:
        assert names == ["model.safetensors"]
        assert not (tmp_path / "new/model.safetensors.index.json").exists()
    else:
        assert names[0] == f"model-00001-of-{len(paths):05d}.safetensors"
        index = read_json(tmp_path / "new/model.safetensors.index.json")
        total = sum(x.nbytes for x in tensors.values())
        assert index["metadata"] == {"total_size": total}
        assert list(index["weight_map"]) == list(tensors)
    checkpoint = open_checkpoint(tmp_path / "new")
    assert checkpoint.config == {"x": 1}
    assert set(checkpoint.names) == set(tensors)
    assert set(checkpoint.files) == set(paths)
    for name, x in tensors.items():
        assert checkpoint.shape(name) == x.shape == checkpoint.shapes[name]
        assert checkpoint.dtype(name) == x.dtype
        assert same(checkpoint.read(name), x)
    assert not [p for p in (tmp_path / "new").iterdir() if p.name.endswith(".tmp")]


def test_the_safetensors_library_reads_our_files(tmp_path):
    tensors = sample()
    (path,) = write_sharded(tmp_path, items(tensors), metadata={"format": "pt"})
    loaded = safetensors.numpy.load_file(path)
    assert all(same(loaded[name], x) for name, x in tensors.items())
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        assert same(file.get_tensor("b.brain"), tensors["b.brain"])


def test_we_read_the_safetensors_librarys_files(tmp_path):
    tensors = sample()
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
    checkpoint = open_file(tmp_path / "x.safetensors")
    assert all(same(checkpoint.read(name), x) for name, x in tensors.items())


@pytest.mark.parity
def test_torch_reads_our_files_and_we_read_torchs(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    x = np.random.default_rng(0).standard_normal((4, 6)).astype(BF16)
    (path,) = write_sharded(tmp_path, [("x", x.shape, x.dtype, x)])
    loaded = load_file(path)["x"]
    assert loaded.dtype == torch.bfloat16
    assert loaded.view(torch.int16).numpy().tobytes() == x.tobytes()
    save_file({"x": loaded}, tmp_path / "torch.safetensors")
    assert same(open_file(tmp_path / "torch.safetensors").read("x"), x)


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    limit=st.integers(1, 200),
)
def test_shards_keep_to_the_limit(tmp_path_factory, sizes, limit):
    folder = tmp_path_factory.mktemp("shards")
    tensors = {f"t{i}": np.full(n, i, np.uint8) for i, n in enumerate(sizes)}
    for path in write_sharded(folder, items(tensors), max_shard_bytes=limit):
        held = open_file(path)
        total = sum(np.prod(shape) for shape in held.shapes.values())
        assert total <= limit or len(held.names) == 1
        assert path.stat().st_size >= 8 and (path.read_bytes()[0] % 8) == 0
    folder.joinpath("config.json").write_text("{}")
    checkpoint = open_checkpoint(folder)
    assert all(same(checkpoint.read(n), x) for n, x in tensors.items())


def test_one_tensor_is_made_at_a_time_and_views_are_written_right(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    views = {"t": base.transpose(2, 0, 1), "u": base[:, ::2], "v": base[::-1]}
    made = []

    def thunk(name):
        def values():
            made.append(name)
            return views[name]

        return values

    listed = [(n, x.shape, x.dtype, thunk(n)) for n, x in views.items()]
    assert not made
    (path,) = write_sharded(tmp_path, iter(listed))
    assert made == list(views)
    assert all(
        same(open_file(path).read(n), np.ascontiguousarray(x)) for n, x in views.items()
    )


def test_tensors_are_aligned_to_their_own_width(tmp_path):
    odd = {"a": np.zeros(3, np.uint8), "b": np.zeros(3, BF16), "c": np.zeros(3)}
    (path,) = write_sharded(tmp_path, items(odd))
    for info in open_file(path).tensors.values():
        assert info.start % info.dtype.itemsize == 0


def test_a_failed_write_leaves_the_old_file(tmp_path):
    old = {"a": np.ones(3, np.float32)}
    (path,) = write_sharded(tmp_path, items(old))

    def fail():
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        write_sharded(tmp_path, [("a", (3,), np.float32, fail)])
    assert same(open_file(path).read("a"), old["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([("a", (2,), "f4", np.zeros(3, "f4"))], r"announced as float32\[2\], got"),
        ([("a", (2,), "f4", np.zeros(2, "f2"))], r"got float16\[2\]"),
        ([("a", (1,), "f4", np.zeros(1, "f4"))] * 2, "name a is used twice"),
        ([("a", (1,), "c8", np.zeros(1, "c8"))], "which safetensors cannot hold"),
    ],
)
def test_writing_refuses(tmp_path, listed, message):
    with pytest.raises(CheckpointError, match=message):
        write_sharded(tmp_path, listed)
    assert not list(tmp_path.iterdir())


def test_new_shards_are_not_mixed_with_old_ones(tmp_path):
    folder_of(tmp_path, sample(), max_shard_bytes=60)
    with pytest.raises(CheckpointError, match="already holds model-00001-of-"):
        write_sharded(tmp_path, items(sample()))
    write_sharded(tmp_path, items(sample(1)), max_shard_bytes=60)
    assert same(open_checkpoint(tmp_path).read("a"), sample(1)["a"])


def test_write_json(tmp_path):
    write_json(tmp_path / "c.json", {"b": 1, "a": "é"})
    assert (tmp_path / "c.json").read_text("utf-8") == '{\n  "b": 1,\n  "a": "é"\n}\n'


# --------------------------------------------------------------------- reading
def test_goldens_read_as_the_library_reads_them(golden_dir):
    checkpoint = open_checkpoint(golden_dir / "checkpoint")
    listed = json.loads((golden_dir / "state_dict_keys.json").read_text())
    assert checkpoint.shapes == {name: tuple(shape) for name, shape in listed.items()}
    for path in checkpoint.files:
        for name, x in safetensors.numpy.load_file(path).items():
            assert same(checkpoint.read(name), x)


def refused(folder, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_pieces_are_named(tmp_path):
    refused(tmp_path / "none", "none: no such folder")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "not a folder")
    refused(tmp_path, "no config.json")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "no safetensors weights")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    refused(tmp_path, "pytorch_model.bin, a pickle, which is never read.*safe_serial")
    (tmp_path / "other.safetensors").write_bytes(b"x")
    (tmp_path / "pytorch_model.bin").unlink()
    refused(tmp_path, "other.safetensors found, but neither")


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1, "a": 2}', "\udcff"])
def test_bad_config_json(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(tmp_path, "config.json: (not valid JSON|expected a JSON object)")


def test_single_file_beside_an_index(tmp_path):
    folder_of(tmp_path, sample(), max_shard_bytes=60)
    shard = next(tmp_path.glob("model-*.safetensors"))
    (tmp_path / "model.safetensors").write_bytes(shard.read_bytes())
    refused(tmp_path, "holds both")


def test_index_names_a_missing_shard(tmp_path):
    folder_of(tmp_path, sample(), max_shard_bytes=60)
    gone = sorted(tmp_path.glob("model-*.safetensors"))[1]
    gone.unlink()
    refused(tmp_path, f"shards named by .* are missing: {gone.name}")


def test_index_and_shards_disagree(tmp_path):
    folder_of(tmp_path, sample(), max_shard_bytes=80)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    shards = sorted(set(index["weight_map"].values()))

    def change(**entries):
        altered = {**index["weight_map"], **entries}
        altered = {k: v for k, v in altered.items() if v}
        path.write_text(json.dumps({"weight_map": altered}))

    change(ghost=shards[0])
    refused(tmp_path, "disagree about 1 entries, such as ghost in .*index.json")
    change(a=None)  # its shard still holds b.half
    refused(tmp_path, "disagree about 1 entries, such as a in .*the shard but not")
    change(a=shards[-1])
    refused(tmp_path, "disagree about 2 entries")
    change(a="../" + shards[0])
    refused(tmp_path, "not a plain file name")
    path.write_text('{"weight_map": {}}')
    refused(tmp_path, "no weight_map")


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1])
def test_truncated_file(tmp_path, keep):
    path = folder_of(tmp_path, sample()) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(tmp_path, "model.safetensors: truncated")


def test_a_file_cut_after_opening(tmp_path):
    path = folder_of(tmp_path, {"a": np.ones(9, np.float32)}) / "model.safetensors"
    checkpoint = open_checkpoint(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="the file ends inside tensor a"):
        checkpoint.read("a")
    with pytest.raises(CheckpointError, match="no tensor named b"):
        checkpoint.read("b")


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        "nonsense",
        "[]",
        '{"a": {}, "a": {}}',
        {"a": {}},
        {"a": 5},
        {"a": GOOD | {"dtype": "F31"}},
        {"a": GOOD | {"shape": [3]}},
        {"a": GOOD | {"shape": [-2]}},
        {"a": GOOD | {"shape": [2.0]}},
        {"a": GOOD | {"shape": 2}},
        {"a": GOOD | {"data_offsets": [0]}},
        {"a": GOOD | {"data_offsets": ["0", "8"]}},
        {"a": GOOD | {"data_offsets": [8, 0]}},
        {"a": GOOD, "b": GOOD},
        {"a": GOOD | {"shape": [1], "data_offsets": [4, 8]}},
        {"a": GOOD | {"shape": [1], "data_offsets": [0, 4]}},
    ],
)
def test_corrupt_headers(tmp_path, header):
    text = header if isinstance(header, str) else json.dumps(header)
    raw = text.encode()
    data = struct.pack("<Q", len(raw)) + raw + bytes(8)
    (tmp_path / "model.safetensors").write_bytes(data)
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "model.safetensors: corrupt safetensors header")


@given(raw=st.binary(max_size=64))
def test_any_bytes_read_or_are_refused(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("raw") / "x.safetensors"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError):
        open_file(path)


def test_every_dtype_of_the_library_is_known(tmp_path):
    for name, dtype in DTYPES.items():
        x = np.zeros(4, dtype)
        (path,) = write_sharded(tmp_path / name, [("x", x.shape, dtype, x)])
        with safe_open(path, framework="np") as file:
            assert file.get_slice("x").get_dtype() == name


def test_hashes(tmp_path):
    folder_of(tmp_path, sample(), max_shard_bytes=60)
    (tmp_path / "three").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "three") == known
    hashes = source_hashes(open_checkpoint(tmp_path))
    shards = {p.name for p in tmp_path.glob("*.safetensors")}
    assert set(hashes) == shards | {"config.json"}
    assert hashes["config.json"] == sha256(tmp_path / "config.json")
