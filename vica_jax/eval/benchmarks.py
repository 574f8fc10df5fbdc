"""VSI-Bench, VSTI-Bench and ScanQA: their tables of questions, every row checked.

A folder holds the rows (``annotation_file`` says in which files) and the videos:
VSI-Bench ``<dataset>/<scene_name>.mp4``, VSTI-Bench the row's ``video_path``, ScanQA
``<last part of video>.mp4`` in the folder ``videos`` if there is one and else in the
folder itself. A video that is missing or broken is no matter of this module.

A row is a question or it is refused with a reason; none is lost. Rows are told apart by
their ids, never by their places: VSI-Bench has changed its order between releases.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import NoReturn

from vica_jax.eval.annotation_file import (
    SUBSETS,
    AnnotationFiles,
    BadRow,
    BenchmarkError,
    Row,
    find_annotations,
)
from vica_jax.eval.question import (
    BENCHMARKS,
    TASKS,
    TYPES,
    Benchmark,
    BenchmarkName,
    Kind,
    Question,
    Refused,
)
from vica_jax.eval.question_row import UnusableRow, make_question, read_id
from vica_jax.files import write_text

__all__ = [
    "BENCHMARKS",
    "SUBSETS",
    "TASKS",
    "TYPES",
    "Benchmark",
    "BenchmarkError",
    "BenchmarkName",
    "Kind",
    "Question",
    "Refused",
    "read_benchmark",
    "read_questions",
    "write_questions",
]

_FORMAT = 1  # of questions.jsonl


def read_benchmark(
    folder: str | os.PathLike[str], name: str = "vsibench", subset: str | None = "full"
) -> Benchmark:
    """The questions of a benchmark's folder, in the order of its file.

    Args:
      subset: full, debiased or pruned; VSI-Bench alone has the last two.

    Raises:
      BenchmarkError: no such folder, no annotation file in it or more than one, one
        that cannot be read, another benchmark's, or not one row that can be asked.
    """
    folder, subset = Path(folder), subset or "full"
    if name not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise BenchmarkError(f"no benchmark is named {name!r}: take one of {known}")
    if subset not in SUBSETS or (subset != "full" and name != "vsibench"):
        subsets = ", ".join(SUBSETS if name == "vsibench" else SUBSETS[:1])
        raise BenchmarkError(f"{name} has no subset {subset!r}: it has {subsets}")
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "no such folder"
        raise BenchmarkError(f"{folder}: {what}: give the folder with the annotations")
    try:
        files = find_annotations(folder, name, subset)
    except BenchmarkError:  # no way to tell the subset, perhaps of another benchmark
        if subset != "full" and (files := find_annotations(folder, name, "full")):
            _check_benchmark(files, name, files.rows())
        raise
    if files is None:
        _raise_not_found(folder, name)
    rows = files.rows()
    _check_benchmark(files, name, rows)
    questions, refused = _sort_rows(rows, name, files)
    if not questions:
        first = f" (row {refused[0].row}: {refused[0].reason})" if refused else ""
        raise BenchmarkError(
            f"{folder}: {files.name}: no row of {name}, subset {subset}, can be asked"
            f"{first}"
        )
    return Benchmark(
        name=name,
        subset=subset if name == "vsibench" else None,
        questions=tuple(questions),
        refused=tuple(refused),
        file=files.name,
        revision=files.revision(),
    )


# ------------------------------------------------------------- which benchmark it is
def _benchmark_of(row: Row | BadRow) -> tuple[str, str] | None:
    """The benchmark that has rows like this one, and what tells so."""
    if isinstance(row, BadRow):
        return None
    kind = row.get("question_type")
    for name, types in TYPES.items():
        if isinstance(kind, str) and kind in types and name != "scanqa":
            return name, f"question type {kind}"
    metadata = row.get("metadata")
    if "conversations" in row and isinstance(metadata, dict) and "answers" in metadata:
        return "scanqa", "conversations and answers"
    return None


def _check_benchmark(
    files: AnnotationFiles, name: str, rows: list[Row | BadRow]
) -> None:
    found = [each for row in rows if (each := _benchmark_of(row))]
    counts = Counter(other for other, _ in found)
    if found and name not in counts:
        other = counts.most_common(1)[0][0]
        sign = next(sign for each, sign in found if each == other)
        raise BenchmarkError(
            f"{files.folder}: {files.name} looks like {other} ({sign}) and not like "
            f"{name}: pass --benchmark={other}"
        )


def _raise_not_found(folder: Path, name: str) -> NoReturn:
    for other in BENCHMARKS:
        if other != name and (files := find_annotations(folder, other, "full")):
            _check_benchmark(files, name, files.rows())
    wanted = {
        "vsibench": "test.parquet, test_debiased.parquet with test_pruned.parquet, or "
        "test.jsonl",
        "vstibench": "test.json, test.jsonl or test.parquet",
        "scanqa": "scanqa_val_llava_style.json",
    }
    raise BenchmarkError(
        f"{folder}: no annotation file of {name} is in it: it should hold "
        f"{wanted[name]} beside the videos"
    )


def _sort_rows(
    rows: list[Row | BadRow], name: str, files: AnnotationFiles
) -> tuple[list[Question], list[Refused]]:
    videos = "videos/" if (files.folder / "videos").is_dir() else ""
    questions, refused, seen = [], [], set()
    for number, row in enumerate(rows):
        row_id = kind = None
        try:
            if isinstance(row, BadRow):
                raise UnusableRow(row.reason)
            if isinstance(type_ := row.get("question_type"), str):
                kind = type_
            row_id = read_id(row)
            if files.keep is not None and row.get("pruned") is not files.keep:
                if isinstance(row.get("pruned"), bool):
                    continue  # no row of this subset
                raise UnusableRow("the column pruned is neither true nor false")
            if row_id in seen:
                raise UnusableRow("the id stands in an earlier row")
            seen.add(row_id)
            questions.append(make_question(name, row_id, row, videos))
        except UnusableRow as error:
            reason = str(error)
            refused.append(
                Refused(id=row_id, row=number, question_type=kind, reason=reason)
            )
    return questions, refused


# ------------------------------------------------------------------ questions.jsonl
def write_questions(path: str | os.PathLike[str], benchmark: Benchmark) -> None:
    """A benchmark as one file: a header line, then one line for each row.

    Written beside and renamed, so that it is whole or not there.
    """
    header = {"questions_format": _FORMAT, **benchmark.header()}
    rows = [header, *map(vars, benchmark.questions), *map(vars, benchmark.refused)]
    write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def read_questions(path: str | os.PathLike[str]) -> Benchmark:
    """What ``write_questions`` wrote, equal to it.

    Raises:
      BenchmarkError: no such file, or none that ``write_questions`` left.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except OSError as error:
        raise BenchmarkError(f"{path}: cannot read it ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BenchmarkError(f"{path}: not UTF-8 text: no list of questions") from None
    try:
        header, *rows = [json.loads(line) for line in lines]
        if header["questions_format"] != _FORMAT:
            raise ValueError("another format")
        asked, refused = header["questions"], header["refused"]
        if len(rows) != asked + refused:
            raise ValueError(f"{len(rows)} of {asked + refused} rows")
        for row in rows[:asked]:
            if row["options"] is not None:
                row["options"] = tuple(row["options"])
        return Benchmark(
            **{key: header[key] for key in ("name", "subset", "file", "revision")},
            questions=tuple(Question(**row) for row in rows[:asked]),
            refused=tuple(Refused(**row) for row in rows[asked:]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"{path}: not a whole list of questions ({type(error).__name__}: "
            f"{error!s:.80}): take a new --workdir"
        ) from None
