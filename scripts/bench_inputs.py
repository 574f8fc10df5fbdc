"""Random weights and inputs of the bench, the same for both sides."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from convert.qwen2 import qwen2_rows
from convert.rules import Row, convert, nest
from vica_jax.models.config import Qwen2Config, SiglipConfig, VicaConfig, make_layout
from vica_jax.typing import Batch

Tensors = dict[str, np.ndarray]
SMALL_SIGLIP = SiglipConfig(
    image_size=224, patch_size=14, width=96, depth=2, num_heads=2, mlp_dim=192
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def frames(count: int, height: int, width: int) -> np.ndarray:
    """Random uint8 frames ``[count,height,width,3]``."""
    shape = (count, height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def drawn(
    rows: Iterable[Row], *, seed: int = 0, embedding: float = 0.02, rest: float = 0.1
) -> Tensors:
    """Weights under their Hugging Face names that keep activations of order one.

    ``embedding`` is the standard deviation of embeddings, ``rest`` that of biases
    around 0 and of norms' scales around 1.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for row in rows:
        x = rng.standard_normal(row.hf_shape, np.float32)
        leaf = row.native.rpartition("/")[2]
        if leaf == "kernel":
            x *= np.float32(np.prod(row.hf_shape[1:]) ** -0.5)
        elif leaf == "embedding":
            x *= np.float32(embedding)
        else:
            x = np.float32(rest) * x + np.float32(leaf == "scale")
        tensors[row.hf] = x
    return tensors


def to_params(rows: Iterable[Row], tensors: Tensors) -> dict[str, Any]:
    """The same as our parameters, on the device."""
    return jax.device_put(nest(convert(rows, tensors.__getitem__)))


def text_model(llm: Qwen2Config) -> VicaConfig:
    """A whole model around a language model: its encoder is small."""
    return VicaConfig(siglip=SMALL_SIGLIP, llm=llm, layout=make_layout(SMALL_SIGLIP))


def text_weights(llm: Qwen2Config) -> tuple[Tensors, dict[str, Any]]:
    """Weights of a language model for both sides; ours with a newline beside it."""
    rows = qwen2_rows(llm)
    tensors = drawn(rows)
    newline = np.zeros(llm.width, np.float32)
    return tensors, {**to_params(rows, tensors), "newline": jax.device_put(newline)}


def tokens(count: int, length: int, vocab_size: int) -> np.ndarray:
    """Random ids int32 ``[count,length]``, without id 0, which ends a row."""
    rng = np.random.default_rng(1)
    return rng.integers(1, vocab_size, (count, length)).astype(np.int32)


def text_batch(ids: np.ndarray) -> Batch:
    lengths = np.full(len(ids), ids.shape[1], np.int32)
    return {
        "tokens": ids,
        "visual_index": np.full(ids.shape, -1, np.int32),
        "lengths": lengths,
    }
