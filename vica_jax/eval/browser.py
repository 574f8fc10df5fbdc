"""browser.html: every question of a run on one page that needs no network.

``browser.html`` beside this module is the page without its data: its script reads the
questions from a JSON element, shows a few at a time, and keeps the filters in the
address, so that a view can be linked (``#task=object_counting&show=wrong&q=chair``).
Questions and answers are strangers' text: the script makes text nodes of them, and the
page's Content-Security-Policy lets no other script run and nothing be loaded.
"""

import base64
import hashlib
import html
import importlib.resources
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, UnidentifiedImageError

from vica_jax.eval.benchmarks import Question
from vica_jax.eval.compare import flatten
from vica_jax.eval.contact_sheet import sheet_path
from vica_jax.eval.figures import title_of
from vica_jax.eval.items import Item, plain_text
from vica_jax.eval.problems import CUT
from vica_jax.eval.results import Results, truths
from vica_jax.eval.rows import Row, types_of
from vica_jax.eval.scores import first

PAGE_SIZE = 20
MARK = re.compile(r"\{\{(POLICY|TITLE|DATA|SHEETS)\}\}")


def make_page(results: Results, workdir: Path) -> str:
    """The whole page, with the contact sheets of the run's ``workdir``.

    Sheets that are missing or no JPEG are counted on the page.
    """
    template = importlib.resources.files("vica_jax.eval").joinpath("browser.html")
    page = template.read_text(encoding="utf-8")
    sheets = dict(_read_sheets(results, workdir))
    title = title_of(results.benchmark.name, results.benchmark.subset)
    parts = {
        "POLICY": _policy(page),
        "TITLE": html.escape(f"{title}, question by question"),
        "DATA": _json(_page_data(results, title, sheets)),
        "SHEETS": "\n".join(
            f'<script type="text/plain" id="sheet-{number}" data-width="{width}" '
            f'data-height="{height}">{base64.b64encode(jpeg).decode()}</script>'
            for number, (jpeg, (width, height)) in sheets.items()
        ),
    }
    return MARK.sub(lambda mark: parts[mark[1]], page)


def _policy(page: str) -> str:
    """Nothing may be loaded, and no script or style run but the page's own."""

    def digest(tag: str) -> str:
        text = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[-1]
        hashed = hashlib.sha256(text.encode()).digest()
        return f"'sha256-{base64.b64encode(hashed).decode()}'"

    return (
        f"default-src 'none'; img-src data:; script-src {digest('script')}; "
        f"style-src {digest('style')}; base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> str:
    """JSON in ASCII that holds no ``<``, so that it cannot end its element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )


def _read_sheets(
    results: Results, workdir: Path
) -> Iterator[tuple[int, tuple[bytes, tuple[int, int]]]]:
    """Each video's place, and the bytes and size of its contact sheet."""
    for number, video in enumerate(results.benchmark.videos):
        try:
            jpeg = sheet_path(workdir, video).read_bytes()
            with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
                yield number, (jpeg, image.size)
        except (OSError, UnidentifiedImageError):
            continue


# -------------------------------------------------------------------------------- data
def _page_data(
    results: Results, title: str, sheets: dict[int, tuple[bytes, tuple[int, int]]]
) -> dict[str, Any]:
    benchmark = results.benchmark
    task_of = {
        name: row.name
        for row in results.tasks
        for name in types_of(row.name, [part.name for part in results.types])
    }
    place = {video: number for number, video in enumerate(benchmark.videos)}
    questions = [_item_data(item, task_of, place) for item in results.items]
    lacking = len(results.items) - sum(item.answered for item in results.items)
    bare = len(benchmark.videos) - len(sheets)
    amiss = [
        (lacking, "unanswered, counted as 0"),
        (len(benchmark.refused), "rows of the benchmark refused (see report.md)"),
        (len(results.answers.conflicts), "with answers that disagree"),
        (bare, f"of {len(benchmark.videos):,} videos without frames to show"),
    ]
    several = len(results.tasks) > 1
    measures = results.scanqa.get("all", {}).items()
    return {
        "title": title,
        "page_size": PAGE_SIZE,
        "overall": _row_data(results.overall, filter_by=False),
        "headline": "macro average of the tasks" if several else results.overall.metric,
        "answered": len(results.items) - lacking,
        "measures": [f"{name} {x:.1f}" for name, x in measures if name != "count"],
        "amiss": [f"{number:,} {what}" for number, what in amiss if number],
        "recipe": flatten(results.recipe),
        "rows": [
            _row_data(row, filter_by=row in results.tasks) for row in results.rows
        ],
        "tasks": [{"name": r.name, "label": _label(r.name)} for r in results.tasks],
        "datasets": sorted({item["dataset"] for item in questions} - {""}),
        "questions": questions,
        "footer": f"{benchmark.file}, sha256 {benchmark.revision}. The official score "
        "counts; the other columns stand beside it and are explained in report.md.",
    }


def _label(name: str) -> str:
    names = {"overall": "overall (macro)", "micro": "all questions (micro)"}
    return names.get(name, name.replace("_", " "))


def _row_data(row: Row, *, filter_by: bool) -> dict[str, Any]:
    return {
        "name": row.name,
        "label": _label(row.name),
        "score": row.score,
        "interval": row.interval,
        "asked": row.asked,
        "unanswered": row.unanswered,
        "filter": filter_by,
    }


def _item_data(
    item: Item, task_of: dict[str, str], place: dict[str, int]
) -> dict[str, Any]:
    question, answer = item.question, item.answer
    given = None if answer is None else answer.prediction
    notes = list(answer.notes) if answer else []
    if answer and answer.finish == "length":
        notes.insert(0, CUT)
    return {
        "id": question.id,
        "type": question.question_type,
        "task": task_of[question.question_type],
        "dataset": _dataset(question),
        "video": question.video,
        "sheet": place[question.video],
        "question": question.question,
        "options": question.options,
        "letters": question.letters,
        "truths": truths(question),
        "prediction": item.prediction,
        # Where the answer was taken out of a longer text, that text too.
        "given": given if given != item.prediction else None,
        "read": None if item.prediction is None else _read_letter(item),
        "problem": item.problem,
        "metric": item.metric,
        "score": item.score,
        "lenient": item.lenient,
        "spatial_mllm": item.spatial_mllm,
        "exact_answer": answer.exact_answer
        if answer and item.exact is not None
        else None,
        "exact": item.exact,
        "confidence": item.confidence,
        "notes": [plain_text(note, question.video) for note in notes],
    }


def _read_letter(item: Item) -> str | None:
    """The option that the official scorer reads in an answer."""
    letter = first(item.prediction or "").upper()
    return letter if letter in item.question.letters else None


def _dataset(question: Question) -> str:
    named = question.doc.get("dataset")
    if isinstance(named, str) and named:
        return named
    parts = PurePosixPath(question.video).parts
    return parts[0] if len(parts) > 1 else ""
