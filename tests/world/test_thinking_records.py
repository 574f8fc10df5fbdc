"""Thinking records: every step is read back, and the answer found where it must be."""

import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from told_truths import closed, gap, longest, same, sentences, the, turn

from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.eval.scores import score_official
from vica_jax.eval.thinking import canonical_answer, final_segment
from vica_jax.world.asking import ask_all
from vica_jax.world.generate import make_scene
from vica_jax.world.phrasings import VSI_WORDING
from vica_jax.world.question import Question
from vica_jax.world.room import Room
from vica_jax.world.scene import Scene, SceneError
from vica_jax.world.thinking import STEPS, think, think_of_room

ROOMS = 12


def filmed(number: int) -> Scene:
    scene = make_scene(13, number)
    order = np.random.default_rng(number).permutation(len(scene.categories))
    seen = {c: 0.7 * float(k) for c, k in zip(scene.categories, order, strict=True)}
    return scene.with_first_seen(seen)


@pytest.fixture(scope="module")
def asked() -> list[tuple[Room, list[Question]]]:
    scenes = [filmed(number) for number in range(ROOMS)]
    return [(Room(s), ask_all(s, np.random.default_rng(2))) for s in scenes]


@pytest.fixture(scope="module")
def thoughts(asked) -> list[tuple[Scene, Question, str]]:
    found = []
    for room, questions in asked:
        for number, question in enumerate(questions):
            text = think(room, question, np.random.default_rng(number))
            if text is not None:
                found.append((room.scene, question, text))
    return found


def segments(text: str) -> tuple[str, str, str]:
    found = re.fullmatch(
        r"<\|im_start\|>think\n(.+)\n<\|im_start\|>response\n(.+)\n"
        r"<\|im_start\|>final\n\\\[ \\boxed\{\\text\{(.+)\}\} \\\]",
        text,
        re.DOTALL,
    )
    assert found, text
    return found[1], found[2], found[3]


def test_every_task_of_the_benchmark_is_thought_about(thoughts):
    assert set(STEPS) == set(VSI_WORDING)
    assert {question.task for _, question, _ in thoughts} == set(VSI_WORDING)


def test_the_answer_is_found_and_right(thoughts):
    for _, question, text in thoughts:
        _, response, final = segments(text)
        assert final == question.text_answer == final_segment(text)
        row = question.vsi_row(0)
        answer = canonical_answer(row, text)
        assert answer is not None
        assert score_official(row, answer)[1] == 1.0, (question.task, final, answer)
        spoken = question.text_answer.partition(". ")[2] if question.options else final
        assert spoken in response


def test_the_tokenizer_keeps_the_segments(thoughts):
    """Their marks are special tokens inside the assistant's turn, and come back."""
    tokenizer = load_tokenizer("tests/goldens/tiny-vica2/checkpoint")
    for _, question, text in thoughts[::40]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        (mark,) = tokenizer.encode("<|im_start|>", add_special_tokens=False)
        assert ids.count(mark) == 3
        back = tokenizer.decode(ids, skip_special_tokens=False)
        assert final_segment(back) == question.text_answer


# ------------------------------------------------------------------- steps, one by one
N, W = r"(\d+(?:\.\d+)?)", r"([a-z][a-z ]*?)"


def check_number(scene: Scene, question: Question, steps: list[str]) -> None:
    text = " ".join(steps)
    if question.task == "object_counting":
        (category,) = question.objects
        boxes = list(scene.of(category))
        places = re.findall(
            rf"(?:One {category}|Another|A \w+th|A third) is "
            rf"(?:{N} meters from|right by) the {W}\.",
            text,
        )
        assert steps[-1] == f"That makes {len(boxes)}."
        assert len(places) in (0, len(boxes))
        for box, (metres, name) in zip(boxes, places, strict=False):
            away = gap(box, the(scene, name))
            assert same(metres, away) if metres else away < 0.05
        if not places:
            listed = ", ".join(str(k + 1) for k in range(len(boxes)))
            assert steps[-2] == f"They are {listed}."
    elif question.task == "object_abs_distance":
        a, b = (the(scene, name) for name in question.objects)
        found = re.search(
            rf"center of the {W} to the center of the {W} it is {N} meters\. "
            rf"Their closest points are nearer to each other: {N} meters apart\.",
            text,
        )
        assert found and set(found.groups()[:2]) == set(question.objects)
        assert same(found[3], math.dist(a.centre, b.centre))
        assert same(found[4], gap(a, b)) and found[4] == question.answer
        assert float(found[4]) < float(found[3])
    elif question.task == "object_size_estimation":
        sides = re.search(rf"measure {N}, {N} and {N} centimeters", text)
        assert sides
        size = sorted(the(scene, question.objects[0]).size)
        assert all(same(s, 100 * x) for s, x in zip(sides.groups(), size, strict=True))
        assert sides[3] == question.answer
        assert same(question.answer, 100 * longest(scene, question.objects[0]))
    else:
        assert steps[-1] == f"So the floor has {question.answer} square meters."
        assert scene.outline is not None
        if found := re.search(rf"sides are {N} and {N} meters", text):
            lengths = sorted((math.dist(a, b) for a, b in closed(scene.outline)))
            assert len(lengths) == 4
            assert same(found[1], lengths[-1]) and same(found[2], lengths[0])
            product = float(found[1]) * float(found[2])
            assert abs(product - float(question.answer)) < 0.15
        else:
            found = re.search(
                rf"has {N} corners\. It lies within a rectangle of {N} by {N} meters, "
                rf"which has {N} square meters\. Of that, {N} square meters are not",
                text,
            )
            assert found, text
            spans = sorted(np.ptp(scene.outline, axis=0))
            assert int(found[1]) == len(scene.outline) > 4
            assert same(found[2], spans[1]) and same(found[3], spans[0])
            assert same(found[4], spans[0] * spans[1])
            assert same(found[5], spans[0] * spans[1] - scene.area)


def check_choice(scene: Scene, question: Question, steps: list[str]) -> None:
    text = " ".join(steps)
    answer = question.text_answer.partition(". ")[2]
    if question.task == "object_rel_distance":
        category, *others = question.objects
        told = dict(
            (name, metres)
            for metres, name in re.findall(rf"{N} meters to the (\w+)", text)
        )
        assert set(told) == set(others)
        for name, metres in told.items():
            away = min(gap(the(scene, category), box) for box in scene.of(name))
            assert same(metres, away)
        nearest = min(told, key=lambda name: float(told[name]))
        assert nearest == answer
        assert steps[-1] == (
            f"The smallest of these distances is that to the {nearest}, "
            f"{told[nearest]} meters."
        )
    elif question.task == "obj_appearance_order":
        seen = scene.first_seen or {}
        told = dict(re.findall(rf"the (\w+) at {N} seconds", text))
        assert set(told) == set(question.objects)
        assert all(same(told[name], seen[name]) for name in told)
        order = ", ".join(sorted(told, key=lambda name: float(told[name])))
        assert steps[-1] == f"Sorted by time: {order}." and order == answer
    else:
        found = re.search(
            rf"turn {N} degrees to the (left|right) to face the {W}\.", text
        )
        assert found
        degrees = turn(scene, *question.objects)
        assert same(found[1], abs(degrees)) and found[3] == question.objects[2]
        assert (found[2] == "left") == (degrees > 0)
        limit = re.search(r"This is (less|more) than (90|135) degrees", steps[-1])
        assert limit
        assert (float(found[1]) > float(limit[2])) == (limit[1] == "more")
        assert all(
            part in steps[-1] for part in re.findall(r"front|back|left|right", answer)
        )


def check_route(scene: Scene, question: Question, steps: list[str]) -> None:
    """Walk it: heading and place as the steps change them."""
    start, face = question.objects[:2]
    assert steps[0] == f"I begin at the {start} and face the {face}."
    here = the(scene, start).centre[:2]
    way = the(scene, face).centre[:2] - here
    heading = math.degrees(math.atan2(way[1], way[0]))
    turns = []
    for number, step in enumerate(steps[1:], 1):
        if found := re.fullmatch(r"I go forward to the (\w+)\.", step):
            there = the(scene, found[1]).centre[:2]
            way = there - here
            wrong = math.degrees(math.atan2(way[1], way[0])) - heading
            assert abs((wrong + 180) % 360 - 180) < 1.1 * number, step
            heading += (wrong + 180) % 360 - 180
            here = there
            continue
        found = re.fullmatch(
            r"(?:To walk to the \w+|At the \w+, to get to the \w+,) I turn "
            r"(\d+) degrees to the (left|right): (Turn (?:Left|Right|Back))\.",
            step,
        )
        assert found, step
        degrees = float(found[1]) * (1 if found[2] == "left" else -1)
        heading += degrees
        name = "Turn Back" if abs(degrees) > 135 else f"Turn {found[2].title()}"
        assert found[3] == name
        turns.append(name)
    assert ", ".join(turns) == question.text_answer.partition(". ")[2]
    assert steps[-1].startswith("I go forward")


def test_every_step_is_true(thoughts):
    met = Counter()
    for scene, question, text in thoughts:
        steps = sentences(segments(text)[0])
        if question.task == "route_planning":
            check_route(scene, question, steps)
        elif question.options is None:
            check_number(scene, question, steps)
        else:
            check_choice(scene, question, steps)
        met[question.task] += 1
    assert min(met.values()) >= 5, met


def test_a_wrong_answer_is_never_thought_up(asked):
    """Steps that lead elsewhere are an error that names the scene, not a record."""
    refused = Counter()
    for room, questions in asked[:6]:
        for question in questions:
            if question.task not in STEPS:
                continue
            if question.options:
                letters = [option[0] for option in question.options]
                wrong = letters[letters.index(question.answer) - 1]
            else:
                wrong = str(float(question.answer) + 1)
            with pytest.raises(
                SceneError, match=f"scene {room.scene.name}: .*thinking"
            ):
                think(room, replace(question, answer=wrong), np.random.default_rng(0))
            refused[question.task] += 1
    assert set(refused) == set(STEPS)


def test_one_question_a_room_by_default(asked):
    tasks = Counter()
    for number, (room, questions) in enumerate(asked):
        rng = np.random.default_rng(number)
        ((question, text),) = think_of_room(room, questions, rng)
        tasks[question.task] += 1
        assert final_segment(text) == question.text_answer
        more = think_of_room(room, questions, np.random.default_rng(number), most=4)
        assert len({q.task for q, _ in more}) == len(more) == 4
        again = think_of_room(room, questions, np.random.default_rng(number), most=4)
        assert [t for _, t in more] == [t for _, t in again]
    assert len(tasks) > 4


def test_annotations_with_other_counts_and_no_walls(asked):
    """Real scans: a count that the boxes do not show is not gone through."""
    room, questions = next(
        pair for pair in asked if any(q.task == "object_counting" for q in pair[1])
    )
    question = next(q for q in questions if q.task == "object_counting")
    category = question.objects[0]
    more = replace(room.scene, counts={category: room.scene.count(category) + 1})
    changed = replace(question, answer=str(more.count(category)))
    assert think(Room(more), changed, np.random.default_rng(0)) is None
    scan = replace(room.scene, outline=None, doors=())
    question = next(q for q in questions if q.task == "room_size_estimation")
    text = think(Room(scan), question, np.random.default_rng(0))
    assert text is not None and "rectangle" not in text and "corner" not in text
