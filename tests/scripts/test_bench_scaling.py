"""The scaling bench: its arithmetic, and a reduced run with its figure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from scripts import bench_scaling, scaling_devices, scaling_sweeps
from scripts.scaling_sweeps import REDUCED, Measured, interleaved, line_through

ROOT = Path(__file__).parents[2]


def test_a_line_is_found_and_how_much_it_explains():
    assert line_through([1, 2, 4], [5, 7, 11]) == pytest.approx((3, 2, 1))
    intercept, slope, share = line_through([0, 1, 2, 3], [0, 1, 1, 2])
    assert (intercept, slope) == pytest.approx((0.1, 0.6))
    assert share == pytest.approx(0.9)
    assert line_through([1, 2], [3, 3])[2] == 1


def test_rounds_go_there_and_back_after_a_first_call():
    seen = []
    runs = {name: lambda name=name: seen.append(name) for name in "abc"}
    seconds = interleaved(runs, 2)
    assert "".join(seen) == "abc" + "abc" + "cba"
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(
        "abc", 2
    )


def test_what_devices_move_by_arithmetic():
    cfg, programs = scaling_devices.CFG, scaling_devices.PROGRAMS
    prefill = scaling_devices.expected(cfg, programs[2], 4)
    # Two sums in each of four layers and one before: 1,024 tokens of 1,024 floats.
    assert prefill == 2 * 3 / 4 * 9 * 1024 * 1024 * 4
    assert scaling_devices.expected(cfg, programs[3], 4) == prefill / 1024
    assert scaling_devices.expected(cfg, programs[0], 1) == 0
    assert scaling_devices.expected(cfg, programs[1], 8) is None


def test_the_session_counts_its_prefix_once(monkeypatch: pytest.MonkeyPatch):
    """Model FLOPs: n answers less n - 1 prefixes."""
    found = Measured.__new__(Measured)
    found.sweeps, found.cfg = REDUCED, scaling_sweeps.model(REDUCED)
    video = found.cfg.layout.video_tokens(REDUCED.video)

    class Row:
        tokens = {"total": video + 30, "new": 4}  # noqa: RUF012

    one = found._flops([Row()], REDUCED.video)  # pyright: ignore
    assert found._session_flops([Row()]) == pytest.approx(one)  # pyright: ignore
    four = found._session_flops([Row()] * 4)  # pyright: ignore
    prefix = found._forward([video], REDUCED.video, 0)
    assert four == pytest.approx(4 * one - 3 * prefix)


@pytest.mark.slow
def test_a_reduced_run_measures_everything_and_draws_it(tmp_path: Path):
    file, picture = tmp_path / "numbers.json", tmp_path / "scaling.png"
    command = [sys.executable, "-m", "scripts.bench_scaling", "--reduced"]
    command += [f"--json={file}", f"--figure={picture}", "--rounds=1"]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    numbers = json.loads(file.read_text())
    assert [x["frames"] for x in numbers["frames"]] == list(REDUCED.frames)
    asked = numbers["questions"]["points"]
    assert [x["questions"] for x in asked] == list(REDUCED.questions)
    assert asked[-1]["flops"] < asked[-1]["independent_flops"]
    assert [x["rows"] for x in numbers["rows"]] == list(REDUCED.rows)
    assert all(x["flops"] > 0 for name in ("frames", "rows") for x in numbers[name])
    moved = {(x["program"], x["devices"]): x for x in numbers["devices"]}
    programs = scaling_devices.PROGRAMS
    assert set(moved) == {(p, n) for p in programs for n in bench_scaling.FEW_DEVICES}
    for (program, devices), record in moved.items():
        total = record["moved"]["total"]
        assert record["loops_uncounted"] == 0
        assert (total > 0) == (devices > 1)
        if program in programs[2:]:  # exactly the sums that the design asks for
            assert total == pytest.approx(record["expected"])
        if program == programs[0] and devices > 1:
            # An all-reduce where a reduce-scatter would do: a third more at the most.
            assert 1 < total / record["expected"] < 4 / 3
    assert "past the prefix a session grows by" in ran.stdout
    with Image.open(picture) as image:
        assert image.size == (1500, 1140)
