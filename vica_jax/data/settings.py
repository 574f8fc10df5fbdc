"""What a training run is told about its data: sources, media, shapes."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vica_jax.errors import InputError


class SettingsError(InputError):
    """A data setting out of its range; the message says which."""


@dataclass(frozen=True, kw_only=True)
class ShapeBuckets:
    """The static sizes that programs are compiled for: few, so that few are compiled.

    A batch takes the smallest bucket that holds it. ``lengths`` are positions of the
    sequence, ``targets`` supervised positions of a row, ``views`` image tiles of a row,
    ``images`` images of a row, ``resampled`` rows of shrunk tile maps, ``raw_side`` the
    multiple that heights and widths of raw frames and images are rounded up to. Past
    the last bucket the last step is repeated.
    """

    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384, 24576, 32768)
    targets: tuple[int, ...] = (64, 256, 1024, 4096, 32768)
    views: tuple[int, ...] = (2, 5, 10, 20)
    images: tuple[int, ...] = (1, 2, 4, 8, 16)
    resampled: tuple[int, ...] = (8192, 16384)
    raw_side: int = 256

    def __post_init__(self):
        for name in ("lengths", "targets", "views", "images", "resampled"):
            values = getattr(self, name)
            if not values or values[0] < 1 or list(values) != sorted(set(values)):
                raise SettingsError(
                    f"shapes.{name}: take growing positive numbers, got {values}"
                )
        if self.raw_side < 1:
            raise SettingsError(f"shapes.raw_side: must be >= 1, got {self.raw_side}")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Sources and how their samples become examples.

    ``mixture`` is a YAML list of sources, one ``.json``/``.jsonl`` file, or
    ``{a,b}.json``. ``images`` is how a sample's single image is cut (several are always
    padded squares). ``max_bad_share`` is the share of unreadable samples past which a
    run stops. ``validation`` names a mixture of its own; ``validation_share`` holds
    that share of the training mixture out instead.
    """

    mixture: str
    exclude: str = ""  # regex: sources whose whole path matches are left out
    image_folder: str = ""
    video_folder: str = ""
    num_frames: int = 64
    fps: float | None = None  # None: num_frames uniformly, whatever the duration
    folder_fps: float = 2.0  # of frames in a folder, which carry no clock
    time_instruction: bool = True
    images: Literal["anyres", "padded"] = "anyres"
    group_by_length: bool = True
    max_bad_share: float = 0.02
    num_workers: int = 8
    hiera_cache: str = ""  # folder of cached Hiera features, see scripts.cache_features
    frame_cache: str = (
        ""  # folder where videos' pixels are kept between epochs and runs
    )
    frame_cache_gb: float = 50.0
    validation: str = ""
    validation_share: float = 0.0
    shapes: ShapeBuckets = field(default_factory=ShapeBuckets)

    def __post_init__(self):
        if not self.mixture:
            raise SettingsError(
                "mixture: name a YAML, .json or .jsonl file (--config.data.mixture=...)"
            )
        for name in ("fps", "folder_fps"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < math.inf:
                raise SettingsError(f"{name}: must be positive, got {rate}")
        for name in ("max_bad_share", "validation_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(
                    f"{name}: must lie in 0..1, got {getattr(self, name)}"
                )
        if not self.frame_cache_gb > 0:
            raise SettingsError(
                f"frame_cache_gb: must be positive, got {self.frame_cache_gb}"
            )
        if self.validation and self.validation_share:
            raise SettingsError("give validation or validation_share, not both")
        if self.num_workers < 0:
            raise SettingsError(f"num_workers: must be >= 0, got {self.num_workers}")

    def check_folders(self) -> None:
        """Raise SettingsError where a folder to read from is named and not there."""
        for name, made_by in (
            ("image_folder", ""),
            ("video_folder", ""),
            ("hiera_cache", " (python -m scripts.cache_features fills it)"),
        ):
            folder = getattr(self, name)
            if folder and not Path(folder).is_dir():
                raise SettingsError(
                    f"data.{name}: {folder} is no folder{made_by}: name one that is "
                    f"there (--config.data.{name}=DIR), or leave it empty"
                )
