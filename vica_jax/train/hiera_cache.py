"""Filling the cache of Hiera's features (``data/features``), once for many runs.

A frozen Hiera gives the same map for the same frames in every epoch and every run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from vica_jax.checkpoint import read_manifest, restore
from vica_jax.data.example import Medium
from vica_jax.data.features import feature_keys, open_cache
from vica_jax.data.mixture import read_mixture
from vica_jax.data.pixels import bucket_size
from vica_jax.data.slots import read_example
from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.errors import InputError
from vica_jax.models.config import HieraConfig
from vica_jax.models.hiera import Hiera, hiera_pixels
from vica_jax.train.features import hiera_hash
from vica_jax.train.settings import TrainSettings
from vica_jax.train.stage import stage_config


@dataclass
class CacheReport:
    """Media by what happened to them; ``reasons`` name those that cannot be read."""

    written: int = 0
    there: int = 0
    text_only: int = 0
    reasons: list[str] | None = None

    @property
    def unreadable(self) -> int:
        return len(self.reasons or [])


def fill_cache(
    settings: TrainSettings,
    base: Path,
    *,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CacheReport:
    """Write the features of every medium of a stage's mixture that are not there yet.

    ``shard`` (i, n) takes every n-th record from the i-th on: n commands side by side,
    each on its device, fill one cache.

    Raises:
      InputError: no cache is set, there is no Hiera, Hiera is trained, or the cache
        cannot be written.
    """
    manifest = read_manifest(base)
    cfg = stage_config(settings, manifest.model_config)
    if not settings.data.hiera_cache:
        raise InputError("name the cache: --config.data.hiera_cache=FOLDER")
    name = "" if cfg.hiera is None else hiera_hash(base, cfg.hiera, settings.dtype)
    cache = open_cache(cfg.layout, settings.data, name)
    assert cfg.hiera is not None
    encode = make_encoder(base, cfg.hiera, cfg.layout.output_stage, settings)
    data = settings.data
    mixture = read_mixture(data.mixture, seed=settings.seed, exclude=data.exclude)
    tokenizer = load_tokenizer(manifest.tokenizer_folder)
    report = CacheReport(reasons=[])
    mine = range(shard[0], len(mixture), shard[1])
    for done, index in enumerate(mine):
        progress(done, len(mine))
        record = mixture[index]
        try:
            example = read_example(
                mixture,
                index,
                tokenizer=tokenizer,
                layout=cfg.layout,
                settings=replace(data, hiera_cache=""),
            )
            keys = feature_keys(cache, record.value, example, data)
        except InputError as error:
            assert report.reasons is not None
            report.reasons.append(f"{record.source} record {record.index}: {error}")
            continue
        report.text_only += not example.media
        for medium, key in zip(example.media, keys, strict=True):
            if cache.path(key).is_file():
                report.there += 1
            else:
                cache.write(key, encode(medium))
                report.written += 1
    progress(len(mine), len(mine))
    return report


def make_encoder(
    base: Path, hiera: HieraConfig, output_stage: int, settings: TrainSettings
) -> Callable[[Medium], np.ndarray]:
    """``encode(medium)`` -> bfloat16 ``[m,r,r,C]``, a chunk of frames at a time."""
    dtype = jnp.dtype(settings.dtype)
    model = Hiera(hiera, output_stage, dtype)
    paths = [path for path in read_manifest(base).leaves if path.startswith("hiera/")]
    params = restore(base, dtype=dtype, paths=paths)["hiera"]

    @jax.jit
    def run(params: Any, frames: jax.Array, sizes: jax.Array) -> jax.Array:
        pixels = hiera_pixels(frames, sizes, hiera)
        return model.apply({"params": params}, pixels)  # pyright: ignore

    def encode(medium: Medium) -> np.ndarray:
        assert medium.raw is not None
        parts = []
        for frames, sizes in _chunks(medium.raw, settings.frame_chunk):
            parts.append(np.asarray(run(params, frames, sizes)))
        whole = np.concatenate(parts)[: len(medium.raw)]
        return whole.astype(ml_dtypes.bfloat16)

    return encode


def _chunks(raw: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Raw frames in chunks of one static shape, the last filled up with its first."""
    count, height, width, _ = raw.shape
    size = min(size, count)
    bucket = np.zeros((size, *bucket_size(height, width), 3), np.uint8)
    sizes = np.full((size, 2), (height, width), np.int32)
    for start in range(0, count, size):
        part = raw[start : start + size]
        chunk = bucket.copy()
        chunk[:, :height, :width] = part[:1]
        chunk[: len(part), :height, :width] = part
        yield chunk, sizes
