"""Compiled programs on disk, so that a second start compiles nothing.

    from vica_jax import enable_compilation_cache
    enable_compilation_cache()

The commands call it before they import jax; in a program of your own call it before
the first question. jax trusts what it finds there: the folder is the user's own.
"""

import hashlib
import os
import platform
import re
import sys
import tempfile
from pathlib import Path

from vica_jax.errors import InputError

FOLDER = "JAX_COMPILATION_CACHE_DIR"
ENABLED = "JAX_ENABLE_COMPILATION_CACHE"
# What is set beside the folder, where it is not set yet.
LIMITS = {
    "JAX_COMPILATION_CACHE_MAX_SIZE": 4 * 10**9,  # bytes; the least used go first
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0.5,
}


class CacheFolderError(InputError):
    """A folder that compiled programs cannot be kept in."""


def enable_compilation_cache(folder: str | os.PathLike[str] | None = None) -> str:
    """Keep compiled programs in ``folder``; returns where, empty for nowhere.

    By default in ``vica_jax/xla`` of the user's cache folder, in a folder for this kind
    of processor: jax would run a program of another kind, and fail. What the
    environment says comes first: ``JAX_COMPILATION_CACHE_DIR`` is taken as it is, with
    jax's own limits; ``JAX_ENABLE_COMPILATION_CACHE=false`` keeps nothing.

    Nothing is kept by default for several host devices either: such a program, read
    from disk, can wait for ever in its collectives (jaxlib 0.10.2).

    Raises:
      CacheFolderError: nothing can be written there.
    """
    environment = os.environ
    if environment.get(ENABLED, "").lower() in ("0", "false", "f", "n", "no", "off"):
        return ""
    theirs = folder is None and FOLDER in environment
    if theirs:
        chosen = environment[FOLDER]
    elif folder is None and _host_devices() > 1:
        chosen = ""
    else:
        chosen = str(folder or _own_folder())
    if not chosen:
        return ""
    if "://" not in chosen:  # a bucket is jax's business
        _check(chosen)
    if not theirs:
        given = {name: LIMITS[name] for name in LIMITS if name not in environment}
        _set({FOLDER: chosen, **given})
    return chosen


def disable_compilation_cache() -> None:
    """Keep nothing in this process and those it starts."""
    _set({ENABLED: False})


def _own_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    return base / "vica_jax" / "xla" / _processor()


def _processor() -> str:
    """A short name for the instructions of this machine's processor."""
    told = platform.machine()
    try:
        flags = re.search(r"^(flags|Features)\s*:(.*)$", _cpu_info(), re.MULTILINE)
        told += flags[2] if flags else platform.processor()
    except OSError:  # no Linux
        told += platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def _cpu_info() -> str:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")


def _host_devices() -> int:
    """CPU devices that the environment asks jax for."""
    pattern = r"--xla_force_host_platform_device_count=(\d+)"
    counts = re.findall(pattern, os.environ.get("XLA_FLAGS", ""))
    counts += re.findall(r"^\d+$", os.environ.get("JAX_NUM_CPU_DEVICES", ""))
    return max(map(int, counts), default=1)


def _check(folder: str) -> None:
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise CacheFolderError(
            f"{folder}: compiled programs cannot be kept here: {reason}: set "
            f"{FOLDER} to another folder, or {ENABLED}=false"
        ) from None


def _set(values: dict[str, str | float | bool]) -> None:
    """For jax if it is there already, and for it and child processes otherwise."""
    for name, value in values.items():
        os.environ[name] = str(value).lower() if value is False else str(value)
        if "jax" in sys.modules:
            sys.modules["jax"].config.update(name.lower(), value)
