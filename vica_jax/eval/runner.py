"""A benchmark, video by video: read ahead, prefill once, ask in batches, append.

    threads  read and resize the next videos
    device   assistant.open: encode and prefill the video, once
             session.ask:    its questions, in batches
    disk     one JSON line per question, a batch at a time (``answer_file``)

Batches are cut from a video's questions in the order of the benchmark, whatever has
been answered before, so that a run that was stopped asks again exactly what was asked,
and sharding by video changes nothing. A question or a video that cannot be asked is
recorded with the reason; only what is wrong with the whole run ends it.
"""

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vica_jax.data.frame_cache import FrameCache
from vica_jax.data.video import time_instruction
from vica_jax.decode.answer import Answer
from vica_jax.decode.assistant import Assistant
from vica_jax.decode.exact import ExactError, Wanted, letter_ids
from vica_jax.decode.measure import OutOfMemoryError
from vica_jax.decode.prompt import Loaded, read_media
from vica_jax.decode.session import VideoSession
from vica_jax.decode.settings import AnswerSettings
from vica_jax.errors import InputError
from vica_jax.eval.answer_file import open_shard
from vica_jax.eval.answers import Answers, collect_answers, read_answers
from vica_jax.eval.benchmarks import write_questions
from vica_jax.eval.contact_sheet import sheet_path, write_contact_sheet
from vica_jax.eval.embed import siglip_embeddings
from vica_jax.eval.frames import black_out, select_clip
from vica_jax.eval.prompts import user_turn
from vica_jax.eval.question import Benchmark, Question, find_letters
from vica_jax.eval.recipe import keep_recipe, make_recipe
from vica_jax.eval.settings import RunSettings
from vica_jax.eval.workdir import QUESTIONS, TIMING, has_answers

Record = dict[str, Any]
Batch = tuple[Question, ...]


@runtime_checkable
class Watch(Protocol):
    """Who looks on while a benchmark runs (``live.LiveTable``)."""

    def begin(self, benchmark: Benchmark, done: Answers, asked: int) -> None:
        """Before the first video: what is answered, how many are this process's."""

    def recorded(self, questions: Sequence[Question], records: list[Record]) -> None:
        """After each batch."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A video and those of its batches that are not fully answered."""

    video: str
    batches: tuple[Batch, ...]


def run(
    assistant: Assistant,
    benchmark: Benchmark,
    data: Path,
    workdir: Path,
    settings: RunSettings,
    watch: Watch,
) -> None:
    """Answer what is not answered yet of this process's share of a benchmark.

    ``data`` is the folder that holds the videos. See ``recipe`` for what a workdir
    that holds answers already must have in common with this run.

    Raises:
      InputError: what concerns the whole run: another recipe, a shard that is being
        written, no memory on the device.
    """
    answers = replace(
        settings.answers,
        num_frames=settings.frames.num_frames,
        fps=None,
        prompt_style="raw",
        options=(),
    )
    # A layout that cannot be is found before the first video, not at each.
    model = assistant.model(answers)
    model.cfg.layout.check_video(settings.frames.num_frames)
    assistant.sampling(answers)
    keep_recipe(workdir, make_recipe(assistant, benchmark, settings))
    write_questions(workdir / QUESTIONS, benchmark)
    with open_shard(workdir, settings.shard) as file:
        done = read_done(workdir)
        jobs = _plan(benchmark, done, settings)
        waiting = sum(len(batch) for job in jobs for batch in job.batches)
        watch.begin(benchmark, done, waiting)
        load = _loader(assistant, data, workdir, settings, answers)
        for job, loaded, waited in _read_ahead(jobs, load, settings):
            start = time.perf_counter()
            seconds: dict[str, float] = {"wait": waited}
            for batch, records in _ask(
                assistant, benchmark, job, loaded, settings, answers, seconds
            ):
                new = [r for r in records if _is_news(r, done)]
                file.append(new)
                watch.recorded(batch, new)
            seconds["device"] = time.perf_counter() - start
            _append_timing(workdir, job, seconds)


def _is_news(record: Record, done: Answers) -> bool:
    """Not answered before, nor failed before in the same way."""
    old = done.by_id.get(record["id"])
    if old is None:
        return True
    return not old.answered and old.problem != record["problem"]


def read_done(workdir: Path) -> Answers:
    """What the shards of a workdir hold so far; nothing is fine."""
    if not has_answers(workdir):
        return collect_answers(())
    return read_answers(workdir)


def _plan(
    benchmark: Benchmark, done: Answers, settings: RunSettings
) -> tuple[_Job, ...]:
    """This shard's videos, each with its unfinished batches."""
    by_video: dict[str, list[Question]] = {video: [] for video in benchmark.videos}
    for question in benchmark.questions:
        by_video[question.video].append(question)
    index, count = settings.shard
    jobs = []
    for video in benchmark.videos[index::count]:
        own, size = by_video[video], settings.batch
        batches = [tuple(own[i : i + size]) for i in range(0, len(own), size)]
        open_ = [b for b in batches if not all(_is_answered(q, done) for q in b)]
        if open_:
            jobs.append(_Job(video=video, batches=tuple(open_)))
    return tuple(jobs)


def _is_answered(question: Question, done: Answers) -> bool:
    """What failed before is tried again."""
    old = done.by_id.get(question.id)
    return old is not None and old.answered


# --------------------------------------------------------------- reading ahead
Load = Callable[[_Job], Loaded | str]


def _loader(
    assistant: Assistant,
    data: Path,
    workdir: Path,
    settings: RunSettings,
    answers: AnswerSettings,
) -> Load:
    """What a thread does for a video: a ``Loaded``, or why there is none."""
    frames = settings.frames
    embed = siglip_embeddings(assistant) if frames.needs_embed else None
    layout = assistant.model(answers).cfg.layout
    by_time = frames.is_by_time and not settings.black_frames
    chosen = replace(answers, fps=frames.fps if frames.kind == "fps" else None)
    cache = None
    if settings.frame_cache is not None:  # a run opens a video once: none in memory
        size = settings.frame_cache_gb
        cache = FrameCache(settings.frame_cache, folder_gb=size, memory_gb=0)

    def read(path: Path) -> Loaded:
        if by_time:
            return read_media(path, chosen, layout, cache)
        start = time.perf_counter()
        clip = select_clip(path, frames, embed=embed, point_maps=settings.point_maps)
        if settings.black_frames:
            clip = black_out(clip)
        seconds = time.perf_counter() - start
        loaded = read_media(clip, answers, layout)
        return replace(loaded, seconds={**loaded.seconds, "read": seconds})

    def load(job: _Job) -> Loaded | str:
        try:
            loaded = read(data / job.video)
        except OutOfMemoryError:
            raise
        except (InputError, OSError, UnicodeError) as error:  # a path that cannot be
            return _without_folders(str(error), data, settings.point_maps)
        _keep_sheet(workdir, job.video, loaded)  # a full disk is no fault of the video
        return loaded

    return load


def _keep_sheet(workdir: Path, video: str, loaded: Loaded) -> None:
    path = sheet_path(workdir, video)
    if loaded.preview is not None and not path.is_file():
        write_contact_sheet(path, loaded.preview)


def _without_folders(message: str, *folders: Path | str | None) -> str:
    """A reason that is the same wherever the data lie."""
    for folder in filter(None, folders):
        message = message.replace(f"{folder}/", "")
    return message.split("\n")[0]


def _read_ahead(
    jobs: Sequence[_Job], load: Load, settings: RunSettings
) -> Iterator[tuple[_Job, Loaded | str, float]]:
    """Jobs in order with what was loaded and how long it was waited for.

    While the caller works on one, up to ``settings.ahead`` others are read.
    """
    pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="video")
    pending: deque[tuple[_Job, Future[Loaded | str]]] = deque()
    rest = iter(jobs)

    def submit(count: int) -> None:
        for job in rest:
            pending.append((job, pool.submit(load, job)))
            count -= 1
            if count <= 0:
                return

    try:
        submit(settings.ahead + 1)
        while pending:
            job, future = pending.popleft()
            start = time.perf_counter()
            loaded = future.result()
            waited = time.perf_counter() - start
            del future
            submit(1)
            yield job, loaded, waited
            del loaded  # while the next one is waited for
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# ---------------------------------------------------------------------- asking
def _ask(
    assistant: Assistant,
    benchmark: Benchmark,
    job: _Job,
    loaded: Loaded | str,
    settings: RunSettings,
    answers: AnswerSettings,
    seconds: dict[str, float],
) -> Iterator[tuple[Batch, list[Record]]]:
    """The records of each batch of a video, one for each of its questions."""
    session: VideoSession | None = None
    problem = loaded if isinstance(loaded, str) else None
    if isinstance(loaded, Loaded):
        try:
            chosen = replace(answers, time_instruction=False)  # the prompt has it
            session = assistant.open(loaded, **asdict(chosen))
            seconds |= session.seconds
        except OutOfMemoryError:
            raise
        except InputError as error:
            problem = str(error)
    for batch in job.batches:
        if session is None:
            yield batch, [_unanswered(q, problem or "no video") for q in batch]
            continue
        texts, wanted, problems = {}, {}, {}
        for question in batch:
            try:
                texts[question.id] = _prompt(question, session, settings)
                session.check(texts[question.id])
                wanted[question.id] = _wanted(question, assistant, settings)
            except InputError as error:
                problems[question.id] = str(error)
        asked = [q for q in batch if q.id not in problems]
        found: dict[str, Answer] = {}
        if asked:
            start = time.perf_counter()
            given = session.ask(
                [texts[q.id] for q in asked], exact=[wanted[q.id] for q in asked]
            )
            seconds["ask"] = seconds.get("ask", 0.0) + time.perf_counter() - start
            found = {q.id: answer for q, answer in zip(asked, given, strict=True)}
        yield (
            batch,
            [
                _unanswered(q, problems[q.id])
                if q.id in problems
                else _answered(q, found[q.id], assistant, settings)
                for q in batch
            ],
        )


def _prompt(question: Question, session: VideoSession, settings: RunSettings) -> str:
    instruction = ""
    if settings.answers.time_instruction:
        assert session.seen.sample is not None
        instruction = time_instruction(session.seen.sample)
    return user_turn(settings.profile, question, time_instruction=instruction)


def _wanted(question: Question, assistant: Assistant, settings: RunSettings) -> Wanted:
    """What exact scoring gives this question; options without letters have none."""
    if not settings.exact or question.kind == "text":
        return None
    if question.kind == "number":
        return "number"
    letters = find_letters(question.options or ())
    with contextlib.suppress(ExactError):
        letter_ids(assistant.tokenizer, letters)
        return letters
    return None


def _unanswered(question: Question, problem: str) -> Record:
    return {"id": question.id, "prediction": None, "problem": problem}


def _answered(
    question: Question, answer: Answer, assistant: Assistant, settings: RunSettings
) -> Record:
    text = answer.text
    if settings.thinking:  # its segments are marked by special tokens
        ids = answer.token_ids[: -1 if answer.finish == "eos" else None]
        text = assistant.tokenizer.decode(ids, skip_special_tokens=False).strip()
    exact = None
    if answer.exact is not None:
        exact = {
            "answer": answer.exact.answer,
            "confidence": round(answer.exact.confidence, 4),
            "log_probs": {k: round(v, 3) for k, v in answer.exact.log_probs.items()},
        }
    return {
        "id": question.id,
        "prediction": text,
        "problem": None,
        "tokens": answer.tokens["new"],
        "finish": answer.finish,
        "prompt_tokens": answer.tokens["total"],
        "exact": exact,
        "notes": answer.notes,
        "frame_indices": answer.frame_indices,
    }


def _append_timing(workdir: Path, job: _Job, seconds: dict[str, float]) -> None:
    """Seconds of one video; never part of a report."""
    line = {
        "video": job.video,
        "questions": sum(map(len, job.batches)),
        **{name: round(value, 4) for name, value in seconds.items()},
    }
    with open(workdir / TIMING, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
