"""The loop: config, mesh, state, step function, data iterator, checkpointer.

It knows nothing of files, models or media. A step is dispatched before the one before
is looked at, so the device always has work; before a save everything is looked at, so
that a state made of NaN is never saved.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax

from vica_jax.errors import InputError
from vica_jax.train.feed import GlobalBatch
from vica_jax.train.settings import TrainSettings
from vica_jax.train.state import TrainState
from vica_jax.train.step import Metrics


class DivergedError(InputError):
    """A loss or gradient that is no finite number; the message says at which step."""


@runtime_checkable
class Checkpoints(Protocol):
    """What the loop needs of ``vica_jax.checkpoint.TrainingCheckpoints``."""

    def save(self, step: int, state: Any, record: dict[str, Any]) -> None: ...
    def wait(self) -> None: ...
    def latest(self) -> int | None: ...


@runtime_checkable
class Log(Protocol):
    """What the loop needs of ``vica_jax.train.metrics.Tracker``."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def event(self, step: int, name: str, **values: Any) -> None: ...


@runtime_checkable
class Samples(Protocol):
    """What the loop needs of ``vica_jax.train.sample_log.SampleLog``."""

    bad: int
    truncated: int

    def add(self, batch: GlobalBatch) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What happens beside steps; None: it does not.

    ``validate(state)`` returns values to log. ``export(step)`` runs once the
    checkpoint of that step is on disk.
    """

    validate: Callable[[TrainState], Mapping[str, float]] | None = None
    export: Callable[[int], None] | None = None


def train(
    settings: TrainSettings,
    state: TrainState,
    frozen: Any,
    step_fn: Callable[..., tuple[TrainState, Metrics]],
    batches: Iterable[GlobalBatch],
    checkpoints: Checkpoints,
    log: Log,
    samples: Samples,
    *,
    total_steps: int,
    consumed: int,
    record: Mapping[str, Any],
    hooks: Hooks,
) -> TrainState:
    """Run ``state`` from its own step to ``total_steps``; returns the last state.

    ``consumed`` is the number of examples that ``state`` has seen. ``record`` is saved
    with every state; the loop adds ``consumed``, ``epoch``, ``bad``
    and ``truncated``.

    Raises:
      DivergedError: a loss or gradient norm is not finite; nothing is saved after it.
    """
    save_every = settings.checkpoint.save_steps(total_steps)
    step = int(state.step)
    shapes: set[Any] = set()
    pending: tuple[int, GlobalBatch, Metrics, dict[str, int]] | None = None
    last, wait = time.perf_counter(), 0.0

    def look() -> None:
        """Fetch and log the metrics of the step dispatched before."""
        nonlocal pending, last, wait, consumed
        if pending is None:
            return
        number, batch, metrics, counts = pending
        pending = None
        values = {name: float(x) for name, x in jax.device_get(metrics).items()}
        done = time.perf_counter()
        values |= counts | {
            "examples": batch.loaded.consumed - consumed,
            "flops": batch.flops,
            "consumed": batch.loaded.consumed,
            "epoch": batch.loaded.epoch,
            "step_seconds": done - last,
            "wait_seconds": wait,
        }
        if batch.loaded.frame_cache is not None:
            hits, misses = batch.loaded.frame_cache
            values |= {"frame_cache_hits": hits, "frame_cache_misses": misses}
        last, wait, consumed = done, 0.0, batch.loaded.consumed
        log.log(number, values)
        check_finite(number, values, checkpoints)

    source = iter(batches)
    while step < total_steps:
        batch = next(source)
        wait += batch.wait_s
        samples.add(batch)
        if batch.shape not in shapes:
            shapes.add(batch.shape)
            log.event(step + 1, "compile", program=len(shapes), shape=str(batch.shape))
        state, metrics = step_fn(state, frozen, batch.arrays)
        step += 1
        look()
        # Counted now: when the step is looked at, the next batch is counted too.
        counts = {"bad": samples.bad, "truncated": samples.truncated}
        pending = step, batch, metrics, counts
        ends = step == total_steps
        saves = ends or step % save_every == 0
        exports = settings.export_hf_every and step % settings.export_hf_every == 0
        validates = settings.validate_every and (
            ends or step % settings.validate_every == 0
        )
        if not (saves or exports or validates):
            continue
        look()
        if validates and hooks.validate is not None:
            log.event(step, "validation", **hooks.validate(state))
        if saves or exports:
            made_of = {
                "consumed": batch.loaded.consumed,
                "epoch": batch.loaded.epoch,
            }
            checkpoints.save(step, state, {**record, **made_of, **counts})
            log.event(step, "checkpoint", consumed=batch.loaded.consumed)
        if exports and hooks.export is not None:
            checkpoints.wait()
            hooks.export(step)
        last = time.perf_counter()
    checkpoints.wait()
    return state


def check_finite(
    step: int, values: Mapping[str, float], checkpoints: Checkpoints
) -> None:
    """Raise DivergedError unless loss and gradient norm are finite."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            checkpoints.wait()  # for the save before this step, which may still run
            saved = checkpoints.latest()
            kept = (
                f"the last checkpoint is step {saved}" if saved else "nothing is saved"
            )
            raise DivergedError(
                f"step {step}: {name} is {values[name]} and the run stops ({kept}): "
                "lower the rates, lengthen the warm-up or look at the batch's samples"
            )
