"""What a native checkpoint is: ``manifest.json`` and its dataclasses."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import ml_dtypes  # noqa: F401  (gives numpy the name "bfloat16")
import numpy as np

from vica_jax import __version__
from vica_jax.config import build, plain
from vica_jax.errors import InputError
from vica_jax.models.config import (
    ConfigError,
    HieraConfig,
    Qwen2Config,
    SiglipConfig,
    VicaConfig,
)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
PARAMS = "params"
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)

Family = Literal["vica_qwen", "llava_qwen", "component"]
ModelConfig = VicaConfig | SiglipConfig | HieraConfig | Qwen2Config
C = TypeVar("C", VicaConfig, SiglipConfig, HieraConfig, Qwen2Config)

LEAF_PATH = re.compile(r"\w+(/\w+)*", re.ASCII)
_PART = re.compile(r"part-\d+", re.ASCII)
_CONFIGS = {cls.__name__: cls for cls in get_args(ModelConfig)}


class CheckpointError(InputError):
    """A folder that cannot be read or written as a native checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive rows of a leaf: the part they lie in and their bytes' CRC-32."""

    part: str
    rows: int  # of axis 0; 1 for a scalar
    crc32: int


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One parameter: its shape, numpy dtype name and blocks in row order."""

    shape: tuple[int, ...]
    dtype: str
    blocks: tuple[Block, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``manifest.json`` says.

    ``config`` is a VicaConfig, or a single tower's config (or None) in the family
    "component". ``hf_config`` and ``generation_config`` are the source's files word
    for word, ``provenance`` says what the weights were made from, when and by what.
    """

    folder: Path  # where it was read; not in the file
    format_version: int
    family: Family
    config: ModelConfig | None
    hf_config: dict[str, Any] | None
    generation_config: dict[str, Any] | None
    provenance: dict[str, Any]
    tokenizer: tuple[str, ...]  # names of files
    leaves: dict[str, Leaf]
    parts: dict[str, dict[str, int]]  # size of every file below each part

    def __post_init__(self):
        if self.family != "component":
            if not isinstance(self.config, VicaConfig):
                raise ConfigError(f"family {self.family} needs a VicaConfig")
            if (self.family == "vica_qwen") != (self.config.hiera is not None):
                verb = "has no" if self.config.hiera else "needs a"
                raise ConfigError(f"family {self.family} {verb} Hiera tower")
        for name in self.tokenizer:
            if name not in TOKENIZER_FILES:
                raise ConfigError(f"unknown tokenizer file {name!r}")
        for path, leaf in self.leaves.items():
            _check_leaf(path, leaf, self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes of all leaves: what the parameters take in memory, undivided."""
        return sum(leaf.nbytes for leaf in self.leaves.values())

    @property
    def int8(self) -> bool:
        """Whether its kernels are of int8 (``models/quantize``): for inference only."""
        return any(leaf.dtype == "int8" for leaf in self.leaves.values())

    def check_float(self, purpose: str) -> None:
        """CheckpointError, naming the purpose, where the kernels are of int8."""
        if self.int8:
            raise CheckpointError(
                f"{self.folder}: its weights are int8, for inference only: {purpose} "
                "needs the checkpoint that they were made from"
            )

    @property
    def model_config(self) -> VicaConfig:
        """The config of a whole model; CheckpointError for a component."""
        if isinstance(self.config, VicaConfig):
            return self.config
        raise CheckpointError(
            f"{self.folder}: holds a component ({type(self.config).__name__}), not a "
            "whole model: give a converted ViCA or ViCA2"
        )

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer's files lie; CheckpointError where there are none."""
        if self.tokenizer:
            return self.folder / TOKENIZER
        raise CheckpointError(f"{self.folder}: holds no tokenizer")

    def to_json(self) -> str:
        values = plain(self)
        del values["folder"]
        if self.config is not None:
            values["config"] = {"type": type(self.config).__name__, **values["config"]}
        return json.dumps(values, indent=1)


def rows_of(shape: tuple[int, ...]) -> int:
    """Length of axis 0, along which leaves are cut; 1 for a scalar."""
    return shape[0] if shape else 1


def _check_leaf(path: str, leaf: Leaf, parts: Mapping[str, Any]) -> None:
    if not LEAF_PATH.fullmatch(path):
        raise ConfigError(f"{path!r} cannot name a leaf")
    try:
        np.dtype(leaf.dtype)
    except TypeError:
        raise ConfigError(f"leaf {path} has the unknown dtype {leaf.dtype!r}") from None
    rows = [block.rows for block in leaf.blocks]
    if sum(rows) != rows_of(leaf.shape) or min(*rows, *leaf.shape, 1) < 1:
        raise ConfigError(f"the blocks of leaf {path} do not add up to its shape")
    if len({block.part for block in leaf.blocks}) != len(rows):
        raise ConfigError(f"leaf {path} names a part twice")
    for block in leaf.blocks:
        if not _PART.fullmatch(block.part) or block.part not in parts:
            raise ConfigError(f"leaf {path} names the unknown part {block.part!r}")


def model_config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """A model config as JSON values (tuples become lists)."""
    return plain(config)


def model_config_from_dict(
    values: Mapping[str, Any], cls: type[C] = VicaConfig, where: str = "config"
) -> C:
    """The inverse of ``model_config_to_dict``; every key has to be there, no other.

    Raises:
      ConfigError: a key is unknown, missing or of the wrong type; the message names it.
    """
    return build(cls, values, where=where, complete=True)


def is_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is a finished native checkpoint (its contents unread)."""
    return Path(folder, MANIFEST).is_file()


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of a finished checkpoint, every field checked.

    Raises:
      CheckpointError: no such folder, not a checkpoint, unfinished, of another format
        version, or a manifest that is damaged.
    """
    file = Path(folder, MANIFEST)
    if not file.is_file():
        raise CheckpointError(_why_not(Path(folder)))
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file}: cannot be read ({error}): convert the checkpoint again"
        ) from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{file}: format version {version!r}, but vica_jax {__version__} reads "
            f"{FORMAT_VERSION}: take the vica_jax that wrote it or convert again"
        )
    try:
        if isinstance(values.get("config"), dict):
            values["config"] = _typed_config(values["config"])
        values["folder"] = str(folder)
        return build(Manifest, values, where="manifest", complete=True)
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from None


def fingerprint(folder: str | os.PathLike[str], prefix: str = "") -> str:
    """What identifies a checkpoint's weights: a SHA-256 over its table of leaves.

    Paths, shapes, dtypes and CRC-32s; not where the leaves lie, nor anything else in
    the manifest. The weights themselves are not read. With ``prefix`` only of the
    leaves whose path begins so.

    Raises:
      CheckpointError: see ``read_manifest``.
    """
    leaves = read_manifest(folder).leaves
    table = [
        [path, leaf.shape, leaf.dtype, [(b.rows, b.crc32) for b in leaf.blocks]]
        for path, leaf in sorted(leaves.items())
        if path.startswith(prefix)
    ]
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()


def _typed_config(values: dict[str, Any]) -> ModelConfig:
    name = values.pop("type", None)
    if name not in _CONFIGS:
        raise ConfigError(f"manifest.config: no config has the type {name!r}")
    return build(_CONFIGS[name], values, where="manifest.config", complete=True)


def _why_not(folder: Path) -> str:
    """Why a folder without a manifest is no checkpoint, and what to do."""
    if folder.is_file():
        return f"{folder} is a file: give the folder of a checkpoint"
    if not folder.exists():
        if stale := partial_folders(folder.absolute()):
            return f"{folder}: no such folder; {stale[0]} is an unfinished conversion"
        return f"{folder}: no such folder"
    if (folder / PARAMS).exists() or ".partial-" in folder.name:
        return f"{folder}: unfinished (no {MANIFEST}): convert the checkpoint again"
    if (folder / "config.json").is_file():
        return (
            f"{folder}: no {MANIFEST}; it looks like a Hugging Face folder: convert "
            "it with python -m scripts.convert_checkpoint"
        )
    return f"{folder}: not a checkpoint (no {MANIFEST})"


def partial_folders(target: Path) -> list[Path]:
    """Hidden siblings of ``target`` that its conversions left, or still write."""
    if not target.parent.is_dir():
        return []
    prefix = f".{target.name}.partial-"
    return sorted(p for p in target.parent.iterdir() if p.name.startswith(prefix))
