"""Recorded answers: what is read, what is torn, what is said twice."""

import json
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.eval.answers import (
    NO_REASON,
    Answer,
    AnswersError,
    collect_answers,
    in_number_order,
    read_answers,
)


def line(name: str, prediction: str | None = "B", **more) -> dict:
    return {"id": name, "prediction": prediction, "problem": None} | more


def write(workdir: Path, **files: str | bytes) -> Path:
    (workdir / "answers").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        data = text.encode() if isinstance(text, str) else text
        (workdir / "answers" / f"{name}.jsonl").write_bytes(data)
    return workdir


def lines(*records: dict) -> str:
    return "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)


# ----------------------------------------------------------------------------- reading
def test_all_fields_are_read(tmp_path):
    record = line(
        "17",
        tokens=3,
        finish="eos",
        prompt_tokens=13555,
        exact={"answer": "B", "confidence": 0.71, "log_probs": {"A": -1.9}},
        notes=["12 frames"],
        frame_indices=[0, 9],
        later_key=True,
    )
    answers = read_answers(write(tmp_path, one=lines(record)))
    answer = answers.by_id["17"]
    assert (answer.prediction, answer.tokens, answer.finish) == ("B", 3, "eos")
    assert (answer.exact_answer, answer.confidence) == ("B", 0.71)
    assert (answer.notes, answer.frame_indices) == (("12 frames",), (0, 9))
    assert (answers.torn, answers.duplicates, answers.conflicts) == (0, (), ())


def test_files_are_read_in_the_order_of_their_numbers(tmp_path):
    files = {f"shard-{n}-of-12": lines(line("1", str(n))) for n in (10, 2, 11, 3)}
    answers = read_answers(write(tmp_path, **files))
    assert answers.by_id["1"].prediction == "2"
    assert answers.conflicts == ("1",)


def test_a_line_that_says_the_same_is_a_duplicate(tmp_path):
    again = line("2", "4", tokens=5)  # the words count, not the measurements
    answers = read_answers(
        write(tmp_path, one=lines(line("2", "4"), line("10", None)), two=lines(again))
    )
    assert (answers.duplicates, answers.conflicts) == (("2",), ())
    assert answers.by_id["10"].problem == NO_REASON


@pytest.mark.parametrize(
    "other",
    [
        line("1", "C"),
        line("1", exact={"answer": "C"}),
    ],
)
def test_a_line_that_says_otherwise_is_a_conflict(other):
    found = [Answer.from_json(line("1")), Answer.from_json(other)]
    answers = collect_answers([*found, found[0]])
    assert answers.by_id["1"].prediction == "B"
    assert (answers.duplicates, answers.conflicts) == (("1",), ("1",))


def test_an_answer_counts_before_and_after_a_failure():
    failed, other = (
        Answer.from_json(line("1", None, problem=text)) for text in ("gone", "broken")
    )
    answer = Answer.from_json(line("1"))
    for found in ([failed, answer, failed], [failed, answer], [answer, other]):
        answers = collect_answers(found)
        assert answers.by_id["1"] is answer
        assert (answers.conflicts, answers.retried) == ((), ("1",))
    assert collect_answers([failed, other]).by_id["1"].problem == "broken"


@given(st.data())
def test_neither_order_nor_files_matter(data):
    names = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=20))
    records = [line(str(name), f"answer {name}") for name in names]
    shards = data.draw(st.integers(1, 4))
    random.Random(data.draw(st.integers(0, 99))).shuffle(records)
    with tempfile.TemporaryDirectory() as folder:
        files = {f"shard-{k}": lines(*records[k::shards]) for k in range(shards)}
        answers = read_answers(write(Path(folder), **files))
    assert {name: a.prediction for name, a in answers.by_id.items()} == {
        str(name): f"answer {name}" for name in names
    }
    assert len(answers.duplicates) == sum(names.count(n) > 1 for n in set(names))
    assert answers.conflicts == ()


@given(st.integers(0, 10_000), st.text(min_size=1))
def test_a_file_cut_anywhere_gives_the_answers_before_the_cut(cut, text):
    whole = lines(line("1", text), line("2", "é"), line("3", "\u2028")).encode()
    cut %= len(whole) + 1
    with tempfile.TemporaryDirectory() as folder:
        workdir = write(Path(folder), one=whole[:cut])
        complete = whole[:cut].count(b"\n")
        # A line may lack nothing but its newline.
        complete += whole[cut : cut + 1] == b"\n"
        if complete:
            answers = read_answers(workdir)
            assert list(answers.by_id) == ["1", "2", "3"][:complete]
            assert answers.torn == (whole[cut - 1 : cut + 1].find(b"\n") < 0 < cut)
        else:
            with pytest.raises(AnswersError, match="hold no answer"):
                read_answers(workdir)


# --------------------------------------------------------------------------- bad input
def test_a_broken_line_in_the_middle_is_named(tmp_path):
    torn = lines(line("1"))[:20] + lines(line("2"))
    workdir = write(tmp_path, **{"shard-0": lines(line("0")) + torn + lines(line("3"))})
    with pytest.raises(
        AnswersError, match=r"shard-0\.jsonl line 2 is no JSON"
    ) as error:
        read_answers(workdir)
    assert "\n" not in str(error.value)


def test_a_broken_last_line_with_its_newline_was_not_torn(tmp_path):
    with pytest.raises(AnswersError, match="line 2"):
        read_answers(write(tmp_path, one=lines(line("1")) + '{"id": \n'))


def test_bytes_that_are_no_text(tmp_path):
    with pytest.raises(AnswersError, match=r"line 1 is no JSON"):
        read_answers(
            write(tmp_path, one=b'{"id": "\xff"}\n' + lines(line("1")).encode())
        )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "no JSON object"),
        ({"prediction": "B"}, "no 'id'"),
        ({"id": "1"}, "no 'prediction'"),
        (line("1") | {"id": 1}, "'id' = 1"),
        (line("1", tokens="3"), "'tokens'"),
        (line("1", tokens=True), "'tokens'"),
        (line("1") | {"prediction": ["B"]}, "'prediction'"),
        (line("1", exact="B"), "'exact'"),
        (line("1", exact={"confidence": 1}), "'exact' without 'answer'"),
        (line("1", exact={"answer": 4}), "'answer' = 4"),
        (line("1", notes=[1]), "'notes'"),
        (line("1", frame_indices=["0"]), "'frame_indices'"),
    ],
)
def test_a_line_of_something_else_is_named(tmp_path, record, message):
    workdir = write(tmp_path, one=lines(line("0"), record))
    with pytest.raises(AnswersError, match=r"one\.jsonl line 2 has|is no") as error:
        read_answers(workdir)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_no_answers(tmp_path):
    with pytest.raises(AnswersError, match="no such folder"):
        read_answers(tmp_path / "none")
    with pytest.raises(AnswersError, match=r"no answers/\*\.jsonl"):
        read_answers(tmp_path)
    with pytest.raises(AnswersError, match="hold no answer"):
        read_answers(write(tmp_path, one=""))


@pytest.mark.parametrize("value", [None, "0.5", True, -0.1, 1.5, float("nan")])
def test_a_confidence_that_is_none(value):
    answer = Answer.from_json(line("1", exact={"answer": "B", "confidence": value}))
    assert answer.confidence is None and answer.exact_answer == "B"


@pytest.mark.parametrize("value", [0, 1, 0.25])
def test_a_confidence(value):
    answer = Answer.from_json(line("1", exact={"answer": "B", "confidence": value}))
    assert answer.confidence == value


@given(st.lists(st.text(st.sampled_from("ab10-"), max_size=6), max_size=6))
def test_names_sort_by_their_numbers(names):
    ordered = sorted(names, key=in_number_order)
    assert sorted(ordered) == sorted(names)  # any two names can be compared
    assert sorted(["a10", "a9", "b1", "a"], key=in_number_order) == [
        *("a", "a9", "a10", "b1")
    ]
