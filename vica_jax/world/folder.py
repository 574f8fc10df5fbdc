"""The folder of a world: its lock, what of it is there already, what waits in parts.

``parts/lock`` is held by the one process that may make the world,
``parts/settings.json`` says what it was begun with, ``parts/<number>.json`` has what is
to be merged of a room whose files are there; ``world.json``, written last, settings and
report.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vica_jax.errors import InputError
from vica_jax.files import write_text
from vica_jax.world.records import FILES

FORMS = ("vica", "vsibench", "captions")
PARTS, DONE, LOCK = "parts", "world.json", "lock"
LARGEST = 4096  # pixels of a side of a frame

# Shapes of the JSON files, for ``_fits``.
REPORT = {
    "rooms": int,
    "seconds": int | float,
    "counts": {str: int},
    "missing": {str: int},
    "problems": [str],
}
ROW = {
    "id": int,
    "dataset": str,
    "scene_name": str,
    "question_type": str,
    "question": str,
    "ground_truth": str,
    "options": list | None,
}
TOLD = {"dataset": str, "scene": str, "files": {str: [dict]}, "rows": [ROW]}
PART = {
    "told": dict | None,
    "captions": [dict],
    "problems": [str],
    "seconds": int | float,
    "missing": {str: int},
}


class WorldError(InputError):
    """A folder or a setting that a world cannot be made with; one line."""


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """Which rooms, ``first`` and those after it, and what is made of them."""

    rooms: int
    seed: int = 0
    first: int = 0
    films: bool = True
    width: int = 192
    height: int = 144
    per_task: int | None = None
    captions: int = 4  # images of a room with a caption
    forms: tuple[str, ...] = FORMS

    def __post_init__(self) -> None:
        if not self.forms or set(self.forms) - set(FORMS):
            given = ",".join(self.forms)
            raise WorldError(f"forms {given!r}: take some of {', '.join(FORMS)}")
        least = {"rooms": 1, "seed": 0, "first": 0, "captions": 0}
        least |= {"width": 16, "height": 16}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise WorldError(f"{name} {getattr(self, name)}: at least {lowest}")
        if self.per_task is not None and self.per_task < 1:
            raise WorldError(f"per_task {self.per_task}: at least 1, or none")
        for name in ("width", "height"):
            if getattr(self, name) > LARGEST:
                raise WorldError(f"{name} {getattr(self, name)}: at most {LARGEST}")
        if self.width % 2 or self.height % 2:
            raise WorldError(f"{self.width}x{self.height}: films take even sizes")


@dataclass(kw_only=True)
class WorldReport:
    """What was made: records by file, complex kinds that rooms told too little for,
    one line for each thing that went wrong, films' length in all."""

    rooms: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@contextlib.contextmanager
def hold(out: Path) -> Iterator[None]:
    """Hold the folder's lock, ``parts/lock``.

    Raises:
      WorldError: another process has it.
    """
    path = out / PARTS / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A process that ends its work takes the file away: is it this one still?
            mine = os.path.samestat(os.fstat(descriptor), path.stat())
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise WorldError(
                f"{out}: another process makes a world there: wait for it, or choose "
                "another folder"
            )
        yield


def check_folder(out: Path, settings: WorldSettings) -> None:
    """Raise WorldError unless ``out`` is new, empty or begun with these settings."""
    if (out / DONE).exists():
        return  # finished looks at that
    given = out / PARTS / "settings.json"
    if given.exists():
        _check_same(out, _read(given, dict), settings)
        return
    free = not out.exists() or (
        out.is_dir()
        and all(path.name == PARTS and path.is_dir() for path in out.iterdir())
        # What a process leaves that was killed before the settings were there.
        and all(
            path.name == LOCK or _is_partial(path) for path in out.glob(f"{PARTS}/*")
        )
    )
    if not free:
        raise WorldError(f"{out} exists and is not an empty folder: choose another")


def finished(out: Path, settings: WorldSettings) -> WorldReport | None:
    """The report of the complete world in ``out``; None if there is none."""
    if not (out / DONE).exists():
        return None
    value = _read(out / DONE, {"settings": dict, **REPORT})
    _check_same(out, value.pop("settings"), settings)
    return WorldReport(**value)


def begin(out: Path, settings: WorldSettings) -> list[int]:
    """Make the folder ready; numbers of the rooms that are missing in it."""
    check_folder(out, settings)
    for path in out.rglob(".*"):  # what a killed process had begun to write
        if _is_partial(path):
            path.unlink()
    given = out / PARTS / "settings.json"
    if not given.exists():
        write_text(given, _text(_plain(settings)))
    wanted = range(settings.first, settings.first + settings.rooms)
    return [number for number in wanted if not _part_path(out, number).exists()]


def finish(out: Path, settings: WorldSettings, report: WorldReport) -> None:
    """Say that the world is complete; its parts are no longer wanted."""
    write_text(out / DONE, _text({"settings": _plain(settings), **asdict(report)}))
    remove_parts(out)


def leftover(out: Path) -> bool:
    """Whether there are parts: of a world in the making, or left by a kill."""
    return (out / PARTS).exists()


def write_part(out: Path, number: int, part: dict[str, Any]) -> None:
    """What is to be merged of a room, when its files are there."""
    write_text(_part_path(out, number), json.dumps(part, ensure_ascii=False))


def remove_parts(out: Path) -> None:
    """Take away ``parts/`` with what is ours in it, the lock last."""
    parts = out / PARTS
    for path in parts.iterdir():
        ours = re.fullmatch(r"(settings|\d{7,})\.json", path.name)
        if ours or _is_partial(path):
            path.unlink()
    (parts / LOCK).unlink()
    with contextlib.suppress(OSError):  # not empty: something else was put there
        parts.rmdir()


def _is_partial(path: Path) -> bool:
    """Whether a file is named as ``files.replacing`` names what is not complete."""
    found = re.fullmatch(
        r"\.(.+)\.[a-z0-9_]{8}(\.(?:json|yaml|parquet|mp4|png))", path.name
    )
    return bool(found) and found[1].endswith(found[2]) and path.is_file()


def _check_same(out: Path, there: dict[str, Any], settings: WorldSettings) -> None:
    wanted = _plain(settings)
    if there == wanted:
        return
    if there.keys() != wanted.keys():
        raise WorldError(f"{out} holds no world of this program: choose another folder")
    other = [name for name in wanted if there[name] != wanted[name]]
    said = ", ".join(f"{name} {there[name]!r}" for name in other)
    raise WorldError(f"{out} holds another world, with {said}: choose another folder")


def _part_path(out: Path, number: int) -> Path:
    return out / PARTS / f"{number:07}.json"


def _plain(settings: WorldSettings) -> dict[str, Any]:
    return {**asdict(settings), "forms": sorted(set(settings.forms))}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _read(path: Path, shape: Any, remedy: str = "choose another folder") -> Any:
    """The JSON of a file, if it has that shape."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WorldError(f"{path} is damaged ({error}): {remedy}") from error
    if not _fits(value, shape):
        raise WorldError(f"{path} is no file of this program's: {remedy}")
    return value


def _fits(value: Any, shape: Any) -> bool:
    """Whether JSON has a shape: a type, ``[shape]`` of all items, ``{str: shape}`` of
    all values, ``{"key": shape, ...}`` of just these keys."""
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(one, shape[0]) for one in value)
    if not isinstance(shape, dict):
        return isinstance(value, shape) and not isinstance(value, bool)
    if not isinstance(value, dict):
        return False
    if str in shape:
        return all(_fits(one, shape[str]) for one in value.values())
    return value.keys() == shape.keys() and all(
        _fits(value[key], one) for key, one in shape.items()
    )


def read_parts(out: Path, settings: WorldSettings) -> Iterator[dict[str, Any]]:
    """The parts of all rooms, in the order of their numbers."""
    for number in range(settings.first, settings.first + settings.rooms):
        remedy = "delete it and call again, which makes its room anew"
        part = _read(path := _part_path(out, number), PART, remedy)
        told = part["told"]
        if told is None:
            whole = bool(part["problems"])
        else:
            whole = _fits(told, TOLD) and set(told["files"]) <= set(FILES)
            # They become names of files.
            whole = whole and all(
                re.fullmatch(r"\w[\w.-]*", told[key]) for key in ("dataset", "scene")
            )
        if not whole:
            raise WorldError(f"{path} is no file of this program's: {remedy}")
        yield part
