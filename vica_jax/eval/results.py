"""What a run scored: rows per task, what is missing and why, as JSON values.

The score of record is the official one, with every unanswered question counted as 0 (as
the official code does where a video cannot be read). Beside it stands the score over
the answered questions, so that neither hides the other. Scores are percent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vica_jax.errors import InputError
from vica_jax.eval import bootstrap
from vica_jax.eval.aggregate import IncompleteError, official_table
from vica_jax.eval.answers import Answers, AnswersError, in_number_order
from vica_jax.eval.benchmarks import TASKS, TYPES, Benchmark, Question
from vica_jax.eval.items import Item, score_item
from vica_jax.eval.problems import (
    Reason,
    find_cut,
    find_refused,
    find_remarks,
    find_unanswered,
    note_oddities,
)
from vica_jax.eval.rows import (
    Resampler,
    Row,
    average_row,
    macro_entries,
    mean,
    pool_row,
    types_of,
)
from vica_jax.eval.scanqa import ScanqaError, score_scanqa

FORMAT = 1  # of results.json
ANSWERS_FROM = "answers_from"  # key of a recipe: where in the text the answer stands
FINAL_SEGMENT = "final_segment"


class ResultsError(InputError):
    """A run that cannot be summed up."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything a report shows. ``types`` and ``tasks`` are those with questions.

    ``overall`` is the macro average over tasks, ``micro`` that over questions; with a
    single task both are its row. ``groups`` are macro and micro averages of choice and
    number questions apart, ``cut`` the answers that met the token limit, ``remarks``
    what the answers' own notes say. ``blind`` are baselines beside the run
    (``blind_report.BlindBaseline``), where they were asked for.
    """

    benchmark: Benchmark
    recipe: Mapping[str, Any]
    answers: Answers
    items: tuple[Item, ...]
    types: tuple[Row, ...]
    tasks: tuple[Row, ...]
    overall: Row
    micro: Row
    resamples: int
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    scanqa: Mapping[str, Any] = field(default_factory=dict)
    unanswered: tuple[Reason, ...] = ()
    refused: tuple[Reason, ...] = ()
    cut: tuple[Reason, ...] = ()
    remarks: tuple[Reason, ...] = ()
    notes: tuple[str, ...] = ()
    blind: tuple[Any, ...] = ()  # what they are holds Results itself

    @property
    def rows(self) -> tuple[Row, ...]:
        """Tasks, then macro and micro average where there is more than one task."""
        several = len(self.tasks) > 1
        return (*self.tasks, *[self.overall, self.micro] * several)


def summarise(
    benchmark: Benchmark,
    answers: Answers,
    recipe: Mapping[str, Any],
    *,
    resamples: int = bootstrap.RESAMPLES,
    meteor_jar: Path | None = None,
) -> Results:
    """Score every question and sum up; ``resamples`` 0 leaves the intervals out.

    ScanQA's METEOR is there where ``meteor-1.5.jar`` is given.

    A recipe with ``"answers_from": "final_segment"`` has thinking texts: their answer
    is taken from the final segment, and a text without one is unanswered.

    Raises:
      AnswersError: answers to questions that the benchmark does not have.
      ResultsError: the benchmark has no question that can be asked.
      ScanqaError: METEOR cannot be computed.
    """
    _check(benchmark, answers)
    thinking = recipe.get(ANSWERS_FROM) == FINAL_SEGMENT
    items = tuple(
        score_item(
            question,
            answers.by_id.get(question.id),
            benchmark.name,
            final_segment=thinking,
        )
        for question in benchmark.questions
    )
    found: dict[str, list[Item]] = {name: [] for name in TYPES[benchmark.name]}
    for item in items:
        found[item.question.question_type].append(item)
    by_type = {name: rows for name, rows in found.items() if rows}
    resampler = Resampler(items, resamples=resamples)
    types = {
        name: pool_row(name, rows, resampler.average([[name]]))
        for name, rows in by_type.items()
    }
    tasks = []
    for task in TASKS[benchmark.name]:
        parts = types_of(task, types)
        if parts == [task]:
            tasks.append(types[task])
        elif parts:
            rows = [item for name in parts for item in by_type[name]]
            interval = resampler.average([parts])
            tasks.append(average_row(task, rows, types, [parts], interval))
    overall = micro = tasks[0]
    if len(tasks) > 1:
        entries = macro_entries(list(types))
        interval = resampler.average(entries)
        overall = average_row("overall", items, types, entries, interval)
        micro = pool_row("micro", items, resampler.pool())
    notes = note_oddities(items)
    texts: dict[str, dict[str, float]] = {}
    if benchmark.name == "scanqa":
        try:
            texts = _score_texts(items, meteor_jar)
        except ScanqaError as error:
            if meteor_jar:
                raise
            notes.append(f"no text measures: {error}")
    return Results(
        benchmark=benchmark,
        recipe=recipe,
        answers=answers,
        items=items,
        types=tuple(types.values()),
        tasks=tuple(tasks),
        overall=overall,
        micro=micro,
        resamples=resamples,
        groups=_groups(benchmark.name, types, by_type) if len(tasks) > 1 else {},
        scanqa=texts,
        unanswered=find_unanswered(items),
        refused=find_refused(benchmark),
        cut=find_cut(items),
        remarks=find_remarks(items),
        notes=tuple(notes),
    )


def _check(benchmark: Benchmark, answers: Answers) -> None:
    known = {question.id for question in benchmark.questions}
    if not known:
        reasons = sorted({refused.reason for refused in benchmark.refused})
        raise ResultsError(
            f"{benchmark.file}: no question to report: {len(benchmark.refused)} rows, "
            f"all refused ({'; '.join(reasons[:3]) or 'the file is empty'})"
        )
    strange = sorted(set(answers.by_id) - known, key=in_number_order)
    if strange:
        shown = ", ".join(repr(name) for name in strange[:3])
        raise AnswersError(
            f"{len(strange)} of {len(answers.by_id)} answers are to questions that "
            f"questions.jsonl does not have ({shown}{'...' if strange[3:] else ''}): "
            "answers of another run"
        )


# ---------------------------------------------------------------- groups and ScanQA
def _groups(
    benchmark: str, types: Mapping[str, Row], by_type: Mapping[str, Sequence[Item]]
) -> dict[str, dict[str, float]]:
    """Averages of choice and of number questions and of all, by both scorers.

    Spatial-MLLM names the three acc, mra and all.
    """
    kinds = TYPES[benchmark]
    found: dict[str, dict[str, float]] = {}
    for kind in ("choice", "number", "all"):
        names = [name for name in types if kind in (kinds[name], "all")]
        if not names:
            continue
        rows = [item for name in names for item in by_type[name]]
        averaged = average_row(kind, rows, types, macro_entries(names))
        pooled = pool_row(kind, rows)
        found[kind] = {"macro": averaged.score, "micro": pooled.score}
        if averaged.spatial_mllm is not None and pooled.spatial_mllm is not None:
            found[kind]["spatial_mllm_macro"] = averaged.spatial_mllm
            found[kind]["spatial_mllm_micro"] = pooled.spatial_mllm
    return found


def _score_texts(
    items: Sequence[Item], meteor_jar: Path | None
) -> dict[str, dict[str, float]]:
    """Text measures in percent, over all questions and over the answered ones.

    An unanswered question enters the first as an empty text.
    """
    found = {}
    for label in ("all", "answered"):
        rows = [item for item in items if item.answered or label == "all"]
        if not rows:
            continue
        scores = score_scanqa(
            {item.question.id: truths(item.question) for item in rows},
            [(item.question.id, item.prediction or "") for item in rows],
            meteor_jar=meteor_jar,
        )
        measures = {
            "EM": mean(item.score for item in rows),
            "EM-R": mean(item.lenient for item in rows),
            "CIDEr": scores.cider,
            **{f"BLEU-{n}": score for n, score in enumerate(scores.bleu, 1)},
            "ROUGE-L": scores.rouge_l,
            "METEOR": scores.meteor,
        }
        found[label] = {"count": len(rows)} | {
            name: 100 * score for name, score in measures.items() if score is not None
        }
    return found


def truths(question: Question) -> list[str]:
    """What counts as right: one letter or number, for texts any of several."""
    if question.kind != "text":
        return [str(question.truth)]
    return [str(answer) for answer in question.doc["metadata"]["answers"]]


# -------------------------------------------------------------------------------- JSON
def to_json(results: Results) -> dict[str, Any]:
    """results.json: all rows and reasons, and each question's scores under ``items``.

    Rows and averages are percent, the scores of ``items`` between 0 and 1.
    """
    benchmark = results.benchmark
    return {
        "format": FORMAT,
        "benchmark": benchmark.header(),
        "recipe": dict(results.recipe),
        "asked": len(results.items),
        "answered": sum(item.answered for item in results.items),
        "unit": "percent",
        "overall": _row_json(results.overall),
        "micro": _row_json(results.micro),
        "tasks": [_row_json(row) for row in results.tasks],
        "types": [_row_json(row) for row in results.types],
        "groups": results.groups,
        "official": official_names(results),
        "scanqa": results.scanqa,
        "intervals": {
            "level": bootstrap.LEVEL,
            "resamples": results.resamples,
            "seed": bootstrap.SEED,
            "clusters": "video",
        },
        "unanswered": [asdict(reason) for reason in results.unanswered],
        "refused": [asdict(reason) for reason in results.refused],
        "cut": [asdict(reason) for reason in results.cut],
        "remarks": [asdict(reason) for reason in results.remarks],
        "conflicts": list(results.answers.conflicts),
        "notes": list(results.notes),
        "items": [_item_json(item) for item in results.items],
    }


def official_names(results: Results) -> dict[str, Any]:
    """Overall and tasks under the names that the official code of VSI-Bench gives them.

    Empty for other benchmarks, and where that code would stop.
    """
    if results.benchmark.name != "vsibench":
        return {}
    means = {row.name: row.score / 100 for row in results.types}
    try:
        return dict(official_table(means))
    except IncompleteError:
        return {}


def _row_json(row: Row) -> dict[str, Any]:
    return asdict(row) | {"unanswered": row.unanswered}


def _item_json(item: Item) -> dict[str, Any]:
    return {
        "id": item.question.id,
        "type": item.question.question_type,
        "video": item.question.video,
        "metric": item.metric,
        "score": item.score,
        "lenient": item.lenient,
        "spatial_mllm": item.spatial_mllm,
        "exact": item.exact,
        "confidence": item.confidence,
        "problem": item.problem,
    }
