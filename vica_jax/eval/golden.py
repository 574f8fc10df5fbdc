"""Parity with recorded outputs of the PyTorch reference.

A golden folder holds ``checkpoint/`` (HF form) and ``video_case.npz``,
``image_case.npz``, ``text_case.npz``, ``misc_case.json``. Every recorded quantity that
inference has is computed again from the recorded frames, images and prompts, and
compared: names, sizes and the number of cases are read from the files.
"""

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vica_jax.decode.assistant import Assistant
from vica_jax.errors import InputError
from vica_jax.eval.cases import image_cases, misc_cases, text_cases, video_cases
from vica_jax.eval.comparison import Row

CASES: dict[str, Callable[[Assistant, dict[str, Any]], Iterator[Row]]] = {
    "video_case.npz": video_cases,
    "image_case.npz": image_cases,
    "text_case.npz": text_cases,
    "misc_case.json": misc_cases,
}


class GoldenError(InputError):
    """A folder that is not a golden folder."""


class Record(dict[str, Any]):
    """A file's keys; ``used`` tells which of them a comparison has read."""

    def __init__(self, values: dict[str, Any]):
        super().__init__(values)
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.used.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.used.add(key)
        return super().get(key, default)


def check_golden_folder(folder: str | Path, files: Collection[str] = ()) -> Path:
    """The checkpoint inside a golden folder.

    ``files`` are all needed; without them one of ``CASES`` is enough.

    Raises:
      GoldenError: the folder lacks a checkpoint or holds no case.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise GoldenError(f"{folder}: no such folder")
    checkpoint = folder / "checkpoint"
    if not (checkpoint / "config.json").is_file():
        raise GoldenError(f"{folder}: not a golden folder (no checkpoint/config.json)")
    for name in files:
        if not (folder / name).is_file():
            raise GoldenError(f"{folder}: {name} is not there: not such a recording")
    if not files and not any((folder / name).is_file() for name in CASES):
        raise GoldenError(
            f"{folder}: not a golden folder (none of {', '.join(CASES)} is there)"
        )
    return checkpoint


def verify_golden(
    assistant: Assistant,
    folder: str | Path,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    files: Collection[str] | None = None,
) -> tuple[list[Row], list[str]]:
    """Compare the cases of a golden folder with its checkpoint loaded in float32.

    ``files`` limits the comparison to some of ``CASES``. ``progress`` is told how many
    cases of how many are done and which one is next. Returns the rows, and notes on
    what was recorded but not compared.

    Raises:
      GoldenError: the folder lacks a checkpoint or holds no case.
    """
    check_golden_folder(folder)
    folder = Path(folder)
    names = [name for name in CASES if files is None or name in files]
    notes = [f"{name}: not there" for name in names if not (folder / name).is_file()]
    records = {
        name: read_record(folder / name) for name in names if (folder / name).is_file()
    }
    total = sum(_count_cases(record) for record in records.values())
    rows: list[Row] = []
    seen: set[tuple[str, str]] = set()
    for name, record in records.items():
        try:
            for row in CASES[name](assistant, record):
                rows.append(row)
                if (name, row.case) not in seen:
                    seen.add((name, row.case))
                    done = min(len(seen) - 1, total)
                    progress(done, total, f"{name} {row.case}")
        except KeyError as error:
            raise GoldenError(f"{folder / name}: the key {error} is missing") from error
        if left := sorted(record.keys() - record.used):
            notes.append(f"{name}: recorded but not compared: {', '.join(left)}")
    progress(total, total, "done")
    return rows, notes


def read_record(path: Path) -> Record:
    """The keys of a recorded .npz or .json.

    Raises:
      GoldenError: it cannot be read.
    """
    try:
        if path.suffix == ".json":
            return Record(json.loads(path.read_text()))
        with np.load(path, allow_pickle=False) as file:
            return Record({key: file[key] for key in file.files})
    except (ValueError, OSError) as error:
        raise GoldenError(f"{path}: cannot be read: {error}") from error


def _count_cases(record: Record) -> int:
    """Cases as ``Row.case`` names them: prompts, image variants, a batch, lists."""
    cases = {
        key.split(".")[0] for key in record if key.endswith((".prompt", ".gen_ids"))
    }
    cases -= {"batch_left", "batch_right"}
    batch = any(key.startswith("batch_left.") for key in record)
    lists = sum(len(v) for v in record.values() if isinstance(v, list))
    return len(cases) + batch + lists
