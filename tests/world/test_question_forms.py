"""The forms of questions: rows, records, phrasings, letters, numbers, scores."""

import re
from collections import Counter
from dataclasses import replace
from string import Formatter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loose_rooms import (
    ask,
    asked,
    asked_of,
    line_of,
    loose_room,
)

from vica_jax.eval import question_row
from vica_jax.eval.question import TYPES
from vica_jax.eval.scores import score_official
from vica_jax.world.asking import TASKS
from vica_jax.world.generate import make_scene
from vica_jax.world.phrasings import INSTRUCTION, PHRASINGS, VSI_WORDING
from vica_jax.world.question import LETTERS, format_number, letter_options
from vica_jax.world.scene import SceneError


# ------------------------------------------------------------------ forms and scores
def test_every_task_is_asked():
    counts = Counter(question.task for _, question in asked())
    assert set(counts) == set(TASKS) == set(PHRASINGS)
    assert set(VSI_WORDING) == set(TYPES["vsibench"])
    assert min(counts.values()) >= 30, counts


def test_every_answer_scores_one():
    generated = [q for n in range(8) for q in ask(make_scene(3, n), n)]
    assert len(generated) > 200
    for question in [*generated, *(q for _, q in asked())]:
        if not question.in_vsi_bench:
            continue
        row = question.vsi_row(7)
        for said in (question.answer, question.text_answer):
            assert score_official(row, said)[1] == 1.0, (row, said)
        for option in question.options or ():
            right = option == question.text_answer
            assert score_official(row, option)[1] == float(right)


def test_rows_are_read_as_the_benchmarks_are():
    for number, (scene, question) in enumerate(asked()):
        if question.in_vsi_bench:
            row = question.vsi_row(number)
            read_back = question_row.make_question("vsibench", str(number), row, "")
            assert read_back.id == str(number)
            assert row["scene_name"] == scene.name
            kind = TYPES["vsibench"][question.task]
            assert (row["options"] is None) == (kind == "number")


def test_triangle_has_no_row():
    _, question = asked_of("triangular")[0]
    with pytest.raises(SceneError, match=r"loose_\d+: VSI-Bench has no task triang"):
        question.vsi_row(0)


def test_records_have_two_turns():
    for scene, question in asked():
        record = question.record()
        assert record["video"] == f"test/{scene.name}.mp4"
        human, gpt = record["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        assert human["value"].startswith("<image>\n")
        assert human["value"].count("<image>") == 1
        assert gpt["value"] == question.text_answer
        if question.options is None:
            assert INSTRUCTION not in human["value"]
        else:
            assert gpt["value"] in question.options
            listed = "\n".join(["Options:", *question.options, INSTRUCTION])
            assert human["value"].endswith(listed)
        for category in question.objects:
            assert category.rstrip("f") in human["value"]  # bookshel-ves


def test_a_scene_may_name_its_video():
    scene = replace(line_of(0, 1, 2, 3, 4), video="films/one.mp4")
    assert {q.record()["video"] for q in ask(scene)} == {"films/one.mp4"}


def test_ten_phrasings_all_drawn():
    for task in TASKS:
        drawn = [question.phrasing for _, question in asked_of(task)]
        assert set(drawn) <= set(range(10))
        # There is one question on each room's size, so some may be missing.
        assert len(set(drawn)) >= (10 if len(drawn) > 100 else 8), task


def test_phrasings_can_be_changed():
    _, question = asked_of("object_abs")[0]
    turns = {question.human_turn(phrasing) for phrasing in range(10)}
    assert len(turns) == 10 and question.human_turn() in turns


def test_phrasings_differ_and_say_what_is_needed():
    def slots(text: str) -> set[str]:
        return {name for _, name, _, _ in Formatter().parse(text) if name}

    for task, phrasings in PHRASINGS.items():
        assert len(phrasings) == len(set(phrasings)) == 10
        wordings = [*phrasings, *filter(None, [VSI_WORDING.get(task)])]
        for text in wordings:
            assert text.isascii() and "  " not in text
            own = slots(text) - {"plural", "category"}
            assert own == slots(phrasings[0]) - {"plural", "category"}, text
        if task in ("object_abs_distance", "object_rel_distance"):
            assert all(
                "closest" in t or "nearest" in t or "short" in t for t in wordings
            )
    units = {
        "object_abs_distance": " meter",
        "object_size_estimation": "centimeter",
        "room_size_estimation": "square meter",
        "triangular_positional_relationship": "degrees",
    }
    for task, unit in units.items():
        assert all(unit in text for text in PHRASINGS[task]), task


def test_letters_are_near_uniform():
    counts: dict[int, Counter[str]] = {}
    for _, question in asked():
        if question.options:
            counts.setdefault(len(question.options), Counter())[question.answer] += 1
    assert set(counts) == {2, 3, 4}
    for many, letters in counts.items():
        total = sum(letters.values())
        assert total > 200 and set(letters) == set(LETTERS[:many])
        spread = 4 * np.sqrt(total * (1 / many) * (1 - 1 / many))  # four sigma
        assert all(abs(n - total / many) < spread for n in letters.values()), letters


def test_same_seed_same_questions():
    scene = loose_room(3)
    assert ask(scene, 5) == ask(scene, 5)
    assert ask(scene, 5) != ask(scene, 6)


def test_tasks_do_not_depend_on_each_other():
    scene = loose_room(3)
    without = [q for q in ask(scene, 5) if q.task != "obj_appearance_order"]
    assert ask(replace(scene, first_seen=None), 5) == without
    counted = {q.slots["category"] for q in ask(scene, 5) if "count" in q.task}
    assert counted


def test_at_most_so_many_of_a_task_and_none_twice():
    for most in (1, 4, 30):
        scene = loose_room(9)
        questions = ask(scene, per_task=most)
        assert max(Counter(q.task for q in questions).values()) <= most
        if most == 30:
            for task in TASKS:
                own = [q for q in questions if q.task == task]
                keys = {(q.objects, tuple(sorted(q.options or ()))) for q in own}
                assert len(keys) == len(own), task


# ------------------------------------------------------------------ numbers, options
@given(st.floats(0.06, 1e9), st.integers(1, 3))
def test_numbers_score_one(value: float, decimals: int):
    text = format_number(value, decimals)
    assert re.fullmatch(rf"\d+\.\d{{{decimals}}}", text)
    row = {"question_type": "object_abs_distance", "ground_truth": text}
    assert score_official(row, text)[1] == 1.0
    assert abs(float(text) - value) <= 0.5 * 10**-decimals + 1e-9 * value


@given(st.floats(0.51, 1e6))
def test_whole_numbers(value: float):
    assert re.fullmatch(r"[1-9]\d*", format_number(value, 0))


@pytest.mark.parametrize("value", [0.0, -0.0, -0.01, 0.04, -3.0, np.nan, np.inf])
def test_numbers_that_cannot_be_scored(value: float):
    with pytest.raises(SceneError, match="must be finite and above 0"):
        format_number(value, 1)


@given(
    st.lists(st.text("abc ,", min_size=1), min_size=2, max_size=6, unique=True),
    st.integers(0, 100),
)
def test_options_are_lettered(texts: list[str], seed: int):
    options, letter = letter_options(np.random.default_rng(seed), texts[0], texts[1:])
    assert [o[:3] for o in options] == [f"{c}. " for c in LETTERS[: len(texts)]]
    assert sorted(o[3:] for o in options) == sorted(texts)
    assert options[LETTERS.index(letter)] == f"{letter}. {texts[0]}"


def test_options_must_differ():
    with pytest.raises(ValueError, match="must differ"):
        letter_options(np.random.default_rng(0), "a", ["b", "a"])
