"""A command finds the programs that the last one compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def generate(vica: Path, home: Path, **environment: str):
    """A question without a video, in a process of its own."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
    }
    env |= {"XDG_CACHE_HOME": str(home), "JAX_PLATFORMS": "cpu"}
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return subprocess.run(
        [
            *(sys.executable, "-m", "scripts.generate", f"--checkpoint={vica}"),
            *("--question=What is a chair?", "--max_new_tokens=3"),
        ],
        cwd=ROOT,
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def programs(folder: Path) -> dict[Path, float]:
    """Every program in a folder with the time at which it was written."""
    return {path: path.stat().st_mtime for path in folder.rglob("*-cache")}


@pytest.mark.slow
def test_a_second_run_compiles_nothing(vica: Path, tmp_path: Path):
    first = generate(vica, tmp_path)
    kept = programs(tmp_path / "vica_jax" / "xla")
    assert first.returncode == 0 and len(kept) >= 3, first.stderr
    second = generate(vica, tmp_path)
    assert second.stdout == first.stdout and second.returncode == 0
    assert programs(tmp_path) == kept
    theirs = generate(
        vica, tmp_path / "other", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "theirs")
    )
    assert theirs.stdout == first.stdout
    assert len(programs(tmp_path / "theirs")) == len(kept)
    assert not (tmp_path / "other").exists()


def test_an_unwritable_folder_is_a_warning(vica: Path, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    done = generate(vica, tmp_path / "file")
    assert done.returncode == 0 and done.stdout.strip()
    warnings = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(warnings) == 1, done.stderr
    assert warnings[0].startswith(f"warning: {tmp_path}/file/vica_jax/xla/")
