"""What is shown while a benchmark runs."""

import io

import pytest
from recorded_run import draw_benchmark
from rich.console import Console

from vica_jax.eval.answers import Answer, collect_answers
from vica_jax.eval.live import LINE_EVERY, LiveTable


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def watching(terminal: bool, **options):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    clock = Clock()
    return LiveTable(console=console, clock=clock, **options), console, clock


def answered(question, text):
    return {"id": question.id, "prediction": text, "problem": None}


def test_lines_without_a_terminal():
    benchmark = draw_benchmark(1, count=20)
    first, *rest = benchmark.questions
    done = collect_answers([Answer.from_json(answered(first, str(first.truth)))])
    table, console, clock = watching(False)
    with table:
        table.begin(benchmark, done, len(rest))
        table.recorded(rest[:1], [answered(rest[0], str(rest[0].truth))])
        clock.now += LINE_EVERY
        table.recorded(rest[1:3], [answered(q, "no idea") for q in rest[1:3]])
        clock.now += 2 * LINE_EVERY
        gone = [{"id": q.id, "prediction": None, "problem": "gone"} for q in rest[3:]]
        table.recorded(rest[3:], gone)
    said = console.file.getvalue()
    assert "1 answers are there, 19 to go" in said
    assert "3/19 questions in 0:00:30, about 0:02:40 left" in said
    assert said.count("gone") == 1 and rest[3].video in said
    assert "19/19 questions in 0:01:30, about 0:00:00 left" in said
    assert "1/19" not in said  # not a line for every batch


def test_a_table_on_a_terminal():
    benchmark = draw_benchmark(2, count=30)
    table, console, _ = watching(True)
    with table:
        table.begin(benchmark, collect_answers(()), 30)
        for question in benchmark.questions:
            table.recorded([question], [answered(question, str(question.truth))])
    said = console.file.getvalue()
    for kind in {question.question_type for question in benchmark.questions}:
        assert kind in said
    assert "30/30" in said and "100.0" in said


def test_what_is_tried_again_counts_once():
    benchmark = draw_benchmark(4, count=10)
    question = benchmark.questions[0]
    lost = {"id": question.id, "prediction": None, "problem": "gone"}
    table, console, _ = watching(False)
    with table:
        table.begin(benchmark, collect_answers([Answer.from_json(lost)]), 10)
        table.recorded([question], [answered(question, str(question.truth))])
    tally = table._tallies[question.question_type]
    assert (tally.answered, tally.unanswered, tally.mean) == (1, 0, 100.0)
    assert "answers are there" not in console.file.getvalue()


@pytest.mark.parametrize("text", ["no segment", "<|im_start|>final \\boxed{A}"])
def test_what_counts_of_a_thinking_text(text):
    benchmark = draw_benchmark(3, count=40)
    choice = next(q for q in benchmark.questions if q.kind == "choice")
    table, _, _ = watching(False, thinking=True)
    with table:
        table.begin(benchmark, collect_answers(()), 1)
        table.recorded([choice], [answered(choice, text)])
    tally = table._tallies[choice.question_type]
    assert (tally.answered, tally.unanswered) == ((0, 1) if text[0] == "n" else (1, 0))
