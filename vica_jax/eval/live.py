"""A running benchmark to look at: score so far per task, progress, time left.

On a terminal a table that is drawn in place; elsewhere a line every half minute.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from vica_jax.eval.answers import Answer, Answers
from vica_jax.eval.items import score_item
from vica_jax.eval.question import TYPES, Benchmark, Question

LINE_EVERY = 30.0  # seconds between lines where there is no terminal


@dataclass
class _Tally:
    """One question type so far."""

    asked: int = 0
    answered: int = 0
    unanswered: int = 0
    score: float = 0.0

    @property
    def mean(self) -> float | None:
        """Percent; what could not be answered counts 0."""
        seen = self.answered + self.unanswered
        return 100 * self.score / seen if seen else None


class LiveTable:
    """A ``runner.Watch``; used as a context manager, on stderr.

    ``thinking`` as in ``RunSettings``: which part of a text is scored.
    """

    def __init__(
        self,
        *,
        thinking: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console = console or Console(stderr=True)
        self._thinking = thinking
        self._clock = clock
        self._tallies: dict[str, _Tally] = defaultdict(_Tally)
        self._problems: Counter[str] = Counter()
        self._failed: set[str] = set()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._live: Live | None = None
        self._started = self._said = clock()
        self._done = self._total = 0

    def __enter__(self) -> "LiveTable":
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *ended: Any) -> None:
        if self._live is not None:
            self._live.update(self._view(), refresh=True)
            self._live.stop()

    # ------------------------------------------------------------ runner.Watch
    def begin(self, benchmark: Benchmark, done: Answers, asked: int) -> None:
        """See ``runner.Watch``."""
        self._name = benchmark.name
        order = [kind for kind in TYPES[benchmark.name]]
        for kind in order:
            if any(q.question_type == kind for q in benchmark.questions):
                self._tallies[kind] = _Tally()
        for question in benchmark.questions:
            self._tallies[question.question_type].asked += 1
            if answer := done.by_id.get(question.id):
                self._count(question, answer)
        self._total, self._started = asked, self._clock()
        self._said = self._started
        self._task = self._progress.add_task("questions", total=asked)
        before = sum(answer.answered for answer in done.by_id.values())
        if before:
            self._console.print(f"{before} answers are there, {asked} to go")
        self._refresh()

    def recorded(
        self, questions: Sequence[Question], records: list[dict[str, Any]]
    ) -> None:
        """See ``runner.Watch``."""
        by_id = {question.id: question for question in questions}
        for record in records:
            self._count(by_id[record["id"]], Answer.from_json(record))
            if record["problem"]:
                self._problems[record["problem"]] += 1
                if self._problems[record["problem"]] == 1:
                    video = by_id[record["id"]].video
                    self._console.print(
                        f"not answered ({video}): {record['problem']}",
                        markup=False,
                        highlight=False,
                    )
        self._done += len(questions)
        self._progress.update(self._task, completed=self._done)
        self._refresh()

    # ------------------------------------------------------------------ drawing
    def _count(self, question: Question, answer: Answer) -> None:
        item = score_item(question, answer, self._name, final_segment=self._thinking)
        tally = self._tallies[question.question_type]
        failed = question.id in self._failed  # and was tried again
        self._failed.discard(question.id)
        tally.score += item.score
        tally.answered += item.answered
        tally.unanswered += (not item.answered) - failed
        if not item.answered:
            self._failed.add(question.id)

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._view())
            return
        now = self._clock()
        if now - self._said >= LINE_EVERY or self._done >= self._total:
            self._said = now
            self._console.print(self._line(now), markup=False, highlight=False)

    def _view(self) -> Group:
        table = Table("task", box=None, pad_edge=False)
        for name in ("asked", "answered", "not", "score so far"):
            table.add_column(name, justify="right")
        for kind, tally in self._tallies.items():
            table.add_row(
                kind,
                str(tally.asked),
                str(tally.answered),
                str(tally.unanswered or ""),
                "" if tally.mean is None else f"{tally.mean:.1f}",
            )
        return Group(table, self._progress)

    def _line(self, now: float) -> str:
        spent = now - self._started
        left = spent / self._done * (self._total - self._done) if self._done else 0
        means = [t.mean for t in self._tallies.values() if t.mean is not None]
        mean = (
            f", mean over types so far {sum(means) / len(means):.1f}" if means else ""
        )
        return (
            f"{self._done}/{self._total} questions in {_clock_text(spent)}, "
            f"about {_clock_text(left)} left{mean}"
        )


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
