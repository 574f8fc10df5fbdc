"""The threads that decode and resize: one pool for all callers of a process.

FFmpeg and Pillow release the interpreter lock. However many videos are read at a time,
no more than ``num_threads()`` frames are worked on, so a lone video has every core and
many do not trample on each other.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

MOST = 16  # beyond it one video has too few parts to gain anything

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def num_cores() -> int:
    """CPU cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


class _Threads:
    """A pool that starts when it is first needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = min(num_cores(), MOST)
        self.pool: ThreadPoolExecutor | None = None

    def get(self) -> ThreadPoolExecutor | None:
        with self.lock:
            if self.pool is None and self.count > 1:
                self.pool = ThreadPoolExecutor(self.count, thread_name_prefix="frames")
            return self.pool


_threads = _Threads()


def _start_anew() -> None:
    """A forked process has none of its parent's threads."""
    global _threads
    _threads, count = _Threads(), _threads.count
    _threads.count = count


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def num_threads() -> int:
    """How many parts of a video are worked on at a time in this process."""
    return _threads.count


def use_threads(count: int) -> None:
    """Set it; 1 in a process that is one of many that read videos."""
    if count < 1:
        raise ValueError(f"threads must be >= 1, got {count}")
    with _threads.lock:
        pool, _threads.pool, _threads.count = _threads.pool, None, count
    if pool is not None:
        pool.shutdown(wait=False)


def map_threads(
    do: Callable[[_Item], _Result], items: Iterable[_Item]
) -> list[_Result]:
    """``do(item)`` for each, in the order of the items; must not be nested.

    What one of them raises is raised when all have ended; the first counts.
    """
    parts = list(items)
    pool = _threads.get() if len(parts) > 1 else None
    if pool is None:
        return [do(part) for part in parts]
    futures = [pool.submit(do, part) for part in parts]
    try:
        wait(futures)
    finally:  # Ctrl-C too leaves nothing queued
        for future in futures:
            future.cancel()
    return [future.result() for future in futures]
