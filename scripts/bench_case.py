"""One row of the bench: two ways to the same result, timed in turn.

Ours and the peer run in one process, one after the other, in an order that changes from
pair to pair; between them the machine rests, because torch's threads spin for a while
after their work. A side's peak memory is what the whole process came to hold while it
ran, above what lay in memory before.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from scripts.idle import BUSY, Stopwatch

REST = 0.3  # seconds between two runs


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What is compared; both return when their result is there.

    ``gap`` measures how far the two results are apart, ``most`` is the largest gap at
    which they count as the same. ``compile_s`` and ``temporaries`` (bytes, of the
    compiled program) are of ours. ``units`` are done by one call of ours, where it does
    not do as much as one of the peer's.
    """

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    gap: Callable[[Any, Any], float]
    most: float
    peer: str
    compile_s: float = 0.0
    temporaries: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of a suite. ``make(reduced)`` builds its sides, compiled.

    ``bar`` and ``goal`` bound the ratio of the median times, ours by the peer's;
    ``memory_bar`` and ``memory_goal`` the bytes of temporaries. A case may have none.
    """

    name: str
    said: str
    make: Callable[[bool], Sides]
    bar: float | None = None
    goal: float | None = None
    memory_bar: float | None = None
    memory_goal: float | None = None


def compiled(function: Callable[..., Any], *args: Any, **static: Any):
    """``(run, seconds, temporary bytes)`` of a function compiled for these arguments.

    ``static`` are options of ``jax.jit``. ``run()`` waits for the result.
    """
    start = time.perf_counter()
    program = jax.jit(function, **static).lower(*args).compile()
    seconds = time.perf_counter() - start
    analysis: Any = program.memory_analysis()
    run = lambda: jax.block_until_ready(program(*args))
    return run, seconds, analysis.temp_size_in_bytes


def relative_gap(x: Any, y: Any) -> float:
    """Largest difference of two arrays over the largest value of the second."""
    x, y = (np.asarray(a, np.float32) for a in (x, y))
    if x.shape != y.shape:
        raise ValueError(f"results of shape {x.shape} and {y.shape}")
    return float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-30))


def unequal_share(x: Any, y: Any) -> float:
    """Share of elements that are not equal."""
    return float(np.mean(np.asarray(x) != np.asarray(y)))


def measure(
    case: Case, *, pairs: int, reduced: bool, wait: Callable[[], None]
) -> dict[str, Any]:
    """Run a case; its row as plain values. ``wait`` returns when all else rests."""
    sides = case.make(reduced)
    ways = {"ours": sides.ours, "theirs": sides.theirs}
    # Once each without a clock: caches fill, torch chooses its kernels.
    first = {name: way() for name, way in ways.items()}
    gap = sides.gap(first["ours"], first["theirs"])
    del first
    memory = {name: _peak_bytes(way) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    others = []
    wait()
    for pair in range(pairs):
        for name in list(ways)[:: 1 if pair % 2 == 0 else -1]:
            time.sleep(REST)
            watch = Stopwatch()
            ways[name]()
            seconds[name].append(watch.seconds())
            others.append(watch.others())
    low = {name: min(times) for name, times in seconds.items()}
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "name": case.name,
        "said": case.said,
        "peer": sides.peer,
        "bar": case.bar,
        "goal": case.goal,
        "ratio": middle["ours"] / middle["theirs"],
        "ratio_of_minima": low["ours"] / low["theirs"],
        "median_s": middle,
        "minimum_s": low,
        "seconds": seconds,
        "pairs": pairs,
        "disturbed": sum(share > BUSY for share in others),
        "compile_s": sides.compile_s,
        "temporary_bytes": sides.temporaries,
        "memory_bar": case.memory_bar,
        "memory_goal": case.memory_goal,
        "peak_bytes": memory,
        "gap": gap,
        "same": gap <= sides.most,
        "most": sides.most,
        **sides.facts,
    }


def _peak_bytes(way: Callable[[], Any]) -> int | None:
    """Bytes by which the process grew at most while ``way`` ran; Linux only."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets VmHWM to what is held now
        before = held_bytes("VmRSS")
        way()
        return max(held_bytes("VmHWM") - before, 0)
    except OSError:
        return None


def held_bytes(key: str) -> int:
    """``VmRSS``, held by this process now, or ``VmHWM``, at most so far."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return 0
