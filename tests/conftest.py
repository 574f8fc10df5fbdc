"""Fixtures of every test. Sets the environment before anything imports jax."""

import os
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

TESTS = Path(__file__).parent
# Many tests, and the commands they start, compile the same programs.
CACHE = TESTS.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
GOLDENS = TESTS / "goldens"
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
if EIGHT_DEVICES in os.environ.get("XLA_FLAGS", ""):
    # A program for several host devices that comes out of the cache can wait for ever
    # in its collectives (jaxlib 0.10.2).
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

# Compilation makes the first example slow, so no deadline. CI draws the same examples
# every time: a failure there is a change's, not the day's.
hypothesis.settings.register_profile(
    "vica_jax",
    deadline=None,
    max_examples=25,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("vica_jax")


@pytest.fixture(scope="session", params=["tiny-vica2", "tiny-vica"])
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """A folder of recorded reference outputs: one run for each model family."""
    return GOLDENS / request.param


@pytest.fixture
def abstract_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Structs of ``ShapeDtypeStruct``s pass, which are no ``jax.Array``."""
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Mark tests by folder; keep those for 8 devices out of ordinary processes."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in ("parity", "multi_device"):
            item.add_marker(folder)
    if EIGHT_DEVICES not in os.environ.get("XLA_FLAGS", ""):
        dropped = [item for item in items if item.get_closest_marker("multi_device")]
        items[:] = [item for item in items if item not in dropped]
        config.hook.pytest_deselected(items=dropped)
