"""Run VSI-Bench, VSTI-Bench or ScanQA and write its report.

    python -m scripts.eval_vsibench --checkpoint=DIR --data=DIR --workdir=DIR

DIR of --checkpoint is a native checkpoint, an HF folder or a hub id; of --data the
benchmark as published (annotations, and videos as <dataset>/<scene_name>.mp4). The
same command goes on where a stopped run was. For several processes (one per GPU, or
per machine on a shared disk) give each --shard=0/N, --shard=1/N, ...; the last to end
writes the whole report: report.md, results.json, scores.png, browser.html.

--black_frames shows black instead of the videos: what is left is what the text alone
gives. scripts.eval_report --blind has what can be guessed without any model.
"""

from pathlib import Path

from absl import flags

from scripts import cli, eval_flags

FLAGS = flags.FLAGS
eval_flags.define()
flags.DEFINE_integer("num_frames", 64, "frames (but for uniform: at most)")
flags.DEFINE_list("token_ratio", None, "N_hiera,S_stage,s_pool such as 32,4,2")
flags.DEFINE_bool("time_instruction", False, "state the frames' times in the prompt")


def main() -> None:
    benchmark = eval_flags.read_questions()
    settings = eval_flags.run_settings(
        FLAGS.num_frames, cli.token_ratio(FLAGS.token_ratio), FLAGS.time_instruction
    )

    from vica_jax.eval.live import LiveTable
    from vica_jax.eval.report import table_lines, write_report
    from vica_jax.eval.runner import read_done, run

    assistant = eval_flags.load_model()
    workdir = Path(FLAGS.workdir)
    with LiveTable(thinking=FLAGS.thinking) as watch:
        run(assistant, benchmark, Path(FLAGS.data), workdir, settings, watch)
    if not read_done(workdir).by_id:
        print(f"{workdir}: nothing of this shard to ask, and no answer yet to report")
        return
    print("\n".join(table_lines(write_report(workdir))))
    print(f"{workdir}: report.md, results.json, scores.png, browser.html")


if __name__ == "__main__":
    cli.run(main, required=("checkpoint", "data", "workdir"))
