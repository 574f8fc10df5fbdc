"""Make a world: rooms, films of them, questions and records on them.

    python -m scripts.make_world --rooms=1000 --seed=1 --out=DIR [--jobs=2] [--nofilms]

vica_jax/world/make.py lists the files. The same seed gives the same bytes, whatever
--jobs; running it again goes on where it was stopped; one at a time may write to a
folder. --first=1000 makes the rooms from number 1000 on, other ones of the same seed.
Without films, questions are the same ones, but what is asked about has to be filmed
before it can be answered.
"""

import os
import re
import sys

from absl import flags

from scripts import cli

FLAGS = flags.FLAGS
flags.DEFINE_integer("rooms", None, "how many", lower_bound=1)
flags.DEFINE_integer("seed", 0, "of all that is drawn", lower_bound=0)
flags.DEFINE_integer("first", 0, "number of the first room", lower_bound=0)
flags.DEFINE_string("out", None, "folder to write, new, empty or begun before")
flags.DEFINE_integer("jobs", os.cpu_count(), "processes", lower_bound=1)
flags.DEFINE_bool("films", True, "write videos")
flags.DEFINE_list("size", ["192", "144"], "of a frame: WIDTH,HEIGHT")
flags.DEFINE_integer("captions", 4, "images of a room with a caption", lower_bound=0)
flags.DEFINE_integer("per_task", None, "questions of a task on a room, at most", 1)
flags.DEFINE_list("forms", ["vica", "vsibench", "captions"], "what to write of them")


def main() -> None:
    from tqdm import tqdm

    from vica_jax.world.folder import WorldSettings
    from vica_jax.world.make import make_rooms

    if not re.fullmatch(r" *[0-9]{1,9} *, *[0-9]{1,9} *", ",".join(FLAGS.size)):
        cli.fail(f"--size={','.join(FLAGS.size)}: write WIDTH,HEIGHT, such as 192,144")
    width, height = map(int, FLAGS.size)
    settings = WorldSettings(
        rooms=FLAGS.rooms,
        seed=FLAGS.seed,
        first=FLAGS.first,
        films=FLAGS.films,
        captions=FLAGS.captions,
        per_task=FLAGS.per_task,
        width=width,
        height=height,
        forms=tuple(FLAGS.forms),
    )
    with tqdm(unit="room", file=sys.stderr, smoothing=0.05) as bar:

        def progress(done: int, total: int) -> None:
            if bar.total is None:  # rooms made earlier say nothing on the speed
                bar.total, bar.initial, bar.n = total, done, done
                bar.refresh()
            bar.update(done - bar.n)

        report = make_rooms(FLAGS.out, settings, jobs=FLAGS.jobs, progress=progress)
    for line in report.problems:
        print(line)
    for name, count in report.counts.items():
        print(f"{count:9,} {name}")
    for kind, count in report.missing.items():
        print(f"no {kind} of {count:,} rooms, which tell too little for it")
    print(
        f"{report.rooms:,} of {settings.rooms:,} rooms in {FLAGS.out}, "
        f"{report.seconds / 60:,.1f} minutes of film"
    )


if __name__ == "__main__":
    cli.run(main, required=("rooms", "out"))
