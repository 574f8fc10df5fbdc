"""Trained adapters as a PEFT folder, which PEFT itself and ``convert.adapter`` read.

A pair of ours, A ``[in..., r]`` and B ``[r, out...]`` beside a kernel, becomes
``lora_A [r, in]`` and ``lora_B [out, r]`` of the HF module whose weight the kernel is.
Other trained leaves go along whole, as PEFT's ``modules_to_save``.

File format: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convert.adapter import CONFIG, WEIGHTS, AdapterError
from convert.ops import FusedQKV, MergeHeads, SplitHeads, Transpose
from convert.rules import Row, cast, check_finite
from convert.safetensors_io import SINGLE, CheckpointError, write_json, write_sharded

PREFIX = "base_model.model."
PARTS = {"lora_a": "lora_A", "lora_b": "lora_B"}
PRODUCTS = (Transpose, SplitHeads, FusedQKV, MergeHeads)  # weights [out, in]


class _Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    values: np.ndarray


def write_adapter(
    target: str | os.PathLike,
    rows: Sequence[Row],
    leaves: Mapping[str, Any],
    *,
    alpha: float,
    dropout: float = 0.0,
    base_name: str | None = None,
) -> Path:
    """Write a PEFT LoRA folder; it appears under its name when it is whole.

    Args:
      target: a folder that is absent or empty.
      rows: the model's tensors (``convert.vica.model_rows``).
      leaves: native path -> array, of every trained leaf and no other: pairs
        ``.../lora_a`` and ``.../lora_b``, and whole leaves. Stacks
        (``llm/layers/block/...``) are taken apart here.
      alpha: lora_alpha; the scale is alpha / rank.
      dropout: what the adapters were trained with.
      base_name: folder or hub id of the base model, for PEFT's ``from_pretrained``.

    Raises:
      AdapterError: a leaf that is not of this model or not half of a fitting pair, or
        pairs of several ranks.
      ConversionError: a leaf holds NaN or Inf.
      CheckpointError: the target is not free or cannot be written.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(
            f"{target} exists and is not an empty folder: remove it or choose another"
        )
    tensors = [*_tensors(rows, dict(_unstacked(leaves)))]
    ranks = {x.shape[0] for x in tensors if x.name.endswith(".lora_A.weight")}
    if len(ranks) != 1:
        found = ", ".join(map(str, sorted(ranks))) or "none (no adapter among them)"
        raise AdapterError(f"an adapter folder has one rank; these leaves have {found}")
    (rank,) = ranks
    config = _config(tensors, rank, alpha, dropout, base_name)
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        write_sharded(partial, tensors, max_shard_bytes=sys.maxsize)
        (partial / SINGLE).rename(partial / WEIGHTS)
        write_json(partial / CONFIG, config)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        raise CheckpointError(f"{target}: cannot write here: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _unstacked(leaves: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for path, leaf in leaves.items():
        array = np.asarray(leaf)
        before, block, after = path.partition("/layers/block/")
        if not block:
            yield path, array
            continue
        for i, layer in enumerate(array):
            yield f"{before}/layers/{i}/{after}", layer


def _tensors(
    rows: Sequence[Row], leaves: Mapping[str, np.ndarray]
) -> Iterator[_Tensor]:
    """Tensors under PEFT's names, in the order of the model's own."""
    left = dict(leaves)
    for row in rows:
        module, _, name = row.native.rpartition("/")
        parts = PARTS if name == "kernel" else ()
        pair = {p: left.pop(f"{module}/{p}") for p in parts if f"{module}/{p}" in left}
        whole = left.pop(row.native, None)
        if pair and whole is not None:
            raise AdapterError(f"{row.native}: trained both whole and by an adapter")
        if pair:
            hf = row.hf.removesuffix(".weight")
            for part, array in _pair(row, pair).items():
                key = f"{PREFIX}{hf}.{PARTS[part]}.weight"
                yield _tensor(f"{module}/{part}", key, array)
        elif whole is not None:
            if whole.shape != row.native_shape:
                raise AdapterError(
                    f"{row.native}: expected shape {list(row.native_shape)}, found "
                    f"{list(whole.shape)}"
                )
            yield _tensor(row.native, PREFIX + row.hf, row.op.inverse(whole))
    if left:
        raise AdapterError(
            f"{len(left)} leaves are not of this model, {min(left)} first: take the "
            "rows of its own config"
        )


def _pair(row: Row, pair: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``{"lora_a": [r, in], "lora_b": [out, r]}`` of one weight [out, in]."""
    module = row.native.rpartition("/")[0]
    if len(pair) < len(PARTS):
        raise AdapterError(f"{module}: has half an adapter, {', '.join(pair)} alone")
    a, b = pair["lora_a"], pair["lora_b"]
    if not isinstance(row.op, PRODUCTS):
        raise AdapterError(f"{module}: is no matrix product, so it takes no adapter")
    out, wide = row.hf_shape
    rank, kernel = a.shape[-1], row.native_shape
    # Every such weight is its kernel, axes joined to [in, out], transposed.
    if (
        b.shape[:1] != (rank,)
        or (*a.shape[:-1], *b.shape[1:]) != kernel
        or (prod(a.shape[:-1]), prod(b.shape[1:])) != (wide, out)
    ):
        raise AdapterError(
            f"{module}: lora_a {list(a.shape)} and lora_b {list(b.shape)} do not fit "
            f"the kernel {list(kernel)}"
        )
    return {"lora_a": a.reshape(wide, rank).T, "lora_b": b.reshape(rank, out).T}


def _tensor(path: str, key: str, array: np.ndarray) -> _Tensor:
    array = check_finite(path, cast(path, array, None))
    return _Tensor(key, array.shape, array.dtype, array)


def _config(
    tensors: Sequence[_Tensor],
    rank: int,
    alpha: float,
    dropout: float,
    base_name: str | None,
) -> dict[str, Any]:
    names = [tensor.name.removeprefix(PREFIX) for tensor in tensors]
    # Whole names: short ones (q_proj) would also mean the vision tower's layers.
    adapted = [
        name.removesuffix(".lora_A.weight")
        for name in names
        if name.endswith(".lora_A.weight")
    ]
    # What lies in no module of its own (a bare parameter) PEFT cannot name.
    saved = {
        name.rpartition(".")[0]
        for name in names
        if ".lora_" not in name and name.endswith((".weight", ".bias"))
    }
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "revision": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": dropout,
        "target_modules": adapted,
        "modules_to_save": sorted(saved) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
    }
