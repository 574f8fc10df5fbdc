"""The demo's parts on small inputs, and (slow) all of it with random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from PIL import Image
from recorded_run import draw_benchmark, draw_lines, make_question, write_run

from scripts import demo_room, demo_sheet
from scripts.demo_room import DemoError, FilmedRoom, Told, clear, mark, spell
from scripts.smoke_benchmark import write_benchmark
from vica_jax.data.video import VideoClip
from vica_jax.eval.benchmarks import read_benchmark
from vica_jax.eval.report import write_report
from vica_jax.world.camera import Camera
from vica_jax.world.film import Film
from vica_jax.world.generate import make_scene
from vica_jax.world.walk import make_walk


# --------------------------------------------------------------------------- questions
def test_questions_of_a_room_take_turns(tmp_path):
    write_benchmark(tmp_path, "vsibench", "jsonl", seed=0, videos=2, questions=40)
    whole = read_benchmark(tmp_path)
    few = demo_room.read_questions(tmp_path, 12)
    assert few.subset == "full, at most 12 questions of a video"
    for video in whole.videos:
        own = [q for q in few.questions if q.video == video]
        before = {q.question_type for q in whole.questions if q.video == video}
        assert len(own) == 12 and {q.question_type for q in own} == before
    places = [whole.questions.index(q) for q in few.questions]
    assert places == sorted(places)
    assert demo_room.read_questions(tmp_path, 40) == whole


def test_turns_leave_nothing_out():
    kinds = ["object_counting"] * 3 + ["route_planning"] + ["object_rel_distance"] * 2
    questions = [make_question(n, kind) for n, kind in enumerate(kinds)]
    turns = demo_room.take_turns(questions)
    assert [int(q.id) for q in turns] == [0, 3, 4, 1, 5, 2]
    assert demo_room.take_turns([]) == []


def test_answers_are_spelled_out():
    question = make_question(0, "route_planning", "B")
    assert spell(question, "b") == "B. thing b" and spell(question, "x") == "x"
    assert spell(make_question(0), "4") == "4"
    told = Told(question=question, prediction="C. thing c and so on", score=0.0)
    assert (told.said, told.truth) == ("C. thing c", "B. thing b")


# ----------------------------------------------------------------------------- folders
def test_what_an_earlier_demo_left_is_taken_away(tmp_path):
    world, new, empty = (tmp_path / name for name in ("world", "new", "empty"))
    mark(world)
    (world / "world.json").write_text("{}")
    empty.mkdir()
    clear(world, new, empty)
    assert not world.exists() and not new.exists()


@pytest.mark.parametrize(
    "name", ["recipe.json", "manifest.json", "world.json", "thesis.txt"]
)
def test_what_is_not_the_demos_stays(tmp_path, name):
    own, other = tmp_path / "own", tmp_path / "other"
    mark(own)
    other.mkdir()
    (other / name).write_text("years of work")
    for folder in (other, other / name):
        with pytest.raises(DemoError, match="nothing of an earlier demo"):
            clear(own, folder)
    assert (other / name).read_text() == "years of work" and own.exists()


def test_a_world_of_the_demo_has_its_mark_when_it_begins(tmp_path):
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        demo_room.make_world(tmp_path / "world", 1, 1, stop)
    assert (tmp_path / "world/parts").is_dir()
    clear(tmp_path / "world")
    assert not (tmp_path / "world").exists()
    (tmp_path / "world").mkdir()
    (tmp_path / "world/world.json").write_text("{}")
    with pytest.raises(DemoError):
        demo_room.make_world(tmp_path / "world", 1, 1, stop)


# ------------------------------------------------------------------------------- sheet
@pytest.fixture(scope="module")
def room() -> FilmedRoom:
    scene = make_scene(4, 0)
    walk = make_walk(scene, np.random.default_rng(0), frames=40)
    frames = np.random.default_rng(1).integers(0, 255, (16, 36, 48, 3)).astype(np.uint8)
    at = np.linspace(0, 39, 16).astype(int)
    clip = VideoClip(
        indices=at,
        times=at / 10,
        total_frames=40,
        avg_fps=10.0,
        frames=frames,
        reader="array",
    )
    pixels = np.zeros((40, len(scene.boxes)), np.int32)
    film = Film(walk=walk, camera=Camera(), pixels=pixels)
    return FilmedRoom(scene=scene, film=film, video=Path("room.mp4"), clip=clip)


def told(count: int) -> list[Told]:
    texts = ["How many?", "a $x$ \\frac{ _^ " + "very long question " * 40, ""]
    kinds = ["object_counting", "object_rel_direction_hard", "room_size_estimation"]
    answers = ["4", "B and then some", ""]
    return [
        Told(
            question=make_question(n, kinds[n % 3], "B", text=texts[n % 3]),
            prediction=answers[n % 3],
            score=n % 3 / 2,
        )
        for n in range(count)
    ]


def test_a_sheet_is_a_picture_and_the_same_again(room, tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(2)]
    for file in files:
        demo_sheet.draw_sheet(file, room, told(3), "a room of 20 m\u00b2 for $5")
    assert files[0].read_bytes() == files[1].read_bytes()
    demo_sheet.draw_sheet(tmp_path / "tall.png", room, told(9), "")
    with Image.open(files[0]) as few, Image.open(tmp_path / "tall.png") as many:
        assert few.size[0] == many.size[0] == round(demo_sheet.WIDTH * demo_sheet.DPI)
        assert many.size[1] > few.size[1] + 5 * demo_sheet.LINE * demo_sheet.DPI
        pixels = np.asarray(few.convert("RGB"))
    # The frames' own colours stand where the frames are, white at the margin.
    top = round(demo_sheet.TOP * demo_sheet.DPI)
    assert pixels[top + 20 : top + 200, 60:300].std() > 30
    assert (pixels[:, :20] == 255).all() and (pixels[:, -20:] == 255).all()


def test_a_row_has_every_cell(room):
    (row,) = [demo_sheet._row(one) for one in told(2)[1:]]
    assert row["task"] == ["relative direction,", "hard"]
    assert len(row["question"]) == demo_sheet.MOST_LINES
    assert row["question"][-1].endswith(" ...") and row["answer"] == ["B. thing b"]
    (blank,) = [demo_sheet._row(one) for one in told(3)[2:]]
    assert blank["answer"] == ["(nothing)"] and blank["question"] == [""]


# ------------------------------------------------------------------------------ scores
def test_the_verdict_is_that_of_the_report(tmp_path):
    benchmark = draw_benchmark(5, count=120, videos=12)
    found = []
    for name in ("score", "black"):
        lines = draw_lines(benchmark, 5, unanswered=0)
        for question, line in zip(benchmark.questions, lines, strict=True):
            right = question.options is None and name == "score"
            line["prediction"] = question.truth if right else "A"
        workdir = write_run(tmp_path / name, benchmark, lines)
        found.append(write_report(workdir, resamples=200, blind=True))
    facts = json.loads((tmp_path / "score" / "results.json").read_text())
    overall = facts["blind"]["by_name"]["rows"]["overall"]
    first, model, black, level = demo_room.verdict_lines(found[0], found[1])
    assert first.endswith(f": {overall['score']:.1f}")
    assert f"{overall['this_run']:.1f} ({overall['difference']:+.1f}" in model
    assert black.startswith("shown black frames: ") and "(-" in black
    assert "route_planning" in level and "object_counting" not in level


# ----------------------------------------------------------------------------- command
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"checkpoint": "no/such"}, "--checkpoint=no/such: no such folder"),
        ({"room": 20}, "rooms count from 0 to 19"),
    ],
)
def test_bad_flags_are_one_line(vica2, tmp_path, flags, words):
    flags = {"checkpoint": vica2, "workdir": tmp_path / "demo", **flags}
    assert words in run("demo", **flags).line
    assert not (tmp_path / "demo").exists()


def test_an_evaluation_called_score_stays(vica2, tmp_path):
    workdir = tmp_path / "runs"
    recipe = workdir / "score" / "recipe.json"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("{}")
    line = run("demo", checkpoint=vica2, workdir=workdir).line
    assert line.startswith(f"{recipe.parent} is in the way and nothing of an earlier")
    assert recipe.exists() and list(workdir.iterdir()) == [recipe.parent]


@pytest.mark.slow
def test_the_whole_demo_over_what_an_earlier_one_left(tmp_path):
    left = [tmp_path / "demo" / name / "left.txt" for name in ("score", "black")]
    for file in left:
        mark(file.parent)
        file.write_text("of another room")
    found = run("demo", rooms=4, workdir=tmp_path / "demo", seed=20262)
    assert found.code == 0, found.err
    assert not any(file.exists() for file in left)
    for name in ("room.mp4", "room.png", "score/report.md", "black/report.md"):
        assert (tmp_path / "demo" / name).stat().st_size > 1000
    assert "every frame was black" in (tmp_path / "demo/black/report.md").read_text()
    seen, black = (
        json.loads((tmp_path / "demo" / name / "results.json").read_text())["blind"]
        for name in ("score", "black")
    )
    for name in seen:  # it is the video that answers
        assert seen[name]["rows"]["overall"]["difference"] > 15
        assert black[name]["rows"]["overall"]["difference"] < 5
