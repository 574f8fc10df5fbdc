"""Write the report of a run of scripts.eval_vsibench, and compare it with another.

    python -m scripts.eval_report --workdir=DIR [--compare=DIR] [--blind]
        [--meteor_jar=meteor-1.5.jar]

Writes report.md, results.json, scores.png and browser.html into the workdir, from the
answers recorded there: the same answers give the same files. With --compare also
compare.md, compare.json and compare.png: this run against that one, question by
question. A run that is not finished can be reported too: what is missing counts as 0,
and is said. With --blind report.md and results.json also have what can be scored
without the videos, and the run's distance from it.
"""

from pathlib import Path

from absl import flags

from scripts import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "folder of the run")
flags.DEFINE_string("compare", "", "folder of another run over the same questions")
flags.DEFINE_integer("resamples", 10_000, "of the 95% intervals; 0 leaves them out", 0)
flags.DEFINE_bool("blind", False, "put the blind baselines beside the scores")
flags.DEFINE_string("meteor_jar", "", "meteor-1.5.jar, for ScanQA's METEOR")


def main() -> None:
    from vica_jax.eval import report

    workdir, other = Path(FLAGS.workdir), Path(FLAGS.compare)
    jar = Path(FLAGS.meteor_jar) if FLAGS.meteor_jar else None
    resamples = FLAGS.resamples
    found = report.write_report(
        workdir, resamples=resamples, meteor_jar=jar, blind=FLAGS.blind
    )
    print("\n".join(report.table_lines(found)))
    if FLAGS.blind:
        print("\n".join(["", *report.blind_lines(found)]))
    if jar and found.benchmark.name != "scanqa":
        print(f"--meteor_jar has no use here: {found.benchmark.name} has no METEOR")
    print(f"all of it: {', '.join(str(workdir / name) for name in report.FILES)}")
    if FLAGS.compare:
        compared = report.write_comparison(workdir, other, resamples=resamples)
        print(f"\n{workdir} against {other}")
        print("\n".join(report.comparison_lines(compared)))
        names = report.COMPARISON_FILES
        print(f"all of it: {', '.join(str(workdir / name) for name in names)}")


if __name__ == "__main__":
    cli.run(main, required=("workdir",), compiles=False)
