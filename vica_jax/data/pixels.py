"""Images and frames to the uint8 arrays that both encoders start from.

SigLIP sees uint8 pixels resized by Pillow's bicubic filter; their normalisation
``(x / 255 - 0.5) / 0.5`` and the whole of Hiera's float resize run on the device. A
single image becomes one base view and its anyres tiles; images that come several to a
sample are padded to a square instead, as the reference trains them.

Deviation from the reference: EXIF orientation is applied when an image is opened, so
that photos of phones stand upright (the reference reads them as the sensor lay).
"""

import math
import os
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from vica_jax.data.threads import map_threads
from vica_jax.errors import InputError
from vica_jax.layout import VisualLayout

PAD_LEVEL = 127  # int(0.5 * 255), SigLIP's mean colour
BUCKET = 64  # pixels; see bucket_size
PREVIEW_FRAMES, PREVIEW_WIDTH = 8, 160

ImageSource = str | os.PathLike[str] | Image.Image | np.ndarray


class ImageError(InputError):
    """An image that is missing, unreadable, or of the wrong dtype or shape."""


def open_image(source: ImageSource) -> Image.Image:
    """An upright RGB image from a file, a PIL image or ``uint8[h, w, 3]``.

    Transparency is dropped, not blended, as ``convert("RGB")`` does.

    Raises:
      ImageError: the file is missing, no image, or cut off; the array is not
        ``uint8[h, w, 3]``; the image has no pixels.
    """
    if isinstance(source, np.ndarray):
        _check_frames(source[None] if source.ndim == 3 else source, "an image")
        return Image.fromarray(source)
    if isinstance(source, Image.Image):
        return _upright_rgb(source, "image")
    name = os.fspath(source)
    try:
        with Image.open(name) as image:
            return _upright_rgb(image, name)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such image file") from None
    except (Image.UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: not a readable image ({error})") from None
    except OSError as error:
        raise ImageError(f"{name}: cannot read the image ({error})") from None


def resize_bicubic(image: Image.Image, size_wh: tuple[int, int]) -> Image.Image:
    """Pillow's antialiased bicubic resize, columns first and then rows.

    That was Pillow's own order up to 12. Pillow 13 shrinks tall images the other way
    round, and since both passes round to 8 bits, pixels differ by several levels.
    """
    columns = image.resize((size_wh[0], image.height), Image.Resampling.BICUBIC)
    return columns.resize(size_wh, Image.Resampling.BICUBIC)


def resize_siglip(frames: np.ndarray | Sequence[Image.Image], size: int) -> np.ndarray:
    """Frames ``uint8[n, h, w, 3]`` or PIL images to ``uint8[n, size, size, 3]``.

    By ``resize_bicubic`` in threads (``data/threads``); the aspect ratio is not kept.

    Raises:
      ImageError: no frames, or an array of another dtype or shape.
    """
    if isinstance(frames, np.ndarray):
        _check_frames(frames, "frames")
    if len(frames) == 0:
        raise ImageError("no frames to resize")
    out = np.empty((len(frames), size, size, 3), np.uint8)

    def resize(index: int) -> None:
        frame = frames[index]
        image = Image.fromarray(frame) if isinstance(frame, np.ndarray) else frame
        if image.mode != "RGB":  # convert would copy
            image = image.convert("RGB")
        out[index] = np.asarray(resize_bicubic(image, (size, size)))

    map_threads(resize, range(len(frames)))
    return out


def preview_frames(frames: np.ndarray) -> np.ndarray:
    """A few of uint8 ``[n,h,w,3]``, evenly spaced and small: ``[<=8,h',160,3]``.

    A preview's preview is itself.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, PREVIEW_FRAMES).astype(int))
    height = max(round(frames.shape[1] * PREVIEW_WIDTH / frames.shape[2]), 1)
    size = PREVIEW_WIDTH, height
    small = [Image.fromarray(frames[number]).resize(size) for number in chosen]
    return np.stack([np.asarray(image) for image in small])


def anyres_views(image: Image.Image, layout: VisualLayout) -> np.ndarray:
    """Base view and tiles of one RGB image, ``uint8[1 + tiles, S, S, 3]``.

    The base is the whole image, its aspect ratio not kept. The tiles, row by row, cut
    the image resized with its aspect ratio and centred on a black canvas of
    ``layout.anyres(image.size).resolution_wh``.
    """
    plan, side = layout.anyres(image.size), layout.siglip_image_size
    canvas = np.asarray(_fit(image, plan.resolution_wh))
    across, down = plan.tiles_wh
    tiles = canvas.reshape(down, side, across, side, 3).transpose(0, 2, 1, 3, 4)
    tiles = tiles.reshape(down * across, side, side, 3)
    return np.concatenate([resize_siglip([image], side), tiles])


def padded_view(image: Image.Image, size: int) -> np.ndarray:
    """One RGB image padded to a square with grey 127, ``uint8[1, size, size, 3]``."""
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), (PAD_LEVEL,) * 3)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return resize_siglip([square], size)


def bucket_size(height: int, width: int, multiple: int = BUCKET) -> tuple[int, int]:
    """Height and width rounded up to a multiple of ``multiple`` pixels.

    One compiled program serves one bucket. 64 keeps the usual video sizes apart by
    few programs (480x640 -> 512x640, 720x1280 -> 768x1280, 1080x1920 -> 1088x1920,
    968x1296 -> 1024x1344) at the price of at most 63 more rows and columns.
    """
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def bucket_frames(
    frames: np.ndarray, multiple: int = BUCKET, *, bucket: tuple[int, int] | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Frames ``uint8[m, h, w, 3]`` with zeros below and right, and ``(h, w)``.

    The padded size is ``bucket`` (one for a whole batch), or else
    ``bucket_size(h, w, multiple)``; frames that have it already are not copied. Hiera's
    resize reads only the first ``h`` rows and ``w`` columns.

    Raises:
      ImageError: wrong dtype or shape, or ``bucket`` is smaller than the frames.
    """
    _check_frames(frames, "frames")
    height, width = frames.shape[1:3]
    rows, cols = bucket or bucket_size(height, width, multiple)
    if rows < height or cols < width:
        raise ImageError(f"frames of {height}x{width} exceed the bucket {rows}x{cols}")
    if (rows, cols) == (height, width):
        return frames, (height, width)
    padded = np.zeros((len(frames), rows, cols, 3), np.uint8)
    padded[:, :height, :width] = frames
    return padded, (height, width)


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    if min(image.size) < 1:
        raise ImageError(f"{name}: the image has no pixels ({image.size})")
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ImageError(f"{name}: cannot read the image ({error})") from None


def _fit(image: Image.Image, canvas_wh: tuple[int, int]) -> Image.Image:
    """The image as large as the canvas allows, centred, black around it."""
    (width, height), (across, down) = image.size, canvas_wh
    if across / width < down / height:
        fitted = across, min(math.ceil(height * (across / width)), down)
    else:
        fitted = min(math.ceil(width * (down / height)), across), down
    canvas = Image.new("RGB", canvas_wh)
    corner = (across - fitted[0]) // 2, (down - fitted[1]) // 2
    canvas.paste(resize_bicubic(image, fitted), corner)
    return canvas


def _check_frames(frames: np.ndarray, what: str) -> None:
    wrong = frames.ndim != 4 or frames.dtype != np.uint8 or frames.shape[-1] != 3
    if wrong or 0 in frames.shape[1:]:
        raise ImageError(
            f"{what} must be uint8 with a last axis of 3 (RGB), got {frames.dtype} of "
            f"shape {frames.shape}"
        )
