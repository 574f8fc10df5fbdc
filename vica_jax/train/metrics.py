"""The record of a run: metrics.jsonl, TensorBoard, Weights & Biases, progress, curves.

``metrics.jsonl`` is the truth that the others follow: one JSON object per line, for a
step its values and the rates derived from them, for anything else an ``event``.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vica_jax.train.curves import plot_curves
from vica_jax.train.sinks import (
    MetricsFile,
    Progress,
    TensorBoard,
    WeightsAndBiases,
    plain,
)

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"
RATE_STEPS = 20  # steps that throughput is averaged over
ETA_STEPS = 200  # the same for the remaining time: batches of videos and texts differ


class Tracker:
    """Writes down what a run does; on any but the main process it does nothing.

    Steps count finished updates: the first of a run is 1, the first after a resume
    ``start_step + 1``. Lines of later steps, which an interrupted run left behind, are
    dropped, and so are torn ones; a warning says how many. ``start_step`` 0 starts the
    record afresh.
    """

    def __init__(
        self,
        workdir: Path | str,
        *,
        total_steps: int,
        start_step: int = 0,
        tensorboard: bool = True,
        wandb: str = "",
        progress: bool = True,
        peak_flops: float | None = None,
        devices: int = 1,
        enabled: bool = True,
        line_every: int = 10,
        config: Mapping[str, Any] | None = None,
    ):
        """Open the record in ``workdir``, which is made if need be.

        ``wandb`` is a project's name, or empty. ``peak_flops`` is one device's peak in
        FLOP/s, None where it is not known: then there is no MFU. ``line_every`` steps
        pass between plain progress lines. ``config`` is what W&B shows as the run's.

        Raises:
          SinkError: Weights & Biases is asked for and cannot be had.
        """
        self._enabled = enabled
        if not enabled:
            return
        self._workdir = Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._peak = peak_flops * devices if peak_flops else None
        self._rates = _Rates(total_steps)
        self._sinks: list[TensorBoard | WeightsAndBiases] = []
        if wandb:
            self._sinks.append(
                WeightsAndBiases(self._workdir, project=wandb, config=config or {})
            )
        self._file = MetricsFile(self._workdir / METRICS_FILE, start_step=start_step)
        if tensorboard:
            purge = start_step + 1 if start_step else 0
            self._sinks.append(TensorBoard(self._workdir, purge_step=purge))
        self._progress = None
        if progress:
            self._progress = Progress(
                total_steps=total_steps, start_step=start_step, every=line_every
            )

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Record a finished step; call once for each, in order.

        ``values`` are numbers (anything ``float()`` takes). Rates are made of
        ``tokens``, ``examples`` and ``flops`` (of the step's global batch),
        ``step_seconds`` (wall time since the last step, waiting included) and
        ``wait_seconds`` (the part of it that was waiting for data). They are of the
        steps alone: validation and saving lie between steps and are in none of them.
        ``loss``, ``learning_rate`` (or ``learning_rate/GROUP``), ``grad_norm`` and
        ``bad`` (unreadable samples so far) stand in the progress line too.
        """
        if not self._enabled:
            return
        numbers: dict[str, float] = plain(values)
        rates = self._rates.add(step, numbers, self._peak)
        self._file.write({"step": step, "time": _now(), **numbers, **rates})
        scalars = {f"train/{name}": float(value) for name, value in numbers.items()}
        self._send(step, scalars | {f"speed/{name}": x for name, x in rates.items()})
        if self._progress is not None:
            self._progress.update(step, describe_step(numbers, rates))

    def event(self, step: int, name: str, **values: Any) -> None:
        """Record something beside the steps, such as a validation or a checkpoint.

        Values are numbers, strings, None or lists and dicts of them. Numbers of a
        ``validation`` become scalars, those named ``loss`` or ``..._loss`` points in
        curves.png. A ``compile`` event of a step, sent before the step is logged, keeps
        the steps up to it out of the rates: one of them took the compilation's time.
        """
        if not self._enabled:
            return
        values = plain(values)
        self._file.write({"step": step, "time": _now(), "event": name, **values})
        if name == "validation":
            numbers = {k: x for k, x in values.items() if isinstance(x, int | float)}
            self._send(step, {f"{name}/{key}": float(x) for key, x in numbers.items()})
        if name == "compile":
            self._rates.skip_to(step)
        if self._progress is not None:
            told = ", ".join(f"{key} {_short(value)}" for key, value in values.items())
            self._progress.write(f"step {step}: {name}{': ' * bool(told)}{told}")

    def close(self) -> None:
        """Write curves.png and close every file; a second call does nothing."""
        if not self._enabled:
            return
        self._enabled = False
        with ExitStack() as stack:  # one that fails keeps none of the others open
            stack.callback(plot_curves, self._file.path, self._workdir / CURVES_FILE)
            for open_one in (*self._sinks, self._progress, self._file):
                if open_one is not None:
                    stack.callback(open_one.close)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            self.close()
        except OSError as error:  # a full disk, say, that already ended the run
            if kind is None:
                raise
            log.warning("the record is not closed: %s", error)

    def _send(self, step: int, scalars: Mapping[str, float]) -> None:
        for sink in self._sinks:
            sink.write(step, scalars)


def _now() -> float:
    """Seconds since 1970, to the millisecond."""
    return round(time.time(), 3)


class _Rates:
    """Throughput over the last steps, those that compiled left out."""

    def __init__(self, total_steps: int):
        self._total = total_steps
        self._steps: deque[Mapping[str, float]] = deque(maxlen=ETA_STEPS)
        self._skip_to: int | None = None

    def skip_to(self, step: int) -> None:
        self._skip_to = max(step, self._skip_to or step)

    def add(
        self, step: int, values: Mapping[str, float], peak: float | None
    ) -> dict[str, float]:
        """The rates after a step; empty before the first one that counts."""
        if self._skip_to is None:  # the first step of this process
            self._skip_to = step
        seconds = values.get("step_seconds", 0)
        if step > self._skip_to and 0 < seconds < math.inf:
            self._steps.append(values)
        if not self._steps:
            return {}
        recent = list(self._steps)[-RATE_STEPS:]
        elapsed = _total(recent, "step_seconds")
        rates = {}
        for name, of in (("tokens", "tokens"), ("samples", "examples")):
            if of in values:
                rates[f"{name}_per_second"] = _total(recent, of) / elapsed
        if peak and "flops" in values:
            rates["mfu"] = _total(recent, "flops") / elapsed / peak
        if "wait_seconds" in values:
            rates["wait_share"] = _total(recent, "wait_seconds") / elapsed
        mean = _total(self._steps, "step_seconds") / len(self._steps)
        return rates | {"eta_seconds": max(self._total - step, 0) * mean}


def _total(steps: Iterable[Mapping[str, float]], name: str) -> float:
    return sum(values.get(name, 0) for values in steps)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def describe_step(values: Mapping[str, float], rates: Mapping[str, float]) -> str:
    """The progress line's numbers; what is not there is left out."""
    parts = []

    def add(
        text: str,
        source: Mapping[str, float],
        name: str,
        show: Callable[[float], str] = _short,
    ) -> None:
        if name in source:
            parts.append(text.format(show(source[name])))

    add("ETA {}", rates, "eta_seconds", tqdm.format_interval)
    add("loss {}", values, "loss", lambda x: f"{x:.4f}")
    # The groups' rates are in proportion: the highest stands for all.
    learning = [x for key, x in values.items() if key.startswith("learning_rate")]
    if learning:
        parts.append(f"lr {max(learning):.2e}")
    add("grad {}", values, "grad_norm")
    add("{} tok/s", rates, "tokens_per_second", tqdm.format_sizeof)
    add("{} samples/s", rates, "samples_per_second")
    add("MFU {}", rates, "mfu", lambda x: f"{x:.1%}")
    add("wait {}", rates, "wait_share", lambda x: f"{x:.1%}")
    if values.get("bad"):
        add("bad samples {}", values, "bad")
    return ", ".join(parts)
