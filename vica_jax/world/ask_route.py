"""Questions on a way through the room whose turns are to be filled in.

A robot begins at one thing facing another. Either it walks there first and turns at
each thing that it comes to, or it turns before its first step too. As VSI-Bench has
both forms, each is drawn half the time where a room has both. One, two or three turns
are missing, and the options are sequences of turns.
"""

import math
from itertools import product

import numpy as np

from vica_jax.world.askable import Askable, draw, wrap
from vica_jax.world.geometry import bearing, inside
from vica_jax.world.question import Question, letter_options, make_question

TURNS = ("Turn Left", "Turn Right", "Turn Back")
MOST_TURNS = 3
OPTIONS = 4
LEAST_STEP = 1.0  # metres between two things that the robot walks between
LEAST_APART = 0.6  # metres on the floor from the start to what it faces
# Degrees: below the first it goes on straight, between the others it is neither a turn
# to a side nor back (135 degrees divide them, as in the medium direction).
LEAST_TURN, MOST_TURN, LEAST_BACK = 30.0, 120.0, 150.0
TRIES = 20  # walks that are looked at for each question
BLANK = "[please fill in]"

_Walk = tuple[bool, tuple[int, ...]]


def turn_numbers(degrees: np.ndarray) -> np.ndarray:
    """Which of ``TURNS`` an angle (left positive) is, -1 where it is none clearly:
    int64, same shape."""
    size = np.abs(degrees)
    to_side = (size >= LEAST_TURN) & (size <= MOST_TURN)
    turns = np.full(np.shape(degrees), -1, np.int64)
    turns[to_side & (degrees > 0)] = 0
    turns[to_side & (degrees < 0)] = 1
    turns[size >= LEAST_BACK] = 2
    return turns


def stays_inside(outline: np.ndarray, start: np.ndarray, end: np.ndarray) -> bool:
    """Whether the straight way between two floor points ``[2]`` stays in the polygon
    ``[n,2]``."""
    if not bool(inside(outline, np.stack([start, (start + end) / 2, end])).all()):
        return False
    corners, others = outline, np.roll(outline, -1, axis=0)

    def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]

    way, walls = end - start, others - corners
    before, after = cross(way, corners - start), cross(way, others - start)
    here, there = cross(walls, start - corners), cross(walls, end - corners)
    return not bool(((before * after < 0) & (here * there < 0)).any())


def list_actions(stops: list[str], first_turn: bool) -> str:
    """The actions as ``1. Go forward until the sofa 2. [please fill in] ...``."""
    steps = [f"Go forward until the {stop}" for stop in stops]
    actions = [BLANK] * first_turn
    for number, step in enumerate(steps):
        actions += [step] if number == 0 else [BLANK, step]
    listed = " ".join(f"{number}. {each}" for number, each in enumerate(actions, 1))
    return f"{listed}."


def ask_routes(askable: Askable, rng: np.random.Generator, most: int) -> list[Question]:
    """``truth``: ``turns``, ``degrees`` (of each, left positive), ``stops`` (the things
    walked to), ``first_turn`` (whether it turns before it walks). ``objects``: start,
    what it faces, then the stops not named so far."""
    names = askable.single
    if len(names) < 3 or most < 1:
        return []
    walkable = _walkable(askable)
    ways = askable.headings
    faced = askable.apart >= LEAST_APART
    # At a stop: [from, at, to]. Before the first step: [start, facing, to].
    after = turn_numbers(np.degrees(wrap(ways[None, :, :] - ways[:, :, None])))
    after[~(walkable[:, :, None] & walkable[None, :, :])] = -1
    before = turn_numbers(np.degrees(wrap(ways[:, None, :] - ways[:, :, None])))
    before[~(faced[:, :, None] & walkable[:, None, :])] = -1

    groups: dict[tuple[int, ...], list[_Walk]] = {}
    met = set()
    for _ in range(TRIES * most):
        first_turn = bool(rng.integers(2))
        many = int(rng.integers(1, MOST_TURNS + 1))
        if many + 2 > len(names):
            continue
        places = tuple(int(k) for k in rng.permutation(len(names))[: many + 2])
        turns = _turns(first_turn, places, before, after)
        if turns is None or (first_turn, places) in met:
            continue
        met.add((first_turn, places))
        groups.setdefault(turns, []).append((first_turn, places))
    return [_ask(askable, rng, *walk) for walk in draw(rng, groups.values(), most)]


def _walkable(askable: Askable) -> np.ndarray:
    """Between which single things the robot may walk straight: ``bool[n,n]``."""
    walkable = askable.apart >= LEAST_STEP
    outline = askable.scene.outline
    if outline is not None:
        for a, b in np.argwhere(np.triu(walkable)).tolist():
            ends = askable.centres[[a, b], :2]
            walkable[a, b] = walkable[b, a] = stays_inside(outline, *ends)
    return walkable


def _turns(
    first_turn: bool, places: tuple[int, ...], before: np.ndarray, after: np.ndarray
) -> tuple[int, ...] | None:
    """Numbers of the turns on a way, None where one of them is not clear."""
    start, face, *stops = places
    turns = [int(before[start, face, stops[0]])] if first_turn else []
    path = [start, *stops] if first_turn else [start, face, *stops]
    turns += [int(after[tuple(path[k : k + 3])]) for k in range(len(path) - 2)]
    return None if -1 in turns else tuple(turns)


def _ask(
    askable: Askable,
    rng: np.random.Generator,
    first_turn: bool,
    places: tuple[int, ...],
) -> Question:
    names = [askable.single[k] for k in places]
    centres = [askable.box(name).centre for name in names]
    start, face, *rest = names
    stops = rest if first_turn else [face, *rest]
    path = [centres[0], *centres[2:]] if first_turn else centres
    angles = [bearing(centres[0], centres[1], path[1])] if first_turn else []
    for a, b, c in zip(path, path[1:], path[2:], strict=False):
        angles.append(bearing(b, b + (b - a), c))
    degrees = [math.degrees(angle) for angle in angles]
    numbers = turn_numbers(np.array(degrees))
    right = ", ".join(TURNS[k] for k in numbers)
    every = [", ".join(turns) for turns in product(TURNS, repeat=len(degrees))]
    wrong = [every[k] for k in rng.permutation(len(every)) if every[k] != right]
    options, answer = letter_options(rng, right, wrong[: OPTIONS - 1])
    return make_question(
        askable.scene,
        rng,
        "route_planning",
        names,
        answer=answer,
        options=options,
        slots={
            "start": start,
            "face": face,
            "goal": stops[-1],
            "actions": list_actions(stops, first_turn),
        },
        truth={
            "turns": [TURNS[k] for k in numbers],
            "degrees": degrees,
            "stops": stops,
            "first_turn": first_turn,
        },
    )
