"""Two processes on loopback train what one trains, and neither outlives the other."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vica_jax.checkpoint import iter_leaves
from vica_jax.data.mixture import read_mixture
from vica_jax.data.order import epoch_order

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = "configs/vica2_stage3_spatial.py:smoke"
SEED, BATCH, STEPS = 3, 4, 2
BAD = {"missing-video", "wrong-roles", "missing-image"}
RATES = {"siglip": 2e-4, "": 1e-3}  # of the smoke variant; the first prefix counts
# No true gradient (see multi_device/test_train_sharded.py).
NOISE = re.compile(r"siglip/layers/\d+/attn/k_proj/bias")
SAME = (
    "step",
    "tokens",
    "target_tokens",
    "examples",
    "bad",
    "truncated",
    "consumed",
    "epoch",
    "learning_rate/base",
)


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its exit status and both streams together."""

    code: int
    text: str


def train(
    workdir: Path, data: Path, processes: int, *flags: str, own: Sequence[str] = ()
) -> list[Ended]:
    """``scripts.train`` as one process or several, each with a device of its own.

    ``flags`` are for all of them, ``own`` is one for each.
    """
    command = [
        *(sys.executable, "-m", "scripts.train", f"--config={CONFIG}"),
        f"--workdir={workdir}",
        f"--config.data.mixture={data / 'mixed.json'}",
        f"--config.data.video_folder={data}",
        f"--config.data.image_folder={data}",
        "--config.data.group_by_length=False",  # so that a batch mixes modalities
        f"--config.seed={SEED}",
        "--config.checkpoint.every=1.0",
        "--config.data.max_bad_share=1.0",
        "--config.log.tensorboard=False",
        *flags,
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # One device, and half the time to compile.
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    running = []
    for number in range(processes):
        joined = [
            f"--coordinator=127.0.0.1:{port}",
            f"--num_processes={processes}",
            f"--process_id={number}",
        ]
        running.append(
            subprocess.Popen(
                [*command, *joined * (processes > 1), *filter(None, own[number:][:1])],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        said = [process.communicate()[0] for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    return [
        Ended(process.returncode, text)
        for process, text in zip(running, said, strict=True)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight records: videos, texts and broken ones in every batch."""
    target = tmp_path_factory.mktemp("two") / "data"
    command = [sys.executable, "-m", "scripts.make_smoke_data", f"--target={target}"]
    small = ["--videos=3", "--images=2", "--folders=1"]
    subprocess.run([*command, *small], cwd=ROOT, check=True, capture_output=True)
    videos = json.loads((target / "stage3.json").read_text())[:3]
    words = (target / "stage2" / "words.jsonl").read_text().splitlines()[:2]
    broken = json.loads((target / "broken.json").read_text())
    records = [*videos, *map(json.loads, words)]
    records += [record for record in broken if record["id"] in BAD]
    (target / "mixed.json").write_text(json.dumps(records))
    return target


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Workdirs of the run by one process and of that by two."""
    folder = tmp_path_factory.mktemp("runs")
    for name, processes in (("one", 1), ("two", 2)):
        for ended in train(folder / name, data, processes):
            assert ended.code == 0, ended.text
    return folder / "one", folder / "two"


def test_the_processes_hold_other_modalities(data: Path):
    """What the runs below depend on: the order that this seed gives."""
    mixture = read_mixture(str(data / "mixed.json"), seed=SEED)
    order = epoch_order(mixture.lengths, BATCH, seed=SEED, epoch=0, group=False)
    names = [mixture[int(index)].value["id"].rsplit("-", 1)[0] for index in order]
    # A process has two rows of a batch, in the order of the processes.
    assert names[:2] == ["words", "words"] and names[2:4] == ["missing", "spatial"]
    assert names[4:6] == ["missing", "wrong"] and names[6:] == ["spatial", "spatial"]


def test_losses_equal_those_of_one_process(runs: tuple[Path, Path]):
    one, two = (steps_of(workdir) for workdir in runs)
    assert len(one) == len(two) == STEPS
    for values, wanted in zip(two, one, strict=True):
        assert {key: values[key] for key in SAME} == {key: wanted[key] for key in SAME}
        for name in ("loss", "grad_norm"):
            assert values[name] == pytest.approx(wanted[name], rel=1e-5)
    assert two[-1]["bad"] == len(BAD) and two[-1]["consumed"] == 8


def test_bad_samples_of_both_are_named(runs: tuple[Path, Path]):
    one, two = runs
    wanted = bad_samples(one / "bad_samples.jsonl")
    first, second = (two / f"bad_samples{n}.jsonl" for n in ("", ".1"))
    assert {sample["id"] for sample in wanted} == BAD
    assert [len(bad_samples(path)) for path in (first, second)] == [2, 1]
    found = sorted(
        bad_samples(first) + bad_samples(second), key=lambda s: s["position"]
    )
    assert found == wanted


def test_one_export_of_the_same_parameters(runs: tuple[Path, Path]):
    one, two = runs
    assert sorted(p.name for p in two.iterdir() if "export" in p.name) == ["export"]
    base, found = dict(iter_leaves(one / "base")), dict(iter_leaves(two / "export"))
    moved = set()
    for path, wanted in iter_leaves(one / "export"):
        if path.startswith("hiera/"):
            np.testing.assert_array_equal(found[path], base[path], err_msg=path)
        elif not NOISE.fullmatch(path):
            limit = 0.01 * RATES["siglip" if path.startswith("siglip/") else ""]
            np.testing.assert_allclose(
                found[path], wanted, rtol=0, atol=limit, err_msg=path
            )
            if not np.array_equal(base[path], wanted):
                moved.add(path.split("/")[0])
    assert moved == {"siglip", "siglip_projector", "hiera_projector", "newline", "llm"}


@pytest.fixture(scope="module")
def failures(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[Ended]]:
    """Runs that stop at their first bad sample, and where one cannot begin at all."""
    folder = tmp_path_factory.mktemp("failures")
    with ThreadPoolExecutor() as pool:  # most of it is waiting
        bad = pool.submit(
            train, folder / "bad", data, 2, "--config.data.max_bad_share=0.005"
        )
        other = ["", "--config.data.mixture=/nowhere.json"]
        alone = pool.submit(train, folder / "alone", data, 2, own=other)
        return [bad.result(), alone.result()]


def test_both_end_where_too_many_samples_are_bad(failures: list[list[Ended]]):
    for ended in failures[0]:
        assert ended.code == 1, ended.text
        assert "error: 1 of 4 samples" in ended.text
        assert "Traceback" not in ended.text, ended.text


def test_neither_waits_for_one_that_cannot_begin(failures: list[list[Ended]]):
    """A mixture that only the first process finds: a disk that is not shared."""
    first, second = failures[1]
    assert first.code != 0 and second.code != 0
    assert "error: /nowhere.json: " in second.text


def steps_of(workdir: Path) -> list[dict]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "event" not in line]


def bad_samples(path: Path) -> list[dict]:
    return [*map(json.loads, path.read_text().splitlines())]
