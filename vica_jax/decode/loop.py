"""The host's side of decoding: jitted chunks of steps until every row has ended."""

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import numpy as np

from vica_jax.decode.answer import until_eos
from vica_jax.decode.generate import DecodeState, Sampling, decode
from vica_jax.decode.measure import measured
from vica_jax.models.cache import Prefix
from vica_jax.models.vica import Vica
from vica_jax.typing import Params

Result = TypeVar("Result")
DECODE_CHUNK = 16  # tokens per jitted call; the grain of streaming
ROOM_BUCKET = 64  # room for new tokens is rounded up to a multiple of this


def cache_room(new_tokens: int) -> int:
    """Cache slots for that many new tokens, in whole buckets."""
    return -(-new_tokens // ROOM_BUCKET) * ROOM_BUCKET


def rooms(
    lengths: Sequence[int], max_new_tokens: int, context_length: int
) -> tuple[list[int], list[list[str]]]:
    """New tokens that each row may have behind its prompt, and a note where fewer.

    A row's room is its own, whatever stands beside it in the batch.
    """
    found, notes = [], []
    for length in lengths:
        room = min(max_new_tokens, context_length - length)
        found.append(room)
        fewer = (
            f"at most {room} new tokens fit the context of {context_length:,} "
            f"({max_new_tokens} were allowed)"
        )
        notes.append([fewer] if room < max_new_tokens else [])
    return found, notes


def decode_rows(
    model: Vica,
    params: Params,
    sampling: Sampling,
    state: DecodeState,
    room: Sequence[int],
    seconds: dict[str, float],
    smaller: str,
    prefix: Prefix | None = None,
) -> Generator[list[list[int]], None, tuple[list[list[int]], DecodeState]]:
    """Yield every row's ids so far after each chunk, up to their EOS ids.

    Row b has at most ``room[b]`` of them; rows that only fill up the batch have none.
    Returns the last of them and the state, whose cache may serve again. ``seconds``
    and ``smaller`` as for ``measured``.
    """
    with measured("prefill", seconds, smaller):  # the device may still be at it
        ids = [[int(token)] for token in np.asarray(state.token)]
        done = np.asarray(state.done)
    yield ids
    left, choice = max(room) - 1, sampling.choice()
    limits = [*room, *[1] * (len(ids) - len(room))]

    def full() -> bool:
        """Whether every row has ended or reached its limit."""
        return all(
            end or len(row) >= limit
            for end, row, limit in zip(done, ids, limits, strict=True)
        )

    while left > 0 and not full():
        with measured("decode", seconds, smaller):
            steps = min(left, DECODE_CHUNK)
            state, tokens = decode(
                model, DECODE_CHUNK, params, choice, state, steps, prefix
            )
            new = np.asarray(tokens)[:, :steps]
            done = np.asarray(state.done)
        ids = [
            until_eos([*row, *map(int, more)], sampling.eos_ids)[:limit]
            for row, more, limit in zip(ids, new, limits, strict=True)
        ]
        left -= steps
        yield ids
    return ids, state


def last(steps: Generator[Any, None, Result]) -> Result:
    """What a generator returns, whatever it yields on the way."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
