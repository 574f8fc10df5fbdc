"""A world of rooms on disk: scenes, films, and all that is asked and told about them.

    <out>/scenes/<room>.json             the boxes (``scene_file``), what is seen when
    <out>/films/<room>.json              camera poses, visible pixels (``film``)
    <out>/videos/world/<room>.mp4
    <out>/images/world/<room>_<frame>.png   frames with a caption
    <out>/world/..., mixture.yaml, thinking.yaml, captions.json, stage2.yaml,
    <out>/vsibench/...                   questions and records (``records``)
    <out>/world.json                     settings and counts, written last

Rooms are made by worker processes, each room from the seed and its number alone; what
is to be merged of it waits in ``parts/`` until all are there, beside the lock of the
one process that may make the world. A run that was stopped is gone on with by calling
it again. The bytes depend on neither the number of processes nor on stops; films may
differ between kinds of processors, whose rounding differs.
"""

import contextlib
import fcntl
import json
import multiprocessing
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vica_jax.errors import InputError
from vica_jax.files import write_text
from vica_jax.world.camera import Camera
from vica_jax.world.captions import caption_frame, see, spread
from vica_jax.world.film import (
    Draws,
    Film,
    first_seen,
    hidden_boxes,
    make_film,
    watch,
    write_film,
)
from vica_jax.world.generate import make_scene
from vica_jax.world.interview import interview
from vica_jax.world.records import (
    FILES,
    BenchmarkFile,
    JsonLists,
    Record,
    SceneRecords,
    VicaFiles,
    make_record,
    mixture_text,
    place_video,
    video_name,
    write_image,
)
from vica_jax.world.scene import Scene, SceneError
from vica_jax.world.scene_file import write_scene
from vica_jax.world.walk import make_walk

WALK, CAPTIONS = 60, 61  # streams of the seed
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

Progress = Callable[[int, int], None]


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


def make_rooms(
    out: str | os.PathLike[str],
    settings: WorldSettings,
    *,
    jobs: int = 2,
    progress: Progress = lambda done, total: None,
) -> WorldReport:
    """Make a world in ``out``, or go on with it, in ``jobs`` processes.

    With ``jobs`` 0 rooms are made in this process, on whatever device jax has here. A
    world that is complete is left as it is.

    Raises:
      WorldError: ``out`` holds something else, or another process makes a world there;
        no room could be made.
    """
    out = Path(out)
    _check_folder(out, settings)  # before anything is written into what is not ours
    if (report := _finished(out, settings)) is None or (out / PARTS).exists():
        with _alone(out):
            report = _finished(out, settings)  # by another process, in the meantime?
            if report is None:
                return _make(out, settings, jobs, progress)
            _remove_parts(out)  # a kill may have come between the last file and this
    progress(settings.rooms, settings.rooms)
    return report


def _make(
    out: Path, settings: WorldSettings, jobs: int, progress: Progress
) -> WorldReport:
    numbers = _begin(out, settings)
    there = settings.rooms - len(numbers)
    progress(there, settings.rooms)
    for done, _ in enumerate(_work(out, settings, numbers, jobs), there + 1):
        progress(done, settings.rooms)
    report = _merge(out, settings)
    write_text(out / DONE, _text({"settings": _plain(settings), **asdict(report)}))
    _remove_parts(out)
    return report


def make_room(out: Path, settings: WorldSettings, number: int, draws: Draws) -> None:
    """Write the files of one room; its part, which says that it is there, last."""
    part: dict[str, Any] = {"told": None, "captions": [], "problems": [], "seconds": 0}
    missing: Counter[str] = Counter()
    try:
        scene, film = _film_room(out, settings, number, draws)
        told = interview(
            scene,
            settings.seed,
            number=number,
            per_task=settings.per_task,
            hidden=hidden_boxes(film),
            problems=part["problems"],
            missing=missing,
        )
    except SceneError as error:
        part["problems"].append(str(error))
    else:
        if "captions" in settings.forms:
            images = _caption(out, settings, number, scene, film, draws)
            part["captions"] = list(images)
        part |= {"told": told._asdict(), "seconds": film.seconds}
    part["missing"] = dict(missing)
    write_text(_part(out, number), json.dumps(part, ensure_ascii=False))


def _film_room(
    out: Path, settings: WorldSettings, number: int, draws: Draws
) -> tuple[Scene, Film]:
    scene = make_scene(settings.seed, number)
    walk = make_walk(scene, np.random.default_rng([settings.seed, WALK, number]))
    if settings.films:
        scene = replace(scene, video=video_name(scene))
        film = make_film(scene, walk, draws, out / "videos" / video_name(scene))
    else:
        film = watch(scene, walk, draws)
    scene = scene.with_first_seen(first_seen(scene, film))
    write_scene(out / "scenes" / f"{scene.name}.json", scene)
    write_film(out / "films" / f"{scene.name}.json", scene.name, film)
    return scene, film


def _caption(
    out: Path,
    settings: WorldSettings,
    number: int,
    scene: Scene,
    film: Film,
    draws: Draws,
) -> Iterator[Record]:
    """Write some frames as images; their records."""
    rng = np.random.default_rng([settings.seed, CAPTIONS, number])
    numbers = spread(film.frames, settings.captions, rng)
    walk = film.walk.at(np.array(numbers, int))
    poses = walk.positions, walk.yaws, walk.pitches
    frame = iter(numbers)
    for rgb, ids, _ in draws.frames(scene, *poses):
        for picture, things in zip(rgb, ids, strict=True):
            at = next(frame)
            name = f"{scene.dataset}/{scene.name}_{at:04}.png"
            write_image(out / "images" / name, picture)
            view = see(things, len(scene.boxes))
            position = film.walk.positions[at]
            yield make_record([caption_frame(scene, view, position, rng)], image=name)


# ------------------------------------------------------------------------ processes
def _work(
    out: Path, settings: WorldSettings, numbers: list[int], jobs: int
) -> Iterator[int]:
    """Make rooms, in any order; yields their numbers.

    Where it is left early, rooms that have begun are finished first.
    """
    if jobs == 0:
        for number in numbers:
            make_room(out, settings, number, _renderer(settings.width, settings.height))
            yield number
        return
    pool = ProcessPoolExecutor(
        min(jobs, max(len(numbers), 1)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=begin_worker,
    )
    try:
        tasks = [pool.submit(_task, out, settings, number) for number in numbers]
        for task in as_completed(tasks):
            yield task.result()
    except BrokenProcessPool as error:
        raise WorldError(
            "a process that made rooms was killed, for want of memory as a rule: call "
            "it again to go on, with fewer jobs"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def begin_worker() -> None:
    """One core, no accelerator; Ctrl-C is the parent's, whose end is the worker's."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["PJRT_NPROC"] = "1"  # XLA's threads would only get in each other's way
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


def _task(out: Path, settings: WorldSettings, number: int) -> int:
    make_room(out, settings, number, _renderer(settings.width, settings.height))
    return number


@cache
def _renderer(width: int, height: int) -> Draws:
    from vica_jax.world.render import Renderer  # jax, which only they need who draw

    return Renderer(Camera(width=width, height=height))


# --------------------------------------------------------------------------- folder
@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
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


def _check_folder(out: Path, settings: WorldSettings) -> None:
    """Raise WorldError unless ``out`` is new, empty or begun with these settings."""
    if (out / DONE).exists():
        return  # _finished looks at that
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


def _finished(out: Path, settings: WorldSettings) -> WorldReport | None:
    """The report of the complete world in ``out``; None if there is none."""
    if not (out / DONE).exists():
        return None
    value = _read(out / DONE, {"settings": dict, **REPORT})
    _check_same(out, value.pop("settings"), settings)
    return WorldReport(**value)


def _begin(out: Path, settings: WorldSettings) -> list[int]:
    """Make the folder ready; numbers of the rooms that are missing in it."""
    _check_folder(out, settings)
    for path in out.rglob(".*"):  # what a killed process had begun to write
        if _is_partial(path):
            path.unlink()
    given = out / PARTS / "settings.json"
    if not given.exists():
        write_text(given, _text(_plain(settings)))
    wanted = range(settings.first, settings.first + settings.rooms)
    return [number for number in wanted if not _part(out, number).exists()]


def _remove_parts(out: Path) -> None:
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


def _part(out: Path, number: int) -> Path:
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


def _merge(out: Path, settings: WorldSettings) -> WorldReport:
    """The rooms' records in the order of their numbers, as files of the forms."""
    report, missing = WorldReport(), Counter[str]()
    with VicaFiles(out) as vica, JsonLists(out) as pairs:
        with BenchmarkFile(out / "vsibench") as bench:
            for part in _parts(out, settings):
                report.problems += part["problems"]
                missing.update(part["missing"])
                if part["told"] is None:
                    continue
                report.rooms += 1
                report.seconds += part["seconds"]
                told = SceneRecords(**part["told"])
                if "vica" in settings.forms:
                    vica.add_scene(told)
                if "vsibench" in settings.forms:
                    bench.add(told.rows)
                    if settings.films:
                        name = f"{told.dataset}/{told.scene}.mp4"
                        place_video(out / "videos" / name, out / "vsibench" / name)
                pairs.add("captions.json", part["captions"])
        if not report.rooms:
            raise WorldError(f"no room could be made; the first: {report.problems[0]}")
    vica.finish()
    report.counts = dict(sorted({**vica.counts, **pairs.counts}.items()))
    if pairs.counts:  # as stage 2: pictures and dialogues, the questions come after it
        told = [name for name in vica.counts if "/complex/" in name]
        write_text(out / "stage2.yaml", mixture_text([*pairs.counts, *told]))
    if bench.count:
        report.counts["vsibench/test.parquet"] = bench.count
    report.seconds = round(report.seconds, 6)
    report.missing = dict(sorted(missing.items()))
    return report


def _parts(out: Path, settings: WorldSettings) -> Iterable[dict[str, Any]]:
    for number in range(settings.first, settings.first + settings.rooms):
        remedy = "delete it and call again, which makes its room anew"
        part = _read(path := _part(out, number), PART, remedy)
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
