"""The files of a report: the same bytes for the same answers, nothing left unsaid."""

import json
import random
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from PIL import Image
from recorded_run import (
    RECIPE,
    answer_line,
    draw_benchmark,
    draw_lines,
    make_benchmark,
    make_question,
    write_run,
)

from vica_jax.errors import InputError
from vica_jax.eval import report
from vica_jax.eval.benchmarks import Refused
from vica_jax.eval.markdown import cell

RESAMPLES = 200
ROOT = Path(__file__).parents[2]


def write_report(workdir: Path):
    return report.write_report(workdir, resamples=RESAMPLES)


def files_of(workdir: Path, names=report.FILES) -> dict[str, bytes]:
    return {name: (workdir / name).read_bytes() for name in names}


def table_of(text: str, title: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    lines = text[text.index(title) :].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([text.strip() for text in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


# -------------------------------------------------------------------- the same bytes
@pytest.mark.parametrize("name", ["vsibench", "vstibench", "scanqa"])
def test_neither_order_nor_shards_change_a_byte(name, tmp_path):
    benchmark = draw_benchmark(7, count=40, name=name)
    lines = draw_lines(benchmark, 7)
    videos = benchmark.videos[1:]
    found = []
    for shards, seed in ((1, None), (2, 0), (4, 1)):
        mixed = list(lines)
        if seed is not None:
            random.Random(seed).shuffle(mixed)
            mixed.append(mixed[0])  # said twice, alike
        folder = tmp_path / f"run{shards}"
        workdir = write_run(folder, benchmark, mixed, shards=shards, frames=videos)
        write_report(workdir)
        found.append(files_of(workdir))
    assert found[0] == found[1] == found[2]
    for content in found[0].values():
        assert str(tmp_path).encode() not in content and b"/data/bench" not in content
    assert sorted(
        p.name for p in (tmp_path / "run1").iterdir() if p.is_file()
    ) == sorted(["recipe.json", "questions.jsonl", *report.FILES])


def test_a_killed_and_resumed_run_gives_the_same_bytes(tmp_path):
    benchmark = draw_benchmark(2, count=30)
    lines = draw_lines(benchmark, 2, unanswered=0.3)
    whole = write_run(tmp_path / "whole", benchmark, lines)
    write_report(whole)

    workdir = write_run(tmp_path / "killed", benchmark, lines[:17])
    file = workdir / "answers" / "shard-0-of-1.jsonl"
    file.write_text(file.read_text()[:-9])
    unfinished = write_report(workdir)
    assert unfinished.answers.torn == 1 and unfinished.overall.score > 0
    text = (workdir / "report.md").read_text()
    lacking = 14 + sum(line["prediction"] is None for line in lines[:16])
    assert f"**{lacking} unanswered, counted as 0**" in text
    assert "1 answer line cut short and not read" in text
    assert "no answer recorded: the run is unfinished" in text

    # Resumed in two shards; the torn line stays where it is, what failed fails again,
    # first in another way.
    failed = [line for line in lines[:16] if line["prediction"] is None]
    again = [line | {"problem": "another reason"} for line in failed] + failed
    for shard, records in enumerate((lines[16::2], lines[17::2] + again)):
        text = "".join(f"{json.dumps(line)}\n" for line in records)
        (workdir / "answers" / f"shard-{shard}-of-2.jsonl").write_text(text)
    resumed = write_report(workdir)
    assert files_of(workdir) == files_of(whole)
    assert len(resumed.answers.retried) == len(failed) > 0


def test_an_old_report_is_replaced(tmp_path):
    benchmark = draw_benchmark(2, count=10)
    workdir = write_run(tmp_path / "run", benchmark, draw_lines(benchmark, 2))
    write_report(workdir)
    first = files_of(workdir)
    for name in report.FILES:
        (workdir / name).write_text("old")
    write_report(workdir)
    assert files_of(workdir) == first


# ----------------------------------------------------------------------- what it says
@pytest.fixture
def amiss(tmp_path) -> Path:
    """Two videos of three missing, conflicts, refused rows, a cut answer."""
    questions = [
        make_question(n, "route_planning", "B", video=f"scannet/{n % 3}.mp4")
        for n in range(9)
    ]
    lines = [
        answer_line(q, "B" if q.video == "scannet/0.mp4" else None) for q in questions
    ]
    lines[0]["finish"] = "length"
    lines.append(answer_line(questions[3], "C"))
    lines[4]["problem"] = "a | b <script>alert(1)</script> *x* `y`\nz"
    refused = [
        Refused(
            id="0", row=9, question_type="route_planning", reason="the id stands in"
        ),
        Refused(id=None, row=10, question_type=None, reason="missing: id"),
    ]
    benchmark = make_benchmark(questions, refused=refused)
    recipe = RECIPE | {"b|ad": "<b>", "versions": {"jax": "0.10.2"}}
    return write_run(tmp_path / "run", benchmark, lines, recipe=recipe)


def test_a_report_says_what_is_amiss(amiss):
    write_report(amiss)
    text = (amiss / "report.md").read_text()
    assert "**33.33**" in text and "**6 unanswered, counted as 0**" in text
    assert "2 rows refused" in text and "0123456789abcdef" in text
    (header, _, row, *_) = table_of(text, "## Scores")
    facts = dict(zip(header, row, strict=True))
    assert facts["asked"] == "9" and facts["answered"] == "3"
    assert (facts["official"], facts["answered only"]) == ("33.33", "100.00")

    assert "### Unanswered: 6 of 9" in text
    assert table_of(text, "### Unanswered")[2] == ["route_planning", "6", "9"]
    _, _, *reasons = table_of(text[text.index("| count |") :], "| count |")
    assert [row[:2] for row in reasons] == [
        ["5", "VIDEO: no such file"],
        ["1", r"a \| b \<script\>alert(1)\</script\> \*x\* \`y\` z"],
    ]
    assert reasons[0][3:] == ["1, 2, 5, 7, 8", "scannet/1.mp4, scannet/2.mp4"]
    assert "### Refused rows: 2, never asked and in no score" in text
    refused = table_of(text, "### Refused rows")[2:]
    assert [(row[0], row[3]) for row in refused] == [("1", "row 10"), ("1", "0")]
    assert (
        "### Conflicting answers: 1 question" in text and "the first counts: 3" in text
    )
    assert "cut at the token limit" in text
    recipe = dict(map(tuple, table_of(text, "## Recipe")[2:]))
    assert recipe["frames.num_frames"] == "64" and recipe["versions.jax"] == "0.10.2"
    assert recipe[r"b\|ad"] == r"\<b\>"


def test_a_report_of_a_clean_run(tmp_path):
    benchmark = draw_benchmark(1, count=50)
    workdir = write_run(
        tmp_path / "run", benchmark, draw_lines(benchmark, 1, unanswered=0)
    )
    found = write_report(workdir)
    text = (workdir / "report.md").read_text()
    assert "None: every question has an answer and no row was refused." in text
    assert "50 questions" in text and "0 unanswered" in text
    rows = table_of(text, "## Scores")
    names = [row[0] for row in rows[2:]]
    assert names[-2:] == ["**overall (macro)**", "all questions (micro)"]
    assert sum(name.startswith("· object_rel_direction") for name in names) == 3
    for row in found.tasks:
        (line,) = [line for line in rows if line[0] == row.name]
        low, high = row.interval
        assert line[3:5] == [f"{row.score:.2f}", f"{low:.2f} to {high:.2f}"]
    published = {row[0]: row for row in table_of(text, "## Published models")}
    assert published["ViCA-7B"][-1] == "60.56" and published["GPT-4o"][-1] == "34.0"
    assert published["**this run**"][-1] == f"{found.overall.score:.2f}"
    for word in ("official", "lenient", "Spatial-MLLM", "exact", "ECE"):
        assert f"\n- {word}: " in text
    assert "resampled with replacement" in text and "200 resamples" in text


@pytest.mark.parametrize(
    ("name", "there", "absent"),
    [
        ("vstibench", ["camera_displacement", "MRA"], ["Spatial-MLLM", "Published"]),
        (
            "scanqa",
            ["CIDEr", "BLEU-4", "ROUGE-L", "EM-R"],
            ["MRA", "Spatial-MLLM", "Published", "macro", "ECE"],
        ),
    ],
)
def test_reports_of_other_benchmarks(name, there, absent, tmp_path):
    benchmark = draw_benchmark(1, count=20, name=name)
    workdir = write_run(tmp_path / "run", benchmark, draw_lines(benchmark, 1))
    found = write_report(workdir)
    text = (workdir / "report.md").read_text()
    assert all(word in text for word in there), text
    assert not any(word in text for word in absent), text
    lines = "\n".join(report.table_lines(found))
    assert ("CIDEr" in lines) == (name == "scanqa")


def test_the_debiased_subset_is_not_set_beside_published_scores(tmp_path):
    benchmark = make_benchmark([make_question(0)], subset="debiased")
    lines = [answer_line(benchmark.questions[0], "4")]
    workdir = write_run(tmp_path / "run", benchmark, lines)
    write_report(workdir)
    text = (workdir / "report.md").read_text()
    assert "VSI-Bench debiased" in text and "Published" not in text


def test_results_json_holds_it_all(amiss):
    found = write_report(amiss)
    facts = json.loads((amiss / "results.json").read_text())
    assert facts["benchmark"]["name"] == "vsibench" and facts["unit"] == "percent"
    assert (facts["asked"], facts["answered"]) == (9, 3)
    assert facts["recipe"]["versions"] == {"jax": "0.10.2"}
    assert facts["overall"]["score"] == found.overall.score == pytest.approx(100 / 3)
    assert facts["overall"]["interval"] == list(found.overall.interval)
    assert facts["conflicts"] == ["3"] and len(facts["items"]) == 9
    assert sum(reason["count"] for reason in facts["unanswered"]) == 6
    assert facts["items"][1]["problem"] == "scannet/1.mp4: no such file"
    one_a_line = (amiss / "results.json").read_text().splitlines()
    assert sum(line.startswith('  {"id"') for line in one_a_line) == 9


def test_more_wordings_than_a_table_holds(tmp_path):
    questions = [make_question(n) for n in range(30)]
    lines = [answer_line(q, None, problem=f"fault {q.id}") for q in questions]
    workdir = write_run(tmp_path / "run", make_benchmark(questions), lines)
    write_report(workdir)
    text = (workdir / "report.md").read_text()
    assert text.count("| 1 | fault") == 20 and "and 10 other wordings (10)" in text


def test_half_a_surrogate_pair_is_written(tmp_path):
    question = make_question(0)
    lines = [answer_line(question, None, problem="odd \ud800 text")]
    workdir = write_run(tmp_path / "run", make_benchmark([question]), lines)
    write_report(workdir)
    assert r"odd \ud800 text" in (workdir / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["a|b", "<i>", "`c`", "[x](y)", "\\", "*b*", "~~s~~"])
def test_cells_are_text(text):
    shown = cell(f"{text}\nnext")
    bare = re.sub(r"\\(.)", "", shown)
    assert not set("|<>`*[]~\\") & set(bare) and "\n" not in shown


# ----------------------------------------------------------------------------- picture
def chunks_of(png: bytes) -> set[str]:
    found, place = set(), 8
    while place < len(png):
        (size,) = struct.unpack(">I", png[place : place + 4])
        found.add(png[place + 4 : place + 8].decode())
        place += 12 + size
    return found


@pytest.mark.parametrize("name", ["vsibench", "vstibench", "scanqa"])
def test_pictures_have_no_date_and_no_program(name, tmp_path):
    benchmark = draw_benchmark(1, count=20, name=name)
    workdir = write_run(tmp_path / "run", benchmark, draw_lines(benchmark, 1))
    write_report(workdir)
    png = (workdir / "scores.png").read_bytes()
    assert chunks_of(png) == {"IHDR", "pHYs", "IDAT", "IEND"}
    with Image.open(workdir / "scores.png") as image:
        width, height = image.size
        colours = image.convert("RGB").getcolors(1 << 24)
    assert 800 < width < 2400 and 400 < height < 1200
    shown = {colour for _, colour in colours}
    assert (0, 114, 178) in shown  # this run
    assert ((230, 159, 0) in shown) == (name == "vsibench")  # ViCA-7B


# -------------------------------------------------------------------------- comparison
def test_a_comparison_writes_three_files(tmp_path):
    benchmark = draw_benchmark(4, count=60)
    found = []
    for seed, name in ((4, "a$1"), (5, "_b")):
        recipe = RECIPE | {"seed": seed}
        lines = draw_lines(benchmark, seed)
        found.append(write_run(tmp_path / name, benchmark, lines, recipe=recipe))
    this, other = found
    compared = report.write_comparison(this, other, resamples=RESAMPLES)
    first = files_of(this, report.COMPARISON_FILES)
    report.write_comparison(this, other, resamples=RESAMPLES)
    assert files_of(this, report.COMPARISON_FILES) == first
    assert not any((other / name).exists() for name in report.COMPARISON_FILES)
    text = first["compare.md"].decode()
    assert text.startswith("# VSI-Bench full: a$1 against _b\n")
    assert f"**{compared.overall.difference:+.2f}**" in text
    rows = {row[0]: row for row in table_of(text, "# VSI-Bench")}
    for row in compared.tasks:
        signs = [str(row.wins), str(row.losses), str(row.ties), f"{row.p_value:.3g}"]
        assert rows[row.name][-4:] == signs
    assert table_of(text, "## Recipes")[2:] == [["seed", "4", "5"]]
    mine, theirs = compared.micro.one_sided
    assert mine and f"answered by this run alone, 0 for the other: {mine}" in text
    assert theirs and f"answered by the other alone, 0 for this run: {theirs}" in text
    facts = json.loads(first["compare.json"])
    assert [side["name"] for side in facts["runs"]] == ["a$1", "_b"]
    assert chunks_of(first["compare.png"]) == {"IHDR", "pHYs", "IDAT", "IEND"}
    assert str(tmp_path) not in text + first["compare.json"].decode()


# --------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("recipe.json", None, "No such file"),
        ("recipe.json", "{", "is no JSON"),
        ("recipe.json", '{"a": NaN}', "NaN is no JSON number"),
        ("recipe.json", "[]", "no JSON object"),
        ("questions.jsonl", None, "cannot read it"),
        ("questions.jsonl", "{}", "not a whole list of questions"),
        ("answers/shard-0-of-1.jsonl", None, "no answers"),
        ("answers/shard-0-of-1.jsonl", "x\n{}\n", "line 1 is no JSON"),
        (
            "answers/shard-0-of-1.jsonl",
            '{"id": "77", "prediction": "B"}\n',
            "questions.jsonl does not have ('77'): answers of another run",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(file, content, words, tmp_path):
    benchmark = draw_benchmark(1, count=4)
    workdir = write_run(tmp_path / "run", benchmark, draw_lines(benchmark, 1))
    (workdir / file).unlink()
    if content is not None:
        (workdir / file).write_text(content)
    with pytest.raises(InputError) as error:
        write_report(workdir)
    message = str(error.value)
    assert words in message and "\n" not in message and str(workdir) in message
    assert not any((workdir / name).exists() for name in report.FILES)


def test_the_wheel_has_the_page_and_the_published_scores(tmp_path):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for name in ("browser.html", "published.json"):
        assert f"vica_jax/eval/{name}" in names


def test_jax_is_never_imported(tmp_path):
    benchmark = draw_benchmark(1, count=4)
    workdir = write_run(tmp_path / "run", benchmark, draw_lines(benchmark, 1))
    code = (
        "import sys; from pathlib import Path; from vica_jax.eval import report\n"
        "report.write_report(Path(sys.argv[1]), resamples=10)\n"
        "found = {'jax', 'jaxlib', 'flax', 'orbax', 'grain'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    command = [sys.executable, "-c", code, str(workdir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
