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

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

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
from vica_jax.world.folder import (
    WorldError,
    WorldReport,
    WorldSettings,
    begin,
    check_folder,
    finish,
    finished,
    hold,
    leftover,
    read_parts,
    remove_parts,
    write_part,
)
from vica_jax.world.generate import make_scene
from vica_jax.world.interview import interview
from vica_jax.world.records import (
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

Progress = Callable[[int, int], None]


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
    check_folder(out, settings)  # before anything is written into what is not ours
    if (report := finished(out, settings)) is None or leftover(out):
        with hold(out):
            report = finished(out, settings)  # by another process, in the meantime?
            if report is None:
                return _make(out, settings, jobs, progress)
            remove_parts(out)  # a kill may have come between the last file and this
    progress(settings.rooms, settings.rooms)
    return report


def _make(
    out: Path, settings: WorldSettings, jobs: int, progress: Progress
) -> WorldReport:
    numbers = begin(out, settings)
    there = settings.rooms - len(numbers)
    progress(there, settings.rooms)
    for done, _ in enumerate(_work(out, settings, numbers, jobs), there + 1):
        progress(done, settings.rooms)
    report = _merge(out, settings)
    finish(out, settings, report)
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
    write_part(out, number, part)


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


def _merge(out: Path, settings: WorldSettings) -> WorldReport:
    """The rooms' records in the order of their numbers, as files of the forms."""
    report, missing = WorldReport(), Counter[str]()
    with VicaFiles(out) as vica, JsonLists(out) as pairs:
        with BenchmarkFile(out / "vsibench") as bench:
            for part in read_parts(out, settings):
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
