"""Checkpoints of a training run: the whole state, saved while training goes on.

Orbax's CheckpointManager writes a step beside the running program and coordinates the
processes; its record, leaves' checksums and layout on disk are ``checkpoint/step``.
Leaves are stored under the names of their places in the state (``params/newline``,
``opt_state/0/mu/newline``), not under its classes: a restore is told by ``like`` what
to build.

What is added to orbax here:

- every leaf has a checksum, taken on the devices before it is saved and compared after
  it is restored;
- a state of another tree or shape is one line that names the first leaf that differs;
- leaves are restored one by one, so that host memory holds no second copy of the state
  and a damaged file is one error (orbax 0.12 reads all at once, and prints a page for
  every leaf that fails);
- a step that is no longer kept leaves by a rename, so that no half-removed folder ever
  looks like a step;
- orbax's log is left out: what concerns a user is raised or said in our own.
"""

import contextlib
import errno
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from vica_jax.checkpoint.checksum import device_checksums
from vica_jax.checkpoint.manifest import CheckpointError
from vica_jax.checkpoint.parts import first_line, nest
from vica_jax.checkpoint.step import (
    READ_ERRORS,
    RECORD,
    RECORD_FILE,
    STATE,
    SavedStep,
    StateLeaf,
    open_array,
    read_step,
    saved_steps,
    step_record,
)
from vica_jax.checkpoint.tree import check_same, rebuild, stored_form, stored_leaves

log = logging.getLogger(__name__)

DELETED = ".deleted"  # steps that are no longer kept wait here to be removed
# Blocks of a stored array. Stacked layers are cut layer by layer (an export reads them
# so), the rest where orbax likes.
CHUNK_BYTES = 2**26
SLOW_SECONDS = 5.0  # a save that holds up the next one for longer is said
TIMEOUT_SECONDS = 2 * 60 * 60  # for one save, on the slowest of disks


class TrainingCheckpoints:
    """The saved steps of one run, in ``folder/STEP``. Not for two runs at once.

    Of several processes all make one, with the same folder, and all call ``save``,
    ``wait``, ``restore`` and ``close``.

    Args:
      folder: made if it is not there. What a killed save has left in it is removed.
      keep_last: the newest so many steps are kept.
      keep_every: steps that are multiples of it are kept for ever. None: none are.

    Raises:
      CheckpointError: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep_last: int,
        keep_every: int | None = None,
    ):
        if keep_last < 1 or (keep_every is not None and keep_every < 1):
            raise ValueError("keep_last and keep_every are at least 1")
        self.folder = Path(folder).absolute()
        self._saving: int | None = None
        self._cleaner: threading.Thread | None = None
        kept: list[Any] = [policies.LatestN(keep_last)]
        if keep_every is not None:
            kept.append(policies.EveryNSteps(keep_every))
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(_without_chatter())
        try:
            if jax.process_index() == 0:
                _remove_leftovers(self.folder)
            self._manager = ocp.CheckpointManager(
                self.folder,
                item_handlers={
                    STATE: _state_handler(),
                    RECORD: ocp.JsonCheckpointHandler(RECORD_FILE),
                },
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy(kept),
                    todelete_subdir=DELETED,
                    save_root_metadata=False,
                    async_options=ocp.options.AsyncOptions(
                        timeout_secs=TIMEOUT_SECONDS,
                        # Where making folders fails, threads would wait for them.
                        create_directories_asynchronously=False,
                    ),
                ),
            )
        except OSError as error:
            self._quiet.close()
            raise CheckpointError(
                f"{self.folder}: no checkpoints can be kept here: {_reason(error)}"
            ) from None

    def __enter__(self) -> "TrainingCheckpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except CheckpointError as failed:
            if error is None:
                raise
            log.warning("%s", failed)  # the first error is the one to be seen

    # ------------------------------------------------------------------- saving
    def save(self, step: int, state: Any, record: Mapping[str, Any]) -> None:
        """Save ``{state, record}`` as one step; returns once the state is copied.

        The state's arrays may be donated or deleted after the call. A save still
        running is waited for first.

        Args:
          step: not below 0, and not saved before.
          state: a pytree of jax arrays.
          record: JSON values.

        Raises:
          CheckpointError: the disk is full or fails, now or in the save before; older
            steps stay as they are.
        """
        self._wait_before(step)
        if (self.folder / str(step)).exists():
            raise CheckpointError(f"{self.folder}: step {step} was saved before")
        leaves = stored_leaves(state)
        sums = device_checksums(leaves)
        table = {
            path: StateLeaf(
                shape=leaf.shape, dtype=leaf.dtype.name, checksum=sums[path]
            )
            for path, leaf in leaves.items()
        }
        content = step_record(step, record, table)
        if jax.process_index() == 0:
            self._check_room(step, sum(leaf.nbytes for leaf in leaves.values()))
        save_args = {path: _save_args(leaf) for path, leaf in leaves.items()}
        self._saving = step
        with self._errors():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(nest(leaves), save_args=nest(save_args)),
                    record=ocp.args.JsonSave(content),
                ),
                force=True,
            )
        if jax.process_index() == 0:
            self._cleaner = threading.Thread(target=self._clean, name="clean")
            self._cleaner.start()

    def wait(self) -> None:
        """Wait until the last save is on disk and what is no longer kept is removed.

        Raises:
          CheckpointError: that save failed.
        """
        with self._errors():
            self._manager.wait_until_finished()
        if self._cleaner is not None:
            self._cleaner.join()
        self._saving = self._cleaner = None

    def _wait_before(self, step: int) -> None:
        """``wait``, and say so if it takes long."""
        saving, begun = self._saving, time.monotonic()
        self.wait()
        if (seconds := time.monotonic() - begun) > SLOW_SECONDS:
            log.warning(
                "step %d waited %.0f s until step %s was saved: save less often, or on "
                "a faster disk",
                step,
                seconds,
                saving,
            )

    def close(self) -> None:
        """``wait`` and let go of orbax's threads. No other call may follow.

        Raises:
          CheckpointError: the last save failed.
        """
        try:
            self.wait()
        finally:
            with self._quiet, self._errors():
                self._manager.close()

    def _check_room(self, step: int, nbytes: int) -> None:
        """Refuse a save that the disk has no room for before it is begun."""
        free = shutil.disk_usage(self.folder).free
        if free < nbytes:
            raise self._failed(
                step,
                f"it takes {nbytes / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB "
                "free",
            )

    def _failed(self, step: int | None, why: str) -> CheckpointError:
        kept = ", ".join(map(str, self.steps())) or "none"
        return CheckpointError(
            f"{self.folder}: step {step} could not be saved: {why} (steps kept: {kept})"
        )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever orbax raises about the running save, as one line."""
        try:
            yield
        except Exception as error:  # orbax, tensorstore, the disk, the network
            step, self._saving = self._saving, None
            # Orbax has forgotten the steps that this save was to replace. What the save
            # has left is removed at the next start: some of its writes still run.
            self._manager.reload()
            raise self._failed(step, _reason(error)) from error

    def _clean(self) -> None:
        """In a thread: once the save is done, remove what it has put aside."""
        with contextlib.suppress(Exception):  # wait() in the main thread raises it
            self._manager.wait_until_finished()
        shutil.rmtree(self.folder / DELETED, ignore_errors=True)

    # ------------------------------------------------------------------ reading
    def steps(self) -> list[int]:
        """The steps on disk, in order; a save that still runs is none of them."""
        return saved_steps(self.folder)

    def latest(self) -> int | None:
        """The last of ``steps()``."""
        return max(self.steps(), default=None)

    def read_record(self, step: int) -> dict[str, Any]:
        """What was saved with the state of a step.

        Raises:
          CheckpointError: no such step, or it is damaged.
        """
        return read_step(self.folder, step).record

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step, on the devices.

        ``like`` is a pytree with the shape, dtype and sharding of every leaf
        (``jax.ShapeDtypeStruct``). Any number of devices and processes, and any
        shardings, whatever the state was saved with.

        Raises:
          CheckpointError: no such step, it holds another tree, or it is damaged.
        """
        saved = read_step(self.folder, step)
        wanted = stored_form(like)
        check_same(saved, wanted)
        leaves = {}
        for path, leaf in wanted.items():
            leaves[path] = _read(saved, path, leaf.sharding)
            # Host memory stays bounded only if a copy has ended before the next begins.
            jax.block_until_ready(leaves[path])
        for path, found in device_checksums(leaves).items():
            if found != saved.leaves[path].checksum:
                raise saved.damaged(f"{path} fails its checksum")
        return rebuild(leaves, like)


# -------------------------------------------------------------------------- orbax
def _state_handler() -> ocp.PyTreeCheckpointHandler:
    # Weights and moments hardly shrink, and compressing them takes several times as
    # long as writing them.
    return ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_compression=False)


def _save_args(leaf: jax.Array) -> ocp.SaveArgs:
    by_layer = leaf.ndim > 2 and leaf.nbytes > 2**20
    return ocp.SaveArgs(
        chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if by_layer else ()
    )


def _read(saved: SavedStep, path: str, sharding: Any) -> jax.Array:
    """One leaf of a step: each device gets its share, read once for all copies."""
    leaf = saved.leaves[path]
    shares: dict[Any, np.ndarray] = {}
    try:
        array = open_array(saved, path)

        def share(index: Any) -> np.ndarray:
            key = tuple(map(slice.indices, index, leaf.shape))
            if key not in shares:
                shares[key] = np.asarray(array[index].read().result())
            return shares[key]

        return jax.make_array_from_callback(leaf.shape, sharding, share)
    except READ_ERRORS as error:
        raise saved.damaged(f"{path}: {first_line(error)}") from None


def _reason(error: Exception) -> str:
    """What went wrong, in one line: a full disk by its name."""
    seen: Any = error
    while seen is not None:
        full = isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(seen):
            return "the disk is full"
        error, seen = seen, seen.__cause__ or seen.__context__
    return first_line(error)


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Hold back what orbax logs, and what its abandoned writes complain about.

    When one of many writes fails, orbax closes their event loop at once; each of the
    others then finds it closed, and Python prints that with a stack trace.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    def is_not_orbax(entry: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in entry.pathname

    logging.getLogger("absl").addFilter(is_not_orbax)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        logging.getLogger("absl").removeFilter(is_not_orbax)
        if sys.unraisablehook is hook:
            sys.unraisablehook = before


# --------------------------------------------------------------------------- disk
def _partial_folders(folder: Path) -> list[Path]:
    """What saves that did not finish have left."""
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if ocp.utils.TMP_DIR_SUFFIX in p.name]


def _remove_leftovers(folder: Path) -> None:
    for path in _partial_folders(folder):
        log.warning("%s: left by a save that was interrupted: removed", path)
        shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(folder / DELETED, ignore_errors=True)
