"""A generated room as the arrays of one training example.

Nothing is read or written: a room's number decides its scene, walk, frames, questions
and targets, so a run is resumed by a counter and never sees a room twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vica_jax.data.conversation import SYSTEM
from vica_jax.data.pixels import resize_siglip
from vica_jax.eval.prompts import user_turn
from vica_jax.layout import VisualLayout
from vica_jax.pretrain.targets import (
    ANSWER,
    CAPTION,
    FACT,
    PAIR,
    answer_facts,
    cell_targets,
    list_objects,
    mention_targets,
    option_facts,
    pair_targets,
    pose_targets,
)
from vica_jax.pretrain.texts import caption_batch, told_rows
from vica_jax.pretrain.words import TURN, TURN_END
from vica_jax.world.asking import ask_all
from vica_jax.world.camera import Camera
from vica_jax.world.captions import caption_frame, see
from vica_jax.world.catalogue import CATALOGUE, plural
from vica_jax.world.film import LEAST_SHARE, pixel_counts
from vica_jax.world.generate import make_scene
from vica_jax.world.interview import interview
from vica_jax.world.make import WALK
from vica_jax.world.question import IMAGE, Question
from vica_jax.world.records import make_record
from vica_jax.world.render import Renderer
from vica_jax.world.scene import Scene, SceneError
from vica_jax.world.walk import Walk, make_walk

ASK, PHRASE, SHOW, TELL = 100, 101, 102, 103  # streams of the seed
TOLD = 4
CATEGORIES = tuple(CATALOGUE)
NAMES = tuple((name, plural(name)) for name in CATEGORIES)
# How often a question is asked in a benchmark's prompt; the rest is ViCA-322K's form.
PROFILES = {"vica_readme": 0.5, "official": 0.15}
BEFORE = f"{TURN}system\n{SYSTEM}{TURN_END}\n{TURN}user\n"
AFTER = f"{TURN_END}\n{TURN}assistant\n"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What stands after the film, and the answer that is to be learned."""

    text: str
    answer: str


def asked_as(question: Question, rng: np.random.Generator) -> Asked:
    """One wording of a question: ViCA-322K's, or one of VSI-Bench's two prompts."""
    shares = [*PROFILES.values(), 1 - sum(PROFILES.values())]
    profile = [*PROFILES, None][int(rng.choice(len(shares), p=shares))]
    if profile is None or not question.in_vsi_bench:
        text, answer = question.human_turn(), question.text_answer
    else:
        text, answer = user_turn(profile, question.vsi_row(0)), question.answer
    return Asked(text=text.removeprefix(IMAGE), answer=answer)


@dataclass(frozen=True, kw_only=True)
class RoomShape:
    """Sizes of an example: frames by the layout, the film's ``width`` and ``height``
    in pixels, ``groups`` of questions: (how many, tokens at most), shorter first; and
    ``captions`` and ``records``, the numbers of its frames with one and of what is told
    of its film, from room ``texts_from`` on.
    """

    layout: VisualLayout
    width: int
    height: int
    groups: tuple[tuple[int, int], ...]
    captions: int = 0
    records: int = 0
    texts_from: int = 0


class RoomMaker:
    """Makes examples by number; holds a renderer, a tokenizer and the sizes."""

    def __init__(self, shape: RoomShape, tokenizer: Any, named: Mapping[int, int]):
        self.shape, self.tokenizer, self.named = shape, tokenizer, named
        self.renderer = Renderer(Camera(width=shape.width, height=shape.height))
        (self.line,), _ = self._encode("\n")
        self.always = [*self._encode(f"{TURN}{TURN_END}")[0], self.line]
        self.header = len(self._encode(AFTER.rpartition(TURN)[2])[0])

    def make(self, seed: int, number: int) -> Arrays:
        """The example's arrays (``pretrain.loss`` reads them)."""
        layout = self.shape.layout
        room = film_room(self.renderer, seed, number, layout.num_frames)
        side = layout.siglip_pooled_grid
        targets = cell_targets(room.scene, room.walk, room.ids, side, CATEGORIES)
        rng = np.random.default_rng([seed, PHRASE, number])
        arrays = self._ask(room, rng)
        arrays["frames"] = resize_siglip(room.rgb, layout.siglip_image_size)
        if layout.has_hiera:
            arrays["hiera_frames"] = room.rgb[:: layout.frame_stride]
            arrays["hiera_frame_sizes"] = np.array(room.rgb.shape[1:3], np.int32)
        arrays["cells"], arrays["places"] = targets
        arrays["poses"] = pose_targets(room.scene, room.walk)
        shares = {
            name: seconds / max(room.seconds, 1e-6)
            for name, seconds in (room.scene.first_seen or {}).items()
        }
        arrays["mentions"] = mention_targets(room.scene, shares, CATEGORIES)
        arrays["objects"] = list_objects(room.scene, shares, CATEGORIES, rng)
        if number < self.shape.texts_from:
            return arrays
        if count := self.shape.captions:
            rng = np.random.default_rng([seed, SHOW, number])
            pairs: Any = caption_batch(room, layout, self.tokenizer, count, rng)
            arrays |= {f"{CAPTION}{name}": array for name, array in pairs.items()}
        if count := self.shape.records:
            rng = np.random.default_rng([seed, TELL, number])
            told = told_rows(room, self.tokenizer, count, rng)
            arrays["told"], arrays["taught"] = told
        return arrays

    def _ask(self, room: "FilmedRoom", rng: np.random.Generator) -> Arrays:
        """Rows ``name/k [count,length]`` of each group, filled with what fits."""
        groups = self.shape.groups
        arrays: Arrays = {
            f"{name}/{k}": np.full(size, fill, np.int32)
            for name, fill in (
                *(("questions", 0), ("answers", -1)),
                *(("marks", -1), ("mentioned", -1)),
            )
            for k, size in enumerate(groups)
        }
        for k, size in enumerate(groups):
            arrays[f"facts/{k}"] = np.full((*size, FACT), np.nan, np.float32)
            arrays[f"pairs/{k}"] = np.full((*size, PAIR), np.nan, np.float32)
            arrays[f"rights/{k}"] = np.full(size, np.nan, np.float32)
        filled = [0] * len(groups)
        for question in spread(room.questions, rng):
            if filled == [count for count, _ in groups]:
                break
            asked = asked_as(question, rng)
            before, ends = self._encode(f"{asked.text}{AFTER}")
            answer, _ = self._encode(f"{asked.answer}{TURN_END}")
            start, stop = len(before), len(before) + len(answer)
            for k, (count, length) in enumerate(groups):
                if stop > length or stop - start > ANSWER or filled[k] == count:
                    continue
                row = filled[k]
                arrays[f"questions/{k}"][row, :stop] = [*before, *answer]
                arrays[f"answers/{k}"][row, start - 1 : stop - 1] = answer
                after = np.array([*before[1:], answer[0], *answer[1:], self.line])
                marks = np.where(np.isin(after, self.always), after, -1)
                marks[start - 1 - self.header : start - 1] = before[-self.header :]
                marks[start - 1 : stop - 1] = -1
                arrays[f"marks/{k}"][row, :stop] = marks
                named = [self.named.get(token, -1) for token in before]
                arrays[f"mentioned/{k}"][row, :start] = named
                own = row_targets(room.scene, question, asked.text, named, ends)
                for name, values in own._asdict().items():
                    arrays[f"{name}/{k}"][row, :start] = values
                filled[k] += 1
                break
        if not any(filled):
            raise SceneError(
                f"{room.scene.name}: no question fits in {groups[-1][1]} tokens: give "
                "longer groups"
            )
        return arrays

    def _encode(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids, and where each ends in the text."""
        backend = getattr(self.tokenizer, "backend_tokenizer", self.tokenizer)
        found = backend.encode(text, add_special_tokens=False)
        return found.ids, [end for _, end in found.offsets]


class RowTargets(NamedTuple):
    """What is known at the tokens ``[T]`` of a question; NaN where nothing is.

    ``facts [T,3]``: what the answer follows from, where the last thing is named (of a
    route at each stop that is turned to) and at the end, the first turn's; of a
    relative distance at each option. ``pairs [T,2]``: from the
    thing named before, at an option of a relative distance from the one that is asked
    about. ``rights [T]``: 1 or 0 at the end of each option.
    """

    facts: np.ndarray
    pairs: np.ndarray
    rights: np.ndarray


def row_targets(
    scene: Scene, question: Question, text: str, named: list[int], ends: list[int]
) -> RowTargets:
    """Targets of tokens that name ``named`` (-1: nothing) and end at ``ends``."""
    T = len(named)
    facts = np.full((T, FACT), np.nan, np.float32)
    rights = np.full(T, np.nan, np.float32)
    places = option_ends(question, text)
    first = T
    for place, option in zip(places, question.options or (), strict=True):
        at = int(np.searchsorted(ends, place))
        first = min(first, int(np.searchsorted(ends, place - len(option), "right")))
        rights[at] = option == question.text_answer
    told = answer_facts(question)
    last = [at for at in range(first) if named[at] >= 0][-len(told) :]
    for at, fact in [*zip(last, told, strict=False), *((T - 1, f) for f in told[:1])]:
        facts[at] = np.array(fact, np.float32)
    pairs = pair_targets(scene, [*named[:first], *[-1] * (T - first)], CATEGORIES)
    distances = option_facts(question)
    for name, fact in distances.items():
        at = np.flatnonzero(np.array(named) == CATEGORIES.index(name))
        facts[at[-1:], 0] = fact
    anchors = [name for name in question.objects if name not in distances]
    if distances and len(anchors) == 1:
        anchor = CATEGORIES.index(anchors[0])
        pairs[first:] = pair_targets(scene, named[first:], CATEGORIES, anchor)
    return RowTargets(facts=facts, pairs=pairs, rights=rights)


def option_ends(question: Question, text: str) -> list[int]:
    """Where each option ends in a text that has them in their order at its end."""
    ends, stop = [], len(text)
    for option in reversed(question.options or ()):
        start = text.rindex(option, 0, stop)
        ends.append(start + len(option))
        stop = start
    return ends[::-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class FilmedRoom:
    """Scene with what was seen when, the walk's sampled poses, frames
    ``uint8[F,H,W,3]``, ids ``int16[F,H,W]``, the film's length, the numbers of boxes
    that it does not show, and the questions on it."""

    scene: Scene
    walk: Walk
    rgb: np.ndarray
    ids: np.ndarray
    seconds: float
    hidden: frozenset[int]
    questions: list[Question]


def film_room(renderer: Renderer, seed: int, number: int, frames: int) -> FilmedRoom:
    """The room of that number, seen in ``frames`` uniform frames of its walk."""
    scene = make_scene(seed, number)
    walk = make_walk(scene, np.random.default_rng([seed, WALK, number]))
    seconds = len(walk) / walk.rate
    taken = np.linspace(0, len(walk) - 1, frames).astype(int)
    walk = walk.at(taken)
    rgb, ids = renderer.render(scene, walk.positions, walk.yaws, walk.pitches)
    pixels = pixel_counts(ids, len(scene.boxes))
    least = LEAST_SHARE * ids[0].size
    seen: dict[str, float] = {}
    for column, box in enumerate(scene.boxes):
        frames_seen = np.flatnonzero(pixels[:, column] >= least)
        if len(frames_seen):
            at = float(taken[frames_seen[0]] / walk.rate)
            seen[box.category] = min(at, seen.get(box.category, at))
    hidden = frozenset(map(int, np.flatnonzero(pixels.max(0) < least)))
    scene = scene.with_first_seen(seen)
    rng = np.random.default_rng([seed, ASK, number])
    questions = ask_all(scene, rng, hidden=hidden)
    return FilmedRoom(
        scene=scene,
        walk=walk,
        rgb=rgb,
        ids=ids,
        seconds=seconds,
        hidden=hidden,
        questions=questions,
    )


def spread(questions: Sequence[Question], rng: np.random.Generator) -> list[Question]:
    """All questions, tasks taking turns in a random order."""
    by_task: dict[str, list[Question]] = {}
    for k in rng.permutation(len(questions)):
        question = questions[int(k)]
        by_task.setdefault(question.task, []).append(question)
    order: list[Question] = []
    while by_task:
        tasks = sorted(by_task)
        for k in rng.permutation(len(tasks)):
            own = by_task[tasks[int(k)]]
            order.append(own.pop())
            if not own:
                del by_task[tasks[int(k)]]
    return order


def training_texts(seed: int, rooms: int) -> list[str]:
    """Turns to train a tokenizer on: the questions on ``rooms`` rooms, and of one room
    in TOLD all that is told of it too. Nothing is filmed but for the captions.
    """
    texts: list[str] = []
    renderer = Renderer(Camera(width=64, height=48))
    for number in range(rooms):
        scene = make_scene(seed, number)
        seen = {name: float(at) for at, name in enumerate(scene.categories)}
        scene = scene.with_first_seen(seen)
        rng = np.random.default_rng([seed, PHRASE, number])
        turns = []
        for question in ask_all(scene, rng):
            asked = asked_as(question, rng)
            turns.append((asked.text, asked.answer))
        if number % TOLD == 0:
            records = interview(scene, seed, number=number).files
            told = [r for n, rs in records.items() if "base/" not in n for r in rs]
            told += _caption_records(renderer, scene, seed, number)
            for record in told:
                said = [turn["value"] for turn in record["conversations"]]
                turns += zip(said[::2], said[1::2], strict=True)
        for asked, answer in turns:
            text = asked.removeprefix(IMAGE)
            texts.append(f"{BEFORE}{text}{AFTER}{answer}{TURN_END}\n")
    return texts


def _caption_records(
    renderer: Renderer, scene: Scene, seed: int, number: int
) -> list[dict[str, Any]]:
    rng = np.random.default_rng([seed, WALK, number])
    walk = make_walk(scene, rng, frames=4)
    _, ids = renderer.render(scene, walk.positions, walk.yaws, walk.pitches)
    return [
        make_record([caption_frame(scene, see(shown, len(scene.boxes)), at, rng)])
        for shown, at in zip(ids, walk.positions, strict=True)
    ]
