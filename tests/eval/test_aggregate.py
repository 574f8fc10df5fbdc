import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.errors import InputError
from vica_jax.eval.aggregate import (
    DIRECTIONS,
    IncompleteError,
    aggregate_official,
    aggregate_spatial_mllm,
    aggregate_vlm3r,
    aggregate_vstibench,
    macro,
    official_table,
    per_type_means,
)
from vica_jax.eval.question import TASKS, TYPES
from vica_jax.eval.scores import ScoreError

GOLDENS = Path(__file__).parents[1] / "goldens"
EASY, MEDIUM, HARD = DIRECTIONS
VICA = [68.81, 57.01, 79.17, 75.14, 58.45, 42.56, 34.54, 68.77]  # its model card


def pair(question_type: str, right: bool) -> tuple[dict, str]:
    doc = {"question_type": question_type, "ground_truth": "4", "mc_answer": "4"}
    return doc, "4" if right else "x"


def test_the_published_average_of_vica():
    per_task = dict(zip(TASKS["vsibench"], VICA, strict=True))
    assert round(macro(per_task), 2) == 60.56
    fractions = {task: score / 100 for task, score in per_task.items()}
    table = official_table(fractions)
    assert table["overall"] == pytest.approx(sum(VICA) / 8, abs=1e-12)
    assert list(table)[1:-2] == [
        f"{task}_{'MRA:.5:.95:.05' if place < 4 else 'accuracy'}"
        for place, task in enumerate(per_task)
    ]
    assert table["tabulated_results"] == (
        "60.556, 68.810, 57.010, 79.170, 75.140, 58.450, 42.560, 34.540, 68.770"
    )
    # The direction column from its three types.
    split = {task: score for task, score in per_task.items() if "direction" not in task}
    split |= {EASY: 50.0, MEDIUM: 40.0, HARD: 42.56 * 3 - 90.0}
    assert macro(split) == pytest.approx(macro(per_task), abs=1e-9)


def test_missing_directions():
    numbers = {"object_counting": 0.5}
    assert macro(numbers | {EASY: 1.0}, directions="present") == 0.75
    with pytest.raises(KeyError, match="medium is missing beside") as caught:
        macro(numbers | {EASY: 1.0})
    assert isinstance(caught.value, InputError)
    assert str(caught.value).startswith("object_rel_direction_medium is missing")
    # Without easy nothing is merged: medium and hard count in overall, unlisted.
    table = official_table(numbers | {MEDIUM: 1.0, HARD: 0.0})
    assert table["overall"] == 50.0
    assert table["tabulated_keys"] == "overall, object_counting_MRA:.5:.95:.05"
    both = numbers | {MEDIUM: 1.0, HARD: 0.0}
    assert macro(both, directions="present") == 0.5
    assert macro(both | {EASY: 0.8}, directions="separate") == pytest.approx(2.3 / 4)


def test_what_cannot_be_aggregated():
    for aggregate in (aggregate_official, aggregate_vlm3r, aggregate_vstibench):
        with pytest.raises(IncompleteError, match="the set is empty"):
            aggregate([])
    with pytest.raises(ScoreError, match="unknown question type 'x'"):
        macro({"x": 1.0})
    with pytest.raises(ScoreError, match="both object_rel_direction and"):
        macro({"object_rel_direction": 1.0, EASY: 1.0})
    zero = ({"question_type": "object_counting", "ground_truth": "0"}, "1")
    with pytest.raises(ZeroDivisionError):
        aggregate_official([zero])
    assert aggregate_official([zero], strict=False)["overall"] == 0.0
    silent = [(zero[0] | {"ground_truth": "4"}, None), pair("object_counting", True)]
    assert aggregate_vlm3r(silent, strict=False) == 50.0


def test_spatial_mllm_of_nothing():
    zero = {"micro": 0.0, "macro": 0.0}
    empty = {"per_question_type": {}, "acc": zero, "mra": zero, "all": zero}
    assert aggregate_spatial_mllm([]) == empty


def test_spatial_mllm_counts_directions_once_or_thrice():
    pairs = [pair(name, True) for name in DIRECTIONS[:2]]
    pairs += [pair("route_planning", False), pair("object_counting", False)]
    once = aggregate_spatial_mllm(pairs)
    assert once["acc"] == {"micro": pytest.approx(2 / 3), "macro": 0.5}
    assert once["all"] == {"micro": 0.5, "macro": pytest.approx(1 / 3)}
    assert once["mra"] == {"micro": 0.0, "macro": 0.0}
    thrice = aggregate_spatial_mllm(pairs, merge_directions=False)
    assert thrice["acc"]["macro"] == pytest.approx(2 / 3)
    assert thrice["all"] == {"micro": 0.5, "macro": 0.5}
    assert thrice["per_question_type"] == once["per_question_type"]


def test_vsti_bench_merges_nothing():
    types = list(TYPES["vstibench"])
    pairs = [pair(name, place < 4) for place, name in enumerate(types)]
    pairs += [pair(types[0], False)]
    assert aggregate_vstibench(pairs) == pytest.approx(35.0)


@given(st.lists(st.tuples(st.sampled_from(list(TYPES["vsibench"])), st.booleans())))
def test_order_does_not_matter_and_means_are_means(rows):
    pairs = [pair(name, right) for name, right in rows]
    means = per_type_means(pairs, lambda doc, text: float(text == "4"))
    for name, mean in means.items():
        mine = [right for other, right in rows if other == name]
        assert mean == pytest.approx(sum(mine) / len(mine))
    if pairs:
        shuffled = random.Random(0).sample(pairs, len(pairs))
        assert aggregate_vlm3r(shuffled) == pytest.approx(aggregate_vlm3r(pairs))
        assert macro(means, directions="separate") == pytest.approx(
            sum(means.values()) / len(means)
        )


def test_recorded_aggregates_to_the_last_bit():
    sets = json.loads((GOLDENS / "vsibench.json").read_text())["aggregates"]
    table = sets[0]["expected"]["official"]
    pairs = [(item["doc"], item["prediction"]) for item in sets[0]["items"]]
    assert aggregate_official(pairs) == table
    assert list(aggregate_official(pairs)) == list(table)
