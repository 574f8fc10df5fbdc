"""The loader: one order whatever reads it, exact resume, nothing silent, no orphans."""

import contextlib
import copy
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from convert.hf_config import from_hf
from vica_jax.data.example import Example, Medium
from vica_jax.data.loader import Loader, LoaderError, WorkerError
from vica_jax.data.mixture import Mixture, Record, read_mixture
from vica_jax.data.order import epoch_order
from vica_jax.data.settings import DataSettings
from vica_jax.data.slots import pack, read_example, unpack
from vica_jax.data.threads import num_threads
from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.layout import VisualLayout

TOKENIZER = Path(__file__).parents[1] / "goldens" / "tiny-vica2" / "checkpoint"
N, BATCH = 11, 4  # 3 steps an epoch, the last one row short
BAD = {"r3": "missing.png", "r7": "wrong role order"}
LONG = "r5"


@dataclass(frozen=True)
class Data:
    mixture: Mixture
    settings: DataSettings
    layout: VisualLayout

    def loader(self, workers=0, mixture=None, **changes) -> Loader:
        arguments = {
            "indices": np.arange(N),
            "tokenizer_folder": TOKENIZER,
            "layout": self.layout,
            "settings": replace(self.settings, num_workers=workers),
            "seed": 3,
            "global_batch_size": BATCH,
            "rows": range(BATCH),
            "epochs": 2,
        }
        return Loader(mixture or self.mixture, **{**arguments, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images, one folder of frames, text; a missing image, wrong turns, a long one."""
    folder = tmp_path_factory.mktemp("loader")
    rng = np.random.default_rng(0)
    records = []
    for i in range(N):
        pixels = rng.integers(0, 256, (20 + i, 40, 3), np.uint8)
        name = f"r{i}"
        media = {}
        if i == 0:
            (folder / "clip").mkdir()
            for j in range(3):
                Image.fromarray(pixels + np.uint8(j)).save(folder / f"clip/{j}.png")
            media = {"video": "clip"}
        elif i % 3:
            Image.fromarray(pixels).save(folder / f"{name}.png")
            media = {"image": f"{name}.png"}
        if name == "r3":
            media = {"image": "missing.png"}
        tag = "<image>\n" if media else ""
        words = "room " * (200 if name == LONG else i + 1)
        turns = [
            {"from": "human", "value": f"{tag}What is {words}?"},
            {"from": "gpt", "value": f"It is {name}."},
        ]
        if name == LONG:  # the answer begins within the context and is cut
            turns[0]["value"], turns[1]["value"] = f"{tag}What is it?", words
        if name == "r7":
            turns.reverse()
        records.append({"id": name, **media, "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records))
    settings = DataSettings(
        mixture=str(folder / "data.json"),
        image_folder=str(folder),
        video_folder=str(folder),
        num_frames=3,
        num_workers=0,
    )
    config = from_hf(json.loads((TOKENIZER / "config.json").read_text()))[1]
    layout = replace(config.layout, context_length=200)
    mixture = read_mixture(settings.mixture, seed=0, cache_folder=folder / "cache")
    return Data(mixture, settings, layout)


def flat(example: Example):
    """An example as plain values, for comparing and keeping."""
    arrays = lambda m: [None if x is None else x.tolist() for x in (m.siglip, m.raw)]
    return (
        [list(map(int, chunk)) for chunk in example.chunks],
        [list(map(bool, row)) for row in example.supervised],
        [(m.kind, m.image_wh, m.indices, *arrays(m)) for m in example.media],
    )


def read(loader, steps=None):
    """What a loader yields, step by step, as plain values."""
    seen = []
    for loaded in loader:
        seen.append(
            (
                (loaded.step, loaded.epoch, loaded.consumed_before, loaded.consumed),
                [flat(example) for example in loaded.examples],
                sorted(map(repr, loaded.bad + loaded.truncated)),
            )
        )
        if len(seen) == steps:
            break
    return seen


@pytest.fixture(scope="module")
def whole(data):
    """Two epochs read by one thread of this process."""
    return read(data.loader())


# ---------------------------------------------------------------- order and contents
def test_every_row_is_the_record_of_its_position(data, whole):
    tokenizer = load_tokenizer(TOKENIZER)
    assert len(whole) == 6
    for (step, epoch, before, after), examples, _ in whole:
        assert epoch == step // 3
        assert (before, after) == (
            epoch * N + step % 3 * BATCH,
            epoch * N + min((step % 3 + 1) * BATCH, N),
        )
        order = epoch_order(data.mixture.lengths, BATCH, seed=3, epoch=epoch)
        for row, example in enumerate(examples):
            position = step % 3 * BATCH + row
            wanted = Example(chunks=((),))
            if position < N and f"r{order[position]}" not in BAD:
                wanted = read_example(
                    data.mixture,
                    int(order[position]),
                    tokenizer=tokenizer,
                    layout=data.layout,
                    settings=data.settings,
                )
            assert example == flat(wanted)
    assert sum(row == ([[]], [], []) for _, rows, _ in whole for row in rows) == 2 * 3


def test_bad_and_long_records_are_named(data):
    bad, long = [], []
    for loaded in data.loader(epochs=1):
        bad += loaded.bad
        long += loaded.truncated
    assert {sample.id for sample in bad} == set(BAD)
    order = epoch_order(data.mixture.lengths, BATCH, seed=3, epoch=0)
    for sample in bad + long:
        assert sample.source == data.settings.mixture
        assert f"r{sample.index}" == sample.id
        assert order[sample.position] == sample.index and sample.epoch == 0
    assert all(BAD[s.id] in s.reason and "\n" not in s.reason for s in bad)
    (cut,) = long
    assert cut.id == LONG and cut.length > cut.kept == data.layout.context_length
    json.dumps([vars(sample) for sample in bad + long])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_hold_the_rows_of_one_order(data, whole, processes):
    rows = np.arange(BATCH).reshape(-1, processes).T  # interleaved, in their order
    parts = [read(data.loader(rows=part.tolist())) for part in rows]
    for step, (place, examples, notes) in enumerate(whole):
        for part, mine in zip(parts, rows, strict=True):
            assert part[step][0] == place
            assert part[step][1] == [examples[row] for row in mine]
        assert sorted(note for part in parts for note in part[step][2]) == notes


def test_resume_continues_at_every_batch(data, whole):
    for done in range(len(whole)):
        consumed = whole[done][0][2]
        assert read(data.loader(consumed=consumed)) == whole[done:]
    last = data.loader(consumed=2 * N)
    assert read(last) == [] and last.step == last.total_steps


def test_a_part_of_the_records_and_of_an_epoch(data):
    part = [1, 2, 4]
    loader = data.loader(indices=part, epochs=0.5, global_batch_size=2, rows=[1, 0])
    assert (loader.steps_per_epoch, loader.total_steps) == (2, 1)
    (loaded,) = loader
    order = epoch_order(data.mixture.lengths[part], 2, seed=3, epoch=0)
    ids = [len(example.media[0].siglip) > 0 for example in loaded.examples]
    assert ids == [True, True] and loaded.consumed == 2
    heights = [example.media[0].image_wh[1] for example in loaded.examples]
    assert heights == [20 + part[order[row]] for row in (1, 0)]


def test_without_grouping_the_order_is_another(data, whole):
    settings = replace(data.settings, group_by_length=False)
    loader = Loader(
        data.mixture,
        range(N),
        tokenizer_folder=TOKENIZER,
        layout=data.layout,
        settings=settings,
        seed=3,
        global_batch_size=BATCH,
        rows=[0],
    )
    (first, *_) = read(loader, steps=1)
    order = epoch_order(data.mixture.lengths, BATCH, seed=3, epoch=0, group=False)
    assert f"r{order[0]}" not in BAD and first[1] != whole[0][1][:1]
    loader.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"consumed": 3}, "cannot resume after 3 examples"),
        ({"consumed": -4}, "cannot resume"),
        ({"indices": []}, "no records"),
        ({"rows": [0, 4]}, r"rows must be different ones of 0\.\.3"),
        ({"rows": [1, 1]}, "rows must be"),
        ({"rows": []}, "rows must be"),
        ({"global_batch_size": 0}, "must be positive"),
        ({"epochs": 0}, "must be positive"),
    ],
)
def test_what_cannot_begin(data, changes, words):
    with pytest.raises(LoaderError, match=words):
        data.loader(**changes)


def test_a_missing_tokenizer_is_one_error_and_not_bad_samples(data, tmp_path):
    loader = data.loader(tokenizer_folder=tmp_path)
    with pytest.raises(LoaderError, match="no tokenizer here"):
        next(loader)
    with pytest.raises(ValueError, match="closed"):
        next(loader)
    loader.close()


def test_packing_keeps_everything():
    rng = np.random.default_rng(1)
    bf16 = rng.normal(size=(2, 3, 3, 5)).astype(ml_dtypes.bfloat16)
    frames = rng.integers(0, 256, (4, 7, 9, 3), np.uint8)
    media = [
        Medium(
            kind="video",
            siglip=frames,
            raw=frames[::2],  # not contiguous
            image_wh=(9, 7),
            indices=(0, 3, 5, 8),
        ),
        Medium(kind="padded", siglip=frames[:1], raw=None, image_wh=(1, 1), hiera=bf16),
    ]
    example = Example(
        chunks=[[1, 2], [], [70_000]],
        media=media,
        supervised=[[True, False], [], [True]],
    )
    header, packed = pack(example)
    again = unpack(json.loads(json.dumps(header)), packed)
    assert flat(again) == flat(example)
    assert again.media[1].hiera is not None and again.media[1].hiera.dtype == bf16.dtype
    np.testing.assert_array_equal(again.media[1].hiera, bf16)
    empty = unpack(*pack(Example(chunks=((),))))
    assert flat(empty) == flat(Example(chunks=((),)))


# ---------------------------------------------------------------- worker processes
def shared_memory() -> int:
    """Segments that this process holds; grain lets go of them in a thread."""
    until = time.monotonic() + 5
    while True:
        paths = []
        for link in Path("/proc/self/fd").glob("*"):
            with contextlib.suppress(OSError):
                paths.append(os.readlink(link))
        held = sum(path.startswith("/dev/shm/psm_") for path in paths)
        if not held or time.monotonic() > until:
            return held
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_number_of_workers_changes_nothing(data, whole, workers):
    """Resumed with ``workers`` after the first step; the end leaves nothing behind."""
    loader = data.loader(workers=workers, consumed=BATCH)
    assert loader.in_flight == 4 * workers + BATCH
    assert read(loader) == whole[1:]
    assert multiprocessing.active_children() == []
    assert shared_memory() == 0
    loader.close()


class Odd(Mixture):
    """A mixture whose third record does something to the process that reads it."""

    what: str

    def __getitem__(self, index: int) -> Record:
        if index == 2:
            if self.what == "fail":

                class Unpicklable(Exception):
                    pass

                raise Unpicklable("a bug in the code")
            if self.what == "leave":
                sys.exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class Telling(Mixture):
    """A mixture of broken records whose ids tell about the process that reads them."""

    def __getitem__(self, index: int) -> Record:
        bridge = sys.modules.get("jax._src.xla_bridge")
        facts = {
            "pid": os.getpid(),
            "backends": bool(bridge and bridge.backends_are_initialized()),
            "threads": num_threads(),
            "interrupts": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        }
        return Record(index=index, source="", value={"id": json.dumps(facts)})


def like(kind, mixture, **attributes):
    other = copy.copy(mixture)
    other.__class__ = kind
    vars(other).update(attributes)
    return other


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("kill", "exit code -9"),
        pytest.param("fail", "a bug in the code", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_fails_ends_the_run(data, what, words):
    loader = data.loader(workers=1, mixture=like(Odd, data.mixture, what=what))
    began = time.monotonic()
    with pytest.raises(WorkerError, match=words):
        read(loader)
    assert time.monotonic() - began < 60
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("what", "words"), [("fail", "Unpicklable: a bug"), ("leave", "SystemExit")]
)
def test_a_failure_without_workers_is_the_same(data, what, words):
    with pytest.raises(WorkerError, match=words):
        read(data.loader(mixture=like(Odd, data.mixture, what=what)))


def test_workers_start_no_backend_and_can_be_left(data):
    """And one thread each, deaf to Ctrl-C; leaving after a step ends all of them."""
    with data.loader(workers=2, mixture=like(Telling, data.mixture)) as loader:
        loaded = next(loader)
        children = multiprocessing.active_children()
    facts = [json.loads(sample.id) for sample in loaded.bad]
    assert len(facts) == BATCH
    assert {fact.pop("pid") for fact in facts} == {child.pid for child in children}
    quiet = {"backends": False, "threads": 1, "interrupts": True}
    assert facts == [quiet] * BATCH
    assert multiprocessing.active_children() == []
    assert shared_memory() == 0  # though what was handed out is still there


def test_slots_pickle_small_and_without_a_tokenizer(data):
    loader = data.loader()
    next(loader)
    loader.close()
    state = pickle.dumps(loader._slots)
    assert len(state) < 10_000
    again = pickle.loads(state)
    assert "tokenizer" not in vars(again) and len(again) == 6 * BATCH


ORPHANS = """
import multiprocessing, os, signal, sys
from vica_jax.data.loader import Loader
from vica_jax.data.mixture import read_mixture
from vica_jax.data.settings import DataSettings
from vica_jax.layout import VisualLayout
if __name__ == "__main__":
    settings = DataSettings(mixture=sys.argv[1], num_workers=2)
    loader = Loader(
        read_mixture(settings.mixture, seed=0), range(4), tokenizer_folder=sys.argv[2],
        layout=VisualLayout(), settings=settings, seed=0, global_batch_size=2,
        rows=[0, 1], epochs=99,
    )
    next(loader)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_workers_of_a_killed_run_end(data, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(ORPHANS)
    command = [sys.executable, str(script), data.settings.mixture, str(TOKENIZER)]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    until = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(is_running, pids))


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
