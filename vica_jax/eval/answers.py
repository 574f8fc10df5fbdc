"""The recorded answers of a run: ``WORKDIR/answers/*.jsonl``, one JSON object a line.

Shards append to files of their own, read in the natural order of their names. A run
that goes on tries again what had no answer, so an id may stand more than once: the
first line with an answer counts, and without one the last. Answers that disagree are
named.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vica_jax.errors import InputError
from vica_jax.eval.workdir import ANSWERS

NO_REASON = "no reason recorded"


class AnswersError(InputError):
    """Answers that cannot be read or that belong to another run."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a run recorded of one question.

    ``prediction`` is the model's text, None where there is none; ``problem`` then says
    why. ``exact`` is the answer by exact scoring: ``{"answer", "confidence",
    "log_probs" | "log_prob"}``.
    """

    id: str
    prediction: str | None
    problem: str | None = None
    tokens: int | None = None
    finish: str | None = None
    prompt_tokens: int | None = None
    exact: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    frame_indices: tuple[int, ...] = ()

    @property
    def answered(self) -> bool:
        return self.prediction is not None

    @property
    def exact_answer(self) -> str | None:
        return None if self.exact is None else self.exact["answer"]

    @property
    def confidence(self) -> float | None:
        """Probability of the exact answer; None where no usable one is recorded."""
        value = None if self.exact is None else self.exact.get("confidence")
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        return float(value) if 0 <= value <= 1 else None  # NaN is not in between

    @property
    def said(self) -> tuple[str | None, str | None, str | None]:
        """What two lines of one id have to agree on."""
        return self.prediction, self.problem, self.exact_answer

    @classmethod
    def from_json(cls, record: Any) -> "Answer":
        """One line's object; keys that are not known here are left alone.

        Raises:
          ValueError: a key is missing or holds something else; the text says which.
        """
        if not isinstance(record, dict):
            raise ValueError(f"is no JSON object but {type(record).__name__}")
        for key in ("id", "prediction"):
            if key not in record:
                raise ValueError(f"has no {key!r}")
        _check(record, "id", str, required=True)
        for key in ("prediction", "problem", "finish"):
            _check(record, key, str)
        for key in ("tokens", "prompt_tokens"):
            _check(record, key, int)
        _check(record, "exact", dict)
        exact = record.get("exact")
        if exact is not None:
            if "answer" not in exact:
                raise ValueError("has an 'exact' without 'answer'")
            _check(exact, "answer", str, required=True)
        for key, kind in (("notes", str), ("frame_indices", int)):
            _check(record, key, list)
            if any(not isinstance(entry, kind) for entry in record.get(key) or ()):
                raise ValueError(f"has {key!r} with an entry that is no {_NAMES[kind]}")
        problem = record.get("problem")
        if record["prediction"] is None and not problem:
            problem = NO_REASON
        return cls(
            id=record["id"],
            prediction=record["prediction"],
            problem=problem,
            tokens=record.get("tokens"),
            finish=record.get("finish"),
            prompt_tokens=record.get("prompt_tokens"),
            exact=exact,
            notes=tuple(record.get("notes") or ()),
            frame_indices=tuple(record.get("frame_indices") or ()),
        )


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answer that counts for each id, and what else the files held.

    ``torn`` counts last lines that were cut short. Of the ids with several lines,
    ``duplicates`` say the same again, ``conflicts`` have answers that disagree, and
    ``retried`` had no answer at least once.
    """

    by_id: Mapping[str, Answer]
    torn: int = 0
    duplicates: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    retried: tuple[str, ...] = ()


def collect_answers(found: Iterable[Answer], *, torn: int = 0) -> Answers:
    """The answer of each id that counts, of all in the order of their lines."""
    by_id: dict[str, Answer] = {}
    alike: set[str] = set()
    unlike: set[str] = set()
    retried: set[str] = set()
    for answer in found:
        if answer.id not in by_id:
            by_id[answer.id] = answer
            continue
        old = by_id[answer.id]
        if old.said == answer.said:
            alike.add(answer.id)
        elif old.answered and answer.answered:
            unlike.add(answer.id)
        else:
            retried.add(answer.id)
            if not old.answered:
                by_id[answer.id] = answer
    return Answers(
        by_id=by_id,
        torn=torn,
        duplicates=_ordered(alike),
        conflicts=_ordered(unlike),
        retried=_ordered(retried),
    )


def _ordered(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=in_number_order))


def read_answers(workdir: Path) -> Answers:
    """All answer files of a run.

    A last line that is no JSON and has no newline was cut by the end of its process: it
    is counted, not read.

    Raises:
      AnswersError: no answers there, or a line that cannot be read.
    """
    folder = workdir / ANSWERS
    if not workdir.is_dir():
        raise AnswersError(f"{workdir}: no such folder: give the workdir of a run")
    files = [path for path in folder.glob("*.jsonl") if path.is_file()]
    files.sort(key=lambda path: in_number_order(path.name))
    if not files:
        raise AnswersError(
            f"{workdir}: no {ANSWERS}/*.jsonl in it: give the workdir of a run "
            "(scripts.eval_vsibench writes one)"
        )
    found: list[Answer] = []
    torn = 0
    for path in files:
        for answer in _read_file(path):
            if answer is None:
                torn += 1
            else:
                found.append(answer)
    if not found:
        raise AnswersError(
            f"{folder}: its {len(files)} file(s) hold no answer: has the run begun?"
        )
    return collect_answers(found, torn=torn)


def in_number_order(text: str) -> tuple[tuple[bool, int, str], ...]:
    """Sorts ``shard-2-of-16`` before ``shard-10-of-16`` and id 9 before id 10."""
    parts = re.split(r"([0-9]+)", text)
    return tuple(
        (number, int(part) if number else 0, part)
        for position, part in enumerate(parts)
        for number in [position % 2 == 1]
    )


def _read_file(path: Path) -> Iterator[Answer | None]:
    """Its answers in order; None for a torn last line."""
    *lines, last = path.read_bytes().split(b"\n")
    for number, line in enumerate([*lines, last], 1):
        if not line.strip():
            continue
        is_last = number > len(lines)
        try:
            record = json.loads(line)
        except ValueError as error:  # a UnicodeDecodeError is one as well
            if is_last:
                yield None
                return
            raise AnswersError(
                f"{path} line {number} is no JSON ({_first_line(error)}): remove that "
                "line; its question is asked again when the run is resumed"
            ) from error
        except RecursionError as error:
            raise AnswersError(f"{path} line {number}: nested too deeply") from error
        try:
            yield Answer.from_json(record)
        except ValueError as error:
            raise AnswersError(f"{path} line {number} {error}") from error


_NAMES = {str: "text", int: "whole number", list: "list", dict: "object"}


def _check(record: dict[str, Any], key: str, kind: type, required: bool = False):
    value = record.get(key)
    if value is None and not required:
        return
    if not isinstance(value, kind) or isinstance(value, bool):
        shown = f"{value!r:.40}"
        raise ValueError(f"has {key!r} = {shown}, which is no {_NAMES[kind]}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
