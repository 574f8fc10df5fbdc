"""From scores of answers to the numbers of a table, by the published code's rules.

Where they differ: the official code merges the three relative directions only when the
easy one is there, and then fails without the others; VLM-3R's copy and Spatial-MLLM
take the mean of those present; VSTI-Bench merges nothing. Sums run in the order and
with the rounding of the original (pandas means, plain addition over types), so that
``%.3f`` of a result is the same text.
"""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from vica_jax.errors import InputError
from vica_jax.eval.question import TASKS, TYPES
from vica_jax.eval.scores import (
    ACCURACY,
    MRA,
    ScoreError,
    score_official,
    score_spatial_mllm,
)

Doc = Mapping[str, Any]
Pairs = Sequence[tuple[Doc, Any]]  # rows and answers; see scores.py on Any
Directions = Literal["official", "present", "separate"]

DIRECTION = "object_rel_direction"
SPATIAL_GROUPS = {"acc": "choice", "mra": "number", "all": "choice number"}
DIRECTIONS = tuple(f"{DIRECTION}_{level}" for level in ("easy", "medium", "hard"))


class IncompleteError(InputError, KeyError):
    """A set that the official code cannot aggregate (it fails with a KeyError)."""

    __str__ = InputError.__str__


def per_type_means(
    pairs: Pairs, score: Callable[[Doc, Any], float]
) -> dict[str, float]:
    """Mean score of each question type, in alphabetical order of the types."""
    rows = [(doc["question_type"], score(doc, text)) for doc, text in pairs]
    return {name: _mean(scores) for name, scores in _group(rows).items()}


def macro(
    per_type: Mapping[str, float], *, directions: Directions = "official"
) -> float:
    """The unweighted mean over tasks, in the scale of what it is given.

    Keys are question types, or ``object_rel_direction`` where the three are merged
    already. ``directions`` says how they are merged: ``official`` (all three, or none
    where easy is missing), ``present`` (the mean of those there), ``separate`` (not).

    Raises:
      IncompleteError: nothing is given, or official: easy without medium or hard.
      ScoreError: an unknown type.
    """
    merged = _merge(per_type, directions)
    return _total(merged.values()) / len(merged)


def official_table(per_type: Mapping[str, float]) -> dict[str, float | str]:
    """The official result of VSI-Bench from the mean score (0 to 1) of each type.

    In order: ``overall``, ``<task>_<metric>`` of the tasks that are there, all times
    100, then ``tabulated_keys`` and ``tabulated_results``. Directions that could not be
    merged count in overall and are not listed.

    Raises: as ``macro``.
    """
    merged = _merge(per_type, "official")
    table: dict[str, float | str] = {
        "overall": macro(per_type, directions="official") * 100.0
    }
    for task in TASKS["vsibench"]:
        if task in merged:
            number = task != DIRECTION and _kind(task) == "number"
            table[f"{task}_{MRA if number else ACCURACY}"] = merged[task] * 100.0
    values = [f"{value:.3f}" for value in table.values()]
    table["tabulated_keys"] = ", ".join(table)
    table["tabulated_results"] = ", ".join(values)
    return table


def aggregate_official(pairs: Pairs, *, strict: bool = True) -> dict[str, float | str]:
    """The official result of VSI-Bench, see ``official_table``.

    Raises: what ``score_official`` raises of an answer, in their order, then as
      ``macro``; of no pairs at all, IncompleteError.
    """
    return official_table(_official_means(pairs, "vsibench", strict))


def aggregate_vlm3r(pairs: Pairs, *, strict: bool = True) -> float:
    """VSI-Bench's overall times 100 as VLM-3R's copy has it.

    Raises: as ``aggregate_official``, but missing directions are no error.
    """
    means = _official_means(pairs, "vsibench", strict)
    return macro(means, directions="present") * 100.0


def aggregate_vstibench(pairs: Pairs, *, strict: bool = True) -> float:
    """VSTI-Bench's overall times 100: the mean over the types that are there.

    Raises: as ``aggregate_vlm3r``.
    """
    means = _official_means(pairs, "vstibench", strict)
    return macro(means, directions="separate") * 100.0


def aggregate_spatial_mllm(
    pairs: Pairs, *, merge_directions: bool = True
) -> dict[str, Any]:
    """Spatial-MLLM's metrics, fractions: per type, and micro and macro averages.

    ``{"per_question_type": {type: {"score", "count"}}, "acc": {"micro", "macro"},
    "mra": ..., "all": ...}``; acc is over choices, mra over numbers. The macro average
    counts the directions present as one type; with ``merge_directions`` False, as an
    older version of it did, each by itself. Without answers everything is 0.

    Raises: what ``score_spatial_mllm`` raises.
    """
    rows = [
        (doc["question_type"], score_spatial_mllm(doc, text).score)
        for doc, text in pairs
    ]
    by_type = _group(rows)
    means = {name: _mean(scores) for name, scores in by_type.items()}
    result: dict[str, Any] = {
        "per_question_type": {
            name: {"score": means[name], "count": len(scores)}
            for name, scores in by_type.items()
        }
    }
    for key, kinds in SPATIAL_GROUPS.items():
        wanted = [name for name in TYPES["vsibench"] if _kind(name) in kinds]
        parts = {name: mean for name, mean in means.items() if name in wanted}
        directions = [mean for name, mean in parts.items() if name in DIRECTIONS]
        if directions and merge_directions:
            others = [mean for name, mean in parts.items() if name not in DIRECTIONS]
            macro_parts = [_mean(directions), *others]
        else:
            macro_parts = list(parts.values())
        result[key] = {
            "micro": _mean([score for name, score in rows if name in wanted]),
            "macro": _mean(macro_parts),
        }
    return result


def _official_means(pairs: Pairs, benchmark: str, strict: bool) -> dict[str, float]:
    def score(doc: Doc, text: Any) -> float:
        return score_official(doc, text, benchmark=benchmark, strict=strict)[1]

    return per_type_means(pairs, score)


def _group(rows: Sequence[tuple[str, float]]) -> dict[str, list[float]]:
    """Scores of each type in their order; types by the alphabet, as pandas groups."""
    by_type: dict[str, list[float]] = {}
    for name, score in rows:
        by_type.setdefault(name, []).append(score)
    return dict(sorted(by_type.items()))


def _kind(question_type: str) -> str:
    return TYPES["vsibench"][question_type]


def _mean(values: Sequence[float]) -> float:
    """numpy's pairwise mean, which pandas has too; 0.0 of none."""
    return float(np.mean(values)) if values else 0.0


def _total(values: Any) -> float:
    """Plain addition: ``sum`` compensates for rounding from Python 3.12 on."""
    return functools.reduce(operator.add, values, 0.0)


def _merge(per_type: Mapping[str, float], directions: Directions) -> dict[str, float]:
    """Scores with the directions merged; the merged one comes last."""
    if not per_type:
        raise IncompleteError("no answers to aggregate: the set is empty")
    known = {*TYPES["vsibench"], *TYPES["vstibench"], *TYPES["scanqa"], DIRECTION}
    if strange := [name for name in per_type if name not in known]:
        raise ScoreError(f"unknown question type {strange[0]!r}")
    merged = dict(per_type)
    there = [name for name in DIRECTIONS if name in merged]
    if there and DIRECTION in merged:
        raise ScoreError(f"both {DIRECTION} and {there[0]} are given: leave one out")
    if directions == "separate" or not there:
        return merged
    if directions == "official":
        if DIRECTIONS[0] not in there:
            return merged
        if missing := [name for name in DIRECTIONS if name not in there]:
            raise IncompleteError(
                f"{missing[0]} is missing beside {DIRECTIONS[0]}: the official code "
                "cannot merge the directions"
            )
    merged[DIRECTION] = _total([merged.pop(name) for name in there]) / len(there)
    return merged
