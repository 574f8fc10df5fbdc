"""JSON files of records, read without holding their objects in memory.

A ``.json`` file is a list and is parsed record by record (``json.load``, as the
reference has it, keeps some ten times the text in objects); a ``.jsonl`` file holds one
record on each line.
"""

import json
import mmap
import os
import re
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vica_jax.data.record import count_words
from vica_jax.errors import InputError

_SPACE = re.compile(r"[ \t\n\r]*")


class RecordFileError(InputError):
    """A file that is broken or holds no records; the message names the line."""


class ListedRecords(NamedTuple):
    """Records of one file: their lengths (``count_words``), and the text of each."""

    words: Sequence[int]
    text: Callable[[int], bytes]


def read_records(path: str) -> ListedRecords:
    """The records of a ``.json`` or ``.jsonl`` file, all of them parsed once.

    Raises:
      RecordFileError: unreadable, not UTF-8, bad JSON, no list, or a record in it that
        is no object.
    """
    read = _read_lines if Path(path).suffix.lower() == ".jsonl" else _read_list
    try:
        return read(path)
    except OSError as error:
        raise RecordFileError(f"{path}: cannot read it ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RecordFileError(
            f"{path}: not UTF-8 text ({error.reason}): save it as UTF-8"
        ) from None
    except RecursionError:
        raise RecordFileError(f"{path}: bad JSON: nested too deeply") from None


def _read_list(path: str) -> ListedRecords:
    """A ``.json`` list, record by record: its text is in memory, not its objects."""
    text = Path(path).read_bytes().decode("utf-8-sig")
    decoder = json.JSONDecoder()
    starts, stops, words = array("q"), array("q"), array("q")

    def after_space(at: int) -> int:
        match = _SPACE.match(text, at)
        return match.end() if match else at

    def bad(at: int, reason: str) -> RecordFileError:
        line = text.count("\n", 0, at) + 1
        return RecordFileError(f"{path}: bad JSON in line {line}: {reason}")

    at = after_space(0)
    if text[at : at + 1] != "[":
        what = "is empty" if at == len(text) else "holds no list"
        raise RecordFileError(
            f"{path}: {what}: a .json source is a list of records [...]; one record "
            "on each line is a .jsonl file"
        )
    at = after_space(at + 1)
    while text[at : at + 1] != "]" or starts:
        try:
            value, stop = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise bad(error.pos, error.msg) from None
        except ValueError as error:
            raise bad(at, str(error)) from None
        line = text.count("\n", 0, at) + 1 if not isinstance(value, dict) else 0
        _check_object(path, len(starts), line, value)
        starts.append(at)
        stops.append(stop)
        words.append(count_words(value))
        at = after_space(stop)
        if text[at : at + 1] != ",":
            break
        at = after_space(at + 1)
    if text[at : at + 1] != "]":
        raise bad(at, "expected ',' or ']' (is the file cut off?)")
    if (at := after_space(at + 1)) != len(text):
        raise bad(at, "text after the end of the list")
    return ListedRecords(words, lambda i: text[starts[i] : stops[i]].encode())


def _read_lines(path: str) -> ListedRecords:
    """A ``.jsonl`` file: mapped, read line by line; blank lines hold no record."""
    starts, stops, words = array("q"), array("q"), array("q")
    if os.path.getsize(path) == 0:
        return ListedRecords(words, lambda i: b"")
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    number = 0
    while line := data.readline():
        number += 1
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except UnicodeDecodeError:
            raise
        except json.JSONDecodeError as error:
            raise RecordFileError(
                f"{path}: bad JSON in line {number}: {error.msg}"
            ) from None
        except ValueError as error:
            raise RecordFileError(
                f"{path}: bad JSON in line {number}: {error}"
            ) from None
        _check_object(path, len(starts), number, value)
        stops.append(data.tell())
        starts.append(data.tell() - len(line))
        words.append(count_words(value))
    return ListedRecords(words, lambda i: data[starts[i] : stops[i]])


def _check_object(path: str, place: int, line: int, value: Any) -> None:
    if not isinstance(value, dict):
        raise RecordFileError(
            f"{path}: record {place} (line {line}) is {value!r:.60}, not an object "
            'with "conversations"'
        )
