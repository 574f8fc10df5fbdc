"""Turn annotated scans into training data and a benchmark.

    python -m scripts.make_questions --scenes=PATH --out=DIR [--videos=DIR] [--seed=0]
        [--form=vica,vsibench] [--per_task=6]

--scenes is a JSON file or a folder of them: VSI-Bench's meta_info, or plain lists of
oriented boxes (vica_jax/world/scene_file.py says what they hold); each file is
recognised by what is in it. Written are, by --form,

    vica      <dataset>/base/*.json, <dataset>/complex/*.json, <dataset>/thinking.json
              (LLaVA records), mixture.yaml and thinking.yaml
    vsibench  vsibench/test.parquet, for scripts.eval_vsibench --data=DIR/vsibench

--videos has the films, as <dataset>/<scene>.mp4, as <scene>.mp4 where one dataset alone
has a scene of that name, or as the annotations call them, below that folder; they are
linked (or copied) to videos/<dataset>/ and vsibench/<dataset>/, and scenes without one
are left out. Without --videos no film is looked for: put them there yourself. What is
wrong with a scene is said in a line that names it, and the rest goes on; status 1 if
nothing is left. A scene's questions depend on its names, its boxes and the seed alone.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from absl import flags

from scripts import cli

if TYPE_CHECKING:
    from vica_jax.world.records import SceneRecords
    from vica_jax.world.scene import Scene

FLAGS = flags.FLAGS
flags.DEFINE_string("scenes", None, "JSON file of annotations, or a folder of them")
flags.DEFINE_string("out", None, "folder to write, new or empty")
flags.DEFINE_string("videos", None, "folder of the films")
flags.DEFINE_integer("seed", 0, "of all that is drawn", lower_bound=0)
flags.DEFINE_list("form", ["vica", "vsibench"], "what to write: one of them or both")
flags.DEFINE_integer("per_task", None, "questions of a task on a scene, at most", 1)

FORMS = {"vica": "videos", "vsibench": "vsibench"}  # and where films stand
ENDINGS = (".mp4", ".mkv", ".avi", ".mov")


def find_video(folder: Path, scene: "Scene", alike: Sequence[str] = ()) -> Path:
    """A scene's film below a folder.

    ``alike`` are the other datasets with a scene of that name: a film that tells no
    dataset may be of any of them, and is not taken.

    Raises:
        SceneError: there is none, or the annotations name one outside of the folder.
    """
    from vica_jax.world.scene import SceneError

    own, flat = f"{scene.dataset}/{scene.name}.mp4", f"{scene.name}.mp4"
    if (folder / own).is_file():
        return folder / own
    told = PurePosixPath(scene.video) if scene.video else None
    if told is not None and (
        told.is_absolute()
        or ".." in told.parts
        or told.suffix.lower() not in ENDINGS
        or not str(told).isprintable()
    ):
        fault = f"its video {str(told)!r:.80} is no {' '.join(ENDINGS)} below --videos"
        told = None
    else:
        fault = f"no video {own} in {folder}"
    for name in [PurePosixPath(flat)] + ([told] if told else []):
        if not (folder / name).is_file():
            continue
        if alike and str(name) == flat:
            fault = f"{flat} may be of dataset {', '.join(alike)} too: put it in {own}"
            continue
        return folder / name
    raise SceneError(f"scene {scene.name}: {fault}; left out")


def ask(
    scenes: Sequence["Scene"], videos: Path | None, missing: Counter[str]
) -> Iterator[tuple["SceneRecords", Path | None]]:
    """Every scene's records, with its film; says which scenes have none."""
    from vica_jax.world.interview import interview
    from vica_jax.world.records import video_name
    from vica_jax.world.scene import SceneError

    datasets: dict[str, list[str]] = {}
    for scene in scenes:
        datasets.setdefault(scene.name, []).append(scene.dataset)
    for scene in scenes:
        problems: list[str] = []
        told = film = None
        try:
            name = video_name(scene)
            alike = [name for name in datasets[scene.name] if name != scene.dataset]
            film = find_video(videos, scene, alike) if videos else None
            told = interview(
                replace(scene, video=name),
                FLAGS.seed,
                per_task=FLAGS.per_task,
                problems=problems,
                missing=missing,
            )
            if not told.rows:
                raise SceneError(
                    f"scene {scene.name}: too little in it for any question; left out"
                )
        except SceneError as error:
            problems.append(str(error))
            told = None
        except OSError as error:  # of its film: nothing else is read here
            problems.append(f"scene {scene.name}: its video: {error}; left out")
            told = None
        for line in problems:
            print(line)
        if told is not None:
            yield told, film


def main() -> None:
    from vica_jax.world.annotations import read_annotations
    from vica_jax.world.records import BenchmarkFile, VicaFiles, place_video

    out, forms = Path(FLAGS.out), FLAGS.form
    if not forms or set(forms) - set(FORMS):
        cli.fail(f"--form={','.join(forms)}: take {' or '.join(FORMS)}, or both")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        cli.fail(f"{out} exists and is not an empty folder: choose another --out")
    videos = Path(FLAGS.videos) if FLAGS.videos else None
    if videos is not None and not videos.is_dir():
        cli.fail(f"--videos={videos}: no such folder")
    scenes, lines = read_annotations(FLAGS.scenes)
    for line in lines:
        print(line)
    if not scenes:
        cli.fail(f"{FLAGS.scenes}: no scene can be used; the lines above say why")
    used, missing = 0, Counter()
    with VicaFiles(out) as vica, BenchmarkFile(out / "vsibench") as bench:
        for told, film in ask(scenes, videos, missing):
            name = f"{told.dataset}/{told.scene}.mp4"
            placed: list[Path] = []
            try:
                for form in forms:
                    if film is None:
                        break
                    placed.append(out / FORMS[form] / name)
                    place_video(film, placed[-1])
            except OSError as error:
                print(f"scene {told.scene}: its video {film}: {error}; left out")
                for path in placed:
                    path.unlink(missing_ok=True)
                continue
            used += 1
            if "vica" in forms:
                vica.add_scene(told)
            if "vsibench" in forms:
                bench.add(told.rows)
    if not used:
        cli.fail(f"{FLAGS.scenes}: no scene is left; the lines above say why")
    vica.finish()
    for name, count in sorted(vica.counts.items()):
        print(f"{count:8,} {name}")
    if bench.count:
        print(f"{bench.count:8,} vsibench/test.parquet")
    for kind, count in sorted(missing.items()):
        print(f"no {kind} of {count:,} scenes, which tell too little for it")
    print(
        f"{used:,} scenes in {out}; {len(scenes) - used:,} of those read are left out, "
        f"{len(lines):,} faults are named above"
    )


if __name__ == "__main__":
    cli.run(main, required=("scenes", "out"), compiles=False)
