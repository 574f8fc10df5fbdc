"""Checkpoints whose language model is of int8, written leaf by leaf.

    to_native(source, target, quantize="int8")    out of a Hugging Face folder
    quantize_native(source, target)               out of a native checkpoint

What int8 stands for, and how, says ``vica_jax/models/quantize.py``.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from vica_jax.checkpoint import (
    CheckpointWriter,
    Manifest,
    iter_leaves,
    read_manifest,
)
from vica_jax.errors import InputError
from vica_jax.models.config import VicaConfig
from vica_jax.models.quantize import is_quantized, quantize_kernel, scale_path

INT8 = "int8"


def quantized(
    leaves: Iterable[tuple[str, Any]],
) -> Iterator[tuple[str, np.ndarray]]:
    """Leaves with their paths, kernels of the language model as int8 and its scale.

    Raises:
      QuantizeError: a kernel holds NaN or an infinity.
    """
    for path, array in leaves:
        if not is_quantized(path):
            yield path, array
            continue
        values, scale = quantize_kernel(path, array)
        del array  # not while the int8 form is written
        yield path, values
        yield scale_path(path), scale


def quantized_bytes(path: str, size: int, itemsize: int) -> int:
    """Bytes of a leaf of ``size`` elements, scales not counted."""
    return size * (1 if is_quantized(path) else itemsize)


def check_model(config: Any, source: str | os.PathLike) -> VicaConfig:
    """The config of a whole model, the only kind that is quantised.

    Raises:
      InputError: it is that of a component.
    """
    if not isinstance(config, VicaConfig):
        raise InputError(
            f"{source}: --quantize takes a whole ViCA or ViCA2: convert the component "
            "without it"
        )
    return config


def describe(config: VicaConfig) -> str:
    """A note for the reader: what is int8 now and what is not."""
    head = "the output matrix"
    if config.llm.tie_embeddings:
        head = "not the output matrix, which is the tied embedding"
    return (
        f"int8: the products of {config.llm.depth} layers of the language model and "
        f"{head}, with a scale for each output channel; for inference only"
    )


def quantize_native(source: str | os.PathLike, target: str | os.PathLike) -> list[str]:
    """Write a native checkpoint again with int8 kernels; returns notes.

    ``target`` appears when it is whole; it must not exist, or be an empty folder.

    Raises:
      InputError: the source is a component, int8 already, or damaged.
    """
    manifest = read_manifest(source)
    config = check_model(manifest.config, source)
    manifest.check_float("quantising")
    with CheckpointWriter(target, expected_bytes=_expected(manifest)) as writer:
        for path, array in quantized(iter_leaves(source)):
            writer.write(path, array)
        if manifest.tokenizer:
            writer.copy_tokenizer(manifest.tokenizer_folder)
        writer.finish(
            family=manifest.family,
            config=config,
            hf_config=manifest.hf_config,
            generation_config=manifest.generation_config,
            provenance={
                "source": manifest.folder.resolve().name,
                "quantize": INT8,
                "base_provenance": manifest.provenance,
            },
        )
    return [describe(config)]


def _expected(manifest: Manifest) -> int:
    return sum(
        quantized_bytes(path, leaf.nbytes // itemsize, itemsize)
        for path, leaf in manifest.leaves.items()
        for itemsize in [np.dtype(leaf.dtype).itemsize]
    )
