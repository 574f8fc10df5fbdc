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

from convert import torch_timed
from convert.qwen2 import qwen2_rows
from scripts.bench_case import Sides, unequal_share
from scripts.bench_inputs import drawn, noise
from scripts.idle import Stopwatch
from scripts.scaling_sweeps import NEW_TOKENS, QUESTION, Measured, Sweeps
from vica_jax.decode.answer import Answer

QUESTIONS = 18


def questions(reduced: bool) -> Sides:
    count, number = (4, 16) if reduced else (QUESTIONS, 64)
    measured = Measured(Sweeps())
    assistant, cfg = measured.assistant, measured.cfg
    loaded, settings = measured.video(number)
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
            "torch_one_by_one_s": statistics.median(torch_seconds),
        },
    )
