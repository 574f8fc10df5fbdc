"""From media and a prompt to one padded ``Batch`` (``vica_jax.typing``).

Host side of a frame's way: SigLIP-sized uint8 pixels, raw frames for Hiera, and the
index map that says which visual row stands at which position. numpy only; resizing
for Hiera and all normalisation happen on the device.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image

from vica_jax.data.pixels import (
    anyres_views,
    bucket_size,
    padded_view,
    resize_siglip,
)
from vica_jax.errors import InputError
from vica_jax.layout import TEXT, BankOffsets, LayoutError, VisualLayout
from vica_jax.typing import Batch

log = logging.getLogger(__name__)

LENGTH_BUCKETS = (64, 128, 256, 512, 1024, 2048)
LONG_BUCKET = 512  # past the last bucket, multiples of this


class LengthError(InputError):
    """A prompt past the context length; the message states the numbers."""


@dataclass(frozen=True, kw_only=True)
class Medium:
    """One video or image, ready for the device.

    ``siglip`` is uint8 ``[n,S,S,3]``: frames of a video, or an image's base and tiles.
    ``raw`` is uint8 ``[m,h,w,3]``: the frames Hiera sees, or the image; None without
    a Hiera stream.
    """

    kind: Literal["video", "anyres", "padded"]
    siglip: np.ndarray
    raw: np.ndarray | None
    image_wh: tuple[int, int]

    def tokens(self, layout: VisualLayout) -> dict[str, int]:
        """Visual tokens per stream."""
        if self.kind == "video":
            siglip = layout.siglip_video_tokens(len(self.siglip))
            return {
                "siglip": siglip,
                "hiera": layout.hiera_video_tokens(len(self.siglip)),
            }
        total = (
            layout.anyres_image_tokens(self.image_wh)
            if self.kind == "anyres"
            else layout.padded_image_tokens()
        )
        hiera = layout.hiera_image_tokens()
        return {"siglip": total - hiera, "hiera": hiera}


@dataclass(frozen=True, kw_only=True)
class Example:
    """Token chunks with media between them: ``len(chunks) == len(media) + 1``."""

    chunks: Sequence[Sequence[int]]
    media: Sequence[Medium] = field(default=())

    def visual_tokens(self, layout: VisualLayout) -> int:
        return sum(sum(m.tokens(layout).values()) for m in self.media)

    def length(self, layout: VisualLayout) -> int:
        return sum(map(len, self.chunks)) + self.visual_tokens(layout)


def video_medium(frames: np.ndarray, layout: VisualLayout) -> Medium:
    """uint8 frames ``[F,h,w,3]`` -> every frame for SigLIP, every s-th for Hiera."""
    layout.check_video(len(frames))
    height, width = frames.shape[1:3]
    return Medium(
        kind="video",
        siglip=resize_siglip(frames, layout.siglip_image_size),
        raw=frames[:: layout.frame_stride] if layout.has_hiera else None,
        image_wh=(width, height),
    )


def image_medium(
    image: Image.Image, layout: VisualLayout, mode: Literal["anyres", "padded"]
) -> Medium:
    """One RGB image through anyres tiles or as a padded square; Hiera sees it whole."""
    views = (
        anyres_views(image, layout)
        if mode == "anyres"
        else padded_view(image, layout.siglip_image_size)
    )
    raw = np.asarray(image)[None] if layout.has_hiera else None
    return Medium(kind=mode, siglip=views, raw=raw, image_wh=image.size)


def bucket_length(length: int) -> int:
    """The static length a sequence is padded to."""
    for bucket in LENGTH_BUCKETS:
        if length <= bucket:
            return bucket
    return -(-length // LONG_BUCKET) * LONG_BUCKET


def check_length(example: Example, layout: VisualLayout, room: int = 0) -> int:
    """The example's length, if it and ``room`` new tokens fit the context.

    Raises:
      LengthError: they do not.
    """
    length = example.length(layout)
    if length + room > layout.context_length:
        visual = example.visual_tokens(layout)
        raise LengthError(
            f"the prompt has {length:,} tokens ({visual:,} visual + "
            f"{length - visual:,} text)"
            + (f" and {room:,} are to be generated" if room else "")
            + f", past the context length of {layout.context_length:,}: take fewer "
            "frames, a smaller token ratio, a shorter question"
            + (" or fewer new tokens" if room else "")
        )
    return length


def collate(
    examples: Sequence[Example],
    layout: VisualLayout,
    *,
    pad_id: int = 0,
    truncate: bool = False,
) -> Batch:
    """One right-padded batch in static shapes; the slots are the rows' largest.

    A row past the context length is refused, or with ``truncate`` (training) cut to
    its first positions as the reference does; ``truncations`` counts such rows, and
    every cut is logged.

    Raises:
      LengthError: a row is too long and ``truncate`` is off.
    """
    if truncate:
        for row, (length, kept) in truncations(examples, layout).items():
            log.warning("row %d is cut from %d to %d tokens", row, length, kept)
    else:
        for example in examples:
            check_length(example, layout)
    counts = [_slots(example, layout) for example in examples]
    slots = {name: max(count[name] for count in counts) for name in counts[0]}
    bank = layout.bank(**slots)
    B = len(examples)
    full = [example.length(layout) for example in examples]
    kept = np.minimum(full, layout.context_length)
    T = bucket_length(max(full))
    tokens = np.full((B, T), pad_id, np.int32)
    index = np.full((B, T), TEXT, np.int32)
    batch: Batch = {
        "tokens": tokens,
        "visual_index": index,
        "lengths": kept.astype(np.int32),
    }
    side = layout.siglip_image_size
    for name in ("frames", "views"):
        if slots[name]:
            batch[name] = np.zeros((B, slots[name], side, side, 3), np.uint8)
    _raw_slots(batch, examples, slots)
    if slots["resampled"]:
        batch["resample_taps"] = np.zeros((B, slots["resampled"], 4), np.int32)
        batch["resample_weights"] = np.zeros((B, slots["resampled"], 4), np.float32)
    for row, example in enumerate(examples):
        _fill_row(batch, row, example, layout, bank)
    if (longest := bucket_length(int(kept.max()))) < T:
        batch["tokens"], batch["visual_index"] = tokens[:, :longest], index[:, :longest]
    return batch


def truncations(
    examples: Sequence[Example], layout: VisualLayout
) -> dict[int, tuple[int, int]]:
    """Rows that are longer than the context: their length, and what is kept of it."""
    limit = layout.context_length
    lengths = [example.length(layout) for example in examples]
    return {i: (n, limit) for i, n in enumerate(lengths) if n > limit}


def _slots(example: Example, layout: VisualLayout) -> dict[str, int]:
    videos = [m for m in example.media if m.kind == "video"]
    if len(videos) > 1:
        raise LayoutError(f"one video per prompt, got {len(videos)}")
    images = [m for m in example.media if m.kind != "video"]
    resampled = 0
    for medium in images:
        if medium.kind == "anyres":
            plan = layout.anyres(medium.image_wh)
            if plan.final_hw != plan.crop[2:]:
                resampled += plan.final_hw[0] * plan.final_hw[1]
    frames = sum(len(m.siglip) for m in videos)
    return {
        "frames": frames,
        "views": sum(len(m.siglip) for m in images),
        "hiera_frames": layout.num_hiera_frames(frames) if frames else 0,
        "hiera_images": len(images) if layout.has_hiera else 0,
        "resampled": resampled,
    }


def _raw_slots(
    batch: Batch, examples: Sequence[Example], slots: dict[str, int]
) -> None:
    """Arrays for raw frames and images, as large as the largest bucket among them."""
    B = len(examples)
    for kinds, name, key in (
        (("video",), "hiera_frames", "hiera_frame_sizes"),
        (("anyres", "padded"), "hiera_images", "hiera_image_sizes"),
    ):
        if not slots[name]:
            continue
        raws = [m.raw for e in examples for m in e.media if m.kind in kinds]
        buckets = [bucket_size(*raw.shape[1:3]) for raw in raws if raw is not None]
        h, w = (max(bucket[axis] for bucket in buckets) for axis in (0, 1))
        batch[name] = np.zeros((B, slots[name], h, w, 3), np.uint8)
        # Empty slots keep a size of 1 x 1, so that their resize is defined.
        shape = (B, 2) if name == "hiera_frames" else (B, slots[name], 2)
        batch[key] = np.ones(shape, np.int32)


def _fill_row(
    batch: Batch, row: int, example: Example, layout: VisualLayout, bank: BankOffsets
) -> None:
    view = image = resampled = 0
    rows: list[np.ndarray] = []
    for medium in example.media:
        if medium.kind == "video":
            count = len(medium.siglip)
            batch["frames"][row, :count] = medium.siglip
            if medium.raw is not None:
                m, h, w, _ = medium.raw.shape
                batch["hiera_frames"][row, :m, :h, :w] = medium.raw
                batch["hiera_frame_sizes"][row] = (h, w)
            rows.append(layout.video_rows(bank, count))
            continue
        batch["views"][row, view : view + len(medium.siglip)] = medium.siglip
        if medium.raw is not None:
            _, h, w, _ = medium.raw.shape
            batch["hiera_images"][row, image, :h, :w] = medium.raw[0]
            batch["hiera_image_sizes"][row, image] = (h, w)
        if medium.kind == "anyres":
            index = layout.anyres_rows(
                bank, medium.image_wh, view=view, hiera_image=image, resampled=resampled
            )
            stop = resampled + len(index.taps)
            if len(index.taps):
                batch["resample_taps"][row, resampled:stop] = index.taps
                batch["resample_weights"][row, resampled:stop] = index.weights
            resampled = stop
            rows.append(index.rows)
        else:
            rows.append(layout.padded_rows(bank, view=view, hiera_image=image))
        view += len(medium.siglip)
        image += 1
    at = 0
    for i, chunk in enumerate(example.chunks):
        batch["tokens"][row, at : at + len(chunk)] = chunk
        at += len(chunk)
        if i < len(rows):
            batch["visual_index"][row, at : at + len(rows[i])] = rows[i]
            at += len(rows[i])
