"""Two runs question by question: pairs, signs, intervals, what else differs."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_run import (
    RECIPE,
    answer_line,
    answers_of,
    draw_benchmark,
    draw_lines,
    make_benchmark,
    make_question,
)

from vica_jax.eval import bootstrap
from vica_jax.eval.compare import (
    MISSING,
    CompareError,
    compare,
    recipe_differences,
    sign_test,
    to_json,
)
from vica_jax.eval.results import Results, summarise


def run(benchmark, lines, recipe=RECIPE) -> Results:
    return summarise(benchmark, answers_of(lines), recipe, resamples=0)


def draw_runs(seed: int, count: int = 60) -> tuple[Results, Results]:
    benchmark = draw_benchmark(seed, count=count)
    return (
        run(benchmark, draw_lines(benchmark, seed)),
        run(benchmark, draw_lines(benchmark, seed + 1)),
    )


# --------------------------------------------------------------------------- sign test
@pytest.mark.parametrize("trials", range(11))
def test_sign_test_counts_every_pattern(trials):
    """Over all patterns of signs: the share that is at least as uneven."""
    patterns = [sum(signs) for signs in itertools.product((0, 1), repeat=trials)]
    for wins in range(trials + 1):
        uneven = abs(wins - trials / 2)
        share = np.mean([abs(x - trials / 2) >= uneven for x in patterns])
        assert sign_test(wins, trials - wins) == pytest.approx(share, rel=1e-14)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_sign_test_at_the_size_of_a_benchmark(wins, losses):
    p = sign_test(wins, losses)
    assert p == sign_test(losses, wins) and 0 <= p <= 1
    n, fewer = wins + losses, min(wins, losses)
    terms = [
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        - n * math.log(2)
        for k in range(max(0, fewer - 400), fewer + 1)
    ]
    assert p == pytest.approx(min(1, 2 * math.fsum(map(math.exp, terms))), rel=1e-8)


# ------------------------------------------------------------------------- differences
@settings(max_examples=8)
@given(st.integers(0, 9999))
def test_differences_are_those_of_the_rows(seed):
    this, other = draw_runs(seed)
    found = compare(this, other, resamples=50)
    assert [row.name for row in found.rows] == [row.name for row in this.rows]
    for row, mine, theirs in zip(found.rows, this.rows, other.rows, strict=True):
        assert (row.this, row.other) == (mine.score, theirs.score)
        assert row.difference == mine.score - theirs.score
        assert (row.asked, row.videos) == (mine.asked, mine.videos)
        pairs = [
            (a.score, b.score)
            for a, b in zip(this.items, other.items, strict=True)
            if a.question.question_type in mine.types
        ]
        assert row.wins == sum(a > b for a, b in pairs)
        assert row.losses == sum(a < b for a, b in pairs)
        assert row.wins + row.losses + row.ties == row.asked
        assert row.p_value == sign_test(row.wins, row.losses)
    turned = compare(other, this, resamples=50)
    for row, back in zip(found.rows, turned.rows, strict=True):
        assert (row.wins, row.losses) == (back.losses, back.wins)
        low, high = row.interval
        assert back.interval == pytest.approx((-high, -low), abs=1e-8)


def test_intervals_resample_both_runs_together():
    """The interval of a difference is that of differences within each resample."""
    this, other = draw_runs(3)
    found = compare(this, other, resamples=500)
    names = [row.name for row in this.types]
    kinds = np.array([names.index(i.question.question_type) for i in this.items])
    videos = bootstrap.number([item.question.video for item in this.items])
    mine, theirs = (
        bootstrap.resample_means(
            np.array([item.score for item in side.items]),
            kinds,
            videos,
            num_groups=len(names),
            resamples=500,
        )
        for side in (this, other)
    )
    for place, name in enumerate(names):
        (row,) = [row for row in found.types if row.name == name]
        gaps = mine[:, place] - theirs[:, place]
        low, high = np.nanpercentile(100 * gaps, [2.5, 97.5])
        assert row.interval == pytest.approx((low, high), abs=1e-8)


def test_a_run_against_itself():
    this, _ = draw_runs(0)
    for row in compare(this, this).rows:
        assert (row.difference, row.wins, row.losses) == (0, 0, 0)
        assert row.interval == (0, 0) and row.p_value == 1


def test_a_real_difference_lies_outside_chance():
    questions = [
        make_question(n, "route_planning", "B", video=f"scannet/{n % 40}.mp4")
        for n in range(200)
    ]
    benchmark = make_benchmark(questions)
    right = run(benchmark, [answer_line(q, "B") for q in questions])
    some = run(
        benchmark, [answer_line(q, "BA"[n % 4 == 0]) for n, q in enumerate(questions)]
    )
    row = compare(right, some).overall
    assert (row.wins, row.losses, row.ties) == (50, 0, 150)
    assert row.difference == 25 and row.interval[0] > 0
    assert row.p_value == 2 / 2**50


# ----------------------------------------------------------- answered in one run alone
def test_what_one_run_alone_answered_is_0_in_the_other_and_said():
    questions = [make_question(n, video=f"scannet/{n}.mp4") for n in range(6)]
    benchmark = make_benchmark(questions)
    said = [answer_line(question, "4") for question in questions]
    missing = [answer_line(question, None) for question in questions]
    this = run(benchmark, [*said[:4], *missing[4:]])
    other = run(benchmark, [*missing[:3], said[3], said[4]])  # the last has no line
    row = compare(this, other).overall
    assert row.one_sided == (3, 1)
    assert (row.wins, row.losses, row.ties) == (3, 1, 2)
    assert row.difference == pytest.approx(100 * (4 - 2) / 6)


def test_questions_of_one_run_alone_are_counted_not_compared():
    questions = [make_question(n, video=f"scannet/{n}.mp4") for n in range(6)]
    said = [answer_line(question, "4") for question in questions]
    this = run(make_benchmark(questions[:5]), said[:5])
    other = run(make_benchmark(questions[1:]), said[1:])
    found = compare(this, other)
    assert (found.only_this, found.only_other) == (("0",), ("5",))
    assert found.questions == found.overall.asked == 4
    facts = to_json(found, ("a", "b"))
    assert [side["not_compared_first"] for side in facts["runs"]] == [["0"], ["5"]]


def test_json_lists_the_questions_whose_scores_differ():
    this, other = draw_runs(1)
    facts = to_json(compare(this, other, resamples=20), ("a", "b"))
    assert len(facts["items"]) == facts["micro"]["wins"] + facts["micro"]["losses"] > 0
    for item in facts["items"]:
        assert item["this"] != item["other"]
        (mine,) = [i for i in this.items if i.question.id == item["id"]]
        assert mine.score == item["this"]


# ------------------------------------------------------------------------------ refusal
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"subset": "debiased"},
            "this run is vsibench full, the other vsibench debiased",
        ),
        ({"name": "vstibench", "subset": None}, "the other vstibench: only runs"),
    ],
)
def test_other_benchmarks_are_refused(changes, words):
    this, _ = draw_runs(0)
    other = replace(this, benchmark=replace(this.benchmark, **changes))
    with pytest.raises(CompareError) as error:
        compare(this, other)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_other_questions_are_refused():
    one, two = make_question(1), make_question(2)
    changed = make_question(1, truth="5")
    runs = [
        run(make_benchmark([q]), [answer_line(q, "4")]) for q in (one, two, changed)
    ]
    with pytest.raises(CompareError, match="no question in common"):
        compare(runs[0], runs[1])
    with pytest.raises(CompareError, match="question '1' is not the same"):
        compare(runs[0], runs[2])


def test_another_order_and_file_of_the_same_questions_is_fine():
    this, _ = draw_runs(2)
    moved = replace(
        this.benchmark, questions=this.benchmark.questions[::-1], revision="f" * 64
    )
    other = run(moved, draw_lines(this.benchmark, 2))
    found = compare(this, other)
    assert found.overall.ties == 60 and not found.only_this


# ------------------------------------------------------------------------------ recipes
def test_recipes_differ_by_their_leaves():
    this = {"a": 1, "frames": {"kind": "fps", "fps": 1.0}, "list": [1], "same": None}
    other = {
        "same": None,
        "frames": {"kind": "uniform"},
        "a": "1",
        "list": [1, 2],
        "z": {},
    }
    assert recipe_differences(this, other) == [
        ("frames.kind", "fps", "uniform"),
        ("frames.fps", "1.0", MISSING),
        ("list", "[1]", "[1, 2]"),
        ("z", MISSING, "{}"),
    ]
    assert recipe_differences(this, this) == []
