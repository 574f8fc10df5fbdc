"""The record of a run: rates, resuming, kill -9, every sink, the picture."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vica_jax.train import metrics
from vica_jax.train.curves import moving_mean, plot_curves, thin_out
from vica_jax.train.metrics import Tracker, describe_step
from vica_jax.train.sinks import MetricsFile, Progress, SinkError, read_metrics

ROOT = Path(__file__).parents[2]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Where the curves of a run are; tests that do not ask for it draw none."""
    return tmp_path / "curves.png"


@pytest.fixture(autouse=True)
def draw_for_few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    if "picture" not in request.fixturenames:  # most of a second each
        monkeypatch.setattr(metrics, "plot_curves", lambda *_: None)


def quiet(workdir: Path, **options: Any) -> Tracker:
    """A tracker of the file alone, unless asked for more."""
    defaults: dict[str, Any] = {
        "total_steps": 100,
        "tensorboard": False,
        "progress": False,
    }
    return Tracker(workdir, **(defaults | options))


def values_of(step: int, **more: Any) -> dict[str, Any]:
    return {
        "loss": 2.0 / step,
        "learning_rate/base": 1e-5,
        "learning_rate/siglip": 2e-6,
        "grad_norm": 1.5,
        "tokens": 1000,
        "target_tokens": 30,
        "examples": 4,
        "bad": 0,
        "flops": 6e12,
        "step_seconds": 2.0,
        "wait_seconds": 0.5,
        "consumed": 4 * step,
        "epoch": 0,
        **more,
    }


def strict_lines(path: Path) -> list[dict[str, Any]]:
    """Every line as JSON proper: NaN and Infinity, Python's extensions, are errors."""

    def refuse(name: str):
        raise AssertionError(f"{name} is no JSON")

    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


# ------------------------------------------------------------------------------ rates
def test_rates_leave_the_first_step_out(tmp_path: Path):
    with quiet(tmp_path, total_steps=50, peak_flops=1e12, devices=4) as tracker:
        tracker.log(1, values_of(1, step_seconds=90.0))
        tracker.log(2, values_of(2))
        tracker.log(3, values_of(3, step_seconds=6.0, tokens=5000))
    first, second, third = strict_lines(tmp_path / "metrics.jsonl")
    assert "tokens_per_second" not in first and "eta_seconds" not in first
    assert first["step_seconds"] == 90 and first["consumed"] == 4
    assert second["tokens_per_second"] == 500
    assert second["samples_per_second"] == 2
    assert second["mfu"] == pytest.approx(6e12 / 2 / 4e12)
    assert second["wait_share"] == 0.25
    assert second["eta_seconds"] == 48 * 2
    assert third["tokens_per_second"] == 6000 / 8
    assert third["wait_share"] == 1 / 8
    assert third["eta_seconds"] == 47 * 4


def test_throughput_follows_the_last_twenty_steps(tmp_path: Path):
    with quiet(tmp_path) as tracker:
        for step in range(1, 61):
            seconds = 1.0 if step <= 40 else 4.0
            tracker.log(step, values_of(step, step_seconds=seconds))
    last = strict_lines(tmp_path / "metrics.jsonl")[-1]
    assert last["tokens_per_second"] == 250
    # The remaining time looks further back: 39 steps of 1 s and 20 of 4 s.
    assert last["eta_seconds"] == pytest.approx(40 * (39 + 80) / 59)


def test_steps_that_compile_are_left_out(tmp_path: Path):
    """The step before is logged after the next one's compilation, and took its time."""
    with quiet(tmp_path) as tracker:
        tracker.event(1, "compile", program=1)
        for step in range(1, 7):
            if step == 3:  # of step 4's program; step 3 is not logged yet
                tracker.event(4, "compile", program=2)
            slow = step in (1, 3, 4)
            tracker.log(step, values_of(step, step_seconds=70.0 if slow else 2.0))
    steps = [e for e in read_metrics(tmp_path / "metrics.jsonl") if "event" not in e]
    assert [e.get("tokens_per_second") for e in steps] == [None, *[500.0] * 5]


def test_without_a_peak_there_is_no_mfu(tmp_path: Path):
    with quiet(tmp_path) as tracker:
        tracker.log(1, {"loss": 1})
        tracker.log(2, {"loss": 1, "step_seconds": 3})
    assert strict_lines(tmp_path / "metrics.jsonl")[1].keys() == {
        *("step", "time", "loss", "step_seconds", "eta_seconds")
    }


# ------------------------------------------------------------------------------- file
def test_any_number_becomes_json(tmp_path: Path):
    with quiet(tmp_path) as tracker:
        tracker.log(
            1,
            {
                "loss": np.float32("nan"),
                "grad_norm": np.array(np.inf),
                "other": -math.inf,
                "tokens": np.int64(7),
                "half": np.float32(0.5).astype(ml_dtypes.bfloat16),
            },
        )
        tracker.event(1, "export", folder=tmp_path, sizes=[np.float64("nan"), None])
    step, event = strict_lines(tmp_path / "metrics.jsonl")
    assert (step["loss"], step["grad_norm"], step["other"]) == (
        *("NaN", "Infinity", "-Infinity"),
    )
    assert math.isnan(float(step["loss"])) and float(step["other"]) == -math.inf
    assert step["tokens"] == 7 and isinstance(step["tokens"], int)
    assert step["half"] == 0.5
    assert event["folder"] == str(tmp_path) and event["sizes"] == ["NaN", None]
    assert event["event"] == "export"


def test_resume_drops_what_an_interrupted_run_did_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "metrics.jsonl"
    with quiet(tmp_path) as tracker:
        for step in range(1, 10):
            tracker.log(step, values_of(step))
            if step % 3 == 0:
                tracker.event(step, "checkpoint")
    with open(path, "a") as file:
        file.write('{"step": 10, "lo')  # torn by kill -9
    with quiet(tmp_path, start_step=6) as tracker:
        tracker.log(7, values_of(7, loss=70.0))
    assert "dropped 4 lines past step 6 and 1 torn lines" in caplog.text
    entries = strict_lines(path)
    assert [e["step"] for e in entries] == [1, 2, 3, 3, 4, 5, 6, 6, 7]
    assert entries[-1]["loss"] == 70 and entries[0]["loss"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_fresh_start_begins_a_fresh_record(tmp_path: Path):
    with quiet(tmp_path) as tracker:
        tracker.event(0, "validation", loss=3.0)
        tracker.log(1, values_of(1))
    with quiet(tmp_path) as tracker:
        tracker.log(1, values_of(1, loss=5.0))
    assert [e["loss"] for e in strict_lines(tmp_path / "metrics.jsonl")] == [5]


@pytest.fixture(scope="module")
def nine_lines(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("nine") / "metrics.jsonl"
    file = MetricsFile(path, start_step=0)
    for step in range(1, 10):
        file.write({"step": step, "text": "é\n" * step})
    file.close()
    return path.read_bytes()


@given(data=st.data())
def test_cut_at_any_byte_a_resume_keeps_whole_lines(
    data: st.DataObject, nine_lines: bytes, tmp_path_factory: pytest.TempPathFactory
):
    cut = data.draw(st.integers(0, len(nine_lines)), label="cut")
    start = data.draw(st.integers(1, 9), label="start")
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    path.write_bytes(nine_lines[:cut])
    file = MetricsFile(path, start_step=start)
    file.write({"step": start + 1})
    file.close()
    # A line that lacks its newline alone is whole.
    whole = (nine_lines[:cut] + b"\n").count(b"}\n")
    expected = [*range(1, min(whole, start) + 1), start + 1]
    assert [e["step"] for e in strict_lines(path)] == expected


def test_kill_9_tears_the_last_line_at_most(tmp_path: Path):
    script = f"""
from vica_jax.train.metrics import Tracker
tracker = Tracker({str(tmp_path)!r}, total_steps=10**9, progress=False)
step = 0
while True:
    step += 1
    tracker.log(step, {{"loss": 1 / step, "step_seconds": 0.1, "tokens": 3}})
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    path = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (path.is_file() and path.stat().st_size > 50_000):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines = path.read_bytes().split(b"\n")
    steps = [json.loads(line)["step"] for line in lines[:-1]]
    assert steps == [*range(1, len(steps) + 1)] and len(steps) > 100
    with quiet(tmp_path, start_step=50, tensorboard=True) as tracker:
        tracker.log(51, {"loss": 9})
    assert [e["step"] for e in strict_lines(path)] == [*range(1, 52)]
    scalars = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [point.step for point in scalars] == [*range(1, 52)]
    assert scalars[-1].value == 9


def test_other_processes_write_nothing(tmp_path: Path):
    workdir = tmp_path / "run"
    with Tracker(workdir, total_steps=3, wandb="project", enabled=False) as tracker:
        tracker.log(1, values_of(1))
        tracker.event(1, "checkpoint")
    assert not workdir.exists()


def test_record_is_closed_when_the_run_fails(tmp_path: Path, picture: Path):
    tracker = quiet(tmp_path)
    with pytest.raises(KeyError, match="of the run"), tracker:
        tracker.log(1, values_of(1))
        raise KeyError("of the run")
    assert picture.is_file()
    tracker.log(2, values_of(2))  # after the end: nothing
    tracker.close()
    assert len(strict_lines(tmp_path / "metrics.jsonl")) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_full_disk_is_an_error_of_the_first_line():
    file = MetricsFile(Path("/dev/full"), start_step=0)
    with pytest.raises(OSError, match="No space left"):
        file.write({"step": 1})
    with pytest.raises(OSError, match="No space left"):
        file.close()


# ------------------------------------------------------------------------ TensorBoard
def points(workdir: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard's own reader shows."""
    scalars = EventAccumulator(str(workdir)).Reload().Scalars(tag)
    return [(point.step, point.value) for point in scalars]


def test_tensorboard_reads_every_value_back(tmp_path: Path):
    with quiet(tmp_path, tensorboard=True, peak_flops=1e13) as tracker:
        for step in range(1, 6):
            tracker.log(step, values_of(step))
            shown = points(tmp_path, "train/loss")  # at once, not at the end
            assert shown[-1] == (step, pytest.approx(2 / step))
        tracker.event(5, "validation", loss=0.75, spatial_loss=0.5, note="text")
        tracker.event(5, "bad_sample", index=7)
    tags = set(EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"])
    assert tags == {
        *(f"train/{name}" for name in values_of(1)),
        *("speed/tokens_per_second", "speed/samples_per_second", "speed/mfu"),
        *("speed/wait_share", "speed/eta_seconds"),
        *("validation/loss", "validation/spatial_loss"),
    }
    assert points(tmp_path, "train/learning_rate/siglip")[0] == (1, pytest.approx(2e-6))
    assert points(tmp_path, "speed/mfu") == [
        (step, pytest.approx(0.3)) for step in range(2, 6)
    ]
    assert points(tmp_path, "validation/loss") == [(5, 0.75)]


def test_tensorboard_voids_points_past_the_resumed_step(tmp_path: Path):
    with quiet(tmp_path, tensorboard=True) as tracker:
        for step in range(1, 9):
            tracker.log(step, values_of(step))
    (events,) = tmp_path.glob("events.out.tfevents.*")
    events.write_bytes(events.read_bytes()[:-5])  # torn by kill -9
    with quiet(tmp_path, tensorboard=True, start_step=5) as tracker:
        for step in (6, 7):
            tracker.log(step, values_of(step, loss=float("nan") if step == 7 else 60))
    shown = points(tmp_path, "train/loss")
    assert shown[:5] == [(step, pytest.approx(2 / step)) for step in range(1, 6)]
    assert shown[5] == (6, 60)
    assert shown[6][0] == 7 and math.isnan(shown[6][1]) and len(shown) == 7


# --------------------------------------------------------------------------- progress
RATES = {
    "eta_seconds": 3725.0,
    "tokens_per_second": 51_234.0,
    "samples_per_second": 2.25,
    "mfu": 0.4812,
    "wait_share": 0.013,
}
TOLD = (
    "ETA 1:02:05, loss 0.6667, lr 1.00e-05, grad 1.5, 51.2k tok/s, "
    "2.25 samples/s, MFU 48.1%, wait 1.3%"
)


def test_progress_line_says_what_people_look_at():
    assert describe_step(values_of(3), RATES) == TOLD
    assert describe_step(values_of(3, bad=2), {}) == (
        "loss 0.6667, lr 1.00e-05, grad 1.5, bad samples 2"
    )


def test_terminal_and_log_file_say_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def shown() -> str:
        progress = Progress(total_steps=400, start_step=0, every=10)
        progress.update(1, TOLD)
        progress.write("step 1: validation: loss 2.5")
        progress.close()
        return capsys.readouterr().err

    file = shown()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    terminal = shown()
    assert f"1/400, {TOLD}" in terminal and "\r" in terminal
    assert file == f"step 1/400 (0.2%), {TOLD}\nstep 1: validation: loss 2.5\n"
    assert "step 1: validation: loss 2.5\n" in terminal


def test_plain_lines_come_every_few_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = {"progress": True, "line_every": 4, "total_steps": 15, "start_step": 5}
    with quiet(tmp_path, **options) as tracker:
        for step in range(6, 16):
            tracker.log(step, values_of(step))
            if step == 9:
                tracker.event(9, "checkpoint", consumed=36, seconds=0.123456)
    out, err = capsys.readouterr()
    assert out == ""
    shown = [line.split(",")[0] for line in err.splitlines()]
    assert shown == [
        "step 6/15 (40.0%)",
        "step 8/15 (53.3%)",
        "step 9: checkpoint: consumed 36",
        "step 12/15 (80.0%)",
        "step 15/15 (100.0%)",
    ]
    assert "seconds 0.1235" in err


# ------------------------------------------------------------------- Weights & Biases
def test_wandb_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SinkError, match="pip install wandb") as raised:
        quiet(tmp_path, wandb="vica")
    assert "\n" not in str(raised.value)


def test_wandb_that_does_not_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def init(**_: Any):
        raise RuntimeError("api_key not configured\nlong advice")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(SinkError, match="api_key not configured: try wandb") as raised:
        quiet(tmp_path, wandb="vica")
    assert "\n" not in str(raised.value)


def test_wandb_gets_scalars_and_a_resume_continues_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[tuple[str, Any]] = []

    def init(**options: Any):
        calls.append(("init", options))
        return SimpleNamespace(
            log=lambda scalars, step: calls.append(("log", (step, scalars))),
            finish=lambda: calls.append(("finish", None)),
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for start in (0, 1):
        config = {"seed": 3}
        with quiet(tmp_path, wandb="vica", start_step=start, config=config) as tracker:
            tracker.log(start + 1, values_of(start + 1))
    assert [name for name, _ in calls] == ["init", "log", "finish"] * 2
    first, second = calls[0][1], calls[3][1]
    assert first == second and first["id"] and first["resume"] == "allow"
    assert first["project"] == "vica" and first["config"] == {"seed": 3}
    assert calls[4][1][0] == 2 and calls[4][1][1]["train/loss"] == 1.0


# ----------------------------------------------------------------------------- curves
FLOATS = st.floats(-1e6, 1e6)


@given(st.lists(FLOATS, min_size=1, max_size=300), st.integers(2, 60))
def test_thinning_keeps_ends_and_extremes(values: list[float], most: int):
    x, y = np.arange(len(values), dtype=float), np.array(values)
    kept_x, kept_y = thin_out(x, y, most)
    assert len(kept_x) <= max(most + 2, 4)
    assert np.array_equal(y[kept_x.astype(int)], kept_y)
    assert np.all(np.diff(kept_x) > 0)
    assert (kept_x[0], kept_x[-1]) == (0, len(values) - 1)
    assert (kept_y.min(), kept_y.max()) == (y.min(), y.max())


@given(st.lists(FLOATS, min_size=1, max_size=60), st.integers(0, 20))
def test_moving_mean_is_the_mean_around(values: list[float], half: int):
    y = np.array(values)
    around = [y[max(i - half, 0) : i + half + 1].mean() for i in range(len(y))]
    assert moving_mean(y, 2 * half + 1) == pytest.approx(around, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 1700])
def test_curves_of_runs_of_any_length(tmp_path: Path, picture: Path, steps: int):
    with quiet(tmp_path, total_steps=steps) as tracker:
        for step in range(1, steps + 1):
            broken = step in (2, 700)
            more = {"loss": float("nan" if step == 2 else "inf")} if broken else {}
            tracker.log(step, values_of(step, **more))
        tracker.event(steps, "validation", loss=0.5, other_loss=float("inf"))
    with Image.open(picture) as image:
        assert image.format == "PNG" and min(image.size) > 900
        assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_curves_include_the_part_before_a_resume(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
):
    from matplotlib.axes import Axes

    drawn: list[np.ndarray] = []
    plot = Axes.plot

    def record(self: Axes, x: Any, y: Any, *args: Any, **options: Any):
        drawn.append(np.asarray(x))
        return plot(self, x, y, *args, **options)

    for start in (0, 4):
        with quiet(tmp_path, start_step=start) as tracker:
            for step in range(start + 1, start + 6):
                tracker.log(step, values_of(step))
            if start:
                monkeypatch.setattr(Axes, "plot", record)
    losses, *_ = drawn
    assert losses.tolist() == [*range(1, 10)] and picture.is_file()


def test_a_record_without_steps_has_no_picture(
    tmp_path: Path, picture: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING), quiet(tmp_path) as tracker:
        tracker.event(0, "validation", loss=1.0)
    assert not picture.exists()
    assert caplog.text == ""
    with pytest.raises(FileNotFoundError):
        plot_curves(tmp_path / "none.jsonl", picture)
