"""From a loader to batches on the mesh: what is counted on the way."""

import threading
from types import SimpleNamespace

import micro
import numpy as np
import pytest

from vica_jax.data.loader import Loaded
from vica_jax.sharding import make_mesh
from vica_jax.train import feed as feed_module


def loaded(step: int) -> Loaded:
    return Loaded(
        step=step,
        epoch=0,
        consumed_before=4 * step,
        consumed=4 * (step + 1),
        examples=micro.examples(4, seed=step),
        bad=[],
        truncated=[],
    )


def feeding(batches, **options):
    return feed_module.feed(
        batches,
        layout=micro.CFG.layout,
        buckets=micro.BUCKETS,
        mesh=make_mesh({"data": 1, "fsdp": 1, "tensor": 1}),
        accumulation=2,
        micro_batch=2,
        **options,
    )


def test_the_next_batch_is_padded_while_the_step_runs(monkeypatch):
    """The step ends only when the next batch is padded; nothing is read further."""
    padded, read, real = threading.Semaphore(0), [], feed_module.collate_training
    main, threads = threading.current_thread(), []

    def padding(*args):
        threads.append(threading.current_thread())
        batch = real(*args)
        padded.release()
        return batch

    def loader():
        for step in range(4):
            read.append(step)
            yield loaded(step)

    monkeypatch.setattr(feed_module, "collate_training", padding)
    seen = []
    for batch in feeding(loader()):
        for _ in range(2 if not seen else len(seen) < 3):
            assert padded.acquire(timeout=20)
        seen.append(batch.loaded.step)
        assert len(read) == min(len(seen) + 1, 4)
        tokens = np.asarray(batch.arrays["tokens"])
        alone = real(batch.loaded.examples, micro.CFG.layout, batch.shape)["tokens"]
        np.testing.assert_array_equal(tokens.reshape(alone.shape), alone)
    assert seen == [0, 1, 2, 3]
    assert len(threads) == 4 and main not in threads
    assert not any(thread.is_alive() for thread in threads)


def test_an_error_while_padding_is_the_callers(monkeypatch):
    real, count = feed_module.collate_training, 0

    def padding(*args):
        nonlocal count
        count += 1
        if count == 3:
            raise ValueError("does not fit")
        return real(*args)

    monkeypatch.setattr(feed_module, "collate_training", padding)
    seen = []
    with pytest.raises(ValueError, match="does not fit"):
        seen += [batch.loaded.step for batch in feeding(map(loaded, range(5)))]
    batches = feeding(map(loaded, range(5)))
    count = 3
    assert next(batches).loaded.step == 0
    before = {t for t in threading.enumerate() if t.name.startswith("pad")}
    batches.close()  # as when a run is interrupted
    assert before and not any(thread.is_alive() for thread in before)


def test_waiting_for_samples_is_counted_once_and_nothing_else_is(monkeypatch):
    seconds = 0.0

    def loader():
        nonlocal seconds
        for step in range(3):
            seconds += 10**step  # until the samples are there
            yield loaded(step)

    clock = SimpleNamespace(perf_counter=lambda: seconds)
    monkeypatch.setattr(feed_module, "time", clock)
    batches = []
    for batch in feeding(loader(), flops_of=lambda examples: 1e9 * len(examples)):
        seconds += 1000  # a step
        batches.append(batch)
    assert [batch.loaded.consumed for batch in batches] == [4, 8, 12]
    assert [batch.flops for batch in batches] == [4e9] * 3
    # The first comes when the second is there too, the last after no wait.
    assert [batch.wait_s for batch in batches] == [1 + 10, 100, 0]
    tokens = np.asarray(batches[0].arrays["tokens"])
    assert tokens.shape == (2, 2, batches[0].shape.length)
