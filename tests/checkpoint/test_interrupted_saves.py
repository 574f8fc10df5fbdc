"""Saves that are killed, and saves by several processes: subprocesses of their own."""

import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vica_jax.checkpoint import TrainingCheckpoints, saved_steps

ROOT = Path(__file__).parents[2]


def tree(step: int) -> dict:
    """64 MB of which every bit follows from the step."""
    one = lambda i: jax.random.bits(jax.random.key(step * 100 + i), (16, 2**16))
    return {"step": jnp.int32(step), "leaves": {str(i): one(i) for i in range(16)}}


def like(tree: Any) -> Any:
    form = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    return jax.tree.map(form, tree)


def same(a: Any, b: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), a, b))


# Resumes, checks what it has resumed, and saves without end.
RUN = """
    import logging, sys
    sys.path.insert(0, "tests/checkpoint")
    from test_interrupted_saves import TrainingCheckpoints, like, same, tree

    logging.basicConfig(level=logging.WARNING)
    checkpoints = TrainingCheckpoints(sys.argv[1], keep_last=2, keep_every=5)
    step = checkpoints.latest() or 0
    if step:
        assert checkpoints.read_record(step) == {"consumed": 8 * step}
        assert same(checkpoints.restore(step, like(tree(0))), tree(step))
    print(step, flush=True)
    while True:
        step += 1
        now = tree(step)
        print("saves", flush=True)
        checkpoints.save(step, now, {"consumed": 8 * step})
"""


@pytest.mark.slow
def test_kill_minus_9_in_the_middle_of_saves(tmp_path: Path):
    """What is left is a whole step, the last or the one before, bit for bit."""
    folder, pick = tmp_path / "checkpoints", random.Random(0)
    command = [sys.executable, "-c", textwrap.dedent(RUN), str(folder)]
    before, leftovers, said = 0, 0, ""

    def unfinished() -> set[str]:
        return {path.name for path in folder.glob("*tmp*")}

    for number in range(6):
        left = unfinished()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            resumed = process.stdout.readline()
            assert resumed, process.stderr.read()
            assert int(resumed) == before
            for _ in range(pick.randint(1, 3)):
                assert process.stdout.readline() == "saves\n", process.stderr.read()
            if number % 2:  # as soon as a save has begun
                until = time.monotonic() + 60
                while not unfinished() - left:
                    assert time.monotonic() < until and process.poll() is None
                    time.sleep(0.001)
                time.sleep(pick.uniform(0, 0.02))
            else:
                time.sleep(pick.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
            said += process.stderr.read()
        steps = saved_steps(folder)
        leftovers += len(unfinished())
        before = max(steps, default=0)
        assert steps == sorted({s for s in steps if s % 5 == 0} | set(steps[-2:])) or (
            # killed between a save and the removal of the step before last
            steps[-3:] == [before - 2, before - 1, before]
        )
    assert leftovers and before > 5, (leftovers, before)
    assert said.count("left by a save that was interrupted: removed") >= leftovers - 1
    with TrainingCheckpoints(folder, keep_last=2, keep_every=5) as checkpoints:
        for step in checkpoints.steps():
            assert same(checkpoints.restore(step, like(tree(0))), tree(step))
        assert 5 in checkpoints.steps()
    assert all(path.name.isdigit() for path in folder.iterdir())


# Two processes of two devices each; every leaf is split over all four.
PROCESS = """
    import sys
    import jax
    rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"localhost:{port}", 2, rank)
    import jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from vica_jax.checkpoint import CheckpointError, TrainingCheckpoints

    mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())
    values = np.arange(40_000, dtype=np.float32).reshape(8, -1)
    place = lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i: x[i])
    state = {"split": place(values, split), "whole": place(values[0], whole)}
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    with TrainingCheckpoints(folder, keep_last=2) as checkpoints:
        for step in (1, 2, 3):
            state = jax.tree.map(lambda x: x + 1, state)
            checkpoints.save(step, state, {"step": step})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
        assert checkpoints.read_record(3) == {"step": 3}
        got = checkpoints.restore(3, like)
        for shard in got["split"].addressable_shards:
            assert (np.asarray(shard.data) == values[shard.index] + 3).all()
        less = jax.ShapeDtypeStruct((4, 4), "float32", sharding=split)
        try:
            checkpoints.restore(3, like | {"split": less})
        except CheckpointError as error:
            print(error)
    jax.distributed.shutdown()
"""


def test_two_processes(tmp_path: Path):
    """They save one checkpoint, which one process of one device restores."""
    folder = tmp_path / "checkpoints"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = textwrap.dedent(PROCESS)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), str(port), str(folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        results = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, results, strict=True):
        assert process.returncode == 0, err
        assert "leaf split is float32[8, 5000] there and float32[4, 4]" in out
    values = np.arange(40_000, dtype=np.float32).reshape(8, -1)
    form = {
        "split": jax.ShapeDtypeStruct((8, 5000), jnp.float32),
        "whole": jax.ShapeDtypeStruct((5000,), jnp.float32),
    }
    with TrainingCheckpoints(folder, keep_last=2) as checkpoints:
        got = checkpoints.restore(2, form)
    np.testing.assert_array_equal(got["split"], values + 2)
    np.testing.assert_array_equal(got["whole"], values[0] + 2)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]
