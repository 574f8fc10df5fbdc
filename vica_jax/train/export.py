"""From a saved step of a run to the whole model: leaf by leaf, from disk alone.

A step holds the leaves in training, stacked and in float32; the others are those of the
native checkpoint that the run started from. Together they make a native checkpoint:
untrained leaves bit for bit, trained ones layer by layer and cast to the dtype that the
leaf has in the base, adapters (LoRA) added to their kernels. Config, tokenizer and
generation settings travel on; ``provenance`` says what the weights were made from.

No device is needed, and any process can do it while training goes on. Memory holds one
leaf, and of a leaf in training one layer.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (gives numpy the name "bfloat16")
import numpy as np

from vica_jax.checkpoint import (
    CheckpointError,
    CheckpointWriter,
    Manifest,
    SavedStep,
    fingerprint,
    iter_leaves,
    read_manifest,
    read_step,
)
from vica_jax.checkpoint.step import LeafReader
from vica_jax.train.partition import STACKS

PARAMS = "params/"  # where a TrainState keeps the leaves in training
A, B = "lora_a", "lora_b"


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The model of a saved step, its leaves read when they are asked for.

    ``manifest`` is that of the native checkpoint it would make; what it says of parts
    and blocks is the base's.
    """

    saved: SavedStep
    base: Path
    manifest: Manifest
    _readers: dict[str, LeafReader] = field(default_factory=dict)

    def leaves(
        self, paths: Collection[str] | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Leaves with their paths, in the order given (None: the base's).

        Raises:
          CheckpointError: files of the step or of the base are damaged.
        """
        paths = list(self.manifest.leaves if paths is None else paths)
        untrained = [path for path in paths if path not in self._trained]
        stored = iter_leaves(self.base, untrained)
        for path in paths:
            name, layer = stacked(path)
            dtype = self.manifest.leaves[path].dtype
            module = name.rpartition("/")[0]
            if path in self._trained:
                # Adapters of a kernel that trains too are added to it in float32.
                wide = "float32" if self._has_adapter(path) else dtype
                leaf = self._read(name, layer, wide)
            else:
                found, leaf = next(stored)
                assert found == path, (found, path)
            if self._has_adapter(path):
                a = self._read(f"{module}/{A}", layer, "float32")
                b = self._read(f"{module}/{B}", layer, "float32")
                leaf = self._merge(leaf, a, b)
            yield path, leaf.astype(dtype, copy=False)

    @cached_property
    def _trained(self) -> set[str]:
        """Leaves of the model that the step holds whole."""
        return {p for p in self.manifest.leaves if self._holds(stacked(p)[0])}

    def _holds(self, name: str) -> bool:
        return PARAMS + name in self.saved.leaves

    def _has_adapter(self, path: str) -> bool:
        module, _, leaf = stacked(path)[0].rpartition("/")
        return leaf == "kernel" and self._holds(f"{module}/{A}")

    def _read(self, name: str, layer: int | None, dtype: str) -> np.ndarray:
        path = PARAMS + name
        # Readers stay: each compares its checksum once all layers were read.
        reader = self._readers.setdefault(path, LeafReader(saved=self.saved, path=path))
        return reader.read(layer, dtype=dtype)

    def _merge(self, kernel: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        from vica_jax.train.lora import merge_kernel

        lora = self.saved.record["config"]["lora"]
        wide = kernel.astype(np.float32, copy=False)
        return merge_kernel(wide, a, b, lora["alpha"] / lora["rank"])


def stacked(path: str) -> tuple[str, int | None]:
    """A leaf's name where stacks are one array, and its layer there (None: whole)."""
    if found := STACKS.fullmatch(path):
        return f"{found[1]}/block/{found[3]}", int(found[2])
    return path, None


def open_trained(
    checkpoints: str | os.PathLike[str],
    step: int,
    base: str | os.PathLike[str] | None = None,
    *,
    dtype: str | None = None,
) -> TrainedModel:
    """The model of a saved step, for ``export_native`` and for the Hugging Face form.

    Args:
      checkpoints: a run's ``checkpoints`` folder.
      base: the native checkpoint that the run started from; None: where it was then.
      dtype: what trained leaves become; None: the dtype that each has in ``base``.

    Raises:
      CheckpointError: no such step or base, a base of other weights, or leaves that are
        not those of the base's model.
    """
    saved = read_step(checkpoints, step)
    folder = _find_base(saved, base)
    before = read_manifest(folder)
    model = TrainedModel(saved=saved, base=folder, manifest=before)
    _check_leaves(model)
    changed = {p for p in before.leaves if p in model._trained or model._has_adapter(p)}
    leaves = {
        path: replace(leaf, dtype=dtype) if dtype and path in changed else leaf
        for path, leaf in before.leaves.items()
    }
    manifest = replace(before, leaves=leaves, provenance=_provenance(saved, before))
    return replace(model, manifest=manifest)


def export_native(
    checkpoints: str | os.PathLike[str],
    step: int,
    base: str | os.PathLike[str] | None,
    target: str | os.PathLike[str],
    *,
    dtype: str | None = None,
) -> Manifest:
    """Write the model of a saved step as a native checkpoint; see ``open_trained``.

    ``target`` appears when it is whole; it must not exist, or be an empty folder.

    Raises:
      CheckpointError: see ``open_trained``; the target is taken or the disk is full.
    """
    model = open_trained(checkpoints, step, base, dtype=dtype)
    manifest = model.manifest
    with CheckpointWriter(target, expected_bytes=manifest.nbytes) as writer:
        for path, leaf in model.leaves():
            writer.write(path, leaf)
        if manifest.tokenizer:
            writer.copy_tokenizer(manifest.tokenizer_folder)
        return writer.finish(
            family=manifest.family,
            config=manifest.config,
            hf_config=manifest.hf_config,
            generation_config=manifest.generation_config,
            provenance=manifest.provenance,
        )


def _find_base(saved: SavedStep, base: str | os.PathLike[str] | None) -> Path:
    """The native checkpoint a run started from, certain to hold the same weights."""
    recorded = saved.record.get("base")
    if recorded is None:
        raise CheckpointError(f"{saved.folder}: its record names no base checkpoint")
    folder = Path(recorded if base is None else base)
    if base is None and not folder.is_dir():
        raise CheckpointError(
            f"{saved.folder}: this run started from {recorded}, which is not there any "
            "more: give the folder where it is now with --base=DIR"
        )
    if fingerprint(folder) != saved.record["base_fingerprint"]:
        raise CheckpointError(
            f"{folder}: not the weights that the run of {saved.folder} started from "
            f"({recorded} at the time): give a copy of those with --base=DIR"
        )
    return folder


def _check_leaves(model: TrainedModel) -> None:
    """Refuse a step whose trained leaves are not leaves of the base."""
    shapes: dict[str, tuple[int, ...]] = {}  # as the step must hold them
    for path, leaf in model.manifest.leaves.items():
        name, layer = stacked(path)
        layers = () if layer is None else (shapes.get(name, (0,))[0] + 1,)
        shapes[name] = (*layers, *leaf.shape)
    for path, leaf in model.saved.leaves.items():
        name = path.removeprefix(PARAMS)
        if name == path:
            continue
        module, _, last = name.rpartition("/")
        adapter = last in (A, B)
        wanted = shapes.get(f"{module}/kernel" if adapter else name)
        if wanted is None or (not adapter and leaf.shape != wanted):
            there = f"has shape {list(wanted)}" if wanted else "is not there"
            raise CheckpointError(
                f"{model.saved.folder}: leaf {name} has shape {list(leaf.shape)}, in "
                f"{model.base} it {there}: give the checkpoint that this run started "
                "from with --base=DIR"
            )


def _provenance(saved: SavedStep, before: Manifest) -> dict[str, Any]:
    record = saved.record
    config = record["config"]
    made: dict[str, Any] = {
        "base": Path(record["base"]).name,
        "base_fingerprint": record["base_fingerprint"],
        "stage": config["name"],
        "step": saved.step,
        "consumed": record["consumed"],
        "epoch": record["epoch"],
        "lora": config["lora"],
        "base_provenance": before.provenance,
    }
    if "dtype" in before.provenance:  # what to_hf writes into config.json
        made["dtype"] = before.provenance["dtype"]
    return made
