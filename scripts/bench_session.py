"""What a session saves: questions about one video, one by one and behind one prefix.

    python -m scripts.bench_session [--frames=64] [--questions=18] [--new_tokens=4] \\
        [--width=896] [--depth=2] [--variant=NAME] [--pairs=5] [--json=FILE]

Times, in turn, an answer to each question by itself (encode, prefill, decode) and a
session that is opened and asked all of them in one batch; waits for an idle machine
first and says when others use it. Beside the seconds stand model FLOPs
(``train/flops.py``), bytes of prefix and caches, and temporary bytes of the programs.

Weights are random. The default model is a Qwen2-0.5B of fewer layers, its vocabulary
cut in proportion so that decoding weighs what it does there, behind a SigLIP of two
narrow layers: the prompt's thousands of tokens rule. Everything but reading the video
goes through ``Assistant``, as users call it, with the recorded checkpoint's small
tokenizer; no end of sequence can be chosen, so all answers are ``--new_tokens`` long.
"""

import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from scripts import cli

if TYPE_CHECKING:
    from vica_jax.decode.answer import Answer
    from vica_jax.decode.assistant import Assistant
    from vica_jax.decode.session import VideoSession
    from vica_jax.models.config import VicaConfig

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
QUESTION = "How many objects of kind {} are there in this room? Answer with a number."
BUSY = 0.1  # share of the machine in others' use from which on it is said
PATIENCE = 120  # seconds to wait for less


def main() -> None:
    import numpy as np

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
            assistant.answer(loaded, q, **settings) for q in questions
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
            start, others = time.perf_counter(), others_seconds()
            rows[name] = ways[name]()
            seconds[name].append(time.perf_counter() - start)
            warn_if_busy(others_seconds() - others, seconds[name][-1], name)
        told = ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items())
        print(f"pair {pair + 1} of {FLAGS.pairs}: {told}", flush=True)
    session = assistant.open(loaded, **settings)
    numbers = {
        "device": str(device_kind()),
        "dtype": assistant.dtype.name,
        "prefix_tokens": session.length,
        "same_answers": sum(
            x.token_ids == y.token_ids for x, y in zip(*rows.values(), strict=True)
        ),
        "seconds": seconds,
        "flops_per_question": flops_per_question(session, rows["session"]),
        **memory(session, rows["session"]),
    }
    report(numbers)
    if FLAGS.json:
        from vica_jax.files import write_text

        write_text(
            FLAGS.json, json.dumps({"flags": given(), **numbers}, indent=1) + "\n"
        )


# ---------------------------------------------------------------------- what is timed
def chosen_model() -> "VicaConfig":
    from vica_jax.models.config import SiglipConfig, VicaConfig, make_layout
    from vica_jax.models.variants import QWEN2_0_5B, VARIANTS

    if FLAGS.variant:
        if FLAGS.variant not in VARIANTS:
            cli.fail(f"--variant={FLAGS.variant}: take one of {', '.join(VARIANTS)}")
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


def random_assistant(cfg: "VicaConfig") -> "Assistant":
    import jax
    import jax.numpy as jnp

    from vica_jax.data.tokenizer import load_tokenizer
    from vica_jax.decode.assistant import Assistant, default_dtype
    from vica_jax.models.vica import abstract_vica

    shapes, _ = abstract_vica(cfg)
    dtype, leaves = default_dtype(), jax.tree.leaves(shapes)
    keys = iter(jax.random.split(jax.random.key(0), len(leaves)))
    draw = lambda x: 0.02 * jax.random.normal(next(keys), x.shape, dtype)
    ones = lambda x: jnp.ones(x.shape, dtype)
    params = jax.tree.map(lambda x: draw(x) if x.ndim > 1 else ones(x), shapes)
    # Ids past the tokenizer are never chosen: no answer ends early.
    never = {"eos_token_id": cfg.llm.vocab_size - 1}
    tokenizer = load_tokenizer(TOKENIZER)
    return Assistant(cfg, params, tokenizer, generation_config=never, dtype=dtype)


def device_kind() -> str:
    import jax

    return jax.devices()[0].device_kind


# ------------------------------------------------------------------- what is computed
def flops_per_question(
    session: "VideoSession", answers: "list[Answer]"
) -> dict[str, float]:
    """Forward FLOPs: the last token of an answer is chosen, but not run."""
    from vica_jax.train.flops import batch_flops

    cfg, prefix = session.model.cfg, session.length
    new = FLAGS.new_tokens
    lengths = [answer.tokens["total"] + new - 1 for answer in answers]
    media = {
        "frames": FLAGS.frames,
        "hiera_frames": cfg.layout.num_hiera_frames(FLAGS.frames),
    }
    flops = lambda lengths, **more: batch_flops(
        cfg, lengths=lengths, trainable=frozenset(), **more
    )
    count = len(lengths)
    targets = count * new
    video = flops([prefix], **media)
    own = flops(lengths, targets=targets) - count * flops([prefix])
    return {
        "one by one": flops(lengths, targets=targets) / count + flops([], **media),
        "session": (video + own) / count,
    }


def memory(session: "VideoSession", answers: "list[Answer]") -> dict[str, Any]:
    """Bytes of the prefix, of a question's cache, and programs' temporaries."""
    import jax
    import numpy as np

    from vica_jax.data.example import bucket_length
    from vica_jax.decode.exact import NUMBER_TOKENS
    from vica_jax.decode.generate import Rows, begin, decode, prefill_after
    from vica_jax.decode.loop import DECODE_CHUNK, cache_room
    from vica_jax.decode.session import batch_bucket
    from vica_jax.decode.settings import make_sampling

    assistant, model, prefix = session.assistant, session.model, session.prefix
    own = max(answer.tokens["total"] for answer in answers) - session.length
    slots = bucket_length(own) + cache_room(max(FLAGS.new_tokens, NUMBER_TOKENS))
    sampling = make_sampling(
        assistant.generation_config,
        {},
        assistant.tokenizer,
        session.settings,
        model.cfg.llm.vocab_size,
    )
    cache, temporaries = (), {}
    for count in (1, len(answers)):
        B = batch_bucket(count)
        tokens = np.zeros((B, bucket_length(own)), np.int32)
        lengths = np.full(B, own, np.int32)
        inputs = model, slots, assistant.params, tokens, lengths, prefix
        logits, cache = prefill_after(*inputs)
        rows = Rows(first=0, real=count, after=prefix.length)
        state = begin(sampling, logits, lengths, jax.random.key(0), cache, rows)
        choice = sampling.choice()
        programs = {
            "prefill": prefill_after.lower(*inputs),
            "decode": decode.lower(
                model, DECODE_CHUNK, assistant.params, choice, state, 1, prefix
            ),
        }
        temporaries[f"{count} questions"] = {
            name: program.compile().memory_analysis().temp_size_in_bytes
            for name, program in programs.items()
        }
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
    return {
        "prefix_bytes": size(prefix.layers),
        "cache_bytes_per_question": size(cache) // batch_bucket(len(answers)),
        "temporary_bytes": temporaries,
    }


# ---------------------------------------------------------------------- the machine
def others_seconds() -> float:
    """Processor seconds that others have used since the start; 0 where unknown."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, *rest = map(int, file.readline().split()[1:9])
    except OSError:
        return 0.0
    busy = (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
    return busy - time.process_time()


def busy_share(others: float, seconds: float) -> float:
    return others / seconds / (os.cpu_count() or 1)


def warn_if_busy(others: float, seconds: float, what: str) -> None:
    if busy_share(others, seconds) > BUSY:
        share = busy_share(others, seconds)
        print(f"warning: others used {share:.0%} of the machine during {what}")


def wait_until_idle() -> None:
    for waited in range(0, PATIENCE, 2):
        before = others_seconds()
        time.sleep(2)
        share = busy_share(others_seconds() - before, 2)
        if share <= BUSY:
            return
        if not waited:
            print(f"others use {share:.0%} of the machine: waiting", flush=True)
    print("warning: still busy: these times say little")


# ------------------------------------------------------------------------ the report
def given() -> dict[str, Any]:
    names = "frames questions new_tokens width depth variant pairs".split()
    return {name: getattr(FLAGS, name) for name in names}


def report(numbers: dict[str, Any]) -> None:
    count, flops = FLAGS.questions, numbers["flops_per_question"]
    print(f"{numbers['device']}, {numbers['dtype']}, {FLAGS.frames} frames, prefix of")
    print(f"{numbers['prefix_tokens']:,} tokens, {count} questions,")
    print(f"{numbers['same_answers']} answers are the same both ways\n")
    print(
        f"{'':<12} {'median s':>9} {'min s':>9} {'s/question':>11} {'GFLOP/question':>15}"
    )
    medians = []
    for name, times in numbers["seconds"].items():
        medians.append(statistics.median(times))
        print(
            f"{name:<12} {medians[-1]:>9.2f} {min(times):>9.2f}"
            f" {medians[-1] / count:>11.3f} {flops[name] / 1e9:>15.1f}"
        )
    least = [min(times) for times in numbers["seconds"].values()]
    ratio = flops["one by one"] / flops["session"]
    print(
        f"{'ratio':<12} {medians[0] / medians[1]:>9.2f} {least[0] / least[1]:>9.2f}"
        f" {'':>11} {ratio:>15.2f}\n"
    )
    print(f"prefix                {numbers['prefix_bytes'] / 1e6:>10.2f} MB")
    print(
        f"cache of a question   {numbers['cache_bytes_per_question'] / 1e6:>10.2f} MB"
    )
    for rows, programs in numbers["temporary_bytes"].items():
        for name, size in programs.items():
            print(f"temporary, {name} of {rows:<14} {size / 1e6:>10.2f} MB")


if __name__ == "__main__":
    cli.run(main)
