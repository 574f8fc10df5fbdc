"""Training checkpoints: bit-for-bit resumption, what is kept, damage, full disks."""

import errno
import gc
import json
import logging
import random
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import struct

from vica_jax.checkpoint import (
    CheckpointError,
    TrainingCheckpoints,
    find_step,
    read_step,
    saved_steps,
    training,
)
from vica_jax.checkpoint.step import LeafReader

ROOT = Path(__file__).parents[2]
RECORD = {"consumed": 24, "epoch": 0, "config": {"name": "x", "rates": [1e-5, None]}}


class State(struct.PyTreeNode):
    step: Any
    params: Any
    opt_state: Any
    rng: Any


class Another(struct.PyTreeNode):
    """The same fields in another class and order."""

    rng: Any
    opt_state: Any
    params: Any
    step: Any


@cache
def state(seed: int = 0, width: int = 6) -> State:
    """Stacked kernels, every kind of optax state, bfloat16, scalars, random keys."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    params = {
        "llm": {
            "layers": {"block": {"attn": {"kernel": normal(3, width, 4)}}},
            "embedder": {"embedding": normal(200, width)},
        },
        "newline": normal(5),
    }
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.multi_transform(
            {
                "llm": optax.adamw(1e-3, mu_dtype=jnp.bfloat16),
                "rest": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
            },
            {"llm": "llm", "newline": "rest"},
        ),
    )
    made = optimizer.init(params)
    _, made = optimizer.update(params, made, params)  # moments that are not all zero
    key = jax.random.key(seed)
    return State(
        step=jnp.int32(seed),
        params=params,
        opt_state=made,
        rng={"data": jax.random.key_data(key), "typed": jax.random.split(key, 2)},
    )


def like(tree: Any) -> Any:
    form = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    return jax.tree.map(form, tree)


def assert_same(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def refusal(function: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        function(*args, **options)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "checkpoints"


@pytest.fixture
def checkpoints(folder: Path) -> Iterator[TrainingCheckpoints]:
    with TrainingCheckpoints(folder, keep_last=3) as made:
        yield made


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with steps 7 and 8."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with TrainingCheckpoints(folder, keep_last=2) as made:
        made.save(7, state(7), RECORD)
        made.save(8, state(8), RECORD)
    return folder


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "checkpoints")


# ------------------------------------------------------------------ save and restore
def test_a_state_comes_back_bit_for_bit(saved: Path):
    with TrainingCheckpoints(saved, keep_last=2) as made:
        assert (made.steps(), made.latest()) == ([7, 8], 8)
        for step in (7, 8):
            assert_same(made.restore(step, like(state())), state(step))
        assert made.read_record(7) == RECORD


def test_nothing_stored_knows_of_classes(saved: Path):
    before = state()
    form = like(before)
    swapped = Another(form.rng, form.opt_state, form.params, form.step)
    with TrainingCheckpoints(saved, keep_last=2) as made:
        got = made.restore(7, swapped)
    assert isinstance(got, Another)
    assert_same(State(got.step, got.params, got.opt_state, got.rng), state(7))
    names = read_step(saved, 7).leaves
    assert "params/llm/layers/block/attn/kernel" in names
    rest = "opt_state/1/inner_states/rest/inner_state"
    assert f"{rest}/hyperparams/learning_rate" in names
    text = "".join(p.read_text("latin1") for p in (saved / "7" / "record").iterdir())
    assert "ScaleByAdam" not in text and "State" not in text


def test_a_state_may_be_donated_at_once(checkpoints: TrainingCheckpoints):
    """As the training loop does: the saved arrays' memory is written over."""

    @jax.jit
    def advance(tree):
        return jax.tree.map(lambda x: x + 1, tree)

    donating = jax.jit(advance, donate_argnums=0)
    tree = {str(i): jnp.full((256, 1024), i, jnp.float32) for i in range(8)}
    for step in range(3):
        checkpoints.save(step, tree, {})
        for _ in range(5):
            tree = donating(tree)
    checkpoints.wait()
    for step in range(3):
        got = checkpoints.restore(step, like(tree))
        assert [float(got[str(i)].min()) for i in range(8)] == [
            5.0 * step + i for i in range(8)
        ]
        assert all(float(x.min()) == float(x.max()) for x in got.values())


def test_leaves_of_many_blocks(checkpoints, monkeypatch):
    monkeypatch.setattr(training, "CHUNK_BYTES", 2**18)
    rng = np.random.default_rng(0)
    tree = {
        "stacked": jnp.asarray(rng.standard_normal((5, 300, 256)), jnp.float32),
        "wide": jnp.asarray(rng.standard_normal((1000, 700)), jnp.bfloat16),
    }
    checkpoints.save(0, tree, {})
    checkpoints.wait()
    assert_same(checkpoints.restore(0, like(tree)), tree)
    # An export reads one layer without the others.
    step = read_step(checkpoints.folder, 0)
    blocks = LeafReader(saved=step, path="stacked")._open().chunk_layout.read_chunk
    assert blocks.shape[0] == 1


def test_a_saved_step_is_whole_before_it_is_seen(checkpoints, monkeypatch):
    """While orbax writes, and if it never ends, the step is not there."""
    seen = []
    finalize = ocp.path.atomicity.AtomicRenameTemporaryPath.finalize

    async def watched(self):
        seen.append((checkpoints.steps(), checkpoints.latest()))
        await finalize(self)

    checkpoints.save(1, state(1), RECORD)
    checkpoints.wait()
    name = "AtomicRenameTemporaryPath.finalize"
    monkeypatch.setattr(f"orbax.checkpoint._src.path.atomicity.{name}", watched)
    checkpoints.save(2, state(2), RECORD)
    checkpoints.wait()
    assert seen and set(map(str, seen)) == {"([1], 1)"}
    assert checkpoints.steps() == [1, 2]


def test_a_step_is_saved_once(checkpoints: TrainingCheckpoints):
    checkpoints.save(3, state(3), RECORD)
    assert "step 3 was saved before" in refusal(checkpoints.save, 3, state(4), RECORD)
    assert_same(checkpoints.restore(3, like(state())), state(3))


def test_what_is_no_array_or_no_json_is_a_mistake(checkpoints: TrainingCheckpoints):
    with pytest.raises(TypeError, match=r"leaf params/x is a .*ndarray"):
        checkpoints.save(0, {"params": {"x": np.ones(3)}}, {})
    with pytest.raises(TypeError, match="not JSON"):
        checkpoints.save(0, {"x": jnp.ones(3)}, {"path": Path("x")})
    with pytest.raises(ValueError, match="cannot name a leaf"):
        checkpoints.save(0, {"a.b": jnp.ones(3)}, {})
    assert checkpoints.steps() == []


# ------------------------------------------------------------------------ what is kept
@pytest.mark.parametrize(
    ("keep_last", "keep_every", "kept"),
    [(1, None, [9]), (3, None, [7, 8, 9]), (2, 4, [4, 8, 9]), (1, 1, [*range(1, 10)])],
)
def test_steps_that_are_kept(folder, keep_last, keep_every, kept):
    tree = {"x": jnp.zeros(3)}
    options = {"keep_last": keep_last, "keep_every": keep_every}
    # Also over a restart: steps of before count.
    for steps in (range(1, 6), range(6, 10)):
        with TrainingCheckpoints(folder, **options) as made:
            for step in steps:
                made.save(step, tree, {})
                made.wait()
                assert not (folder / ".deleted").exists()
    assert saved_steps(folder) == kept
    assert sorted(int(path.name) for path in folder.iterdir()) == kept


def test_settings_out_of_range(folder: Path):
    for options in ({"keep_last": 0}, {"keep_last": 1, "keep_every": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            TrainingCheckpoints(folder, **options)


def test_a_removed_step_is_never_half_there(folder, monkeypatch):
    """It leaves by a rename, and a crash after that leaves nothing like a step."""
    monkeypatch.setattr(TrainingCheckpoints, "_clean", lambda self: None)
    with TrainingCheckpoints(folder, keep_last=1) as made:
        made.save(1, state(1), RECORD)
        made.save(2, state(2), RECORD)
        made.wait()
        assert (folder / ".deleted" / "1").is_dir()
        assert made.steps() == [2]
    monkeypatch.undo()
    TrainingCheckpoints(folder, keep_last=1).close()
    assert [path.name for path in folder.iterdir()] == ["2"]


# -------------------------------------------------------------------------- other runs
def test_another_state_is_named(saved: Path):
    with TrainingCheckpoints(saved, keep_last=2) as made:
        line = refusal(made.restore, 7, like(state(width=7)))
        assert "leaf params/llm/embedder/embedding is float32[200, 6] there" in line
        assert "float32[200, 7] in this run" in line and str(saved / "7") in line
        form = like(state())
        more = form.replace(params=form.params | {"extra": form.step})
        line = refusal(made.restore, 7, more)
        assert "leaf params/extra is not there and int32[] in this run" in line
        less = form.replace(params={"newline": form.params["newline"]})
        line = refusal(made.restore, 7, less)
        assert "embedding is float32[200, 6] there and not in this run" in line
        other = form.replace(step=jax.ShapeDtypeStruct((), jnp.float32))
        line = refusal(made.restore, 7, other)
        assert "leaf step is int32[] there and float32[] in this run" in line


def test_steps_that_are_not_there(saved: Path, tmp_path: Path):
    with TrainingCheckpoints(saved, keep_last=2) as made:
        for read in (made.read_record, lambda step: made.restore(step, {})):
            assert "no step 5 (there: 7, 8)" in refusal(read, 5)
    assert saved_steps(tmp_path / "absent") == []
    file = tmp_path / "file"
    file.touch()
    line = refusal(TrainingCheckpoints, file / "checkpoints", keep_last=1)
    assert "no checkpoints can be kept here" in line


def test_steps_are_found(saved: Path, tmp_path: Path):
    for source in (saved.parent, saved, saved / "8", f"{saved}/8/"):
        assert find_step(source) == (saved, 8)
    assert find_step(saved / "7") == (saved, 7)
    (tmp_path / "12").mkdir()
    for source in (tmp_path, tmp_path / "12", tmp_path / "absent", "org/name"):
        assert find_step(source) is None
    (tmp_path / "checkpoints").mkdir()
    assert "no step was saved here" in refusal(find_step, tmp_path)


# ------------------------------------------------------------------------------ damage
def damages(path: Path) -> Iterator[str]:
    """Damage a file in several ways, one after the other, and mend it at the end."""
    data = path.read_bytes()
    pick = random.Random(path.name)
    flips = [pick.randrange(len(data)) for _ in range(6)]
    for offset in [0, len(data) // 2, len(data) - 1, *flips]:
        flipped = bytearray(data)
        flipped[offset] ^= 1 << pick.randrange(8)
        path.write_bytes(flipped)
        yield f"bit {offset}"
    for size in (0, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        yield f"cut to {size}"
    path.write_bytes(bytes(len(data)))
    yield "zeros"
    path.unlink()
    yield "gone"
    path.write_bytes(data)


def test_no_damage_gives_another_state(folder: Path):
    """Every file of a step; some hold nothing that is needed."""
    tree = {"x": jnp.arange(700.0), "y": {"z": jnp.ones((2, 3), jnp.bfloat16)}}
    found: dict[str, int] = {}
    with TrainingCheckpoints(folder, keep_last=2) as made:
        for step in (7, 8):
            made.save(step, tree, RECORD)
        made.wait()
        for path in sorted(p for p in (folder / "8").rglob("*") if p.is_file()):
            for what in damages(path):
                try:
                    assert made.read_record(8) == RECORD, (path, what)
                    assert_same(made.restore(8, like(tree)), tree)
                except CheckpointError as error:
                    assert f"{folder / '8'}: damaged: " in str(error)
                    assert "remove this folder to go on from step 7" in str(error)
                    assert "\n" not in str(error)
                    name = "data" if path.parent.name == "d" else path.name
                    found[name] = found.get(name, 0) + 1
        assert_same(made.restore(8, like(tree)), tree)
    # All of the record matters, and nearly all of the two files with the arrays.
    assert found["record.json"] == 14 and found["data"] > 20, found
    gc.collect()  # abandoned reads would complain now


@pytest.mark.parametrize("layer", [None, 1])
def test_a_changed_bit_in_an_array_is_named(damaged: Path, layer: int | None):
    value = np.float32(state(8).params["llm"]["embedder"]["embedding"][17, 3])
    flipped = value.view(np.uint32) ^ np.uint32(1)
    for path in (damaged / "8" / "state").rglob("*"):
        if path.is_file() and value.tobytes() in path.read_bytes():
            data = path.read_bytes().replace(value.tobytes(), flipped.tobytes())
            path.write_bytes(data)
            break
    else:
        pytest.fail("the value is in no file")
    with TrainingCheckpoints(damaged, keep_last=2) as made:
        line = refusal(made.restore, 8, like(state()))
    assert "params/llm/embedder/embedding fails its checksum" in line
    reader = LeafReader(
        saved=read_step(damaged, 8), path="params/llm/embedder/embedding"
    )
    if layer is None:
        assert "fails its checksum" in refusal(reader.read)
    else:  # seen once the last row has been read
        for row in range(199):
            reader.read(row)
        assert "fails its checksum" in refusal(reader.read, 199)


def test_the_reader_of_single_leaves(saved: Path):
    step, want = read_step(saved, 8), state(8)
    kernel = np.asarray(want.params["llm"]["layers"]["block"]["attn"]["kernel"])
    reader = LeafReader(saved=step, path="params/llm/layers/block/attn/kernel")
    for _ in range(2):
        for layer in (2, 0, 1):
            assert reader.read(layer).tobytes() == kernel[layer].tobytes()
        assert reader.read().tobytes() == kernel.tobytes()
    cast = LeafReader(saved=step, path="params/newline").read(dtype="bfloat16")
    want = np.asarray(want.params["newline"].astype(jnp.bfloat16))
    assert cast.dtype == want.dtype and cast.tobytes() == want.tobytes()
    scalar = LeafReader(saved=step, path="step").read()
    assert (scalar.shape, int(scalar)) == ((), 8)


def test_a_step_of_a_later_format(damaged: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vica_jax.checkpoint.step.STEP_FORMAT", 2)
    assert "format version 1, this program reads 2" in refusal(read_step, damaged, 8)


# -------------------------------------------------------------------------- full disks
def test_a_disk_without_room(checkpoints, monkeypatch):
    checkpoints.save(1, state(1), RECORD)
    checkpoints.wait()
    usage = shutil.disk_usage(checkpoints.folder)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    line = refusal(checkpoints.save, 2, state(2), RECORD)
    assert "step 2 could not be saved: it takes 0.00 GB and the disk has" in line
    assert "(steps kept: 1)" in line
    monkeypatch.undo()
    checkpoints.save(2, state(2), RECORD)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2]


async def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("when", ["save", "wait", "close"])
@pytest.mark.parametrize("where", ["json", "rename"])
def test_a_disk_that_is_full_in_the_middle(folder, monkeypatch, where, when):
    """Said at the next call, once; the step before is as it was."""
    made = TrainingCheckpoints(folder, keep_last=1)
    made.save(1, state(1), RECORD)
    made.wait()
    target = {
        "json": "orbax.checkpoint.JsonCheckpointHandler._save_fn",
        "rename": "orbax.checkpoint._src.path.async_path.rename",
    }[where]
    monkeypatch.setattr(target, full_disk)
    made.save(2, state(2), RECORD)
    call = {
        "save": lambda: made.save(3, state(3), RECORD),
        "wait": made.wait,
        "close": made.close,
    }[when]
    line = refusal(call)
    assert line == (
        f"{folder}: step 2 could not be saved: the disk is full (steps kept: 1)"
    )
    monkeypatch.undo()
    if when != "close":
        made.save(3, state(3), RECORD)
        made.close()
    with TrainingCheckpoints(folder, keep_last=1) as again:
        last = 1 if when == "close" else 3
        assert again.steps() == [last]
        assert_same(again.restore(last, like(state())), state(last))


def test_an_error_in_training_is_not_hidden_by_one_of_saving(
    folder, monkeypatch, caplog
):
    monkeypatch.setattr("orbax.checkpoint.JsonCheckpointHandler._save_fn", full_disk)
    with (
        pytest.raises(ZeroDivisionError),
        TrainingCheckpoints(folder, keep_last=1) as made,
    ):
        made.save(1, state(1), RECORD)
        raise ZeroDivisionError
    assert "step 1 could not be saved: the disk is full" in caplog.text


SMALL_FILES = """
    import logging, resource, signal, sys
    import jax.numpy as jnp
    from vica_jax.checkpoint import CheckpointError, TrainingCheckpoints

    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    tree = {str(i): jnp.arange(2**18, dtype=jnp.float32) * i for i in range(8)}
    made = TrainingCheckpoints(sys.argv[1], keep_last=1)
    made.save(1, tree, {})
    made.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))
    made.save(2, tree, {})
    try:
        made.close()
    except CheckpointError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of file sizes")
def test_a_write_that_fails_in_the_file_system(folder: Path):
    """One of many writes; nothing but our line, though orbax leaves others behind."""
    command = [sys.executable, "-c", textwrap.dedent(SMALL_FILES), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert f"{folder}: step 2 could not be saved: " in line
    assert "File too large" in line and "(steps kept: 1)" in line
    assert done.stderr == ""
    tree = {str(i): jnp.arange(2**18, dtype=jnp.float32) * i for i in range(8)}
    with TrainingCheckpoints(folder, keep_last=1) as again:
        assert_same(again.restore(1, like(tree)), tree)
    assert [path.name for path in folder.iterdir()] == ["1"]


# ------------------------------------------------------------------------ interruption
def test_leftovers_are_removed_and_said(saved, damaged, caplog):
    shutil.copytree(saved / "8", damaged / "9.orbax-checkpoint-tmp")
    shutil.copytree(saved / "8", damaged / ".deleted" / "6")
    assert saved_steps(damaged) == [7, 8]
    assert find_step(damaged.parent) == (damaged, 8)
    with (
        caplog.at_level(logging.WARNING),
        TrainingCheckpoints(damaged, keep_last=2) as made,
    ):
        assert made.latest() == 8
    (said,) = caplog.records
    assert "9.orbax-checkpoint-tmp: left by a save that was" in said.getMessage()
    assert sorted(path.name for path in damaged.iterdir()) == ["7", "8"]


def test_a_slow_disk_is_said(checkpoints, monkeypatch, caplog):
    monkeypatch.setattr(training, "SLOW_SECONDS", -1.0)
    checkpoints.save(1, state(1), RECORD)
    caplog.clear()
    checkpoints.save(2, state(2), RECORD)
    assert "step 2 waited 0 s until step 1 was saved" in caplog.text


# ----------------------------------------------------------------------------- imports
def test_reading_records_and_manifests_needs_no_jax(saved: Path):
    script = """
        import sys
        from vica_jax.checkpoint import fingerprint, read_manifest, read_step
        from vica_jax.checkpoint.manifest import Manifest
        import vica_jax.checkpoint
        record = read_step(sys.argv[1], 8).record
        assert not {"jax", "orbax", "tensorstore"} & sys.modules.keys()
        import json
        print(json.dumps(record))
        assert vica_jax.checkpoint.TrainingCheckpoints.save
        assert "orbax" in sys.modules
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(saved)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == RECORD


def test_unknown_names_of_the_package():
    with pytest.raises(ImportError, match="Unheard"):
        from vica_jax.checkpoint import Unheard  # noqa: F401
