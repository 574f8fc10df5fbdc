"""Small runs as they are recorded: questions, answers, frames, recipe."""

import io
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vica_jax.eval.answers import Answer, Answers, collect_answers
from vica_jax.eval.benchmarks import (
    TYPES,
    Benchmark,
    Question,
    Refused,
    write_questions,
)
from vica_jax.eval.contact_sheet import sheet_path

LETTERS = "ABCD"
RECIPE = {"profile": "vica_readme", "frames": {"kind": "uniform", "num_frames": 64}}


def make_question(
    number: int,
    question_type: str = "object_counting",
    truth: str = "4",
    *,
    benchmark: str = "vsibench",
    video: str = "scannet/scene0000_00.mp4",
    text: str = "How many chair(s) are in this room?",
) -> Question:
    """A question whose choices are four."""
    kind = TYPES[benchmark][question_type]
    options = tuple(f"{letter}. thing {letter.lower()}" for letter in LETTERS)
    doc: dict[str, Any] = {
        "id": number,
        "question_type": question_type,
        "question": text,
        "ground_truth": truth,
        "options": list(options) if kind == "choice" else None,
    }
    if benchmark == "vsibench":
        doc |= {"dataset": video.split("/")[0], "scene_name": Path(video).stem}
    if benchmark == "vstibench":
        doc |= {"video_path": video}
        if kind == "choice":
            doc |= {"mc_answer": truth, "ground_truth": "thing"}
        else:
            doc |= {"ground_truth": float(truth)}
    if benchmark == "scanqa":
        doc = {"id": number, "video": video, "metadata": {"answers": truth.split("|")}}
    return Question(
        id=str(number),
        question_type=question_type,
        kind=kind,
        question=text,
        options=options if kind == "choice" else None,
        video=video,
        doc=doc,
    )


def make_benchmark(
    questions: Iterable[Question],
    *,
    name: Any = "vsibench",
    subset: str | None = "full",
    refused: Sequence[Refused] = (),
) -> Benchmark:
    return Benchmark(
        name=name,
        subset=subset if name == "vsibench" else None,
        questions=tuple(questions),
        refused=tuple(refused),
        file="test.jsonl",
        revision="0123456789abcdef" * 4,
    )


def draw_benchmark(
    seed: int = 0, *, count: int = 60, videos: int = 6, name: Any = "vsibench"
) -> Benchmark:
    """Questions of all types in turn about a few videos."""
    draw = random.Random(seed)
    types = list(TYPES[name])
    questions = []
    for number in range(count):
        question_type = types[number % len(types)]
        kind = TYPES[name][question_type]
        truth = {
            "choice": draw.choice(LETTERS),
            "number": f"{draw.uniform(1, 9):.1f}",
            "text": draw.choice(["brown|dark brown", "on the desk", "two|2"]),
        }[kind]
        folder = ("scannet", "arkitscenes")[number % 2]
        questions.append(
            make_question(
                number,
                question_type,
                truth,
                benchmark=name,
                video=f"{folder}/scene{draw.randrange(videos):04d}_00.mp4",
                text=f"Question {number} of {question_type}?\nA second line.",
            )
        )
    return make_benchmark(questions, name=name)


def answer_line(
    question: Question, prediction: str | None, **changes: Any
) -> dict[str, Any]:
    """A line as the runner writes it."""
    line: dict[str, Any] = {
        "id": question.id,
        "prediction": prediction,
        "problem": None,
        "tokens": 3,
        "finish": "eos",
        "prompt_tokens": 13555,
        "exact": None,
        "notes": [],
        "frame_indices": [0, 10, 20],
    }
    if prediction is None:
        video = f"/data/bench/{question.video}"
        line |= {"problem": f"{video}: no such file", "tokens": 0, "finish": None}
    return line | changes


def draw_lines(
    benchmark: Benchmark, seed: int = 0, *, unanswered: float = 0.1
) -> list[dict[str, Any]]:
    """Answers of all sorts to every question, right, near, wrong and missing."""
    draw = random.Random(seed)
    lines = []
    for question in benchmark.questions:
        exact = None
        if question.kind == "choice":
            answer = draw.choice(LETTERS)
            exact = {"answer": answer, "confidence": draw.random(), "log_probs": {}}
            prediction = draw.choice([question.truth, answer, f"({answer})", ""])
        elif question.kind == "number":
            answer = f"{float(question.truth) * draw.choice([1, 1.1, 1.3, 3]):.1f}"
            exact = {"answer": answer, "confidence": draw.random(), "log_prob": -1.0}
            prediction = draw.choice([question.truth, answer, "two", f"{answer} m"])
        else:
            prediction = draw.choice([question.truth, "brown.", "the desk", ""])
        if draw.random() < unanswered:
            prediction, exact = None, None
        lines.append(answer_line(question, prediction, exact=exact))
    return lines


def answers_of(lines: Iterable[Mapping[str, Any]]) -> Answers:
    return collect_answers(Answer.from_json(dict(line)) for line in lines)


def write_run(
    workdir: Path,
    benchmark: Benchmark,
    lines: Sequence[Mapping[str, Any]],
    *,
    shards: int = 1,
    recipe: Mapping[str, Any] = RECIPE,
    frames: Iterable[str] = (),
) -> Path:
    """A workdir as a finished run leaves it; ``frames``: videos with a sheet."""
    (workdir / "answers").mkdir(parents=True)
    (workdir / "frames").mkdir()
    (workdir / "recipe.json").write_text(json.dumps(recipe))
    write_questions(workdir / "questions.jsonl", benchmark)
    for shard in range(shards):
        text = "".join(f"{json.dumps(line)}\n" for line in lines[shard::shards])
        name = f"shard-{shard}-of-{shards}.jsonl"
        (workdir / "answers" / name).write_text(text)
    for number, video in enumerate(sorted(set(frames))):
        sheet = io.BytesIO()
        colour = (40 * number % 256, 90, 160)
        Image.new("RGB", (320, 45), colour).save(sheet, "JPEG")
        sheet_path(workdir, video).write_bytes(sheet.getvalue())
    return workdir
