"""Ask a video: an ``Assistant`` joins preprocessing, model and decoding.

    assistant = Assistant.load("vica2-native")
    answer = assistant.answer("room.mp4", "How many chairs are there?")

Beneath it lie pure jitted functions (``vica_jax.decode.generate``) for those who bring
their own loop.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from vica_jax.checkpoint import CheckpointError, read_manifest, restore
from vica_jax.checkpoint.checksum import device_checksums
from vica_jax.checkpoint.manifest import TOKENIZER
from vica_jax.checkpoint.tree import stored_leaves
from vica_jax.data.conversation import PromptError
from vica_jax.data.example import Example, check_length, collate
from vica_jax.data.frame_cache import FrameCache
from vica_jax.data.threads import map_threads
from vica_jax.data.tokenizer import Tokenizer, load_tokenizer, stream_text
from vica_jax.decode.answer import Answer, make_answer
from vica_jax.decode.generate import (
    TEXT_KEYS,
    Sampling,
    begin,
    encode,
    prefill,
    text_of,
)
from vica_jax.decode.loop import cache_room, decode_rows, last, rooms
from vica_jax.decode.measure import measured, memory_named
from vica_jax.decode.prompt import (
    Loaded,
    Question,
    Seen,
    prompt_chunks,
    read_media,
    text_tokens,
)
from vica_jax.decode.session import VideoSession, open_session
from vica_jax.decode.settings import AnswerSettings, make_sampling
from vica_jax.errors import InputError
from vica_jax.layout import LayoutError, VisualLayout
from vica_jax.models.cache import KVDtype
from vica_jax.models.config import VicaConfig
from vica_jax.models.quantize import SCALE, int8_form
from vica_jax.models.vica import Vica, abstract_vica, apply
from vica_jax.sharding import param_shardings
from vica_jax.typing import Batch, Params


@dataclass(frozen=True)
class _Request:
    """One prepared question: its example and what was seen on the way."""

    example: Example
    seen: Seen
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
      kv_dtype: what keys and values are kept in: None is the compute dtype, "int8"
        takes about half of bfloat16's memory and rounds (docs/int8.md).

    Attributes:
      frame_cache: what it has read of video files: the last ones in memory. Another
        ``FrameCache`` may be set, one with a folder, or None to read each time.

    Raises:
      InputError: another ``kv_dtype``.
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
        kv_dtype: str | None = None,
    ):
        if kv_dtype not in (None, "int8"):
            raise InputError(
                f"kv_dtype={kv_dtype!r}: keys and values are kept in int8 or (None) "
                "in the compute dtype"
            )
        self.cfg = cfg
        self.params = params
        self.tokenizer = tokenizer
        self.generation_config = dict(generation_config or {})
        self.hf_config = dict(hf_config or {})
        self.dtype = jnp.dtype(dtype)
        self.mesh = mesh
        self.frame_cache: FrameCache | None = FrameCache()
        self.kv_dtype: KVDtype = cast(KVDtype, kv_dtype)

    @classmethod
    def load(
        cls,
        folder: Any,
        *,
        mesh: jax.sharding.Mesh | None = None,
        dtype: jax.typing.DTypeLike | None = None,
        kv_dtype: str | None = None,
    ) -> "Assistant":
        """Restore a native checkpoint, straight into its shardings on ``mesh``.

        ``dtype`` None takes ``default_dtype()``; kernels of int8 stay that. HF folders
        go through ``convert.load.load_assistant``, which takes both.
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
            params = restore(
                folder,
                shardings=shardings_for(cfg, mesh, int8=manifest.int8),
                dtype=lambda path: None if path.endswith(SCALE) else dtype,
            )
        return cls(
            cfg,
            params,
            load_tokenizer(Path(folder) / TOKENIZER),
            generation_config=manifest.generation_config,
            hf_config=manifest.hf_config,
            dtype=dtype,
            mesh=mesh,
            kv_dtype=kv_dtype,
        )

    # ------------------------------------------------------------ questions
    def answer(self, media: Any, question: Question, **settings: Any) -> Answer:
        """Answer one question about a video, images, or (``None``) nothing.

        ``media`` is whatever ``open_media`` takes: a video file, a folder of frames, a
        uint8 array ``[n,h,w,3]``, an image, a list of images, or None. ``question``
        may be a dialogue: question, answer, ..., question. ``settings`` are the fields
        of ``AnswerSettings``.
        """
        return self.answer_batch([(media, question)], **settings)[0]

    def answer_batch(
        self, questions: Sequence[tuple[Any, Question]], **settings: Any
    ) -> list[Answer]:
        """Answer several (media, question) pairs in one padded batch.

        Every row gets exactly the tokens it would get alone.
        """
        chosen = AnswerSettings(**settings)
        return last(self._run(questions, chosen))

    def read(self, media: Any, **settings: Any) -> Loaded:
        """The host's part of ``open``: no device is touched, so a thread can do it.

        ``open``, ``answer`` and the others take the result in place of the source.
        """
        chosen = AnswerSettings(**settings)
        layout = self.model(chosen).cfg.layout
        return read_media(media, chosen, layout, self.frame_cache)

    def open(self, media: Any, **settings: Any) -> VideoSession:
        """Read a video or images once, to ask about it many times.

        ``settings`` are as for ``answer``; those of the text can be changed per
        ``session.ask``.
        """
        return open_session(self, media, AnswerSettings(**settings))

    def warm_up(
        self,
        *,
        questions: int | None = None,
        frame_hw: tuple[int, int] = (480, 640),
        question_tokens: int = 64,
        **settings: Any,
    ) -> dict[str, float]:
        """Compile what a question will run, without running it; seconds per program.

        ``questions`` None: the programs of ``answer``; a number: those of ``open`` and
        of ``ask`` with that many at once. The video has ``settings``' ``num_frames``,
        of ``frame_hw`` (height, width) pixels. Sizes come in buckets, and one of each
        is warmed: that of the frames (``data.pixels.bucket_size``), and that of a text
        of ``question_tokens`` behind the video, options, instructions and the end of
        the turn included (``data.example.bucket_length``, in ``answer`` of video and
        text together; up to 64, 128, 256 ... in ``ask``). A text in another bucket,
        images and exact scores compile when they come.

        Raises:
          InputError: such a video and question do not fit the context.
        """
        from vica_jax.decode.warm_up import warm_up

        return warm_up(
            self,
            AnswerSettings(**settings),
            questions=questions,
            frame_hw=frame_hw,
            question_tokens=question_tokens,
        )

    def load_session(self, path: str | os.PathLike[str]) -> VideoSession:
        """A session that ``VideoSession.save`` wrote, with these same weights.

        Raises:
          SessionFileError: no such file, or one of other weights, sizes or dtype.
        """
        from vica_jax.decode.session_file import load_session

        return load_session(self, path)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of every weight as it is used: names, shapes, dtypes and bits.

        Computed where the weights lie; the same on any mesh.
        """
        leaves = stored_leaves(self.params)
        sums = device_checksums(leaves)
        whole = hashlib.sha256()
        for path, leaf in sorted(leaves.items()):
            whole.update(f"{path} {leaf.shape} {leaf.dtype} {sums[path]}\n".encode())
        return whole.hexdigest()

    def stream(
        self, media: Any, question: Question, **settings: Any
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
        with self.on_mesh():
            if all_positions:
                logits = _all_logits(model, self.params, batch)
                return np.asarray(logits)[0, : batch["lengths"][0]]
            return np.asarray(_last_logits(model, self.params, batch))[0]

    def sampling(self, settings: AnswerSettings) -> Sampling:
        """How tokens are chosen: the checkpoint's generation config under settings.

        Raises:
          InputError: a value of either that is not supported or out of range.
        """
        return make_sampling(
            self.generation_config,
            self.hf_config,
            self.tokenizer,
            settings,
            self.cfg.llm.vocab_size,
        )

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
        return Vica(cfg, self.dtype, kv_dtype=self.kv_dtype)

    # ------------------------------------------------------------- the work
    def _run(
        self, questions: Sequence[tuple[Any, Question]], settings: AnswerSettings
    ) -> Generator[list[list[int]], None, list[Answer]]:
        """Yield the ids so far after every chunk; return the answers."""
        if not questions:
            raise PromptError("no question given")
        model = self.model(settings)
        layout = model.cfg.layout
        sampling = self.sampling(settings)
        loaded = self._read_all([media for media, _ in questions], settings, layout)
        requests = [
            self._prepare(media, question, settings, model.cfg)
            for media, (_, question) in zip(loaded, questions, strict=True)
        ]
        lengths = [request.example.length(layout) for request in requests]
        room, notes = rooms(lengths, settings.max_new_tokens, layout.context_length)
        batch = collate(
            [request.example for request in requests], layout, pad_id=sampling.pad_id
        )
        length = batch["tokens"].shape[1] + cache_room(max(room))
        seconds: dict[str, float] = {}
        smaller = _smaller_setting(settings, len(questions), "frames" in batch)
        with self.on_mesh():
            with measured("encode", seconds, smaller):
                bank = encode(model, self.params, media_of(batch))
                jax.block_until_ready(bank)
            with measured("prefill", seconds, smaller):
                logits, cache = prefill(
                    model, length, self.params, text_of(batch), bank
                )
                key = jax.random.key(settings.seed)
                state = begin(sampling, logits, batch["lengths"], key, cache)
                del cache  # the state owns it: decode donates it
            del bank
            ids, _ = yield from decode_rows(
                model, self.params, sampling, state, room, seconds, smaller
            )
        return [
            make_answer(
                row,
                sampling.eos_ids,
                self.tokenizer,
                request.seen,
                text_tokens=text_tokens(request.example),
                seconds={**request.seconds, **seconds},
                settings=self.told(settings, model, request.seen),
                notes=own,
            )
            for request, row, own in zip(requests, ids, notes, strict=True)
        ]

    def _read_all(
        self, sources: Sequence[Any], settings: AnswerSettings, layout: VisualLayout
    ) -> list[Loaded]:
        """Read sources side by side; what stands among them twice is read once."""
        names = [
            os.fspath(source) if isinstance(source, str | os.PathLike) else id(source)
            for source in sources
        ]
        distinct = dict(zip(names, sources, strict=True))
        loaded = map_threads(
            lambda source: read_media(source, settings, layout, self.frame_cache),
            distinct.values(),
        )
        found = dict(zip(distinct, loaded, strict=True))
        return [found[name] for name in names]

    def _prepare(
        self, source: Any, question: Question, settings: AnswerSettings, cfg: VicaConfig
    ) -> _Request:
        """Read media, build the prompt, check its length."""
        loaded = read_media(source, settings, cfg.layout, self.frame_cache)
        chunks = prompt_chunks(self.tokenizer, question, loaded.seen, settings)
        example = Example(chunks=chunks, media=loaded.media)
        check_length(example, cfg.layout, room=1)
        return _Request(example, loaded.seen, loaded.seconds)

    def told(self, settings: AnswerSettings, model: Vica, seen: Seen) -> dict[str, Any]:
        """Every choice behind an answer as plain values, defaults resolved."""
        layout, ratio = model.cfg.layout, None
        if layout.has_hiera:
            ratio = {
                "frame_stride": layout.frame_stride,
                "output_stage": layout.output_stage,
                "pool_stride": layout.pool_stride,
            }
        return {
            **asdict(settings),
            "dtype": self.dtype.name,
            "kv_dtype": self.kv_dtype or self.dtype.name,
            "mesh": dict(self.mesh.shape) if self.mesh else None,
            "repetition_penalty": self.repetition_penalty(settings),
            "hiera": ratio,
            "reader": seen.reader,
        }

    def repetition_penalty(self, settings: AnswerSettings) -> float:
        """The one that applies: the setting's, the checkpoint's, or none (1)."""
        own = self.generation_config.get("repetition_penalty")
        return settings.repetition_penalty or own or 1.0

    def on_mesh(self) -> contextlib.AbstractContextManager[Any]:
        return jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext()


def default_dtype() -> str:
    """bfloat16 on accelerators, float32 on CPUs (where bfloat16 is slower)."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def shardings_for(
    cfg: VicaConfig, mesh: jax.sharding.Mesh | None, *, int8: bool = False
) -> Any:
    """Nested dict of shardings for a model on ``mesh``; None without a mesh.

    With ``int8`` those of a quantised model.
    """
    if mesh is None:
        return None
    form = abstract_vica(cfg)
    return param_shardings(*(int8_form(*form) if int8 else form), mesh)


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


def _smaller_setting(settings: AnswerSettings, rows: int, video: bool) -> str:
    if rows > 1:
        return f"a batch of {rows // 2} instead of {rows}"
    if video and settings.num_frames > 1:
        return f"--frames={settings.num_frames // 2} instead of {settings.num_frames}"
    return "--dtype=bfloat16 or a mesh of more devices"
