"""Whether a workdir's run may go on with the settings and data given now."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vica_jax.train.stage import RunError

# What may differ between a run and its resumption; everything else is refused.
FREE = (
    "data.num_workers",
    "data.image_folder",
    "data.hiera_cache",
    "data.frame_cache",
    "data.frame_cache_gb",
    "data.video_folder",
    "data.max_bad_share",
    "per_device_batch_size",
    "frame_chunk",
    "remat",
    "mesh",
    "checkpoint",
    "log",
    "max_steps",
    "validate_every",
    "validation_batches",
    "export_hf",
    "export_hf_every",
    "init_from",
)


def check_fresh(export: Path) -> None:
    """Raise RunError where a run that begins would be taken for one that has ended."""
    if export.exists():
        raise RunError(
            f"{export.parent}: {export.name}/ is there, but no checkpoint of the run "
            "that it came from: take another --workdir, or move it away to begin again"
        )


def check_resumable(
    record: Mapping[str, Any], now: Mapping[str, Any], workdir: Path
) -> None:
    """Raise RunError where a resumed run would not be the run that was begun."""
    if record["base_fingerprint"] != now["base_fingerprint"]:
        raise RunError(
            f"{workdir}: this run started from {record['base']}, whose weights are not "
            f"those of {now['base']}: give the same --config.init_from, or another "
            "--workdir"
        )
    if record["digest"] != now["digest"]:
        raise RunError(
            f"{workdir}: the mixture has changed since this run began (it had "
            f"{record['samples']:,} samples, now {now['samples']:,}): give the same "
            "data, or another --workdir"
        )
    check_same_settings(record["config"], now["config"], FREE, workdir)
    if record["total_steps"] != now["total_steps"] and not (
        now["config"]["max_steps"] != record["config"]["max_steps"]
        and now["config"]["optimizer"]["schedule"] == "constant"
    ):
        raise RunError(
            f"{workdir}: this run is {record['total_steps']} steps long, now it would "
            f"be {now['total_steps']}, with another schedule: resume with the same "
            "max_steps, or take another --workdir"
        )


def check_same_settings(
    began: Mapping[str, Any], now: Mapping[str, Any], free: Sequence[str], workdir: Path
) -> None:
    """Raise RunError where a setting has changed that is not ``free`` to change.

    Settings are nested; a name in ``free`` frees what is below it too.
    """
    before, after = dict(_flat(began)), dict(_flat(now))
    for key in sorted(before.keys() | after.keys()):
        may = any(key == name or key.startswith(f"{name}.") for name in free)
        if not may and before.get(key) != after.get(key):
            raise RunError(
                f"{workdir}: this run began with {key} = {before.get(key)!r}, now it "
                f"is {after.get(key)!r}: resume with the former, or take another "
                "--workdir"
            )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
