"""Frame embeddings by the model's own SigLIP, for choosing frames (``eval.frames``)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vica_jax.data.pixels import resize_siglip
from vica_jax.data.video import VideoClip
from vica_jax.decode.assistant import Assistant
from vica_jax.decode.measure import memory_named
from vica_jax.models.vica import Vica, apply
from vica_jax.typing import Params

CHUNK = 8  # frames per call; the last call is filled up


def siglip_embeddings(assistant: Assistant) -> Callable[[VideoClip], np.ndarray]:
    """A function from a clip of n frames to float32 ``[n,C]``.

    An embedding is the mean of SigLIP's tokens (the layer that ViCA reads, without
    projector). Published MaxInfo code takes CLIP's; this one is already in memory.
    """
    model = Vica(assistant.cfg, assistant.dtype)
    size = assistant.cfg.layout.siglip_image_size

    def embed(clip: VideoClip) -> np.ndarray:
        pixels = resize_siglip(clip.frames, size)
        parts = []
        for start in range(0, len(pixels), CHUNK):
            part = pixels[start : start + CHUNK]
            full = np.concatenate([part, np.repeat(part[:1], CHUNK - len(part), 0)])
            smaller = f"--candidates={max(len(pixels) // 2, 1)}"
            with assistant.on_mesh(), memory_named("embedding frames", smaller):
                found = _embed(model, assistant.params, full)
            parts.append(np.asarray(found)[: len(part)])
        return np.concatenate(parts)

    return embed


@functools.partial(jax.jit, static_argnames="model")
def _embed(model: Vica, params: Params, pixels: jax.Array) -> jax.Array:
    tokens = apply(model, params, pixels, method="siglip_tokens")
    return tokens.astype(jnp.float32).mean(axis=1)
