"""What the runtime's own failures say to a reader."""

import jax
import pytest

from vica_jax.train.distributed import (
    DeviceMemoryError,
    DistributedError,
    failures_named,
)

GLOO = "FAILED_PRECONDITION: Gloo all-reduce failed: Connection reset by peer\nat x.cc"


def test_a_full_device_points_to_the_planner():
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 9 GiB\nat y")
    with pytest.raises(DeviceMemoryError) as caught, failures_named():
        raise error
    assert "scripts.plan_memory" in str(caught.value) and "\n" not in str(caught.value)


def test_a_lost_process_is_named_as_such(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(DistributedError) as caught, failures_named():
        raise jax.errors.JaxRuntimeError(GLOO)
    assert "another process has ended" in str(caught.value)
    assert "Connection reset by peer" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(jax.errors.JaxRuntimeError), failures_named():
        raise jax.errors.JaxRuntimeError(GLOO)
