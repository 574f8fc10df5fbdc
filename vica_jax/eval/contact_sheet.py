"""A row of small frames, to see what a model was shown without its video."""

from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from vica_jax.data.pixels import preview_frames
from vica_jax.eval.workdir import FRAMES
from vica_jax.files import replacing

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
    """A few of uint8 ``[n,h,w,3]``, or their preview, as one JPEG row."""
    row = np.concatenate(list(preview_frames(frames)), axis=1)
    with replacing(path) as partial:
        Image.fromarray(row).save(partial, "JPEG", quality=QUALITY)
