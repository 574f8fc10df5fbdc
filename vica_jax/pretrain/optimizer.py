"""Muon for matrices, Adam for the rest.

Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix; its updates are
scaled to Adam's size, so that one schedule serves both (Liu et al. 2025, "Muon is
scalable for LLM training"). optax has both.
"""

from typing import Any

import jax.numpy as jnp
import optax
from optax import contrib

from vica_jax.pretrain.settings import MuonSettings
from vica_jax.train.optimizer import Schedule
from vica_jax.train.partition import insert, leaves

ADAM_RMS = 0.2  # of Adam's updates, at a rate of 1


def make_muon(
    settings: MuonSettings, like: Any, schedule: Schedule
) -> optax.GradientTransformation:
    """The optimiser for a nested dict of leaves ``like``; updates are to be added."""
    shapes: dict[str, Any] = {}
    for path, leaf in leaves(like):
        insert(shapes, path, matrix_of(path, len(leaf.shape)))

    def scaled(rate: float) -> optax.Schedule:
        return lambda step: rate * schedule(jnp.asarray(step))

    return contrib.muon(
        scaled(settings.rate),
        adam_learning_rate=scaled(settings.adam_rate),
        adam_b2=settings.b2,
        weight_decay=settings.weight_decay,
        consistent_rms=ADAM_RMS,
        muon_weight_dimension_numbers=shapes,
    )


def matrix_of(path: str, ndim: int) -> contrib.MuonDimensionNumbers | None:
    """Which axes of a leaf are a matrix's rows and columns; None: Adam's business.

    Kernels keep their meaning in their shape: ``[in, heads, head_dim]`` into heads,
    ``[heads, head_dim, out]`` out of them. Embeddings, patch embeddings, auxiliary
    heads, norms and biases are Adam's.
    """
    name = path.split("/")
    if name[-1] != "kernel" or name[0] == "heads" or "patch_embed" in name:
        return None
    if "o_proj" in name:
        return contrib.MuonDimensionNumbers(tuple(range(ndim - 1)), (ndim - 1,))
    return contrib.MuonDimensionNumbers((0,), tuple(range(1, ndim)))
