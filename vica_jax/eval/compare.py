"""Two runs over the same questions, question by question.

Both runs are scored officially, an unanswered question counting 0 in the run that lacks
it. A difference is this run's score minus the other's: its interval resamples whole
videos (``bootstrap``), its p-value is that of the exact sign test over the questions
whose scores differ, two-sided; for scores of 0 and 1 this is McNemar's exact test.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vica_jax.errors import InputError
from vica_jax.eval import bootstrap
from vica_jax.eval.benchmarks import TASKS, Benchmark, Question
from vica_jax.eval.items import Item
from vica_jax.eval.problems import FIRST_FEW
from vica_jax.eval.results import Results
from vica_jax.eval.rows import (
    Interval,
    Resampler,
    average_row,
    macro_entries,
    pool_row,
    types_of,
)

FORMAT = 1  # of compare.json
MISSING = "(not there)"


class CompareError(InputError):
    """Two runs that cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A task in both runs; scores, difference and interval are percent.

    ``wins`` counts questions on which this run scored more, ``losses`` those on which
    the other did; ``one_sided`` those that one run alone answered, this run's first.
    """

    name: str
    metric: str
    asked: int
    videos: int
    this: float
    other: float
    difference: float
    interval: Interval
    wins: int
    losses: int
    ties: int
    p_value: float
    one_sided: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Differences per type and task and of the averages, and what else differs.

    ``recipe`` has one row for each setting that is not the same: name, this run's
    value, the other's. ``only_this`` and ``only_other`` count questions that only one
    run was given; they are compared nowhere.
    """

    this: Results
    other: Results
    pairs: tuple[tuple[Item, Item], ...]
    types: tuple[Difference, ...]
    tasks: tuple[Difference, ...]
    overall: Difference
    micro: Difference
    recipe: tuple[tuple[str, str, str], ...]
    only_this: tuple[str, ...] = ()
    only_other: tuple[str, ...] = ()
    resamples: int = bootstrap.RESAMPLES

    @property
    def questions(self) -> int:
        """Compared ones."""
        return len(self.pairs)

    @property
    def rows(self) -> tuple[Difference, ...]:
        """Tasks, then macro and micro average where there is more than one task."""
        several = len(self.tasks) > 1
        return (*self.tasks, *[self.overall, self.micro] * several)


def compare(
    this: Results, other: Results, *, resamples: int = bootstrap.RESAMPLES
) -> Comparison:
    """Compare two runs on the questions that both were given.

    Raises:
      CompareError: other benchmarks or subsets, no question in common, or a question
        that reads differently in the two.
    """
    pairs = _pair(this, other)
    mine, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    gaps = [a.score - b.score for a, b in pairs]
    resampler = Resampler(mine, gaps, resamples=resamples)
    places: dict[str, list[int]] = {}
    for place, item in enumerate(mine):
        places.setdefault(item.question.question_type, []).append(place)
    order = [row.name for row in this.types if row.name in places]

    def rows_of(items: Sequence[Item], names: Sequence[str]) -> list[Item]:
        return [items[place] for name in names for place in places[name]]

    ours = {name: pool_row(name, rows_of(mine, [name])) for name in order}
    their = {name: pool_row(name, rows_of(theirs, [name])) for name in order}

    def averaged(name: str, entries: Sequence[Sequence[str]]) -> Difference:
        names = [part for entry in entries for part in entry]
        a, b = rows_of(mine, names), rows_of(theirs, names)
        return _difference(
            average_row(name, a, ours, entries),
            average_row(name, b, their, entries),
            list(zip(a, b, strict=True)),
            resampler.average(entries),
        )

    types = {name: averaged(name, [[name]]) for name in order}
    tasks = []
    for task in TASKS[this.benchmark.name]:
        parts = types_of(task, order)
        if parts == [task]:
            tasks.append(types[task])
        elif parts:
            tasks.append(averaged(task, [parts]))
    overall = micro = tasks[0]
    if len(tasks) > 1:
        overall = averaged("overall", macro_entries(order))
        micro = _difference(
            pool_row("micro", mine), pool_row("micro", theirs), pairs, resampler.pool()
        )
    shared = {item.question.id for item in mine}
    return Comparison(
        this=this,
        other=other,
        pairs=tuple(pairs),
        types=tuple(types.values()),
        tasks=tuple(tasks),
        overall=overall,
        micro=micro,
        recipe=tuple(recipe_differences(this.recipe, other.recipe)),
        only_this=_left_out(this, shared),
        only_other=_left_out(other, shared),
        resamples=resamples,
    )


def _difference(
    ours: Any, theirs: Any, pairs: Sequence[tuple[Item, Item]], interval: Interval
) -> Difference:
    wins = sum(a.score > b.score for a, b in pairs)
    losses = sum(a.score < b.score for a, b in pairs)
    return Difference(
        name=ours.name,
        metric=ours.metric,
        asked=ours.asked,
        videos=ours.videos,
        this=ours.score,
        other=theirs.score,
        difference=ours.score - theirs.score,
        interval=interval if ours.videos > 1 else None,
        wins=wins,
        losses=losses,
        ties=len(pairs) - wins - losses,
        p_value=sign_test(wins, losses),
        one_sided=(
            sum(a.answered and not b.answered for a, b in pairs),
            sum(b.answered and not a.answered for a, b in pairs),
        ),
    )


def sign_test(wins: int, losses: int) -> float:
    """The exact two-sided p-value of so uneven a split, each side as likely.

    ``min(1, 2 P(X <= min(wins, losses)))`` with X binomial(wins + losses, 1/2), in
    whole numbers, so exact at any size (``scipy.stats.binomtest`` gives the same).
    """
    trials, fewer = wins + losses, min(wins, losses)
    term = total = 1
    for k in range(fewer):
        term = term * (trials - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / 2**trials)


# ------------------------------------------------------------------------------ pairs
def _pair(this: Results, other: Results) -> list[tuple[Item, Item]]:
    mine, theirs = this.benchmark, other.benchmark
    if (mine.name, mine.subset) != (theirs.name, theirs.subset):
        raise CompareError(
            f"this run is {_title(mine)}, the other {_title(theirs)}: only runs over "
            "the same benchmark and subset can be compared"
        )
    found = {item.question.id: item for item in other.items}
    pairs = [
        (item, found[item.question.id])
        for item in this.items
        if item.question.id in found
    ]
    if not pairs:
        raise CompareError(
            "the two runs have no question in common: were they made from the same "
            f"annotations ({mine.file})?"
        )
    for a, b in pairs:
        if _content(a.question) != _content(b.question):
            raise CompareError(
                f"question {a.question.id!r} is not the same in the two runs: they "
                "were made from different releases of the benchmark"
            )
    return pairs


def _title(benchmark: Benchmark) -> str:
    return " ".join(filter(None, [benchmark.name, benchmark.subset]))


def _content(question: Question) -> tuple[Any, ...]:
    """What has to be the same; other columns of a row may come and go."""
    return (
        question.question_type,
        question.question,
        question.options,
        question.video,
        question.truth,
    )


def _left_out(results: Results, shared: set[str]) -> tuple[str, ...]:
    names = [item.question.id for item in results.items]
    return tuple(name for name in names if name not in shared)


# ------------------------------------------------------------------------------ recipe
def recipe_differences(
    this: Mapping[str, Any], other: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """Settings that differ, nested ones by dotted names: name, this value, the other's.

    In this recipe's order; settings of the other alone follow.
    """
    ours, theirs = dict(flatten(this)), dict(flatten(other))
    names = [*ours, *[name for name in theirs if name not in ours]]
    values = [(n, ours.get(n, MISSING), theirs.get(n, MISSING)) for n in names]
    return [row for row in values if row[1] != row[2]]


def flatten(recipe: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted name and value as text of every setting, in the recipe's order."""
    rows = []
    for key, value in recipe.items():
        if isinstance(value, Mapping) and value:
            rows += flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            rows.append((f"{prefix}{key}", text))
    return rows


# -------------------------------------------------------------------------------- JSON
def to_json(comparison: Comparison, names: tuple[str, str]) -> dict[str, Any]:
    """compare.json; ``names`` are those of this run and of the other.

    ``items`` has the questions whose scores (0 to 1) differ.
    """
    benchmark = comparison.this.benchmark
    sides = [comparison.this, comparison.other]
    return {
        "format": FORMAT,
        "benchmark": {"name": benchmark.name, "subset": benchmark.subset},
        "questions": comparison.questions,
        "runs": [
            {
                "name": name,
                "revision": side.benchmark.revision,
                "asked": len(side.items),
                "answered": sum(item.answered for item in side.items),
                "not_compared": len(left),
                "not_compared_first": list(left[:FIRST_FEW]),
            }
            for name, side, left in zip(
                names, sides, [comparison.only_this, comparison.only_other], strict=True
            )
        ],
        "unit": "percent",
        "overall": asdict(comparison.overall),
        "micro": asdict(comparison.micro),
        "tasks": [asdict(row) for row in comparison.tasks],
        "types": [asdict(row) for row in comparison.types],
        "recipe": [
            {"setting": setting, "this": this, "other": other}
            for setting, this, other in comparison.recipe
        ],
        "intervals": {
            "level": bootstrap.LEVEL,
            "resamples": comparison.resamples,
            "seed": bootstrap.SEED,
            "clusters": "video",
        },
        "items": [
            {
                "id": a.question.id,
                "type": a.question.question_type,
                "this": a.score,
                "other": b.score,
            }
            for a, b in comparison.pairs
            if a.score != b.score
        ],
    }
