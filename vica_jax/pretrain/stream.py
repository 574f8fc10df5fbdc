"""Rooms made in the background, in order: the same rooms for any number of workers."""

import itertools
import multiprocessing
import os
import queue
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from vica_jax.errors import InputError
from vica_jax.pretrain.rooms import NAMES, Arrays, RoomMaker, RoomShape
from vica_jax.world.make import begin_worker

AHEAD = 12  # rooms that wait, per worker


class StreamError(InputError):
    """A worker that has failed; the message says of which room, and why."""


class RoomStream:
    """Rooms ``first, first + 1, ...`` of a seed as arrays, one ``next`` each.

    Worker w makes every ``workers``-th room; the main process takes turns. To be
    closed, or used as a context.
    """

    def __init__(
        self, shape: RoomShape, tokenizer: Path, seed: int, first: int, workers: int
    ):
        context = multiprocessing.get_context("spawn")
        self._queues = [context.Queue(AHEAD) for _ in range(workers)]
        self._workers = [
            context.Process(
                target=_work,
                args=(own, shape, tokenizer, seed, first + number, workers),
                daemon=True,
            )
            for number, own in enumerate(self._queues)
        ]
        for worker in self._workers:
            worker.start()
        self._turns: Iterator[int] = itertools.cycle(range(workers))

    def __next__(self) -> Arrays:
        """The next room.

        Raises:
          StreamError: its worker has failed.
        """
        turn = next(self._turns)
        while True:
            try:
                room = self._queues[turn].get(timeout=1.0)
                break
            except queue.Empty:
                if not self._workers[turn].is_alive():
                    raise StreamError(
                        f"worker {turn} has ended: is there enough memory?"
                    ) from None
        if isinstance(room, str):
            raise StreamError(room)
        return room

    def close(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()

    def __enter__(self) -> "RoomStream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _work(
    rooms: Any, shape: RoomShape, tokenizer: Path, seed: int, first: int, step: int
) -> None:
    begin_worker()
    os.nice(2)  # behind the training in the queue for processors
    from vica_jax.data.tokenizer import load_tokenizer
    from vica_jax.pretrain.words import name_ids

    number = first
    try:
        tokens = load_tokenizer(tokenizer)
        maker = RoomMaker(shape, tokens, name_ids(tokens, NAMES))
        while True:
            rooms.put(maker.make(seed, number))
            number += step
    except Exception as error:  # whatever it is, the main process says it
        rooms.put(f"room {number} of seed {seed}: {type(error).__name__}: {error}")
