"""Run a benchmark at many settings: token ratios, frame counts, time instruction.

    python -m scripts.eval_sweep --checkpoint=DIR --data=DIR --workdir=DIR
        [--token_ratios="own;16,4,2;64,4,2"] [--num_frames=64,32,128]
        [--time_instruction=off,on] [--prompts=...] [--subset=...] ...

Every combination is a row: an ordinary run in WORKDIR/<row>, with its report; the model
is loaded once, and the same command goes on where a stopped sweep was. sweep.md,
sweep.json and sweep.png stand in WORKDIR after each row. The first row, of the first
value of each flag, is what the others are compared with. Rows that pass the context
length, or whose ratio does not go with the frames or the checkpoint, are reported and
not run. All other flags are those of scripts.eval_vsibench.
"""

from pathlib import Path

from absl import flags

from scripts import cli, eval_flags
from vica_jax.eval.sweep_grid import TOKEN_RATIOS

FLAGS = flags.FLAGS
eval_flags.define()
flags.DEFINE_string(
    "token_ratios",
    "own",
    "between ; triplets N_hiera,S_stage,s_pool such as 32,4,2 and names: own (the "
    "checkpoint's), "
    + ", ".join(
        f"{name} ({' '.join(','.join(map(str, ratio or ())) for ratio in ratios)})"
        for name, ratios in TOKEN_RATIOS.items()
        if name != "own"
    ),
)
flags.DEFINE_list("num_frames", ["64", "32", "128"], "frame counts")
flags.DEFINE_list("time_instruction", ["off", "on"], "frames' times in the prompt")


def main() -> None:
    from vica_jax.eval import sweep_grid

    frames = sweep_grid.parse_num_frames(FLAGS.num_frames)
    points = sweep_grid.make_grid(
        sweep_grid.parse_token_ratios(FLAGS.token_ratios),
        frames,
        sweep_grid.parse_times(FLAGS.time_instruction),
    )
    benchmark = eval_flags.read_questions()
    settings = eval_flags.run_settings(max(frames))

    from vica_jax.eval.live import LiveTable
    from vica_jax.eval.sweep import run_sweep
    from vica_jax.eval.sweep_table import FAILED, FILES, SweepRow, sweep_lines

    def watch(row: SweepRow) -> LiveTable:
        number = points.index(row.point) + 1
        print(f"{row.point.name}: row {number} of {len(points)}", flush=True)
        return LiveTable(thinking=FLAGS.thinking)

    workdir = Path(FLAGS.workdir)
    sweep = run_sweep(
        eval_flags.load_model(),
        benchmark,
        Path(FLAGS.data),
        workdir,
        settings,
        points,
        watch=watch,
    )
    print("\n".join(sweep_lines(sweep)))
    print(f"all of it: {', '.join(str(workdir / name) for name in FILES)}")
    failed = [row for row in sweep.rows if row.status == FAILED]
    if failed or not sweep.done:
        first = (failed or sweep.rows)[0]
        what = (
            f"{len(failed)} of {len(sweep.rows)} rows failed"
            if failed
            else ("no row could be run")
        )
        cli.fail(f"{what}, the first ({first.point.name}): {first.reason}")


if __name__ == "__main__":
    cli.run(main, required=("checkpoint", "data", "workdir"))
