"""Shared type names and the axis legend.

Axes, used in every shape comment, einsum and jaxtyping annotation:

    B batch    F frames       T query tokens   S key/value tokens
    N heads    K kv heads     G heads per kv   H head dim
    D width    M mlp width    V vocabulary     L layers
    P patches  C channels

``Batch`` is where ``data`` and ``models`` meet. Its keys decide the program (they are
static under jit); arrays are padded to static shapes:

    tokens           int32[B, T]        token ids, anything at visual positions
    visual_index     int32[B, T]        bank row of a visual position, -1 for text
    lengths          int32[B]           valid positions, the rest is right padding
    frames           uint8[B, F, S, S, 3]      SigLIP-sized video frames, pooled
    views            uint8[B, n, S, S, 3]      base images and tiles, not pooled
    hiera_frames     uint8[B, m, h, w, 3]      raw video frames, in a size bucket
    hiera_frame_sizes int32[B, 2]              their (height, width) in the bucket
    hiera_images     uint8[B, k, h, w, 3]      raw images, in a size bucket
    hiera_image_sizes int32[B, k, 2]
    resample_taps    int32[B, R, 4]            bank rows blended into resampled rows
    resample_weights float32[B, R, 4]
    hiera_frame_features bfloat16[B, m, r, r, C]  Hiera's map from a cache, in place of
    hiera_image_features bfloat16[B, k, r, r, C]  raw frames or images and their sizes
    target_positions int32[B, K]        position before a label, 0 where unused
    targets          int32[B, K]        that label, -1 where unused

The first three are always there; the last two in training only; the rest only when the
batch has such media.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

Params = Mapping[str, Any]
"""Nested dict of arrays: the parameter tree of docs/architecture.md."""


class Batch(TypedDict, total=False):
    """One padded batch; see the module docstring for shapes and dtypes."""

    tokens: Any
    visual_index: Any
    lengths: Any
    frames: Any
    views: Any
    hiera_frames: Any
    hiera_frame_sizes: Any
    hiera_images: Any
    hiera_image_sizes: Any
    resample_taps: Any
    resample_weights: Any
    hiera_frame_features: Any
    hiera_image_features: Any
    target_positions: Any
    targets: Any
