"""Prefill and greedy (or sampled) decoding as jitted functions of explicit state.

    encode  -> visual bank          (once per video)
    prefill -> DecodeState          (once per prompt; the first token is chosen here)
    decode  -> k more tokens        (a while loop; the state's cache is donated)
    generate = all three in one jitted ``(params, batch, key) -> tokens``

Rows of a batch may differ in length and media: rows are right-padded and own their
length, position and random key, so a row's tokens are those it has alone. The next
position is a counter beside the cache length: later a shared video prefix serves many
questions, where the two differ.

Logits follow HF's order: repetition penalty over *generated* ids (generation starts
from embeddings, so the prompt's ids are never seen), suppressed ids, then
temperature, top-k, top-p.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import jax
import jax.numpy as jnp
from flax import struct

from vica_jax.errors import InputError
from vica_jax.models.qwen2 import KV
from vica_jax.models.vica import Vica, apply
from vica_jax.typing import Batch, Params

TEXT_KEYS = ("tokens", "visual_index", "lengths")
NEVER = -jnp.inf


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; static under jit.

    ``vocab_limit`` is the tokenizer's length: ids past it are never produced.
    ``temperature`` 0 is greedy. ``top_k`` 0 and ``top_p`` 1 keep every token.
    """

    eos_ids: tuple[int, ...]
    pad_id: int
    vocab_limit: int
    repetition_penalty: float = 1.0
    suppress_ids: tuple[int, ...] = ()
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if self.temperature < 0:
            raise InputError(f"temperature must be >= 0, got {self.temperature}")
        if self.top_k < 0:
            raise InputError(f"top_k must be >= 0, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.repetition_penalty <= 0:
            raise InputError(
                f"repetition_penalty must be > 0, got {self.repetition_penalty}"
            )


@struct.dataclass
class DecodeState:
    """Everything decoding carries from step to step."""

    token: jax.Array  # int32[B], chosen but not yet run through the model
    positions: jax.Array  # int32[B], position of ``token``
    lengths: jax.Array  # int32[B], valid cache slots before ``token``
    done: jax.Array  # bool[B], ``token`` or one before it ended the row
    count: jax.Array  # int32[], tokens chosen so far
    generated: jax.Array  # bool[B,V], ids chosen so far
    keys: jax.Array  # random key per row
    cache: Sequence[KV]


def choose(
    logits: jax.Array,
    generated: jax.Array,
    count: jax.Array,
    keys: jax.Array,
    sampling: Sampling,
) -> jax.Array:
    """Next token int32 ``[B]`` from float32 logits ``[B,V]``."""
    s = sampling
    if s.repetition_penalty != 1.0:
        p = s.repetition_penalty
        penalised = jnp.where(logits < 0, logits * p, logits / p)
        logits = jnp.where(generated, penalised, logits)
    ids = jnp.arange(logits.shape[-1])
    logits = jnp.where(ids < s.vocab_limit, logits, NEVER)
    if s.suppress_ids:
        logits = logits.at[:, jnp.array(s.suppress_ids)].set(NEVER)
    if s.min_new_tokens and s.eos_ids:
        early = logits.at[:, jnp.array(s.eos_ids)].set(NEVER)
        logits = jnp.where(count < s.min_new_tokens, early, logits)
    if s.temperature == 0.0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / s.temperature
    if s.top_k:
        kth = jax.lax.top_k(logits, min(s.top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < kth, NEVER, logits)
    if s.top_p < 1.0:
        ordered = jnp.sort(logits, axis=-1)[:, ::-1]
        probability = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability
        least = jnp.where(before < s.top_p, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, NEVER, logits)
    step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, count)
    return jax.vmap(jax.random.categorical)(step_keys, logits).astype(jnp.int32)


def _take_token(
    state: DecodeState, logits: jax.Array, sampling: Sampling
) -> DecodeState:
    """Choose the next token from ``logits``; finished rows repeat the pad id."""
    token = choose(logits, state.generated, state.count, state.keys, sampling)
    token = jnp.where(state.done, sampling.pad_id, token)
    ended = jnp.isin(token, jnp.array(sampling.eos_ids, jnp.int32))
    rows = jnp.arange(token.shape[0])
    return replace(
        state,
        token=token,
        done=state.done | ended,
        count=state.count + 1,
        generated=state.generated.at[rows, token].set(True),
    )


def _prefill(
    model: Vica,
    sampling: Sampling,
    cache_length: int,
    params: Params,
    batch: Batch,
    bank: jax.Array | None,
    key: jax.Array,
) -> DecodeState:
    logits, cache = apply(model, params, batch, bank, cache_length, method="prefill")
    B, V = logits.shape
    lengths = batch["lengths"]
    state = DecodeState(
        token=jnp.zeros(B, jnp.int32),
        positions=lengths,
        lengths=lengths,
        done=jnp.zeros(B, bool),
        count=jnp.zeros((), jnp.int32),
        generated=jnp.zeros((B, V), bool),
        keys=jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(B)),
        cache=cache,
    )
    return _take_token(state, logits, sampling)


def _decode(
    model: Vica,
    sampling: Sampling,
    room: int,
    params: Params,
    state: DecodeState,
    steps: jax.Array,
) -> tuple[DecodeState, jax.Array]:
    """Up to ``steps`` (<= room) more tokens, int32 ``[B,room]``, pad past the end."""
    B = state.token.shape[0]
    tokens = jnp.full((B, room), sampling.pad_id, jnp.int32)

    def going(carry):
        i, state, _ = carry
        return (i < steps) & ~state.done.all()

    def step(carry):
        i, state, tokens = carry
        inputs = state.token, state.positions, state.lengths, state.cache
        logits, cache = apply(model, params, *inputs, method="decode_step")
        running = (~state.done).astype(jnp.int32)
        state = replace(
            state,
            cache=cache,
            lengths=state.lengths + running,
            positions=state.positions + running,
        )
        state = _take_token(state, logits, sampling)
        return i + 1, state, tokens.at[:, i].set(state.token)

    _, state, tokens = jax.lax.while_loop(going, step, (0, state, tokens))
    return state, tokens


@functools.partial(jax.jit, static_argnames="model")
def encode(model: Vica, params: Params, batch: Batch) -> jax.Array | None:
    """The visual bank ``[B,R,D]`` of a batch; None without media."""
    return apply(model, params, batch, method="visual_bank")


@functools.partial(jax.jit, static_argnames=("model", "sampling", "cache_length"))
def prefill(
    model: Vica,
    sampling: Sampling,
    cache_length: int,
    params: Params,
    batch: Batch,
    bank: jax.Array | None,
    key: jax.Array,
) -> DecodeState:
    """Run the prompt once and choose the first token.

    ``batch`` needs the text arrays only (``text_of``).
    """
    return _prefill(model, sampling, cache_length, params, batch, bank, key)


@functools.partial(
    jax.jit, static_argnames=("model", "sampling", "room"), donate_argnames="state"
)
def decode(
    model: Vica,
    sampling: Sampling,
    room: int,
    params: Params,
    state: DecodeState,
    steps: jax.Array,
) -> tuple[DecodeState, jax.Array]:
    """Up to ``steps`` further tokens, int32 ``[B,room]``; the state is donated."""
    return _decode(model, sampling, room, params, state, steps)


def text_of(batch: Batch) -> Batch:
    """The part of a batch that prefill reads."""
    return cast(Batch, {key: batch[key] for key in TEXT_KEYS})


def make_generate(
    model: Vica, sampling: Sampling, max_new_tokens: int
) -> Callable[[Params, Batch, jax.Array], jax.Array]:
    """A jitted ``(params, batch, key) -> tokens int32[B,max_new_tokens]``.

    The whole answer in one program, for those who bring their own loop. Rows end with
    an EOS id, then the pad id.
    """

    @jax.jit
    def generate(params: Params, batch: Batch, key: jax.Array) -> jax.Array:
        bank = apply(model, params, batch, method="visual_bank")
        length = batch["tokens"].shape[1] + max_new_tokens
        state = _prefill(model, sampling, length, params, text_of(batch), bank, key)
        first = state.token[:, None]
        steps = jnp.asarray(max_new_tokens - 1)
        _, rest = _decode(model, sampling, max_new_tokens - 1, params, state, steps)
        return jnp.concatenate([first, rest], axis=1)

    return generate
