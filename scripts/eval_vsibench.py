"""Run VSI-Bench, VSTI-Bench or ScanQA and write its report.

    python -m scripts.eval_vsibench --checkpoint=DIR --data=DIR --workdir=DIR

DIR of --checkpoint is a native checkpoint, an HF folder or a hub id; of --data the
benchmark as published (annotations, and videos as <dataset>/<scene_name>.mp4). The
same command goes on where a stopped run was. For several processes (one per GPU, or
per machine on a shared disk) give each --shard=0/N, --shard=1/N, ...; the last to end
writes the whole report: report.md, results.json, scores.png, browser.html.
"""

from dataclasses import replace
from pathlib import Path

from absl import flags

from scripts import cli
from vica_jax.eval.frames import KINDS
from vica_jax.eval.prompts import PROFILES
from vica_jax.eval.question import BENCHMARKS

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "native checkpoint, HF folder, or hub id")
flags.DEFINE_string("data", None, "folder of the benchmark")
flags.DEFINE_string("workdir", None, "folder of this run's answers and report")
flags.DEFINE_enum("benchmark", "vsibench", BENCHMARKS, "which benchmark")
flags.DEFINE_enum("subset", "full", ["full", "debiased", "pruned"], "of VSI-Bench")
flags.DEFINE_enum("prompts", "vica_readme", PROFILES, "prompt profile")
flags.DEFINE_enum("frames", "uniform", KINDS, "how frames are chosen")
flags.DEFINE_integer("num_frames", 64, "frames (but for uniform: at most)")
flags.DEFINE_float("fps", 1.0, "rate of --frames=fps and of maxinfo's candidates")
flags.DEFINE_integer("candidates", 128, "maxinfo: the most candidate frames")
flags.DEFINE_float("maxvol_tol", 0.3, "maxinfo: larger keeps fewer frames")
flags.DEFINE_string("point_maps", None, "coverage: folder of <dataset>/<scene>.npz")
flags.DEFINE_bool("fill", False, "maxinfo, coverage: fill up to --num_frames")
flags.DEFINE_list("token_ratio", None, "N_hiera,S_stage,s_pool such as 32,4,2")
flags.DEFINE_bool("time_instruction", False, "state the frames' times in the prompt")
flags.DEFINE_bool("thinking", False, "the answer stands in the text's final segment")
flags.DEFINE_integer("max_new_tokens", None, "default: the profile's; thinking: 4096")
flags.DEFINE_float("repetition_penalty", None, "default: the checkpoint's")
flags.DEFINE_bool("exact", True, "also score options and numbers exactly")
flags.DEFINE_integer("batch", 32, "questions of a video at a time, at most")
flags.DEFINE_integer("threads", 2, "threads that read videos ahead")
flags.DEFINE_integer("ahead", 2, "videos that may wait, read, in memory")
flags.DEFINE_string("shard", "0/1", "this process's share of the videos: i/n")
flags.DEFINE_integer("videos", None, "ask about the first so many videos only")
flags.DEFINE_string("adapter", None, "PEFT LoRA folder, merged at load")
flags.DEFINE_string("mesh", None, "devices, such as fsdp:2,tensor:4")
flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "default by device")


def main() -> None:
    from vica_jax.eval.benchmarks import read_benchmark

    subset = FLAGS.subset if FLAGS.benchmark == "vsibench" else None
    benchmark = read_benchmark(FLAGS.data, FLAGS.benchmark, subset)
    if FLAGS.videos is not None:
        benchmark = benchmark.first_videos(FLAGS.videos)
    settings = run_settings()
    print(
        f"{benchmark.name}: {len(benchmark.questions)} questions about "
        f"{len(benchmark.videos)} videos, {len(benchmark.refused)} rows refused"
    )

    from convert.load import load_assistant
    from vica_jax.eval.live import LiveTable
    from vica_jax.eval.report import table_lines, write_report
    from vica_jax.eval.runner import run
    from vica_jax.sharding import make_mesh, parse_mesh

    mesh = None if FLAGS.mesh is None else make_mesh(parse_mesh(FLAGS.mesh))
    assistant = load_assistant(
        FLAGS.checkpoint,
        mesh=mesh,
        dtype=FLAGS.dtype,
        adapter=FLAGS.adapter,
        progress=True,
    )
    workdir = Path(FLAGS.workdir)
    with LiveTable(thinking=FLAGS.thinking) as watch:
        run(assistant, benchmark, Path(FLAGS.data), workdir, settings, watch)
    print("\n".join(table_lines(write_report(workdir))))
    print(f"{workdir}: report.md, results.json, scores.png, browser.html")


def run_settings():
    """The flags as ``RunSettings``."""
    from vica_jax.decode.settings import AnswerSettings
    from vica_jax.eval.frames import FrameSelection
    from vica_jax.eval.prompts import SCANQA_MAX_NEW_TOKENS, default_max_new_tokens
    from vica_jax.eval.settings import RunSettings

    budget = default_max_new_tokens(FLAGS.prompts)
    if FLAGS.benchmark == "scanqa":
        budget = SCANQA_MAX_NEW_TOKENS
    if FLAGS.thinking:
        budget = 4096
    answers = AnswerSettings(
        token_ratio=cli.token_ratio(FLAGS.token_ratio),
        time_instruction=FLAGS.time_instruction,
        max_new_tokens=FLAGS.max_new_tokens or budget,
        repetition_penalty=FLAGS.repetition_penalty,
    )
    frames = FrameSelection(
        kind=FLAGS.frames,
        num_frames=FLAGS.num_frames,
        fps=FLAGS.fps,
        candidates=max(FLAGS.candidates, FLAGS.num_frames),
        tol=FLAGS.maxvol_tol,
        fill=FLAGS.fill,
    )
    index, _, count = FLAGS.shard.partition("/")
    if not (index.isdigit() and count.isdigit()):
        cli.fail(f"--shard={FLAGS.shard}: give i/n, such as 0/4")
    return RunSettings(
        profile=FLAGS.prompts,
        frames=frames,
        answers=replace(answers, num_frames=FLAGS.num_frames),
        thinking=FLAGS.thinking,
        exact=FLAGS.exact,
        batch=FLAGS.batch,
        threads=FLAGS.threads,
        ahead=FLAGS.ahead,
        shard=(int(index), int(count)),
        point_maps=FLAGS.point_maps,
    )


if __name__ == "__main__":
    cli.run(main, required=("checkpoint", "data", "workdir"))
