"""Routes walked step by step from the words of the question, and what is left out."""

import cmath
import math
import re
from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from loose_rooms import asked_of, only, read, right_option

from vica_jax.world.ask_route import (
    LEAST_BACK,
    LEAST_TURN,
    MOST_TURN,
    stays_inside,
    turn_numbers,
)
from vica_jax.world.asking import ask_all
from vica_jax.world.geometry import inside
from vica_jax.world.question import Question
from vica_jax.world.scene import Scene, upright

ROUTE = (
    r"^You are a robot beginning at the (.+) facing the (.+)\. You want to navigate to "
    r"the (.+)\. You will perform .+'turn right\.'\): (.+)\. You have reached the "
    r"final destination\.$"
)
BY = {"Turn Left": 1j, "Turn Right": -1j, "Turn Back": -1}
L_SHAPE = np.array([[0, 0], [6, 0], [6, 3], [3, 3], [3, 5], [0, 5]], float)


def place(scene: Scene, category: str) -> complex:
    x, y, _ = only(scene, category).centre
    return complex(x, y)


def steps_of(question: Question) -> list[str]:
    """The actions in words, their numbers checked."""
    *_, actions = read(ROUTE, question)
    pieces = re.split(r"(?:^| )(\d)\. ", actions)[1:]
    assert pieces[::2] == [str(k) for k in range(1, len(pieces) // 2 + 1)]
    return pieces[1::2]


def walk(scene: Scene, question: Question) -> list[str]:
    """At each blank, the turn that leaves the robot looking most nearly at its goal."""
    start, face, goal, _ = read(ROUTE, question)
    here = place(scene, start)
    ahead = place(scene, face) - here
    assert abs(ahead) >= 0.6
    steps = steps_of(question)
    turns = []
    for step, then in zip(steps, [*steps[1:], ""], strict=True):
        if step == "[please fill in]":
            way = place(scene, then.removeprefix("Go forward until the ")) - here
            off = {
                name: abs(cmath.phase(way / (ahead * turn)))
                for name, turn in BY.items()
            }
            turns.append(min(off, key=lambda name: off[name]))
            assert sorted(off.values())[1] - min(off.values()) > math.radians(5)
            ahead = way
        else:
            goes_to = place(scene, step.removeprefix("Go forward until the "))
            # It walks straight on: there is a blank wherever it must turn.
            assert abs(cmath.phase((goes_to - here) / ahead)) < 1e-6
            assert abs(goes_to - here) >= 1 - 1e-9
            here = goes_to
    assert here == place(scene, goal)
    return turns


def test_routes():
    pairs = asked_of("route")
    assert len(pairs) > 150
    for scene, question in pairs:
        turns = walk(scene, question)
        assert right_option(question) == ", ".join(turns)
        assert question.truth["turns"] == turns
        options = [option[3:] for option in question.options or ()]
        assert len(options) == len(set(options)) == (3 if len(turns) == 1 else 4)
        for option in options:
            assert set(option.split(", ")) <= set(BY)
            assert len(option.split(", ")) == len(turns)


def test_kinds_of_routes():
    pairs = asked_of("route")
    many = Counter(len(q.truth["turns"]) for _, q in pairs)
    assert set(many) == {1, 2, 3}
    first = Counter(steps_of(q)[0] == "[please fill in]" for _, q in pairs)
    assert min(first.values()) > len(pairs) / 4
    one = Counter(q.truth["turns"][0] for _, q in pairs if len(q.truth["turns"]) == 1)
    assert min(one.values()) > sum(one.values()) / 6, one


def test_ways_stay_in_the_room():
    ells = 0
    for scene, question in asked_of("route"):
        assert scene.outline is not None
        stops = [question.objects[0], *question.truth["stops"]]
        for a, b in pairwise(stops):
            p, q = (np.array(only(scene, c).centre[:2]) for c in (a, b))
            points = p + np.linspace(0, 1, 300)[:, None] * (q - p)
            assert inside(scene.outline, points, 1e-6).all()
            ells += len(scene.outline) == 6
    assert ells > 100


@given(st.tuples(*[st.floats(-0.5, 6.5)] * 4))
def test_ways_in_an_ell(ends: tuple[float, ...]):
    start, end = np.array(ends[:2]), np.array(ends[2:])
    points = start + np.linspace(0, 1, 2000)[:, None] * (end - start)

    def within(spare: float) -> bool:
        """In one of the two rectangles, each smaller by so much on all sides."""
        low = (points >= spare).all(1)
        one = (points <= np.array([3, 5]) - spare).all(1)
        other = (points <= np.array([6, 3]) - spare).all(1)
        return bool((low & (one | other)).all())

    if within(0.01):
        assert stays_inside(L_SHAPE, start, end)
    if not within(-0.01):
        assert not stays_inside(L_SHAPE, start, end)


@given(st.floats(-180, 180))
def test_turns_are_clear(degrees: float):
    number = int(turn_numbers(np.array(degrees)))
    size = abs(degrees)
    if LEAST_TURN <= size <= MOST_TURN:
        assert number == (0 if degrees > 0 else 1)
    elif size >= LEAST_BACK:
        assert number == 2
    else:
        assert number == -1


def room_with(degrees: float, outline: np.ndarray | None = None) -> Scene:
    """A chair, a tv 2 m north of it, and 1.5 m from the tv a desk, so many degrees to
    the left."""
    angle = math.radians(90 + degrees)
    tv = np.array([1.0, 2.5, 0.5])
    desk = tv + 1.5 * np.array([math.cos(angle), math.sin(angle), 0])
    places = {"chair": np.array([1.0, 0.5, 0.5]), "tv": tv, "desk": desk}
    boxes = [upright(n, p, np.full(3, 0.1), 0.0) for n, p in places.items()]
    return Scene(
        name="three", dataset="test", boxes=tuple(boxes), area=20.0, outline=outline
    )


def told(scene: Scene) -> str | None:
    """The turn at the tv on the way from the chair to the desk."""
    questions = ask_all(scene, np.random.default_rng(0), per_task=60)
    own = [q for q in questions if q.task == "route_planning"]
    own = [q for q in own if q.truth["stops"] == ["tv", "desk"]]
    assert all(q.objects[0] == "chair" for q in own)
    return right_option(own[0]) if own else None


def test_unclear_turns_are_left_out():
    angles = (10, 40, -90, 115, 130, -140, 155)
    expected = (None, "Left", "Right", "Left", None, None, "Back")
    for degrees, turn in zip(angles, expected, strict=True):
        assert told(room_with(degrees)) == (turn and f"Turn {turn}"), degrees


def test_no_way_through_a_wall():
    around = np.array([[0, 0], [6, 0], [6, 6], [0, 6]], float)
    assert told(room_with(-90, around)) == "Turn Right"
    notch = np.array(
        [[0, 0], [6, 0], [6, 6], [1.9, 6], [1.9, 2.2], [1.6, 2.2], [1.6, 6], [0, 6]]
    )
    assert told(room_with(-90, notch)) is None
