"""From a loader to batches on the mesh: what is counted on the way."""

from types import SimpleNamespace

import micro
import numpy as np

from vica_jax.data.loader import Loaded
from vica_jax.sharding import make_mesh
from vica_jax.train import feed as feed_module


def test_waiting_for_samples_is_counted_once_and_nothing_else_is(monkeypatch):
    seconds = 0.0

    def loader():
        nonlocal seconds
        for step in range(3):
            seconds += 10**step  # until the samples are there
            yield Loaded(
                step=step,
                epoch=0,
                consumed_before=4 * step,
                consumed=4 * (step + 1),
                examples=micro.examples(4, seed=step),
                bad=[],
                truncated=[],
            )

    clock = SimpleNamespace(perf_counter=lambda: seconds)
    monkeypatch.setattr(feed_module, "time", clock)
    batches = []
    for batch in feed_module.feed(
        loader(),
        layout=micro.CFG.layout,
        buckets=micro.BUCKETS,
        mesh=make_mesh({"data": 1, "fsdp": 1, "tensor": 1}),
        accumulation=2,
        micro_batch=2,
        flops_of=lambda examples: 1e9 * len(examples),
    ):
        seconds += 1000  # a step
        batches.append(batch)
    assert [batch.loaded.consumed for batch in batches] == [4, 8, 12]
    assert [batch.flops for batch in batches] == [4e9] * 3
    # The first comes when the second is there too, the last after no wait.
    assert [batch.wait_s for batch in batches] == [1 + 10, 100, 0]
    tokens = np.asarray(batches[0].arrays["tokens"])
    assert tokens.shape == (2, 2, batches[0].shape.length)
