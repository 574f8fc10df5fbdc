"""A run of a small benchmark with the recorded tiny ViCA (random weights)."""

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convert.load import load_assistant
from scripts.smoke_benchmark import write_benchmark
from vica_jax.decode.settings import AnswerSettings
from vica_jax.errors import InputError
from vica_jax.eval import report, runner
from vica_jax.eval.answer_file import ShardError, open_shard
from vica_jax.eval.answers import read_answers
from vica_jax.eval.benchmarks import read_benchmark
from vica_jax.eval.contact_sheet import sheet_path, write_contact_sheet
from vica_jax.eval.frames import FrameSelection, select_clip
from vica_jax.eval.prompts import user_turn
from vica_jax.eval.recipe import RecipeError
from vica_jax.eval.report import write_report
from vica_jax.eval.settings import RunSettings

REPORT = ("report.md", "results.json", "scores.png", "browser.html")
SETTINGS = RunSettings(
    frames=FrameSelection(num_frames=4), answers=AnswerSettings(max_new_tokens=8)
)


class Counting:
    """Looks on, counts, and may stop the run after so many batches."""

    def __init__(self, stop_after: int | None = None):
        self.batches, self.stop_after, self.asked = 0, stop_after, 0

    def begin(self, benchmark, done, asked):
        self.asked = asked

    def recorded(self, questions, records):
        self.batches += 1
        if self.batches == self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def assistant(request):
    folder = request.path.parent.parent / "goldens" / "tiny-vica" / "checkpoint"
    return load_assistant(folder, dtype="float32")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("bench")
    write_benchmark(target, "vsibench", "jsonl", seed=0, videos=4, questions=24)
    return target


def evaluate(assistant, data, workdir, *, watch=None, **changes):
    """A run and its report; the answers."""
    settings = replace(SETTINGS, **changes)
    looking = watch or Counting()
    runner.run(assistant, read_benchmark(data), data, workdir, settings, looking)
    write_report(workdir, resamples=50)
    return read_answers(workdir).by_id


@pytest.fixture(scope="module")
def whole(assistant, data, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    evaluate(assistant, data, workdir)
    return workdir


def same_report(a: Path, b: Path) -> bool:
    return all((a / n).read_bytes() == (b / n).read_bytes() for n in REPORT)


def test_answers_are_those_of_independent_calls(assistant, data, whole):
    answers = read_answers(whole).by_id
    for question in read_benchmark(data).questions[:3]:
        alone = assistant.answer(
            data / question.video,
            user_turn("vica_readme", question),
            prompt_style="raw",
            num_frames=4,
            max_new_tokens=8,
        )
        recorded = answers[question.id]
        assert recorded.prediction == alone.text
        assert recorded.prompt_tokens == alone.tokens["total"]
        assert recorded.frame_indices == tuple(alone.frame_indices)
    assert len(answers) == 24
    kinds = {q.id: q.kind for q in read_benchmark(data).questions}
    for name, answer in answers.items():
        if kinds[name] == "number":
            assert float(answer.exact_answer or "") >= 0
        else:
            assert answer.exact_answer in ("A", "B", "C", "D")


@pytest.mark.parametrize("count", [2, 4])
def test_shards_write_the_same_report(assistant, data, whole, tmp_path, count):
    for index in reversed(range(count)):
        evaluate(assistant, data, tmp_path / "run", shard=(index, count))
    assert same_report(whole, tmp_path / "run")


@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_run_goes_on(assistant, data, whole, tmp_path, stop):
    """Stopped after some batches, its last line torn; then with other shards."""
    workdir = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        evaluate(assistant, data, workdir, watch=Counting(stop))
    file = workdir / "answers" / "shard-0-of-1.jsonl"
    kept = file.read_bytes()
    file.write_bytes(kept + kept.splitlines()[0][:40])
    on = Counting()
    evaluate(assistant, data, workdir, watch=on)
    assert 0 < on.asked == 24 - 6 * stop
    assert same_report(whole, workdir)
    nothing = Counting()
    evaluate(assistant, data, workdir, watch=nothing, shard=(1, 2))
    assert nothing.batches == 0


def test_a_batch_cut_short_is_asked_again_whole(assistant, data, whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    file = workdir / "answers" / "shard-0-of-1.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:8]))
    evaluate(assistant, data, workdir)
    assert same_report(whole, workdir)
    assert len(file.read_bytes().splitlines()) == 24


def test_batches_do_not_change_answers(assistant, data, whole, tmp_path):
    small = evaluate(assistant, data, tmp_path / "run", batch=3)
    for name, answer in read_answers(whole).by_id.items():
        assert small[name].prediction == answer.prediction
        assert small[name].exact_answer == answer.exact_answer


def test_a_video_that_cannot_be_read_is_recorded_and_tried_again(
    assistant, data, whole, tmp_path
):
    broken, workdir = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data, broken)
    first, second, *_ = read_benchmark(data).videos
    (broken / first).unlink()
    whole_video = (broken / second).read_bytes()
    (broken / second).write_bytes(whole_video[: len(whole_video) // 2])
    answers = evaluate(assistant, broken, workdir)
    problems = [answer for answer in answers.values() if not answer.answered]
    assert len(problems) == 12
    for answer in problems:
        assert answer.problem and str(tmp_path) not in answer.problem
    results = json.loads((workdir / "results.json").read_text())
    assert sum(task["asked"] - task["answered"] for task in results["tasks"]) == 12
    again = Counting()
    evaluate(assistant, broken, workdir, watch=again)
    assert again.asked == 12  # tried again, and nothing new to be said of them
    assert len((workdir / "answers" / "shard-0-of-1.jsonl").read_text().split()) > 0
    shutil.copy(data / first, broken / first)
    shutil.copy(data / second, broken / second)
    evaluate(assistant, broken, workdir)
    assert same_report(whole, workdir)


def test_a_question_past_the_context_is_recorded(assistant, data, tmp_path):
    long = tmp_path / "data"
    shutil.copytree(data, long)
    benchmark = read_benchmark(long)
    worst = replace(benchmark.questions[0], question="far " * 30000)
    questions = (worst, *benchmark.questions[1:3])
    benchmark = replace(benchmark, questions=questions)
    looking = Counting()
    runner.run(assistant, benchmark, long, tmp_path / "run", SETTINGS, looking)
    answers = read_answers(tmp_path / "run").by_id
    assert "past the context length" in (answers[worst.id].problem or "")
    assert sum(answer.answered for answer in answers.values()) == 2


def test_other_settings_need_another_workdir(assistant, data, whole):
    with pytest.raises(RecipeError, match=r"other prompts .*\"vica_readme\" there"):
        evaluate(assistant, data, whole, profile="official")
    with pytest.raises(InputError, match="vsibench"):
        RunSettings(profile="vsibench")
    with pytest.raises(InputError, match="shard 2/2"):
        RunSettings(shard=(2, 2))


def test_black_frames_are_shown_and_said(assistant, data, whole, tmp_path):
    """The black video of the same length and size gives the same answers."""
    workdir = tmp_path / "run"
    answers = evaluate(assistant, data, workdir, black_frames=True)
    before = read_answers(whole).by_id
    assert any(answers[k].prediction != before[k].prediction for k in answers)
    question = read_benchmark(data).questions[0]
    clip = select_clip(data / question.video, SETTINGS.frames)
    assert clip.frames.any()
    alone = assistant.answer(
        np.zeros_like(clip.frames),
        user_turn("vica_readme", question),
        prompt_style="raw",
        num_frames=4,
        max_new_tokens=8,
    )
    found = answers[question.id]
    assert found.prediction == alone.text
    assert found.frame_indices == before[question.id].frame_indices
    assert found.prompt_tokens == before[question.id].prompt_tokens
    with Image.open(sheet_path(workdir, question.video)) as sheet:
        assert np.asarray(sheet).max() < 4
    report_text = (workdir / "report.md").read_text()
    assert "**No video was shown: every frame was black.**" in report_text
    assert "| black_frames | true |" in report_text
    assert "black frames instead of the video's" in report_text
    assert json.loads((workdir / "recipe.json").read_text())["black_frames"] is True
    assert "black" not in (whole / "recipe.json").read_text()
    with pytest.raises(RecipeError, match=r"other black_frames .*true there, null now"):
        evaluate(assistant, data, workdir)
    with pytest.raises(RecipeError, match="other black_frames"):
        evaluate(assistant, data, whole, black_frames=True)


def test_one_process_writes_a_shard(tmp_path):
    with open_shard(tmp_path, (0, 1)) as file:
        file.append([{"id": "1", "prediction": "A"}])
        with (
            pytest.raises(ShardError, match="another process"),
            open_shard(tmp_path, (0, 1)),
        ):
            pass
        with open_shard(tmp_path, (0, 2)):
            pass
    with open_shard(tmp_path, (0, 1)) as file:
        file.append([{"id": "2", "prediction": "B"}])
    assert list(read_answers(tmp_path).by_id) == ["1", "2"]


def test_videos_are_read_ahead_but_not_too_far():
    jobs = [runner._Job(video=str(i), batches=()) for i in range(8)]
    settings = RunSettings(threads=2, ahead=2)
    lock, started, most = threading.Lock(), [0], [0]
    given = 0

    def load(job):
        with lock:
            started[0] += 1
            most[0] = max(most[0], started[0] - given)
        return job.video

    seen = []
    for job, loaded, _ in runner._read_ahead(jobs, load, settings):
        assert loaded == job.video
        seen.append(loaded)
        with lock:
            given += 1
    assert seen == [str(i) for i in range(8)]
    assert 1 < most[0] <= 4


def test_videos_are_read_side_by_side_and_a_slow_one_holds_up_no_other():
    """With 3 threads: 3 readers meet, and while the first hangs the rest is read."""
    jobs = [runner._Job(video=str(i), batches=()) for i in range(8)]
    settings = RunSettings(threads=3, ahead=5)
    meet, slow = threading.Barrier(3, timeout=20), threading.Event()
    read, rest = [], threading.Event()

    def load(job):
        if int(job.video) < 3:
            meet.wait()
        if job.video == "0":
            assert slow.wait(20)
        read.append(job.video)
        if len(read) == 5:  # all that may be ahead, but for the first
            rest.set()
        return job.video

    def release():
        assert rest.wait(20)
        slow.set()

    helper = threading.Thread(target=release)
    helper.start()
    given = [loaded for _, loaded, _ in runner._read_ahead(jobs, load, settings)]
    helper.join()
    assert given == [str(i) for i in range(8)]
    assert set(read[:5]) == {"1", "2", "3", "4", "5"}


def test_the_device_does_not_wait_for_what_is_read_ahead():
    """A video is asked for; all that may be ahead is there before the next is."""
    jobs = [runner._Job(video=str(i), batches=()) for i in range(6)]
    read = threading.Semaphore(0)

    def load(job):
        read.release()
        return job.video

    settings = RunSettings(threads=2, ahead=2)
    for number, (job, loaded, waited) in enumerate(
        runner._read_ahead(jobs, load, settings)
    ):
        assert (loaded, waited >= 0) == (job.video, True)
        for _ in range(3 if number == 0 else 1):  # the device works meanwhile
            if number + 3 <= len(jobs):
                assert read.acquire(timeout=20)


def test_a_cache_of_frames_changes_nothing_but_the_reading(
    assistant, data, whole, tmp_path, monkeypatch
):
    cache = {"frame_cache": str(tmp_path / "cache")}
    evaluate(assistant, data, tmp_path / "first", **cache)
    assert same_report(whole, tmp_path / "first")

    def opened(*args, **options):
        raise AssertionError("the video is opened")

    monkeypatch.setattr("vica_jax.data.media.read_video", opened)
    evaluate(assistant, data, tmp_path / "second", **cache, threads=4)
    assert same_report(whole, tmp_path / "second")
    for name, steps in (("first", {"read", "pixels"}), ("second", set())):
        lines = (tmp_path / name / "timing.jsonl").read_text().splitlines()
        assert len(lines) == 4
        for line in map(json.loads, lines):
            assert line.keys() & {"read", "pixels", "cache"} == steps | {"cache"}
            assert {"wait", "device"} <= line.keys()
    for sheet in (whole / "frames").iterdir():
        again = tmp_path / "second" / "frames" / sheet.name
        assert again.read_bytes() == sheet.read_bytes()
    with pytest.raises(InputError, match="leave it out with --frames=maxinfo"):
        RunSettings(frames=FrameSelection(kind="maxinfo"), frame_cache="x")


def test_what_breaks_the_reader_breaks_the_run():
    def load(job):
        raise ZeroDivisionError

    jobs = [runner._Job(video="a", batches=())]
    with pytest.raises(ZeroDivisionError):
        list(runner._read_ahead(jobs, load, RunSettings()))


def test_answers_without_their_recipe_are_left_alone(assistant, data, whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / "recipe.json").unlink()
    with pytest.raises(RecipeError, match=r"no recipe\.json that says how"):
        evaluate(assistant, data, workdir, profile="official")
    assert not (workdir / "recipe.json").exists()
    (workdir / "recipe.json").write_text("[]")
    with pytest.raises(RecipeError, match="no JSON object"):
        evaluate(assistant, data, workdir)


def test_what_cannot_be_decoded_so_leaves_no_recipe(assistant, data, tmp_path):
    answers = AnswerSettings(max_new_tokens=8, repetition_penalty=float("nan"))
    with pytest.raises(InputError, match="repetition_penalty"):
        evaluate(assistant, data, tmp_path / "run", answers=answers)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="--point_maps=DIR"):
        RunSettings(frames=FrameSelection(kind="coverage"))


def test_the_first_videos_say_so(data):
    benchmark = read_benchmark(data)
    first = benchmark.first_videos(1)
    assert first.subset == "full, first 1 of 4 videos"
    assert len(first.questions) == 6 and len(first.videos) == 1
    assert benchmark.first_videos(9) is benchmark


def test_lines_hold_whatever_an_id_is(tmp_path):
    with open_shard(tmp_path, (0, 1)) as file:
        file.append([{"id": "a\ud800", "prediction": "\u00e9"}])
    assert read_answers(tmp_path).by_id["a\ud800"].prediction == "\u00e9"


def test_sheets_have_names_of_their_own(tmp_path):
    videos = ["a/b__c.mp4", "a__b/c.mp4", "a/b/c.mp4", f"a/{'x' * 250}.mp4", "a/\ud800"]
    paths = [sheet_path(tmp_path, video) for video in videos]
    assert len(set(paths)) == len(videos)
    assert paths[2].name == "a__b__c.mp4.jpg"
    frames = np.zeros((3, 6, 8, 3), np.uint8)
    for path in paths:
        write_contact_sheet(path, frames)
        assert len(path.name.encode()) < 240


def test_the_last_report_has_read_the_most(whole, tmp_path, monkeypatch):
    """A report that is being written waits for no answer, but others wait for it."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    shard = workdir / "answers" / "shard-0-of-1.jsonl"
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join(lines[:10]))
    read, late = threading.Event(), []
    real = report.read_run

    def slowly(*args, **options):
        found = real(*args, **options)
        if not read.is_set():  # the first reader; the answers come while it works
            shard.write_bytes(b"".join(lines))
            read.set()
            time.sleep(0.3)
        return found

    monkeypatch.setattr(report, "read_run", slowly)
    late.append(threading.Thread(target=write_report, args=(workdir,)))
    first = threading.Thread(target=write_report, args=(workdir,))
    first.start()
    read.wait(10)
    late[0].start()
    first.join()
    late[0].join()
    results = json.loads((workdir / "results.json").read_text())
    assert results["answered"] == 24
