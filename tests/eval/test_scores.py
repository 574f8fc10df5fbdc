import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.eval.question import TYPES
from vica_jax.eval.scores import (
    ACCURACY,
    MRA,
    SPATIAL_TOLERANCES,
    TOLERANCES,
    ScoreError,
    accuracy,
    clean_text,
    first,
    mra,
    score_official,
    score_spatial_mllm,
    spatial_mra,
)

GOLDENS = Path(__file__).parents[1] / "goldens"
CHOICE = {"question_type": "route_planning", "ground_truth": "B"}


def number(truth, question_type: Any = "object_abs_distance"):
    return {"question_type": question_type, "ground_truth": truth}


# ---------------------------------------------------------------------------- official
@pytest.mark.parametrize(
    "said", ["b", "B.", "B..", "B chair", "B. chair", "B\n", "B\t"]
)
def test_choice_right(said: str):
    assert score_official(CHOICE, said) == (ACCURACY, 1.0)


UNREAD_CHOICES = "(B) B) B: B, chair **B** <answer>B</answer> B.chair A"


@pytest.mark.parametrize(
    "said", [" B", "B.\n", "", "B\nbecause", "The answer is B", *UNREAD_CHOICES.split()]
)
def test_choice_wrong(said: str):
    assert score_official(CHOICE, said) == (ACCURACY, 0.0)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("3.5 meters", 3.5),
        ("2 to 3", 2.0),
        ("4.", 4.0),
        ("+4", 4.0),
        (".5", 0.5),
        ("1e1", 10.0),
        ("1_000", 1000.0),
        ("\u0663", 3.0),
    ],
)
def test_numbers_that_are_read(said: str, read: float):
    assert score_official(number(read), said) == (MRA, 1.0)


UNREAD_NUMBERS = "two 1,200 3.5m ~2 2-3 $4 4% 1/2 approximately nan inf -inf"


@pytest.mark.parametrize(
    "said", ["", " 4", "4\nchairs", "The answer is 3", *UNREAD_NUMBERS.split()]
)
@pytest.mark.parametrize("truth", ["2", "4", 3.5, 1200])
def test_numbers_that_score_nothing(said: str, truth):
    assert score_official(number(truth), said) == (MRA, 0.0)


def test_tolerances_are_those_of_linspace():
    assert len(TOLERANCES) == 10
    np.testing.assert_array_equal(TOLERANCES, 1 - np.linspace(0.5, 0.95, 10))
    thetas = np.arange(0.5, 0.975, 0.05).astype(np.float32)
    np.testing.assert_array_equal(SPATIAL_TOLERANCES, np.float32(1) - thetas)


@pytest.mark.parametrize(
    ("said", "truth", "official", "spatial"),
    [
        # The error meets a tolerance: inclusive in float64, strict in float32.
        (1.85, 3.7, 0.1, 0.0),
        (12.0, 20.0, 0.3, 0.2),
        (13.75, 11.0, 0.6, 0.5),
        (0.6, 1.0, 0.3, 0.2),
        (1.2, 1.0, 0.7, 0.6),
        (3.24, 2.4, 0.3, 0.4),
        (4.5, 4.5, 1.0, 1.0),
    ],
)
def test_relative_accuracy_at_its_boundaries(said, truth, official, spatial):
    assert mra(said, truth) == official
    assert spatial_mra(said, truth) == pytest.approx(spatial, abs=1e-7)


@given(
    st.floats(0.01, 1e4, allow_nan=False),
    st.floats(-1e4, 1e4, allow_nan=False),
    st.floats(-1e4, 1e4, allow_nan=False),
)
def test_relative_accuracy_falls_with_the_error(truth: float, one: float, two: float):
    near, far = sorted((one, two), key=lambda said: abs(Fraction(said - truth)))
    assert mra(near, truth) >= mra(far, truth)
    assert mra(near, truth) in [count / 10 for count in range(11)]
    assert mra(truth, truth) == 1.0


def test_strange_truths():
    for said in ("0", "1", "nan"):
        with pytest.raises(ZeroDivisionError):
            score_official(number("0"), said)
    assert score_official(number("0"), "abc") == (MRA, 0.0)
    assert score_official(number("-2"), "5") == (MRA, 1.0)  # divided by -2
    assert score_official(number("-2"), "inf") == (MRA, 1.0)
    for truth in ("four", "1,200", None, "nan", "inf", [], 10**400):
        assert score_official(number(truth), "4") == (MRA, 0.0)


def test_safe_mode_scores_what_the_official_code_cannot():
    assert score_official(number("0"), "0.0", strict=False) == (MRA, 1.0)
    assert score_official(number("0"), "1", strict=False) == (MRA, 0.0)
    assert score_official(number("0"), "none", strict=False) == (MRA, 0.0)
    assert score_official(number("3"), None, strict=False) == (MRA, 0.0)
    assert score_official(CHOICE, None, strict=False) == (ACCURACY, 0.0)
    for doc in (CHOICE, number("3")):
        with pytest.raises(AttributeError):
            score_official(doc, None)


@given(
    st.sampled_from([*TYPES["vsibench"], "unheard_of"]),
    st.one_of(st.text("AB.01-e \n", max_size=5), st.floats(), st.none()),
    st.one_of(st.text("AB.01-e \n", max_size=5), st.floats().map(repr)),
)
def test_safe_mode_is_strict_mode_wherever_that_scores(question_type, truth, said):
    doc = {"question_type": question_type, "ground_truth": truth}
    try:
        strict = score_official(doc, said)
    except (ZeroDivisionError, AttributeError, ScoreError):
        return
    assert score_official(doc, said, strict=False) == strict


def test_rows_that_no_scorer_takes():
    with pytest.raises(ScoreError, match="unknown question type 'camera_displacement'"):
        score_official(number("1", "camera_displacement"), "1")
    with pytest.raises(ScoreError, match="unknown question type 3 of vsibench"):
        score_official(number("1", 3), "1", strict=False)
    with pytest.raises(ScoreError, match="unknown benchmark 'vsi'"):
        score_official(CHOICE, "B", benchmark="vsi")
    with pytest.raises(KeyError, match="question_type"):
        score_official({}, "B")
    with pytest.raises(KeyError, match="ground_truth"):
        score_official({"question_type": "route_planning"}, "B")
    with pytest.raises(AttributeError):
        score_official({**CHOICE, "ground_truth": 2}, "B")


def test_vsti_bench_compares_choices_with_their_letter():
    doc = {
        "question_type": "camera_movement_direction",
        "ground_truth": "Left",
        "mc_answer": "C",
        "options": ["A. Up", "B. Down", "C. Left"],
    }
    assert score_official(doc, "C. Left", benchmark="vstibench") == (ACCURACY, 1.0)
    assert score_official(doc, "Left", benchmark="vstibench") == (ACCURACY, 0.0)
    numeric = number(4.5, "camera_displacement") | {"mc_answer": "A"}
    assert score_official(numeric, "5.40", benchmark="vstibench") == (MRA, 0.6)
    with pytest.raises(KeyError, match="mc_answer"):
        score_official(
            {"question_type": "camera_movement_direction"}, "C", benchmark="vstibench"
        )


def test_scanqa_wants_the_answer_as_it_stands():
    doc = {"metadata": {"answers": ["brown", "on the left"]}}
    for said, score in (("brown", 1.0), ("brown.", 0.0), ("Brown", 0.0), ("left", 0.0)):
        assert score_official(doc, said, benchmark="scanqa") == ("EM", score)


@given(st.text(max_size=30))
def test_first_reads_no_space_and_no_last_full_stop(text: str):
    said = first(text)
    assert " " not in said and said == said.strip()
    assert accuracy(text, said) == 1.0


# ------------------------------------------------------------------------ Spatial-MLLM
@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("<answer>A</answer> x <answer>\n B. \r</answer>", "b"),
        ("<answer></answer>", ""),
        ("<Answer>B</Answer>", "<answer>b</answer>"),
        ("  Two\n\twords.. ", "two words"),
        ("B .", "b "),
        ("<answer>B", "<answer>b"),
    ],
)
def test_clean_text(text: str, cleaned: str):
    assert clean_text(text) == cleaned


@pytest.mark.parametrize(
    ("doc", "said", "score"),
    [
        (CHOICE, " B", 1.0),
        (CHOICE, "B.\n", 1.0),
        (CHOICE, "B .", 1.0),
        (CHOICE, "B. chair", 0.0),
        (number("1200"), "1,200", 1.0),
        (number("1,200"), "1200", 1.0),
        (number("3.5"), "3.5 meters", 0.0),
        (number("two"), "two", 0.0),
        (number("0"), "0", 1.0),
        (number("0"), "1", 0.0),
        (number("-2"), "5", 0.0),
        (number("1e39"), "1e39", 0.0),  # both are infinite in float32
        (number("3"), "nan", 0.0),
    ],
)
def test_spatial_scores(doc: dict, said: str, score: float):
    found = score_spatial_mllm(doc, said)
    assert found.score == score
    assert found.correct == (score == 1.0)


def test_spatial_errors():
    for doc, said in ((number(4), "4"), (CHOICE, None)):
        with pytest.raises(TypeError, match="expected string"):
            score_spatial_mllm(doc, said)
    with pytest.raises(ScoreError):
        score_spatial_mllm({"question_type": "camera_displacement"}, "4")


@given(st.floats(1e-3, 1e5), st.floats(-1e5, 1e5))
def test_spatial_accuracy_is_a_tenth_in_float32(truth: float, said: float):
    score = spatial_mra(said, truth)
    assert score == float(np.float32(round(score * 10)) / np.float32(10))
    assert abs(score - mra(said, truth)) <= 0.1 + 1e-6  # strict or not: one tolerance


# -------------------------------------------------------------------------- the record
def test_recorded_items():
    items = json.loads((GOLDENS / "vsibench.json").read_text())["items"]
    assert len(items) == 150
    for item in items:
        official = item["expected"]["official"]
        if "error" in official:
            with pytest.raises(ZeroDivisionError):
                score_official(
                    item["doc"], item["prediction"], benchmark=item["benchmark"]
                )
            continue
        metric, score = score_official(
            item["doc"], item["prediction"], benchmark=item["benchmark"]
        )
        assert metric == official["metric"], item["id"]
        assert math.isclose(score, official["score"], abs_tol=1e-9), item["id"]
