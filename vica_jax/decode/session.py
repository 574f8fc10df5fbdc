"""One video, many questions: encoded once, prefilled once, asked any number of times.

    session = assistant.open("room.mp4")
    first, second = session.ask(["How many chairs are there?", "How large is it?"])
    later = session.ask([["How many chairs are there?", first.text, "And tables?"]])

The prompt begins the same for every question: system turn, then the video. Those keys
and values are a ``Prefix`` without a batch axis. ``ask`` runs the questions' own tokens
behind it in one batch; the prefix is read once per batch and never copied. Greedy
answers are, token for token, those of ``Assistant.answer``; sampled ones draw by their
place among the questions.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from vica_jax.data.conversation import PromptError
from vica_jax.data.example import (
    Example,
    LengthError,
    bucket_length,
    check_length,
    collate,
)
from vica_jax.decode.answer import Answer, make_answer
from vica_jax.decode.exact import (
    NUMBER_TOKENS,
    Exact,
    Wanted,
    check_wanted,
    decode_numbers,
    number_table,
    read_numbers,
    score_letters,
)
from vica_jax.decode.generate import (
    Rows,
    Sampling,
    begin,
    encode,
    prefill_after,
    prefill_prefix,
    text_of,
)
from vica_jax.decode.loop import cache_room, decode_rows, last, rooms
from vica_jax.decode.measure import measured
from vica_jax.decode.prompt import Question, Seen, prompt_chunks, read_media
from vica_jax.decode.settings import AnswerSettings
from vica_jax.errors import InputError
from vica_jax.models.cache import Prefix
from vica_jax.models.vica import Vica

if TYPE_CHECKING:
    from vica_jax.decode.assistant import Assistant

MEDIA_SETTINGS = (
    "num_frames",
    "fps",
    "source_fps",
    "reader",
    "token_ratio",
    "image_mode",
)
_PLACEHOLDER = "?"  # a question that only serves to find what stands before it


class SessionError(InputError):
    """A setting that is fixed when a video is opened, or a question that cannot share
    its prefix."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoSession:
    """A video (or images) that has been read by the model; made by ``open_session``.

    Attributes:
      length: tokens of the prefix, text and visual.
      chunks: its token ids before and between the media.
      seconds: what opening took, per step.
    """

    assistant: "Assistant"
    model: Vica
    settings: AnswerSettings
    seen: Seen
    chunks: tuple[tuple[int, ...], ...]
    length: int
    prefix: Prefix
    seconds: dict[str, float] = field(default_factory=dict)

    def ask(
        self,
        questions: Sequence[Question],
        *,
        batch: int | None = None,
        exact: Sequence[Wanted] | None = None,
        **changes: Any,
    ) -> list[Answer]:
        """Answer questions or dialogues, at most ``batch`` (default: all) at a time.

        ``exact`` names for each question what it wants besides free text: option
        letters, ``"number"``, or None. ``changes`` are fields of ``AnswerSettings``
        other than those that decide the pixels.

        Raises:
          SessionError: a change to the pixels, or a question whose text puts the media
            elsewhere. PromptError, LengthError: a question that cannot be asked.
        """
        settings = self._settings(changes)
        exact = [None] * len(questions) if exact is None else exact
        if not questions:
            raise PromptError("no question given")
        if isinstance(questions, str):  # else each of its letters would be asked
            raise PromptError("a session takes a list of questions: ask([question])")
        if len(exact) != len(questions) or (batch is not None and batch < 1):
            raise SessionError(
                f"{len(questions)} questions, {len(exact)} entries of exact, batches "
                f"of {batch}: give one entry for each question and a positive batch"
            )
        assistant = self.assistant
        for want in exact:
            check_wanted(want, assistant.tokenizer)
        sampling = assistant.sampling(settings)
        texts = [self._own_tokens(question, settings) for question in questions]
        size = batch or len(texts)
        answers = []
        for first in range(0, len(texts), size):
            rows = slice(first, first + size)
            answers += self._ask(texts[rows], exact[rows], settings, sampling, first)
        return answers

    def check(self, question: Question, **changes: Any) -> None:
        """Raise what ``ask`` would raise for this question; runs nothing."""
        self._own_tokens(question, self._settings(changes))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the prefix to one file; ``assistant.load_session`` reads it."""
        from vica_jax.decode.session_file import save_session

        save_session(self, path)

    # ------------------------------------------------------------- the work
    def _settings(self, changes: dict[str, Any]) -> AnswerSettings:
        settings = replace(self.settings, **changes)
        for name in MEDIA_SETTINGS:
            if getattr(settings, name) != getattr(self.settings, name):
                raise SessionError(
                    f"{name} = {getattr(settings, name)}: the video was opened with "
                    f"{getattr(self.settings, name)}: open it again"
                )
        return settings

    def _own_tokens(self, question: Question, settings: AnswerSettings) -> list[int]:
        """The tokens after the prefix."""
        tokenizer = self.assistant.tokenizer
        *before, own = prompt_chunks(tokenizer, question, self.seen, settings)
        if tuple(map(tuple, before)) != self.chunks:
            raise SessionError(
                "a session's video stands before the question: leave out text before "
                "<image>, or ask with Assistant.answer"
            )
        limit = self.model.cfg.layout.context_length
        if self.length + len(own) + 1 > limit:
            raise LengthError(
                f"the prompt has {self.length + len(own):,} tokens ({self.length:,} of "
                f"the video and before it) and 1 is to be generated, past the context "
                f"length of {limit:,}: ask a shorter question or open fewer frames"
            )
        return own

    def _ask(
        self,
        texts: Sequence[list[int]],
        exact: Sequence[Wanted],
        settings: AnswerSettings,
        sampling: Sampling,
        first: int,
    ) -> list[Answer]:
        """One batch: prefill behind the prefix, free text, then what is exact."""
        assistant, params = self.assistant, self.assistant.params
        longest = max(map(len, texts))
        limit = self.model.cfg.layout.context_length
        prompts = [self.length + len(text) for text in texts]
        room, notes = rooms(prompts, settings.max_new_tokens, limit)
        B, T = batch_bucket(len(texts)), bucket_length(longest)
        tokens = np.full((B, T), sampling.pad_id, np.int32)
        lengths = np.ones(B, np.int32)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = text
            lengths[row] = len(text)
        slots = T + cache_room(max(*room, NUMBER_TOKENS))
        smaller = f"batch={max(len(texts) // 2, 1)} instead of {len(texts)}"
        seconds: dict[str, float] = {}
        with assistant.on_mesh():
            with measured("prefill", seconds, smaller):
                logits, cache = prefill_after(
                    self.model, slots, params, tokens, lengths, self.prefix
                )
                rows = Rows(first=first, real=len(texts), after=self.prefix.length)
                key = jax.random.key(settings.seed)
                state = begin(sampling, logits, lengths, key, cache, rows)
                del cache  # the state owns it: decode donates it
                letters = {
                    i: want for i, want in enumerate(exact) if isinstance(want, tuple)
                }
                found = score_letters(logits, letters, assistant.tokenizer)
            ids, state = last(
                decode_rows(
                    self.model,
                    params,
                    sampling,
                    state,
                    room,
                    seconds,
                    smaller,
                    self.prefix,
                )
            )
            numbers = [i for i, want in enumerate(exact) if want == "number"]
            if numbers:
                with measured("numbers", seconds, smaller):
                    found |= self._numbers(
                        numbers, logits, lengths, sampling, state.cache
                    )
        told = assistant.told(settings, self.model, self.seen)
        return [
            make_answer(
                ids[row],
                sampling.eos_ids,
                assistant.tokenizer,
                self.seen,
                text_tokens=len(text) + sum(map(len, self.chunks)),
                seconds=seconds,
                settings=told,
                notes=notes[row],
                exact=found.get(row),
            )
            for row, text in enumerate(texts)
        ]

    def _numbers(
        self, rows: list[int], logits: Any, lengths: Any, sampling: Sampling, cache: Any
    ) -> dict[int, Exact]:
        tokenizer = self.assistant.tokenizer
        wanted = np.zeros(len(lengths), bool)
        wanted[rows] = True
        tokens, confidence, log_prob, _ = decode_numbers(
            self.model,
            self.assistant.params,
            logits,
            lengths,
            self.prefix.length,
            wanted,
            number_table(tokenizer, logits.shape[-1]),
            sampling.eos_ids,
            cache,
            self.prefix,
        )
        return read_numbers(
            np.asarray(tokens),
            np.asarray(confidence),
            np.asarray(log_prob),
            rows,
            tokenizer,
        )


def open_session(
    assistant: "Assistant", source: Any, settings: AnswerSettings
) -> VideoSession:
    """Read, encode and prefill a video or images, once for all questions.

    Raises:
      SessionError: there is nothing to share: ``source`` is None.
      InputError: the source cannot be read or does not fit the context.
    """
    model = assistant.model(settings)
    layout = model.cfg.layout
    loaded = read_media(source, settings, layout, assistant.frame_cache)
    media, seen, seconds = loaded.media, loaded.seen, dict(loaded.seconds)
    if not media:
        raise SessionError("a session shares a video or images: give one")
    # Any question will do: what stands before the media is the same for all.
    asked = replace(settings, prompt_style="plain", options=(), time_instruction=False)
    *before, _ = prompt_chunks(assistant.tokenizer, _PLACEHOLDER, seen, asked)
    example = Example(chunks=[*before, []], media=media)
    length = check_length(example, layout, room=1)
    batch = collate([example], layout)
    smaller = f"--frames={max(settings.num_frames // 2, 1)}"
    with assistant.on_mesh():
        pixels = {k: v for k, v in batch.items() if k not in text_of(batch)}
        with measured("encode", seconds, smaller):
            bank = jax.block_until_ready(encode(model, assistant.params, pixels))
        with measured("prefill", seconds, smaller):
            prefix = prefill_prefix(model, assistant.params, text_of(batch), bank)
            jax.block_until_ready(prefix)
    return VideoSession(
        assistant=assistant,
        model=model,
        settings=settings,
        seen=seen,
        chunks=tuple(map(tuple, before)),
        length=length,
        prefix=prefix,
        seconds=seconds,
    )


def batch_bucket(rows: int) -> int:
    """The number of rows a batch is filled up to: 1, 2, 4, 8, then multiples of 8."""
    return 1 << (rows - 1).bit_length() if rows <= 8 else -(-rows // 8) * 8
