"""Which records a run learns from: JSON sources, sampled and laid out for workers.

Records are read once at the start, written one after the other into a cache file
(``data/record_store``) and mapped into memory from there. A ``Mixture`` is then a path
and a few numbers: it pickles small, and all workers share one copy of the text.

Source of the forms and strategies: the reference's ``LazySupervisedDataset``. It takes
an unknown strategy for ``all`` and ``end:0`` for everything; both are errors here.
``random`` draws with our own generator from (seed, path as written) and keeps the
file's order. A count past the end of a source takes what there is, as there, and a
warning says so.
"""

import atexit
import difflib
import hashlib
import logging
import math
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from vica_jax.data.order import draw
from vica_jax.data.record_file import read_records
from vica_jax.data.record_store import RecordStore, RecordWriter
from vica_jax.errors import InputError

log = logging.getLogger(__name__)

STRATEGIES = "all, first:N, end:N, random:N (N a number or a share such as 10%)"
_STRATEGY = re.compile(r"(first|end|random):(\d+)|(first|end|random):(\d+(?:\.\d+)?)%")
_BRACES = re.compile(r"(.*)\{(.*)\}(\.jsonl?)")
_KEYS = ("json_path", "sampling_strategy")


class MixtureError(InputError):
    """A mixture that is missing, empty, or sampled in an unknown way."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of a mixture: as written, where it is, records found and taken."""

    name: str
    path: str
    strategy: str
    found: int
    taken: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record: its index in the mixture, its file, and what stands there."""

    index: int
    source: str
    value: dict[str, Any]


class Mixture:
    """Records of all sources in the order of the sources; random access by index.

    ``sources`` say where they come from; ``lengths int64[n]`` are words per record,
    negative for text alone (``count_words``); ``digest`` is the same if and only if
    every record is; ``excluded`` names the sources that were left out. Pickles to a
    path and a few numbers.
    """

    def __init__(
        self,
        path: str,
        sources: tuple[Source, ...],
        digest: str,
        excluded: tuple[str, ...] = (),
    ):
        self.path = path
        self.sources = sources
        self.digest = digest
        self.excluded = excluded
        self._opened: RecordStore | None = None

    def __len__(self) -> int:
        return sum(source.taken for source in self.sources)

    def __getitem__(self, index: int) -> Record:
        """The record at ``index``, 0 <= index < n; IndexError outside."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of a mixture of {len(self)}")
        return Record(
            index=int(index),
            source=self.sources[self._store.source_of[index]].path,
            value=self._store.read(index),
        )

    @property
    def lengths(self) -> np.ndarray:
        return self._store.lengths

    @property
    def _store(self) -> RecordStore:
        if self._opened is None:
            self._opened = RecordStore(self.path, len(self), self.digest)
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}


def read_mixture(
    mixture: str | os.PathLike[str],
    *,
    seed: int,
    exclude: str = "",
    cache_folder: str | os.PathLike[str] | None = None,
) -> Mixture:
    """Read every source of a mixture and lay the chosen records out for workers.

    ``mixture`` is a YAML file with a ``datasets`` list of ``json_path`` and
    ``sampling_strategy`` (all, first:N, end:N, random:N, and N% in place of N, rounded
    up), ``folder/{a,b,c}.json``, or one ``.json`` or ``.jsonl`` file. A path in a YAML
    file counts from the working folder, or else from the file's own. Sources whose
    whole path, as written, matches the regex ``exclude`` are left out; they need not
    exist. ``cache_folder`` gets one file, written under another name and renamed; None
    takes a temporary folder that is removed when the program ends.

    Raises:
      MixtureError: a missing file, a list that is none, an unknown key or strategy, no
        regex, no records at all, or a cache that cannot be written.
      RecordFileError: a source that is broken (with the line) or no list of objects.
    """
    mixture = os.fspath(mixture)
    entries, excluded = _exclude(mixture, _list_entries(mixture), exclude)
    missing = [entry.path for entry in entries if not os.path.isfile(entry.path)]
    if missing:
        raise MixtureError(
            f"{mixture}: {len(missing)} of {len(entries)} source(s) missing: "
            + ", ".join(missing[:5])
            + ", ..." * (len(missing) > 5)
        )
    # One name for each mixture: a later start replaces the file, none pile up.
    name = os.fsencode(f"{os.path.abspath(mixture)} {seed}")
    key = hashlib.blake2b(name, digest_size=8).hexdigest()
    partial = None
    try:
        folder = Path(cache_folder) if cache_folder else _temporary_folder()
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"records-{key}.bin"
        partial = target.with_suffix(f".{platform.node()}-{os.getpid()}.partial")
        with partial.open("wb") as file:
            writer = RecordWriter(file)
            sources = tuple(
                _take(entry, place, seed, writer) for place, entry in enumerate(entries)
            )
            if not len(writer):
                raise MixtureError(
                    f"{mixture}: the mixture is empty: {len(sources)} source(s), no "
                    "record in them"
                )
            digest = writer.finish()
        partial.replace(target)
    except OSError as error:
        raise MixtureError(
            f"{cache_folder or tempfile.gettempdir()}: cannot write the record cache "
            f"({error.strerror}): free some space or name another folder"
        ) from None
    finally:
        if partial:
            partial.unlink(missing_ok=True)
    return Mixture(str(target), sources, digest, excluded)


def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="vica_jax-records-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


# ------------------------------------------------------------------ what is listed
class _Strategy(NamedTuple):
    kind: str  # all, first, end, random
    number: int | Fraction  # of records, or the share of them


class _Entry(NamedTuple):
    name: str
    path: str
    text: str
    strategy: _Strategy


def _list_entries(mixture: str) -> list[_Entry]:
    suffix = Path(mixture).suffix.lower()
    every = _Strategy("all", 0)
    if match := _BRACES.fullmatch(mixture):
        base, names, suffix = match.groups()
        paths = [f"{base}{name.strip()}{suffix}" for name in names.split(",")]
        if not all(name.strip() for name in names.split(",")):
            raise MixtureError(f"{mixture}: an empty name between the braces")
        return [_Entry(path, path, "all", every) for path in paths]
    if suffix in (".json", ".jsonl"):
        return [_Entry(mixture, mixture, "all", every)]
    if suffix in (".yaml", ".yml"):
        return _list_yaml(mixture)
    raise MixtureError(
        f"{mixture}: a mixture is a .yaml file, {{a,b}}.json, or a .json or .jsonl file"
    )


def _exclude(
    mixture: str, entries: list[_Entry], exclude: str
) -> tuple[list[_Entry], tuple[str, ...]]:
    """The entries that stay, and the names of those that go."""
    if not exclude:
        return entries, ()
    try:
        gone = [e.name for e in entries if re.fullmatch(exclude, e.name)]
    except re.error as error:
        raise MixtureError(f"exclude {exclude!r} is no regex: {error}") from None
    if not gone:
        log.warning("exclude %r matches no source of %s", exclude, mixture)
    kept = [entry for entry in entries if entry.name not in gone]
    if not kept:
        raise MixtureError(
            f"{mixture}: exclude {exclude!r} leaves none of {len(entries)} source(s)"
        )
    return kept, tuple(gone)


def _list_yaml(mixture: str) -> list[_Entry]:
    try:
        listed = yaml.safe_load(Path(mixture).read_bytes())
    except OSError as error:
        raise MixtureError(f"{mixture}: cannot read it ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise MixtureError(f"{mixture}: not YAML{line}: {reason}") from None
    datasets = listed.get("datasets") if isinstance(listed, Mapping) else None
    if not isinstance(datasets, list) or not datasets:
        raise MixtureError(
            f"{mixture}: no datasets: write a list 'datasets:' of json_path and "
            "sampling_strategy"
        )
    return [_entry(mixture, place, item) for place, item in enumerate(datasets, 1)]


def _entry(mixture: str, place: int, item: Any) -> _Entry:
    where = f"{mixture}: dataset {place}"
    if not isinstance(item, Mapping):
        raise MixtureError(f"{where} is no mapping with a json_path, but {item!r:.60}")
    for key in item:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(_KEYS)}"
            raise MixtureError(f"{where}: unknown key {key!r}: {hint}")
    name = item.get("json_path")
    if not isinstance(name, str) or not name:
        raise MixtureError(f"{where}: json_path must be a path, got {name!r:.60}")
    if Path(name).suffix.lower() not in (".json", ".jsonl"):
        raise MixtureError(f"{where}: {name} is neither .json nor .jsonl")
    beside = os.path.join(os.path.dirname(mixture), name)
    path = beside if os.path.isfile(beside) and not os.path.isfile(name) else name
    text = item.get("sampling_strategy", "all")
    return _Entry(name, path, str(text), _parse(where, text))


def _parse(where: str, text: Any) -> _Strategy:
    if text == "all":
        return _Strategy("all", 0)
    match = _STRATEGY.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise MixtureError(
            f"{where}: unknown sampling_strategy {text!r:.60}: take {STRATEGIES}"
        )
    kind, number, share_kind, share = match.groups()
    count = int(number) if number else Fraction(share) / 100
    if not count:
        raise MixtureError(f"{where}: sampling_strategy {text!r} takes nothing")
    return _Strategy(kind or share_kind, count)


# ------------------------------------------------------------------ what is read
def _take(entry: _Entry, place: int, seed: int, writer: RecordWriter) -> Source:
    """Append the chosen records of the source at ``place`` to the cache."""
    listed = read_records(entry.path)
    found = len(listed.words)
    kind, number = entry.strategy
    count = math.ceil(number * found) if isinstance(number, Fraction) else number
    if kind == "all":
        count = found
    elif count > found:
        log.warning(
            "%s: %s is more than its %d record(s): all are taken",
            entry.path,
            entry.text,
            found,
        )
        count = found
    if kind == "random":
        chosen = draw(found, count, seed=seed, name=entry.name)
    else:
        chosen = np.arange(count) + (found - count if kind == "end" else 0)
    for index in chosen.tolist():
        text, words = listed.text(index), listed.words[index]
        writer.append(text, words=words, source=place)
    return Source(
        name=entry.name,
        path=entry.path,
        strategy=entry.text,
        found=found,
        taken=count,
    )
