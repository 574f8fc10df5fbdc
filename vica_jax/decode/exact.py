"""Answers without free text: option letters by probability, numbers by a grammar.

Both start from the logits after a prompt, so they cost no second prefill.

* A choice: log-probability of each option's letter as the first token of the answer;
  the largest wins, its share among the options is the confidence.
* A number: greedy decoding in which only tokens are allowed that continue a decimal
  number (digits, at most one point between digits), or end a complete one. The
  confidence is the product of the chosen tokens' probabilities among the allowed ones.

Axes: B batch, V vocabulary, C options.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vica_jax.errors import InputError
from vica_jax.models.cache import KV, Prefix
from vica_jax.models.vica import Vica, apply
from vica_jax.typing import Params

NUMBER_TOKENS = 16  # longest number; a model that never stops is cut here
EMPTY, WHOLE, POINT, FRACTION = range(4)  # what of a number has been written
COMPLETE = (WHOLE, FRACTION)

Wanted = Literal["number"] | tuple[str, ...] | None
"""What a question wants besides free text: a number, one of these letters, nothing."""


class ExactError(InputError):
    """Options that cannot be told apart by one token, or a tokenizer without digits."""


@dataclass(frozen=True, kw_only=True)
class Exact:
    """The exact answer: a letter or a decimal number as text.

    ``confidence`` lies in [0, 1] (module docstring); ``log_probs`` are the model's own
    for each option, or for a number's tokens in all.
    """

    answer: str
    confidence: float
    log_probs: dict[str, float]


def letter_ids(tokenizer: Any, letters: Sequence[str]) -> list[int]:
    """The token of each option letter as an answer's first token.

    Raises:
      ExactError: a letter is not one token, or two are the same.
    """
    if not letters:
        raise ExactError("no options to choose from: give at least one letter")
    ids = []
    for letter in letters:
        found = tokenizer.encode(letter, add_special_tokens=False)
        if len(found) != 1 or found[0] in ids:
            raise ExactError(
                f"options {', '.join(letters)}: {letter!r} is not a token of its own "
                "in this tokenizer: exact scoring of choices needs distinct letters"
            )
        ids.append(found[0])
    return ids


def check_wanted(want: Any, tokenizer: Any) -> None:
    """Refuse what is no ``Wanted``, or letters that cannot be scored.

    Raises:
      ExactError: see ``letter_ids``; or an entry of another form.
    """
    if want is None or want == "number":
        return
    if not isinstance(want, tuple):
        raise ExactError(
            f"exact={want!r}: an entry is None, 'number' or a tuple of option letters"
        )
    letter_ids(tokenizer, want)


@functools.lru_cache(maxsize=4)
def number_table(tokenizer: Any, vocab_size: int) -> np.ndarray:
    """int8 ``[4,V]``: what has been written after each token, -1 where not allowed.

    Raises:
      ExactError: the tokenizer has no token for a digit.
    """
    table = np.full((4, vocab_size), -1, np.int8)
    for token in range(min(len(tokenizer), vocab_size)):
        text = tokenizer.decode([token], skip_special_tokens=False)
        if re.fullmatch(r"[0-9.]+", text):
            for written in range(4):
                table[written, token] = _write(written, text)
    if (table[EMPTY] < 0).all():
        raise ExactError("the tokenizer has no token made of digits: no numbers")
    return table


def _write(written: int, text: str) -> int:
    """The state after ``text``, -1 where it does not continue a number."""
    for character in text:
        if character != ".":
            written = {EMPTY: WHOLE, POINT: FRACTION}.get(written, written)
        elif written == WHOLE:
            written = POINT
        else:
            return -1
    return written


def score_letters(
    logits: jax.Array, wanted: Mapping[int, tuple[str, ...]], tokenizer: Any
) -> dict[int, Exact]:
    """The options' probabilities of some rows of ``logits [B,V]`` after the prompt."""
    if not wanted:
        return {}
    rows = list(wanted)
    ids = {row: letter_ids(tokenizer, wanted[row]) for row in rows}
    width = max(len(letters) for letters in ids.values())
    padded = np.zeros((logits.shape[0], 1 << (width - 1).bit_length()), np.int32)
    for row, letters in ids.items():
        padded[row, : len(letters)] = letters
    scores = np.asarray(_log_probs(logits, padded), np.float64)
    found = {}
    for row in rows:
        own = scores[row, : len(ids[row])]
        shares = np.exp(own - own.max())
        best = int(own.argmax())
        found[row] = Exact(
            answer=wanted[row][best],
            confidence=float(shares[best] / shares.sum()),
            log_probs=dict(zip(wanted[row], own.tolist(), strict=True)),
        )
    return found


@jax.jit
def _log_probs(logits: jax.Array, ids: jax.Array) -> jax.Array:
    every = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.take_along_axis(every, ids, axis=-1)


@struct.dataclass
class _Number:
    """What constrained decoding carries from step to step."""

    token: jax.Array  # int32[B], chosen but not yet run through the model
    written: jax.Array  # int32[B], EMPTY .. FRACTION
    done: jax.Array  # bool[B]
    lengths: jax.Array  # int32[B], valid cache slots before ``token``
    positions: jax.Array  # int32[B]
    share: jax.Array  # float32[B], log of the product of shares among allowed tokens
    log_prob: jax.Array  # float32[B], the model's own
    cache: Sequence[KV]


def _choose(
    logits: jax.Array, s: _Number, table: jax.Array, eos_ids: tuple[Any, ...]
) -> _Number:
    complete = jnp.isin(s.written, jnp.array(COMPLETE))
    allowed = table[s.written] >= 0
    eos = jnp.array(eos_ids)
    allowed = allowed.at[:, eos].set(complete[:, None])
    among = jnp.where(allowed, logits, -jnp.inf)
    token = jnp.argmax(among, axis=-1).astype(jnp.int32)

    def log_prob(logits):
        every = jax.nn.log_softmax(logits, axis=-1)
        chosen = jnp.take_along_axis(every, token[:, None], axis=-1)[:, 0]
        return jnp.where(s.done, 0.0, chosen)

    ended = jnp.isin(token, eos)
    written = table[s.written, token].astype(jnp.int32)
    return replace(
        s,
        token=token,
        written=jnp.where(s.done | ended, s.written, written),
        done=s.done | ended,
        share=s.share + log_prob(among),
        log_prob=s.log_prob + log_prob(logits),
    )


@functools.partial(jax.jit, static_argnames="model", donate_argnames="cache")
def decode_numbers(
    model: Vica,
    params: Params,
    logits: jax.Array,
    lengths: jax.Array,
    after: jax.Array,
    wanted: jax.Array,
    table: jax.Array,
    eos_ids: tuple[Any, ...],
    cache: Sequence[KV],
    prefix: Prefix | None,
) -> tuple[jax.Array, jax.Array, jax.Array, Sequence[KV]]:
    """Greedy decoding of a decimal number in the rows where ``wanted bool[B]``.

    ``logits [B,V]`` and ``lengths`` are prefill's, ``after`` the prefix length. The
    cache may have been decoded into: slots past ``lengths`` are written again before
    they are seen. Returns tokens int32 ``[B,NUMBER_TOKENS]`` (-1 past the end), the
    confidences and log-probabilities float32 ``[B]``, and the cache.
    """
    B = logits.shape[0]
    zeros = jnp.zeros(B, jnp.float32)
    state = _Number(
        token=jnp.zeros(B, jnp.int32),
        written=jnp.full(B, EMPTY, jnp.int32),
        done=~wanted,
        lengths=lengths,
        positions=after + lengths,
        share=zeros,
        log_prob=zeros,
        cache=cache,
    )
    none = jnp.full((B, NUMBER_TOKENS), -1, jnp.int32)

    def choose(logits, state, tokens, i):
        chosen = _choose(logits.astype(jnp.float32), state, table, eos_ids)
        kept = jnp.where(chosen.done, -1, chosen.token)
        return chosen, tokens.at[:, i].set(kept)

    def going(carry):
        i, state, _ = carry
        return (i < NUMBER_TOKENS) & ~state.done.all()

    def step(carry):
        i, state, tokens = carry
        inputs = state.token, state.positions, state.lengths, state.cache, prefix
        logits, cache = apply(model, params, *inputs, method="decode_step")
        state = replace(
            state,
            cache=cache,
            lengths=state.lengths + 1,
            positions=state.positions + 1,
        )
        return i + 1, *choose(logits, state, tokens, i)

    first = (1, *choose(logits, state, none, 0))
    _, state, tokens = jax.lax.while_loop(going, step, first)
    return tokens, jnp.exp(state.share), state.log_prob, state.cache


def read_numbers(
    tokens: np.ndarray,
    confidence: np.ndarray,
    log_prob: np.ndarray,
    rows: Sequence[int],
    tokenizer: Any,
) -> dict[int, Exact]:
    """What ``decode_numbers`` wrote, as text, for the rows that wanted a number."""
    found = {}
    for row in rows:
        ids = [int(token) for token in tokens[row] if token >= 0]
        # A number that never ended may have been cut just behind its point.
        text = tokenizer.decode(ids, skip_special_tokens=True).removesuffix(".")
        found[row] = Exact(
            answer=text,
            confidence=float(confidence[row]),
            log_probs={text: float(log_prob[row])},
        )
    return found
