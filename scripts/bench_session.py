"""What a session saves: questions about one video, one by one and behind one prefix.

    python -m scripts.bench_session [--frames=64] [--questions=18] [--new_tokens=4] \\
        [--width=896] [--depth=2] [--variant=NAME] [--pairs=5] [--json=FILE]

Times, in turn, an answer to each question by itself (encode, prefill, decode) and a
session that is opened and asked all of them in one batch. Beside the seconds stand
model FLOPs (``train/flops.py``), bytes of prefix and caches, and temporary bytes of
the session's programs. Waits for an idle machine and says when others use it.

Weights are random. The default model is a Qwen2-0.5B of fewer layers, its vocabulary
cut in proportion so that decoding weighs what it does there, behind a SigLIP of two
narrow layers: the prompt's thousands of tokens rule. Everything but reading the video
goes through ``Assistant``, as users call it, with the recorded checkpoint's small
tokenizer; no end of sequence can be chosen, so all answers are ``--new_tokens`` long.
"""

import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from scripts import cli
from scripts.idle import BUSY, Stopwatch, wait_until_idle
from vica_jax.data.example import bucket_length
from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.decode.answer import Answer
from vica_jax.decode.assistant import Assistant, default_dtype
from vica_jax.decode.exact import NUMBER_TOKENS
from vica_jax.decode.generate import Rows, begin, decode, prefill_after
from vica_jax.decode.loop import DECODE_CHUNK, cache_room
from vica_jax.decode.session import VideoSession, batch_bucket
from vica_jax.files import write_text
from vica_jax.models.config import SiglipConfig, VicaConfig, make_layout
from vica_jax.models.variants import QWEN2_0_5B, VARIANTS
from vica_jax.models.vica import abstract_vica
from vica_jax.train.flops import batch_flops

FLAGS = flags.FLAGS
flags.DEFINE_integer("frames", 64, "frames of the video", 1)
flags.DEFINE_integer("questions", 18, "questions about it", 1)
flags.DEFINE_integer("new_tokens", 4, "tokens of an answer", 1)
flags.DEFINE_integer("width", 896, "of the language model, in multiples of 128", 128)
flags.DEFINE_integer("depth", 2, "layers of the language model", 1)
flags.DEFINE_string("variant", "", "published sizes instead: vica_7b, vica2_7b ...")
flags.DEFINE_integer("pairs", 5, "how often each way is timed", 1)
flags.DEFINE_string("json", "", "file for the numbers")

TOKENIZER = Path(__file__).parent.parent / "tests/goldens/tiny-vica2/checkpoint"
COLUMNS = ("median s", "min s", "s/question", "GFLOP/question")
QUESTION = "How many objects of kind {} are there in this room? Answer with a number."


def main() -> None:
    assistant = random_assistant(chosen_model())
    settings: dict[str, Any] = {
        "num_frames": FLAGS.frames,
        "source_fps": 1.0,
        "max_new_tokens": FLAGS.new_tokens,
    }
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (FLAGS.frames, 240, 320, 3), np.uint8)
    loaded = assistant.read(pixels, **settings)
    questions = [QUESTION.format(i + 1) for i in range(FLAGS.questions)]
    ways = {
        "one by one": lambda: [
            assistant.answer(loaded, question, **settings) for question in questions
        ],
        "session": lambda: assistant.open(loaded, **settings).ask(questions),
    }
    print("compiling ...", flush=True)
    assistant.answer(loaded, questions[0], **settings)
    ways["session"]()
    wait_until_idle()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    rows: dict[str, list[Answer]] = {}
    for pair in range(FLAGS.pairs):
        for name in list(ways)[:: 1 if pair % 2 == 0 else -1]:
            watch = Stopwatch()
            rows[name] = ways[name]()
            seconds[name].append(watch.seconds())
            if watch.others() > BUSY:
                print(f"warning: others used {watch.others():.0%} of the machine")
            print(f"pair {pair + 1}: {name} {seconds[name][-1]:.2f} s", flush=True)
    session, answers = assistant.open(loaded, **settings), rows["session"]
    alike = zip(*rows.values(), strict=True)
    numbers = {
        "device": jax.devices()[0].device_kind,
        "dtype": assistant.dtype.name,
        "prefix_tokens": session.length,
        "same_answers": sum(x.token_ids == y.token_ids for x, y in alike),
        "seconds": seconds,
        "flops_per_question": flops_per_question(session, answers),
        **memory(session, answers),
    }
    report(numbers)
    if FLAGS.json:
        given = {
            flag.name: flag.value
            for flag in FLAGS.get_key_flags_for_module(sys.argv[0])
        }
        write_text(FLAGS.json, json.dumps({"flags": given, **numbers}, indent=1) + "\n")


def chosen_model() -> VicaConfig:
    if FLAGS.variant and FLAGS.variant not in VARIANTS:
        cli.fail(f"--variant={FLAGS.variant}: take one of {', '.join(VARIANTS)}")
    if FLAGS.variant:
        return VARIANTS[FLAGS.variant]
    if FLAGS.width % 128:
        cli.fail(f"--width={FLAGS.width}: take a multiple of 128 (2 heads of 64)")
    whole = QWEN2_0_5B
    llm = replace(
        whole,
        width=FLAGS.width,
        depth=FLAGS.depth,
        num_heads=FLAGS.width // whole.head_dim,
        mlp_dim=whole.mlp_dim * FLAGS.width // whole.width,
        vocab_size=max(whole.vocab_size * FLAGS.depth // whole.depth, 1024),
    )
    siglip = SiglipConfig(
        image_size=224, patch_size=14, width=96, depth=2, num_heads=2, mlp_dim=192
    )
    return VicaConfig(siglip=siglip, llm=llm, layout=make_layout(siglip))


def random_assistant(cfg: VicaConfig) -> Assistant:
    shapes, _ = abstract_vica(cfg)
    dtype = default_dtype()
    keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(shapes))))

    def draw(x: jax.ShapeDtypeStruct) -> jax.Array:
        if len(x.shape) == 1:  # norms and biases
            return jnp.ones(x.shape, dtype)
        return jax.random.normal(next(keys), x.shape, dtype) * 0.02

    return Assistant(
        cfg,
        jax.tree.map(draw, shapes),
        load_tokenizer(TOKENIZER),
        # An id past the tokenizer, which is never chosen.
        generation_config={"eos_token_id": cfg.llm.vocab_size - 1},
        dtype=dtype,
    )


def flops_per_question(
    session: VideoSession, answers: list[Answer]
) -> dict[str, float]:
    """Model FLOPs forward; an answer's last token is chosen, but not run."""
    cfg, prefix, count = session.model.cfg, session.length, len(answers)
    lengths = [x.tokens["total"] + x.tokens["new"] - 1 for x in answers]
    targets = sum(x.tokens["new"] for x in answers)

    def forward(lengths, frames=0, targets=0):
        return batch_flops(
            cfg,
            lengths=lengths,
            frames=frames,
            hiera_frames=cfg.layout.num_hiera_frames(frames),
            targets=targets,
            trainable=frozenset(),
        )

    own = forward(lengths, targets=targets) - forward([prefix] * count)
    return {
        "one by one": forward(lengths, FLAGS.frames * count, targets) / count,
        "session": (forward([prefix], FLAGS.frames) + own) / count,
    }


def memory(session: VideoSession, answers: list[Answer]) -> dict[str, Any]:
    """Bytes of the prefix, of a question's cache, and of the programs' temporaries."""
    assistant, model, prefix = session.assistant, session.model, session.prefix
    sampling = assistant.sampling(session.settings)
    own = max(x.tokens["total"] for x in answers) - session.length
    slots = bucket_length(own) + cache_room(max(FLAGS.new_tokens, NUMBER_TOKENS))
    cache, temporaries = [], {}
    for count in sorted({1, len(answers)}):
        tokens = np.zeros((batch_bucket(count), bucket_length(own)), np.int32)
        lengths = np.full(len(tokens), own, np.int32)
        asked = model, slots, assistant.params, tokens, lengths, prefix
        logits, cache = prefill_after(*asked)
        rows = Rows(first=0, real=count, after=prefix.length)
        state = begin(sampling, logits, lengths, jax.random.key(0), cache, rows)
        choice = sampling.choice()
        going_on = model, DECODE_CHUNK, assistant.params, choice, state, 1, prefix
        temporaries[count] = {
            name: _temporary_bytes(lowered)
            for name, lowered in (
                ("prefill", prefill_after.lower(*asked)),
                ("decode", decode.lower(*going_on)),
            )
        }
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
    return {
        "prefix_bytes": size(prefix.layers),
        "cache_bytes_per_question": size(cache) // cache[0][0].shape[0],
        "temporary_bytes": temporaries,
    }


def _temporary_bytes(lowered: Any) -> int:
    return lowered.compile().memory_analysis().temp_size_in_bytes


def report(numbers: dict[str, Any]) -> None:
    said = "{device}, {dtype}: a prefix of {prefix_tokens:,} tokens, {same_answers} of"
    print(f"\n{said.format(**numbers)} {FLAGS.questions} answers the same both ways")
    print("{:<12} {:>9} {:>9} {:>11} {:>15}".format("", *COLUMNS))
    columns = []
    for name, times in numbers["seconds"].items():
        median, flops = statistics.median(times), numbers["flops_per_question"][name]
        columns.append((median, min(times), median / FLAGS.questions, flops / 1e9))
    columns.append(tuple(x / y for x, y in zip(*columns, strict=True)))
    for name, row in zip([*numbers["seconds"], "ratio"], columns, strict=True):
        print("{:<12} {:>9.2f} {:>9.2f} {:>11.3f} {:>15.2f}".format(name, *row))
    print(f"\n{'prefix':<34} {numbers['prefix_bytes'] / 1e6:>10.2f} MB")
    own = numbers["cache_bytes_per_question"]
    print(f"{'cache of a question':<34} {own / 1e6:>10.2f} MB")
    for count, programs in numbers["temporary_bytes"].items():
        for name, size in programs.items():
            what = f"temporary, {name}, questions: {count}"
            print(f"{what:<34} {size / 1e6:>10.2f} MB")


if __name__ == "__main__":
    cli.run(main)
