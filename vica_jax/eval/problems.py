"""What went wrong in a run and what a reader of its numbers has to know."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vica_jax.eval.benchmarks import Benchmark
from vica_jax.eval.items import Item, plain_text
from vica_jax.eval.rows import DIRECTION

FIRST_FEW = 5  # ids that are named
DIRECTIONS = tuple(f"{DIRECTION}_{name}" for name in ("easy", "medium", "hard"))
CUT = "the answer was cut at the token limit"


@dataclass(frozen=True, kw_only=True)
class Reason:
    """What befell questions, and which: all of one wording together.

    ``text`` says VIDEO for the video's name. ``types`` counts per question type;
    ``ids`` and ``videos`` are the first few.
    """

    text: str
    count: int
    types: Mapping[str, int]
    ids: tuple[str, ...]
    videos: tuple[str, ...] = ()
    num_videos: int = 0


def find_unanswered(items: Iterable[Item]) -> tuple[Reason, ...]:
    """Why questions have no answer."""
    return _gather((item, item.problem) for item in items if item.problem)


def find_cut(items: Iterable[Item]) -> tuple[Reason, ...]:
    """Answers that ended at the token limit."""
    cut = [item for item in items if item.answer and item.answer.finish == "length"]
    return _gather((item, CUT) for item in cut)


def find_remarks(items: Iterable[Item]) -> tuple[Reason, ...]:
    """What the answers' own notes say."""
    return _gather(
        (item, plain_text(note, item.question.video))
        for item in items
        if item.answer
        for note in item.answer.notes
    )


def find_refused(benchmark: Benchmark) -> tuple[Reason, ...]:
    """Rows that were not asked; a row without an id is named by its number, from 0."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for row in benchmark.refused:
        name = f"row {row.row}" if row.id is None else row.id
        kind = row.question_type or "no type"
        groups.setdefault(plain_text(row.reason, ""), []).append((name, kind))
    return _sorted(
        Reason(
            text=text,
            count=len(rows),
            types=dict(Counter(kind for _, kind in rows)),
            ids=tuple(name for name, _ in rows[:FIRST_FEW]),
        )
        for text, rows in groups.items()
    )


def _gather(found: Iterable[tuple[Item, str]]) -> tuple[Reason, ...]:
    """Texts that differ in the video's name alone together, the most frequent first."""
    groups: dict[str, list[Item]] = {}
    for item, text in found:
        groups.setdefault(text.replace(item.question.video, "VIDEO"), []).append(item)
    reasons = []
    for text, items in groups.items():
        videos = list(dict.fromkeys(item.question.video for item in items))
        reasons.append(
            Reason(
                text=text,
                count=len(items),
                types=dict(Counter(item.question.question_type for item in items)),
                ids=tuple(item.question.id for item in items[:FIRST_FEW]),
                videos=tuple(videos[:FIRST_FEW]),
                num_videos=len(videos),
            )
        )
    return _sorted(reasons)


def _sorted(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    return tuple(sorted(reasons, key=lambda reason: (-reason.count, reason.text)))


def note_oddities(items: Sequence[Item]) -> list[str]:
    """Where the numbers are not what a reader takes them for, one line each."""
    notes = []
    types = {item.question.question_type for item in items}
    directions = [name for name in DIRECTIONS if name in types]
    if directions and len(directions) < 3:
        names = ", ".join(name.removeprefix(f"{DIRECTION}_") for name in directions)
        ending = "counts each as an entry of its own in overall, and so does this"
        if f"{DIRECTION}_easy" in directions:
            ending = "stops there (KeyError); here their mean is the task"
        notes.append(
            f"of the three {DIRECTION} types only {names} is asked: the official code "
            + ending
        )
    zeros = [item for item in items if _truth_is_zero(item)]
    if zeros:
        notes.append(
            f"{_count(zeros, 'question')} with a truth of 0, on which the official "
            "code stops (ZeroDivisionError); here an answer of 0 is right and any "
            f"other wrong: {_name(zeros)}"
        )
    exact = [item for item in items if item.exact is not None]
    lacking = [i for i in items if i.answered and i.exact is None]
    if exact and lacking:
        notes.append(
            f"{_count(lacking, 'answered question')} without an exact answer, which "
            f"the column exact counts as 0: {_name(lacking)}"
        )
    unsure = [item for item in exact if item.confidence is None]
    if unsure:
        notes.append(
            f"{_count(unsure, 'exact answer')} without a confidence between 0 and 1, "
            f"not in the columns confidence and ECE: {_name(unsure)}"
        )
    return notes


def _truth_is_zero(item: Item) -> bool:
    if item.question.kind != "number":
        return False
    try:
        return float(item.question.truth) == 0
    except ValueError:
        return False


def _count(items: Sequence[Item], noun: str) -> str:
    return f"{len(items):,} {noun}{'s' * (len(items) != 1)}"


def _name(items: Sequence[Item]) -> str:
    names = ", ".join(item.question.id for item in items[:FIRST_FEW])
    return f"{names}{', ...' if len(items) > FIRST_FEW else ''}"
