"""Ask a video: an ``Assistant`` joins preprocessing, model and decoding.

    assistant = Assistant.load("vica2-native")
    answer = assistant.answer("room.mp4", "How many chairs are there?")

Beneath it lie pure jitted functions (``vica_jax.decode.generate``) for those who bring
their own loop.
"""

import contextlib
import functools
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from vica_jax.checkpoint import CheckpointError, read_manifest, restore
from vica_jax.checkpoint.manifest import TOKENIZER
from vica_jax.data.conversation import PromptError, chatml, tokenize_chunks, user_turn
from vica_jax.data.example import (
    Example,
    check_length,
    collate,
    image_medium,
    video_medium,
)
from vica_jax.data.media import Images, Media, Video, is_video, open_media
from vica_jax.data.tokenizer import Tokenizer, load_tokenizer, stream_text
from vica_jax.data.video import time_instruction
from vica_jax.decode.generate import (
    TEXT_KEYS,
    begin,
    decode,
    encode,
    prefill,
    text_of,
)
from vica_jax.decode.settings import AnswerSettings, make_sampling
from vica_jax.errors import InputError
from vica_jax.layout import LayoutError
from vica_jax.models.config import VicaConfig
from vica_jax.models.vica import Vica, abstract_vica, apply
from vica_jax.sharding import param_shardings
from vica_jax.typing import Batch, Params

DECODE_CHUNK = 16  # tokens per jitted call; the grain of streaming
CACHE_BUCKET = 64  # room for new tokens is rounded up to a multiple of this


class OutOfMemoryError(InputError):
    """The device ran out of memory; the message names the part and what to try."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer and everything needed to get it again.

    ``token_ids`` end with the EOS id unless ``finish`` is ``length``. ``tokens`` counts
    the prompt per stream; ``seconds`` is wall time per step.
    """

    text: str
    token_ids: list[int]
    finish: str
    frame_indices: list[int]
    frame_times: list[float]
    tokens: dict[str, int]
    seconds: dict[str, float]
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values, ``answer`` first."""
        fields = asdict(self)
        return {"answer": fields.pop("text"), **fields}


@dataclass(frozen=True)
class _Request:
    """One prepared question: its example and what was seen on the way."""

    example: Example
    media: Media | None
    seconds: dict[str, float]


class Assistant:
    """A model with its tokenizer, ready to answer.

    Args:
      cfg: sizes and token ratio.
      params: nested dict of arrays in ``dtype`` (on ``mesh`` if there is one).
      tokenizer: a ``transformers`` tokenizer.
      generation_config: the checkpoint's generation_config.json.
      hf_config: its config.json, for EOS and pad ids that the former lacks.
      dtype: compute dtype.
      mesh: devices to run on, or None for the default device.
    """

    def __init__(
        self,
        cfg: VicaConfig,
        params: Params,
        tokenizer: Tokenizer,
        *,
        generation_config: Mapping[str, Any] | None = None,
        hf_config: Mapping[str, Any] | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
        mesh: jax.sharding.Mesh | None = None,
    ):
        self.cfg = cfg
        self.params = params
        self.tokenizer = tokenizer
        self.generation_config = dict(generation_config or {})
        self.hf_config = dict(hf_config or {})
        self.dtype = jnp.dtype(dtype)
        self.mesh = mesh

    @classmethod
    def load(
        cls,
        folder: Any,
        *,
        mesh: jax.sharding.Mesh | None = None,
        dtype: jax.typing.DTypeLike | None = None,
    ) -> "Assistant":
        """Restore a native checkpoint, straight into its shardings on ``mesh``.

        ``dtype`` None takes ``default_dtype()``. HF folders go through
        ``convert.load.load_assistant``, which takes both.
        """
        manifest = read_manifest(folder)
        cfg = manifest.config
        if not isinstance(cfg, VicaConfig):
            raise CheckpointError(
                f"{folder}: a single tower cannot answer: load a ViCA or ViCA2 "
                "checkpoint"
            )
        dtype = jnp.dtype(dtype or default_dtype())
        with memory_named("loading the weights", "--dtype=bfloat16 or a larger mesh"):
            params = restore(folder, shardings=shardings_for(cfg, mesh), dtype=dtype)
        return cls(
            cfg,
            params,
            load_tokenizer(Path(folder) / TOKENIZER),
            generation_config=manifest.generation_config,
            hf_config=manifest.hf_config,
            dtype=dtype,
            mesh=mesh,
        )

    # ------------------------------------------------------------ questions
    def answer(self, media: Any, question: str, **settings: Any) -> Answer:
        """Answer one question about a video, images, or (``None``) nothing.

        ``media`` is whatever ``open_media`` takes: a video file, a folder of frames, a
        uint8 array ``[n,h,w,3]``, an image, a list of images, or None. ``settings``
        are the fields of ``AnswerSettings``.
        """
        return self.answer_batch([(media, question)], **settings)[0]

    def answer_batch(
        self, questions: Sequence[tuple[Any, str]], **settings: Any
    ) -> list[Answer]:
        """Answer several (media, question) pairs in one padded batch.

        Every row gets exactly the tokens it would get alone.
        """
        chosen = AnswerSettings(**settings)
        return _last(self._run(questions, chosen))

    def stream(
        self, media: Any, question: str, **settings: Any
    ) -> Generator[str, None, Answer]:
        """Yield text as tokens arrive; the generator's return value is the Answer.

        The pieces join to ``Answer.text``.
        """
        chosen = AnswerSettings(**settings)
        sent = ""
        steps = self._run([(media, question)], chosen)
        while True:
            try:
                ids = next(steps)[0]
            except StopIteration as stop:
                answer = stop.value[0]
                rest = answer.text[len(sent) :]
                if rest:
                    yield rest
                return answer
            piece = stream_text(self.tokenizer, ids, sent)
            if piece:
                sent += piece
                yield piece

    def logits(
        self, media: Any, question: str, *, all_positions: bool = False, **settings: Any
    ) -> np.ndarray:
        """Float32 logits ``[V]`` after the prompt, or ``[T,V]`` at every position.

        All positions of a full-size video would not fit; that form is for short
        inputs and tests.
        """
        chosen = AnswerSettings(**settings)
        model = self.model(chosen)
        request = self._prepare(media, question, chosen, model.cfg)
        batch = collate([request.example], model.cfg.layout)
        with self._on_mesh():
            if all_positions:
                logits = _all_logits(model, self.params, batch)
                return np.asarray(logits)[0, : batch["lengths"][0]]
            return np.asarray(_last_logits(model, self.params, batch))[0]

    def model(self, settings: AnswerSettings) -> Vica:
        """The module for a token ratio: the checkpoint's own unless one is given."""
        cfg = self.cfg
        if settings.token_ratio is not None:
            layout = cfg.layout.with_token_ratio(
                *settings.token_ratio, num_frames=settings.num_frames
            )
            cfg = cfg.with_layout(layout)
            width = self.params["hiera_projector"]["fc1"]["kernel"].shape[0]
            if cfg.hiera_out_width != width:
                raise LayoutError(
                    f"token ratio {settings.token_ratio}: Hiera's stage "
                    f"{layout.output_stage} is {cfg.hiera_out_width} wide, but the "
                    f"projector of this checkpoint takes {width} (it was trained on "
                    f"stage {self.cfg.layout.output_stage})"
                )
        return Vica(cfg, self.dtype)

    # ------------------------------------------------------------- the work
    def _run(
        self, questions: Sequence[tuple[Any, str]], settings: AnswerSettings
    ) -> Generator[list[list[int]], None, list[Answer]]:
        """Yield the ids so far after every chunk; return the answers."""
        if not questions:
            raise PromptError("no question given")
        model = self.model(settings)
        layout = model.cfg.layout
        sampling = make_sampling(
            self.generation_config,
            self.hf_config,
            self.tokenizer,
            settings,
            model.cfg.llm.vocab_size,
        )
        requests = [
            self._prepare(media, question, settings, model.cfg)
            for media, question in questions
        ]
        notes: list[str] = []
        longest = max(request.example.length(layout) for request in requests)
        room = min(settings.max_new_tokens, layout.context_length - longest)
        if room < settings.max_new_tokens:
            notes.append(
                f"at most {room} new tokens fit the context of "
                f"{layout.context_length:,} ({settings.max_new_tokens} were allowed)"
            )
        batch = collate(
            [request.example for request in requests], layout, pad_id=sampling.pad_id
        )
        length = batch["tokens"].shape[1] + -(-room // CACHE_BUCKET) * CACHE_BUCKET
        seconds: dict[str, float] = {}
        smaller = _smaller_setting(settings, len(questions), "frames" in batch)
        with self._on_mesh():
            with _step("encode", seconds), memory_named("the vision encoders", smaller):
                bank = encode(model, self.params, media_of(batch))
                jax.block_until_ready(bank)
            with _step("prefill", seconds), memory_named("prefill", smaller):
                logits, cache = prefill(
                    model, length, self.params, text_of(batch), bank
                )
                key = jax.random.key(settings.seed)
                state = begin(sampling, logits, batch["lengths"], key, cache)
                del cache  # the state owns it: decode donates it
                ids = [[int(token)] for token in np.asarray(state.token)]
                done = np.asarray(state.done)
            del bank
            yield ids
            left, choice = room - 1, sampling.choice()
            while left > 0 and not done.all():
                with _step("decode", seconds), memory_named("decoding", smaller):
                    steps = min(left, DECODE_CHUNK)
                    state, tokens = decode(
                        model, DECODE_CHUNK, self.params, choice, state, steps
                    )
                    new = np.asarray(tokens)[:, :steps]
                    done = np.asarray(state.done)
                for row, more in zip(ids, new, strict=True):
                    row.extend(int(token) for token in more)
                left -= steps
                yield [_until_eos(row, sampling.eos_ids) for row in ids]
        return [
            self._answer(
                request, row, sampling.eos_ids, settings, model, seconds, notes
            )
            for request, row in zip(requests, ids, strict=True)
        ]

    def _prepare(
        self, source: Any, question: str, settings: AnswerSettings, cfg: VicaConfig
    ) -> _Request:
        """Read media, build the prompt, check its length."""
        layout, seconds = cfg.layout, {}
        with _step("read", seconds):
            if settings.fps is None and is_video(source):
                layout.check_video(settings.num_frames)  # before frames fill the memory
            media = open_media(
                source,
                num_frames=settings.num_frames,
                fps=settings.fps,
                source_fps=settings.source_fps,
                reader=settings.reader,
            )
        with _step("pixels", seconds):
            instruction = ""
            if isinstance(media, Video):
                parts = [video_medium(media.clip.frames, layout)]
                if settings.time_instruction:
                    instruction = time_instruction(media.clip)
            elif isinstance(media, Images):
                mode = settings.image_mode
                if mode == "auto":
                    mode = "anyres" if len(media.images) == 1 else "padded"
                parts = [image_medium(image, layout, mode) for image in media.images]
            else:
                parts = []
            if settings.time_instruction and not instruction:
                raise PromptError(
                    "the time instruction states a video's frame times: "
                    "give a video or leave --time_instruction out"
                )
            turn = user_turn(
                question,
                num_media=len(parts),
                style=settings.prompt_style,
                time_instruction=instruction,
                options=settings.options,
            )
            chunks = tokenize_chunks(self.tokenizer, chatml([(turn, None)]))
            example = Example(chunks=chunks, media=parts)
            check_length(example, layout, room=1)
        return _Request(example, media, seconds)

    def _answer(
        self,
        request: _Request,
        ids: list[int],
        eos_ids: tuple[int, ...],
        settings: AnswerSettings,
        model: Vica,
        seconds: dict[str, float],
        notes: list[str],
    ) -> Answer:
        ids = _until_eos(ids, eos_ids)
        layout, example = model.cfg.layout, request.example
        streams = [medium.tokens(layout) for medium in example.media]
        tokens = {
            "siglip": sum(stream["siglip"] for stream in streams),
            "hiera": sum(stream["hiera"] for stream in streams),
            "text": sum(map(len, example.chunks)),
            "total": example.length(layout),
            "new": len(ids),
        }
        clip = request.media.clip if isinstance(request.media, Video) else None
        ratio = None
        if layout.has_hiera:
            ratio = {
                "frame_stride": layout.frame_stride,
                "output_stage": layout.output_stage,
                "pool_stride": layout.pool_stride,
            }
        return Answer(
            text=self.tokenizer.decode(ids, skip_special_tokens=True).strip(),
            token_ids=ids,
            finish="eos" if ids[-1] in eos_ids else "length",
            frame_indices=[int(i) for i in clip.indices] if clip else [],
            frame_times=[float(t) for t in clip.times] if clip else [],
            tokens=tokens,
            seconds={k: round(v, 4) for k, v in {**request.seconds, **seconds}.items()},
            settings={
                **asdict(settings),
                "dtype": self.dtype.name,
                "mesh": dict(self.mesh.shape) if self.mesh else None,
                "repetition_penalty": (
                    settings.repetition_penalty
                    or self.generation_config.get("repetition_penalty")
                    or 1.0
                ),
                "hiera": ratio,
                "reader": clip.reader if clip else None,
            },
            notes=[*(request.media.notes if request.media else ()), *notes],
        )

    def _on_mesh(self) -> contextlib.AbstractContextManager[Any]:
        return jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext()


def default_dtype() -> str:
    """bfloat16 on accelerators, float32 on CPUs (where bfloat16 is slower)."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def shardings_for(cfg: VicaConfig, mesh: jax.sharding.Mesh | None) -> Any:
    """Nested dict of shardings for a model on ``mesh``; None without a mesh."""
    return None if mesh is None else param_shardings(*abstract_vica(cfg), mesh)


def media_of(batch: Batch) -> Batch:
    """The part of a batch that the encoders read."""
    media = {key: value for key, value in batch.items() if key not in TEXT_KEYS}
    return cast(Batch, media)


@functools.partial(jax.jit, static_argnums=0)
def _all_logits(model: Vica, params: Params, batch: Batch) -> jax.Array:
    return apply(model, params, batch)


@functools.partial(jax.jit, static_argnums=0)
def _last_logits(model: Vica, params: Params, batch: Batch) -> jax.Array:
    bank = apply(model, params, batch, method="visual_bank")
    length = batch["tokens"].shape[1]
    logits, _ = apply(model, params, batch, bank, length, method="prefill")
    return logits


def _until_eos(ids: Sequence[int], eos_ids: tuple[int, ...]) -> list[int]:
    """Ids up to and with the first EOS id."""
    stop = next((i + 1 for i, token in enumerate(ids) if token in eos_ids), len(ids))
    return list(ids[:stop])


def _last(steps: Generator[Any, None, list[Answer]]) -> list[Answer]:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


@contextlib.contextmanager
def _step(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


@contextlib.contextmanager
def memory_named(part: str, smaller: str) -> Iterator[None]:
    """Turn the runtime's out-of-memory error into a line that helps."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "memory" not in str(error):
            raise
        raise OutOfMemoryError(
            f"out of device memory in {part}: try {smaller}"
        ) from error


def _smaller_setting(settings: AnswerSettings, rows: int, video: bool) -> str:
    if rows > 1:
        return f"a batch of {rows // 2} instead of {rows}"
    if video and settings.num_frames > 1:
        return f"--frames={settings.num_frames // 2} instead of {settings.num_frames}"
    return "--dtype=bfloat16 or a mesh of more devices"
