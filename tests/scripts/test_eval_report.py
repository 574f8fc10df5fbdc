"""``scripts.eval_report``: from flags to files, and bad input in one line."""

import json
import os
from pathlib import Path

import pytest
from command_line import run
from recorded_run import (
    RECIPE,
    draw_benchmark,
    draw_lines,
    make_benchmark,
    make_question,
    write_run,
)

FILES = ["browser.html", "report.md", "results.json", "scores.png"]
COMPARISON = ["compare.json", "compare.md", "compare.png"]
FAST = {"resamples": 200}


@pytest.fixture
def workdir(tmp_path) -> Path:
    benchmark = draw_benchmark(1, count=60)
    lines = draw_lines(benchmark, 1)
    return write_run(tmp_path / "this", benchmark, lines, frames=benchmark.videos)


@pytest.fixture
def other(tmp_path) -> Path:
    benchmark = draw_benchmark(1, count=60)
    recipe = RECIPE | {"profile": "official"}
    lines = draw_lines(benchmark, 2)
    return write_run(tmp_path / "other", benchmark, lines, recipe=recipe)


def written(folder: Path) -> list[str]:
    kept = {"answers", "frames", "recipe.json", "questions.jsonl"}
    return sorted(set(os.listdir(folder)) - kept)


def test_a_report(workdir):
    result = run("eval_report", workdir=workdir, **FAST)
    assert (result.code, result.err) == (0, "")
    assert written(workdir) == FILES
    facts = json.loads((workdir / "results.json").read_text())
    rows = {line.split()[0]: line.split() for line in result.out.splitlines() if line}
    assert rows["overall"][3] == f"{facts['overall']['score']:.2f}"
    assert rows["object_counting"][1:3] == ["6", str(facts["tasks"][0]["answered"])]
    lacking = facts["asked"] - facts["answered"]
    assert lacking
    assert f"unanswered, counted as 0: {lacking}: VIDEO: no such file" in result.out
    assert facts["intervals"]["resamples"] == 200
    before = {name: (workdir / name).read_bytes() for name in FILES}
    assert run("eval_report", workdir=f"{workdir}/", **FAST).code == 0
    assert {name: (workdir / name).read_bytes() for name in FILES} == before


def test_baselines(workdir):
    result = run("eval_report", workdir=workdir, blind=True, **FAST)
    assert (result.code, result.err) == (0, "")
    assert written(workdir) == FILES
    facts = json.loads((workdir / "results.json").read_text())
    lines = result.out.splitlines()
    header = next(n for n, line in enumerate(lines) if "by_name" in line)
    (overall,) = [line for line in lines[header:] if line.startswith("overall")]
    rows = facts["blind"]["by_name"]["rows"]
    assert f"{rows['overall']['score']:.2f}" in overall.split()
    assert f"{rows['overall']['difference']:+.2f}" in overall.split()


def test_a_comparison(workdir, other):
    result = run("eval_report", workdir=workdir, compare=other, **FAST)
    assert (result.code, result.err) == (0, "")
    assert written(workdir) == sorted(FILES + COMPARISON)
    assert written(other) == []
    assert "recipe: profile: vica_readme against official" in result.out
    facts = json.loads((workdir / "compare.json").read_text())
    assert f"{facts['overall']['difference']:+.2f}" in result.out
    assert "answered by one run alone, 0 for the other" in result.out


def test_answers_said_twice_and_torn_ones_are_counted(workdir):
    file = workdir / "answers" / "shard-0-of-1.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    first = json.loads(lines[0]) | {"prediction": "77"}
    text = "".join([*lines[:-1], lines[0], json.dumps(first) + "\n", lines[-1][:9]])
    file.write_text(text)
    result = run("eval_report", workdir=workdir, **FAST)
    assert result.code == 0
    assert "1 answer line(s) cut short and not read" in result.out
    assert "1 question(s) with the same line twice" in result.out
    assert "1 question(s) with answers that disagree: the first counts" in result.out
    assert "1: no answer recorded: the run is unfinished" in result.out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, "--workdir is missing"),
        ({"workdir": "nowhere"}, "nowhere: no such folder"),
        ({"workdir": "docs"}, "docs: no answers/*.jsonl in it"),
        ({"workdir": ".", "resamples": -1}, "resamples"),
    ],
)
def test_bad_flags(flags, words):
    assert words in run("eval_report", **flags).line


def test_a_comparison_with_no_run(workdir, tmp_path):
    result = run("eval_report", workdir=workdir, compare=tmp_path / "none", **FAST)
    assert "none: no such folder" in result.line
    assert not set(COMPARISON) & set(written(workdir))


def test_a_comparison_with_another_benchmark(workdir, tmp_path):
    question = make_question(0)
    benchmark = make_benchmark([question], subset="pruned")
    other = write_run(tmp_path / "pruned", benchmark, draw_lines(benchmark, 0))
    line = run("eval_report", workdir=workdir, compare=other, **FAST).line
    assert "vsibench full, the other vsibench pruned" in line


def test_broken_answers(workdir):
    file = workdir / "answers" / "shard-0-of-1.jsonl"
    file.write_text("{\n" + file.read_text())
    line = run("eval_report", workdir=workdir, **FAST).line
    assert "shard-0-of-1.jsonl line 1 is no JSON" in line
    assert written(workdir) == []


def test_answers_of_another_run(workdir):
    file = workdir / "answers" / "more.jsonl"
    file.write_text('{"id": "4711", "prediction": "B"}\n')
    line = run("eval_report", workdir=workdir, **FAST).line
    assert "1 of 61 answers are to questions" in line and "'4711'" in line


def test_a_meteor_jar_that_is_not_there(tmp_path):
    benchmark = draw_benchmark(1, count=6, name="scanqa")
    workdir = write_run(tmp_path / "run", benchmark, draw_lines(benchmark, 1))
    result = run("eval_report", workdir=workdir, meteor_jar=tmp_path / "x.jar", **FAST)
    assert "x.jar" in result.line


def test_a_jar_without_use_is_said(workdir):
    result = run("eval_report", workdir=workdir, meteor_jar="meteor-1.5.jar")
    assert result.code == 0, result.err
    assert "vsibench has no METEOR" in result.out
