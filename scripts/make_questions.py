"""Turn annotated scans into training data and a benchmark.

    python -m scripts.make_questions --scenes=PATH --out=DIR [--videos=DIR] [--seed=0]
        [--form=vica,vsibench] [--per_task=6]

--scenes is a JSON file or a folder of them: VSI-Bench's meta_info, or plain lists of
oriented boxes (vica_jax/world/scene_file.py says what they hold); each file is
recognised by what is in it. Written are, by --form,

    vica      <dataset>/base/*.json, <dataset>/complex/*.json, <dataset>/thinking.json
              (LLaVA records), mixture.yaml and thinking.yaml
    vsibench  vsibench/test.parquet, for scripts.eval_vsibench --data=DIR/vsibench

--videos has the films, as <dataset>/<scene>.mp4, <scene>.mp4 or what the annotations
call them; they are linked (or copied) to videos/<dataset>/ and vsibench/<dataset>/, and
scenes without one are left out. Without --videos no film is looked for: put them there
yourself. What is wrong with a scene is said in a line that names it, and the rest goes
on; status 1 if nothing is left. A scene's questions depend on its names, its boxes and
the seed alone.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
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

FORMS = ("vica", "vsibench")


def find_video(folder: Path, scene: "Scene") -> Path | None:
    """A scene's film below a folder, None where there is none."""
    names = [f"{scene.dataset}/{scene.name}.mp4", f"{scene.name}.mp4"]
    names += [scene.video] if scene.video else []
    found = (folder / name for name in names)
    return next((path for path in found if path.is_file()), None)


def ask(
    scenes: Sequence["Scene"], videos: Path | None, missing: Counter[str]
) -> Iterator[tuple["SceneRecords", Path | None]]:
    """Every scene's records, with its film; says which scenes have none."""
    from vica_jax.world.interview import interview
    from vica_jax.world.records import video_name
    from vica_jax.world.scene import SceneError

    for scene in scenes:
        problems: list[str] = []
        told = film = None
        try:
            name = video_name(scene)
            film = find_video(videos, scene) if videos else None
            if videos and film is None:
                raise SceneError(
                    f"scene {scene.name}: no video {name} in {videos}; left out"
                )
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
            used += 1
            name = f"{told.dataset}/{told.scene}.mp4"
            if "vica" in forms:
                vica.add_scene(told)
                if film is not None:
                    place_video(film, out / "videos" / name)
            if "vsibench" in forms:
                bench.add(told.rows)
                if film is not None:
                    place_video(film, out / "vsibench" / name)
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
    cli.run(main, required=("scenes", "out"))
