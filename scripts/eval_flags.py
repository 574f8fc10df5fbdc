"""Flags that the commands which run a benchmark share, and what they say.

A command calls ``define`` where it defines its own flags: frames, token ratio and time
instruction are those of one run or lists of them.
"""

from absl import flags

from scripts import cli
from vica_jax.eval.frames import KINDS
from vica_jax.eval.prompts import PROFILES
from vica_jax.eval.question import BENCHMARKS

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # --help lists them under the command


def define() -> None:
    """Define the shared flags."""
    flags.DEFINE_string("checkpoint", None, "native checkpoint, HF folder, or hub id")
    flags.DEFINE_string("data", None, "folder of the benchmark")
    flags.DEFINE_string("workdir", None, "folder of this run's answers and report")
    flags.DEFINE_enum("benchmark", "vsibench", BENCHMARKS, "which benchmark")
    flags.DEFINE_enum("subset", "full", ["full", "debiased", "pruned"], "of VSI-Bench")
    flags.DEFINE_enum("prompts", "vica_readme", PROFILES, "prompt profile")
    flags.DEFINE_enum("frames", "uniform", KINDS, "how frames are chosen")
    flags.DEFINE_float("fps", 1.0, "rate of --frames=fps and of maxinfo's candidates")
    flags.DEFINE_integer(
        "candidates", None, "maxinfo: the most candidate frames; default 128 or more"
    )
    flags.DEFINE_float("maxvol_tol", 0.3, "maxinfo: larger keeps fewer frames")
    flags.DEFINE_string("point_maps", None, "coverage: folder of <dataset>/<scene>.npz")
    flags.DEFINE_bool("fill", False, "maxinfo, coverage: fill up to --num_frames")
    flags.DEFINE_bool("black_frames", False, "show black instead of every frame")
    flags.DEFINE_bool("thinking", False, "the answer stands in the final segment")
    flags.DEFINE_integer(
        "max_new_tokens", None, "default: the profile's; thinking: 4096", 1
    )
    flags.DEFINE_float("repetition_penalty", None, "default: the checkpoint's")
    flags.DEFINE_bool("exact", True, "also score options and numbers exactly")
    flags.DEFINE_integer("batch", 32, "questions of a video at a time, at most")
    flags.DEFINE_integer(
        "threads", None, "threads that read videos ahead; default: half the cores, 2-8"
    )
    flags.DEFINE_integer(
        "ahead", None, "videos that may wait, read, in memory; default: as --threads"
    )
    flags.DEFINE_string("frame_cache", None, "folder to keep videos' pixels in")
    flags.DEFINE_float("frame_cache_gb", 50.0, "its size, at most")
    flags.DEFINE_string("shard", "0/1", "this process's share of the videos: i/n")
    flags.DEFINE_integer("videos", None, "only the first so many videos", 1)
    flags.DEFINE_string("adapter", None, "PEFT LoRA folder, merged at load")
    flags.DEFINE_string("mesh", None, "devices, such as fsdp:2,tensor:4")
    flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "default by device")
    flags.DEFINE_enum(
        "kv_dtype", None, ["int8"], "of keys and values; default: the compute dtype"
    )


def read_questions():
    """The ``Benchmark`` that the flags name; says what is in it."""
    from vica_jax.eval.benchmarks import read_benchmark

    benchmark = read_benchmark(FLAGS.data, FLAGS.benchmark, FLAGS.subset)
    if FLAGS.videos is not None:
        benchmark = benchmark.first_videos(FLAGS.videos)
    print(
        f"{benchmark.name}: {len(benchmark.questions)} questions about "
        f"{len(benchmark.videos)} videos, {len(benchmark.refused)} rows refused"
    )
    return benchmark


def load_model():
    """The ``Assistant`` that the flags name."""
    from convert.load import load_assistant
    from vica_jax.sharding import make_mesh, parse_mesh

    mesh = None if FLAGS.mesh is None else make_mesh(parse_mesh(FLAGS.mesh))
    return load_assistant(
        FLAGS.checkpoint,
        mesh=mesh,
        dtype=FLAGS.dtype,
        kv_dtype=FLAGS.kv_dtype,
        adapter=FLAGS.adapter,
        progress=True,
    )


def run_settings(
    num_frames: int,
    token_ratio: tuple[int, int, int] | None = None,
    time_instruction: bool = False,
):
    """The flags as ``RunSettings``."""
    from vica_jax.data.threads import num_readers
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
        num_frames=num_frames,
        token_ratio=token_ratio,
        time_instruction=time_instruction,
        max_new_tokens=FLAGS.max_new_tokens or budget,
        repetition_penalty=FLAGS.repetition_penalty,
    )
    frames = FrameSelection(
        kind=FLAGS.frames,
        num_frames=num_frames,
        fps=FLAGS.fps,
        candidates=FLAGS.candidates or max(128, num_frames),
        tol=FLAGS.maxvol_tol,
        fill=FLAGS.fill,
    )
    threads = num_readers() if FLAGS.threads is None else FLAGS.threads
    index, _, count = FLAGS.shard.partition("/")
    if not (FLAGS.shard.isascii() and index.isdigit() and count.isdigit()):
        cli.fail(f"--shard={FLAGS.shard}: give i/n, such as 0/4")
    return RunSettings(
        profile=FLAGS.prompts,
        frames=frames,
        answers=answers,
        black_frames=FLAGS.black_frames,
        thinking=FLAGS.thinking,
        exact=FLAGS.exact,
        batch=FLAGS.batch,
        threads=threads,
        ahead=threads if FLAGS.ahead is None else FLAGS.ahead,
        frame_cache=FLAGS.frame_cache,
        frame_cache_gb=FLAGS.frame_cache_gb,
        shard=(int(index), int(count)),
        point_maps=FLAGS.point_maps,
    )
