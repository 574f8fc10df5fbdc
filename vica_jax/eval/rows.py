"""Rows of a table of scores: question types, tasks, whole benchmarks, in percent."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vica_jax.eval import bootstrap
from vica_jax.eval.items import Item

DIRECTION = "object_rel_direction"
ECE_BINS = 10
COLUMNS = ("score", "answered_score", "lenient", "spatial_mllm", "exact")
Entries = Sequence[Sequence[str]]  # types that make one entry of a macro average
Interval = tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """Scores of a question type, a task or a whole benchmark, in percent.

    ``score`` counts unanswered questions as 0, ``answered_score`` leaves them out.
    ``interval`` is the 95% interval of ``score``, None where there is one video only.
    ``exact`` counts a missing exact answer as 0; ``confidence`` and ``ece``, shares,
    are over the ``confident`` answers that carry a confidence. None: no such number.
    """

    name: str
    metric: str
    types: tuple[str, ...]
    videos: int
    asked: int
    answered: int
    score: float
    interval: tuple[float, float] | None = None
    answered_score: float | None = None
    lenient: float | None = None
    spatial_mllm: float | None = None
    exact: float | None = None
    exact_answers: int = 0
    confidence: float | None = None
    ece: float | None = None
    confident: int = 0

    @property
    def unanswered(self) -> int:
        return self.asked - self.answered


# --------------------------------------------------------------------- types to tasks
def types_of(task: str, types: Iterable[str]) -> list[str]:
    """Those of ``types`` that a task is made of: its own, or all three directions."""
    merged = task == DIRECTION
    return [t for t in types if t == task or (merged and t.startswith(f"{task}_"))]


def macro_entries(types: Sequence[str]) -> list[list[str]]:
    """The entries whose plain mean is the official overall score.

    The directions are one entry (the mean of those asked) where easy ones are asked; if
    not, the official code leaves medium and hard as entries of their own.
    """
    directions = types_of(DIRECTION, types)
    if f"{DIRECTION}_easy" not in directions:
        return [[name] for name in types]
    return [*[[name] for name in types if name not in directions], directions]


# ------------------------------------------------------------------------------- rows
def pool_row(name: str, items: Sequence[Item], interval: Interval = None) -> Row:
    """Every column as the plain mean over questions."""
    with_exact = any(item.exact is not None for item in items)
    columns = {
        "score": mean(item.score for item in items),
        "answered_score": mean(item.score for item in items if item.answered),
        "lenient": mean(item.lenient for item in items),
        "spatial_mllm": mean(item.spatial_mllm for item in items),
        "exact": mean(item.exact or 0.0 for item in items) if with_exact else None,
    }
    columns = {key: x if x is None else 100 * x for key, x in columns.items()}
    return _row(name, items, interval, columns)


def average_row(
    name: str,
    items: Sequence[Item],
    types: Mapping[str, Row],
    entries: Entries,
    interval: Interval = None,
) -> Row:
    """Every column as the mean over entries of the mean over their types."""
    # Spatial-MLLM merges the directions whatever is asked.
    names = [name for entry in entries for name in entry]
    directions = types_of(DIRECTION, names)
    merged: Entries = [[name] for name in names if name not in directions]
    if directions:
        merged = [*merged, directions]
    columns = {}
    for column in COLUMNS:
        groups = merged if column == "spatial_mllm" else entries
        columns[column] = mean(
            mean(getattr(types[name], column) for name in group) for group in groups
        )
    return _row(name, items, interval, columns)


def _row(
    name: str, items: Sequence[Item], interval: Interval, columns: dict[str, Any]
) -> Row:
    metrics = sorted({item.metric for item in items})
    sure = [item for item in items if item.confidence is not None]
    videos = {item.question.video for item in items}
    return Row(
        name=name,
        metric=metrics[0] if len(metrics) == 1 else "mixed",
        types=tuple(dict.fromkeys(item.question.question_type for item in items)),
        videos=len(videos),
        asked=len(items),
        answered=sum(item.answered for item in items),
        interval=interval if len(videos) > 1 else None,
        exact_answers=sum(item.exact is not None for item in items),
        confidence=mean(item.confidence for item in sure),
        ece=calibration_error(
            [item.confidence or 0.0 for item in sure], [bool(i.hit) for i in sure]
        ),
        confident=len(sure),
        **columns,
    )


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there, in whatever order; None where none is."""
    there = [value for value in values if value is not None]
    return math.fsum(there) / len(there) if there else None


def calibration_error(
    confidences: Sequence[float], hits: Sequence[bool], bins: int = ECE_BINS
) -> float | None:
    """Expected calibration error: the mean gap between confidence and share of hits.

    Over bins of equal width, ``(k/bins, (k+1)/bins]`` with 0 in the first, weighted by
    their answers (Naeini et al. 2015; Guo et al. 2017). None without answers.
    """
    if not confidences:
        return None
    confidence = np.asarray(confidences, np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = confidence - np.asarray(hits, np.float64)
    gaps = np.bincount(place, weights=gaps, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


# -------------------------------------------------------------------------- intervals
class Resampler:
    """Intervals of means over questions and of averages over types, in percent.

    ``values`` are one number for each item, by default its score; with ``resamples`` 0
    every interval is None.
    """

    def __init__(
        self,
        items: Sequence[Item],
        values: Sequence[float] | None = None,
        *,
        resamples: int = bootstrap.RESAMPLES,
    ):
        if values is None:
            values = [item.score for item in items]
        names = [item.question.question_type for item in items]
        self.column = {name: place for place, name in enumerate(dict.fromkeys(names))}
        self.resamples = resamples
        self._values = np.array(values, np.float64)
        self._videos = bootstrap.number([item.question.video for item in items])
        types = np.array([self.column[name] for name in names], np.int64)
        self._means = self._draw(types, len(self.column)) if resamples else None

    def average(self, entries: Entries) -> Interval:
        """Of the mean over entries of the mean over their types."""
        if self._means is None:
            return None
        places = [[self.column[name] for name in names] for names in entries]
        samples = bootstrap.mean_of_groups(self._means, places)
        return bootstrap.percentile_interval(100 * samples)

    def pool(self) -> Interval:
        """Of the mean over all questions."""
        if not self.resamples:
            return None
        samples = self._draw(np.zeros(len(self._values), np.int64), 1)[:, 0]
        return bootstrap.percentile_interval(100 * samples)

    def _draw(self, groups: np.ndarray, num_groups: int) -> np.ndarray:
        return bootstrap.resample_means(
            self._values,
            groups,
            self._videos,
            num_groups=num_groups,
            resamples=self.resamples,
        )
