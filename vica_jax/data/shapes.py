"""The static sizes of a batch: they alone decide which program is compiled.

A shape says how many slots of each kind a row has; a kind with no slots has no key in
the batch. Processes that agree on a shape, by the elementwise maximum of their vectors,
run the same program whatever their own examples hold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from vica_jax.data.settings import ShapeBuckets
from vica_jax.layout import VisualLayout


@runtime_checkable
class Shaped(Protocol):
    """What has exact sizes of its own: an example."""

    def shape(self, layout: VisualLayout) -> "BatchShape": ...


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """Slots per row, and the sizes of what stands in them.

    ``length`` positions of the sequence, ``targets`` supervised positions, ``frames``
    and ``views`` for SigLIP, ``hiera_frames`` and ``hiera_images`` for Hiera, whose
    raw pixels lie in ``frame_hw`` and ``image_hw`` (height, width), and ``resampled``
    rows of shrunk tile maps. With ``hiera_channels`` the two Hiera kinds are cached
    features of that width and there are no raw pixels.
    """

    length: int = 1
    targets: int = 0
    frames: int = 0
    views: int = 0
    hiera_frames: int = 0
    frame_hw: tuple[int, int] = (0, 0)
    hiera_images: int = 0
    image_hw: tuple[int, int] = (0, 0)
    resampled: int = 0
    hiera_channels: int = 0

    @staticmethod
    def of(
        examples: Sequence[Shaped],
        layout: VisualLayout,
        buckets: ShapeBuckets,
        *,
        num_frames: int | None = None,
    ) -> "BatchShape":
        """The smallest bucketed shape that holds every example; see ``bucketed``."""
        shapes = (example.shape(layout) for example in examples)
        exact = reduce(BatchShape.union, shapes, BatchShape())
        return exact.bucketed(layout, buckets, num_frames=num_frames)

    def union(self, other: "BatchShape") -> "BatchShape":
        """The smallest shape that holds both: elementwise maximum."""
        return self.from_vector(np.maximum(self.to_vector(), other.to_vector()))

    def holds(self, other: "BatchShape") -> bool:
        return self.union(other) == self

    def bucketed(
        self,
        layout: VisualLayout,
        buckets: ShapeBuckets,
        *,
        num_frames: int | None = None,
    ) -> "BatchShape":
        """Every size rounded up to its bucket, so that few shapes occur.

        A batch with any video has ``num_frames`` frame slots (the layout's number by
        default), or more if a video is longer. There is always a target slot, so that
        a batch without supervision runs the same program. Of the union of bucketed
        shapes this changes nothing.
        """
        frames = num_frames or layout.num_frames
        frames = max(self.frames, frames) if self.frames else 0
        return replace(
            self,
            length=_round_up(self.length, buckets.lengths),
            targets=_round_up(max(self.targets, 1), buckets.targets),
            frames=frames,
            views=_round_up(self.views, buckets.views),
            hiera_frames=layout.num_hiera_frames(frames),
            frame_hw=_round_sides(self.frame_hw, buckets.raw_side),
            hiera_images=_round_up(self.hiera_images, buckets.images),
            image_hw=_round_sides(self.image_hw, buckets.raw_side),
            resampled=_round_up(self.resampled, buckets.resampled),
        )

    def to_vector(self) -> np.ndarray:
        """All sizes as int64, in the order of the fields."""
        values = [getattr(self, field.name) for field in fields(self)]
        return np.concatenate([np.atleast_1d(value) for value in values]).astype(
            np.int64
        )

    @classmethod
    def from_vector(cls, vector: np.ndarray) -> "BatchShape":
        """The shape whose ``to_vector`` this is."""
        numbers = iter(vector.tolist())
        sizes: dict[str, Any] = {
            field.name: (next(numbers), next(numbers))
            if isinstance(field.default, tuple)
            else next(numbers)
            for field in fields(cls)
        }
        return cls(**sizes)

    def arrays(
        self, rows: int, layout: VisualLayout
    ) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of every array in a batch of ``rows`` (``vica_jax.typing``).

        The keys of an inference batch when ``targets`` is 0.
        """
        B, T, K = rows, self.length, self.targets
        pixels = (layout.siglip_image_size, layout.siglip_image_size, 3)
        found: dict[str, tuple[tuple[int, ...], type]] = {
            "tokens": ((B, T), np.int32),
            "visual_index": ((B, T), np.int32),
            "lengths": ((B,), np.int32),
        }
        if K:
            found["target_positions"] = ((B, K), np.int32)
            found["targets"] = ((B, K), np.int32)
        if self.frames:
            found["frames"] = ((B, self.frames, *pixels), np.uint8)
        if self.views:
            found["views"] = ((B, self.views, *pixels), np.uint8)
        for kind, slots, hw, sizes in (
            ("hiera_frame", self.hiera_frames, self.frame_hw, (B, 2)),
            (
                "hiera_image",
                self.hiera_images,
                self.image_hw,
                (B, self.hiera_images, 2),
            ),
        ):
            if slots and self.hiera_channels:
                grid = (layout.hiera_grid, layout.hiera_grid, self.hiera_channels)
                found[f"{kind}_features"] = ((B, slots, *grid), ml_dtypes.bfloat16)
            elif slots:
                found[f"{kind}s"] = ((B, slots, *hw, 3), np.uint8)
                found[f"{kind}_sizes"] = (sizes, np.int32)
        if self.resampled:
            found["resample_taps"] = ((B, self.resampled, 4), np.int32)
            found["resample_weights"] = ((B, self.resampled, 4), np.float32)
        return {
            name: (shape, np.dtype(dtype)) for name, (shape, dtype) in found.items()
        }

    def num_bytes(self, rows: int, layout: VisualLayout) -> int:
        """What a batch of ``rows`` takes on the host, and on the device before use."""
        arrays = self.arrays(rows, layout).values()
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in arrays)

    def __str__(self) -> str:
        """One line for logs: the sizes that are not zero."""
        parts = [f"length {self.length}", f"targets {self.targets}"]
        for name, hw in (
            ("frames", None),
            ("views", None),
            ("hiera_frames", self.frame_hw),
            ("hiera_images", self.image_hw),
            ("resampled", None),
            ("hiera_channels", None),
        ):
            if size := getattr(self, name):
                raw = f" of {hw[0]}x{hw[1]}" if hw and any(hw) else ""
                parts.append(f"{name} {size}{raw}")
        return ", ".join(parts)


def _round_up(size: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds ``size``; past the last, its step is repeated."""
    if size == 0:
        return 0
    for bucket in buckets:
        if size <= bucket:
            return bucket
    last = buckets[-1]
    step = last - buckets[-2] if len(buckets) > 1 else last
    return last + -(-(size - last) // step) * step


def _round_sides(hw: tuple[int, int], multiple: int) -> tuple[int, int]:
    return -(-hw[0] // multiple) * multiple, -(-hw[1] // multiple) * multiple
