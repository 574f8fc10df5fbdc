"""``scripts.plan_memory``: the parts, a plain yes or no, and what would fit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run

from vica_jax.train import memory

ROOT = Path(__file__).parents[2]
STAGE = ROOT / "configs" / "vica2_stage3_spatial.py"
SHARED = {
    **{"parameters": 4, "optimizer": 8, "frozen": 1, "batch": 1, "compute_copy": 2},
    **{"gradients": 2, "logits": 1},
}


@pytest.fixture
def plan(monkeypatch):
    """The command with a measurement that costs nothing: 20 GB at first, less later."""
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    measured = []

    def measure(settings, cfg, shape):
        measured.append((settings, cfg, shape))
        less = 4 * (settings.frame_chunk == 2)
        less += 3 * (settings.optimizer.moment_dtype == "bfloat16")
        sizes = {name: size * 10**9 for name, size in SHARED.items()}
        return memory.StepMemory(**sizes, activations=(8 - less) * 10**9)

    monkeypatch.setattr(memory, "measure_step", measure)

    def call(*args, hbm_gb, config=STAGE):
        measured.clear()
        own = (f"--config={config}", *args)
        result = run("plan_memory", *own, devices=1, hbm_gb=hbm_gb)
        return result, measured

    return call


def test_it_fits(plan):
    result, ((_, cfg, shape),) = plan(hbm_gb=40)
    assert result.code == 0
    assert "vica2_7b (as published) on 1 devices" in result.out
    assert "optimiser state            8.00 GB" in result.out
    assert "total per device          27.00 GB" in result.out
    assert "27.00 GB, fits in 36.8 GB (92% of 40)\nyes\n" in result.out
    assert cfg.hiera is not None and cfg.llm.width == 3584
    assert shape.length == 32768 and shape.frames == 64 and shape.hiera_frames == 32
    assert shape.frame_hw == (1280, 2048) and shape.targets == 1024


def test_it_does_not_and_what_would(plan):
    result, tried = plan("--usable=1", hbm_gb=22)
    assert result.code == 0 and len(tried) == 3
    assert "27.00 GB, does not fit in 22.0 GB (100% of 22)" in result.out
    assert result.out.splitlines()[-1] == (
        "no, but with --config.frame_chunk=2 "
        "--config.optimizer.moment_dtype=bfloat16 yes"
    )


def test_nothing_fits(plan):
    result, _ = plan(hbm_gb=10)
    assert result.out.count("total per device") == 3
    last = result.err.splitlines()[-1]
    assert last.startswith("error: no: 20.0 of 9.2 GB (92% of 10) at the least")
    assert result.code == 1


def test_sizes_of_the_checkpoint_to_start_from(plan, vica):
    config = ROOT / "configs" / "vica_finetune.py"
    result, ((_, cfg, _),) = plan(
        f"--config.init_from={vica}", hbm_gb=40, config=config
    )
    assert cfg.llm.width == 64 and str(vica) in result.out
    result, ((_, cfg, _),) = plan("--model=tiny", hbm_gb=40)
    assert cfg.llm.width == 64
    _, ((_, cfg, _),) = plan(hbm_gb=40, config=config)
    assert cfg.hiera is None and cfg.llm.width == 3584


@pytest.mark.parametrize(
    ("flag", "said"),
    [("--model=huge", "vica2_7b"), ("--video=wide", "1920x1080")],
)
def test_flags_that_say_nothing(plan, flag, said):
    result, measured = plan(flag, hbm_gb=40)
    assert said in result.line and not measured


@pytest.mark.slow
def test_stage_3_fits_8_gpus_of_80_gb_without_offload():
    done = subprocess.run(
        [sys.executable, "-m", "scripts.plan_memory", f"--config={STAGE}"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    _, _, *parts, answer = done.stdout.splitlines()
    sizes = {line[:24].strip(): float(line[24:34]) for line in parts}
    assert answer == "yes"
    # 8.05e9 parameters, all but Hiera's, over 8 devices in float32.
    assert sizes["parameters, float32"] == pytest.approx(4.03, abs=0.01)
    assert sizes["optimiser state"] == pytest.approx(8.05, abs=0.01)
    assert sizes["frozen weights"] < 0.05
    # A regression shows here first: 42.8 when this was written.
    assert sizes["total per device"] < 45
