"""What a session saves: questions about one video, one by one and behind one prefix.

18 questions about a video of 64 frames: an ``Assistant.answer`` to each (encode,
prefill, decode) against a session that is opened and asked all of them in one batch,
and beside both PyTorch's ``generate`` from embeddings of the same lengths, question by
question, without any encoder.

The model is a Qwen2-0.5B of two layers, its vocabulary cut in proportion so that
decoding weighs what it does there, behind a small SigLIP: the prompt rules. Everything
but reading the video goes through ``Assistant``, as users call it, with the recorded
checkpoint's small tokenizer; no end of sequence can be chosen, so all answers are
equally long.
"""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from convert import torch_timed
from convert.qwen2 import qwen2_rows
from scripts.bench_case import Sides, unequal_share
from scripts.bench_inputs import SMALL_SIGLIP, drawn, frames, noise, to_params
from scripts.idle import Stopwatch
from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.decode.answer import Answer
from vica_jax.decode.assistant import Assistant
from vica_jax.decode.session import VideoSession
from vica_jax.models.config import VicaConfig, make_layout
from vica_jax.models.variants import QWEN2_0_5B
from vica_jax.models.vica import init_vica
from vica_jax.train.flops import batch_flops

TOKENIZER = Path(__file__).parent.parent / "tests/goldens/tiny-vica2/checkpoint"
QUESTION = "How many objects of kind {} are there in this room? Answer with a number."
NEW_TOKENS = 4
QUESTIONS = 18


def prompt_model() -> VicaConfig:
    """The model described above."""
    whole, depth = QWEN2_0_5B, 2
    vocabulary = whole.vocab_size * depth // whole.depth
    llm = replace(whole, depth=depth, vocab_size=vocabulary)
    return VicaConfig(siglip=SMALL_SIGLIP, llm=llm, layout=make_layout(SMALL_SIGLIP))


def random_assistant(cfg: VicaConfig) -> Assistant:
    """An assistant of random float32 weights that never ends an answer by itself."""
    params = init_vica(replace(cfg, llm=replace(cfg.llm, depth=1)), jax.random.key(0))
    rows = qwen2_rows(cfg.llm)
    params = {**params, **to_params(rows, drawn(rows))}
    return Assistant(
        cfg,
        params,
        load_tokenizer(TOKENIZER),
        # An id past the tokenizer, which is never chosen.
        generation_config={"eos_token_id": cfg.llm.vocab_size - 1},
    )


def questions(reduced: bool) -> Sides:
    count, number = (4, 16) if reduced else (QUESTIONS, 64)
    assistant = random_assistant(prompt_model())
    cfg = assistant.cfg
    settings: dict[str, Any] = {
        "num_frames": number,
        "source_fps": 1.0,
        "max_new_tokens": NEW_TOKENS,
    }
    loaded = assistant.read(frames(number, 240, 320), **settings)
    texts = [QUESTION.format(i + 1) for i in range(count)]

    def session() -> list[Answer]:
        return assistant.open(loaded, **settings).ask(texts)

    def alone() -> list[Answer]:
        return [assistant.answer(loaded, text, **settings) for text in texts]

    watch = Stopwatch()
    assistant.answer(loaded, texts[0], **settings)
    opened = assistant.open(loaded, **settings)
    answers = opened.ask(texts)
    seconds = watch.seconds()
    lengths = [answer.tokens["total"] for answer in answers]
    rows = qwen2_rows(cfg.llm)
    torch_alone = torch_timed.generate_embedded(
        cfg.llm,
        drawn(rows),
        [noise(1, length, cfg.llm.width) for length in lengths],
        NEW_TOKENS,
        cfg.llm.vocab_size - 1,
    )
    torch_seconds = []
    for _ in range(1 if reduced else 3):
        watch = Stopwatch()
        torch_alone()
        torch_seconds.append(watch.seconds())
    return Sides(
        ours=session,
        theirs=alone,
        gap=lambda x, y: unequal_share(*([a.token_ids for a in z] for z in (x, y))),
        most=0.0,
        peer="the same questions one by one (Assistant.answer)",
        compile_s=seconds,
        facts={
            "questions": count,
            "prefix_tokens": opened.length,
            "flops_per_question": flops_per_question(opened, answers, number),
            "torch_one_by_one_s": statistics.median(torch_seconds),
        },
    )


def flops_per_question(
    session: VideoSession, answers: list[Answer], frames: int
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
        "one by one": forward(lengths, frames * count, targets) / count,
        "session": (forward([prefix], frames) + own) / count,
    }
