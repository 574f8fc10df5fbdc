"""Sums of scores: against the official aggregation, and nothing averaged away."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_run import (
    LETTERS,
    RECIPE,
    answer_line,
    answers_of,
    draw_benchmark,
    draw_lines,
    make_benchmark,
    make_question,
)

from vica_jax.eval.aggregate import (
    aggregate_official,
    aggregate_spatial_mllm,
    aggregate_vstibench,
    macro,
    official_table,
)
from vica_jax.eval.answers import AnswersError
from vica_jax.eval.benchmarks import TYPES, Benchmark, Refused
from vica_jax.eval.items import NO_FINAL_ANSWER, NOT_RECORDED, plain_text
from vica_jax.eval.published import SHOWN, published_models, read_published
from vica_jax.eval.results import ResultsError, summarise, to_json
from vica_jax.eval.rows import Row, average_row, calibration_error, macro_entries
from vica_jax.eval.scanqa import score_scanqa

VSI_COUNTS = {
    "object_counting": 565,
    "object_abs_distance": 834,
    "object_size_estimation": 953,
    "room_size_estimation": 288,
    "object_rel_distance": 710,
    "object_rel_direction_easy": 217,
    "object_rel_direction_medium": 378,
    "object_rel_direction_hard": 373,
    "route_planning": 194,
    "obj_appearance_order": 618,
}


def summed(benchmark: Benchmark, lines, recipe=RECIPE, resamples: int = 0):
    return summarise(benchmark, answers_of(lines), recipe, resamples=resamples)


def pairs_of(benchmark: Benchmark, lines):
    return [
        (question.doc, line["prediction"] or "")
        for question, line in zip(benchmark.questions, lines, strict=True)
    ]


# -------------------------------------------------------------------------- published
MODELS = published_models("vsibench", "full")


@pytest.mark.parametrize("name", MODELS)
def test_published_averages_follow_from_published_tasks(name):
    model = MODELS[name]
    decimals = len(str(model.overall).partition(".")[2])
    rounding = 0.5 * 10**-decimals + 1e-9
    types = {
        kind: model.per_task["object_rel_direction" if "direction" in kind else kind]
        for kind in TYPES["vsibench"]
    }
    assert abs(macro(types) - model.overall) <= rounding
    assert abs(macro(model.per_task) - model.overall) <= rounding
    shares = {kind: score / 100 for kind, score in types.items()}
    assert abs(official_table(shares)["overall"] - model.overall) <= rounding
    rows = {
        kind: Row(
            name=kind, metric="", types=(kind,), videos=9, asked=9, answered=9, score=x
        )
        for kind, x in types.items()
    }
    row = average_row("overall", [], rows, macro_entries(list(rows)))
    assert abs(row.score - model.overall) <= rounding
    assert row.score == pytest.approx(macro(types), abs=1e-9)


def test_published_file_names_its_source_and_the_models_that_are_shown():
    assert "ViCA" in read_published()["source"]
    assert set(SHOWN) <= set(MODELS) and len(MODELS) == 14
    assert published_models("vsibench", "debiased") == {}
    assert published_models("vstibench", None) == {}
    assert published_models("vsibench", "full", ["scannet/a.mp4", "world/b.mp4"]) == {}
    assert published_models("vsibench", "full", ["scannet/a.mp4"]) == MODELS


def test_the_whole_benchmark_at_the_card_s_task_scores_gives_60_56():
    """5,130 questions answered so that each task has the score of ViCA-7B's card."""
    card = MODELS["ViCA-7B"].per_task
    questions, lines = [], []
    for kind, count in VSI_COUNTS.items():
        number = TYPES["vsibench"][kind] == "number"
        score = card["object_rel_direction" if "direction" in kind else kind] / 100
        # Ten steps of relative accuracy for a number, right or wrong for a choice.
        left = round(score * count * (10 if number else 1))
        for _ in range(count):
            step = min(10, left) if number else min(1, left)
            left -= step
            truth = "100" if number else "B"
            question = make_question(
                len(questions), kind, truth, video=f"scannet/{len(questions) % 288}.mp4"
            )
            # An error of 48% keeps the widest tolerance alone, and so on down to 3%.
            near = f"{100 + 53 - 5 * step}" if step else "900"
            questions.append(question)
            lines.append(answer_line(question, near if number else "AB"[step]))
    results = summed(make_benchmark(questions), lines, resamples=1000)
    for row in results.tasks:
        # Task scores have the steps of their number of questions.
        assert row.score == pytest.approx(card[row.name], abs=0.16), row.name
    assert results.overall.score == pytest.approx(60.56, abs=0.03)
    for name in ("object_rel_distance", "route_planning", "obj_appearance_order"):
        (row,) = [row for row in results.tasks if row.name == name]
        assert round(row.score, 2) == card[name]  # 415/710, 67/194, 425/618
    low, high = results.overall.interval
    assert low < results.overall.score < high and 1 < high - low < 5
    assert len(results.items) == results.overall.asked == 5130


# --------------------------------------------------------- against the official code
@given(seed=st.integers(0, 9999), count=st.integers(10, 80))
def test_scores_are_the_official_ones(seed, count):
    benchmark = draw_benchmark(seed, count=count)
    lines = draw_lines(benchmark, seed)
    results = summed(benchmark, lines)
    pairs = pairs_of(benchmark, lines)
    official = aggregate_official(pairs)
    assert results.overall.score == pytest.approx(official["overall"], abs=1e-9)
    tasks = {key: v for key, v in official.items() if isinstance(v, float)}
    for row in results.tasks:
        key = f"{row.name}_{row.metric}"
        assert row.score == pytest.approx(tasks.pop(key), abs=1e-9)
    assert list(tasks) == ["overall"]
    assert to_json(results)["official"] == pytest.approx(official)

    spatial = aggregate_spatial_mllm(pairs)
    for ours, theirs in (("choice", "acc"), ("number", "mra"), ("all", "all")):
        for way in ("macro", "micro"):
            assert results.groups[ours][f"spatial_mllm_{way}"] == pytest.approx(
                100 * spatial[theirs][way], abs=1e-6
            )
    assert results.overall.spatial_mllm == results.groups["all"]["spatial_mllm_macro"]
    assert results.overall.score == results.groups["all"]["macro"]
    assert results.micro.score == results.groups["all"]["micro"]


@given(seed=st.integers(0, 9999), count=st.integers(1, 40))
def test_vstibench_merges_nothing(seed, count):
    benchmark = draw_benchmark(seed, count=count, name="vstibench")
    lines = draw_lines(benchmark, seed)
    results = summed(benchmark, lines)
    overall = aggregate_vstibench(pairs_of(benchmark, lines))
    assert results.overall.score == pytest.approx(overall, abs=1e-9)
    assert len(results.tasks) == len(results.types) == min(count, 10)
    assert results.overall.spatial_mllm is None
    assert to_json(results)["official"] == {}


def test_scanqa_has_its_measures_and_no_other():
    benchmark = draw_benchmark(1, count=12, name="scanqa")
    lines = draw_lines(benchmark, 1, unanswered=0.3)
    results = summed(benchmark, lines)
    references = {q.id: q.doc["metadata"]["answers"] for q in benchmark.questions}
    texts = [(line["id"], line["prediction"] or "") for line in lines]
    scores = score_scanqa(references, texts)
    found = results.scanqa["all"]
    assert found["count"] == 12 and results.scanqa["answered"]["count"] < 12
    assert found["CIDEr"] == pytest.approx(100 * scores.cider)
    assert found["BLEU-4"] == pytest.approx(100 * scores.bleu[3])
    assert found["ROUGE-L"] == pytest.approx(100 * scores.rouge_l)
    assert found["EM"] == results.overall.score == pytest.approx(100 * scores.em)
    assert found["EM-R"] == results.overall.lenient
    assert "METEOR" not in found
    assert [row.name for row in results.rows] == ["scanqa"]
    assert {row.metric for row in results.rows} == {"EM"} and not results.groups
    assert results.overall.exact is results.overall.spatial_mllm is None


def test_scanqa_that_nobody_answered():
    benchmark = draw_benchmark(1, count=3, name="scanqa")
    lines = [answer_line(question, None) for question in benchmark.questions]
    results = summed(benchmark, lines)
    assert results.overall.score == 0 and results.overall.answered_score is None
    assert "answered" not in results.scanqa and results.scanqa["all"]["EM"] == 0


# --------------------------------------------------------------- what is not answered
@given(seed=st.integers(0, 9999), share=st.floats(0, 1))
def test_unanswered_questions_count_as_0_and_are_named(seed, share):
    benchmark = draw_benchmark(seed, count=40)
    lines = draw_lines(benchmark, seed, unanswered=share)
    results = summed(benchmark, lines[:35])  # five were never written
    lacking = [
        q.id
        for q, x in zip(benchmark.questions, lines, strict=True)
        if x["prediction"] is None or x in lines[35:]
    ]
    assert sum(reason.count for reason in results.unanswered) == len(lacking)
    assert sum(row.unanswered for row in results.tasks) == len(lacking)
    assert results.micro.asked == 40 == results.micro.answered + len(lacking)
    by_type = Counter()
    for reason in results.unanswered:
        assert set(reason.ids) <= set(lacking) and 0 < len(reason.ids) <= 5
        by_type.update(reason.types)
    assert by_type == {r.name: r.unanswered for r in results.types if r.unanswered}
    for row in results.types:
        mine = [i for i in results.items if i.question.question_type == row.name]
        assert row.score == pytest.approx(100 * np.mean([i.score for i in mine]))
        answered = [i.score for i in mine if i.answered]
        if answered:
            assert row.answered_score == pytest.approx(100 * np.mean(answered))
            assert row.answered_score >= row.score - 1e-9
        else:
            assert row.answered_score is None and row.score == 0
    assert all(i.score == i.lenient == 0 for i in results.items if not i.answered)


def test_reasons_of_many_videos_are_told_together():
    questions = [
        make_question(n, video=f"scannet/scene{n // 2:04d}_00.mp4") for n in range(12)
    ]
    lines = [answer_line(question, None) for question in questions[:10]]
    lines.append(answer_line(questions[10], None, problem="no frame\n decoded"))
    results = summed(make_benchmark(questions), lines)
    found = [(r.text, r.count, r.num_videos) for r in results.unanswered]
    assert found == [
        ("VIDEO: no such file", 10, 5),
        (NOT_RECORDED, 1, 1),
        ("no frame decoded", 1, 1),
    ]
    first = results.unanswered[0]
    assert first.ids == ("0", "1", "2", "3", "4")
    assert first.videos[0] == "scannet/scene0000_00.mp4" and len(first.videos) == 5


def test_refused_rows_are_listed_by_reason():
    refused = [
        Refused(id="7", row=3, question_type="odd", reason="unknown question type"),
        Refused(id=None, row=4, question_type=None, reason="missing: id"),
        Refused(id="9", row=5, question_type="odd", reason="unknown question type"),
    ]
    question = make_question(0)
    results = summed(
        make_benchmark([question], refused=refused), [answer_line(question, "4")]
    )
    assert [(r.text, r.count, r.ids) for r in results.refused] == [
        ("unknown question type", 2, ("7", "9")),
        ("missing: id", 1, ("row 4",)),
    ]
    assert results.refused[0].types == {"odd": 2}
    assert (
        results.overall.score == 100 and to_json(results)["benchmark"]["refused"] == 3
    )


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("/data/my-set/scannet/a b.mp4: no such file", "scannet/a b.mp4: no such file"),
        ("'/x/scannet/a b.mp4' (cut)\nafter", "'scannet/a b.mp4' (cut) after"),
        ("points /tmp/p/q.npz: no key", "points q.npz: no key"),
        ("see https://x.org/a/b and 1/2", "see https://x.org/a/b and 1/2"),
        ("scannet/a b.mp4", "scannet/a b.mp4"),
    ],
)
def test_folders_of_a_machine_are_taken_off(text, plain):
    assert plain_text(text, "scannet/a b.mp4") == plain


def test_cut_answers_and_remarks_are_counted():
    questions = [make_question(n) for n in range(3)]
    lines = [answer_line(question, "4") for question in questions]
    lines[1] |= {"finish": "length", "notes": ["/d/scannet/scene0000_00.mp4: 9 frames"]}
    results = summed(make_benchmark(questions), lines)
    assert [(r.count, r.ids) for r in results.cut] == [(1, ("1",))]
    assert [r.text for r in results.remarks] == ["VIDEO: 9 frames"]


# ------------------------------------------------------------------------ exact answers
def test_exact_answers_have_columns_of_their_own():
    questions = [make_question(n, "route_planning", "B") for n in range(4)]
    said = [("B", 0.9), ("B", 0.6), ("C", 0.8), ("b", 0.2)]
    lines = [
        answer_line(question, "(B)", exact={"answer": letter, "confidence": confidence})
        for question, (letter, confidence) in zip(questions, said, strict=True)
    ]
    row = summed(make_benchmark(questions), lines).overall
    assert (row.score, row.lenient, row.exact) == (0, 100, 75)
    assert row.confidence == pytest.approx(0.625)
    # 0.9, 0.6 and 0.2 are hits, 0.8 is not; each alone in its bin.
    assert row.ece == pytest.approx((0.1 + 0.4 + 0.8 + 0.8) / 4)
    lines[0]["exact"] = None
    lines[1]["exact"]["confidence"] = 1.5
    results = summed(make_benchmark(questions), lines)
    assert results.overall.exact == 50 and results.overall.exact_answers == 3
    assert results.overall.confident == 2
    assert ["without an exact answer" in results.notes[0], len(results.notes)] == [1, 2]
    assert "without a confidence" in results.notes[1] and results.notes[1][-1] == "1"


def test_a_number_hits_where_it_is_the_truth():
    question = make_question(0, "object_abs_distance", "4.0")
    exact = {"answer": "4", "confidence": 0.5}
    (item,) = summed(
        make_benchmark([question]), [answer_line(question, "4.1", exact=exact)]
    ).items
    assert item.hit and item.exact == 1 and item.score == 1
    exact["answer"] = "4.1"
    (item,) = summed(
        make_benchmark([question]), [answer_line(question, "4.1", exact=exact)]
    ).items
    assert not item.hit and item.exact == 1


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 12),
)
def test_calibration_error_is_that_of_a_slow_loop(pairs, bins):
    gap = 0.0
    for k in range(bins):
        inside = [
            (c, hit)
            for c, hit in pairs
            if (k < c * bins <= k + 1) or (k == 0 and c == 0)
        ]
        if inside:
            confidence = np.mean([c for c, _ in inside])
            accuracy = np.mean([hit for _, hit in inside])
            gap += len(inside) / len(pairs) * abs(confidence - accuracy)
    confidences, hits = zip(*pairs, strict=True)
    assert calibration_error(confidences, hits, bins) == pytest.approx(gap, abs=1e-12)
    assert calibration_error([], []) is None


# -------------------------------------------------------------------- oddities of a run
DIRECTIONS = [f"object_rel_direction_{name}" for name in ("easy", "medium", "hard")]


@pytest.mark.parametrize(
    ("types", "score", "words"),
    [
        (DIRECTIONS, 100 * (1 / 3 + 1) / 2, None),
        (DIRECTIONS[:2], 100 * (1 / 2 + 1) / 2, "easy, medium is asked: the official"),
        (DIRECTIONS[1:], 100 * (0 + 0 + 1) / 3, "medium, hard is asked: the official"),
    ],
)
def test_directions(types, score, words):
    """Easy ones are right, the others wrong; route planning is right."""
    questions = [
        make_question(n, name, "A") for n, name in enumerate([*types, "route_planning"])
    ]
    lines = [
        answer_line(q, "A" if q.question_type[-4:] in ("easy", "ning") else "B")
        for q in questions
    ]
    results = summed(make_benchmark(questions), lines)
    assert results.overall.score == pytest.approx(score)
    assert len(results.tasks) == 2 and results.tasks[0].types == tuple(types)
    assert [words in note for note in results.notes] == ([True] if words else [])
    official = to_json(results)["official"]
    complete = types != DIRECTIONS[:2]  # there the official code stops
    assert bool(official) == complete
    if complete:
        assert official["overall"] == pytest.approx(score)


def test_a_truth_of_0_is_scored_and_said():
    questions = [make_question(n, truth="0") for n in range(2)]
    lines = [answer_line(questions[0], "0"), answer_line(questions[1], "1")]
    results = summed(make_benchmark(questions), lines)
    assert results.overall.score == 50
    assert "2 questions with a truth of 0" in results.notes[0]


def test_thinking_texts_are_read_by_their_final_segment():
    questions = [make_question(n, "route_planning", "B") for n in range(2)]
    text = (
        "<|im_start|>think\nA\n<|im_start|>final\n\\[ \\boxed{\\text{B. thing b}} \\]"
    )
    lines = [answer_line(questions[0], text), answer_line(questions[1], "B")]
    benchmark = make_benchmark(questions)
    assert summed(benchmark, lines).overall.score == 50  # "B" itself
    results = summed(benchmark, lines, RECIPE | {"answers_from": "final_segment"})
    assert [item.prediction for item in results.items] == ["B", None]
    assert results.overall.score == 50 and results.overall.answered == 1
    assert results.unanswered[0].text == NO_FINAL_ANSWER


def test_one_video_has_no_interval():
    questions = [make_question(n) for n in range(5)]
    lines = [answer_line(question, "4") for question in questions]
    assert (
        summed(make_benchmark(questions), lines, resamples=50).overall.interval is None
    )
    questions = [make_question(n, video=f"scannet/{n}.mp4") for n in range(2)]
    lines = [answer_line(questions[0], "4"), answer_line(questions[1], "99")]
    results = summed(make_benchmark(questions), lines, resamples=200)
    assert results.overall.interval == (0, 100) and results.overall.videos == 2


# ----------------------------------------------------------------- the whole, bad input
def test_results_are_json_and_do_not_know_the_order_of_answers():
    benchmark = draw_benchmark(5, count=80)
    lines = draw_lines(benchmark, 5)
    texts = set()
    for order in (lines, lines[::-1], sorted(lines, key=lambda x: hash(x["id"]))):
        facts = to_json(summed(benchmark, order, resamples=300))
        texts.add(json.dumps(facts, allow_nan=False))
    assert len(texts) == 1
    facts = json.loads(texts.pop())
    assert [item["id"] for item in facts["items"]] == [
        q.id for q in benchmark.questions
    ]
    for row in [*facts["tasks"], facts["overall"], facts["micro"]]:
        low, high = row["interval"]
        assert 0 <= low <= row["score"] <= high <= 100


def test_answers_of_another_run():
    benchmark = draw_benchmark(count=3)
    lines = draw_lines(benchmark) + [
        answer_line(make_question(n), "4") for n in (100, 20, 3000, 4000)
    ]
    with pytest.raises(AnswersError) as error:
        summed(benchmark, lines)
    assert "4 of 7 answers are to questions" in str(error.value)
    assert "('20', '100', '3000'...)" in str(error.value)
    assert "answers of another run" in str(error.value)


def test_a_benchmark_without_a_question():
    refused = [Refused(id="1", row=0, question_type=None, reason="missing: question")]
    with pytest.raises(
        ResultsError, match=r"1 rows, all refused \(missing: question\)"
    ):
        summed(make_benchmark([], refused=refused), [])


def test_letters_are_those_of_the_tests():
    assert make_question(0, "route_planning", "A").letters == tuple(LETTERS)
