"""From a source and a question to what stands before and after the visual tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vica_jax.data.conversation import (
    PromptError,
    chatml,
    tokenize_chunks,
    user_turn,
)
from vica_jax.data.example import Example, Medium, image_medium, video_medium
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
    """A source as the device takes it; ``seconds`` holds ``read`` and ``pixels``."""

    media: list[Medium]
    seen: Seen
    seconds: dict[str, float]


def read_media(source: Any, settings: AnswerSettings, layout: VisualLayout) -> Loaded:
    """Open a source (``data.media.open_media``) and make its media for the device.

    What is ``Loaded`` already is taken as it is.

    Raises:
      InputError: it cannot be read, or its tokens alone pass the context length.
    """
    if isinstance(source, Loaded):
        return source
    seconds: dict[str, float] = {}
    with measured("read", seconds):
        if settings.fps is None and is_video(source):
            layout.check_video(settings.num_frames)  # before frames fill the memory
        media = open_media(
            source,
            num_frames=settings.num_frames,
            fps=settings.fps,
            source_fps=settings.source_fps,
            reader=settings.reader,
        )
    sample = reader = None
    parts: list[Medium] = []
    with measured("pixels", seconds):
        if isinstance(media, Video):
            clip = media.clip
            parts = [video_medium(clip.frames, layout)]
            names = ("indices", "times", "total_frames", "avg_fps")
            sample = FrameSample(**{name: getattr(clip, name) for name in names})
            reader = clip.reader
        elif isinstance(media, Images):
            mode = settings.image_mode
            if mode == "auto":
                mode = "anyres" if len(media.images) == 1 else "padded"
            parts = [image_medium(image, layout, mode) for image in media.images]
    streams = [medium.tokens(layout) for medium in parts]
    seen = Seen(
        count=len(parts),
        tokens={
            name: sum(stream[name] for stream in streams)
            for name in ("siglip", "hiera")
        },
        sample=sample,
        reader=reader,
        notes=media.notes if media else (),
    )
    return Loaded(media=parts, seen=seen, seconds=seconds)


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
