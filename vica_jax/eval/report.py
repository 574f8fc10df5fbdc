"""The files that a run ends with, written into its workdir.

    report.md  results.json  scores.png  browser.html     of every run
    compare.md compare.json  compare.png                  against another run

The same answers give the same bytes, in whatever order and number of files they were
recorded: questions stand in the benchmark's order, and nothing here is of the time, the
machine or its folders.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vica_jax.errors import InputError
from vica_jax.eval import bootstrap, browser, compare, figures, markdown, results
from vica_jax.eval.answers import read_answers
from vica_jax.eval.benchmarks import read_questions
from vica_jax.eval.blind_report import blind_json, compare_blind, describe_blind
from vica_jax.eval.compare import Comparison, Difference
from vica_jax.eval.results import Results
from vica_jax.eval.rows import Row
from vica_jax.eval.workdir import QUESTIONS, RECIPE
from vica_jax.files import replacing

FILES = ("report.md", "results.json", "scores.png", "browser.html")
COMPARISON_FILES = ("compare.md", "compare.json", "compare.png")


class ReportError(InputError):
    """A workdir that no report can be made of."""


# ----------------------------------------------------------------------------- reading
def read_run(
    workdir: Path,
    *,
    resamples: int = bootstrap.RESAMPLES,
    meteor_jar: Path | None = None,
) -> Results:
    """A run's questions and answers, scored.

    Raises:
      InputError: what is missing or cannot be read; AnswersError, BenchmarkError and
        ResultsError are such.
    """
    if not workdir.is_dir():
        raise ReportError(f"{workdir}: no such folder: give the workdir of a run")
    answers = read_answers(workdir)
    recipe = _read_recipe(workdir / RECIPE)
    benchmark = read_questions(workdir / QUESTIONS)
    try:
        return results.summarise(
            benchmark, answers, recipe, resamples=resamples, meteor_jar=meteor_jar
        )
    except InputError as error:
        raise type(error)(f"{workdir}: {error}") from error


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ReportError(
            f"{path}: {reason}: a run writes it first, so this is none or not whole"
        ) from error
    except ValueError as error:
        raise ReportError(f"{path} is no JSON: {error}") from error
    if not isinstance(recipe, dict):
        raise ReportError(f"{path} is no JSON object: it should name the settings")
    return recipe


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


# ----------------------------------------------------------------------------- writing
def write_report(
    workdir: Path,
    *,
    resamples: int = bootstrap.RESAMPLES,
    meteor_jar: Path | None = None,
    blind: bool = False,
) -> Results:
    """Write the four files of a run and return what they say.

    ``blind`` adds the blind baselines of its questions to the first two.

    Raises:
      InputError: as ``read_run``.
      OSError: a file cannot be written.
    """
    with _alone(workdir):
        found = read_run(workdir, resamples=resamples, meteor_jar=meteor_jar)
        facts, section = results.to_json(found), ""
        if blind:
            found = replace(found, blind=compare_blind(found, resamples=resamples))
            facts |= {"blind": blind_json(found.blind)}
            section = describe_blind(found)
        text = markdown.describe(found, torn=found.answers.torn, blind=section)
        _write(workdir / "results.json", dump(facts))
        _write(workdir / "report.md", text)
        _write(workdir / "scores.png", figures.draw_scores(found))
        _write(workdir / "browser.html", browser.make_page(found, workdir))
    return found


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """One process at a time, so that the last to write has read the most answers."""
    try:
        file = os.open(workdir / RECIPE, os.O_RDONLY)
    except OSError:  # reading says what is wrong with the workdir
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def write_comparison(
    workdir: Path,
    other: Path,
    *,
    resamples: int = bootstrap.RESAMPLES,
) -> Comparison:
    """Compare a run with another and write the three files into ``workdir``.

    The runs are called by the names of their folders.

    Raises:
      InputError: as ``read_run`` and ``compare``.
      OSError: a file cannot be written.
    """
    this, that = (read_run(folder, resamples=0) for folder in (workdir, other))
    found = compare.compare(this, that, resamples=resamples)
    names = (workdir.resolve().name, other.resolve().name)
    _write(workdir / "compare.json", dump(compare.to_json(found, names)))
    _write(workdir / "compare.md", markdown.describe_comparison(found, names))
    _write(workdir / "compare.png", figures.draw_comparison(found, names))
    return found


def dump(facts: Mapping[str, Any]) -> str:
    """JSON that is read easily: a key a line, and each of ``items`` on one line."""
    items = [json.dumps(item, allow_nan=False) for item in facts.get("items", ())]
    rest = {key: value for key, value in facts.items() if key != "items"}
    text = json.dumps(rest, indent=1, allow_nan=False).removesuffix("\n}")
    body = ",\n  ".join(items)
    return f'{text},\n "items": [\n  {body}\n ]\n}}\n'


def _write(path: Path, content: str | bytes) -> None:
    if isinstance(content, str):
        # An answer may hold half of a surrogate pair, which UTF-8 does not have.
        content = content.encode("utf-8", "backslashreplace")
    with replacing(path) as partial:
        partial.write_bytes(content)


# ---------------------------------------------------------------------------- printing
def table_lines(found: Results) -> list[str]:
    """The scores as plain text, and one line for each thing that is amiss."""
    rows = [["", "asked", "answered", "official", "95% interval", "answered only"]]
    rows[0] += ["lenient", "exact"]
    rows += [_plain_row(row) for row in found.rows]
    lines = _align(rows)
    for measure, score in found.scanqa.get("all", {}).items():
        if measure != "count":
            lines.append(f"{measure:<8} {score:7.2f}")
    for reason in found.unanswered:
        lines.append(f"unanswered, counted as 0: {reason.count:,}: {reason.text}")
    for reason in found.refused:
        lines.append(f"refused, never asked: {reason.count:,}: {reason.text}")
    for number, what in (
        (found.answers.torn, "answer line(s) cut short and not read"),
        (len(found.answers.duplicates), "question(s) with the same line twice"),
        (len(found.answers.retried), "question(s) without an answer at least once"),
        (
            len(found.answers.conflicts),
            "question(s) with answers that disagree: the first counts",
        ),
    ):
        if number:
            lines.append(f"{number:,} {what}")
    return lines


def blind_lines(found: Results) -> list[str]:
    """The scores beside those of ``found.blind`` as plain text."""
    rows = [["", "n", "this run"]]
    rows += [[r.name, f"{r.asked:,}", markdown.percent(r.score)] for r in found.rows]
    for baseline in found.blind:
        rows[0] += [baseline.name, "difference", "95% interval"]
        for line, (_, row, gap) in zip(rows[1:], baseline.rows, strict=True):
            line += [markdown.percent(row.score), f"{gap.difference:+.2f}"]
            line.append(markdown.span(gap.interval))
    return _align(rows)


def comparison_lines(found: Comparison) -> list[str]:
    """The differences as plain text."""
    rows = [["", "n", "this", "other", "difference", "95% interval"]]
    rows[0] += ["wins/losses/ties", "p"]
    rows += [_plain_difference(row) for row in found.rows]
    lines = _align(rows)
    mine, theirs = found.micro.one_sided
    if mine or theirs:
        lines.append(
            f"answered by one run alone, 0 for the other: {mine:,} here, "
            f"{theirs:,} there"
        )
    left = len(found.only_this), len(found.only_other)
    if any(left):
        lines.append(f"asked in one run alone, not compared: {left[0]:,}, {left[1]:,}")
    for setting, this, other in found.recipe:
        lines.append(f"recipe: {setting}: {this} against {other}")
    return lines


def _plain_row(row: Row) -> list[str]:
    return [
        row.name,
        f"{row.asked:,}",
        f"{row.answered:,}",
        markdown.percent(row.score),
        markdown.span(row.interval),
        markdown.percent(row.answered_score),
        markdown.percent(row.lenient),
        markdown.percent(row.exact),
    ]


def _plain_difference(row: Difference) -> list[str]:
    return [
        row.name,
        f"{row.asked:,}",
        markdown.percent(row.this),
        markdown.percent(row.other),
        f"{row.difference:+.2f}",
        markdown.span(row.interval),
        f"{row.wins:,}/{row.losses:,}/{row.ties:,}",
        f"{row.p_value:.3g}",
    ]


def _align(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if place == 0 else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
