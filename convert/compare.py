"""A native checkpoint beside transformers' torch classes, layer by layer.

Every layer is read from the native checkpoint and from the Hugging Face folder, given
the same random input on both sides in float32, and let go before the next one: a 7B
checkpoint is compared within a few gigabytes. The weights themselves are compared bit
for bit, so that a changed value is found and named even where no output shows it.

The folder's tensors are first cast to the dtype of the native leaves: a checkpoint that
was converted to bfloat16 is compared as bfloat16.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert import torch_peer
from convert.ops import contiguous
from convert.rules import Row, check_finite, nest
from convert.twins import Part, parts
from convert.vica import AnyConfig, HfFolder, open_folder
from vica_jax import __version__
from vica_jax.checkpoint import CheckpointError, Manifest, iter_leaves, read_manifest
from vica_jax.errors import InputError
from vica_jax.files import write_text
from vica_jax.models.config import VicaConfig

TOLERANCE = 1e-4
REPORT = "parity.json"

Progress = Callable[[str], None]


def compare(
    native: str | os.PathLike, hf: str | os.PathLike, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """One row for each part of a native checkpoint beside a Hugging Face folder.

    Returns:
      Dicts ``{module, part, max_abs, max_rel, differing, ok}``: the largest absolute
      error, that error over the largest value of the peer's output, and the folder's
      tensors whose values are not those of the native leaves. A part is ok when none
      differs and ``max_rel`` is below 1e-4.

    Raises:
      InputError: one of them is not a checkpoint or holds NaN, they are not of the same
        sizes, or torch is not installed.
    """
    manifest, source = read_manifest(native), open_folder(hf)
    manifest.check_float("comparing with a Hugging Face folder")
    _check_same_model(Path(native), manifest, source)
    _versions()
    results = []
    for part in parts(source.config):
        if progress is not None:
            progress(f"{part.module} {part.part}")
        rows = [row for row in source.rows if part.owns(row.native)]
        leaves = dict(iter_leaves(native, [row.native for row in rows]))
        results.append(_compare_part(part, rows, leaves, source.checkpoint.read))
    return results


def verify_against(
    native: str | os.PathLike, hf: str | os.PathLike, progress: Progress | None = None
) -> dict[str, Any]:
    """``compare`` with its conditions, also written as parity.json beside the weights.

    Returns:
      ``{ok, worst, tolerance, rows, against, date, versions}``; ``worst`` is the
      largest ``max_rel``.

    Raises:
      InputError: as ``compare``, or parity.json cannot be written.
    """
    rows = compare(native, hf, progress)
    report = {
        "ok": all(row["ok"] for row in rows),
        "worst": max(row["max_rel"] for row in rows),
        "tolerance": TOLERANCE,
        "against": Path(hf).resolve().name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "rows": rows,
    }
    path = Path(native, REPORT)
    try:
        write_text(path, json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    return report


def _compare_part(
    part: Part,
    rows: Sequence[Row],
    leaves: dict[str, np.ndarray],
    read: Callable[[str], np.ndarray],
) -> dict[str, Any]:
    tensors, params, differing = {}, {}, []
    for row in rows:
        leaf = check_finite(row.native, leaves.pop(row.native))
        theirs = check_finite(row.hf, read(row.hf)).astype(leaf.dtype, copy=False)
        if not np.array_equal(_bits(row.op.forward(theirs)), _bits(leaf)):
            differing.append(row.hf)
        name = part.names.get(row.native, row.native)
        tensors[name] = theirs.astype(np.float32, copy=False)
        params[row.native] = jnp.asarray(leaf.astype(np.float32, copy=False))
    if part.run is not None:
        ours, theirs = part.run(nest(params.items()), tensors)
    else:
        ours, theirs = (_joined(x.values()) for x in (params, tensors))
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        raise AssertionError((part.module, part.part, ours.shape, theirs.shape))
    error = float(np.abs(ours - theirs).max())
    relative = error / max(float(np.abs(theirs).max()), np.finfo(np.float32).tiny)
    return {
        "module": part.module,
        "part": part.part,
        "max_abs": error,
        "max_rel": relative,
        "differing": differing,
        "ok": not differing and relative < TOLERANCE,
    }


def _check_same_model(native: Path, manifest: Manifest, source: HfFolder) -> None:
    hf = source.checkpoint.path
    for name, own, other in _towers(manifest.config, source.config):
        if own != other:
            raise InputError(
                f"{native} and {hf} are different models: {name} is {own} in the first "
                f"and {other} in the second"
            )
    paths = {row.native for row in source.rows}
    if odd := sorted(paths ^ manifest.leaves.keys()):
        side = hf if odd[0] in paths else native
        raise CheckpointError(f"{native}: leaf {odd[0]} is only in {side}")
    for row in source.rows:
        if (found := manifest.leaves[row.native].shape) != row.native_shape:
            raise CheckpointError(
                f"{native}: leaf {row.native} has shape {list(found)}, the model's has "
                f"{list(row.native_shape)}: convert the checkpoint again"
            )


def _towers(own: AnyConfig | None, other: AnyConfig) -> Iterable[tuple[str, Any, Any]]:
    """Sizes to compare, by name; the token ratio is not a matter of the weights."""
    if not isinstance(own, VicaConfig) or not isinstance(other, VicaConfig):
        yield "the config", own, other
        return
    for tower in ("siglip", "hiera", "llm"):
        a, b = getattr(own, tower), getattr(other, tower)
        if a is None or b is None:
            yield tower, a, b
            continue
        for field in fields(a):
            name = field.name
            yield f"{tower}.{name}", getattr(a, name), getattr(b, name)


def _versions() -> dict[str, str]:
    try:
        peer = torch_peer.versions()
    except ImportError:
        raise InputError(
            "comparing with torch needs the extra [parity]: pip install "
            "'vica-jax[parity]'"
        ) from None
    return {"vica_jax": __version__, "jax": jax.__version__, **peer}


def _bits(x: np.ndarray) -> np.ndarray:
    return contiguous(x).view(f"u{x.dtype.itemsize}")


def _joined(values: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([x.reshape(-1) for x in values])
