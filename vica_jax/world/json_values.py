"""JSON that others wrote: read without trust, its faults noted line by line."""

import json
import math
import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from vica_jax.world.scene import SceneError

LONGEST = 60  # characters of a value in a message, or of a category
MOST = 10**6  # things of a category

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = LONGEST


class Notes:
    """What readers have to say: lines, and unknown keys gathered over all scenes."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._unknown: dict[tuple[str, str], list[str]] = {}

    def say(self, where: str, text: str) -> None:
        self.lines.append(f"{where}: {text}")

    def unknown(self, where: str, what: str, value: dict, known: tuple[str, ...]):
        """Note the keys of ``value``, a ``what`` of ``where``, that nobody reads."""
        for key in value:
            if key not in known:
                self._unknown.setdefault((what, key), []).append(where)

    def all(self) -> list[str]:
        lines = list(self.lines)
        for (what, key), places in self._unknown.items():
            places = list(dict.fromkeys(places))
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            lines.append(
                f"{places[0]}{more}: unknown key {show(key)} of {what}, ignored"
            )
        return lines


def read_json(path: Path, notes: Notes) -> Any:
    """The value of a JSON file; keys that are there twice are noted, the first counts.

    Raises:
        SceneError: missing, empty, not UTF-8, or no JSON.
    """

    def first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key, part in pairs:
            if key in value:
                notes.say(str(path), f"{show(key)} is there twice; the first counts")
            value.setdefault(key, part)
        return value

    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SceneError(f"{path}: not a text in UTF-8, so no JSON") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SceneError(f"{path}: cannot be read: {why}") from error
    if not text.strip():
        raise SceneError(f"{path}: empty, where JSON with scenes should be")
    try:
        return json.loads(text, object_pairs_hook=first_of_each)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise SceneError(
            f"{path}: no JSON, or cut short: {error.msg} ({where})"
        ) from error
    except RecursionError as error:
        raise SceneError(f"{path}: nested too deeply for scenes") from error
    except ValueError as error:
        raise SceneError(f"{path}: has an integer of thousands of digits") from error


def show(value: Any) -> str:
    """A JSON value for a message: on one line, and not long."""
    text = _REPR.repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def file_name(value: Any, what: str, where: str) -> str:
    """A text that can be a file's or folder's name.

    Raises:
        SceneError: it is not; the message begins with ``where``.
    """
    if not isinstance(value, str) or not value.strip():
        raise SceneError(f"{where}: {what} is {show(value)}, not a text; left out")
    fits = value.isprintable() and len(value.encode()) <= 200
    if not fits or value in (".", "..") or "/" in value or "\\" in value:
        raise SceneError(
            f"{where}: {what} {show(value)} cannot be a file's name; left out"
        )
    return value


def category_name(value: Any) -> str | None:
    """``"Trash_bin"`` -> ``"trash bin"``; None for what is no word."""
    if not isinstance(value, str):
        return None
    name = " ".join(value.replace("_", " ").lower().split())
    return name if name.isprintable() and 0 < len(name) <= LONGEST else None


def number(value: Any) -> float | None:
    """A JSON number as a float (infinite where it is too large), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def array(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Nested lists of numbers as ``float64[shape]`` (-1: any length), else None."""
    nested = _nested(value, shape)
    return None if nested is None else np.array(nested, np.float64)


def _nested(value: Any, shape: tuple[int, ...]) -> Any:
    if not shape:
        return number(value)
    if not isinstance(value, list) or shape[0] not in (-1, len(value)):
        return None
    parts = [_nested(part, shape[1:]) for part in value]
    return None if not parts or any(part is None for part in parts) else parts


def table(value: Any, what: str, where: str, notes: Notes) -> dict[str, Any]:
    """A JSON object, or an empty one and a line."""
    if isinstance(value, dict):
        return value
    notes.say(where, f"{what} is {show(value)}, not an object; left out")
    return {}


def numbers(value: Any, what: str, where: str, notes: Notes) -> dict[str, float]:
    """{category: number} from a JSON object; entries that are none cost a line."""
    found = {}
    for key, part in table(value, what, where, notes).items():
        category, amount = category_name(key), number(part)
        if category is None or amount is None:
            notes.say(where, f"{what}: {show(key)}: {show(part)} left out")
        else:
            found[category] = min(amount, found.get(category, math.inf))
    return found


def whole_numbers(value: Any, what: str, where: str, notes: Notes) -> dict[str, int]:
    """{category: number of them}; two spellings of a category are added up."""
    found: dict[str, int] = {}
    for key, part in table(value, what, where, notes).items():
        category, amount = category_name(key), number(part)
        whole = amount is not None and amount.is_integer() and 0 <= amount <= MOST
        if category is None or amount is None or not whole:
            text = f"{what}: {show(key)} is {show(part)}, not 0, 1, 2, ...; left out"
            notes.say(where, text)
        else:
            found[category] = found.get(category, 0) + int(amount)
    return found
