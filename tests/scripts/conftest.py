"""Commands run in this process: a start costs seconds, a compilation many more."""

import contextlib
import io
import json
import logging
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from absl import flags

from convert import load
from scripts import cli  # noqa: F401  (absl defines its own flags on import)

GOLDENS = Path(__file__).parents[1] / "goldens"


@dataclass(frozen=True)
class Result:
    """What a command left: exit status and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The message of a refusal, checked to be the one line there is."""
        assert self.code == 1, (self.code, self.out, self.err)
        first, *more = self.err.splitlines()
        assert first.startswith("error: "), self.err
        # Several violations of one kind may follow, indented.
        assert all(line.startswith("  ") for line in more), self.err
        assert "Traceback" not in self.err and len(first) < 500
        return self.err


def run(script: str, *args: object, **options: object) -> Result:
    """``python -m scripts.NAME`` with flags, in this process."""
    argv = [script, *map(str, args)]
    argv += [f"--{name}={value}" for name, value in options.items()]
    out, err = io.StringIO(), io.StringIO()
    defined, root = set(flags.FLAGS), logging.getLogger()
    handlers, level, old_argv = list(root.handlers), root.level, sys.argv
    sys.argv = argv
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_module(f"scripts.{script}", run_name="__main__")
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv, root.handlers = old_argv, handlers
        root.setLevel(level)
        for name in set(flags.FLAGS) - defined - set(HELP_FLAGS):
            delattr(flags.FLAGS, name)
    assert code is None or isinstance(code, int), code
    return Result(code or 0, out.getvalue(), err.getvalue())


HELP_FLAGS = ("help", "?", "helpshort", "helpfull", "helpxml", "only_check_flags")


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``scripts.generate`` with assistants that stay loaded between tests."""
    real = load.load_assistant

    def cached(folder, **options):
        key = (str(folder), *sorted(options.items()))
        if options.get("adapter") or options.get("mesh"):
            return real(folder, **options)
        if key not in LOADED:
            LOADED[key] = real(folder, **options)
        return LOADED[key]

    monkeypatch.setattr(load, "load_assistant", cached)
    return lambda *args, **options: run("generate", *args, **options)


LOADED: dict[tuple, object] = {}


@pytest.fixture(scope="session")
def vica() -> Path:
    return GOLDENS / "tiny-vica" / "checkpoint"


@pytest.fixture(scope="session")
def vica2() -> Path:
    return GOLDENS / "tiny-vica2" / "checkpoint"


@pytest.fixture(scope="session")
def natives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both golden checkpoints in native form, by the name of their folder."""
    folder, made = tmp_path_factory.mktemp("native"), {}
    for name in ("tiny-vica", "tiny-vica2"):
        made[name] = folder / name
        load.to_native(GOLDENS / name / "checkpoint", made[name])
    return made


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a moving bar, 96 x 64."""
    return write_video(tmp_path_factory.mktemp("video") / "bar.mp4", 20)


def write_video(path: Path, frames: int, rate: int = 10) -> Path:
    """An h264 file in which a bright bar moves over a changing ground."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for picture in pictures(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    return path


def pictures(count: int) -> np.ndarray:
    """uint8 ``[count, 64, 96, 3]``."""
    frames = np.empty((count, 64, 96, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[:] = (7 * i % 200, 90, 160 - 5 * i % 160)
        frame[:, 3 * i % 86 : 3 * i % 86 + 10] = 240
    return frames


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Copy a golden checkpoint, its config.json changed by keywords."""

    def make(source: Path, name: str = "checkpoint", **config: object) -> Path:
        folder = shutil.copytree(source, tmp_path / name)
        edit_json(folder / "config.json", **config)
        return folder

    return make


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
