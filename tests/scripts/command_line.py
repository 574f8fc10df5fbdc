"""Commands run in the test's process, and small inputs for them.

A start of Python costs seconds, a compilation many more.
"""

import contextlib
import io
import json
import logging
import runpy
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from absl import flags

from scripts import cli  # noqa: F401  (absl defines flags of its own on import)

HELP_FLAGS = {"help", "?", "helpshort", "helpfull", "helpxml", "only_check_flags"}


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
        """What a refused input left on stderr: one message that begins with error:."""
        assert self.code == 1, (self.code, self.out, self.err)
        first, *more = self.err.splitlines()
        assert first.startswith("error: ") and 20 < len(first) < 400, self.err
        assert "Traceback" not in self.err and "error: " not in self.err[7:], self.err
        # Several violations follow the first line, indented.
        assert len(more) != 1 and all(line[:2] == "  " for line in more), self.err
        return self.err

    @property
    def line(self) -> str:
        """The same where it has to be a single line."""
        assert self.error.count("\n") == 1, self.err
        return self.error.removeprefix("error: ").rstrip("\n")


def run(script: str, *args: object, **options: object) -> Result:
    """``python -m scripts.SCRIPT`` with flags, in this process.

    A script defines its flags anew each time and they are taken away afterwards: two
    scripts have flags of the same name.
    """
    argv = [script, *map(str, args)]
    argv += [f"--{name}={value}" for name, value in options.items()]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with _as_a_process(argv):
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                runpy.run_module(f"scripts.{script}", run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
    assert isinstance(code, int), code
    return Result(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _as_a_process(argv: list[str]) -> Iterator[None]:
    """Put back what a command changes in its process."""
    root, own = logging.getLogger(), set(flags.FLAGS) | HELP_FLAGS
    handlers, level, before = list(root.handlers), root.level, sys.argv
    terminate = signal.getsignal(signal.SIGTERM)
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv, root.handlers = before, handlers
        root.setLevel(level)
        signal.signal(signal.SIGTERM, terminate)
        for name in set(flags.FLAGS) - own:
            if not name.startswith("grain_"):  # its own, imported by a command
                delattr(flags.FLAGS, name)


def write_video(path: Path, frames: int, rate: int = 10, **options: str) -> Path:
    """An h264 file of ``pictures``; ``options`` are the container's."""
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream("libx264", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        file.start_encoding()
        for picture in pictures(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if frames:
            file.mux(stream.encode())
    return path


def pictures(count: int) -> np.ndarray:
    """A bright bar that moves over a changing ground, uint8 ``[count, 64, 96, 3]``."""
    frames = np.empty((count, 64, 96, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[:] = (7 * i % 200, 90, 160 - 5 * i % 160)
        frame[:, 3 * i % 86 : 3 * i % 86 + 10] = 240
    return frames


def edited(source: Path, target: Path, **config: object) -> Path:
    """A copy of a checkpoint with other values in its config.json."""
    shutil.copytree(source, target)
    edit_json(target / "config.json", **config)
    return target


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
