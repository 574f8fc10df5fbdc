"""Scores of single answers, digit for digit those of the published scorers.

Two scorers are here: the official one of VSI-Bench (``thinking-in-space``; VSTI-Bench
uses it too) and that of Spatial-MLLM. Both are strange in places, and the strangeness
is kept: a leading space loses the answer, number words are not read, a negative truth
accepts any number. ``eval/lenient.py`` has a forgiving reader beside them.

Official, on one answer:

* ``first``: the text before the first space (U+0020 alone), trailing full stops off,
  then stripped, in this order.
* choice: it equals the truth, ignoring case: 1 or 0. VSTI-Bench compares with
  ``mc_answer``, VSI-Bench with ``ground_truth``.
* number: Python's ``float`` of it; mean relative accuracy in float64 over ten
  tolerances, inclusive; 0 where the prediction or the truth is no number.

A ``doc`` is the row as published. Answers are text; their annotations say ``Any``
because these functions also take what a recorded case holds instead, and then raise
what the published code raises.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vica_jax.errors import InputError
from vica_jax.eval.question import TYPES

Doc = Mapping[str, Any]

ACCURACY = "accuracy"
MRA = "MRA:.5:.95:.05"
EXACT_MATCH = "EM"

# 1 - theta for theta = linspace(.5, .95, 10), in float64: a relative error equal to one
# of them still counts, so their last bits decide cases such as 9 for a truth of 10.
TOLERANCES = tuple(
    float.fromhex(value)
    for value in (
        "0x1.0000000000000p-1",
        "0x1.cccccccccccccp-2",
        "0x1.999999999999ap-2",
        "0x1.6666666666666p-2",
        "0x1.3333333333334p-2",
        "0x1.0000000000000p-2",
        "0x1.9999999999998p-3",
        "0x1.3333333333334p-3",
        "0x1.99999999999a0p-4",
        "0x1.99999999999a0p-5",
    )
)

# The same of Spatial-MLLM: 1 - arange(.5, .975, .05) in float32.
SPATIAL_TOLERANCES = np.array(
    [
        0.5,
        0.44999998807907104,
        0.3999999761581421,
        0.3500000238418579,
        0.30000001192092896,
        0.25,
        0.19999998807907104,
        0.1499999761581421,
        0.10000002384185791,
        0.050000011920928955,
    ],
    np.float32,
)


class ScoreError(InputError):
    """A row that no scorer takes; the message says why."""


@dataclass(frozen=True, kw_only=True)
class SpatialScore:
    """One answer as Spatial-MLLM's evaluation sees it."""

    cleaned_prediction: str
    cleaned_gt: str
    score: float

    @property
    def correct(self) -> bool:
        return self.score == 1.0


def kind_of(doc: Doc, benchmark: str) -> str:
    """choice, number or text.

    Raises:
      KeyError: the row has no ``question_type`` (ScanQA rows need none).
      ScoreError: an unknown benchmark, or a question type that it does not have.
    """
    if benchmark not in TYPES:
        raise ScoreError(
            f"unknown benchmark {benchmark!r}: choose one of {', '.join(TYPES)}"
        )
    if benchmark == "scanqa":
        return "text"
    question_type = doc["question_type"]
    if not isinstance(question_type, str) or question_type not in TYPES[benchmark]:
        raise ScoreError(f"unknown question type {question_type!r} of {benchmark}")
    return TYPES[benchmark][question_type]


# ----------------------------------------------------------------------------- official
def first(prediction: Any) -> str:
    """What the official scorer reads of an answer (AttributeError if it is no text)."""
    return prediction.split(" ")[0].rstrip(".").strip()


def accuracy(prediction: Any, truth: Any) -> float:
    """1.0 where ``first(prediction)`` is the truth, ignoring case; else 0.0."""
    return 1.0 if first(prediction).lower() == truth.lower() else 0.0


def read_float(value: Any) -> float | None:
    """``float(value)``, or None where that fails."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def mra(prediction: float | None, truth: float | None) -> float:
    """Mean relative accuracy: the share of tolerances that the relative error keeps.

    The error is divided by the truth itself, not by its size, so it is never positive
    where the truth is negative, and the score is 1. None and nan score 0.

    Raises:
      ZeroDivisionError: the truth is 0 and the prediction is a number.
    """
    if prediction is None or truth is None:
        return 0.0
    error = abs(prediction - truth) / truth
    return sum(error <= tolerance for tolerance in TOLERANCES) / len(TOLERANCES)


def score_official(
    doc: Doc,
    prediction: Any,
    *,
    benchmark: str = "vsibench",
    strict: bool = True,
) -> tuple[str, float]:
    """Metric and score (0 to 1) of one answer by the official code.

    Strict, it raises what that code raises. Otherwise it scores what the code cannot:
    0 where there is no prediction, and where the truth is 0 it is 1 for a prediction of
    0 and 0 for any other. Wherever strict gives a score, both are the same.

    For ``scanqa`` it is EM: whether the prediction, as it is, stands among the answers.

    Raises:
      ScoreError: an unknown benchmark or question type.
      KeyError: the row lacks its type or its truth.
      AttributeError: the prediction (strict) or a choice's truth is not text.
      ZeroDivisionError: strict, a truth of 0.
    """
    kind = kind_of(doc, benchmark)
    metric = {"choice": ACCURACY, "number": MRA, "text": EXACT_MATCH}[kind]
    if prediction is None and not strict:
        return metric, 0.0
    if kind == "text":
        return metric, float(prediction in doc["metadata"]["answers"])
    said = first(prediction)  # its error comes before one of the truth
    if kind == "choice":
        truth = doc["mc_answer" if benchmark == "vstibench" else "ground_truth"]
        return metric, accuracy(prediction, truth)
    number, truth = read_float(said), read_float(doc["ground_truth"])
    if truth == 0 and number is not None and not strict:
        return metric, float(number == 0)
    return metric, mra(number, truth)


# ------------------------------------------------------------------------- Spatial-MLLM
def clean_text(text: Any) -> str:
    """What Spatial-MLLM's evaluation reads of an answer.

    The last ``<answer>...</answer>`` where there is one, else all of it; white space
    collapsed, stripped, trailing full stops off, lower case. A space before those stops
    stays.

    Raises:
      TypeError: not text.
    """
    tagged = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    cleaned = tagged[-1] if tagged else text
    return re.sub(r"\s+", " ", cleaned).strip().rstrip(".").lower()


def spatial_mra(prediction: float, truth: float) -> float:
    """Mean relative accuracy of Spatial-MLLM: float32, the error strictly smaller.

    The error is divided by ``|truth| + 1e-8``, so a truth of 0 raises nothing.
    """
    with np.errstate(all="ignore"):  # too large for float32 is inf, inf - inf is nan
        said, right = np.float32(prediction), np.float32(truth)
        error = np.abs(said - right) / (np.abs(right) + np.float32(1e-8))
    kept = np.count_nonzero(error < SPATIAL_TOLERANCES)
    return float(np.float32(kept) / np.float32(len(SPATIAL_TOLERANCES)))


def score_spatial_mllm(doc: Doc, prediction: Any) -> SpatialScore:
    """One VSI-Bench answer as Spatial-MLLM's evaluation scores it.

    A choice is right where both cleaned texts are equal (so "B. chair" is not "B"); a
    number is ``float`` of the whole text without its commas, 0 where that fails.

    Raises:
      TypeError: the prediction or the truth is not text.
      KeyError: the row has no ``question_type``.
      ScoreError: a question type that VSI-Bench does not have.
    """
    said, right = clean_text(prediction), clean_text(doc.get("ground_truth", ""))
    if kind_of(doc, "vsibench") == "choice":
        score = 1.0 if said.strip() == right.strip() else 0.0
    else:
        number = read_float(said.replace(",", ""))
        truth = read_float(right.replace(",", ""))
        score = 0.0
        if number is not None and truth is not None:
            score = spatial_mra(number, truth)
    return SpatialScore(cleaned_prediction=said, cleaned_gt=right, score=score)
