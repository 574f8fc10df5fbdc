"""Benchmarks' folders as they are published, and everything that can be wrong there."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.eval.benchmarks import (
    BENCHMARKS,
    TASKS,
    TYPES,
    Benchmark,
    BenchmarkError,
    Question,
    Refused,
    read_benchmark,
    read_questions,
    write_questions,
)

Row = dict[str, Any]


def number_row(row_id: Any = 0, **changes: Any) -> Row:
    row = {
        "id": row_id,
        "dataset": "arkitscenes",
        "scene_name": "41069025",
        "question_type": "object_counting",
        "question": "How many table(s) are in this room?",
        "ground_truth": "4",
        "options": None,
    }
    return row | changes


def choice_row(row_id: Any = 1, **changes: Any) -> Row:
    row = number_row(row_id, dataset="scannet", scene_name="scene0011_00")
    row |= {
        "question_type": "object_rel_distance",
        "question": "Which of these objects is the closest?",
        "ground_truth": "B",
        "options": ["A. chair", "B. table"],
    }
    return row | changes


def vsti_row(row_id: Any = 0, **changes: Any) -> Row:
    row = {
        "id": row_id,
        "dataset": "scannet",
        "scene_name": "scene0568_00",
        "video_path": "ScanNet/videos/val/scene0568_00.mp4",
        "question_type": "obj_obj_relative_pos_nf",
        "question": "Is the chair nearer?",
        "options": ["A. Near", "B. Far"],
        "ground_truth": "Far",
        "mc_answer": "B",
    }
    return row | changes


def scanqa_row(row_id: Any = "scanqa_val-scene0011-0_0", **changes: Any) -> Row:
    row = {
        "id": row_id,
        "video": "scannet/scene0011_00",
        "conversations": [
            {"value": "<image> What color is it? Answer simply.", "from": "human"},
            {"value": "brown", "from": "gpt"},
        ],
        "metadata": {"dataset": "scanQA", "answers": ["brown", "dark brown"]},
    }
    return row | changes


ROWS = {"vsibench": choice_row, "vstibench": vsti_row, "scanqa": scanqa_row}


def write_lines(path: Path, rows: Iterable[Row | str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_parquet(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read_rows(folder: Path, *rows: Row | str, name: str = "vsibench") -> Benchmark:
    suffix = "json" if name == "scanqa" else "jsonl"
    path = folder / f"test.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows))
    else:
        write_lines(path, rows)
    return read_benchmark(folder, name)


def refusal(folder: Path, name: str = "vsibench", subset: str = "full") -> str:
    with pytest.raises(BenchmarkError) as caught:
        read_benchmark(folder, name, subset)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


# --------------------------------------------------------------- what a question is
def test_vsibench_rows(tmp_path):
    found = read_rows(tmp_path, number_row(7), choice_row("8"))
    assert (found.name, found.subset, found.file) == ("vsibench", "full", "test.jsonl")
    assert found.refused == ()
    first, second = found.questions
    assert (first.id, first.kind, first.options) == ("7", "number", None)
    assert first.video == "arkitscenes/41069025.mp4"
    assert (first.truth, first.letters) == ("4", ())
    assert first.doc == number_row(7)
    assert (second.id, second.kind, second.truth) == ("8", "choice", "B")
    assert second.options == ("A. chair", "B. table")
    assert second.letters == ("A", "B")
    assert found.videos == ("arkitscenes/41069025.mp4", "scannet/scene0011_00.mp4")


def test_vstibench_rows(tmp_path):
    number = {"question_type": "camera_displacement", "ground_truth": 1.5}
    found = read_rows(
        tmp_path,
        vsti_row(0),
        vsti_row(1, options="['A. Near', 'B. Far']"),
        vsti_row(2, **number, options=["A. 1.5", "B. 2.0"], mc_answer="A"),
        name="vstibench",
    )
    assert (found.subset, found.refused) == (None, ())
    first, copied, last = found.questions
    assert first.video == "ScanNet/videos/val/scene0568_00.mp4"
    assert (first.truth, first.letters) == ("B", ("A", "B"))
    assert copied.options == first.options and copied.doc["options"] == list(
        first.doc["options"]
    )
    assert (last.kind, last.options, last.truth) == ("number", None, "1.5")
    assert last.doc["options"] == ["A. 1.5", "B. 2.0"]


def test_scanqa_rows(tmp_path):
    (question,) = read_rows(tmp_path, scanqa_row(), name="scanqa").questions
    assert question.video == "scene0011_00.mp4"
    assert (question.question_type, question.kind) == ("scanqa", "text")
    assert question.question == "What color is it? Answer simply."
    assert question.doc["conversations"][0]["value"].startswith("<image> What")
    assert question.truth == "brown"
    (tmp_path / "videos").mkdir()
    path = tmp_path / "test.json"
    path.rename(tmp_path / "scanqa_val_llava_style.json")
    again = read_benchmark(tmp_path, "scanqa")
    assert again.questions == (replace(question, video="videos/scene0011_00.mp4"),)
    assert again.file == "scanqa_val_llava_style.json"


def test_types_and_tasks():
    assert [len(TYPES[name]) for name in BENCHMARKS] == [10, 10, 1]
    kinds = list(TYPES["vsibench"].values())
    assert (kinds.count("number"), kinds.count("choice")) == (4, 6)
    assert TASKS["vsibench"][5] == "object_rel_direction"
    assert [len(TASKS[name]) for name in BENCHMARKS] == [8, 10, 1]


# ------------------------------------------------------------------ which file it is
SIX = [row(i, pruned=i % 3 == 0) for i, row in enumerate([number_row, choice_row] * 3)]
PART = "test-{:05}-of-00002.parquet"


def one(name: str) -> Callable[[Path], Any]:
    return lambda folder: write_parquet(folder / name, SIX)


def parts(folder: Path) -> None:
    for n in range(2):
        write_parquet(folder / "data" / PART.format(n), SIX[3 * n :][:3])


def halves(folder: Path) -> None:
    """As on the hub today: two tables, and all rows as JSON without the column."""
    for name, pruned in (("debiased", False), ("pruned", True)):
        rows = [row for row in SIX if row["pruned"] is pruned]
        write_parquet(folder / f"test_{name}.parquet", rows)
    lines(folder)


def lines(folder: Path) -> None:
    rows = [{key: row[key] for key in row if key != "pruned"} for row in SIX]
    write_lines(folder / "test.jsonl", rows)
    (folder / "pruned_ids.txt").write_text("0\n3\n")


def json_list(folder: Path) -> None:
    (folder / "test.json").write_text(json.dumps(SIX))


FORMS = {
    "table": one("test.parquet"),
    "hub": one("test-00000-of-00001.parquet"),
    "data": one("data/test-00000-of-00001.parquet"),
    "parts": parts,
    "halves": halves,
    "lines": lines,
    "list": json_list,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_published_form_and_subset(form, tmp_path):
    FORMS[form](tmp_path)
    found = {}
    for subset, ids in (("full", "012345"), ("debiased", "1245"), ("pruned", "03")):
        found[subset] = read_benchmark(tmp_path, "vsibench", subset)
        assert sorted(q.id for q in found[subset].questions) == list(ids)
        assert (found[subset].refused, found[subset].subset) == ((), subset)
    by_id = {question.id: question for question in found["full"].questions}
    for i, row in enumerate(SIX):
        doc = dict(by_id[str(i)].doc)
        assert doc.pop("pruned", row["pruned"]) is row["pruned"]
        assert doc == {key: row[key] for key in row if key != "pruned"}
    names = {
        "parts": "data/test-00000-of-00002.parquet + data/test-00001-of-00002.parquet",
        "halves": "test_debiased.parquet + test_pruned.parquet",
    }
    file = names.get(form, found["full"].file)
    assert found["full"].file == file
    data = b"".join((tmp_path / name).read_bytes() for name in file.split(" + "))
    assert found["full"].revision == hashlib.sha256(data).hexdigest()


def test_a_table_with_pictures_and_odd_cells(tmp_path):
    rows = [
        choice_row(float("nan"), image=None, thumb=None, score=0.5),
        choice_row(
            3.0, image=b"\x89PNG", thumb={"bytes": b"1", "path": "p"}, score=1e400
        ),
    ]
    write_parquet(tmp_path / "test.parquet", rows)
    found = read_benchmark(tmp_path)
    assert found.refused == (
        Refused(
            id=None, row=0, question_type="object_rel_distance", reason="missing: id"
        ),
    )
    (question,) = found.questions
    assert question.id == "3"
    assert "image" not in question.doc and "thumb" not in question.doc
    assert question.doc["score"] is None


@pytest.mark.parametrize(
    ("files", "subset", "message"),
    [
        ({}, "full", "no annotation file of vsibench"),
        ({"train.jsonl": "x"}, "full", "no annotation file of vsibench"),
        ({"test.parquet": ""}, "full", "is empty"),
        ({"test.parquet": "PAR1 and no more"}, "full", "cannot read it as parquet"),
        ({"test.parquet": "version https://git-lfs.gith"}, "full", "git lfs pull"),
        ({"test.jsonl": b"\xff\xfe\x00"}, "full", "not UTF-8"),
        ({"test.json": "[{},"}, "full", "bad JSON in line 1"),
        ({"test.json": "[" * 99999}, "full", "nested too deeply"),
        ({"test.json": "{}"}, "full", "holds no list"),
        ({"test.json": "[]"}, "full", "holds no rows"),
        ({"test.jsonl": "x", "test.json": "[]"}, "full", "test.jsonl, test.json: more"),
        ({PART.format(1): "x"}, "full", "not all parts"),
        ({"test_pruned.parquet": "x"}, "full", "test_debiased.parquet beside it"),
        ({"test_pruned.parquet": "x"}, "debiased", "no annotation file"),
        ({"test.jsonl": json.dumps(number_row())}, "pruned", "no column pruned"),
        ({"test.jsonl": json.dumps(number_row())}, "odd", "full, debiased, pruned"),
        ({"test.jsonl": "{}\n"}, "full", "can be asked (row 0: missing: id)"),
        ({"test.jsonl": "{]\n"}, "full", "can be asked (row 0: no JSON"),
    ],
)
def test_folders_of_no_use(files, subset, message, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_bytes(
            text if isinstance(text, bytes) else text.encode()
        )
    assert message in refusal(tmp_path, subset=subset)
    assert str(tmp_path) in refusal(tmp_path, subset=subset) or subset == "odd"


def test_a_cut_table(tmp_path):
    path = write_parquet(tmp_path / "test.parquet", [choice_row(i) for i in range(500)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "cannot read it as parquet" in refusal(tmp_path)
    damaged = data[:200] + b"\x00" * 400 + data[600:]
    path.write_bytes(damaged)
    assert "test.parquet" in refusal(tmp_path)


def test_folders_that_are_none(tmp_path):
    assert "no such folder" in refusal(tmp_path / "nowhere")
    file = write_lines(tmp_path / "test.jsonl", [number_row()])
    assert "is no folder" in refusal(file)
    assert "vsibench, vstibench, scanqa" in refusal(tmp_path, "vsi")
    assert "vstibench has no subset 'pruned'" in refusal(
        tmp_path, "vstibench", "pruned"
    )


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("asked", BENCHMARKS)
@pytest.mark.parametrize("form", ["list", "table"])
def test_a_folder_of_another_benchmark(name, asked, form, tmp_path):
    rows = [ROWS[name](0), ROWS[name](1)]
    if name == "scanqa":
        rows = [{**row, "id": f"scanqa_{i}_0"} for i, row in enumerate(rows)]
        (tmp_path / "scanqa_val_llava_style.json").write_text(json.dumps(rows))
    elif form == "table":
        write_parquet(tmp_path / "test.parquet", rows)
    else:
        (tmp_path / "test.json").write_text(json.dumps(rows))
    if name == asked:
        assert len(read_benchmark(tmp_path, asked).questions) == 2
        return
    message = refusal(tmp_path, asked)
    assert f"looks like {name}" in message and f"--benchmark={name}" in message
    if (name, asked) == ("vstibench", "vsibench"):
        assert refusal(tmp_path, asked, "debiased") == message


# ------------------------------------------------------------------- what is refused
WRONG = [
    (number_row(5, question_type="object_colour"), "unknown question type 'object_co"),
    (number_row(5, question_type=None), "missing: question_type"),
    (number_row(5, question="", scene_name=None), "missing: question, scene_name"),
    (number_row(5, ground_truth="four"), "the right answer is no number"),
    (number_row(5, ground_truth="inf"), "the right answer is no number"),
    (number_row(5, ground_truth=True), "the right answer is no number"),
    (number_row(5, question=["How many?"]), "the question is no text"),
    (number_row(5, scene_name="../../etc"), "none below the folder"),
    (number_row(5, scene_name="a\0b"), "none below the folder"),
    (number_row(5, question="\ud800"), "no UTF-8"),
    (number_row(None), "missing: id"),
    (number_row([5]), "the id is neither text nor a number"),
    (choice_row(5, options=[]), "no options to choose from"),
    (choice_row(5, options=None), "no options to choose from"),
    (choice_row(5, options=["chair", "table"]), "not lettered"),
    (choice_row(5, options=["A. chair", "A. table"]), "not lettered"),
    (choice_row(5, options="[1, 2"), "the options are no list"),
    (choice_row(5, options=[1, 2]), "no list of texts"),
    (choice_row(5, ground_truth="C"), "no letter of the options"),
    (choice_row(5, ground_truth="B. table"), "no letter of the options"),
    (choice_row(0), "the id stands in an earlier row"),
    (choice_row("0"), "the id stands in an earlier row"),
    ("[1, 2]", "no JSON object"),
    ('{"id": 5', "no JSON (Expecting"),
    ('{"id": ' + "9" * 5000 + "}", "no JSON (a number with too many digits)"),
]


@pytest.mark.parametrize(("row", "reason"), WRONG)
def test_wrong_rows(row, reason, tmp_path):
    found = read_rows(tmp_path, number_row(0), row, choice_row(9))
    assert [question.id for question in found.questions] == ["0", "9"]
    (refused,) = found.refused
    assert reason in refused.reason and "\n" not in refused.reason
    assert refused.row == 1
    if isinstance(row, dict):
        known = row["id"] is not None and not isinstance(row["id"], list)
        assert refused.id == (str(row["id"]) if known else None)
        assert refused.question_type == row["question_type"]


def test_wrong_rows_of_the_others(tmp_path):
    found = read_rows(
        tmp_path,
        vsti_row(0, mc_answer=None),
        vsti_row(1, video_path=None),
        vsti_row(2, video_path="/etc/passwd"),
        vsti_row(3, question_type="camera_movement_direction_v1"),
        vsti_row(4),
        name="vstibench",
    )
    assert [refused.row for refused in found.refused] == [0, 1, 2, 3]
    assert [question.id for question in found.questions] == ["4"]
    (tmp_path / "test.jsonl").unlink()
    found = read_rows(
        tmp_path,
        scanqa_row("a", metadata={"answers": []}),
        scanqa_row("b", metadata=7),
        scanqa_row("c", conversations=[]),
        scanqa_row("d", metadata={"answers": [1]}),
        scanqa_row("e", conversations=[{"from": "human", "value": "<image>\n"}]),
        scanqa_row("f"),
        name="scanqa",
    )
    assert [refused.id for refused in found.refused] == list("abcde")


def test_a_refused_row_keeps_its_id(tmp_path):
    """Which of two rows is meant cannot be told, so the later one is not asked."""
    bad, good = choice_row(5, options=[]), choice_row(5)
    found = read_rows(tmp_path, bad, good, number_row(6))
    assert [question.id for question in found.questions] == ["6"]
    assert [refused.row for refused in found.refused] == [0, 1]


def test_pruned_that_says_nothing(tmp_path):
    rows = [number_row(0, pruned=True), number_row(1, pruned="yes"), number_row(2)]
    write_lines(tmp_path / "test.jsonl", rows)
    found = read_benchmark(tmp_path, "vsibench", "pruned")
    assert [question.id for question in found.questions] == ["0"]
    assert [refused.row for refused in found.refused] == [1, 2]


ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def damaged(draw, make: Callable[..., Row]) -> Row | str:
    """A row with any of its cells replaced or gone, or no row at all."""
    if draw(st.integers(0, 9)) == 0:
        return json.dumps(draw(ANY_VALUE))
    row = make(draw(st.integers(0, 5) | st.text(max_size=3)))
    for key in draw(st.lists(st.sampled_from(sorted(row)), max_size=2)):
        if draw(st.booleans()):
            row[key] = draw(ANY_VALUE)
        else:
            row.pop(key, None)
    return row


@given(st.data())
def test_every_row_is_a_question_or_refused(data):
    name = data.draw(st.sampled_from(BENCHMARKS))
    rows = data.draw(st.lists(damaged(ROWS[name]), max_size=12))
    sound = [json.dumps(ROWS[name]("sound"))]
    rows = sound + [row if isinstance(row, str) else json.dumps(row) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        found = read_rows(Path(folder), *map(json.loads, rows), name=name)
        path = Path(folder) / "questions.jsonl"
        write_questions(path, found)
        assert read_questions(path) == found
    assert len(found.questions) + len(found.refused) == len(rows)
    ids = [question.id for question in found.questions]
    assert len(set(ids)) == len(ids) and ids[0] == "sound"
    refused = [each.row for each in found.refused]
    assert refused == sorted(set(refused)) and set(refused) < set(range(len(rows)))
    for question in found.questions:
        assert question.kind == TYPES[name][question.question_type]
        assert (question.options is not None) == (question.kind == "choice")
        assert question.kind != "choice" or question.truth.upper() in question.letters
        assert question.kind != "number" or float(question.truth) < 1e400
        json.dumps(question.doc, allow_nan=False)


# ------------------------------------------------------------------ questions.jsonl
TEXT = st.text(max_size=12)
JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=6,
)
QUESTION = st.fixed_dictionaries(  # built in the test: the type checker draws lots
    {
        "id": TEXT,
        "question_type": TEXT,
        "kind": st.sampled_from(["choice", "number", "text"]),
        "question": TEXT,
        "options": st.none() | st.lists(TEXT, max_size=4).map(tuple),
        "video": TEXT,
        "doc": st.dictionaries(TEXT, JSON_VALUE, max_size=4),
    }
)
REFUSED = st.fixed_dictionaries(
    {
        "id": st.none() | TEXT,
        "row": st.integers(0, 10**6),
        "question_type": st.none() | TEXT,
        "reason": TEXT,
    }
)
HEADER = st.fixed_dictionaries(
    {
        "name": st.sampled_from(BENCHMARKS),
        "subset": st.none() | st.sampled_from(["full", "debiased"]),
        "file": TEXT,
        "revision": TEXT,
    }
)


@given(HEADER, st.lists(QUESTION, max_size=4), st.lists(REFUSED, max_size=3))
def test_questions_come_back_as_they_were(header, questions, refused):
    benchmark = Benchmark(
        **header,
        questions=tuple(Question(**each) for each in questions),
        refused=tuple(Refused(**each) for each in refused),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "questions.jsonl"
        write_questions(path, benchmark)
        assert read_questions(path) == benchmark
        write_questions(path, replace(benchmark, file="another"))  # over the old one
        assert read_questions(path).file == "another"
        assert [each.name for each in Path(folder).iterdir()] == ["questions.jsonl"]


def test_lists_of_questions_that_are_none(tmp_path):
    path = tmp_path / "questions.jsonl"
    with pytest.raises(BenchmarkError, match="cannot read it"):
        read_questions(path)
    write_questions(path, read_rows(tmp_path, number_row(0), choice_row(1)))
    whole = path.read_text()
    first, second, third = whole.splitlines(keepends=True)
    wrong = [
        "",
        first + second,
        whole[:-20],
        second + third,
        first + "{}\n" + third,
        first.replace('"questions_format": 1', '"questions_format": 2')
        + second
        + third,
        first.replace('"questions": 2', '"questions": 1') + second + third,
        "\n[]",
    ]
    for text in wrong:
        path.write_text(text)
        with pytest.raises(BenchmarkError, match="not a whole list") as caught:
            read_questions(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff")
    with pytest.raises(BenchmarkError, match="UTF-8"):
        read_questions(path)
