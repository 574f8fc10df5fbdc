"""Compile ahead what questions about a video will run (``Assistant.warm_up``)."""

import logging
import time
from typing import TYPE_CHECKING, Any

from vica_jax.data.example import bucket_length
from vica_jax.decode.exact import NUMBER_TOKENS
from vica_jax.decode.loop import cache_room, rooms
from vica_jax.decode.programs import (
    HEAD_TOKENS,
    answer_programs,
    ask_programs,
    open_programs,
    video_batch,
)
from vica_jax.decode.session import batch_bucket
from vica_jax.decode.settings import AnswerSettings
from vica_jax.errors import InputError

if TYPE_CHECKING:
    from vica_jax.decode.assistant import Assistant

log = logging.getLogger(__name__)


def warm_up(
    assistant: "Assistant",
    settings: AnswerSettings,
    *,
    questions: int | None,
    frame_hw: tuple[int, int],
    question_tokens: int,
) -> dict[str, float]:
    """See ``Assistant.warm_up``."""
    if question_tokens < 1 or (questions is not None and questions < 1):
        raise InputError(
            f"warm_up for {questions} questions of {question_tokens} tokens: give at "
            "least 1 of each"
        )
    model, params = assistant.model(settings), assistant.params
    layout, sampling = model.cfg.layout, assistant.sampling(settings)
    frames = settings.num_frames
    video = {"frames": frames, "frame_hw": frame_hw}
    alone = video_batch(layout, **video, text_tokens=HEAD_TOKENS + question_tokens)
    prompt = layout.video_tokens(frames) + HEAD_TOKENS + question_tokens
    (room,), _ = rooms([prompt], settings.max_new_tokens, layout.context_length)
    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def compile(name: str, lowered: Any) -> Any:
        nonlocal last
        compiled = lowered.compile()
        seconds[name] = time.perf_counter() - last  # with tracing, which came before
        log.info("warm-up: compiled %s in %.1f s", name, seconds[name])
        last = time.perf_counter()
        return compiled

    with assistant.on_mesh():
        if questions is None:
            length = alone["tokens"].shape[1]
            slots = length + cache_room(room)
            log.info("warm-up: %d positions, a cache of %d", length, slots)
            answer_programs(model, params, alone, sampling, compile, slots=slots)
        else:
            rows, length = batch_bucket(questions), bucket_length(question_tokens)
            slots = length + cache_room(max(room, NUMBER_TOKENS))
            batch = video_batch(layout, **video, text_tokens=HEAD_TOKENS)
            log.info(
                "warm-up: %d positions, %d rows of %d behind them, caches of %d",
                batch["tokens"].shape[1],
                rows,
                length,
                slots,
            )
            _, prefix = open_programs(model, params, batch, compile)
            sizes = {"rows": rows, "length": length, "slots": slots}
            ask_programs(model, params, prefix, sampling, compile, **sizes)
    return seconds
