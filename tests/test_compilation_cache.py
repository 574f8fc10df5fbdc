"""Where compiled programs are kept, and when they are not."""

import os
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vica_jax import compilation_cache
from vica_jax.compilation_cache import (
    ENABLED,
    FOLDER,
    LIMITS,
    CacheFolderError,
    disable_compilation_cache,
    enable_compilation_cache,
)


@pytest.fixture
def settings(monkeypatch, tmp_path) -> dict:
    """An environment without settings; what jax would be told, if it were here."""
    for name in (FOLDER, ENABLED, *LIMITS, "XLA_FLAGS", "JAX_NUM_CPU_DEVICES"):
        # First set, so that what the code writes is taken away again.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told = {}
    jax = SimpleNamespace(config=SimpleNamespace(update=told.__setitem__))
    monkeypatch.setitem(sys.modules, "jax", jax)
    return told


def test_the_users_cache_folder(settings, tmp_path):
    folder = Path(enable_compilation_cache())
    assert folder.parent == tmp_path / "vica_jax" / "xla"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and not any(folder.iterdir())
    told = {name.upper(): value for name, value in settings.items()}
    assert told == {FOLDER: str(folder), **LIMITS}
    assert {name: os.environ[name] for name in told} == {
        name: str(value) for name, value in told.items()
    }
    assert enable_compilation_cache() == str(folder)  # again: the same


def test_without_jax_the_environment_alone_is_set(settings, monkeypatch):
    monkeypatch.delitem(sys.modules, "jax")
    assert enable_compilation_cache() == os.environ[FOLDER] and not settings


@pytest.mark.parametrize("home", ["", "relative/folder"])
def test_no_cache_home(settings, home, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    found = Path(enable_compilation_cache())
    assert found.parent == tmp_path / "me" / ".cache" / "vica_jax" / "xla"


def test_another_processor_has_another_folder(settings, monkeypatch):
    first = enable_compilation_cache()
    monkeypatch.delenv(FOLDER)
    monkeypatch.setattr(compilation_cache, "_cpu_info", lambda: "flags : sse avx512f\n")
    assert enable_compilation_cache() != first


def test_the_environment_comes_first(settings, monkeypatch, tmp_path):
    theirs = tmp_path / "theirs"
    monkeypatch.setenv(FOLDER, str(theirs))
    assert enable_compilation_cache() == str(theirs) and theirs.is_dir()
    assert not settings and not set(LIMITS) & set(os.environ)
    monkeypatch.setenv(FOLDER, "gs://bucket/programs")  # jax's business
    assert enable_compilation_cache() == "gs://bucket/programs"
    assert enable_compilation_cache(tmp_path / "mine") == str(tmp_path / "mine")
    assert settings[FOLDER.lower()] == str(tmp_path / "mine")
    monkeypatch.setenv(ENABLED, "false")
    assert enable_compilation_cache(tmp_path / "mine") == ""


def test_limits_that_are_set_stay(settings, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "7")
    assert enable_compilation_cache()
    assert "jax_compilation_cache_max_size" not in settings
    assert os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] == "7"


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("XLA_FLAGS", "--x=1 --xla_force_host_platform_device_count=4", False),
        ("JAX_NUM_CPU_DEVICES", "2", False),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=1", True),
    ],
)
def test_not_for_several_host_devices(settings, name, value, kept, monkeypatch):
    monkeypatch.setenv(name, value)
    assert bool(enable_compilation_cache()) == bool(settings) == kept


def test_a_folder_that_cannot_be(settings, tmp_path):
    (tmp_path / "vica_jax").write_text("a file where the folder should be")
    with pytest.raises(CacheFolderError, match="cannot be kept here: Not a directory"):
        enable_compilation_cache()
    assert not settings and FOLDER not in os.environ


def test_disabled(settings):
    disable_compilation_cache()
    assert settings == {ENABLED.lower(): False} and os.environ[ENABLED] == "false"
    assert enable_compilation_cache() == ""
