import math
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.pretrain.small_rooms import CFG, SETTINGS
from vica_jax.data.media import Video
from vica_jax.data.record import make_example
from vica_jax.data.settings import DataSettings
from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.data.video import VideoClip
from vica_jax.pretrain.rooms import (
    CATEGORIES,
    NAMES,
    PROFILES,
    RoomMaker,
    RoomShape,
    asked_as,
    film_room,
    row_targets,
    spread,
    training_texts,
)
from vica_jax.pretrain.targets import (
    CAPTION,
    FAR,
    LISTED,
    ROOM,
    SEEN_SHARE,
    THING,
    answer_facts,
    cell_targets,
    list_objects,
    mention_targets,
    option_facts,
    pair_targets,
    pose_targets,
)
from vica_jax.pretrain.texts import TEXT, caption_batch, told_rows
from vica_jax.pretrain.words import (
    TURN_END,
    name_ids,
    train_tokenizer,
    write_tokenizer,
)
from vica_jax.world.camera import Camera
from vica_jax.world.film import LEAST_SHARE
from vica_jax.world.interview import tell
from vica_jax.world.records import make_record
from vica_jax.world.render import Renderer
from vica_jax.world.room import Room
from vica_jax.world.scene import SceneError

SHAPE = RoomShape(
    layout=CFG.layout,
    width=SETTINGS.film_wh[0],
    height=SETTINGS.film_wh[1],
    groups=tuple((many, length) for many, _, length in SETTINGS.groups),
)


@pytest.fixture(scope="module")
def tokenizer():
    names = [spelling for spellings in NAMES for spelling in spellings]
    return train_tokenizer(training_texts(9, 12), names, 640)


@pytest.fixture(scope="module")
def renderer():
    return Renderer(Camera(width=SHAPE.width, height=SHAPE.height))


@pytest.fixture(scope="module")
def room(renderer):
    return film_room(renderer, 5, 3, 4)


def test_cells_show_what_the_ids_say(room):
    side = 2
    cells, places = cell_targets(room.scene, room.walk, room.ids, side, CATEGORIES)
    assert cells.shape == (4, side, side, len(CATEGORIES), 4)
    height, width = room.ids.shape[1:]
    seen = 0
    for frame, row, column, number in np.ndindex(cells.shape[:4]):
        part = room.ids[frame][
            row * height // side : (row + 1) * height // side,
            column * width // side : (column + 1) * width // side,
        ]
        own = [
            (int((part == k).sum()), -k)
            for k, box in enumerate(room.scene.boxes)
            if box.category == CATEGORIES[number]
        ]
        pixels, which = max(own, default=(0, 0))
        expected = pixels >= SEEN_SHARE * part.size and bool(own)
        assert cells[frame, row, column, number, 0] == expected
        if not expected:
            continue
        seen += 1
        box = room.scene.boxes[-which]
        gap = box.centre - room.walk.positions[frame]
        np.testing.assert_allclose(
            cells[frame, row, column, number, 1:],
            [gap[0] / FAR, gap[1] / FAR, box.size.max()],
            atol=1e-5,
        )
        np.testing.assert_allclose(
            places[frame, row, column, number, 1:], box.centre[:2] / FAR, atol=1e-6
        )
    assert seen > 5


def test_poses_say_where_the_camera_is(room):
    poses = pose_targets(room.scene, room.walk)
    np.testing.assert_allclose(poses[:, :2] * FAR, room.walk.positions[:, :2], 1e-5)
    np.testing.assert_allclose(np.hypot(poses[:, 2], poses[:, 3]), 1, 1e-5)
    sides = np.ptp(room.scene.outline, axis=0)
    np.testing.assert_allclose(poses[0, 4:] * FAR * 2, sides, 1e-5)


def test_mentions_hold_only_what_is_true_of_the_category(room):
    shares = {"chair": 0.25}
    targets = mention_targets(room.scene, shares, CATEGORIES)
    for number, category in enumerate(CATEGORIES):
        boxes = room.scene.of(category)
        assert targets[number, 0] == bool(boxes)
        assert targets[number, 1] == len(boxes)
        assert targets[number, 2] == (len(boxes) == 1)
        first = shares.get(category, 1.0) if boxes else 1.0
        assert targets[number, 6] == pytest.approx(first)
        if len(boxes) == 1:
            assert targets[number, 5] == pytest.approx(boxes[0].size.max(), 1e-5)


def test_first_seen_is_the_first_frame_with_enough_pixels(room):
    boxes = range(len(room.scene.boxes))
    pixels = np.array([[(ids == k).sum() for k in boxes] for ids in room.ids])
    for category, seconds in room.scene.first_seen.items():
        own = [k for k, b in enumerate(room.scene.boxes) if b.category == category]
        shown = pixels[:, own].max(1) >= LEAST_SHARE * 48 * 36
        taken = np.linspace(0, round(room.seconds * 10) - 1, 4).astype(int) / 10
        assert seconds == pytest.approx(taken[shown.argmax()])


def test_questions_fill_rows_with_answers_that_can_be_read(tokenizer, renderer, room):
    maker = RoomMaker(SHAPE, tokenizer, name_ids(tokenizer, NAMES))
    arrays = maker.make(5, 3)
    for name, value in maker.make(5, 3).items():
        np.testing.assert_array_equal(value, arrays[name])
    truths = {q.answer for q in room.questions}
    truths |= {q.text_answer for q in room.questions}
    filled = 0
    for k, (count, length) in enumerate(SHAPE.groups):
        tokens, answers = arrays[f"questions/{k}"], arrays[f"answers/{k}"]
        named = arrays[f"mentioned/{k}"]
        assert tokens.shape == answers.shape == named.shape == (count, length)
        for row in range(count):
            at = np.flatnonzero(answers[row] >= 0)
            if not len(at):
                continue
            filled += 1
            np.testing.assert_array_equal(answers[row, at], tokens[row, at + 1])
            text = tokenizer.decode(
                answers[row, at].tolist(), skip_special_tokens=False
            )
            assert text.endswith(TURN_END)
            assert text.removesuffix(TURN_END) in truths
            assert named[row].max() < len(CATEGORIES)
            assert (named[row, at[0] + 1 :] == -1).all()  # never in the answer
            for part in ("facts", "pairs", "rights"):
                known = np.isfinite(arrays[f"{part}/{k}"][row])
                assert not known[at[0] + 1 :].any()
    assert filled >= 3
    assert arrays["frames"].shape == (4, 56, 56, 3)
    np.testing.assert_array_equal(arrays["hiera_frames"], room.rgb[::2])


def test_every_task_has_its_turn_before_one_has_a_second(room):
    order = spread(room.questions, np.random.default_rng(0))
    assert sorted(map(id, order)) == sorted(map(id, room.questions))
    tasks = len({q.task for q in order})
    assert len({q.task for q in order[:tasks]}) == tasks


def test_benchmark_prompts_and_own_wordings_both_occur(room):
    rng = np.random.default_rng(0)
    texts = [asked_as(q, rng).text for q in room.questions * 5]
    of_benchmark = sum("These are frames of a video." in text for text in texts)
    assert 0.3 < of_benchmark / len(texts) < 0.9
    assert sum(PROFILES.values()) < 1 and not any("<image>" in text for text in texts)
    assert math.isfinite(of_benchmark)


def test_facts_are_what_answers_follow_from(renderer):
    kinds = set()
    for number in range(8):
        for question in film_room(renderer, 5, number, 4).questions:
            told = answer_facts(question)
            value, cosine, sine = told[0] if told else [None] * 3
            kinds.add((value is None, cosine is None))
            if value is not None:
                number = float(question.answer)
                if question.task == "object_size_estimation":
                    number /= 100
                assert math.exp(value) == pytest.approx(number, abs=0.051)
            elif question.task == "object_rel_direction_easy":
                assert question.text_answer.endswith("left" if sine > 0 else "right")
            elif question.task == "object_rel_direction_hard":
                assert ("front" in question.text_answer) == (cosine > 0)
            if question.task == "object_rel_distance":
                nearest = min(option_facts(question).items(), key=lambda x: x[1])[0]
                assert question.text_answer.endswith(f". {nearest}")
            else:
                assert not option_facts(question)
    assert kinds == {(True, True), (False, True), (True, False)}


def spell(text):
    """Characters as tokens: what each names, and where it ends."""
    named = [-1] * len(text)
    for number, spellings in enumerate(NAMES):
        for found in re.finditer(rf"\b({'|'.join(spellings)})\b", text):
            named[found.end() - 1] = number
    return named, list(range(1, len(text) + 1))


def test_each_option_is_judged_where_it_ends(room):
    judged = 0
    for question in room.questions:
        text = asked_as(question, np.random.default_rng(0)).text
        rights = row_targets(room.scene, question, text, *spell(text)).rights
        at = np.flatnonzero(np.isfinite(rights))
        for place, option in zip(at, question.options or (), strict=True):
            assert text[: place + 1].endswith(option)
            assert rights[place] == (option == question.text_answer)
            judged += 1
    assert judged > 50


def test_facts_stand_where_the_last_thing_is_named_and_at_the_end(renderer):
    room = film_room(renderer, 5, 1, 4)
    tasks = set()
    for question in room.questions:
        text = asked_as(question, np.random.default_rng(0)).text
        named, ends = spell(text)
        own = row_targets(room.scene, question, text, named, ends)
        told = answer_facts(question)
        told = np.array(told, np.float32).reshape(len(told), 3)
        first = min([len(text), *(text.index(o) for o in question.options or ())])
        at = np.flatnonzero(np.isfinite(own.facts).any(1))
        before = np.flatnonzero(np.array(named[:first]) >= 0).tolist()
        if question.task == "object_rel_distance":
            assert len(at) == len(question.options) and min(at) >= first
            anchor = room.scene.of(question.objects[0])[0]
            if question.objects[0] in option_facts(question):
                anchor = room.scene.of(question.objects[-1])[0]
            for place, option in zip(at, question.options, strict=True):
                boxes = room.scene.of(option[3:])
                if len(boxes) == 1:
                    gap = (boxes[0].centre - anchor.centre)[:2] / FAR
                    np.testing.assert_allclose(own.pairs[place], gap, atol=1e-6)
                else:
                    assert np.isnan(own.pairs[place]).all()
        elif len(told):
            assert at.tolist() == sorted({*before[-len(told) :], len(text) - 1})
            np.testing.assert_array_equal(own.facts[-1], told[0])
            for place, fact in zip(before[-len(told) :], told, strict=False):
                np.testing.assert_array_equal(own.facts[place], fact)
        if question.task == "route_planning":
            stops = question.truth["stops"][-len(told) :]
            assert [CATEGORIES[named[k]] for k in before[-len(told) :]] == stops
        tasks.add(question.task)
    assert {"object_rel_distance", "route_planning", "object_counting"} <= tasks


def test_a_list_has_every_thing_once_and_the_room(room):
    scene, C = room.scene, len(CATEGORIES)
    shares = {"chair": 0.25}
    rows = list_objects(scene, shares, CATEGORIES, np.random.default_rng(0))
    assert rows.shape == (LISTED, C + THING + ROOM)
    things = rows[rows[:, :C].any(1)]
    assert len(things) == len(scene.boxes) and (things[:, :C].sum(1) == 1).all()
    for row in things:
        name = CATEGORIES[int(row[:C].argmax())]
        (box,) = [
            box
            for box in scene.of(name)
            if np.allclose(box.centre / FAR, row[C : C + 3], atol=1e-6)
        ]
        np.testing.assert_allclose(row[C + 3 : C + 6], box.size, atol=1e-6)
        along = complex(*box.axes[0, :2])
        assert complex(*row[C + 6 : C + 8]) == pytest.approx(along**2, abs=1e-6)
        assert row[C + 8] == np.float32(shares.get(name, 1.0))
        assert not row[C + THING :].any()
    assert not rows[-1, : C + THING].any() and rows[-1, C + THING] == 1
    assert rows[-1, -1] * FAR**2 == pytest.approx(scene.area, rel=1e-5)
    other = list_objects(scene, shares, CATEGORIES, np.random.default_rng(1))
    assert not np.array_equal(rows, other)
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(other, axis=0))


def test_pairs_lead_from_thing_to_thing(room):
    alone = [k for k, name in enumerate(CATEGORIES) if len(room.scene.of(name)) == 1]
    many = [k for k, name in enumerate(CATEGORIES) if len(room.scene.of(name)) != 1]
    centre = {k: room.scene.of(CATEGORIES[k])[0].centre[:2] for k in alone}
    a, b, c = alone[:3]
    named = [-1, a, -1, b, many[0], c, a]
    pairs = pair_targets(room.scene, named, CATEGORIES)
    assert np.isnan(pairs[[0, 1, 2, 4, 5]]).all()
    np.testing.assert_allclose(pairs[3] * FAR, centre[b] - centre[a], atol=1e-5)
    np.testing.assert_allclose(pairs[6] * FAR, centre[a] - centre[c], atol=1e-5)
    pairs = pair_targets(room.scene, named, CATEGORIES, anchor=c)
    assert np.isnan(pairs[[0, 2, 4]]).all() and not pairs[5].any()
    np.testing.assert_allclose(pairs[1] * FAR, centre[a] - centre[c], atol=1e-5)


def test_a_room_whose_questions_fit_nowhere_is_named(tokenizer):
    short = replace(SHAPE, groups=((4, 5),))
    maker = RoomMaker(short, tokenizer, name_ids(tokenizer, NAMES))
    with pytest.raises(SceneError, match="room5_00003: no question fits in 5 tokens"):
        maker.make(5, 3)


# ---------------------------------------------------------------- the stages' labels
@pytest.fixture(scope="module")
def qwen(tokenizer, tmp_path_factory):
    """The tokenizer as training loads it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(tokenizer, folder)
    return load_tokenizer(folder)


def stage_labels(room, qwen, record):
    """Behind the film the ids of a record, and what a stage learns at all but the last
    (-1: nothing)."""
    clip = VideoClip(
        indices=np.arange(4),
        times=np.arange(4.0),
        total_frames=4,
        avg_fps=1.0,
        frames=room.rgb,
        reader="array",
    )
    example = make_example(
        record,
        tokenizer=qwen,
        layout=SHAPE.layout,
        settings=DataSettings(mixture="none", time_instruction=False),
        read=lambda record, settings: Video(clip=clip),
    )
    ids, flags = example.chunks[1], np.array(example.supervised[1])
    return tuple(ids), np.where(flags, ids, -1)[1:]


def test_answers_and_marks_are_the_labels_of_a_stage(room, qwen):
    """But for what stands in front of the film."""
    shape = replace(SHAPE, groups=((8, 60), (8, 130)))
    maker = RoomMaker(shape, qwen, name_ids(qwen, NAMES))
    arrays = maker._ask(room, np.random.default_rng(3))
    rng, rows = np.random.default_rng(3), {}
    for question in spread(room.questions, rng):
        asked = asked_as(question, rng)
        record = make_record([(f"<image>{asked.text}", asked.answer)], video="a.mp4")
        ids, labels = stage_labels(room, qwen, record)
        rows[ids[:-1]] = labels
    compared = 0
    for k, (count, _) in enumerate(shape.groups):
        for row in range(count):
            tokens = arrays[f"questions/{k}"][row]
            answers = arrays[f"answers/{k}"][row]
            marks = arrays[f"marks/{k}"][row]
            if not (answers >= 0).any():
                continue
            assert not ((answers >= 0) & (marks >= 0)).any()
            stop = int(np.flatnonzero(marks >= 0)[-1]) + 1
            labels = rows[tuple(tokens[:stop])]
            np.testing.assert_array_equal(np.maximum(answers, marks)[:stop], labels)
            assert (np.maximum(answers, marks)[stop:] == -1).all()
            compared += 1
    assert compared > 10


def test_captions_are_batches_of_the_stages(room, qwen):
    shape = replace(SHAPE, captions=2)
    arrays = RoomMaker(shape, qwen, name_ids(qwen, NAMES)).make(5, 3)
    pairs = {
        name.removeprefix(CAPTION): array
        for name, array in arrays.items()
        if name.startswith(CAPTION)
    }
    for row in range(2):
        known = pairs["targets"][row] >= 0
        said = qwen.decode(pairs["targets"][row][known].tolist())
        assert "assistant" in said and said.rstrip().endswith("<|im_end|>")
        after = pairs["tokens"][row][pairs["target_positions"][row] + 1]
        np.testing.assert_array_equal(after[known], pairs["targets"][row][known])
        hiera = pairs["hiera_images"][row, 0]
        assert any((hiera == frame).all() for frame in room.rgb)
    again = RoomMaker(shape, qwen, name_ids(qwen, NAMES)).make(5, 4)
    assert {n: a.shape for n, a in again.items()} == {
        n: a.shape for n, a in arrays.items()
    }


def test_too_many_captions_are_refused(room, qwen):
    with pytest.raises(SceneError, match=r"^room5_00003: \d of its frames have"):
        caption_batch(room, SHAPE.layout, qwen, 9, np.random.default_rng(0))


def test_told_records_are_those_of_the_stages(room, qwen):
    """Tokens and labels behind the film, each of another record."""
    told, taught = told_rows(room, qwen, 3, np.random.default_rng(7))
    assert told.shape == taught.shape == (3, TEXT)
    rng = np.random.default_rng(7)
    kinds = tell(Room(room.scene, room.hidden), room.questions, rng, thoughts=1)
    examples = {}
    for _, turns in kinds:
        ids, labels = stage_labels(room, qwen, make_record(turns, video="a.mp4"))
        examples[ids] = labels
    for tokens, labels in zip(told, taught, strict=True):
        (ids,) = [ids for ids in examples if tokens[: len(ids)].tolist() == list(ids)]
        assert (labels[: len(ids) - 1] == examples.pop(ids)).all()
        assert (labels[len(ids) - 1 :] == -1).all() and (labels >= 0).sum() > 20


def test_too_many_records_are_refused(room, qwen):
    with pytest.raises(SceneError, match=r"^room5_00003: \d records about its film"):
        told_rows(room, qwen, 9, np.random.default_rng(0))


def test_texts_begin_where_they_are_learned(qwen):
    shape = replace(SHAPE, captions=1, records=1, texts_from=3)
    maker = RoomMaker(shape, qwen, name_ids(qwen, NAMES))
    before, after = maker.make(5, 2), maker.make(5, 3)
    more = after.keys() - before.keys()
    assert {"told", "taught"} < more and any(name.startswith(CAPTION) for name in more)
    assert all(after[name].shape == before[name].shape for name in before)
