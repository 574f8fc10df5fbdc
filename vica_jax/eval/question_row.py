"""A row of a benchmark's table becomes a question, or is unusable for a reason.

Reasons are few and say nothing of the single row, so that they can be counted.
"""

import ast
import math
from pathlib import PurePosixPath
from typing import Any

from vica_jax.eval.question import TYPES, Question, find_letters

_FIELDS = {  # what a row of each kind must have; ScanQA's lie deeper
    ("vsibench", "number"): "question ground_truth dataset scene_name",
    ("vsibench", "choice"): "question ground_truth dataset scene_name",
    ("vstibench", "number"): "question ground_truth video_path",
    ("vstibench", "choice"): "question mc_answer video_path",
    ("scanqa", "text"): "video conversations metadata",
}


class UnusableRow(Exception):
    """Why a row cannot be asked."""


def read_id(row: dict[str, Any]) -> str:
    """A row's id as text, by which predictions are joined."""
    value = row.get("id")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas writes a column of integers with a gap as floats
    if value is None or value == "":
        raise UnusableRow("missing: id")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UnusableRow("the id is neither text nor a number")
    return str(value)


def make_question(name: str, row_id: str, row: dict[str, Any], videos: str) -> Question:
    """The question of a row of the benchmark ``name``.

    ``videos`` is what comes before the file names of ScanQA's videos: "" or "videos/".

    Raises:
      UnusableRow: it cannot be asked or its answer could not be scored.
    """
    question_type = "scanqa" if name == "scanqa" else row.get("question_type")
    if question_type in (None, ""):
        raise UnusableRow("missing: question_type")
    kind = TYPES[name].get(str(question_type))
    if kind is None:
        raise UnusableRow(f"unknown question type {str(question_type)[:60]!r}")
    fields = _FIELDS[name, kind].split()
    if missing := [field for field in fields if row.get(field) in (None, "")]:
        raise UnusableRow(f"missing: {', '.join(missing)}")
    options = None
    if kind == "choice":
        options = _read_options(row.get("options"))
        row = row | {"options": list(options)}
        truth = row["ground_truth" if name == "vsibench" else "mc_answer"]
        if str(truth).upper() not in find_letters(options):
            raise UnusableRow("the right answer is no letter of the options")
    elif kind == "number":
        _check_number(row["ground_truth"])
    question = row.get("question")
    if name == "scanqa":
        question, video = _read_scanqa(row)
        video = videos + video
    elif name == "vstibench":
        video = row["video_path"]
    else:
        video = f"{row['dataset']}/{row['scene_name']}.mp4"
    if not isinstance(question, str) or not question.strip():
        raise UnusableRow("the question is no text")
    _check_video(video)
    try:
        "".join([question, *(options or ())]).encode()
    except UnicodeEncodeError:
        raise UnusableRow("text that is no UTF-8") from None
    return Question(
        id=row_id,
        question_type=str(question_type),
        kind=kind,
        question=question,
        options=options,
        video=video,
        doc=row,
    )


def _read_options(value: Any) -> tuple[str, ...]:
    """The options of a choice; some copies of VSTI-Bench hold the list's text."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise UnusableRow("the options are no list") from None
    if not value:
        raise UnusableRow("no options to choose from")
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UnusableRow("the options are no list of texts")
    letters = find_letters(value)
    if len(letters) != len(value) or len(set(letters)) != len(letters):
        raise UnusableRow("the options are not lettered A., B., ...")
    return tuple(value)


def _check_number(value: Any) -> None:
    try:
        usable = math.isfinite(float(value)) and not isinstance(value, bool)
    except (TypeError, ValueError, OverflowError):
        usable = False
    if not usable:
        raise UnusableRow("the right answer is no number")


def _read_scanqa(row: dict[str, Any]) -> tuple[Any, str]:
    """Question and file of the video of a LLaVA-style record."""
    turns, metadata = row["conversations"], row["metadata"]
    first = turns[0] if isinstance(turns, list) and turns else None
    if not isinstance(first, dict) or not isinstance(first.get("value"), str):
        raise UnusableRow("the conversation begins with no question")
    answers = metadata.get("answers") if isinstance(metadata, dict) else None
    if not isinstance(answers, list) or not answers:
        raise UnusableRow("no answers to compare with")
    if not all(isinstance(answer, str) for answer in answers):
        raise UnusableRow("an answer that is no text")
    name = PurePosixPath(str(row["video"])).name
    return (
        first["value"].replace("<image>", "").strip(),
        name if name.endswith(".mp4") else f"{name}.mp4",
    )


def _check_video(video: Any) -> None:
    if not isinstance(video, str):
        raise UnusableRow("the path of the video is no text")
    path = PurePosixPath(video)
    if path.is_absolute() or ".." in path.parts or not video.isprintable():
        raise UnusableRow("the path of the video is none below the folder")
