"""Runs that are stopped and go on: the same run to the bit, or one clear line."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
import pytest
import short_run
from short_run import events, lines, make_settings, steps, train, unusable, weights

from vica_jax.checkpoint import CheckpointError, fingerprint, read_manifest, saved_steps
from vica_jax.config import plain
from vica_jax.train import stage
from vica_jax.train.resume import FREE, check_resumable
from vica_jax.train.sample_log import SampleLog
from vica_jax.train.stage import RunError

ROOT = Path(__file__).parents[2]
STEPS = 2 * short_run.PER_EPOCH


@dataclass(frozen=True)
class Inputs:
    base: Path
    data: Path

    def settings(self, **changes: Any):
        # A constant rate lets a run be lengthened.
        constant = {"optimizer__schedule": "constant"}
        return make_settings(self.base, self.data, **(constant | changes))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    return Inputs(
        short_run.write_base(folder / "base"), short_run.write_data(folder / "data")
    )


@pytest.fixture(scope="module", autouse=True)
def one_program() -> Iterator[None]:
    """All runs of this process share one jitted step: tracing it takes seconds."""
    make, made = stage.make_train_step, []

    def shared(*args: Any, **options: Any) -> Any:
        if not made:
            made.append(make(*args, **options))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "make_train_step", shared)
        yield


@pytest.fixture(scope="module")
def whole(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed, saved after steps 3 and 6."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(inputs.settings(checkpoint__every_steps=3), workdir)
    return workdir


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


def refusal(error: type[Exception], function: Callable, *args: Any, **options: Any):
    with pytest.raises(error) as caught:
        function(*args, **options)
    (line,) = str(caught.value).splitlines()
    return line


# ------------------------------------------------------------- what may differ, and not
@pytest.fixture
def settings(tmp_path: Path):
    """Settings of a run of 100 steps whose files nobody looks for."""
    return lambda **changes: make_settings(
        tmp_path / "base", tmp_path / "data", **changes
    )


def made_of(settings: Any, **changes: Any) -> dict[str, Any]:
    """What a run says of itself in its checkpoints, as JSON brings it back."""
    made = {
        "base": "/runs/one/export",
        "base_fingerprint": "aa",
        "config": plain(settings),
        "total_steps": 100,
        "samples": 1234,
        "digest": "00",
        "consumed": 8,
    }
    return json.loads(json.dumps(made | changes))


def check(before: dict[str, Any], now: dict[str, Any]) -> None:
    check_resumable(before, now, Path("runs/two"))


def test_the_same_run_goes_on(settings):
    check(made_of(settings()), made_of(settings()))
    lora = {"rank": 4, "alpha": 8.0, "targets": ["llm/.*/q_proj"]}
    check(made_of(settings(lora=lora)), made_of(settings(lora=lora)))


def test_other_weights_and_data_are_refused(settings):
    before, now = made_of(settings()), made_of(settings())
    other = now | {"base": "/runs/three/export", "base_fingerprint": "bb"}
    line = refusal(RunError, check, before, other)
    assert line.startswith("runs/two: ") and "--workdir" in line
    assert "/runs/one/export" in line and "/runs/three/export" in line
    check(before, now | {"base": "/moved/export"})  # the same weights elsewhere
    line = refusal(RunError, check, before, now | {"digest": "11", "samples": 1300})
    assert "mixture has changed" in line and "1,234" in line and "1,300" in line


@pytest.mark.parametrize(
    ("key", "value", "before"),
    [
        ("global_batch_size", 8, "4"),
        ("seed", 8, "7"),
        ("epochs", 3, "2"),
        ("context_length", 64, "0"),
        ("dtype", "bfloat16", "'float32'"),
        ("trainable", ".*=base", "siglip"),
        ("optimizer__clip_norm", 2.0, "1.0"),
        ("optimizer__rates__siglip", 1e-3, "0.0002"),
        ("optimizer__schedule", "constant", "'cosine'"),
        ("optimizer__moment_dtype", "bfloat16", "'float32'"),
        ("data__num_frames", 3, "2"),
        ("data__group_by_length", False, "True"),
        ("data__validation_share", 0.25, "0.0"),
        ("data__shapes__lengths", [64, 192], "[192]"),
        ("lora", {"rank": 4, "alpha": 8.0}, "None"),
    ],
)
def test_a_setting_that_matters_is_named(settings, key, value, before):
    now = made_of(settings(**{key: value}))
    line = refusal(RunError, check, made_of(settings()), now)
    key = {"lora": "lora.alpha"}.get(key, key.replace("__", "."))
    after = 8.0 if key == "lora.alpha" else value
    assert f"began with {key} = " in line and f"now it is {after!r}: " in line
    assert before in line.partition("now it is")[0] and "--workdir" in line


FREE_CHANGES = {
    "per_device_batch_size": 2,
    "frame_chunk": 1,
    "remat": "full",
    "validate_every": 5,
    "validation_batches": 3,
    "export_hf": True,
    "export_hf_every": 4,
    "init_from": "elsewhere",
    "max_steps": 100,
    "mesh__data": 4,
    "mesh__fsdp": 2,
    "checkpoint__every_steps": 9,
    "checkpoint__keep_last": 9,
    "log__wandb_project": "mine",
    "data__num_workers": 3,
    "data__image_folder": "moved",
    "data__video_folder": "moved",
    "data__max_bad_share": 0.9,
    "data__hiera_cache": "moved",
    "data__frame_cache": "moved",
    "data__frame_cache_gb": 9.0,
}


def test_what_may_differ(settings):
    check(made_of(settings()), made_of(settings(**FREE_CHANGES)))
    named = {key.replace("__", ".") for key in FREE_CHANGES}
    assert all(any(k == f or k.startswith(f"{f}.") for k in named) for f in FREE)


def test_a_run_is_lengthened_at_a_constant_rate_alone(settings):
    for schedule in ("cosine", "constant"):
        before = made_of(settings(optimizer__schedule=schedule, max_steps=40))
        now = made_of(settings(optimizer__schedule=schedule, max_steps=70))
        before["total_steps"], now["total_steps"] = 40, 70
        if schedule == "constant":
            check(before, now)
        else:
            line = refusal(RunError, check, before, now)
            assert "is 40 steps long, now it would be 70" in line
            assert "same max_steps" in line
    # As many steps by another name are the same run.
    check(made_of(settings(max_steps=0)), made_of(settings(max_steps=100)))


# ----------------------------------------------------------------------- stop and go on
class Stopped(Exception):
    """What ends a run in the middle."""


def copy(native: Path, target: Path) -> None:
    shutil.copytree(native, target)


def stop(*_: Any) -> None:
    raise Stopped


def test_stopped_three_times_and_the_same_to_the_bit(
    inputs, whole, tmp_path, monkeypatch, caplog
):
    """In an export, at max_steps, and in a step with a save still running."""
    workdir, done = tmp_path / "run", {"max_steps": 2, "export_hf_every": 2}
    with pytest.raises(Stopped):
        train(inputs.settings(**done), workdir, hf=stop)
    assert (workdir / "export-2").is_dir() and not (workdir / "export").exists()

    train(inputs.settings(**done), workdir, hf=copy)
    assert {p.name for p in workdir.glob("export*")} == {
        "export",
        "export-hf",
        "export-2",
        "export-2-hf",
    }
    assert [x["step"] for x in steps(workdir)] == [1, 2]

    # Saved after step 3, slowly; stopped when the samples of step 6 were counted.
    save, add = ocp.JsonCheckpointHandler._save_fn, SampleLog.add

    def save_slowly(*args: Any) -> Any:
        time.sleep(0.5)
        return save(*args)

    def add_and_stop(self: SampleLog, batch: Any) -> None:
        add(self, batch)
        if batch.loaded.step == 5:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(ocp.JsonCheckpointHandler, "_save_fn", save_slowly)
        patch.setattr(SampleLog, "add", add_and_stop)
        train(inputs.settings(checkpoint__every_steps=3), workdir)
    # The save was waited for: nothing of it is left half-way.
    assert {x.name for x in (workdir / "checkpoints").iterdir()} == {"2", "3"}
    assert [x["step"] for x in steps(workdir)] == [1, 2, 3, 4]
    assert unusable(workdir) == unusable(
        whole
    )  # those of steps 4 and 6 will come again

    with caplog.at_level(logging.INFO, "vica_jax"):
        export = train(inputs.settings(), workdir, hf=copy)
    assert "resumed at step 3" in caplog.text
    assert "was made of step 2, now of step 6" in caplog.text
    assert read_manifest(export).provenance["step"] == STEPS
    assert weights(export) == weights(whole / "export")
    assert not (workdir / "export-hf").exists()  # of step 2, and not asked for now
    assert not [*workdir.glob("*partial*"), *workdir.glob(".*")]
    assert steps(workdir) == steps(whole)
    assert [x["step"] for x in steps(workdir)] == [*range(1, STEPS + 1)]
    assert events(workdir, "checkpoint") == [*range(1, STEPS + 1)]
    assert unusable(workdir) == unusable(whole)
    assert [x["bad"] for x in steps(workdir)] == [1, 1, 1, 2, 2, 2]
    assert [x["truncated"] for x in steps(workdir)] == [0, 0, 1, 1, 1, 2]
    assert [x["consumed"] for x in steps(workdir)] == [4, 8, 11, 15, 19, 22]


def test_what_a_run_began_with_is_kept_to(inputs, copied, tmp_path):
    """Refused before anything of the run is touched."""
    before = {p: p.stat().st_mtime_ns for p in copied.rglob("*") if p.is_file()}
    line = refusal(RunError, train, inputs.settings(seed=8), copied)
    assert "began with seed = 7, now it is 8" in line and str(copied) in line
    other = short_run.write_base(tmp_path / "other", seed=2)
    assert fingerprint(other) != fingerprint(inputs.base)
    line = refusal(RunError, train, inputs.settings(init_from=str(other)), copied)
    assert "whose weights are not" in line and str(other) in line
    assert before == {p: p.stat().st_mtime_ns for p in copied.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------- damage
def truncate(step: Path) -> None:
    largest = max(step.rglob("d/*"), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def lose_a_file(step: Path) -> None:
    max(step.rglob("d/*"), key=lambda p: p.stat().st_size).unlink()


def lose_the_record(step: Path) -> None:
    (step / "record" / "record.json").unlink()


@pytest.mark.parametrize("damage", [truncate, lose_a_file, lose_the_record])
def test_a_damaged_checkpoint_is_said_and_not_passed_over(inputs, copied, damage):
    damage(copied / "checkpoints" / "6")
    line = refusal(CheckpointError, train, inputs.settings(), copied)
    assert line.startswith(f"{copied / 'checkpoints' / '6'}: damaged: ")
    assert line.endswith("remove this folder to go on from step 3")
    assert saved_steps(copied / "checkpoints") == [3, 6]


def test_going_on_from_the_checkpoint_before(inputs, whole, copied):
    """As the error says; the export was made of a step that comes again."""
    shutil.rmtree(copied / "checkpoints" / "6")
    shutil.rmtree(copied / "export")
    assert weights(train(inputs.settings(), copied)) == weights(whole / "export")
    assert steps(copied) == steps(whole)
    assert unusable(copied) == unusable(whole)


# -------------------------------------------------------------------------- finished
def test_a_finished_run_stays_as_it_is(inputs, whole, copied):
    before = weights(copied / "export")
    made = (copied / "export" / "manifest.json").stat().st_mtime_ns
    read = (copied / "metrics.jsonl").read_bytes()
    assert train(inputs.settings(), copied) == copied / "export"
    assert (copied / "export" / "manifest.json").stat().st_mtime_ns == made
    assert (copied / "metrics.jsonl").read_bytes() == read
    shutil.rmtree(copied / "export")
    assert weights(train(inputs.settings(), copied)) == before
    assert saved_steps(copied / "checkpoints") == [3, 6]
    assert unusable(copied) == unusable(whole)


def test_an_export_without_its_checkpoints_is_no_new_run(inputs, copied):
    shutil.rmtree(copied / "checkpoints")
    line = refusal(RunError, train, inputs.settings(), copied)
    assert "export/ is there, but no checkpoint" in line and "--workdir" in line


# ------------------------------------------------------ other devices, other workers
@pytest.mark.slow
def test_from_1_device_to_4_and_from_2_workers_to_3(inputs, whole, tmp_path):
    """The same samples in the same order; sums over devices round differently."""
    workdir = tmp_path / "run"
    train(inputs.settings(max_steps=2, data__num_workers=2), workdir)
    assert steps(workdir) == steps(whole)[:2]
    config = short_run.write_config(
        tmp_path / "config.py", inputs.settings(data__num_workers=3)
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "scripts.train",
            f"--config={config}",
            f"--workdir={workdir}",
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            # A program of several CPU devices that comes out of the cache deadlocks in
            # its collectives (jaxlib 0.10.2); one that is compiled does not.
            "JAX_ENABLE_COMPILATION_CACHE": "false",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "mesh data=1, fsdp=4, tensor=1; resumed at step 2" in done.stderr
    assert "= 1 x 4; " in done.stderr  # without accumulation now
    close = ("loss", "grad_norm")
    for got, want in zip(steps(workdir), steps(whole), strict=True):
        for name in close:
            assert got.pop(name) == pytest.approx(want.pop(name), rel=1e-5)
        assert got == want
    assert unusable(workdir) == unusable(whole)
    assert lines(workdir / "metrics.jsonl")[-1]["step"] == STEPS
    assert read_manifest(workdir / "export").provenance["consumed"] == 22
