"""Where every visual token comes from: token counts and index maps, in plain integers.

This module is the only home of the published sizes (64 frames, 27 x 27 and 32 x 32
grids, 14-pixel patches, token ratio 2 / 4 / 2). It imports numpy and nothing else, so
that preprocessing workers and models agree on one arithmetic without either importing
the other.

A sequence is assembled by one gather. Every example owns a *bank* of visual rows

    [newline | pooled frame tokens | view tokens | pooled Hiera frame tokens
     | Hiera image tokens | resampled tokens]

and ``visual_index`` says which bank row stands at which position (-1: a text token).
*Frames* belong to videos and are pooled; *views* are the base image and tiles of
images and are not. *Resampled* rows are four-tap blends of view rows (the anyres
downscale of large images).

Sizes are ``(height, width)`` for grids and arrays, and ``(width, height)`` where the
name says ``_wh`` (image files and ``image_grid_pinpoints``), as in the reference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from vica_jax.errors import InputError

NEWLINE_ROW = 0  # bank row of the learned newline embedding
TEXT = -1  # visual_index of a text position


class LayoutError(InputError):
    """An illegal token ratio, or a visual sequence that does not fit."""


def default_pinpoints(tile: int, most: int = 6) -> tuple[tuple[int, int], ...]:
    """``(1x1),...,(6x6)`` in pixels, width-major, as LLaVA expands the string."""
    steps = range(1, most + 1)
    return tuple((i * tile, j * tile) for i in steps for j in steps)


def bilinear_taps(size: int, out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two-tap bilinear resize along one side (no antialias, corners not aligned).

    Returns ``lower int32[out]``, ``upper int32[out]`` and ``weight float32[out]`` of
    the upper tap, rounded as torch's ``interpolate(mode="bilinear")`` does in float32
    with fused multiply-add: once, after product and difference.
    """
    scale = np.float64(np.float32(size) / np.float32(out))
    centre = scale * (np.arange(out) + 0.5) - 0.5
    source = np.maximum(centre.astype(np.float32), np.float32(0))
    lower = np.minimum(source.astype(np.int32), size - 1)
    upper = np.minimum(lower + 1, size - 1)
    return lower, upper, (source - lower).astype(np.float32)


class AnyresPlan(NamedTuple):
    """How one image is cut into tiles and which of their tokens are kept."""

    resolution_wh: tuple[int, int]  # canvas the image is resized and padded to
    tiles_wh: tuple[int, int]  # tiles across and down
    crop: tuple[int, int, int, int]  # top, left, height, width of the unpadded map
    times: float  # sqrt(kept tokens / token budget); past 1.1 the map is shrunk
    final_hw: tuple[int, int]  # map after the shrink, before newlines


class BankOffsets(NamedTuple):
    """First bank row of each segment, and the number of rows in all."""

    frames: int
    views: int
    hiera_frames: int
    hiera_images: int
    resampled: int
    total: int


class ImageIndex(NamedTuple):
    """Bank rows of one image: ``rows int32[n]`` and its resampled rows' taps."""

    rows: np.ndarray
    taps: np.ndarray  # int32[R, 4] bank rows
    weights: np.ndarray  # float32[R, 4]


@dataclass(frozen=True, kw_only=True)
class VisualLayout:
    """Sizes that decide how many visual tokens there are and where they stand.

    ``hiera_image_size`` is None for SigLIP-only models. ``frame_stride``,
    ``output_stage`` and ``pool_stride`` are the token ratio of the Hiera stream; the
    papers' triplet is (N_hiera, S_stage, s_pool) with
    N_hiera = ceil(frames / frame_stride).

    Raises:
      LayoutError: a field is out of its range; the message states the numbers.
    """

    siglip_image_size: int = 384
    siglip_patch_size: int = 14
    siglip_pool_stride: int = 2
    hiera_image_size: int | None = None
    hiera_patch_stride: int = 4
    hiera_num_stages: int = 4
    hiera_num_pools: int = 3
    hiera_pool: int = 2
    frame_stride: int = 2
    output_stage: int = 4
    pool_stride: int = 2
    num_frames: int = 64
    context_length: int = 32768
    max_tiles: int = 9
    grid_pinpoints_wh: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        for name in ("frame_stride", "pool_stride", "siglip_pool_stride", "num_frames"):
            if getattr(self, name) < 1:
                raise LayoutError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        if not 1 <= self.output_stage <= self.hiera_num_stages:
            raise LayoutError(
                f"output_stage must lie in 1..{self.hiera_num_stages}, "
                f"got {self.output_stage}"
            )
        if not self.grid_pinpoints_wh:
            pinpoints = default_pinpoints(self.siglip_image_size)
            object.__setattr__(self, "grid_pinpoints_wh", pinpoints)

    # ---------------------------------------------------------------- grids
    @property
    def has_hiera(self) -> bool:
        return self.hiera_image_size is not None

    @property
    def siglip_grid(self) -> int:
        """Side of SigLIP's token grid (27 at 384 pixels; the rest is cut off)."""
        return self.siglip_image_size // self.siglip_patch_size

    @property
    def siglip_pooled_grid(self) -> int:
        return -(-self.siglip_grid // self.siglip_pool_stride)

    @property
    def hiera_grid(self) -> int:
        """Side of Hiera's token grid at the chosen stage (32 at 1024 pixels)."""
        assert self.hiera_image_size is not None
        halvings = min(self.output_stage - 1, self.hiera_num_pools)
        return (
            self.hiera_image_size
            // self.hiera_patch_stride
            // self.hiera_pool**halvings
        )

    @property
    def hiera_pooled_grid(self) -> int:
        return -(-self.hiera_grid // self.pool_stride)

    # --------------------------------------------------------------- counts
    def num_hiera_frames(self, num_frames: int) -> int:
        """Frames 0, s, 2s, ... of ``num_frames``: ceil(num_frames / frame_stride)."""
        return -(-num_frames // self.frame_stride) if self.has_hiera else 0

    def siglip_video_tokens(self, num_frames: int) -> int:
        side = self.siglip_pooled_grid
        return num_frames * side * (side + 1)

    def hiera_video_tokens(self, num_frames: int) -> int:
        if not self.has_hiera:
            return 0
        side = self.hiera_pooled_grid
        return self.num_hiera_frames(num_frames) * side * (side + 1)

    def video_tokens(self, num_frames: int) -> int:
        return self.siglip_video_tokens(num_frames) + self.hiera_video_tokens(
            num_frames
        )

    def hiera_image_tokens(self) -> int:
        """An image's Hiera map is not pooled: 32 * 33 = 1,056 tokens."""
        return self.hiera_grid * (self.hiera_grid + 1) if self.has_hiera else 0

    def anyres_image_tokens(self, image_wh: tuple[int, int]) -> int:
        height, width = self.anyres(image_wh).final_hw
        siglip = self.siglip_grid**2 + height * (width + 1)
        return siglip + self.hiera_image_tokens()

    def padded_image_tokens(self) -> int:
        return self.siglip_grid**2 + 1 + self.hiera_image_tokens()

    def check_video(self, num_frames: int) -> None:
        """Raise LayoutError when a video's tokens alone pass the context length."""
        total = self.video_tokens(num_frames)
        if total > self.context_length:
            raise LayoutError(
                f"{num_frames} frames make {total:,} visual tokens "
                f"({self.siglip_video_tokens(num_frames):,} SigLIP + "
                f"{self.hiera_video_tokens(num_frames):,} Hiera), past the context "
                f"length of {self.context_length:,}: take fewer frames"
                + (", a larger pool_stride or a smaller N_hiera" * self.has_hiera)
            )

    # ---------------------------------------------------------- token ratio
    def with_token_ratio(
        self, num_hiera: int, stage: int, pool: int, num_frames: int | None = None
    ) -> "VisualLayout":
        """The layout for the papers' triplet (N_hiera, S_stage, s_pool).

        Raises:
          LayoutError: N_hiera does not divide the frame count, the stage does not
            exist, a number is not positive, or the total passes the context length.
        """
        frames = self.num_frames if num_frames is None else num_frames
        triplet = f"token ratio ({num_hiera}, {stage}, {pool})"
        if not self.has_hiera:
            raise LayoutError(f"{triplet}: this model has no Hiera stream")
        if num_hiera < 1 or frames % num_hiera:
            raise LayoutError(
                f"{triplet}: N_hiera = {num_hiera} does not divide {frames} frames"
            )
        try:
            changed = replace(
                self,
                frame_stride=frames // num_hiera,
                output_stage=stage,
                pool_stride=pool,
            )
            changed.check_video(frames)
        except LayoutError as error:
            raise LayoutError(f"{triplet}: {error}") from None
        return changed

    # --------------------------------------------------------------- anyres
    def anyres(self, image_wh: tuple[int, int]) -> AnyresPlan:
        """Tiling of one image (``anyres_max_9``): best canvas, unpad, downscale.

        Source: LLaVA's ``select_best_resolution``, ``unpad_image`` and the
        "times > 1.1" rule. An image smaller than one tile still has one tile.
        """
        width, height = image_wh
        resolution = _best_resolution(image_wh, self.grid_pinpoints_wh)
        across = resolution[0] // self.siglip_image_size
        down = resolution[1] // self.siglip_image_size
        rows, cols = down * self.siglip_grid, across * self.siglip_grid
        if width / height > cols / rows:  # padded above and below
            kept = int(height * (cols / width))
            pad = (rows - kept) // 2
            crop = (pad, 0, rows - 2 * pad, cols)
        else:
            kept = int(width * (rows / height))
            pad = (cols - kept) // 2
            crop = (0, pad, rows, cols - 2 * pad)
        _, _, h, w = crop
        times = math.sqrt(h * w / (self.max_tiles * self.siglip_grid**2))
        final = (int(h // times), int(w // times)) if times > 1.1 else (h, w)
        # An empty map is fine (base and Hiera tokens remain) where it need not shrink.
        if times > 1.1 and min(final) < 1:
            raise LayoutError(
                f"an image of {width}x{height} pixels is too elongated: its tile map "
                f"of {h}x{w} tokens shrinks to {final[0]}x{final[1]}"
            )
        return AnyresPlan(resolution, (across, down), crop, times, final)

    # ----------------------------------------------------------- index maps
    def bank(
        self,
        *,
        frames: int = 0,
        views: int = 0,
        hiera_frames: int = 0,
        hiera_images: int = 0,
        resampled: int = 0,
    ) -> BankOffsets:
        """Row offsets of a bank with that many slots of each kind."""
        sizes = [
            1,
            frames * self.siglip_pooled_grid**2,
            views * self.siglip_grid**2,
            hiera_frames * self.hiera_pooled_grid**2 if hiera_frames else 0,
            hiera_images * self.hiera_grid**2 if hiera_images else 0,
            resampled,
        ]
        return BankOffsets(*(int(n) for n in np.cumsum(sizes)))

    def video_rows(self, bank: BankOffsets, num_frames: int) -> np.ndarray:
        """Bank rows of a video, int32: all SigLIP frames, then all Hiera frames."""
        side = self.siglip_pooled_grid
        parts = [_grid_rows(bank.frames, num_frames * side, side)]
        if self.has_hiera:
            side = self.hiera_pooled_grid
            count = self.num_hiera_frames(num_frames)
            parts.append(_grid_rows(bank.hiera_frames, count * side, side))
        return np.concatenate(parts)

    def anyres_rows(
        self,
        bank: BankOffsets,
        image_wh: tuple[int, int],
        *,
        view: int,
        hiera_image: int,
        resampled: int,
    ) -> ImageIndex:
        """Bank rows of one anyres image whose slots begin at the given numbers.

        Order: base grid without newlines, the unpadded tile map with a newline after
        each row, the Hiera map with a newline after each row.
        """
        plan = self.anyres(image_wh)
        side, area = self.siglip_grid, self.siglip_grid**2
        first = bank.views + view * area
        base = np.arange(first, first + area)
        across, down = plan.tiles_wh
        tiles = first + area + np.arange(down * across * area)
        tiles = tiles.reshape(down, across, side, side).transpose(0, 2, 1, 3)
        top, left, height, width = plan.crop
        tiles = tiles.reshape(down * side, across * side)
        tiles = tiles[top : top + height, left : left + width]
        taps = np.zeros((0, 4), np.int32)
        weights = np.zeros((0, 4), np.float32)
        if plan.final_hw != (height, width):
            taps, weights = _blend(tiles, plan.final_hw)
            start = bank.resampled + resampled
            tiles = start + np.arange(len(taps)).reshape(plan.final_hw)
        parts = [base, _with_newlines(tiles), self._hiera_image_rows(bank, hiera_image)]
        return ImageIndex(np.concatenate(parts).astype(np.int32), taps, weights)

    def padded_rows(
        self, bank: BankOffsets, *, view: int, hiera_image: int
    ) -> np.ndarray:
        """Bank rows of one padded square image: its grid, one newline, then Hiera."""
        area = self.siglip_grid**2
        base = np.arange(area) + bank.views + view * area
        hiera = self._hiera_image_rows(bank, hiera_image)
        return np.concatenate([base, [NEWLINE_ROW], hiera]).astype(np.int32)

    def _hiera_image_rows(self, bank: BankOffsets, slot: int) -> np.ndarray:
        if not self.has_hiera:
            return np.zeros(0, np.int32)
        side = self.hiera_grid
        return _grid_rows(bank.hiera_images + slot * side**2, side, side)


def _with_newlines(grid: np.ndarray) -> np.ndarray:
    newline = np.full((grid.shape[0], 1), NEWLINE_ROW)
    return np.concatenate([grid, newline], axis=1).reshape(-1).astype(np.int32)


def _grid_rows(first: int, rows: int, cols: int) -> np.ndarray:
    return _with_newlines(first + np.arange(rows * cols).reshape(rows, cols))


def _blend(grid: np.ndarray, out: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Four taps and weights per cell of ``grid`` resized to ``out``."""
    y0, y1, wy = bilinear_taps(grid.shape[0], out[0])
    x0, x1, wx = bilinear_taps(grid.shape[1], out[1])
    corners = [grid[np.ix_(y, x)] for y in (y0, y1) for x in (x0, x1)]
    weights = [np.outer(a, b) for a in (1 - wy, wy) for b in (1 - wx, wx)]
    taps = np.stack(corners, -1).reshape(-1, 4).astype(np.int32)
    return taps, np.stack(weights, -1).reshape(-1, 4).astype(np.float32)


def _best_resolution(
    image_wh: tuple[int, int], candidates: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """The canvas that keeps most pixels, then wastes least; the first of equals."""
    width, height = image_wh
    best, most, least = candidates[0], 0, math.inf
    for across, down in candidates:
        scale = min(across / width, down / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        wasted = across * down - kept
        if kept > most or (kept == most and wasted < least):
            best, most, least = (across, down), kept, wasted
    return best
