"""Checkpoints and a video for the commands; assistants stay loaded between tests."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Result, run, write_video

from convert import load

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="session")
def generate() -> Callable[..., Result]:
    """``scripts.generate`` with assistants that stay loaded between the tests."""
    real = load.load_assistant

    @functools.cache
    def loaded(folder: str, dtype: str | None):
        return real(folder, dtype=dtype)

    def cached(folder, *, dtype=None, progress=False, **rare):
        if any(rare.values()):  # an adapter, a mesh, another cache
            return real(folder, dtype=dtype, **rare)
        return loaded(str(folder), dtype)

    def call(*args: object, **options: object) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(load, "load_assistant", cached)
            return run("generate", *args, **options)

    return call


@pytest.fixture(scope="session")
def vica() -> Path:
    """The recorded ViCA checkpoint, HF form: SigLIP only."""
    return GOLDENS / "tiny-vica" / "checkpoint"


@pytest.fixture(scope="session")
def vica2() -> Path:
    """The recorded ViCA2 checkpoint, HF form: SigLIP and Hiera."""
    return GOLDENS / "tiny-vica2" / "checkpoint"


@pytest.fixture(scope="session")
def native(vica: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded ViCA checkpoint, converted."""
    target = tmp_path_factory.mktemp("native") / "vica"
    load.to_native(vica, target)
    return target


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames of a moving bar at 10 per second."""
    return write_video(tmp_path_factory.mktemp("video") / "bar.mp4", 24)
