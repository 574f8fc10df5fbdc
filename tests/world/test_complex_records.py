"""Dialogues and descriptions: every sentence is read back and judged anew."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from told_truths import judge, on_side, sentences

from vica_jax.world.asking import ask_all
from vica_jax.world.check import usable
from vica_jax.world.claims import HOLDS, holds, say
from vica_jax.world.description import (
    COMPLEX,
    describe_surroundings,
    describe_whole,
)
from vica_jax.world.dialogue import ANSWERS, SMALL, ask_aloud, converse
from vica_jax.world.generate import make_scene
from vica_jax.world.phrasings import VSI_WORDING
from vica_jax.world.room import Room
from vica_jax.world.scene import Door, Scene, SceneError, upright
from vica_jax.world.wording import PHRASES, Fact

ROOMS = 10
GREY = np.full(3, 0.5)


def filmed(number: int) -> Scene:
    """A drawn room with times of first sight."""
    scene = make_scene(11, number)
    order = np.random.default_rng(number).permutation(len(scene.categories))
    seen = {c: 0.7 * float(k) for c, k in zip(scene.categories, order, strict=True)}
    return scene.with_first_seen(seen)


def small_room(*boxes, side: float = 4.0, door: float = 0.9) -> Scene:
    half = side / 2
    return Scene(
        name="small",
        dataset="world",
        boxes=boxes,
        area=side * side,
        outline=np.array([[-half, -half], [half, -half], [half, half], [-half, half]]),
        doors=(Door(wall=0, start=0.5, width=door, height=2.0),),
        complete=True,
    )


def thing(category: str, x: float, y: float, sx: float, sy: float, sz: float = 1.0):
    return upright(category, np.array([x, y, sz / 2]), np.array([sx, sy, sz]), 0, GREY)


@pytest.fixture(scope="module")
def rooms() -> list[Room]:
    return [Room(filmed(number)) for number in range(ROOMS)]


@pytest.mark.parametrize(
    ("kind", "claims"),
    [("spatial_description", 36), ("usage", 6), ("important_daily_necessities", 12)],
)
def test_descriptions_are_true(rooms, kind, claims):
    met = Counter()
    for number, room in enumerate(rooms):
        for draw in range(8):
            turns = COMPLEX[kind](room, np.random.default_rng([number, draw]))
            assert turns is not None and len(turns) == 1
            for asked, told in turns:
                assert asked.endswith(("?", "."))
                place = re.search(
                    r"(?:stand by the|from the|stands at the|standing at the) (.+?)"
                    r"(?:,| and) (?:face|facing|looks at|turned towards) the (.+?)"
                    r"(?:\.|:|,)",
                    asked,
                    re.IGNORECASE,
                )
                for sentence in sentences(told):
                    around = re.fullmatch(
                        r"(?:You have the|The) (\w+) (?:is )?((?:in|to|behind) .*)\.",
                        sentence,
                    )
                    if place and around:
                        a, b = place.groups()
                        assert on_side(room.scene, a, b, *around.groups()), sentence
                        met["around"] += 1
                        continue
                    pattern, true = judge(room.scene, sentence)
                    assert pattern, f"nobody knows what this claims: {sentence!r}"
                    assert true, (room.scene.name, sentence)
                    met[pattern] += 1
    assert len(met) >= claims


def test_the_judge_is_strict(rooms):
    """A number changed in its last place, or left for right, is found out."""
    changed = Counter()
    for number, room in enumerate(rooms[:6]):
        for draw in range(4):
            turns = COMPLEX["spatial_description"](
                room, np.random.default_rng([number, draw])
            )
            for sentence in sentences(turns[0][1] if turns else ""):
                found = list(re.finditer(r"\d+(?:\.\d+)?", sentence))
                if not found or "percent" in sentence:
                    continue
                digits = len(found[-1][0].partition(".")[2])
                wrong = f"{float(found[-1][0]) + 10**-digits:.{digits}f}"
                start, end = found[-1].span()
                pattern, true = judge(
                    room.scene, sentence[:start] + wrong + sentence[end:]
                )
                assert pattern and not true, sentence
                changed[pattern] += 1
    assert len(changed) > 8


@pytest.mark.parametrize("kind", ["furniture", "wheelchair_user"])
def test_free_floor_is_judged_rightly(rooms, kind):
    """Against rasters of points, walls seen under 360 degrees, and flood filling."""
    said = Counter()
    for number, room in enumerate(rooms[:5]):
        turns = COMPLEX[kind](room, np.random.default_rng([number, 1]))
        for _, told in turns or ():
            verdict, *claims = sentences(told)
            said[verdict] += 1
            for sentence in claims:
                pattern, true = judge(room.scene, sentence)
                assert pattern and true, (room.scene.name, sentence)
                said[pattern] += 1
    assert said["Yes."] and len(said) > 3


def test_a_room_where_nothing_fits():
    """A cross of boxes leaves four squares of 1.5 m, the door's among them."""
    scene = small_room(
        thing("table", 0, 0, 4.0, 1.0),
        thing("desk", 0, 1.25, 1.0, 1.5),
        thing("bed", 0, -1.25, 1.0, 1.5),
    )
    room = Room(scene)
    assert holds(room, Fact("fits", ("stool",), "1.5 by 1.4"))
    assert holds(room, Fact("no_room", ("table",), "1.7 by 0.4"))
    for kind in ("fits", "no_room"):  # to the centimetre: nobody says
        assert not holds(room, Fact(kind, ("table",), "1.5 by 1.53"))
    assert holds(room, Fact("no_turn")) is False and room.circle[1] >= 1.5
    assert room.circle[0] <= 1.5 <= room.circle[1]
    # Behind the door's square nothing can be reached but what bounds it.
    ways = room.reachable(0.8)
    assert ways["table"] is True and ways["bed"] is True and ways["desk"] is False
    turns = COMPLEX["wheelchair_user"](room, np.random.default_rng(0))
    assert turns is not None and turns[0][1].startswith("In part.")
    narrow = Room(replace(scene, doors=(replace(scene.doors[0], width=0.7),)))
    turns = COMPLEX["wheelchair_user"](narrow, np.random.default_rng(0))
    assert turns is not None and turns[0][1].startswith("Hardly.")


def test_what_hangs_is_in_nobodys_way():
    low = thing("table", 0, 0, 3.9, 3.9)
    high = replace(low, category="lamp", centre=np.array([0, 0, 2.2]))
    wide = Room(small_room(replace(high, size=np.array([3.9, 3.9, 0.2]))))
    assert holds(wide, Fact("fits", ("bed",), "3.0 by 3.0"))
    assert holds(Room(small_room(low)), Fact("no_room", ("bed",), "1.0 by 1.0"))


def test_dialogues_are_true(rooms):
    turns_met, kinds = Counter(), Counter()
    for number, room in enumerate(rooms):
        questions = ask_all(room.scene, np.random.default_rng(number))
        truths = {ask_aloud(question): question for question in questions}
        for draw in range(4):
            turns = converse(room, questions, np.random.default_rng([number, draw]))
            assert turns is not None and 3 <= len(turns) <= 6
            assert len({asked for asked, _ in turns}) == len(turns)
            turns_met[len(turns)] += 1
            for asked, told in turns:
                if question := truths.get(asked):
                    kinds[question.task] += 1
                    answer = question.text_answer.partition(". ")[2] or question.answer
                    assert question.options or answer == question.text_answer
                    assert re.search(rf"(?<![\w.]){re.escape(answer)}(?![\w])", told)
                    assert "Options:" not in asked and "{" not in asked + told
                    continue
                kinds["small"] += 1
                for sentence in sentences(told):
                    if sentence in ("Yes.", "No."):
                        continue
                    if found := re.fullmatch(
                        r"There are (\d+) .+ and (\d+) .+, which makes (\d+)\.",
                        sentence,
                    ):
                        first, second, both = map(int, found.groups())
                        assert first + second == both
                        sentence = sentence.partition(",")[0] + "."
                    pattern, true = judge(room.scene, sentence)
                    assert pattern and true, (room.scene.name, asked, sentence)
    assert set(turns_met) == {3, 4, 5, 6}
    assert len(kinds) > 8 and kinds["small"] > 30


def test_yes_and_no_fit_the_question(rooms):
    """A yes to what is so, a no to what is not, both common."""
    said = Counter()
    for number, room in enumerate(rooms):
        for small in SMALL:
            for draw in range(3):
                turn = small(room, np.random.default_rng([number, draw]))
                if turn is None or turn[1][:3] not in ("Yes", "No."):
                    continue
                asked, told = turn
                if found := re.search(r"Is the (\w+) (?:at|against) a wall", asked):
                    truth = bool(re.search(f"{found[1]} is (right at|against)", told))
                else:
                    found = re.search(r"an? (\w+) (?:in the room|here)", asked)
                    assert found, asked
                    truth = found[1] in room.scene.categories
                assert told.startswith("Yes." if truth else "No."), turn
                said[truth] += 1
    assert min(said[True], said[False]) > 5


def test_every_kind_has_checks_phrases_and_answers():
    assert set(HOLDS) == set(PHRASES)
    assert all(len(set(phrases)) > 1 for phrases in PHRASES.values())
    assert set(ANSWERS) == set(VSI_WORDING)


def test_untrue_facts_are_refused():
    room = Room(small_room(thing("bed", 1, 1, 1, 1.6), thing("table", -1, -1, 1, 1)))
    rng = np.random.default_rng(0)
    untrue = [
        Fact("area", (), "16.1"),
        Fact("count", ("bed",), "2"),
        Fact("total", (), "3"),
        Fact("absent", ("bed",)),
        Fact("length", ("bed",), "161"),
        Fact("distance", ("bed", "table"), "9.0"),
        Fact("taller", ("bed", "table")),
        Fact("longer", ("table", "bed")),
        Fact("clear", ("bed",)),
        Fact("hangs", ("bed",), "0.0"),
        Fact("before", ("bed", "table")),
        Fact("rectangle", (), "5.0 by 4.0"),
        Fact("corners", (), "4"),
        Fact("narrow"),
        Fact("use", ("bed",), "cook"),
    ]
    for fact in untrue:
        assert not holds(room, fact), fact
        with pytest.raises(SceneError, match=r"scene small: not true: .*" + fact.kind):
            say(room, fact, rng)
    assert say(room, Fact("area", (), "16.0"), rng)


def test_close_calls_are_not_told():
    """Near the border of two sides, nearly as near, nearly as tall: nothing is said."""
    boxes = [thing("bed", 0, 0, 1, 1), thing("table", 2, 0, 1, 1)]
    for degrees, known in ((40, False), (50, False), (58, True), (134, False)):
        angle = np.radians(degrees)
        target = thing("lamp", 2 * np.cos(angle), 2 * np.sin(angle), 0.2, 0.2, 1.05)
        room = Room(small_room(*boxes, target, side=8.0))
        facts = [Fact("side", ("bed", "table", "lamp"), s) for s in ("ahead", "left")]
        assert any(holds(room, fact) for fact in facts) is known, degrees
    assert not holds(room, Fact("taller", ("lamp", "bed")))
    even = thing("chair", 0, 2.05, 1, 1)
    room = Room(small_room(*boxes, even, side=8.0))
    assert not holds(room, Fact("nearer", ("bed", "table", "chair")))
    assert not holds(room, Fact("nearest", ("bed", "table")))


def test_annotations_claim_no_more_than_they_know(rooms):
    """Without walls and colours there is no word of what nobody has annotated."""
    for number, room in enumerate(rooms):
        scan = replace(
            room.scene,
            outline=None,
            doors=(),
            first_seen=None,
            boxes=tuple(replace(box, colour=None) for box in room.scene.boxes),
        )
        bare = Room(scan)
        assert not bare.filmed and bare.space is None
        for kind, describe in COMPLEX.items():
            turns = describe(bare, np.random.default_rng(number))
            assert (turns is None) == (kind in ("furniture", "wheelchair_user"))
            text = " ".join(told for _, told in turns or ())
            assert not re.search(r"wall|ceiling|door|There is no|has no|Nothing", text)
            for sentence in sentences(text) if turns else ():
                if not sentence.startswith("You have"):
                    pattern, true = judge(scan, sentence)
                    assert (pattern and true) or re.search(" you| your", sentence)


def test_nothing_is_told_of_what_the_camera_never_sees(rooms):
    for number, room in enumerate(rooms):
        name = room.scene.categories[number % len(room.scene.categories)]
        box = [b.category for b in room.scene.boxes].index(name)
        unseen = {c: s for c, s in (room.scene.first_seen or {}).items() if c != name}
        hidden = [Room(room.scene, [box]), Room(room.scene.with_first_seen(unseen))]
        for each in hidden:
            assert name not in each.named and name not in each.singles
            for describe in COMPLEX.values():
                for turns in [describe(each, np.random.default_rng(number))]:
                    text = " ".join(told for _, told in turns or ())
                    assert not re.search(rf"(?:the|one) {name}\b", text), text


def test_a_poor_scene_gives_less_and_no_error():
    lone = Scene(
        name="lone",
        dataset="scans",
        boxes=(upright("bed", np.ones(3), np.ones(3), 0.3),),
        area=9.0,
        counts={"bed": 2},
    )
    room = Room(lone)
    assert (
        room.singles == {}
        and describe_surroundings(room, np.random.default_rng(0)) is None
    )
    assert converse(room, [], np.random.default_rng(0)) is None
    turns = COMPLEX["spatial_description"](room, np.random.default_rng(0))
    assert turns is not None and "2 beds" in turns[0][1]
    assert (
        COMPLEX["important_daily_necessities"](room, np.random.default_rng(0)) is None
    )


def test_the_same_draws_say_the_same(rooms):
    for kind, describe in COMPLEX.items():
        told = [describe(Room(filmed(3)), np.random.default_rng(5)) for _ in range(2)]
        assert told[0] == told[1], kind
    several = {
        str(COMPLEX["spatial_description"](rooms[3], np.random.default_rng(k)))
        for k in range(6)
    }
    assert len(several) == 6


def test_colours_and_walls_do_not_make_a_scene_complete():
    scene = small_room(thing("bed", 0, 0, 1, 1), thing("lamp", 1.5, 0, 0.3, 0.3))
    facts = (
        Fact("total", (), "2"),
        Fact("height", (), "2.6"),
        Fact("nearest", ("bed", "lamp")),
        Fact("absent", ("sofa",)),
        Fact("turns"),
    )
    whole, part = Room(scene), Room(replace(scene, complete=False))
    assert part.space is None
    for fact in facts[:4]:
        assert holds(whole, fact) and not holds(part, fact), fact
    assert not holds(part, facts[4])
    odd = replace(scene, boxes=(*scene.boxes, thing("flurb", 1, 1, 0.2, 0.2)))
    good = usable(odd)
    assert len(good.boxes) == 2 and not good.complete
    assert "in all" not in str(describe_whole(Room(good), np.random.default_rng(0)))


def test_corners_are_where_walls_turn():
    scene = small_room(thing("bed", 0, 0, 1, 1), thing("lamp", 1.5, 0, 0.3, 0.3))
    straight = [[-2, -2], [0.3, -2], [2, -2], [2, 2], [-2, 2], [-2, 1], [-2, 0]]
    room = Room(replace(scene, outline=np.array(straight, float)))
    assert room.rectangle == (4.0, 4.0) and len(room.corners) == 4
    for count in range(4, 8):
        assert not holds(room, Fact("corners", (), str(count)))
    ell = [[-2, -2], [0, -2], [2, -2], [2, 0], [0, 0], [0, 2], [-2, 2]]
    room = Room(replace(scene, outline=np.array(ell, float)))
    assert room.rectangle is None
    assert holds(room, Fact("corners", (), "6"))
    assert not holds(room, Fact("corners", (), "7"))


@pytest.mark.parametrize(("low", "hangs"), [(0.7, False), (0.74, False), (0.8, True)])
def test_what_stands_on_a_thing_does_not_hang(low, hangs):
    table = thing("table", 0, 0, 1.2, 0.8, 0.7)
    lamp = thing("lamp", 0.3, 0.2, 0.2, 0.2, 0.3)
    lamp = replace(lamp, centre=np.array([0.3, 0.2, low + 0.15]))
    scene = replace(small_room(table, lamp), dataset="own")
    fact = Fact("hangs", ("lamp",), f"{low:.1f}")
    assert holds(Room(scene), fact) == hangs
    beside = replace(lamp, centre=np.array([0.8, 0.2, low + 0.15]))
    assert holds(Room(replace(scene, boxes=(table, beside))), fact)


def test_nothing_is_told_of_categories_with_one_plural():
    boxes = (
        thing("book", -1, 0, 0.2, 0.3, 0.1),
        thing("books", 1, 0, 0.4, 0.3, 0.2),
        thing("bed", 0, 1.2, 1, 1),
    )
    room = Room(replace(small_room(*boxes), counts={"books": 1}))
    assert room.named == ("bed",) and room.shared == {"book", "books"}
    assert not holds(room, Fact("total", (), "3"))
    lamps = Room(small_room(thing("lamps", 0, 0, 1, 1)))
    assert not holds(lamps, Fact("absent", ("lamp",)))
    assert holds(lamps, Fact("absent", ("bed",)))
