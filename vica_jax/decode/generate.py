"""Prefill and greedy (or sampled) decoding as jitted functions of explicit state.

    encode  -> visual bank          (once per video)
    prefill -> logits and KV cache  (once per prompt)
    begin   -> DecodeState          (the first token is chosen)
    decode  -> k more tokens        (a while loop; the state's cache is donated)
    generate = all of it in one jitted ``(params, batch, key) -> tokens``

Many questions about one video share what stands before them:

    prefill_prefix -> Prefix            (once per video; no batch axis)
    prefill_after  -> logits and cache  (of the questions' own tokens)
    begin, decode  -> as above, given the prefix

Rows of a batch may differ in length and media: rows are right-padded and own their
length, position and random key, so a row's tokens are those it has alone. The next
position is a counter beside the cache length: behind a prefix the two differ.

Logits follow HF's order: repetition penalty over *generated* ids (generation starts
from embeddings, so the prompt's ids are never seen), suppressed ids, then
temperature, top-k, top-p.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import struct

from vica_jax.errors import InputError
from vica_jax.models.cache import KV, Prefix
from vica_jax.models.vica import Vica, apply
from vica_jax.typing import Batch, Params

TEXT_KEYS = ("tokens", "visual_index", "lengths")
NEVER = -jnp.inf


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

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
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature must be >= 0, got {self.temperature}")
        if self.top_k < 0:
            raise InputError(f"top_k must be >= 0, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must lie in (0, 1], got {self.top_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise InputError(
                f"repetition_penalty must be > 0, got {self.repetition_penalty}"
            )

    def choice(self) -> "Choice":
        """The same as an argument of a jitted program."""
        return Choice(
            eos_ids=self.eos_ids,
            pad_id=self.pad_id,
            vocab_limit=self.vocab_limit,
            repetition_penalty=self.repetition_penalty,
            suppress_ids=self.suppress_ids,
            min_new_tokens=self.min_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            sample=self.temperature > 0,
            top_k=self.top_k,
        )


@struct.dataclass
class Choice:
    """``Sampling`` as jit sees it: numbers are traced, so that another penalty or
    temperature runs the compiled program; only ``sample`` and ``top_k`` are static."""

    eos_ids: tuple[Any, ...]
    pad_id: Any
    vocab_limit: Any
    repetition_penalty: Any
    suppress_ids: tuple[Any, ...]
    min_new_tokens: Any
    temperature: Any
    top_p: Any
    sample: bool = struct.field(pytree_node=False)
    top_k: int = struct.field(pytree_node=False)


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


@struct.dataclass
class Rows:
    """What the rows of a batch are: numbers, traced.

    ``first`` is the first row's place among all questions, ``real`` how many rows are
    questions (the rest fill up the batch and are done at once), ``after`` the length
    of the prefix before them.
    """

    first: Any
    real: Any
    after: Any


def choose(
    logits: jax.Array,
    generated: jax.Array,
    count: jax.Array,
    keys: jax.Array,
    choice: Choice,
) -> jax.Array:
    """Next token int32 ``[B]`` from float32 logits ``[B,V]``."""
    s = choice
    p = s.repetition_penalty  # 1 leaves every logit as it is, to the bit
    penalised = jnp.where(logits < 0, logits * p, logits / p)
    logits = jnp.where(generated, penalised, logits)
    ids = jnp.arange(logits.shape[-1])
    logits = jnp.where(ids < s.vocab_limit, logits, NEVER)
    if s.suppress_ids:
        logits = logits.at[:, jnp.array(s.suppress_ids)].set(NEVER)
    early = logits.at[:, jnp.array(s.eos_ids)].set(NEVER)
    logits = jnp.where(count < s.min_new_tokens, early, logits)
    if not s.sample:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / s.temperature
    if s.top_k:
        kth = jax.lax.top_k(logits, min(s.top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < kth, NEVER, logits)
    ordered = jnp.sort(logits, axis=-1)[:, ::-1]
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    least = jnp.where(before < s.top_p, ordered, jnp.inf).min(-1, keepdims=True)
    logits = jnp.where((s.top_p < 1.0) & (logits < least), NEVER, logits)
    step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, count)
    return jax.vmap(jax.random.categorical)(step_keys, logits).astype(jnp.int32)


def _take_token(state: DecodeState, logits: jax.Array, choice: Choice) -> DecodeState:
    """Choose the next token from ``logits``; finished rows repeat the pad id."""
    token = choose(logits, state.generated, state.count, state.keys, choice)
    token = jnp.where(state.done, choice.pad_id, token)
    ended = jnp.isin(token, jnp.array(choice.eos_ids, jnp.int32))
    rows = jnp.arange(token.shape[0])
    return replace(
        state,
        token=token,
        done=state.done | ended,
        count=state.count + 1,
        generated=state.generated.at[rows, token].set(True),
    )


def start(
    choice: Choice,
    logits: jax.Array,
    lengths: jax.Array,
    key: jax.Array,
    cache: Sequence[KV],
    rows: Rows | None = None,
) -> DecodeState:
    """The state after prefill: the first token of every row is chosen here.

    ``logits`` float32 ``[B,V]`` and ``cache`` are prefill's, ``lengths`` the batch's.
    Row i draws from ``fold_in(key, i)``, counted from ``rows.first``.
    """
    B, V = logits.shape
    rows = rows or Rows(first=0, real=B, after=0)
    place = jnp.arange(B)
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    state = DecodeState(
        token=jnp.zeros(B, jnp.int32),
        positions=rows.after + lengths,
        lengths=lengths,
        done=place >= rows.real,
        count=jnp.zeros((), jnp.int32),
        generated=jnp.zeros((B, V), bool),
        keys=fold(key, rows.first + place),
        cache=cache,
    )
    return _take_token(state, logits, choice)


def _decode(
    model: Vica,
    room: int,
    params: Params,
    choice: Choice,
    state: DecodeState,
    steps: jax.Array,
    prefix: Prefix | None = None,
) -> tuple[DecodeState, jax.Array]:
    """Up to ``steps`` (<= room) more tokens, int32 ``[B,room]``, pad past the end."""
    B = state.token.shape[0]
    tokens = jnp.full((B, room), choice.pad_id, jnp.int32)

    def going(carry):
        i, state, _ = carry
        return (i < steps) & ~state.done.all()

    def step(carry):
        i, state, tokens = carry
        inputs = state.token, state.positions, state.lengths, state.cache, prefix
        logits, cache = apply(model, params, *inputs, method="decode_step")
        running = (~state.done).astype(jnp.int32)
        state = replace(
            state,
            cache=cache,
            lengths=state.lengths + running,
            positions=state.positions + running,
        )
        state = _take_token(state, logits, choice)
        return i + 1, state, tokens.at[:, i].set(state.token)

    _, state, tokens = jax.lax.while_loop(going, step, (0, state, tokens))
    return state, tokens


@functools.partial(jax.jit, static_argnames="model")
def encode(model: Vica, params: Params, batch: Batch) -> jax.Array | None:
    """The visual bank ``[B,R,D]`` of a batch; None without media."""
    return apply(model, params, batch, method="visual_bank")


@functools.partial(jax.jit, static_argnames=("model", "cache_length"))
def prefill(
    model: Vica,
    cache_length: int,
    params: Params,
    batch: Batch,
    bank: jax.Array | None,
) -> tuple[jax.Array, Sequence[KV]]:
    """Run the prompt once: logits ``[B,V]`` after it, and the cache.

    ``batch`` needs the text arrays only (``text_of``). How tokens are chosen is not
    part of this program, so that another temperature does not compile it again.
    """
    return apply(model, params, batch, bank, cache_length, method="prefill")


@functools.partial(jax.jit, static_argnames="model")
def prefill_prefix(
    model: Vica, params: Params, batch: Batch, bank: jax.Array | None
) -> Prefix:
    """What a batch of one row leaves in the cache, to be shared by many rows."""
    return apply(model, params, batch, bank, method="prefill_prefix")


@functools.partial(jax.jit, static_argnames=("model", "cache_length"))
def prefill_after(
    model: Vica,
    cache_length: int,
    params: Params,
    tokens: jax.Array,
    lengths: jax.Array,
    prefix: Prefix,
) -> tuple[jax.Array, Sequence[KV]]:
    """Run texts ``tokens [B,T]`` behind a prefix: logits ``[B,V]``, their own cache."""
    inputs = tokens, lengths, prefix, cache_length
    return apply(model, params, *inputs, method="prefill_after")


@jax.jit
def _start(
    choice: Choice,
    logits: jax.Array,
    lengths: jax.Array,
    key: jax.Array,
    rows: Rows | None,
) -> DecodeState:
    # The cache stays outside: passing it through would copy it.
    return start(choice, logits, lengths, key, (), rows)


def begin(
    sampling: Sampling,
    logits: jax.Array,
    lengths: Any,
    key: jax.Array,
    cache: Sequence[KV],
    rows: Rows | None = None,
) -> DecodeState:
    """``start``, jitted; the cache is taken over, not copied."""
    return replace(_start(sampling.choice(), logits, lengths, key, rows), cache=cache)


def begin_program(
    sampling: Sampling, logits: Any, lengths: Any, key: Any, rows: Rows | None
) -> Any:
    """``begin``'s program for such arguments, lowered; its cache is empty."""
    return _start.lower(sampling.choice(), logits, lengths, key, rows)


@functools.partial(jax.jit, static_argnames=("model", "room"), donate_argnames="state")
def decode(
    model: Vica,
    room: int,
    params: Params,
    choice: Choice,
    state: DecodeState,
    steps: jax.Array,
    prefix: Prefix | None = None,
) -> tuple[DecodeState, jax.Array]:
    """Up to ``steps`` further tokens, int32 ``[B,room]``; the state is donated.

    ``prefix`` is not: it serves the next questions.
    """
    return _decode(model, room, params, choice, state, steps, prefix)


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
        text = text_of(batch)
        logits, cache = apply(model, params, text, bank, length, method="prefill")
        choice = sampling.choice()
        state = start(choice, logits, text["lengths"], key, cache)
        first = state.token[:, None]
        steps = jnp.asarray(max_new_tokens - 1)
        room = max_new_tokens - 1
        _, rest = _decode(model, room, params, choice, state, steps)
        return jnp.concatenate([first, rest], axis=1)

    return generate
