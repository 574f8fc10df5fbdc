"""Captions of frames: read back, and judged from the pixels anew."""

import math
import re
from collections import Counter

import numpy as np
import pytest
from told_truths import nearest_in, plural_of, sentences

from vica_jax.world.captions import ASK, View, caption_frame, place, see, spread
from vica_jax.world.generate import make_scene
from vica_jax.world.scene import Door, Scene, upright

HEIGHT, WIDTH = 36, 48


def painted(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A picture of rectangles: walls, perhaps doors, and some of the boxes."""
    ids = np.full((HEIGHT, WIDTH), int(rng.choice([-1, -2, -3, -3])))
    kinds = [-3, -4, *range(len(scene.boxes))]
    for kind in rng.permutation(kinds)[: rng.integers(0, 9)]:
        top, left = rng.integers(0, HEIGHT), rng.integers(0, WIDTH)
        high, wide = rng.integers(1, 16, 2)
        ids[top : top + high, left : left + wide] = kind
    return ids


def where_of(ids: np.ndarray, shown: np.ndarray) -> str | None:
    """The third of the width with the mean of some pixels, counted one by one."""
    columns = [
        column + 0.5
        for row in range(HEIGHT)
        for column in range(WIDTH)
        if shown[row, column]
    ]
    mean = sum(columns) / len(columns) / WIDTH
    if abs(mean - 1 / 3) < 0.03 or abs(mean - 2 / 3) < 0.03:
        return None
    return ("on the left", "in the middle", "on the right")[math.floor(mean * 3)]


class Seen:
    """What a picture shows, thing by thing."""

    def __init__(self, scene: Scene, ids: np.ndarray, position: np.ndarray):
        self.scene, self.ids = scene, ids
        self.least = 0.003 * ids.size
        self.things = []
        for k, box in enumerate(scene.boxes):
            shown = ids == k
            if shown.any():
                away = math.dist(position, nearest_in(box, position))
                self.things.append(
                    (box.category, where_of(ids, shown), away, int(shown.sum()))
                )

    def some(self, name: str, where: str | None, metres: str | None = None) -> bool:
        return any(
            category == name
            and pixels >= self.least
            and (where is None or where == place)
            and (metres is None or abs(away - float(metres)) < 0.051)
            for category, place, away, pixels in self.things
        )

    def amount(self, text: str) -> bool:
        """ "a bed on the left" or "2 chairs in the middle"."""
        found = re.fullmatch(
            r"(an?|\d+) (.+?)((?: on the left| in the middle| on the right)?)", text
        )
        if not found:
            return False
        many, name, where = found[1], found[2], found[3].strip() or None
        if many in ("a", "an"):
            vowel = name[0] in "aeiou"
            return self.some(name, where) and (many == "an") == vowel
        names = [c for c in self.scene.categories if plural_of(c) == name]
        here = [t for t in self.things if [t[0]] == names and t[1] == where]
        clear = all(t[3] >= self.least for t in self.things if [t[0]] == names)
        return where is not None and clear and len(here) == int(many) > 1

    def judge(self, sentence: str) -> tuple[str, bool]:
        """A name for the claim, "" where nobody knows one, and whether it is true."""
        text = sentence.removesuffix(".")
        place = r"(on the left|in the middle|on the right)"
        wall = (self.ids == -3).mean()
        door = (self.ids == -4).sum() >= self.least
        if text in ("Walls fill most of the picture", "Most of it is wall"):
            return "wall", wall > 0.5
        if text in ("No furniture is in view", "No thing is to be seen"):
            return "bare", not self.things
        if text == "Little is in view but the bare room":
            return "little", all(pixels < self.least for *_, pixels in self.things)
        if text == "A door is in view":
            return "door", door
        if found := re.fullmatch(rf"(?:There is a door|A door is) {place}", text):
            shown = where_of(self.ids, self.ids == -4) if door else None
            return "door there", shown == found[1] and len(self.scene.doors) == 1
        if found := re.fullmatch(r"The (.+) takes the most space", text):
            sizes = sorted(self.things, key=lambda thing: -thing[3])
            return "most", sizes[0][0] == found[1] and sizes[0][3] > sizes[1][3]
        if found := re.fullmatch(
            r"The (.+) is closer to the camera than the (.+)", text
        ):
            gaps = [
                [t[2] for t in self.things if t[0] == name] for name in found.groups()
            ]
            return "closer", [len(g) for g in gaps] == [1, 1] and gaps[0] < gaps[1]
        if found := re.fullmatch(
            rf"An? (.+?)(?: {place})?, {NUMBER} meters away", text
        ):
            return "metres", self.some(found[1], found[2], found[3])
        if found := re.fullmatch(
            rf"An? (.+?) is {place}?(?:, )?(near|far away)?", text
        ):
            name, where, far = found.groups()
            fits = [
                t
                for t in self.things
                if t[0] == name
                and (where is None or t[1] == where)
                and (far is None or (t[2] < 1.5 if far == "near" else t[2] > 3.0))
            ]
            return "placed", bool(fits) and (where or far) is not None
        if found := re.fullmatch(r"An? (.+?) is in view", text):
            return "there", self.some(found[1], None)
        text = re.sub("^(I see|In view:|The picture shows) ", "", text)
        parts = re.split(r", | and ", text[0].lower() + text[1:])
        if all(re.match(r"(an?|\d+) ", part) for part in parts):
            return "list", all(self.amount(part) for part in parts)
        return "", False


NUMBER = r"(\d+\.\d)"


def test_captions_are_true():
    met, asked_all = Counter(), set()
    for number in range(40):
        rng = np.random.default_rng([4, number])
        scene = make_scene(17, number)
        assert scene.outline is not None
        for _ in range(6):
            ids = painted(scene, rng)
            x, y = rng.uniform(scene.outline.min(0), scene.outline.max(0))
            position = np.array([x, y, 1.5])
            view = see(ids, len(scene.boxes))
            asked, told = caption_frame(scene, view, position, rng)
            asked_all.add(asked)
            seen = Seen(scene, ids, position)
            for sentence in sentences(told):
                claim, true = seen.judge(sentence)
                assert claim, f"nobody knows what this claims: {sentence!r}"
                assert true, (number, told, sentence, seen.things)
                met[claim] += 1
    assert asked_all == set(ASK)
    assert {"wall", "bare", "most", "closer", "metres", "placed", "list"} <= set(met)
    assert met["door"] + met["door there"] > 5


def test_pixels_and_columns_are_counted():
    ids = np.full((4, 8), -3)
    ids[:, 6:] = -4
    ids[1:3, 0:2] = 2
    ids[0, 0] = -1
    ids[3, 0] = -2
    view = see(ids.astype(np.int16), 4)
    assert view.pixels.tolist() == [0, 0, 4, 0]
    assert view.columns[2] == pytest.approx(1 / 8) and np.isnan(view.columns[0])
    assert (view.wall, view.door, view.size) == (18, 8, 32)
    assert view.door_column == pytest.approx(7 / 8)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (0.0, "on the left"),
        (0.29, "on the left"),
        (0.32, None),
        (0.35, None),
        (0.5, "in the middle"),
        (0.65, None),
        (0.7, "on the right"),
        (1.0, "on the right"),
    ],
)
def test_places_have_clear_borders(column, said):
    assert place(column) == said


def one(pixels: list[int], columns: list[float], **changes) -> View:
    values = {"wall": 0, "door": 0, "door_column": math.nan} | changes
    return View(
        pixels=np.array(pixels), columns=np.array(columns), size=10_000, **values
    )


def chairs(count: int, doors: int = 1) -> Scene:
    boxes = [
        upright("chair", np.array([2.0 + k, 0, 0.5]), np.full(3, 0.5), 0)
        for k in range(count)
    ]
    return Scene(
        name="chairs",
        dataset="world",
        boxes=tuple(boxes),
        area=9.0,
        doors=(Door(wall=0, start=0.5, width=0.9, height=2.0),) * doors,
    )


def test_what_barely_shows_is_not_counted():
    position = np.zeros(3)
    clear = one([400, 300, 200], [0.1, 0.15, 0.2])
    barely = one([400, 300, 3], [0.1, 0.15, 0.2])
    between = one([400, 300, 200], [0.1, 0.15, 1 / 3])
    told = {
        name: {
            caption_frame(chairs(3), view, position, np.random.default_rng(k))[1]
            for k in range(60)
        }
        for name, view in (("clear", clear), ("barely", barely), ("between", between))
    }
    assert any("3 chairs on the left" in text for text in told["clear"])
    for name in ("barely", "between"):
        assert not any("chairs" in text for text in told[name]), name
    texts = " ".join(told["barely"])
    assert "camera" not in texts  # which chair would it be?
    assert caption_frame(
        chairs(3), one([2, 0, 0], [0.1] * 3), position, np.random.default_rng(0)
    )[1].startswith("Little is in view")


def test_two_doors_have_no_place():
    view = one([0], [math.nan], door=500, door_column=0.5)
    for k in range(5):
        rng = np.random.default_rng(k)
        told = caption_frame(chairs(1, doors=2), view, np.zeros(3), rng)[1]
        assert told.startswith("A door is in view.")


def test_frames_are_spread_over_the_film():
    for frames, count in ((120, 8), (7, 7), (3, 9), (200, 1), (0, 4)):
        chosen = spread(frames, count, np.random.default_rng(1))
        assert len(chosen) == min(frames, count) == len(set(chosen))
        assert chosen == sorted(chosen)
        for part, frame in enumerate(chosen):
            first, last = (
                part * frames // len(chosen),
                (part + 1) * frames // len(chosen),
            )
            assert first <= frame < last
