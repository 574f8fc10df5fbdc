"""Hiera's output on disk, so that a frozen Hiera runs once and not once an epoch.

One safetensors file per medium, bfloat16 ``[m,r,r,C]``: the map of the output stage,
not projected, for each frame that Hiera sees (``m`` = 1 for an image). A file's name is
the hash of all that the map depends on: the medium as the record names it, its size
and time of change, the numbers of the frames, Hiera's weights and configuration. So
nothing stale is ever read; a changed video is a miss.

Size: 1.8 MB an image and 59 MB a 64-frame video of ViCA2 (32 frames of 32 x 32 x 896),
whose raw 480 x 640 frames are 29 MB: the cache trades disk for Hiera's time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vica_jax.data.cache_files import (
    CacheFileError,
    file_of,
    identify,
    key_of,
    read_arrays,
    write_arrays,
)
from vica_jax.data.example import Example
from vica_jax.data.record import media_paths
from vica_jax.data.settings import DataSettings
from vica_jax.errors import InputError
from vica_jax.layout import VisualLayout

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
COMMAND = "run python -m scripts.cache_features"
_NAME = "hiera"


class FeatureError(InputError):
    """Features that are not in the cache, damaged there, or cannot be written."""


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """The files of one folder, for one Hiera.

    ``hiera_hash`` stands for Hiera's weights and for what of its configuration the
    layout does not say (resizing included).
    """

    folder: Path
    hiera_hash: str
    layout: VisualLayout

    def key(self, recorded: str, path: Path, indices: Sequence[int]) -> str:
        """The name of one medium's features.

        ``recorded`` is its path as in the record, ``path`` where it lies, ``indices``
        the numbers of the frames that Hiera sees (none for an image).

        Raises:
          FeatureError: the medium is gone.
        """
        layout = self.layout
        tower = {
            "image_size": layout.hiera_image_size,
            "patch_stride": layout.hiera_patch_stride,
            "num_stages": layout.hiera_num_stages,
            "num_pools": layout.hiera_num_pools,
            "pool": layout.hiera_pool,
            "output_stage": layout.output_stage,
        }
        try:
            file = identify(path)
        except OSError as error:
            raise FeatureError(
                f"{path}: cannot look at it ({error.strerror})"
            ) from None
        return key_of([recorded, file, list(indices), self.hiera_hash, tower])

    def path(self, key: str) -> Path:
        """Where the features lie."""
        return file_of(self.folder, key, ".safetensors")

    def write(self, key: str, features: np.ndarray) -> None:
        """Store bfloat16 ``[m,r,r,C]``, whole or not at all.

        Raises:
          FeatureError: another dtype or shape, or the file cannot be written.
        """
        self._check(features, None)
        path = self.path(key)
        try:
            write_arrays(path, {_NAME: features})
        except OSError as error:
            raise FeatureError(
                f"{path}: cannot write the features ({error.strerror or error}): free "
                "some space or name another folder"
            ) from None

    def read(self, key: str, num_frames: int) -> np.ndarray:
        """The stored bfloat16 ``[num_frames,r,r,C]``.

        Raises:
          FeatureError: not there, cut short, changed on disk, or of another shape.
        """
        path = self.path(key)
        if not path.is_file():
            raise FeatureError(f"not in the feature cache: {COMMAND}")
        try:
            features = read_arrays(path)[0][_NAME]
            self._check(features, num_frames)
        except (CacheFileError, KeyError, OSError, FeatureError) as error:
            reason = str(error).split("\n")[0]
            raise FeatureError(
                f"damaged in the feature cache ({path}: {reason}): remove that file "
                f"and {COMMAND}"
            ) from None
        return features

    def _check(self, features: np.ndarray, num_frames: int | None) -> None:
        side = self.layout.hiera_grid
        frames = len(features) if num_frames is None else num_frames
        if (
            features.dtype != BFLOAT16
            or features.ndim != 4
            or features.shape[:3] != (frames, side, side)
        ):
            raise FeatureError(
                f"features must be bfloat16 [{num_frames or 'm'}, {side}, {side}, C], "
                f"got {features.dtype} of shape {features.shape}"
            )


def open_cache(
    layout: VisualLayout, settings: DataSettings, hiera_hash: str
) -> FeatureCache:
    """The feature cache that the settings name.

    Raises:
      FeatureError: there is no Hiera to cache, or its weights are not named.
    """
    if not layout.has_hiera:
        raise FeatureError(
            "data.hiera_cache is set, but this model has no Hiera: leave it out"
        )
    if not hiera_hash:
        raise FeatureError("data.hiera_cache needs the hash of Hiera's weights")
    folder = Path(settings.hiera_cache)
    return FeatureCache(folder=folder, hiera_hash=hiera_hash, layout=layout)


def feature_keys(
    cache: FeatureCache,
    record: Mapping[str, Any],
    example: Example,
    settings: DataSettings,
) -> list[str]:
    """The keys of a record's media, in the order of the example that it became.

    Raises:
      FeatureError: a medium is gone. ValueError: a video without ``indices``.
    """
    root = settings.video_folder if record.get("video") else settings.image_folder
    keys = []
    for path, medium in zip(media_paths(record, settings), example.media, strict=True):
        if medium.kind == "video" and not medium.indices:
            raise ValueError("a video's features need the numbers of its frames")
        inside = root and path.is_relative_to(root)
        recorded = (path.relative_to(root) if inside else path).as_posix()
        seen = medium.indices[:: cache.layout.frame_stride]
        keys.append(cache.key(recorded, path, seen))
    return keys


def place_features(
    cache: FeatureCache, example: Example, keys: Sequence[str]
) -> Example:
    """The example with cached features in place of what Hiera would see.

    Raises:
      FeatureError: features of a medium are missing or damaged.
    """
    media = []
    for medium, key in zip(example.media, keys, strict=True):
        count = 1
        if medium.kind == "video":
            count = cache.layout.num_hiera_frames(len(medium.siglip))
        media.append(replace(medium, raw=None, hiera=cache.read(key, count)))
    return replace(example, media=media)
