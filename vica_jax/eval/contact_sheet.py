"""A row of small frames, to see what a model was shown without its video."""

from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from vica_jax.eval.workdir import FRAMES
from vica_jax.files import replacing

SHOWN = 8
WIDTH = 160  # pixels of one frame
QUALITY = 80
LONGEST_NAME = 200  # bytes; file systems take 255
LONGEST_START = 40  # characters, of up to 4 bytes


def sheet_path(workdir: Path, video: str) -> Path:
    """Where the sheet of a video (its path below the data folder) lies.

    A name that could be another video's too, or that no file can have, ends in a hash.
    """
    name, data = video.replace("/", "__"), video.encode("utf-8", "backslashreplace")
    if "__" in video or len(data) > LONGEST_NAME or not video.isprintable():
        start = "".join(c if c.isprintable() else "_" for c in name[:LONGEST_START])
        name = f"{start}-{sha256(data).hexdigest()[:16]}"
    return workdir / FRAMES / f"{name}.jpg"


def write_contact_sheet(path: Path, frames: np.ndarray) -> None:
    """Up to ``SHOWN`` of uint8 ``[n,h,w,3]``, evenly spaced, as one JPEG row."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, SHOWN).astype(int))
    height = max(round(frames.shape[1] * WIDTH / frames.shape[2]), 1)
    sheet = Image.new("RGB", (WIDTH * len(chosen), height))
    for place, number in enumerate(chosen):
        small = Image.fromarray(frames[number]).resize((WIDTH, height))
        sheet.paste(small, (WIDTH * place, 0))
    with replacing(path) as partial:
        sheet.save(partial, "JPEG", quality=QUALITY)
