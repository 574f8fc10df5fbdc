"""The threads that decode and resize: one pool for all callers of a process.

FFmpeg and Pillow release the interpreter lock. A lone video has every core; where many
are read at a time, each by a thread of its own, they share ``num_threads()`` others.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
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


def num_readers() -> int:
    """How many videos to read at a time where that alone is done: 2 to 8."""
    return min(max(num_cores() // 2, 2), 8)


def map_threads(
    do: Callable[[_Item], _Result], items: Iterable[_Item]
) -> list[_Result]:
    """``do(item)`` for each, in the order of the items.

    The caller works too, so it gets on while others wait for a slow disk in all threads
    of the pool. After an error nothing more is begun; it is raised (the first, in the
    items' order) when what had begun has ended.
    """
    parts = list(items)
    results: dict[int, _Result] = {}
    errors: dict[int, BaseException] = {}
    turns, lock = list(range(len(parts)))[::-1], threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not turns:
                    return
                turn = turns.pop()
            try:
                results[turn] = do(parts[turn])
            except BaseException as error:
                with lock:
                    turns.clear()
                errors[turn] = error

    pool = _threads.get() if len(parts) > 1 else None
    helpers: list[Future[None]] = []
    if pool is not None:
        count = min(len(parts), num_threads()) - 1
        helpers = [pool.submit(work) for _ in range(count)]
    try:
        work()
    finally:  # Ctrl-C too leaves nothing behind
        with lock:
            turns.clear()
        # What could still be cancelled is not waited for: that ends only when a thread
        # of the pool comes to it.
        wait([helper for helper in helpers if not helper.cancel()])
    if errors:
        raise errors[min(errors)]
    return [results[turn] for turn in range(len(parts))]
