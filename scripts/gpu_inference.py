"""Inference on one device at published sizes, with random weights: parts of the bench.

One video of 64 frames and a short text. The model's own jitted programs are timed, the
ones that ``Assistant`` and ``VideoSession`` run (``vica_jax/decode/generate``).
"""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from scripts.gpu_timing import (
    REFERENCE_FLOPS,
    Options,
    Row,
    bandwidth,
    compute_dtype,
    random_params,
    rated,
    timed,
)
from vica_jax.data.example import Example, bucket_length, collate, video_medium
from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.decode.assistant import Assistant
from vica_jax.decode.exact import NUMBER_TOKENS
from vica_jax.decode.generate import (
    TEXT_KEYS,
    DecodeState,
    Rows,
    Sampling,
    begin,
    decode,
    encode,
    prefill,
    prefill_after,
    prefill_prefix,
)
from vica_jax.decode.loop import DECODE_CHUNK, cache_room
from vica_jax.decode.session import batch_bucket
from vica_jax.models import attention
from vica_jax.models.config import VicaConfig
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import Vica, abstract_vica
from vica_jax.train.flops import part_flops
from vica_jax.typing import Batch

TEXT = (14, 136)  # tokens before and after the video
QUESTION_TOKENS = 64  # of a question behind a shared prefix
NEW_TOKENS = 16  # of an answer, end to end
QUESTIONS = 18  # of one video: VSI-Bench has 17.8
GOALS = {  # on one H200 at full size
    "encode + prefill": {"goal_s": 0.750},
    "decode, 1 row": {"goal_tokens_per_s": 235.0},
    "decode, 18 questions, one prefix": {"goal_tokens_per_s": 3500.0},
}
TOKENIZER = Path(__file__).parent.parent / "tests/goldens/tiny-vica2/checkpoint"
QUESTION = "How many objects of kind {} are there in this room? Answer with a number."


class Inference:
    """Parts that share one set of weights and one video."""

    def __init__(self, options: Options):
        self.options = options
        self.cfg: VicaConfig = VARIANTS["tiny" if options.reduced else "vica2_7b"]
        self.dtype = jnp.dtype(compute_dtype())
        self.model = Vica(self.cfg, self.dtype)
        self.frames = 8 if options.reduced else self.cfg.layout.num_frames
        size = (self.frames, 60, 80, 3) if options.reduced else (64, 480, 640, 3)
        self.pixels = np.random.default_rng(0).integers(0, 256, size, np.uint8)

    @functools.cached_property
    def params(self) -> Any:
        return jax.block_until_ready(
            random_params(abstract_vica(self.cfg)[0], self.dtype)
        )

    @functools.cached_property
    def batch(self) -> Batch:
        """The video between two texts, on the device."""
        ids = np.random.default_rng(1).integers(0, 500, sum(TEXT)).tolist()
        chunks = ids[: TEXT[0]], ids[TEXT[0] :]
        medium = video_medium(self.pixels, self.cfg.layout)
        host = collate([Example(chunks=chunks, media=[medium])], self.cfg.layout)
        return cast(Batch, jax.device_put(dict(host)))

    @property
    def length(self) -> int:
        return self.cfg.layout.video_tokens(self.frames) + sum(TEXT)

    @property
    def text(self) -> Batch:
        return cast(Batch, {key: self.batch[key] for key in TEXT_KEYS})

    def media(self, kind: str = "") -> Batch:
        """The media of the batch, or those whose names begin with ``kind``."""
        found = {
            key: value
            for key, value in self.batch.items()
            if key not in TEXT_KEYS and key.startswith(kind)
        }
        return cast(Batch, found)

    @functools.cached_property
    def bank(self) -> jax.Array:
        bank = encode(self.model, self.params, self.media())
        assert bank is not None
        return jax.block_until_ready(bank)

    def flops(self, *parts: str) -> float:
        """Model FLOPs forward, of some parts or of all (``vica_jax/train/flops``)."""
        found = part_flops(
            self.cfg,
            lengths=[self.length],
            frames=self.frames,
            hiera_frames=self.cfg.layout.num_hiera_frames(self.frames),
            targets=1,
            trainable=frozenset(),
        )
        return sum(found[name] for name in parts or found)

    # ---------------------------------------------------------------- encoders
    def encode(self) -> list[Row]:
        """Both encoders, projectors and pooling."""
        row = self._encoding(self.media())
        flops = self.flops("siglip", "siglip_projector", "hiera", "hiera_projector")
        return [self._named("encode", rated(row, flops))]

    def siglip(self) -> list[Row]:
        row = self._encoding(self.media("frames"))
        flops = self.flops("siglip", "siglip_projector")
        return [self._named(f"SigLIP, {self.frames} frames", rated(row, flops))]

    def hiera(self) -> list[Row]:
        row = self._encoding(self.media("hiera_frame"))
        frames = self.cfg.layout.num_hiera_frames(self.frames)
        flops = self.flops("hiera", "hiera_projector")
        return [self._named(f"Hiera, {frames} frames", rated(row, flops))]

    def _encoding(self, media: Batch) -> Row:
        run = lambda: encode(self.model, self.params, media)
        return timed(run, repeats=self.options.repeats)

    # ----------------------------------------------------------------- prefill
    @property
    def slots(self) -> int:
        """Of the cache, as ``Assistant.answer`` of ``NEW_TOKENS`` has them."""
        return self.text["tokens"].shape[1] + cache_room(NEW_TOKENS)

    def _prefill(self, bank: jax.Array | None = None) -> Any:
        bank = self.bank if bank is None else bank
        return prefill(self.model, self.slots, self.params, self.text, bank)

    def prefill(self) -> list[Row]:
        """The prompt alone, and the encoders with it: the way of a fresh video."""

        def both():
            bank = encode(self.model, self.params, self.media())
            return self._prefill(bank)

        repeats, tokens = self.options.repeats, self.length
        alone = rated(timed(self._prefill, repeats=repeats), self.flops("llm"))
        alone["tokens_per_s"] = tokens / alone["median_s"]
        rows = [self._named(f"prefill, {tokens:,} tokens", alone)]
        whole = rated(timed(both, repeats=repeats), self.flops())
        rows.append(self._named("encode + prefill", whole))
        if self.options.profile:
            with jax.profiler.trace(f"{self.options.profile}/prefill"):
                jax.block_until_ready(both())
        return rows

    def prefill_blockwise(self) -> list[Row]:
        """The prefill with attention in plain JAX everywhere."""
        with attention.using("blockwise"):
            row = timed(self._prefill, repeats=min(self.options.repeats, 3))
        row = rated(row, self.flops("llm"))
        return [self._named("prefill, blockwise attention", row)]

    # ------------------------------------------------------------------ decode
    @functools.cached_property
    def sampling(self) -> Sampling:
        """Greedy; no row ever ends."""
        last = self.cfg.llm.vocab_size - 1
        return Sampling(eos_ids=(last,), pad_id=0, vocab_limit=last)

    def decode_1(self) -> list[Row]:
        return [self._own_caches(1)]

    def decode_8(self) -> list[Row]:
        return [self._own_caches(8)]

    def decode_8_shared(self) -> list[Row]:
        return self._shared(8)

    def decode_18_shared(self) -> list[Row]:
        return self._shared(QUESTIONS)

    def _own_caches(self, rows: int) -> Row:
        """Rows that each hold the whole prompt; the first one's cache, repeated."""
        logits, cache = self._prefill()
        lengths = self.text["lengths"]
        if rows > 1:
            logits, lengths = (jnp.repeat(x, rows, 0) for x in (logits, lengths))
            cache = [tuple(jnp.repeat(x, rows, 0) for x in kv) for kv in cache]
        key = jax.random.key(0)
        state = begin(self.sampling, logits, lengths, key, cast(Any, cache))
        del cache
        row = self._steps(state, None)
        moved = self.weights() + rows * self.length * self.kv_bytes()
        return self._decoded(f"decode, {rows} row{'s'[: rows > 1]}", row, rows, moved)

    def _shared(self, questions: int) -> list[Row]:
        """Questions behind one prefix: their own prefill, then their decode steps."""
        text = self.text
        prefix = prefill_prefix(self.model, self.params, text, self.bank)
        rows, T = batch_bucket(questions), bucket_length(QUESTION_TOKENS)
        tokens = jnp.ones((rows, T), jnp.int32)
        lengths = jnp.full(rows, QUESTION_TOKENS, jnp.int32)
        slots = T + cache_room(max(NEW_TOKENS, NUMBER_TOKENS))
        run = lambda: prefill_after(
            self.model, slots, self.params, tokens, lengths, prefix
        )
        first = timed(run, repeats=self.options.repeats)
        logits, cache = run()
        place = Rows(first=0, real=questions, after=prefix.length)
        key = jax.random.key(0)
        state = begin(self.sampling, logits, lengths, key, cache, place)
        del cache
        row = self._steps(state, prefix)
        seen = self.length + questions * QUESTION_TOKENS
        moved = self.weights() + seen * self.kv_bytes()
        title = f"{questions} questions, one prefix"
        first["note"] = f"{rows} rows of {T} tokens"
        found = self._decoded(f"decode, {title}", row, questions, moved)
        found["note"] = f"{rows} rows run"
        return [self._named(f"prefill of {title}", first), found]

    def _steps(self, state: DecodeState, prefix: Any) -> Row:
        """Chunks of steps as users run them, each from the same lengths."""
        start = [np.array(x) for x in (state.lengths, state.positions, state.done)]
        choice = self.sampling.choice()

        def run():
            nonlocal state
            lengths, positions, done = map(jnp.array, start)
            state = replace(state, lengths=lengths, positions=positions, done=done)
            state, tokens = decode(
                self.model,
                DECODE_CHUNK,
                self.params,
                choice,
                state,
                DECODE_CHUNK,
                prefix,
            )
            return tokens

        return timed(run, repeats=2 * self.options.repeats)

    def _decoded(self, name: str, row: Row, rows: int, moved: float) -> Row:
        """A chunk's times as those of a step, beside the floor of what it must read."""
        row |= {key: row[key] / DECODE_CHUNK for key in ("median_s", "min_s")}
        rate = bandwidth(jax.devices()[0].device_kind)
        found = row | {
            "tokens_per_s": rows / row["median_s"],
            "bytes_read": moved,
            "bytes_per_s": moved / row["median_s"],
        }
        if rate is not None:
            flops = 2 * rows * self.weights() / self.dtype.itemsize
            floor = max(moved / rate, flops / REFERENCE_FLOPS)
            found |= {"floor_s": floor, "floor_tokens_per_s": rows / floor}
        return self._named(name, found)

    def weights(self) -> int:
        """Bytes of the weights that a step reads: all but the table of embeddings."""
        llm = dict(abstract_vica(self.cfg)[0]["llm"])
        if not self.cfg.llm.tie_embeddings:
            del llm["embedder"]
        return sum(x.size for x in jax.tree.leaves(llm)) * self.dtype.itemsize

    def kv_bytes(self) -> int:
        """Bytes of keys and values of one token."""
        c = self.cfg.llm
        return 2 * c.depth * c.num_kv_heads * c.head_dim * self.dtype.itemsize

    # -------------------------------------------------------------- end to end
    def end_to_end(self) -> list[Row]:
        """From uint8 frames in memory to answers, preprocessing on the host included.

        No end of sequence can be chosen, so every answer has ``NEW_TOKENS``.
        """
        last = self.cfg.llm.vocab_size - 1
        assistant = Assistant(
            self.cfg,
            self.params,
            load_tokenizer(TOKENIZER),
            generation_config={"eos_token_id": last},
            dtype=self.dtype,
        )
        settings: dict[str, Any] = {
            "num_frames": self.frames,
            "source_fps": 1.0,
            "max_new_tokens": NEW_TOKENS,
        }
        questions = [QUESTION.format(i + 1) for i in range(QUESTIONS)]
        seen: dict[str, Any] = {}

        def one():
            loaded = assistant.read(self.pixels, **settings)
            seen["one"] = assistant.answer(loaded, questions[0], **settings)

        def many():
            loaded = assistant.read(self.pixels, **settings)
            session = assistant.open(loaded, **settings)
            seen["open"] = session.seconds
            seen["many"] = session.ask(questions)[0]

        repeats = min(self.options.repeats, 3)
        single = timed(one, repeats=repeats)
        single["steps_s"] = seen["one"].seconds
        shared = timed(many, repeats=repeats)
        shared["steps_s"] = {
            "open": seen["open"],
            "ask": seen["many"].seconds,
        }
        shared["times_cheaper"] = QUESTIONS * single["median_s"] / shared["median_s"]
        shared["note"] = (
            f"{shared['times_cheaper']:.1f} x cheaper than one by one; "
            f"{shared['median_s'] / QUESTIONS:.3f} s a question"
        )
        return [
            self._named("a video, 1 question", single),
            self._named(f"a video, {QUESTIONS} questions", shared),
        ]

    def _named(self, name: str, row: Row) -> Row:
        goal = {} if self.options.reduced else GOALS.get(name, {})
        return {"name": name, **row, **goal}
