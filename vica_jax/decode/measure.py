"""Wall time per step, and what to try when the device's memory does not suffice."""

import contextlib
import time
from collections.abc import Iterator

import jax

from vica_jax.errors import InputError


class OutOfMemoryError(InputError):
    """The device ran out of memory; the message names the part and what to try."""


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


PARTS = {"encode": "the vision encoders", "decode": "decoding"}


@contextlib.contextmanager
def measured(
    step: str, seconds: dict[str, float], smaller: str | None = None
) -> Iterator[None]:
    """Add a step's wall time to ``seconds``; on a device step name what to try."""
    start = time.perf_counter()
    named = contextlib.nullcontext()
    if smaller is not None:
        named = memory_named(PARTS.get(step, step), smaller)
    with named:
        yield
    seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - start
