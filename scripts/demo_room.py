"""Rooms of the demo: made, read back, asked about, and a whole set of them scored."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vica_jax.data.video import VideoClip, read_video
from vica_jax.decode.assistant import Assistant
from vica_jax.decode.settings import AnswerSettings
from vica_jax.errors import InputError
from vica_jax.eval.benchmarks import read_benchmark
from vica_jax.eval.blind_report import verdict
from vica_jax.eval.frames import FrameSelection
from vica_jax.eval.prompts import user_turn
from vica_jax.eval.question import Benchmark, Question
from vica_jax.eval.report import write_report
from vica_jax.eval.results import Results
from vica_jax.eval.runner import run
from vica_jax.eval.scores import first, score_official
from vica_jax.eval.settings import RunSettings
from vica_jax.files import write_text
from vica_jax.world.film import Film, read_film
from vica_jax.world.folder import WorldSettings
from vica_jax.world.make import make_rooms
from vica_jax.world.scene import Scene
from vica_jax.world.scene_file import read_scenes

PROFILE = "vica_readme"
MAX_NEW_TOKENS = 16
QUESTIONS = 32  # of a room: as many in each keep to one compiled program
MOST_JOBS = 8
MARK = "made_by_demo.txt"
Say = Callable[[int, int], None]


class DemoError(InputError):
    """Something stands in the demo's way."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FilmedRoom:
    """A room with its film, and the frames of it that a model sees."""

    scene: Scene
    film: Film
    video: Path
    clip: VideoClip


@dataclass(frozen=True, kw_only=True)
class Told:
    """A question with the model's answer; ``score`` is the official one, 0 to 1."""

    question: Question
    prediction: str
    score: float

    @property
    def said(self) -> str:
        """What the scorer reads of the answer; a choice with its option's text."""
        return spell(self.question, first(self.prediction))

    @property
    def truth(self) -> str:
        return spell(self.question, self.question.truth)


def spell(question: Question, answer: str) -> str:
    """``"B" -> "B. left"``; what is no letter of an option stays as it is."""
    for letter, option in zip(question.letters, question.options or (), strict=True):
        if letter == answer.upper():
            return option
    return answer


def clear(*folders: Path) -> None:
    """Take away folders that an earlier demo has marked as its own.

    Raises:
      DemoError: one of them holds something else; all are as they were.
    """
    own = [folder for folder in folders if (folder / MARK).is_file()]
    for folder in folders:
        if folder in own or not folder.exists():
            continue
        if not folder.is_dir() or any(folder.iterdir()):
            raise DemoError(
                f"{folder} is in the way and nothing of an earlier demo: move it away, "
                "or give another --workdir"
            )
    for folder in own:
        shutil.rmtree(folder)


def mark(folder: Path) -> None:
    """Make a folder one that ``clear`` may take away."""
    text = "The demo made this folder; when it runs again it takes it away.\n"
    write_text(folder / MARK, text)


# ----------------------------------------------------------------------------- making
def make_world(out: Path, seed: int, rooms: int, say: Say) -> Path:
    """Film rooms with questions in VSI-Bench's form; the folder of that benchmark."""
    settings = WorldSettings(rooms=rooms, seed=seed, captions=0, forms=("vsibench",))
    jobs = min(os.cpu_count() or 1, MOST_JOBS, rooms)
    clear(out)

    def progress(done: int, total: int) -> None:
        if not (out / MARK).exists():  # from when on the folder is there and the demo's
            mark(out)
        say(done, total)

    make_rooms(out, settings, jobs=jobs, progress=progress)
    return out / "vsibench"


def read_room(world: Path, number: int, num_frames: int) -> FilmedRoom:
    """The room of that place among a world's, in the order of their names.

    Raises:
      DemoError: there are fewer.
    """
    videos = sorted((world / "videos").glob("*/*.mp4"))
    if number >= len(videos):
        raise DemoError(f"room {number}: there are {len(videos)}, counted from 0")
    video = videos[number]
    scenes, problems = read_scenes(world / "scenes" / f"{video.stem}.json")
    if not scenes:
        raise DemoError(problems[0])
    film = read_film(world / "films" / f"{video.stem}.json")
    clip = read_video(video, num_frames=num_frames)
    return FilmedRoom(scene=scenes[0], film=film, video=video, clip=clip)


def read_questions(data: Path, count: int = QUESTIONS) -> Benchmark:
    """A benchmark with at most ``count`` questions of each video."""
    benchmark = read_benchmark(data)
    of_video: dict[str, list[Question]] = {}
    for question in benchmark.questions:
        of_video.setdefault(question.video, []).append(question)
    chosen = {q.id for own in of_video.values() for q in take_turns(own)[:count]}
    kept = tuple(q for q in benchmark.questions if q.id in chosen)
    if len(kept) == len(benchmark.questions):
        return benchmark
    subset = f"{benchmark.subset}, at most {count} questions of a video"
    return replace(benchmark, questions=kept, subset=subset)


def take_turns(questions: Sequence[Question]) -> list[Question]:
    """All of them, one of each question type after the other."""
    rows: dict[str, list[Question]] = {}
    for question in questions:
        rows.setdefault(question.question_type, []).append(question)
    most = max(map(len, rows.values()), default=0)
    return [own[k] for k in range(most) for own in rows.values() if k < len(own)]


# ----------------------------------------------------------------------------- asking
def ask_room(
    assistant: Assistant, video: Path, questions: Sequence[Question]
) -> list[Told]:
    """Open a video once and ask all questions about it."""
    session = assistant.open(
        video,
        num_frames=assistant.cfg.layout.num_frames,
        max_new_tokens=MAX_NEW_TOKENS,
        prompt_style="raw",
    )
    answers = session.ask([user_turn(PROFILE, question) for question in questions])
    told = []
    for question, answer in zip(questions, answers, strict=True):
        _, score = score_official(question.doc, answer.text, strict=False)
        told.append(Told(question=question, prediction=answer.text, score=score))
    return told


class Counting:
    """Looks on (``runner.Watch``) and says how many questions are answered."""

    def __init__(self, say: Say):
        self._say, self._done, self._total = say, 0, 0

    def begin(self, benchmark: Benchmark, done: Any, asked: int) -> None:
        self._total = asked
        self._say(0, asked)

    def recorded(self, questions: Sequence[Question], records: list[Any]) -> None:
        self._done += len(questions)
        self._say(self._done, self._total)


def score_rooms(
    assistant: Assistant,
    benchmark: Benchmark,
    data: Path,
    workdir: Path,
    say: Say,
    *,
    black_frames: bool = False,
) -> Results:
    """The ordinary evaluation in ``workdir``, with the blind baselines beside it."""
    settings = RunSettings(
        profile=PROFILE,
        frames=FrameSelection(num_frames=assistant.cfg.layout.num_frames),
        answers=AnswerSettings(max_new_tokens=MAX_NEW_TOKENS),
        black_frames=black_frames,
        exact=False,
        batch=QUESTIONS,
    )
    clear(workdir)  # what is marked may be taken away: nothing of others is in it
    mark(workdir)
    run(assistant, benchmark, data, workdir, settings, Counting(say))
    return write_report(workdir, blind=True)


def verdict_lines(found: Results, black: Results) -> list[str]:
    """A run, and the same without the video, against the better blind baseline."""
    best = max(found.blind, key=lambda baseline: baseline.results.overall.score)
    lines = [f"best blind baseline ({best.name}): {best.results.overall.score:.1f}"]
    for name, results in (("the model", found), ("shown black frames", black)):
        place = [baseline.name for baseline in results.blind].index(best.name)
        gap = results.blind[place].comparison.overall
        span = ""
        if gap.interval:
            span = f", 95% interval {gap.interval[0]:+.1f} to {gap.interval[1]:+.1f}"
        lines.append(f"{name}: {gap.this:.1f} ({gap.difference:+.1f}{span})")
    level = [row.name for row in best.comparison.tasks if verdict(row) != "above"]
    if level:
        lines.append(f"not above it, or not for certain: {', '.join(level)}")
    return lines
