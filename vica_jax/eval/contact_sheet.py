"""A row of small frames, to see what a model was shown without its video."""

from pathlib import Path

import numpy as np
from PIL import Image

from vica_jax.files import replacing

FOLDER = "frames"
FRAMES = 8
WIDTH = 160  # pixels of one frame
QUALITY = 80


def sheet_path(workdir: Path, video: str) -> Path:
    """Where the sheet of a video (its path below the data folder) lies."""
    return workdir / FOLDER / f"{video.replace('/', '__')}.jpg"


def write_contact_sheet(path: Path, frames: np.ndarray) -> None:
    """Up to ``FRAMES`` of uint8 ``[n,h,w,3]``, evenly spaced, as one JPEG row."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, FRAMES).astype(int))
    height = max(round(frames.shape[1] * WIDTH / frames.shape[2]), 1)
    sheet = Image.new("RGB", (WIDTH * len(chosen), height))
    for place, number in enumerate(chosen):
        small = Image.fromarray(frames[number]).resize((WIDTH, height))
        sheet.paste(small, (WIDTH * place, 0))
    with replacing(path) as partial:
        sheet.save(partial, "JPEG", quality=QUALITY)
