"""How the smoke commands write: films, and a folder that is whole or not there."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from scripts import cli
from scripts.smoke_scenes import Scene


@contextlib.contextmanager
def new_folder(target: str) -> Iterator[Path]:
    """A folder beside ``target`` to write into; it takes that name at the end.

    A target that holds anything ends the program; an exception leaves nothing.
    """
    path = Path(target)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        cli.fail(f"{path} exists and is not an empty folder: choose another --target")
    partial = path.absolute().parent / f".{path.name}.partial-{os.getpid()}"
    print(f"{path}:")
    try:
        partial.mkdir(parents=True)
        yield partial
        if path.exists():
            path.rmdir()
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_video(path: Path, scene: Scene, **options: str) -> str:
    """An h264 mp4 of a scene; ``options`` are the container's."""
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream("libx264", rate=Fraction(scene.rate))
        stream.width, stream.height = scene.size_wh
        stream.pix_fmt = "yuv420p"
        # One thread, and no mbtree, which differs from run to run on tiny frames.
        stream.options = {"crf": "18", "threads": "1", "x264-params": "mbtree=0"}
        for number in range(scene.frames):
            file.mux(stream.encode(av.VideoFrame.from_image(scene.draw(number))))
        file.mux(stream.encode())
    return f"{path.parent.name}/{path.name}"
