"""Recorded values against computed ones: what a cases file is checked with.

A checker goes through one case and yields what it finds: a ``Check`` for each quantity,
or that a key is ``Absent``, ``Unknown`` or ``Unchecked``. ``check_case`` does the
comparing and keeps count in a ``Section``; nothing that a case holds can stop it.
"""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SHOWN = 160  # characters of a value in a failure line


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What is not as recorded in a case: where, and one ASCII line saying how."""

    case: str
    what: str


@dataclass(kw_only=True)
class Section:
    """What was compared in one section.

    ``difference`` is the largest one of numbers compared with a tolerance, equal or
    not; ``absent`` counts the cases that lack a key; ``unchecked`` what cannot be
    computed here.
    """

    name: str
    cases: int = 0
    compared: int = 0
    difference: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    absent: Counter[str] = field(default_factory=Counter)
    unchecked: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class Check:
    """A quantity to compute and compare; ``tolerance`` None: it must be equal."""

    quantity: str
    expected: Any
    compute: Callable[[], Any]
    tolerance: float | None = None


@dataclass(frozen=True)
class Absent:
    """A key that a case may have and this one does not."""

    key: str


@dataclass(frozen=True)
class Unknown:
    """Something in a case that no rule here understands: a failure."""

    what: str


@dataclass(frozen=True)
class Unchecked:
    """Something understood that cannot be computed here: noted."""

    what: str


Found = Check | Absent | Unknown | Unchecked


@dataclass(frozen=True)
class Raised:
    """A computation that ended in an error."""

    error: Exception

    def is_a(self, name: Any) -> bool:
        """Whether the error is of the class of this name, or of one below it."""
        classes = [each.__name__ for each in type(self.error).__mro__]
        return name in classes[: classes.index("Exception")]


def check_case(section: Section, name: str, found: Iterator[Found]) -> None:
    """Count what a checker finds in one case.

    A checker that raises has met a case of a form that it does not know: a failure.
    """
    section.cases += 1
    try:
        for each in found:
            if isinstance(each, Absent):
                section.absent[each.key] += 1
                if each.key == "expected":
                    fail(section, name, "expected: absent, nothing to compare with")
            elif isinstance(each, Unchecked):
                section.unchecked[each.what] += 1
            elif isinstance(each, Unknown):
                fail(section, name, f"{each.what}: not understood")
            else:
                _compare(section, name, each)
    except Exception as error:
        fail(section, name, f"not of a known form: {_describe(error)}")


def fail(section: Section, case: str, what: str) -> None:
    section.failures.append(Failure(case=case, what=what))


def _compare(section: Section, name: str, check: Check) -> None:
    section.compared += 1
    expected = check.expected
    try:
        got = check.compute()
    except Exception as error:  # the official code raises several kinds
        got = Raised(error)
    named = expected.get("error") if isinstance(expected, Mapping) else None
    if named is not None or isinstance(got, Raised):
        if not (isinstance(got, Raised) and got.is_a(named)):
            what = f"expected {show(expected)}, got {show(got)}"
            fail(section, name, f"{check.quantity}: {what}")
        return
    wrong = []
    for leaf in leaves(expected, got, check.quantity):
        difference = leaf.difference(check.tolerance)
        if check.tolerance is not None and math.isfinite(difference):
            section.difference = max(section.difference, difference)
        if difference > (check.tolerance or 0.0):
            wrong.append(leaf)
    if wrong:
        more = f" (and {len(wrong) - 1} more of it)" if len(wrong) > 1 else ""
        fail(section, name, f"{wrong[0]}{more}")


# ------------------------------------------------------------------ two values' parts
@dataclass(frozen=True)
class Leaf:
    """Two parts of values at the same place: texts, numbers, or parts of two forms."""

    place: str
    expected: Any
    got: Any

    def difference(self, tolerance: float | None) -> float:
        """Of two numbers how far apart they are; else 0 for equal and inf if not.

        Without a tolerance numbers must be equal too.
        """
        expected, got = self.expected, self.got
        if tolerance is not None and _is_number(expected) and _is_number(got):
            if expected == got or (math.isnan(expected) and math.isnan(got)):
                return 0.0
            gap = abs(float(expected) - float(got))
            return math.inf if math.isnan(gap) else gap
        alike = isinstance(expected, bool) == isinstance(got, bool)
        return 0.0 if alike and expected == got else math.inf

    def __str__(self) -> str:
        expected, got = self.expected, self.got
        place = ""
        if isinstance(expected, str) and isinstance(got, str):
            pairs = zip(expected, got, strict=False)
            same = sum(
                1 for _ in itertools.takewhile(lambda pair: len({*pair}) == 1, pairs)
            )
            if same > SHOWN // 2:  # long texts: the place where they part
                place = f" from character {same}"
                start = max(0, same - 20)
                expected, got = expected[start:], got[start:]
        return f"{self.place}{place}: expected {show(expected)}, got {show(got)}"


MISSING = type("Missing", (), {"__repr__": lambda self: "(missing)"})()


def leaves(expected: Any, got: Any, place: str) -> Iterator[Leaf]:
    """The parts of two values, side by side; numpy's count as lists and numbers."""
    if isinstance(got, np.generic | np.ndarray):
        got = got.tolist()
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        for key in dict.fromkeys([*expected, *got]):
            pair = expected.get(key, MISSING), got.get(key, MISSING)
            yield from leaves(*pair, f"{place}.{key}")
    elif isinstance(expected, list | tuple) and isinstance(got, list | tuple):
        if len(expected) != len(got):
            yield Leaf(place, expected, got)
            return
        for number, pair in enumerate(zip(expected, got, strict=True)):
            yield from leaves(*pair, f"{place}[{number}]")
    else:
        yield Leaf(place, expected, got)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def show(value: Any) -> str:
    """A value on one line of ASCII, cut where it is long."""
    if isinstance(value, Raised):
        return f"raised {_describe(value.error)}"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = ascii(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _describe(error: Exception) -> str:
    return ascii(f"{type(error).__name__}: {error}")[1:-1][:SHOWN]
