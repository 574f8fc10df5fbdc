"""``scripts.make_smoke_benchmark``: folders that read as the benchmarks they mimic."""

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from command_line import run

from scripts.smoke_scenes import COLOURS
from vica_jax.data.video import read_video
from vica_jax.errors import InputError
from vica_jax.eval.benchmarks import BENCHMARKS, TYPES, Benchmark, read_benchmark

FORMS = [
    ("vsibench", "parquet"),
    ("vsibench", "jsonl"),
    ("vstibench", "parquet"),
    ("vstibench", "jsonl"),
    ("scanqa", None),
]


def make(target: Path, **options: object) -> str:
    result = run(
        "make_smoke_benchmark", *options.pop("args", ()), target=target, **options
    )
    assert (result.code, result.err) == (0, "")
    return result.out


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def vsibench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 videos, 200 questions: what is made without any flag."""
    target = tmp_path_factory.mktemp("smoke") / "vsibench"
    make(target)
    return target


@pytest.fixture(scope="module")
def found(vsibench: Path) -> Benchmark:
    return read_benchmark(vsibench)


def test_the_whole_of_it(vsibench, found):
    assert (len(found.questions), len(found.videos)) == (200, 20)
    assert found.refused == ()
    counts = Counter(question.question_type for question in found.questions)
    assert counts == dict.fromkeys(TYPES["vsibench"], 20)
    assert set(Counter(q.video for q in found.questions).values()) == {10}
    folders = {video.split("/")[0] for video in found.videos}
    assert folders == {"arkitscenes", "scannet", "scannetpp"}
    ids = [int(question.id) for question in found.questions]
    assert sorted(ids) == list(range(200)) and ids != sorted(ids)
    halves = [read_benchmark(vsibench, subset=s) for s in ("debiased", "pruned")]
    assert sum(len(half.questions) for half in halves) == 200
    assert min(len(half.questions) for half in halves) > 50
    assert len(contents(vsibench)) == 21


def test_films(vsibench, found):
    for video in found.videos:
        clip = read_video(vsibench / video, num_frames=8)
        assert clip.frames.shape == (8, 72, 96, 3)
        assert len(set(clip.indices.tolist())) == 8 and max(clip.indices) < 60


def test_truths_follow_from_what_is_shown(vsibench, found):
    """Colours are looked for in the film's last frame and, for the order, in all."""
    checked = Counter()
    for question in found.questions:
        if question.question_type not in ("object_counting", "obj_appearance_order"):
            continue
        frames = read_video(vsibench / question.video, num_frames=24).frames
        seen = {
            name: (np.abs(frames.astype(int) - np.array(rgb)).max(-1) < 30).sum((1, 2))
            for name, rgb in COLOURS.items()
        }
        first = {n: int(np.argmax(s > 12)) for n, s in seen.items() if s[-1] > 12}
        if question.question_type == "object_counting":
            assert 1 <= int(question.truth) <= len(first)
            continue
        right = question.options["ABCD".index(question.truth)][3:]
        order = [name.split()[0] for name in right.split(", ")]
        assert set(order) == set(first), question.id
        places = [first[name] for name in order]
        assert places == sorted(places) and len(set(places)) == len(places), question
        checked[question.question_type] += 1
    assert checked["obj_appearance_order"] == 20


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_form_reads_as_its_benchmark(name, form, tmp_path):
    options = {"benchmark": name, "videos": 3, "questions": 30}
    if form:
        options["form"] = form
    make(tmp_path / "it", **options)
    found = read_benchmark(tmp_path / "it", name)
    assert (found.name, len(found.questions), found.refused) == (name, 30, ())
    assert {q.question_type for q in found.questions} == set(TYPES[name])
    assert len(found.videos) == 3
    assert all((tmp_path / "it" / video).is_file() for video in found.videos)


def test_both_forms_ask_the_same(tmp_path):
    docs = []
    for form in ("parquet", "jsonl"):
        make(tmp_path / form, form=form, videos=2, questions=20)
        found = read_benchmark(tmp_path / form, subset="debiased")
        docs.append([dict(question.doc) for question in found.questions])
    assert docs[0] == docs[1] and 0 < len(docs[0]) < 20


def test_the_same_flags_write_the_same_bytes(vsibench, tmp_path):
    for name, seed in (("again", 0), ("other", 1)):
        make(tmp_path / name, seed=seed)
    first, other = contents(vsibench), contents(tmp_path / "other")
    assert contents(tmp_path / "again") == first
    assert first.keys() == other.keys()
    assert not any(first[name] == other[name] for name in first)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_broken(name, tmp_path):
    said = make(
        tmp_path / "it", args=["--broken"], benchmark=name, videos=4, questions=40
    )
    plain = make(tmp_path / "plain", benchmark=name, videos=4, questions=40)
    lines = re.findall(r"^  broken: id (\S+): (.*)$", said, re.M)
    found = read_benchmark(tmp_path / "it", name)
    refused = {each.id: each.reason for each in found.refused}
    by_id = {question.id: question for question in found.questions}
    count = len(found.questions) + len(found.refused)
    assert f"{count} rows" in said and "40 rows" in plain
    assert count == 40 + len(lines) and "broken:" not in plain
    whole = read_benchmark(tmp_path / "plain", name)
    assert found.questions[:40] == whole.questions
    kinds = Counter()
    for row_id, what in lines:
        if row_id in refused:
            kinds[refused[row_id].split("'")[0].strip()] += 1
            continue
        video = tmp_path / "it" / by_id[row_id].video
        kinds["cut" if video.exists() else "missing"] += 1
        assert video.name in what
        with pytest.raises(InputError):
            read_video(video, num_frames=8)
    expected = Counter(
        {"missing": 1, "cut": 2, "the id stands in an earlier row": 1}
        | ({"no answers to compare with": 1} if name == "scanqa" else {})
    )
    if name != "scanqa":
        expected |= Counter(
            {"unknown question type": 1, "no options to choose from": 1}
        )
    assert kinds == expected
    assert found.refused[0].row == 0  # a bad row comes first
    assert len(contents(tmp_path / "it")) == len(contents(tmp_path / "plain")) + 1


def test_small_and_wrong(tmp_path):
    said = make(tmp_path / "one", args=["--broken"], videos=1, questions=1)
    assert "6 rows on 1 videos" in said
    assert len(read_benchmark(tmp_path / "one").questions) == 3
    result = run("make_smoke_benchmark", target=tmp_path / "one")
    assert "not an empty folder" in result.line
    assert "--form" in run(
        "make_smoke_benchmark", target=tmp_path / "x", benchmark="scanqa", form="jsonl"
    ).line  # fmt: skip
    assert "videos" in run("make_smoke_benchmark", target=tmp_path / "x", videos=0).line
    assert "--target" in run("make_smoke_benchmark").line
    assert os.listdir(tmp_path) == ["one"]
