"""``kill -9`` of ``scripts.train`` at random moments, in the middle of saves too.

Three kills; ``VICA_JAX_KILLS=20`` for twenty.
"""

import collections
import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import short_run
from short_run import events, make_settings, steps, unusable, weights

from vica_jax.checkpoint import read_step, saved_steps

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("VICA_JAX_KILLS", 3))
LIMIT_SECONDS = 300.0  # of one process on a busy machine


def start(config: Path, workdir: Path) -> subprocess.Popen:
    """One start of the run; what it says is added to ``said``."""
    with open(workdir.with_name("said"), "a") as said:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "scripts.train",
                f"--config={config}",
                f"--workdir={workdir}",
            ],
            cwd=ROOT,
            stdout=said,
            stderr=said,
        )


def said(workdir: Path) -> str:
    return workdir.with_name("said").read_text()


def unfinished(workdir: Path) -> set[tuple[str, int]]:
    """Saves under the name that they have until they are whole."""
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        return set()
    found = [path for path in folder.iterdir() if "tmp" in path.name]
    with contextlib.suppress(FileNotFoundError):  # whole in this moment
        return {(path.name, path.stat().st_ctime_ns) for path in found}
    return set()


def count_steps(workdir: Path) -> int:
    """Steps that the processes have announced, those done again counted again."""
    return said(workdir).count(", loss ")


def wait_until(process: subprocess.Popen, condition: Callable[[], object]) -> float:
    """Seconds until it holds or the process has ended."""
    begin = time.monotonic()
    while not condition() and process.poll() is None:
        assert time.monotonic() - begin < LIMIT_SECONDS, process.args
        time.sleep(0.002)
    return time.monotonic() - begin


def kill(
    config: Path, workdir: Path, when: str, pick: random.Random, seconds: float
) -> str:
    """Start the run and kill it; returns what it was seen to be at.

    ``when`` is "start", in the first ``seconds`` and before the second step; "step",
    after one to three; or "save".
    """
    steps, left = count_steps(workdir), unfinished(workdir)
    process = start(config, workdir)
    if when == "start":
        end = time.monotonic() + pick.uniform(0, seconds)
        begun = lambda: time.monotonic() > end or count_steps(workdir) > steps
        wait_until(process, begun)
    else:
        more = pick.randint(1, 3)
        wait_until(process, lambda: count_steps(workdir) >= steps + more)
        time.sleep(pick.uniform(0, 0.1))
    if when == "save":
        wait_until(process, lambda: unfinished(workdir) - left)
        time.sleep(pick.uniform(0, 0.02))
    assert process.poll() is None, said(workdir)
    process.kill()
    process.wait()
    if unfinished(workdir) - left:
        return "save"
    return "step" if count_steps(workdir) > steps else "start"


@pytest.mark.slow
def test_kill_minus_9_at_random_moments(tmp_path: Path):
    base = short_run.write_base(tmp_path / "base")
    data = short_run.write_data(tmp_path / "data")
    # Steps enough that the run has not ended before the last kill.
    changes = {"epochs": 4 + 2 * KILLS, "log__tensorboard": True}
    total = changes["epochs"] * short_run.PER_EPOCH
    whole, run = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    settings = make_settings(base, data, checkpoint__every_steps=total, **changes)
    configs = [short_run.write_config(tmp_path / "whole.py", settings)]
    settings = make_settings(base, data, **changes)
    configs.append(short_run.write_config(tmp_path / "killed.py", settings))
    for folder in (whole, run):
        folder.parent.mkdir()

    undisturbed = start(configs[0], whole)
    seconds = wait_until(undisturbed, lambda: count_steps(whole))
    assert undisturbed.wait(LIMIT_SECONDS) == 0, said(whole)
    pick = random.Random(KILLS)
    seen: collections.Counter[str] = collections.Counter()
    run.with_name("said").touch()
    # A save may be whole before it is killed: two more tries.
    moments = [*(["save", "step", "start"] * KILLS)[:KILLS], "save", "save"]
    for number, when in enumerate(moments):
        if number >= KILLS and seen["save"]:
            break
        newest = max(saved_steps(run / "checkpoints"), default=0)
        words = len(said(run))
        seen[kill(configs[1], run, when, pick, seconds)] += 1
        # What has the name of a step is whole, and the resumed run began at the newest.
        for step in saved_steps(run / "checkpoints"):
            assert read_step(run / "checkpoints", step).record["consumed"] > 0
        begun = said(run)[words:]
        if newest and " parameters train; " in begun:
            assert f"; resumed at step {newest}\n" in begun
    print(f"killed: {dict(seen)}, saved last: {saved_steps(run / 'checkpoints')}")
    assert seen["save"], seen

    assert start(configs[1], run).wait(LIMIT_SECONDS) == 0, said(run)
    assert "left by a save that was interrupted: removed" in said(run)
    assert "error: " not in said(run) and "Traceback" not in said(run)
    assert weights(run / "export") == weights(whole / "export")
    assert steps(run) == steps(whole)
    assert [entry["step"] for entry in steps(run)] == [*range(1, total + 1)]
    assert set(events(run, "checkpoint")) <= {*range(1, total + 1)}
    assert unusable(run) == unusable(whole)
    assert len(unusable(run)[0]) == len(unusable(run)[1]) == changes["epochs"]
    assert saved_steps(run / "checkpoints") == [total - 1, total]
    assert not unfinished(run)
