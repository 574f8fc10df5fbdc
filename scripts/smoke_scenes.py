"""Coloured shapes that stand or move, and the questions that they answer.

What ``scripts.make_smoke_data`` shows and asks; ``make_smoke_benchmark`` shows the same
and asks what a benchmark asks (``smoke_questions``).
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (200, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 80, 200),
    "yellow": (225, 205, 50),
    "purple": (140, 60, 170),
    "white": (240, 240, 240),
}
KINDS = ("circle", "square", "triangle")
GROUNDS = ((24, 24, 32), (96, 84, 72), (120, 130, 140))
FILLS = (0.95, 0.75, 0.55, 0.4)  # side of a shape in its lane: all different
NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight")
VIDEO_SIZES = ((64, 48), (96, 64), (128, 96), (160, 120), (48, 64))
IMAGE_SIZES = (*VIDEO_SIZES, (50, 75), (110, 45))
RATES = (2, 5, 10)  # frames per second
FRAMES = (10, 41)  # of a video, from and below

Pair = tuple[str, str]  # question and answer


# ------------------------------------------------------------------- what is shown
@dataclass(frozen=True, kw_only=True)
class Shape:
    """A shape on its lane; ``start`` and ``end`` are places along it, 0 to 1.

    It is shown from the moment ``appears`` on: 0 is the first frame, 1 the last.
    """

    colour: str
    kind: str
    fill: float
    start: float
    end: float
    appears: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Shapes on lanes that do not touch: rows of the frame, or its columns."""

    size_wh: tuple[int, int]
    ground: tuple[int, int, int]
    rows: bool
    shapes: tuple[Shape, ...]
    frames: int = 1
    rate: int = 1

    def motion(self, shape: Shape) -> str:
        """left, right, up, down or "" for a shape that stays."""
        if shape.start == shape.end:
            return ""
        names = ("left", "right") if self.rows else ("up", "down")
        return names[shape.end > shape.start]

    def moment(self, frame: int) -> float:
        return frame / max(self.frames - 1, 1)

    def box(self, number: int, frame: int) -> tuple[float, float, float]:
        """Left, top and side of the square around a shape, in pixels."""
        shape, (width, height) = self.shapes[number], self.size_wh
        across, along = (height, width) if self.rows else (width, height)
        lane = across / len(self.shapes)
        side = shape.fill * min(lane, along / 2)
        place = shape.start + (shape.end - shape.start) * self.moment(frame)
        u = place * (along - side)  # along the lane
        v = lane * number + (lane - side) / 2  # across it
        return (u, v, side) if self.rows else (v, u, side)

    def draw(self, frame: int) -> Image.Image:
        picture = Image.new("RGB", self.size_wh, self.ground)
        canvas = ImageDraw.Draw(picture)
        for number, shape in enumerate(self.shapes):
            if shape.appears <= self.moment(frame):
                x, y, side = self.box(number, frame)
                _draw_shape(canvas, shape, x, y, side - 1)
        return picture


def _draw_shape(
    canvas: ImageDraw.ImageDraw, shape: Shape, x: float, y: float, side: float
) -> None:
    box, colour = (x, y, x + side, y + side), COLOURS[shape.colour]
    if shape.kind == "circle":
        canvas.ellipse(box, fill=colour)
    elif shape.kind == "square":
        canvas.rectangle(box, fill=colour)
    else:
        top, left, right = (x + side / 2, y), (x, y + side), (x + side, y + side)
        canvas.polygon([top, left, right], fill=colour)


def make_scene(
    seed: int, part: int, number: int, *, still: bool, fewest: int = 2
) -> Scene:
    """Scene ``number`` of a part of the data set; a still one is one frame of columns.

    It has ``fewest`` to four shapes; at least one of a moving scene moves.
    """
    random = np.random.default_rng([seed, part, number])
    count = int(random.integers(fewest, 5))
    colours = random.permutation(list(COLOURS))[:count]
    fills = random.permutation(FILLS)[:count]
    shapes = []
    for i in range(count):
        start = end = float(random.uniform(0.1, 0.9))
        if not still and (i == 0 or random.random() < 0.6):
            start, end = [(0.0, 1.0), (1.0, 0.0)][int(random.integers(2))]
        kind = KINDS[int(random.integers(len(KINDS)))]
        fill = float(fills[i])
        shapes.append(
            Shape(colour=str(colours[i]), kind=kind, fill=fill, start=start, end=end)
        )
    sizes = IMAGE_SIZES if still else VIDEO_SIZES
    return Scene(
        size_wh=sizes[number % len(sizes)],
        ground=GROUNDS[int(random.integers(len(GROUNDS)))],
        rows=not still and bool(random.integers(2)),
        shapes=tuple(shapes),
        frames=1 if still else int(random.integers(*FRAMES)),
        rate=RATES[int(random.integers(len(RATES)))],
    )


# ------------------------------------------------------------------- what is asked
def describe(scene: Scene) -> str:
    """What stands in the columns of a still scene."""
    names = [f"a {shape.name}" for shape in scene.shapes]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{listed[0].upper()}{listed[1:]}, from left to right."


def ask(scene: Scene) -> list[Pair]:
    """Every question that a scene answers, short answers, in a fixed order."""
    shapes = scene.shapes
    large = max(shapes, key=lambda shape: shape.fill)
    small = min(shapes, key=lambda shape: shape.fill)
    pairs = [
        ("How many shapes are there?", f"{NUMBERS[len(shapes)]}."),
        (
            f"Which is larger, the {small.name} or the {large.name}?",
            f"The {large.name}.",
        ),
    ]
    for shape in shapes:
        if sum(other.kind == shape.kind for other in shapes) == 1:
            pairs.append(
                (f"What colour is the {shape.kind}?", f"{shape.colour.capitalize()}.")
            )
    if scene.frames == 1:
        first, last = shapes[0].name, shapes[-1].name
        pairs.append(("Which shape is at the left?", f"The {first}."))
        pairs.append((f"Is the {last} to the left of the {first}?", "No."))
        pairs.append((f"Is the {first} to the left of the {last}?", "Yes."))
        return pairs
    moving = [shape for shape in shapes if scene.motion(shape)]
    pairs.append(("How many shapes move?", f"{NUMBERS[len(moving)]}."))
    for shape in moving:
        way = scene.motion(shape)
        pairs.append((f"Which way does the {shape.name} move?", f"{way.capitalize()}."))
        if sum(scene.motion(other) == way for other in moving) == 1:
            pairs.append((f"Which shape moves {way}?", f"The {shape.name}."))
    return pairs


def ask_thinking(scene: Scene) -> Pair:
    """A question on motion, its answer after what was seen of each shape."""
    seen = []
    for shape in scene.shapes:
        way = scene.motion(shape)
        seen.append(f"The {shape.name} {f'moves {way}' if way else 'stays'}.")
    moving = sum(bool(scene.motion(shape)) for shape in scene.shapes)
    answer = f"Thoughts: {' '.join(seen)}\nAnswer: {NUMBERS[moving]}."
    return "How many shapes move? Think first.", answer


def ask_words(seed: int, part: int, number: int) -> Pair:
    """A question that needs no eyes."""
    random = np.random.default_rng([seed, part, number])
    a, b = (int(n) for n in random.integers(2, 5, 2))
    if number % 2:
        kind, sides = (("triangle", 3), ("square", 4))[int(random.integers(2))]
        return f"How many sides do {a} {kind}s have?", f"{a * sides}."
    return f"What is {a} plus {b}?", f"{NUMBERS[a + b]}."
