"""Ask a question about a video, images, or nothing.

    python -m scripts.generate --checkpoint=DIR --video=room.mp4 \
        --question="How many chairs are there?"

DIR is a native checkpoint, an HF folder, or a hub id. Notes go to stderr, the answer
to stdout.
"""

import json
import sys

from absl import flags

from scripts import cli
from vica_jax.data.conversation import PROMPT_STYLES

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "native checkpoint, HF folder, or hub id")
flags.DEFINE_string("video", None, "video file or folder of frames")
flags.DEFINE_list("image", [], "image files, comma-separated")
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
flags.DEFINE_integer("seed", 0, "seed of sampling")
flags.DEFINE_float("repetition_penalty", None, "default: the checkpoint's")
flags.DEFINE_string("adapter", None, "PEFT LoRA folder, merged at load")
flags.DEFINE_string("mesh", None, "devices, such as fsdp:2,tensor:4")
flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "default by device")
flags.DEFINE_enum("output", "text", ["text", "json"], "what is printed")
flags.DEFINE_bool("stream", False, "print text as it is generated")


def main() -> None:
    from convert.load import load_assistant
    from vica_jax.sharding import make_mesh, parse_mesh

    if FLAGS.stream and FLAGS.output == "json":
        cli.fail("--stream prints text: leave out --output=json")
    media = source()
    mesh = make_mesh(parse_mesh(FLAGS.mesh)) if FLAGS.mesh else None
    assistant = load_assistant(
        FLAGS.checkpoint, mesh=mesh, dtype=FLAGS.dtype, adapter=FLAGS.adapter
    )
    if FLAGS.stream:
        pieces = assistant.stream(media, FLAGS.question, **settings())
        while True:
            try:
                print(next(pieces), end="", flush=True)
            except StopIteration as stop:
                print()
                answer = stop.value
                break
    else:
        answer = assistant.answer(media, FLAGS.question, **settings())
        if FLAGS.output == "json":
            print(json.dumps(answer.to_json(), ensure_ascii=False, indent=2))
        else:
            print(answer.text)
    for note in answer.notes:
        print(f"note: {note}", file=sys.stderr)


def source() -> str | list[str] | None:
    """The one video, or the images, or nothing."""
    from vica_jax.data.media import is_image_file

    if FLAGS.video and FLAGS.image:
        cli.fail("give --video or --image, not both")
    if FLAGS.video and is_image_file(FLAGS.video):
        cli.fail(f"{FLAGS.video}: this is an image file: use --image")
    return FLAGS.video or FLAGS.image or None


def settings() -> dict:
    """The flags that are fields of AnswerSettings."""
    return {
        "num_frames": FLAGS.frames,
        "fps": FLAGS.fps,
        "source_fps": FLAGS.source_fps,
        "reader": FLAGS.reader,
        "token_ratio": token_ratio(),
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


def token_ratio() -> tuple[int, ...] | None:
    if FLAGS.token_ratio is None:
        return None
    parts = FLAGS.token_ratio
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        cli.fail(f"--token_ratio={','.join(parts)}: give N_hiera,S_stage,s_pool")
    return tuple(int(part) for part in parts)


if __name__ == "__main__":
    cli.run(main, required=("checkpoint", "question"))
