"""Intervals of mean scores by resampling whole videos.

The questions of one video share its frames, its scene and often its mistakes, so they
are no independent draws: a resample takes as many videos as there are, with
replacement, and every question of each (a cluster bootstrap, 95% percentile intervals).
Looked at and left: ``scipy.stats.bootstrap`` knows no clusters, and its ``vectorized``
statistics would hold ``resamples x questions`` numbers.

Axes: ``N`` questions, ``G`` groups (question types), ``V`` videos, ``R`` resamples.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

RESAMPLES = 10_000
SEED = 0
LEVEL = 0.95
CHUNK = 1000  # resamples at a time: bounds the counts to CHUNK x V numbers
DIGITS = 10  # of a share; what the order of a sum changes lies below


def number(values: Sequence[str]) -> Int64[np.ndarray, " N"]:
    """Each value's place among the sorted different ones, int64 ``[N]``."""
    _, places = np.unique(np.array(values, dtype=object), return_inverse=True)
    return places.astype(np.int64)


def count_videos(
    num_videos: int, resamples: int, rng: np.random.Generator
) -> Float64[np.ndarray, "R V"]:
    """How often each resample draws each video, ``[R, V]``; every row adds up to V."""
    drawn = rng.integers(num_videos, size=(resamples, num_videos))
    drawn += num_videos * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * num_videos)
    return counts.reshape(resamples, num_videos).astype(np.float64)


def resample_means(
    scores: Float64[np.ndarray, " N"],
    groups: Int64[np.ndarray, " N"],
    videos: Int64[np.ndarray, " N"],
    *,
    num_groups: int,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Float64[np.ndarray, "R G"]:
    """The mean score of each group in each resample, ``[R, G]``.

    NaN where a resample drew no video that has a question of the group. The videos of a
    resample are the same for all groups, so that means over groups resample jointly.
    """
    num_videos = int(videos.max()) + 1 if len(videos) else 0
    cell = videos * num_groups + groups
    size = num_videos * num_groups
    total = np.bincount(cell, weights=scores, minlength=size)
    count = np.bincount(cell, minlength=size).astype(np.float64)
    total, count = (x.reshape(num_videos, num_groups) for x in (total, count))
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, num_groups))
    for start in range(0, resamples, CHUNK):
        rows = slice(start, min(start + CHUNK, resamples))
        drawn = count_videos(num_videos, rows.stop - start, rng)
        with np.errstate(invalid="ignore"):  # 0 / 0: the group is not in the resample
            means[rows] = (drawn @ total) / (drawn @ count)
    return means


def mean_of_groups(
    means: Float64[np.ndarray, "R G"], entries: Sequence[Sequence[int]]
) -> Float64[np.ndarray, " R"]:
    """The mean over entries of the mean over their groups, each resample, ``[R]``.

    What a resample lacks (NaN) is not in its mean; NaN where it lacks all.
    """
    columns = [_mean_there(means[:, list(groups)]) for groups in entries]
    return _mean_there(np.stack(columns, axis=1))


def _mean_there(x: np.ndarray) -> np.ndarray:
    there = ~np.isnan(x)
    with np.errstate(invalid="ignore"):
        return np.where(there, x, 0.0).sum(1) / there.sum(1)


def percentile_interval(
    samples: Float64[np.ndarray, " R"], level: float = LEVEL
) -> tuple[float, float] | None:
    """The percentile interval of resampled values; NaN stand aside, None if all are."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return None
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(samples, [tail, 100 - tail])
    return round(float(low), DIGITS), round(float(high), DIGITS)
