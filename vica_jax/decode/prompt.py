"""From a source and a question to what stands before and after the visual tokens."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vica_jax.data.conversation import (
    PromptError,
    chatml,
    tokenize_chunks,
    user_turn,
)
from vica_jax.data.example import Example, Medium, image_medium
from vica_jax.data.frame_cache import FrameCache, VideoPixels, video_pixels
from vica_jax.data.media import Images, Video, is_video, open_media
from vica_jax.data.tokenizer import Tokenizer
from vica_jax.data.video import FrameSample, time_instruction
from vica_jax.decode.measure import measured
from vica_jax.decode.settings import AnswerSettings
from vica_jax.layout import VisualLayout

Question = str | Sequence[str]
"""A question, or a dialogue: question, answer, question, answer, ..., question."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is left of a source once its pixels are encoded.

    ``sample`` says which frames of a video were taken, ``tokens`` counts the visual
    tokens per stream.
    """

    count: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: {"siglip": 0, "hiera": 0})
    sample: FrameSample | None = None
    reader: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A source as the device takes it.

    ``seconds`` holds ``read`` and ``pixels``, and ``cache`` where one was looked at:
    that alone where it had the video. ``preview`` is small frames of a video.
    """

    media: list[Medium]
    seen: Seen
    seconds: dict[str, float]
    preview: np.ndarray | None = None


def read_media(
    source: Any,
    settings: AnswerSettings,
    layout: VisualLayout,
    cache: FrameCache | None = None,
) -> Loaded:
    """Open a source (``data.media.open_media``) and make its media for the device.

    What is ``Loaded`` already is taken as it is; a video file or folder of frames that
    ``cache`` holds is not opened.

    Raises:
      InputError: it cannot be read, or its tokens alone pass the context length.
    """
    if isinstance(source, Loaded):
        return source
    seconds: dict[str, float] = {}
    if settings.fps is None and is_video(source):
        layout.check_video(settings.num_frames)  # before frames fill the memory
    how = {
        name: getattr(settings, name)
        for name in ("num_frames", "fps", "source_fps", "reader")
    }
    key = None
    if cache is not None and isinstance(source, str | os.PathLike) and is_video(source):
        with measured("cache", seconds):
            key = cache.key(source, layout, **how)
            found = None if key is None else cache.get(key)
        if found is not None:
            return _loaded_video(found, layout, seconds)
    with measured("read", seconds):
        media = open_media(source, **how)
    if isinstance(media, Video):
        with measured("pixels", seconds):
            pixels = video_pixels(media.clip, layout)
        if cache is not None and key is not None:
            with measured("cache", seconds):
                cache.put(key, pixels)
        return _loaded_video(pixels, layout, seconds)
    parts: list[Medium] = []
    with measured("pixels", seconds):
        if isinstance(media, Images):
            mode = settings.image_mode
            if mode == "auto":
                mode = "anyres" if len(media.images) == 1 else "padded"
            parts = [image_medium(image, layout, mode) for image in media.images]
    seen = _seen(parts, layout, notes=media.notes if media else ())
    return Loaded(media=parts, seen=seen, seconds=seconds)


def _loaded_video(
    pixels: VideoPixels, layout: VisualLayout, seconds: dict[str, float]
) -> Loaded:
    parts = [pixels.medium]
    seen = _seen(parts, layout, pixels.notes, pixels.sample, pixels.reader)
    return Loaded(media=parts, seen=seen, seconds=seconds, preview=pixels.preview)


def _seen(
    parts: list[Medium],
    layout: VisualLayout,
    notes: tuple[str, ...],
    sample: FrameSample | None = None,
    reader: str | None = None,
) -> Seen:
    streams = [medium.tokens(layout) for medium in parts]
    tokens = {
        name: sum(stream[name] for stream in streams) for name in ("siglip", "hiera")
    }
    return Seen(
        count=len(parts), tokens=tokens, sample=sample, reader=reader, notes=notes
    )


def prompt_chunks(
    tokenizer: Tokenizer, question: Question, seen: Seen, settings: AnswerSettings
) -> list[list[int]]:
    """Token ids before, between and after the media, ``seen.count + 1`` chunks.

    The first turn of a dialogue has the media; options and time instruction belong to
    it too.

    Raises:
      PromptError: no question, a dialogue that does not end with one, or what
        ``user_turn`` refuses.
    """
    turns = [question] if isinstance(question, str) else list(question)
    if len(turns) % 2 == 0 or not all(isinstance(turn, str) for turn in turns):
        raise PromptError(
            "a dialogue is question, answer, question, ..., question: an odd number "
            f"of texts, got {len(turns)}"
        )
    instruction = ""
    if settings.time_instruction:
        if seen.sample is None:
            raise PromptError(
                "the time instruction states a video's frame times: "
                "give a video or leave --time_instruction out"
            )
        instruction = time_instruction(seen.sample)
    first = user_turn(
        turns[0],
        num_media=seen.count,
        style=settings.prompt_style,
        time_instruction=instruction,
        options=settings.options,
    )
    later = [user_turn(turn, num_media=0, style="raw") for turn in turns[2::2]]
    answers = [*turns[1::2], None]
    pairs = list(zip([first, *later], answers, strict=True))
    return tokenize_chunks(tokenizer, chatml(pairs))


def text_tokens(example: Example) -> int:
    return sum(map(len, example.chunks))
