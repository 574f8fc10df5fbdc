"""From media and a prompt to one padded ``Batch`` (``vica_jax.typing``).

Host side of a frame's way: SigLIP-sized uint8 pixels, raw frames for Hiera (or its
cached features), the index map that says which visual row stands at which position,
and in training which positions have a target. numpy only; resizing for Hiera and all
normalisation happen on the device.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal

import numpy as np
from PIL import Image

from vica_jax.data.pixels import (
    anyres_views,
    bucket_size,
    padded_view,
    resize_siglip,
)
from vica_jax.data.shapes import BatchShape
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
    a Hiera stream. ``hiera`` stands in its place where Hiera's output is cached:
    bfloat16 ``[m,r,r,C]``, the map of the output stage, not projected. ``indices`` are
    the numbers of a video's frames in their source, where known.
    """

    kind: Literal["video", "anyres", "padded"]
    siglip: np.ndarray
    raw: np.ndarray | None
    image_wh: tuple[int, int]
    hiera: np.ndarray | None = None
    indices: tuple[int, ...] = ()

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
    """Token chunks with media between them: ``len(chunks) == len(media) + 1``.

    ``supervised`` says for each token of each chunk whether it is a label of training;
    empty: none is.
    """

    chunks: Sequence[Sequence[int]]
    media: Sequence[Medium] = field(default=())
    supervised: Sequence[Sequence[bool]] = field(default=())

    def __post_init__(self):
        flags, ids = list(map(len, self.supervised)), list(map(len, self.chunks))
        if flags and flags != ids:
            raise ValueError(f"chunks of {ids} tokens, but {flags} supervision flags")

    def visual_tokens(self, layout: VisualLayout) -> int:
        return sum(sum(m.tokens(layout).values()) for m in self.media)

    def length(self, layout: VisualLayout) -> int:
        return sum(map(len, self.chunks)) + self.visual_tokens(layout)

    def targets(self, layout: VisualLayout) -> tuple[np.ndarray, np.ndarray]:
        """Positions t whose next token is supervised, and those tokens, int32 ``[k]``.

        Only tokens within the context length count; the first token of all is never
        a target.
        """
        positions, ids, at = [], [], 0
        for i, flags in enumerate(self.supervised):
            kept = np.flatnonzero(np.asarray(flags, bool))
            positions.append(at + kept)
            ids.append(np.asarray(self.chunks[i], np.int32)[kept])
            at += len(flags)
            if i < len(self.media):
                at += sum(self.media[i].tokens(layout).values())
        if not positions:
            return np.zeros(0, np.int32), np.zeros(0, np.int32)
        where = np.concatenate(positions).astype(np.int32)
        valid = (where >= 1) & (where < layout.context_length)
        return where[valid] - 1, np.concatenate(ids)[valid]

    def shape(self, layout: VisualLayout) -> BatchShape:
        """The exact sizes that this example needs of a batch; an empty one has a row.

        Raises:
          LayoutError: more than one video. ValueError: a medium has neither what
            Hiera sees nor its features.
        """
        videos = [m for m in self.media if m.kind == "video"]
        if len(videos) > 1:
            raise LayoutError(f"one video per prompt, got {len(videos)}")
        images = [m for m in self.media if m.kind != "video"]
        resampled = 0
        for medium in images:
            if medium.kind == "anyres":
                plan = layout.anyres(medium.image_wh)
                if plan.final_hw != plan.crop[2:]:
                    resampled += plan.final_hw[0] * plan.final_hw[1]
        frames = sum(len(m.siglip) for m in videos)
        cached = [m.hiera for m in self.media if m.hiera is not None]
        bare = [m for m in self.media if m.raw is None and m.hiera is None]
        if layout.has_hiera and bare:
            raise ValueError("a medium with neither raw frames nor Hiera's features")
        return BatchShape(
            length=max(min(self.length(layout), layout.context_length), 1),
            targets=len(self.targets(layout)[0]),
            frames=frames,
            views=sum(len(m.siglip) for m in images),
            hiera_frames=layout.num_hiera_frames(frames),
            frame_hw=_largest_raw(videos),
            hiera_images=len(images) if layout.has_hiera else 0,
            image_hw=_largest_raw(images),
            resampled=resampled,
            hiera_channels=max((x.shape[-1] for x in cached), default=0),
        )


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

    A row past the context length is refused, or with ``truncate`` cut to its first
    positions as the reference does; ``truncations`` counts such rows, and every cut is
    logged.

    Raises:
      LengthError: a row is too long and ``truncate`` is off.
    """
    if truncate:
        for row, (length, kept) in truncations(examples, layout).items():
            log.warning("row %d is cut from %d to %d tokens", row, length, kept)
    else:
        for example in examples:
            check_length(example, layout)
    exact = reduce(BatchShape.union, (e.shape(layout) for e in examples))
    shape = replace(
        exact,
        length=bucket_length(exact.length),
        targets=0,
        frame_hw=bucket_size(*exact.frame_hw),
        image_hw=bucket_size(*exact.image_hw),
    )
    return _fill(examples, layout, shape, pad_id)


def collate_training(
    examples: Sequence[Example],
    layout: VisualLayout,
    shape: BatchShape,
    *,
    pad_id: int = 0,
) -> Batch:
    """One right-padded batch of exactly ``shape.arrays``, with targets.

    Beside the keys of inference there are ``target_positions`` and ``targets``: see
    ``Example.targets``; unused slots are position 0 and target -1. Rows past the
    context length keep their first positions (``truncations`` names them). An example
    without tokens is a row of padding of length 1. Slots that a row does not use are
    zeros of size 1 x 1 that no position refers to.

    Raises:
      ValueError: an example does not fit the shape, or the shape has no target slots.
    """
    if not shape.targets:
        raise ValueError(f"a shape without target slots: {shape}")
    batch = _fill(examples, layout, shape, pad_id)
    for row, example in enumerate(examples):
        positions, ids = example.targets(layout)
        batch["target_positions"][row, : len(ids)] = positions
        batch["targets"][row, : len(ids)] = ids
    return batch


def truncations(
    examples: Sequence[Example], layout: VisualLayout
) -> dict[int, tuple[int, int]]:
    """Rows that are longer than the context: their length, and what is kept of it."""
    limit = layout.context_length
    lengths = [example.length(layout) for example in examples]
    return {i: (n, limit) for i, n in enumerate(lengths) if n > limit}


def _largest_raw(media: Sequence[Medium]) -> tuple[int, int]:
    sizes = [m.raw.shape[1:3] for m in media if m.raw is not None]
    return (
        max((h for h, _ in sizes), default=0),
        max((w for _, w in sizes), default=0),
    )


def _fill(
    examples: Sequence[Example], layout: VisualLayout, shape: BatchShape, pad_id: int
) -> Batch:
    """The arrays of ``shape`` with the examples in their rows."""
    # What stands in unused slots: an empty one is of size 1 x 1, so that its resize is
    # defined.
    empty = {
        "tokens": pad_id,
        "visual_index": TEXT,
        "lengths": 1,
        "targets": -1,
        "hiera_frame_sizes": 1,
        "hiera_image_sizes": 1,
    }
    arrays: Any = {
        # Zeros are pages that the system hands out on the first write, so slots that
        # stay empty cost next to nothing.
        name: np.full(size, empty[name], dtype)
        if name in empty
        else np.zeros(size, dtype)
        for name, (size, dtype) in shape.arrays(len(examples), layout).items()
    }
    batch: Batch = arrays
    bank = layout.bank(
        frames=shape.frames,
        views=shape.views,
        hiera_frames=shape.hiera_frames,
        hiera_images=shape.hiera_images,
        resampled=shape.resampled,
    )
    for row, example in enumerate(examples):
        exact = example.shape(layout)
        if not shape.targets:  # inference looks at no target
            exact = replace(exact, targets=0)
        cached = exact.hiera_channels or not (exact.hiera_frames or exact.hiera_images)
        if not shape.holds(exact) or bool(shape.hiera_channels) > bool(cached):
            raise ValueError(f"row {row} ({exact}) does not fit the shape ({shape})")
        batch["lengths"][row] = exact.length
        _fill_row(batch, row, example, layout, bank)
    return batch


def _fill_row(
    batch: Batch, row: int, example: Example, layout: VisualLayout, bank: BankOffsets
) -> None:
    view = image = resampled = 0
    rows: list[np.ndarray] = []
    for medium in example.media:
        if medium.kind == "video":
            count = len(medium.siglip)
            batch["frames"][row, :count] = medium.siglip
            if medium.hiera is not None:
                batch["hiera_frame_features"][row, : len(medium.hiera)] = medium.hiera
            elif medium.raw is not None:
                m, h, w, _ = medium.raw.shape
                batch["hiera_frames"][row, :m, :h, :w] = medium.raw
                batch["hiera_frame_sizes"][row] = (h, w)
            rows.append(layout.video_rows(bank, count))
            continue
        batch["views"][row, view : view + len(medium.siglip)] = medium.siglip
        if medium.hiera is not None:
            batch["hiera_image_features"][row, image] = medium.hiera[0]
        elif medium.raw is not None:
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
    at, limit = 0, layout.context_length
    for i, chunk in enumerate(example.chunks):
        at = _put(batch["tokens"][row, :limit], at, chunk)
        if i < len(rows):
            at = _put(batch["visual_index"][row, :limit], at, rows[i])


def _put(target: np.ndarray, at: int, values: Sequence[int] | np.ndarray) -> int:
    """Write what fits from position ``at`` on; the position after all ``values``."""
    room = max(len(target) - at, 0)
    target[at : at + len(values)] = values[:room]
    return at + len(values)
