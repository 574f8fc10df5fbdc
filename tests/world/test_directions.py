"""Relative directions against a plain turn of the floor, and what is left out."""

import cmath
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loose_rooms import asked_of, only, project_apart, read, right_option

from vica_jax.world.ask_direction import BORDERS, clear, sector
from vica_jax.world.asking import ask_all
from vica_jax.world.question import Question
from vica_jax.world.scene import Scene, upright

STANDING = (
    r"^If I am standing by the (.+) and facing the (.+), is the (.+) to (?:my|the) "
)
LEVELS = ("easy", "medium", "hard")


def turned(scene: Scene, question: Question) -> complex:
    """The target seen from where one stands with ahead along +y: x is to the right."""
    places = [only(scene, c).centre for c in read(STANDING, question)]
    stand, face, target = (complex(x, y) for x, y, _ in places)
    return (target - stand) / (face - stand) * abs(face - stand) * 1j


@pytest.mark.parametrize("level", LEVELS)
def test_directions(level: str):
    pairs = asked_of(f"object_rel_direction_{level}")
    assert len(pairs) > 80
    for scene, question in pairs:
        seen = turned(scene, question)
        assert abs(seen.real) > 1e-6
        side = "right" if seen.real > 0 else "left"
        # How far one has to turn, whichever way: 0 is straight ahead.
        turn = math.degrees(abs(cmath.phase(seen / 1j)))
        if level == "hard":
            expected = f"{'front' if seen.imag > 0 else 'back'}-{side}"
            away = min(turn % 90, 90 - turn % 90)
        else:
            expected = "back" if turn >= 135 else side
            away = min(turn, abs(turn - 135), 180 if turn > 135 else 180 - turn)
        assert right_option(question) == expected
        assert away >= 10 - 1e-6
        if level == "easy":
            assert turn < 135  # to the left or right of what one faces
        assert question.truth["direction"] == expected
        assert abs(abs(question.truth["degrees"]) - turn) < 1e-6
        assert (question.truth["degrees"] > 0) == (side == "left")


@pytest.mark.parametrize("level", LEVELS)
def test_options(level: str):
    every = {
        "easy": {"left", "right"},
        "medium": {"left", "right", "back"},
        "hard": {"front-left", "front-right", "back-left", "back-right"},
    }[level]
    pairs = asked_of(f"object_rel_direction_{level}")
    rights = Counter(right_option(q) for _, q in pairs)
    assert set(rights) == every
    for _, question in pairs:
        assert {option[3:] for option in question.options or ()} == every
    # Candidates take turns by answer, so no answer has more than its share and a half.
    assert max(rights.values()) < 1.5 * len(pairs) / len(every)


def test_things_are_apart():
    pairs = asked_of("object_rel_direction")
    for a, b in ((0, 1), (0, 2), (1, 2)):
        firsts = [only(scene, question.objects[a]) for scene, question in pairs]
        seconds = [only(scene, question.objects[b]) for scene, question in pairs]
        apart = project_apart(firsts, seconds, 60)
        assert apart.min() >= 0.3 - 1e-6
        assert apart.max() <= 5.0 + 0.05


def room_with(degrees: float, large: float = 0.1) -> Scene:
    """A chair in the middle, a tv 2 m north of it, a desk 1.5 m away at an angle to the
    left of north, as large as one says."""
    angle = math.radians(90 + degrees)
    desk = 1.5 * np.array([math.cos(angle), math.sin(angle), 0])
    sizes = {"chair": 0.1, "tv": 0.1, "desk": large}
    places = {"chair": np.zeros(3), "tv": np.array([0, 2.0, 0]), "desk": desk}
    boxes = [
        upright(name, place + np.array([0, 0, 0.5]), np.full(3, sizes[name]), 0.0)
        for name, place in places.items()
    ]
    return Scene(name="three", dataset="test", boxes=tuple(boxes), area=20.0)


def told(scene: Scene, level: str) -> str | None:
    questions = ask_all(scene, np.random.default_rng(0), per_task=100)
    task = f"object_rel_direction_{level}"
    own = [q for q in questions if q.task == task]
    rights = [right_option(q) for q in own if q.objects == ("chair", "tv", "desk")]
    return rights[0] if rights else None


@pytest.mark.parametrize(
    ("degrees", "easy", "medium", "hard"),
    [
        (8, None, None, None),  # straight ahead
        (45, "left", "left", "front-left"),
        (85, "left", "left", None),  # beside one
        (-110, "right", "right", "back-right"),
        (130, None, None, "back-left"),  # at the border to the back
        (150, None, "back", "back-left"),
        (-170.5, None, "back", None),  # right behind
    ],
)
def test_angles(degrees: float, easy: str | None, medium: str | None, hard: str | None):
    scene = room_with(degrees)
    assert [told(scene, level) for level in LEVELS] == [easy, medium, hard]


def test_one_thing_above_another_is_in_no_direction():
    scene = room_with(45)
    chair, tv, desk = scene.boxes
    above = upright("desk", chair.centre + np.array([-0.3, 0.3, 1.2]), desk.size, 0.0)
    scene = Scene(name="above", dataset="test", boxes=(chair, tv, above), area=20.0)
    assert [told(scene, level) for level in LEVELS] == [None] * 3


def test_a_thing_that_reaches_into_another_sector_is_left_out():
    assert told(room_with(75, 0.1), "hard") == "front-left"
    assert told(room_with(75, 1.0), "hard") is None


@given(st.sampled_from(LEVELS), st.floats(-400, 400))
def test_sectors(level: str, angle: float):
    """Within a sector nothing changes: the same as a little to both sides."""
    array = np.array([angle])
    if clear(level, array)[0]:
        around = angle + np.linspace(-9.99, 9.99, 9)
        assert set(sector(level, around).tolist()) == set(sector(level, array).tolist())
    else:
        borders = [(angle - b + 180) % 360 - 180 for b in BORDERS[level]]
        assert min(abs(b) for b in borders) < 10
