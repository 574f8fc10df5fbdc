"""PEFT LoRA folders: what an adapter adds to or replaces in our parameter tree.

An adapter holds, for a linear layer W [out, in], two matrices A [r, in] and B [out, r];
the layer then computes with W + scale * B A, where scale is lora_alpha / r (or
lora_alpha / sqrt(r) with rslora). The sum is made in float32, on our side's axes.

File format: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convert.rules import Row, cast, check_finite
from convert.safetensors_io import (
    CheckpointError,
    LazyCheckpoint,
    open_file,
    read_json,
)
from vica_jax.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = ("adapter_model.bin", "non_lora_trainables.bin")
FLOAT32 = np.dtype(np.float32)
# Key, and the values with which B A is all that the adapter does.
PLAIN = (
    ("peft_type", ("LORA",)),
    ("bias", ("none", None)),
    ("use_dora", (False, None)),
    ("lora_bias", (False, None)),
    ("use_qalora", (False, None)),
    ("layer_replication", (None,)),
    ("trainable_token_indices", (None,)),
    ("target_parameters", (None,)),
    # The others (pissa, olora, corda, loftq, ...) change the base weights too.
    ("init_lora_weights", (True, False, None, "gaussian", "eva", "orthogonal")),
)


# What one weight may have: a pair, or one tensor that replaces it.
PARTS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"), ("",))


class AdapterError(InputError):
    """An adapter that cannot be applied; the message lists why."""


class AdapterUpdate(NamedTuple):
    """A float32 array in our axes: added to the leaf, or its new value."""

    native_path: str
    value: np.ndarray
    replaces: bool


class _Target(NamedTuple):
    row: Row
    scale: float
    keys: tuple[str, ...]  # (A, B), or the replacing tensor alone
    is_embedding: bool


@dataclass(frozen=True)
class Adapter:
    """An audited adapter; values are read and multiplied when asked for."""

    checkpoint: LazyCheckpoint
    targets: dict[str, _Target]  # by native path

    @property
    def native_paths(self) -> tuple[str, ...]:
        return tuple(self.targets)

    def update(self, native_path: str) -> AdapterUpdate:
        """The update of one leaf.

        Raises:
          ConversionError: its tensors hold NaN or Inf or are not floats.
        """
        target = self.targets[native_path]
        parts = [self._read(key) for key in target.keys]
        if len(parts) == 1:
            value = parts[0]
        else:
            a, b = parts
            value = (b @ a) * np.float32(target.scale)
            value = value.T if target.is_embedding else value
        replaces = len(parts) == 1
        return AdapterUpdate(native_path, target.row.op.forward(value), replaces)

    def apply(self, native_path: str, leaf: np.ndarray) -> np.ndarray:
        """``leaf`` with its update, summed in float32, in the leaf's dtype.

        Leaves that the adapter does not touch come back as they are.
        """
        if native_path not in self.targets:
            return leaf
        _, value, replaces = self.update(native_path)
        merged = value if replaces else leaf.astype(np.float32) + value
        return check_finite(native_path, cast(native_path, merged, leaf.dtype))

    def _read(self, key: str) -> np.ndarray:
        return check_finite(key, cast(key, self.checkpoint.read(key), FLOAT32))


def read_adapter(
    folder: str | os.PathLike, rows: Sequence[Row]
) -> Iterator[AdapterUpdate]:
    """Every update of a PEFT folder, one at a time; see ``open_adapter``."""
    adapter = open_adapter(folder, rows)
    return (adapter.update(path) for path in adapter.native_paths)


def open_adapter(folder: str | os.PathLike, rows: Sequence[Row]) -> Adapter:
    """Open a PEFT LoRA folder for the model of ``rows``, without reading tensors.

    Raises:
      CheckpointError: a file is missing or damaged.
      AdapterError: not a plain LoRA, or tensors that do not fit the model; tensors are
        reported all at once.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such adapter folder")
    for name in PICKLES:
        if (folder / name).exists() and (
            name != PICKLES[0] or not (folder / WEIGHTS).exists()
        ):
            raise CheckpointError(
                f"{folder}: {name} is a pickle, which is never read (it can run "
                "code); save the adapter again as safetensors where it is trusted"
            )
    config = read_json(folder / CONFIG)
    _check_config(folder, config)
    checkpoint = open_file(folder / WEIGHTS)
    return Adapter(checkpoint, _targets(folder, config, checkpoint, rows))


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    where = folder / CONFIG
    for key, supported in PLAIN:
        value = config.get(key)
        if not any(type(value) is type(s) and value == s for s in supported):
            shown = " or ".join(repr(s) for s in supported if s is not None) or "null"
            raise AdapterError(
                f"{where}: {key} = {value!r} is not supported (supported: {shown})"
            )
    numbers = {"r": config.get("r"), "lora_alpha": config.get("lora_alpha")}
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict):
            raise AdapterError(f"{where}: {name} is not an object")
        numbers |= {f"{name}[{key}]": value for key, value in patterns.items()}
    for name, value in numbers.items():
        if not isinstance(value, int | float) or value is True or value <= 0:
            raise AdapterError(f"{where}: {name} = {value!r} is not a positive number")


def _targets(
    folder: Path,
    config: dict[str, Any],
    checkpoint: LazyCheckpoint,
    rows: Sequence[Row],
) -> dict[str, _Target]:
    by_name = {row.hf: row for row in rows}
    keys: dict[str, dict[str, str]] = {}
    problems = []
    for key in checkpoint.names:
        name, part = _parse(key)
        if name not in by_name:
            problems.append(f"{key}: not a weight of this model")
        elif part in keys.setdefault(name, {}):
            problems.append(f"{key}: stands for the same as {keys[name][part]}")
        else:
            keys[name][part] = key
    targets = {}
    for name, parts in keys.items():
        row = by_name[name]
        if tuple(sorted(parts)) not in PARTS:
            found = " and ".join(sorted(parts.values()))
            problems.append(f"{name}: {found} alone or mixed, not a pair A and B")
            continue
        rank, scale = _rank_and_scale(config, name.removesuffix(".weight"))
        for part, shape in _shapes(row.hf_shape, rank).items():
            found = checkpoint.shape(parts[part]) if part in parts else shape
            if found != shape:
                problems.append(
                    f"{parts[part]}: expected shape {list(shape)}, found {list(found)}"
                )
        pair = tuple(parts[part] for part in sorted(parts))
        targets[row.native] = _Target(row, scale, pair, "lora_embedding_A" in parts)
    if problems or not targets:
        raise AdapterError(_misfit(folder, problems or ["it holds no tensors"]))
    return targets


def _shapes(weight: tuple[int, ...], rank: int) -> dict[str, tuple[int, ...]]:
    """Shapes that an adapter's tensors must have, by part, for one HF weight."""
    shapes = {"": weight}
    if len(weight) == 2:
        out, wide = weight
        shapes |= {"lora_A": (rank, wide), "lora_B": (out, rank)}
        # An embedding [V, D] is looked up, not multiplied: its delta is (B A)^T.
        shapes |= {"lora_embedding_A": (rank, out), "lora_embedding_B": (wide, rank)}
        return shapes
    never = (-1, -1)  # a vector or convolution has no such pair
    return shapes | {"lora_A": never, "lora_B": never}


def _misfit(folder: Path, problems: list[str], most: int = 12) -> str:
    lines = [f"{folder}: the adapter does not fit the model ({len(problems)} problems)"]
    lines += [f"  {problem}" for problem in problems[:most]]
    if len(problems) > most:
        lines.append(f"  ... and {len(problems) - most} more")
    return "\n".join(lines)


def _parse(key: str) -> tuple[str, str]:
    """``(HF weight name, lora part)``; the part is empty for a replacing tensor."""
    name = key.removeprefix("base_model.model.")
    found = re.fullmatch(r"(.+)\.(lora_[AB])(?:\.default)?\.weight", name)
    found = found or re.fullmatch(r"(.+)\.(lora_embedding_[AB])(?:\.default)?", name)
    if found:
        return f"{found[1]}.weight", found[2]
    return re.sub(r"\.modules_to_save(\.default)?(?=\.)", "", name), ""


def _rank_and_scale(config: dict[str, Any], module: str) -> tuple[int, float]:
    # fan_in_fan_out is not looked at: it says that the adapted layer keeps its weight
    # as [in, out] (GPT-2's Conv1D), which no layer here does, and PEFT itself turns it
    # off for linear layers.
    rank = _own(config, "rank_pattern", module, config["r"])
    alpha = _own(config, "alpha_pattern", module, config["lora_alpha"])
    return rank, alpha / (sqrt(rank) if config.get("use_rslora") else rank)


def _own(config: dict[str, Any], key: str, module: str, default: float) -> Any:
    """A module's own rank or alpha: the first pattern that its name ends with."""
    for pattern, value in (config.get(key) or {}).items():
        try:
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
                return value
        except re.error as error:
            raise AdapterError(f"{key}: bad pattern {pattern!r} ({error})") from None
    return default
