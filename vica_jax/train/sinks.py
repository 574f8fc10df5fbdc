"""Where the numbers of a run go: metrics.jsonl, TensorBoard, W&B, the terminal.

TensorBoard events are framed and checksummed by the ``tensorboard`` package's own
``RecordWriter``. Its ``EventFileWriter`` was passed over: it imports TensorFlow where
that is installed, and a full disk would surface as a traceback of its thread.
tensorboardX (imports torch where installed, overwrites a file of the same second),
clu (its writers need TensorFlow or torch) and flax (TensorFlow) were looked at too.
"""

import importlib
import json
import logging
import math
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vica_jax.errors import InputError

log = logging.getLogger(__name__)


class SinkError(InputError):
    """Logging that was asked for and cannot be had; the message says what to do."""


class MetricsFile:
    """One JSON object per line, each of them flushed; at most the last can be torn.

    A number that is not finite is the string "NaN", "Infinity" or "-Infinity", which
    JSON allows and ``float()`` reads back.
    """

    def __init__(self, path: Path, *, start_step: int):
        """Open for appending, with the lines past ``start_step`` and torn ones dropped.

        They are an interrupted run's; a warning counts them. 0 drops all.
        """
        self.path = path
        if path.is_file():
            self._drop_after(start_step)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(_spelled(entry), ensure_ascii=False, allow_nan=False)
        self._file.write(f"{line}\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _drop_after(self, step: int) -> None:
        late = torn = 0
        partial = self.path.with_name(f"{self.path.name}.partial-{os.getpid()}")
        try:
            with open(self.path, "rb") as lines, open(partial, "wb") as kept:
                for line in lines:
                    entry = _parse(line)
                    if entry is None:
                        torn += 1
                    elif step == 0 or entry["step"] > step:
                        late += 1
                    else:
                        kept.write(line.rstrip(b"\n") + b"\n")
                kept.flush()
                os.fsync(kept.fileno())
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)
        if late or torn:
            log.warning(
                "%s: dropped %d lines past step %d and %d torn lines",
                self.path,
                late,
                step,
                torn,
            )


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a metrics.jsonl in order; torn lines are left out."""
    with open(path, "rb") as lines:
        for line in lines:
            entry = _parse(line)
            if entry is not None:
                yield entry


def _parse(line: bytes) -> dict[str, Any] | None:
    """A line's entry, None for a torn one."""
    try:
        entry = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    whole = isinstance(entry, dict) and isinstance(entry.get("step"), int)
    return entry if whole else None


def plain(value: Any) -> Any:
    """Python's own numbers, strings, lists and dicts for numpy's, jax's and others."""
    if hasattr(value, "tolist"):  # arrays and numpy's scalars
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)


def _spelled(value: Any) -> Any:
    """Plain values with the numbers that JSON cannot write as strings."""
    if isinstance(value, Mapping):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    return value


class TensorBoard:
    """Scalars as an event file in a folder; every write reaches the file at once."""

    def __init__(self, folder: Path, *, purge_step: int):
        """``purge_step``: points of earlier event files from this step on are void."""
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        # Modules that protobuf generates have no types that a checker could see.
        self._event: Any = event_pb2
        self._summary: Any = summary_pb2
        # Readers take the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._writer = RecordWriter(open(folder / name, "xb"))  # noqa: SIM115
        self._write(file_version="brain.Event:2")
        log = self._event.SessionLog
        self._write(step=purge_step, session_log=log(status=log.START))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        value = self._summary.Summary.Value
        values = [value(tag=tag, simple_value=x) for tag, x in scalars.items()]
        self._write(step=step, summary=self._summary.Summary(value=values))

    def close(self) -> None:
        self._writer.close()

    def _write(self, **fields: Any) -> None:
        event = self._event.Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())
        self._writer.flush()


class WeightsAndBiases:
    """Scalars to a Weights & Biases run, which a resumed training continues.

    The run's id lies in ``wandb_run.txt`` of the folder. A step that is trained again
    after a resume keeps its first values: W&B takes no step twice.
    """

    def __init__(self, folder: Path, *, project: str, config: Mapping[str, Any]):
        try:
            wandb = importlib.import_module("wandb")
        except ImportError:
            raise SinkError(
                f"Weights & Biases project {project!r}: the package wandb is not "
                "installed: pip install wandb, or leave the project empty"
            ) from None
        path = folder / "wandb_run.txt"
        if not path.is_file():
            path.write_text(f"{uuid.uuid4().hex[:12]}\n", encoding="utf-8")
        try:
            self._run = wandb.init(
                project=project,
                name=folder.resolve().name,
                id=path.read_text(encoding="utf-8").strip(),
                resume="allow",
                dir=str(folder),
                config=dict(config),
            )
        except Exception as error:  # no account, no network: many kinds, all of wandb's
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise SinkError(
                f"Weights & Biases project {project!r} does not start: {reason}: try "
                "wandb login, or WANDB_MODE=offline, or leave the project empty"
            ) from error

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        self._run.finish()


class Progress:
    """A progress line on a terminal; elsewhere a plain line every few steps.

    Both say the same. Messages stand on lines of their own, above the progress line.
    """

    def __init__(self, *, total_steps: int, start_step: int, every: int):
        self._stream = sys.stderr
        self._total, self._every, self._start = total_steps, every, start_step
        self._bar: tqdm | None = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total_steps,
                initial=start_step,
                file=self._stream,
                dynamic_ncols=True,
                # tqdm's own rate and remaining time would count the compilation in.
                bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
            )

    def update(self, step: int, text: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.n = step
            self._bar.refresh()
        elif step % self._every == 0 or step in (self._start + 1, self._total):
            share = step / max(self._total, 1)
            self.write(f"step {step}/{self._total} ({share:.1%}), {text}")

    def write(self, line: str) -> None:
        tqdm.write(line, file=self._stream)
        self._stream.flush()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
