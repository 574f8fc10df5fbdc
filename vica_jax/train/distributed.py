"""Several processes: joined by jax.distributed, from the launcher or explicit flags."""

import contextlib
import os
from collections.abc import Iterator

import jax

from vica_jax.errors import InputError

# A launcher says how many processes it started in one of these.
LAUNCHERS = {"SLURM": "SLURM_NTASKS", "Open MPI": "OMPI_COMM_WORLD_SIZE"}
# A process that has failed waits for the others before it ends, and they for it: so
# long, and then all are ended. A run that has not failed ends at the same time in all
# of them (``synchronize``).
SHUTDOWN_SECONDS = 15


class DistributedError(InputError):
    """Processes that cannot be joined, or have lost one another."""


class DeviceMemoryError(InputError):
    """What runs does not fit the devices."""


def initialize(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Join the processes of a run; nothing to do for one alone.

    With explicit values all three are needed. Otherwise SLURM and Open MPI are
    recognised by their environment, which jax reads itself. Call it before anything
    asks jax for devices.

    Raises:
      DistributedError: some of the three are missing, or they cannot be joined.
    """
    given = (coordinator, num_processes, process_id)
    launched = [
        name for name, key in LAUNCHERS.items() if int(os.environ.get(key) or 1) > 1
    ]
    if all(value is None for value in given):
        if not launched:
            return
    elif any(value is None for value in given):
        raise DistributedError(
            "--coordinator, --num_processes and --process_id go together: give all "
            "three to every process, or none under SLURM or Open MPI"
        )
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        first, *_ = str(error).strip().split("\n")
        raise DistributedError(f"cannot join the processes: {first}") from error


def synchronize(name: str) -> None:
    """Wait until every process has come here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def failures_named() -> Iterator[None]:
    """Turn the runtime's errors that are no fault of the program into one line.

    Raises:
      DeviceMemoryError: a device is full.
      DistributedError: a step failed on several processes: as a rule one has ended.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        first, *_ = str(error).strip().split("\n")
        if "RESOURCE_EXHAUSTED" in first:
            raise DeviceMemoryError(
                "out of device memory: scripts.plan_memory names smaller settings that "
                f"fit ({first:.120})"
            ) from error
        if jax.process_count() == 1:
            raise
        raise DistributedError(
            "a step failed, probably because another process has ended (its own output "
            f"says why); the same command resumes ({first:.120})"
        ) from error
