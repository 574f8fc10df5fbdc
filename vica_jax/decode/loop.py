"""The host's side of decoding: jitted chunks of steps until every row has ended."""

from collections.abc import Generator
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


def decode_rows(
    model: Vica,
    params: Params,
    sampling: Sampling,
    state: DecodeState,
    max_new_tokens: int,
    seconds: dict[str, float],
    smaller: str,
    prefix: Prefix | None = None,
) -> Generator[list[list[int]], None, tuple[list[list[int]], DecodeState]]:
    """Yield every row's ids so far after each chunk, up to their EOS ids.

    Returns the last of them and the state, whose cache may serve again. ``seconds``
    and ``smaller`` as for ``measured``.
    """
    with measured("prefill", seconds, smaller):  # the device may still be at it
        ids = [[int(token)] for token in np.asarray(state.token)]
        done = np.asarray(state.done)
    yield ids
    left, choice = max_new_tokens - 1, sampling.choice()
    while left > 0 and not done.all():
        with measured("decode", seconds, smaller):
            steps = min(left, DECODE_CHUNK)
            state, tokens = decode(
                model, DECODE_CHUNK, params, choice, state, steps, prefix
            )
            new = np.asarray(tokens)[:, :steps]
            done = np.asarray(state.done)
        ids = [
            until_eos([*row, *map(int, more)], sampling.eos_ids)
            for row, more in zip(ids, new, strict=True)
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
