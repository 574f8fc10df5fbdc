"""What ``scripts.make_smoke_benchmark`` asks of a film, in the form of each benchmark.

The frame is a room seen from above, with x to the right and y down; how many metres a
pixel is follows from the colour of the ground. Truths of VSI-Bench's questions and
ScanQA's hold in the last frame, where every shape is shown. Of VSTI-Bench's questions,
which are about a camera that moves, most truths are drawn at random.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scripts.smoke_scenes import COLOURS, GROUNDS, KINDS, Scene, ask

METRES = dict(zip(GROUNDS, (0.08, 0.1, 0.12), strict=True))  # of one pixel
FRAMES = 32  # that VSTI-Bench speaks of
LETTERS = "ABCD"

Random = np.random.Generator
Asked = dict[str, Any]  # the columns that depend on the question


# ---------------------------------------------------------------------- what is there
def centre(scene: Scene, number: int) -> np.ndarray:
    """Where a shape is in the last frame, in metres."""
    x, y, side = scene.box(number, scene.frames - 1)
    return np.array([x + side / 2, y + side / 2]) * METRES[scene.ground]


def gap(scene: Scene, first: int, second: int) -> float:
    """Metres between the closest points of two shapes' squares in the last frame."""
    (x, y, a), (u, v, b) = (scene.box(n, scene.frames - 1) for n in (first, second))
    apart = [max(u - x - a, x - u - b, 0), max(v - y - a, y - v - b, 0)]
    return max(math.hypot(*apart) * METRES[scene.ground], 0.1)


def turn(scene: Scene, start: int, facing: int, goal: int, *, at: int) -> float:
    """Degrees to the right that one who looks from start to facing turns to see goal.

    ``at``: the shape where that happens.
    """
    look = centre(scene, facing) - centre(scene, start)
    way = centre(scene, goal) - centre(scene, at)
    across = look[0] * way[1] - look[1] * way[0]
    return math.degrees(math.atan2(across, look @ way))


def choose(random: Random, right: str, wrong: Sequence[str]) -> tuple[list[str], str]:
    """Lettered options in any order, and the letter of the right one."""
    texts = [right, *wrong]
    order = random.permutation(len(texts))
    options = [f"{LETTERS[i]}. {texts[k]}" for i, k in enumerate(order)]
    return options, LETTERS[int(np.flatnonzero(order == 0)[0])]


def number(question: str, value: float) -> Asked:
    text = str(value) if isinstance(value, int) else f"{value:.1f}"
    return {"question": question, "ground_truth": text, "options": None}


# ------------------------------------------------------------------------- VSI-Bench
def ask_counting(scene: Scene, random: Random) -> Asked:
    kinds = [shape.kind for shape in scene.shapes]
    kind = str(random.choice(sorted(set(kinds))))
    return number(f"How many {kind}(s) are in this room?", kinds.count(kind))


def ask_abs_distance(scene: Scene, random: Random) -> Asked:
    a, b = (int(n) for n in random.permutation(len(scene.shapes))[:2])
    names = f"the {scene.shapes[a].name} and the {scene.shapes[b].name}"
    return number(
        "Measuring from the closest point of each object, what is the direct distance "
        f"between {names} (in meters)?",
        gap(scene, a, b),
    )


def ask_size(scene: Scene, random: Random) -> Asked:
    n = int(random.integers(len(scene.shapes)))
    side = scene.box(n, 0)[2] * METRES[scene.ground]
    return number(
        "What is the length of the longest dimension (length, width, or height) of the "
        f"{scene.shapes[n].name}, measured in centimeters?",
        round(side * 100),
    )


def ask_room(scene: Scene, random: Random) -> Asked:
    width, height = (side * METRES[scene.ground] for side in scene.size_wh)
    return number(
        "What is the size of this room (in square meters)? \nIf multiple rooms are "
        "shown, estimate the size of the combined space.",
        width * height,
    )


def ask_rel_distance(scene: Scene, random: Random) -> Asked:
    """Four objects to choose from; some may not be in the film at all."""
    n, *others = (int(k) for k in random.permutation(len(scene.shapes)))
    nearest = min(others, key=lambda k: gap(scene, n, k))
    absent = [
        f"{colour} {kind}"
        for colour in COLOURS
        for kind in KINDS
        if colour not in {shape.colour for shape in scene.shapes}
    ]
    names = [scene.shapes[k].name for k in others if k != nearest]
    names += [absent[k] for k in random.permutation(len(absent))]
    right = scene.shapes[nearest].name
    options, letter = choose(random, right, names[:3])
    listed = ", ".join(option[3:] for option in options)
    question = (
        "Measuring from the closest point of each object, which of these objects "
        f"({listed}) is the closest to the {scene.shapes[n].name}?"
    )
    return {"question": question, "ground_truth": letter, "options": options}


def ask_direction(level: str, scene: Scene, random: Random) -> Asked:
    a, b, c = (int(n) for n in random.permutation(len(scene.shapes))[:3])
    degrees = turn(scene, a, b, c, at=a)
    side = "right" if degrees > 0 else "left"
    if level == "easy":
        right, every = side, ["left", "right"]
        where = f"to the left or the right of the {scene.shapes[b].name}?"
    elif level == "medium":
        right, every = (
            "back" if abs(degrees) >= 135 else side,
            ["left", "right", "back"],
        )
        where = (
            "to my left, right, or back?\nAn object is to my back if I would have to "
            "turn at least 135 degrees in order to face it."
        )
    else:
        right = f"{'front' if abs(degrees) < 90 else 'back'}-{side}"
        every = ["front-left", "front-right", "back-left", "back-right"]
        where = (
            "to my front-left, front-right, back-left, or back-right?\nThe directions "
            "refer to the quadrants of a Cartesian plane (if I am standing at the "
            "origin and facing along the positive y-axis)."
        )
    options, letter = choose(random, right, [each for each in every if each != right])
    names = [scene.shapes[n].name for n in (a, b, c)]
    question = (
        f"If I am standing by the {names[0]} and facing the {names[1]}, is the "
        f"{names[2]} {where}"
    )
    return {"question": question, "ground_truth": letter, "options": options}


def ask_route(scene: Scene, random: Random) -> Asked:
    a, b, c = (int(n) for n in random.permutation(len(scene.shapes))[:3])
    degrees = turn(scene, a, b, c, at=b)
    right = "Turn Right" if degrees > 0 else "Turn Left"
    if abs(degrees) >= 135:
        right = "Turn Back"
    every = ["Turn Back", "Turn Left", "Turn Right"]
    options, letter = choose(random, right, [each for each in every if each != right])
    names = [scene.shapes[n].name for n in (a, b, c)]
    question = (
        f"You are a robot beginning at the {names[0]} facing the {names[1]}. You want "
        f"to navigate to the {names[2]}. You will perform the following actions (Note: "
        "for each [please fill in], choose either 'turn back,' 'turn left,' or 'turn "
        f"right.'): 1. Go forward until the {names[1]} 2. [please fill in] 3. Go "
        f"forward until the {names[2]}. You have reached the final destination."
    )
    return {"question": question, "ground_truth": letter, "options": options}


def ask_order(scene: Scene, random: Random) -> Asked:
    shapes = sorted(scene.shapes, key=lambda shape: shape.appears)
    names = [shape.name for shape in shapes]
    orders = {", ".join(names): None}
    while len(orders) < 4:
        orders[", ".join(str(name) for name in random.permutation(names))] = None
    right, *wrong = orders
    options, letter = choose(random, right, wrong)
    listed = ", ".join(str(name) for name in random.permutation(names))
    question = (
        "What will be the first-time appearance order of the following categories in "
        f"the video: {listed}?"
    )
    return {"question": question, "ground_truth": letter, "options": options}


VSIBENCH: dict[str, Callable[[Scene, Random], Asked]] = {
    "object_counting": ask_counting,
    "object_abs_distance": ask_abs_distance,
    "object_size_estimation": ask_size,
    "room_size_estimation": ask_room,
    "object_rel_distance": ask_rel_distance,
    "object_rel_direction_easy": lambda *each: ask_direction("easy", *each),
    "object_rel_direction_medium": lambda *each: ask_direction("medium", *each),
    "object_rel_direction_hard": lambda *each: ask_direction("hard", *each),
    "route_planning": ask_route,
    "obj_appearance_order": ask_order,
}


# ------------------------------------------------------------------------ VSTI-Bench
NEAREST = "In {one}, which object is closest to the camera?"
VSTIBENCH: dict[str, tuple[str, tuple[str, ...] | int]] = {
    # What is asked, and the answers to choose from: texts, so many objects, or 0 for
    # a number.
    "obj_obj_relative_pos_nf": (
        "In {one}, is the {a} nearer or farther than the {b}?",
        ("Near", "Far"),
    ),
    "obj_obj_relative_pos_ud": (
        "In {one}, is the {a} above or below the {b}?",
        ("Up", "Down"),
    ),
    "obj_obj_relative_pos_lr": (
        "In {one}, is the {a} left or right of the {b}?",
        ("Left", "Right"),
    ),
    "camera_obj_rel_dist_v1": (NEAREST, 4),
    "camera_obj_rel_dist_v2": (NEAREST, 3),
    "camera_obj_rel_dist_v3": (NEAREST, 2),
    "camera_movement_direction": (
        "Which way does the camera mainly move between {one} and {two}?",
        ("Forward", "Backward", "Left", "Right"),
    ),
    "camera_obj_abs_dist": (
        "What is the distance between the camera and the {a} in {one} (in meters)?",
        0,
    ),
    "camera_displacement": (
        "How far does the camera move between {one} and {two} (in meters)?",
        0,
    ),
    "camera_obj_dist_change": (
        "By how much does the distance between the camera and the {a} change between "
        "{one} and {two} (in meters)?",
        0,
    ),
}


def ask_vsti(kind: str, scene: Scene, random: Random) -> Asked:
    """A row as VSTI-Bench has it: numbers carry options too, which nobody reads."""
    text, answers = VSTIBENCH[kind]
    a, b = (int(n) for n in random.permutation(len(scene.shapes))[:2])
    first, last = (int(n) for n in np.sort(random.permutation(FRAMES)[:2]))
    question = text.format(
        a=scene.shapes[a].name,
        b=scene.shapes[b].name,
        one=f"frame {first + 1} of {FRAMES}",
        two=f"frame {last + 1} of {FRAMES}",
    )
    if not answers:
        values = [round(float(n), 1) for n in random.uniform(0.2, 6.0, 4)]
        options, letter = choose(random, str(values[0]), [str(n) for n in values[1:]])
        truth: str | float = values[0]
    else:
        if isinstance(answers, int):
            order = random.permutation(len(COLOURS))[:answers]
            answers = tuple(f"{list(COLOURS)[n]} object" for n in order)
        truth = answers[int(random.integers(len(answers)))]
        if kind[-3:] in ("_ud", "_lr"):  # where they are in that frame
            axis = kind.endswith("_ud")
            frame = first * (scene.frames - 1) // (FRAMES - 1)
            places = [
                scene.box(n, frame)[axis] + scene.box(n, frame)[2] / 2 for n in (a, b)
            ]
            truth = answers[places[0] > places[1]]
        options, letter = choose(random, truth, [n for n in answers if n != truth])
    return {
        "question": question,
        "options": options,
        "ground_truth": truth,
        "mc_answer": letter,
    }


# ---------------------------------------------------------------------------- ScanQA
def ask_scanqa(scene: Scene, random: Random) -> tuple[str, list[str]]:
    """One of a film's questions and one to three answers that count as right."""
    pairs = ask(scene)
    question, answer = pairs[int(random.integers(len(pairs)))]
    short = answer.rstrip(".").lower()
    answers = [short, f"it is {short}", f"{short} {short}"]
    return question, answers[: int(random.integers(1, 4))]
