"""Ask a question about a video, images, or nothing.

    python -m scripts.generate --checkpoint=DIR --video=room.mp4 \
        --question="How many chairs are there?"

DIR is a native checkpoint, an HF folder, or a hub id. Notes go to stderr, the answer
to stdout.
"""

import json
import os
import sys
import time

from absl import flags

from scripts import cli
from vica_jax.data.conversation import PROMPT_STYLES, user_turn

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "native checkpoint, HF folder, or hub id")
flags.DEFINE_string("video", None, "video file or folder of frames")
flags.DEFINE_list("image", None, "image files, comma-separated")
flags.DEFINE_string("question", None, "the question")
flags.DEFINE_multi_string("option", [], "a choice such as 'A. chair'; repeatable")
flags.DEFINE_integer("frames", 64, "frames to sample (with --fps: at most)")
flags.DEFINE_float("fps", None, "sample at this rate instead of uniformly")
flags.DEFINE_float("source_fps", None, "rate of a folder of frames (default 2)")
flags.DEFINE_enum("reader", "auto", ["auto", "decord", "pyav"], "video reader")
flags.DEFINE_list("token_ratio", None, "N_hiera,S_stage,s_pool such as 32,4,2")
flags.DEFINE_enum("image_mode", "auto", ["auto", "anyres", "padded"], "image tiling")
flags.DEFINE_bool("time_instruction", False, "state the frames' times in the prompt")
flags.DEFINE_enum("prompt_style", "plain", PROMPT_STYLES[:2], "wrapper of the question")
flags.DEFINE_bool("raw_prompt", False, "take the user turn exactly as typed")
flags.DEFINE_integer("max_new_tokens", 1024, "longest answer")
flags.DEFINE_float("temperature", 0.0, "0 is greedy")
flags.DEFINE_integer("top_k", 0, "0 keeps every token")
flags.DEFINE_float("top_p", 1.0, "1 keeps every token")
flags.DEFINE_integer("seed", 0, "seed of sampling", 0, 2**32 - 1)
flags.DEFINE_float("repetition_penalty", None, "default: the checkpoint's")
flags.DEFINE_string("frame_cache", None, "folder to keep videos' pixels in")
flags.DEFINE_float("frame_cache_gb", 50.0, "its size, at most")
flags.DEFINE_string("adapter", None, "PEFT LoRA folder, merged at load")
flags.DEFINE_string("mesh", None, "devices, such as fsdp:2,tensor:4")
flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "default by device")
flags.DEFINE_enum(
    "kv_dtype", None, ["int8"], "of keys and values; default: the compute dtype"
)
flags.DEFINE_enum("output", "text", ["text", "json"], "what is printed")
flags.DEFINE_bool("stream", False, "print text as it is generated")


def main() -> None:
    from convert.load import load_assistant
    from vica_jax.data.frame_cache import FrameCache
    from vica_jax.decode.settings import AnswerSettings
    from vica_jax.sharding import make_mesh, parse_mesh

    if FLAGS.stream and FLAGS.output == "json":
        cli.fail("--stream prints text: leave out --output=json")
    media, chosen = source(), settings()
    AnswerSettings(**chosen)
    check_prompt(media, chosen)
    frames = None  # one question: nothing is asked for twice
    if FLAGS.frame_cache is not None:
        frames = FrameCache(
            FLAGS.frame_cache, folder_gb=FLAGS.frame_cache_gb, memory_gb=0
        )
    mesh = None if FLAGS.mesh is None else make_mesh(parse_mesh(FLAGS.mesh))
    start = time.perf_counter()
    assistant = load_assistant(
        FLAGS.checkpoint,
        mesh=mesh,
        dtype=FLAGS.dtype,
        kv_dtype=FLAGS.kv_dtype,
        adapter=FLAGS.adapter,
        progress=True,
    )
    loaded = time.perf_counter() - start
    assistant.frame_cache = frames
    if FLAGS.stream:
        pieces = assistant.stream(media, FLAGS.question, **chosen)
        while True:
            try:
                print(next(pieces), end="", flush=True)
            except StopIteration as stop:
                print()
                answer = stop.value
                break
    else:
        answer = assistant.answer(media, FLAGS.question, **chosen)
        if FLAGS.output == "json":
            told = answer.to_json()
            told["seconds"] = {"load": round(loaded, 4), **told["seconds"]}
            asked = ("checkpoint", "adapter", "video", "image", "question")
            told["input"] = {name: FLAGS[name].value for name in asked}
            print(json.dumps(told, ensure_ascii=False, indent=2))
        else:
            print(answer.text)
    for note in answer.notes:
        print(f"note: {note}", file=sys.stderr)


def source() -> str | list[str] | None:
    """The one video, or the images, or nothing."""
    from vica_jax.data.media import is_image_file

    if FLAGS.video is not None and FLAGS.image is not None:
        cli.fail("give --video or --image, not both")
    if FLAGS.video == "" or FLAGS.image == [] or "" in (FLAGS.image or []):
        cli.fail("--video and --image take file names: one is empty")
    if FLAGS.video and is_image_file(FLAGS.video):
        cli.fail(f"{FLAGS.video}: this is an image file: use --image")
    return FLAGS.video or FLAGS.image


def check_prompt(media: str | list[str] | None, chosen: dict) -> None:
    """Refuse what can be refused before the weights are loaded, which takes long."""
    files = [media] if isinstance(media, str) else media or []
    for file in files:
        if not os.path.exists(file):
            cli.fail(f"{file}: no such file or folder of frames")
    user_turn(
        FLAGS.question,
        num_media=len(files),
        style=chosen["prompt_style"],
        time_instruction="..." if chosen["time_instruction"] else "",
        options=chosen["options"],
    )


def settings() -> dict:
    """The flags that are fields of AnswerSettings."""
    if FLAGS.raw_prompt and FLAGS.prompt_style != "plain":
        cli.fail("--raw_prompt is a prompt style of its own: leave out --prompt_style")
    return {
        "num_frames": FLAGS.frames,
        "fps": FLAGS.fps,
        "source_fps": FLAGS.source_fps,
        "reader": FLAGS.reader,
        "token_ratio": cli.token_ratio(FLAGS.token_ratio),
        "image_mode": FLAGS.image_mode,
        "time_instruction": FLAGS.time_instruction,
        "prompt_style": "raw" if FLAGS.raw_prompt else FLAGS.prompt_style,
        "options": tuple(FLAGS.option),
        "max_new_tokens": FLAGS.max_new_tokens,
        "temperature": FLAGS.temperature,
        "top_k": FLAGS.top_k,
        "top_p": FLAGS.top_p,
        "seed": FLAGS.seed,
        "repetition_penalty": FLAGS.repetition_penalty,
    }


if __name__ == "__main__":
    cli.run(main, required=("checkpoint", "question"))
