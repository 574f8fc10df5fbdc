"""A benchmark's question, and the types of question that each benchmark has."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Kind = Literal["choice", "number", "text"]
BenchmarkName = Literal["vsibench", "vstibench", "scanqa"]
BENCHMARKS: tuple[BenchmarkName, ...] = get_args(BenchmarkName)

# Question types and their kinds, in the order of the official tables.
TYPES: Mapping[str, Mapping[str, Kind]] = {
    "vsibench": {
        "object_counting": "number",
        "object_abs_distance": "number",
        "object_size_estimation": "number",
        "room_size_estimation": "number",
        "object_rel_distance": "choice",
        "object_rel_direction_easy": "choice",
        "object_rel_direction_medium": "choice",
        "object_rel_direction_hard": "choice",
        "route_planning": "choice",
        "obj_appearance_order": "choice",
    },
    "vstibench": {
        "obj_obj_relative_pos_nf": "choice",
        "obj_obj_relative_pos_ud": "choice",
        "obj_obj_relative_pos_lr": "choice",
        "camera_obj_rel_dist_v1": "choice",
        "camera_obj_rel_dist_v2": "choice",
        "camera_obj_rel_dist_v3": "choice",
        "camera_movement_direction": "choice",
        "camera_obj_abs_dist": "number",
        "camera_displacement": "number",
        "camera_obj_dist_change": "number",
    },
    "scanqa": {"scanqa": "text"},
}
# What a table has a column for: VSI-Bench reports the three directions as one.
TASKS: Mapping[str, tuple[str, ...]] = {
    name: tuple(dict.fromkeys(re.sub(r"_(easy|medium|hard)$", "", t) for t in types))
    for name, types in TYPES.items()
}
_LETTER = re.compile(r"\s*\(?([A-Z])[.):]")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One row of a benchmark that can be asked.

    Attributes:
      id: the row's id as text; predictions are joined by it.
      kind: choice (a letter of ``options``), number, or text.
      question: bare, as published; ScanQA's without its image tag.
      options: as published, ``("A. chair", ...)``; None unless ``kind`` is choice.
      video: below the benchmark's folder: ``scannet/scene0000_00.mp4``.
      doc: the row's columns as JSON values, for the scorers.
    """

    id: str
    question_type: str
    kind: Kind
    question: str
    options: tuple[str, ...] | None
    video: str
    doc: Mapping[str, Any]

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the options, upper case; none without options."""
        return find_letters(self.options or ())

    @property
    def truth(self) -> str:
        """A letter, a number as text, or ScanQA's first answer."""
        if self.kind == "text":
            return self.doc["metadata"]["answers"][0]
        choice = self.kind == "choice" and self.question_type in TYPES["vstibench"]
        return str(self.doc["mc_answer" if choice else "ground_truth"])


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A row that is not asked; ``row`` counts from 0 in the order of the file."""

    id: str | None
    row: int
    question_type: str | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The rows of one subset; ``subset`` is None where there are no subsets.

    ``file`` names what was read, without its folder (" + " between several), and
    ``revision`` is its sha256 (of several files: of their bytes in this order).
    """

    name: BenchmarkName
    subset: str | None
    questions: tuple[Question, ...]
    refused: tuple[Refused, ...]
    file: str
    revision: str

    @property
    def videos(self) -> tuple[str, ...]:
        """Every video once, in the order in which questions name them."""
        return tuple(dict.fromkeys(question.video for question in self.questions))

    def header(self) -> dict[str, Any]:
        """What it is and how many rows it has, as JSON values."""
        return {
            "name": self.name,
            "subset": self.subset,
            "file": self.file,
            "revision": self.revision,
            "questions": len(self.questions),
            "refused": len(self.refused),
        }

    def first_videos(self, count: int) -> "Benchmark":
        """The questions of the first so many videos; ``subset`` says so."""
        videos = self.videos
        if count >= len(videos):
            return self
        kept = set(videos[:count])
        chosen = tuple(q for q in self.questions if q.video in kept)
        cut = f"first {count} of {len(videos)} videos"
        subset = cut if self.subset is None else f"{self.subset}, {cut}"
        return replace(self, questions=chosen, subset=subset)


def find_letters(options: Sequence[str]) -> tuple[str, ...]:
    """The letters that options begin with: ``A.``, ``A)`` or ``(A)``."""
    found = (_LETTER.match(text) for text in options)
    return tuple(match[1] for match in found if match)
