"""What is asked of scenes: answers against slow checks, and what is left out."""

import re
from dataclasses import replace

import numpy as np
import pytest
from loose_rooms import (
    ask,
    asked_of,
    line_of,
    loose_room,
    only,
    project_apart,
    read,
    right_option,
)

from vica_jax.world.ask_distance import lead
from vica_jax.world.scene import Box, Scene, SceneError, upright


# ------------------------------------------------------------------ what is not asked
def test_what_was_not_seen_is_not_named():
    scene = loose_room(4)
    assert scene.first_seen is not None
    unseen = scene.categories[0]
    seen = {c: t for c, t in scene.first_seen.items() if c != unseen}
    hidden = next(
        k for k, box in enumerate(scene.boxes) if box.category == scene.categories[1]
    )
    gone = {unseen, scene.categories[1]}
    every = ask(scene, per_task=100)
    assert gone <= {c for q in every for c in q.objects}
    left = ask(scene.with_first_seen(seen), per_task=100, hidden={hidden})
    assert left and not gone & {c for q in left for c in q.objects}


def test_no_order_without_a_film():
    assert "obj_appearance_order" in {q.task for q in ask(loose_room(4))}
    without = replace(loose_room(4), first_seen=None)
    assert "obj_appearance_order" not in {q.task for q in ask(without)}


def test_plurals_nobody_knows():
    boxes = [
        upright("gizmo", np.array([x, 0, 0.1]), np.full(3, 0.2), 0.0) for x in (0, 1)
    ]
    scene = replace(loose_room(4), boxes=(*loose_room(4).boxes, *boxes))
    scene = scene.with_first_seen({**(scene.first_seen or {}), "gizmo": 1.0})
    with pytest.raises(SceneError, match=r"scene loose_004: no count of 'gizmo'"):
        ask(scene)
    problems: list[str] = []
    questions = ask(scene, problems=problems, per_task=50)
    assert len(problems) == 1 and "loose_004" in problems[0]
    assert "\n" not in problems[0]
    counted = {q.objects[0] for q in questions if q.task == "object_counting"}
    assert counted and "gizmo" not in counted


def test_annotated_counts_go_before_boxes():
    scene = replace(line_of(0, 1, 2, 3, 4), counts={"chair": 4, "lamp": 1, "bed": 3})
    questions = ask(scene, per_task=50)
    counted = {q.objects[0]: q.answer for q in questions if q.task == "object_counting"}
    assert counted == {"chair": "4", "bed": "3"}
    # Three of the four chairs have no box, so nobody knows where the closest is.
    others = [q for q in questions if q.task != "object_counting"]
    assert others and not any("chair" in q.objects for q in others)


def test_a_scene_without_things_or_size():
    empty = Scene(name="empty", dataset="test", boxes=(), area=0.0)
    assert ask(empty) == []
    assert [q.task for q in ask(replace(empty, area=12.34))] == ["room_size_estimation"]


# ------------------------------------------------------------------- against slow ones
def test_counts():
    for scene, question in asked_of("object_counting"):
        (category,) = read(r"^How many (.+)\(s\) are in this room\?$", question)
        boxes = [box for box in scene.boxes if box.category == category]
        assert int(question.answer) == len(boxes) >= 2


def test_sizes():
    for scene, question in asked_of("object_size"):
        (category,) = read(r"height\) of the (.+), measured in cent", question)
        corners = only(scene, category).corners
        # Edges join corners whose numbers differ in one binary digit.
        edges = [corners[i] - corners[i ^ bit] for i in range(8) for bit in (1, 2, 4)]
        longest = 100 * max(np.sqrt((edge**2).sum()) for edge in edges)
        assert abs(int(question.answer) - longest) <= 0.5 + 1e-9


def test_room_sizes():
    rng = np.random.default_rng(0)
    for scene, question in asked_of("room_size")[:10]:
        assert scene.outline is not None
        high = scene.outline.max(0)
        points = rng.uniform(0, high, (20_000, 2))
        within = points < high
        if len(scene.outline) == 6:  # an L: the corner beyond the inner one is missing
            within = (points < scene.outline[3]).any(1)
        else:
            within = within.all(1)
        area = high.prod() * within.mean()
        assert float(question.answer) == pytest.approx(area, rel=0.05)


def test_distances():
    pairs = asked_of("object_abs")
    boxes = [
        [
            only(scene, c)
            for c in read(r"between the (.+) and the (.+) \(in meters\)\?$", q)
        ]
        for scene, q in pairs
    ]
    apart = project_apart([a for a, _ in boxes], [b for _, b in boxes])
    said = np.array([float(q.answer) for _, q in pairs])
    assert len(pairs) > 150
    np.testing.assert_allclose(said, apart, atol=0.05 + 2e-3)
    assert apart.min() >= 0.2 - 1e-6
    assert all(re.fullmatch(r"\d+\.\d", q.answer) for _, q in pairs)


def test_nearest_of_four():
    pairs = asked_of("object_rel_distance")
    assert len(pairs) > 150
    said, ones, others = [], [], []
    for number, (scene, question) in enumerate(pairs):
        listed, category = read(
            r"objects \((.+)\) is the closest to the (.+)\?", question
        )
        four = listed.split(", ")
        options = question.vsi_row(0)["options"]
        assert [o[3:] for o in options] == four and len(set(four)) == 4
        for other in four:
            for box in scene.of(other):
                said.append((number, other))
                ones.append(only(scene, category))
                others.append(box)
    metres: dict[int, dict[str, float]] = {}
    for (number, other), apart in zip(said, project_apart(ones, others), strict=True):
        own = metres.setdefault(number, {})
        own[other] = min(own.get(other, np.inf), float(apart))
    for number, (_, question) in enumerate(pairs):
        own = metres[number]
        first, second = sorted(own.values())[:2]
        assert right_option(question) == min(own, key=lambda c: own[c])
        assert second - first >= 0.15 - 2e-3
        assert second >= (1.15 - 0.01) * first
        assert first >= 0.15 - 1e-6


def test_near_ties_of_distance_are_left_out():
    assert lead([1.0, 1.2, 3, 4], 20.0)
    assert not lead([1.0, 1.14, 3, 4], 20.0)  # too little
    assert not lead([2.0, 2.25, 3, 4], 20.0)  # too little for so far
    assert not lead([0.1, 1.0, 3, 4], 20.0)  # they touch
    assert not lead([1.0, 1.2, 3, 4], 50.0)  # too little for a large room

    def nearest(scene: Scene) -> list[str]:
        questions = ask(scene, per_task=50)
        return [
            q.truth["nearest"]
            for q in questions
            if q.task == "object_rel_distance" and q.objects[0] == "chair"
        ]

    assert nearest(line_of(0, 1, 2, 3, 4)) == ["desk"]
    assert nearest(line_of(0, 1, -1.05, 3, 4)) == []


def test_touching_things_have_no_distance():
    questions = ask(line_of(0, 0.25, 1, 2, 3), per_task=50)
    pairs = [set(q.objects) for q in questions if q.task == "object_abs_distance"]
    assert {"chair", "desk"} not in pairs and len(pairs) == 9


def test_orders():
    pairs = asked_of("obj_appearance")
    assert len(pairs) > 60
    for scene, question in pairs:
        (listed,) = read(r"in the video: (.+)\?$", question)
        assert scene.first_seen is not None
        agreeing = []
        for option in question.options or ():
            names = option[3:].split(", ")
            assert sorted(names) == sorted(listed.split(", ")) and len(set(names)) == 4
            seconds = [scene.first_seen[name] for name in names]
            if all(seconds[i] < seconds[j] for i in range(4) for j in range(i + 1, 4)):
                agreeing.append(option[0])
                assert np.diff(seconds).min() >= 0.6 - 1e-9
        assert agreeing == [question.answer]
        assert len(set(question.options or ())) == 4


def test_near_ties_of_order_are_left_out():
    scene = line_of(0, 1, 2, 3, 4)
    apart = {"chair": 0.0, "desk": 0.6, "lamp": 1.2, "plant": 1.8, "tv": 2.3}
    questions = ask(scene.with_first_seen(apart), per_task=50)
    fours = [set(q.objects) for q in questions if q.task == "obj_appearance_order"]
    assert {"chair", "desk", "lamp", "plant"} in fours and len(fours) == 2
    assert not any({"plant", "tv"} <= four for four in fours)


def test_triangles():
    pairs = asked_of("triangular")
    for scene, question in pairs:
        found = re.fullmatch(r"Sides: (.+)\. Angles: (.+)\.", question.text_answer)
        assert found
        sides, angles = (
            [float(n) for n in each.split(", ")] for each in found.groups()
        )
        a, b, c = (only(scene, name).centre for name in question.objects)
        lengths = [
            float(np.sqrt(((p - q) ** 2).sum())) for p, q in ((a, b), (b, c), (c, a))
        ]
        np.testing.assert_allclose(sides, lengths, atol=0.05 + 1e-9)
        assert min(lengths) >= 0.5 and min(angles) >= 10
        ab, bc, ca = lengths  # by the law of cosines
        cosines = [
            (ab**2 + ca**2 - bc**2) / (2 * ab * ca),
            (ab**2 + bc**2 - ca**2) / (2 * ab * bc),
            (bc**2 + ca**2 - ab**2) / (2 * bc * ca),
        ]
        np.testing.assert_allclose(
            angles, np.degrees(np.arccos(cosines)), atol=0.5 + 1e-6
        )


def test_categories_with_one_plural_are_not_counted():
    def things(name: str, count: int) -> list[Box]:
        place = np.array([0, 0, 0.1])
        return [upright(name, place, np.full(3, 0.2), 0.0) for _ in range(count)]

    boxes = things("glass", 2) + things("glasses", 3) + things("lamp", 2)
    scene = Scene(name="bar", dataset="test", boxes=tuple(boxes), area=20.0)
    problems: list[str] = []
    questions = ask(scene, problems=problems)
    counting = [q.objects for q in questions if q.task == "object_counting"]
    assert counting == [("lamp",)]
    (line,) = problems
    assert line.startswith("scene bar: no count of 'glass' or 'glasses'")
