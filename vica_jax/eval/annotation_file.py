"""Which file of a benchmark folder holds its rows, and those rows as JSON values.

What the benchmarks are published as:

* VSI-Bench (``nyu-visionx/VSI-Bench`` on the hub): ``test_debiased.parquet`` and
  ``test_pruned.parquet``, which together are its configuration ``full``, beside
  ``test.jsonl`` (the same rows without the column ``pruned``) and ``pruned_ids.txt``;
  its first release: ``test-00000-of-00001.parquet``.
* VSTI-Bench (``Journey9ni/vstibench``): ``test.json``, a list; some copies hold the
  options as the text of a Python list.
* ScanQA as Spatial-MLLM and others read it: ``scanqa_val_llava_style.json``.

Accepted for the first two: ``test.parquet``, the parts of one table named
``test-00000-of-00001.parquet``, ``test.jsonl`` or ``test.json``, in the folder or its
folder ``data``. Parquet comes before JSON, since the published folder holds both; two
files of one kind are an error. ``full`` is such a file, or else the pair above;
``debiased`` and ``pruned`` are ``test_debiased`` and ``test_pruned`` in any of these
forms, or else the rows of ``full`` whose column ``pruned`` is false and true (without
that column: whose id is not in ``pruned_ids.txt`` and is). ScanQA may also be the one
JSON file with ``scanqa`` in its name, or ``test.json``.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from vica_jax.errors import InputError

SUBSETS = ("full", "debiased", "pruned")
PRUNED_IDS = "pruned_ids.txt"
PARQUET, JSON = ("parquet",), ("jsonl", "json")
SCANQA = (  # the first group with a file counts
    ("scanqa_val_llava_style.json",),
    ("*scanqa*.json", "*scanqa*.jsonl"),
    ("test.json", "test.jsonl"),
)
_PART = re.compile(r"-(\d+)-of-(\d+)\.parquet")
_LFS = b"version https://git-lfs"  # how a pointer file begins


class BenchmarkError(InputError):
    """A folder or file of no use as a benchmark; the message says what to do."""


class BadRow(NamedTuple):
    """What stands in the place of a row that is no JSON object."""

    reason: str


Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class AnnotationFiles:
    """Files that make one table, row after row, and how a subset is cut out of it.

    ``keep`` is the value of ``pruned`` that rows of the subset have; None keeps all.
    """

    folder: Path
    paths: tuple[Path, ...]
    keep: bool | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(path.relative_to(self.folder).as_posix() for path in self.paths)

    @property
    def name(self) -> str:
        """One name as it is; several joined by " + "."""
        return " + ".join(self.names)

    def revision(self) -> str:
        """sha256 of the file, or of the files' bytes one after the other (hex)."""
        digest = hashlib.sha256()
        for path in self.paths:
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        return digest.hexdigest()

    def rows(self) -> list[Row | BadRow]:
        """Every row in the files' order; JSON values only.

        With ``pruned_ids.txt`` among the files the rows get the column ``pruned``.

        Raises:
          BenchmarkError: unreadable, empty, or no list of rows.
        """
        rows: list[Row | BadRow] = []
        ids = None
        for path in self.paths:
            if path.name == PRUNED_IDS:
                ids = set(_text(path).split())
            else:
                rows += _read(path)
        for row in rows if ids is not None else ():
            if isinstance(row, dict):
                row["pruned"] = str(row.get("id")) in (ids or ())
        if not rows:
            raise BenchmarkError(f"{self.folder}: {self.name} holds no rows")
        return rows


# ------------------------------------------------------------------ which file it is
def find_annotations(
    folder: Path, benchmark: str, subset: str
) -> AnnotationFiles | None:
    """The files of one subset of a benchmark; None where there are none.

    Raises:
      BenchmarkError: more than one file could be meant, parts are missing, or the
        subset cannot be told.
    """
    if benchmark == "scanqa":
        for group in SCANQA:
            found = sorted(path for name in group for path in folder.glob(name))
            found = [path for path in found if path.is_file()]
            if paths := _only(folder, [(path,) for path in found]):
                return AnnotationFiles(folder=folder, paths=paths)
        return None
    if subset == "full":
        if paths := _find_full(folder, pair=benchmark == "vsibench"):
            return AnnotationFiles(folder=folder, paths=paths)
        return None
    if paths := _find(folder, f"test_{subset}", PARQUET, JSON):
        return AnnotationFiles(folder=folder, paths=paths)
    if (paths := _find(folder, "test", PARQUET, JSON)) is None:
        return None
    files = AnnotationFiles(folder=folder, paths=paths, keep=subset == "pruned")
    if any("pruned" in row for row in files.rows() if isinstance(row, dict)):
        return files
    for place in (folder, paths[0].parent):
        if (place / PRUNED_IDS).is_file():
            paths = (*paths, place / PRUNED_IDS)
            return AnnotationFiles(folder=folder, paths=paths, keep=files.keep)
    raise BenchmarkError(
        f"{folder}: cannot tell the subset {subset!r}: there is no "
        f"test_{subset}.parquet and no {PRUNED_IDS}, and {files.name} has no column "
        "pruned: add one of them or take --subset=full"
    )


def _find_full(folder: Path, *, pair: bool) -> tuple[Path, ...] | None:
    if (paths := _find(folder, "test", PARQUET)) or not pair:
        return paths or _find(folder, "test", JSON)
    halves = {
        subset: _find(folder, f"test_{subset}", PARQUET) for subset in SUBSETS[1:]
    }
    there = [subset for subset, paths in halves.items() if paths]
    if len(there) == 2:
        return tuple(path for paths in halves.values() for path in paths or ())
    if (paths := _find(folder, "test", JSON)) or not there:
        return paths
    (other,) = set(halves) - set(there)
    raise BenchmarkError(
        f"{folder}: test_{there[0]}.parquet alone is not the full benchmark: put "
        f"test_{other}.parquet beside it or pass --subset={there[0]}"
    )


def _find(folder: Path, stem: str, *kinds: Sequence[str]) -> tuple[Path, ...] | None:
    """The one file (or its parts) of a stem, of the first kind that has any."""
    for kind in kinds:
        found: list[tuple[Path, ...]] = []
        for place in (folder, folder / "data"):
            files = (place / f"{stem}.{ending}" for ending in kind)
            found += [(path,) for path in files if path.is_file()]
            parts = tuple(sorted(place.glob(f"{stem}-*-of-*.parquet")))
            if kind == PARQUET and parts:
                _check_parts(parts)
                found.append(parts)
        if paths := _only(folder, found):
            return paths
    return None


def _only(folder: Path, found: Sequence[tuple[Path, ...]]) -> tuple[Path, ...] | None:
    if len(found) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path, *_ in found)
        raise BenchmarkError(
            f"{folder}: {names}: more than one file could be meant: keep one of them"
        )
    return found[0] if found else None


def _check_parts(parts: Sequence[Path]) -> None:
    numbers = [_PART.search(path.name) for path in parts]
    have = [(int(found[1]), int(found[2])) for found in numbers if found]
    count = max((total for _, total in have), default=0)
    if have != [(number, count) for number in range(count)] or len(have) < len(parts):
        names = ", ".join(path.name for path in parts)
        raise BenchmarkError(
            f"{parts[0].parent}: {names}: not all parts of one table: fetch it again"
        )


# --------------------------------------------------------------------- what it holds
def _read(path: Path) -> Iterator[Row | BadRow]:
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif path.suffix == ".jsonl":
        yield from _read_lines(path)
    else:
        yield from _read_list(path)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa  # a heavy import that JSON files do not need
    import pyarrow.parquet as pq

    _check(path)
    try:
        with pq.ParquetFile(path) as file:
            # Pictures and films in a table are not read.
            fields = (f for f in file.schema_arrow if "binary" not in str(f.type))
            rows = file.read(columns=[field.name for field in fields]).to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BenchmarkError(
            f"{path}: cannot read it as parquet ({reason:.120}): fetch it again"
        ) from None
    for row in rows:
        yield {str(key): _json_value(value) for key, value in row.items()}


def _read_lines(path: Path) -> Iterator[Row | BadRow]:
    for line in _text(path).split("\n"):  # splitlines would split at U+2028 too
        if line.strip():
            try:
                yield _row(json.loads(line))
            except (ValueError, RecursionError) as error:
                yield BadRow(f"no JSON ({_reason(error)})")


def _read_list(path: Path) -> Iterator[Row | BadRow]:
    try:
        rows = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise BenchmarkError(
            f"{path}: bad JSON{f' in line {line}' if line else ''}: {_reason(error)}: "
            "fetch it again"
        ) from None
    if not isinstance(rows, list):
        raise BenchmarkError(f"{path}: holds no list of rows [...]")
    yield from map(_row, rows)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return getattr(error, "msg", "a number with too many digits")


def _row(value: Any) -> Row | BadRow:
    if not isinstance(value, dict):
        return BadRow("no JSON object")
    try:
        return _json_value(value)
    except RecursionError as error:
        return BadRow(_reason(error))


def _json_value(value: Any) -> Any:
    """A cell as JSON has it; what pandas writes for "missing", NaN, is None."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _json_value(cell) for key, cell in value.items()}
    if hasattr(value, "tolist"):  # numpy
        return _json_value(value.tolist())
    if isinstance(value, list | tuple):
        return [_json_value(cell) for cell in value]
    return str(value)  # a date, say


def _text(path: Path) -> str:
    _check(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BenchmarkError(
            f"{path}: not UTF-8 text ({error.reason}): fetch it again"
        ) from None


def _check(path: Path) -> None:
    """Refuse what is no file, cannot be read, is empty, or only points to the file."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS))
    except OSError as error:
        raise BenchmarkError(f"{path}: cannot read it ({error.strerror})") from None
    if not head.strip() and path.stat().st_size <= len(_LFS):
        raise BenchmarkError(f"{path}: is empty: fetch it again")
    if head == _LFS:
        raise BenchmarkError(f"{path}: is a pointer of git-lfs: run git lfs pull")
