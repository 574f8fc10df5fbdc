"""Draw metrics of several training runs into one picture.

    python -m scripts.plot_runs --runs=both=runs/a,siglip=runs/b --metrics=loss \\
        --out=runs.png [--apart]

--runs names workdirs (of scripts.train or scripts.pretrain_world), --metrics what is
in their metrics.jsonl. A panel holds one metric of all runs; with --apart one run.
"""

from pathlib import Path

from absl import flags

from scripts import cli

FLAGS = flags.FLAGS
flags.DEFINE_list("runs", None, "NAME=WORKDIR of each run")
flags.DEFINE_list("metrics", ["loss"], "keys of metrics.jsonl")
flags.DEFINE_string("out", None, "the PNG to write")
flags.DEFINE_bool("apart", False, "a panel per run instead of one per metric")


def main() -> None:
    from vica_jax.train.curves import plot_runs
    from vica_jax.train.metrics import METRICS_FILE

    pairs = [run.partition("=") for run in FLAGS.runs]
    if not all(name and workdir for name, _, workdir in pairs):
        cli.fail(f"--runs={','.join(FLAGS.runs)}: write NAME=WORKDIR, commas between")
    runs = {name: Path(workdir) / METRICS_FILE for name, _, workdir in pairs}
    plot_runs(runs, FLAGS.metrics, Path(FLAGS.out), apart=FLAGS.apart)
    print(f"{FLAGS.out}: {', '.join(runs)}")


if __name__ == "__main__":
    cli.run(main, required=("runs", "out"), compiles=False)
