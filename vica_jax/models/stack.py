"""One Block, two stacks: a Python loop for inference, a scan with remat for training.

In a loop every layer owns its weights under ``layers/0``, ``layers/1``, ...; a scan
holds them stacked under ``layers/block``. On disk there is one array per layer, and
``stack_layers`` / ``unstack_layers`` convert at restore and export, never in a step: a
scan over stacked weights copies each layer's slice, which costs a decode step half its
speed again.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from vica_jax.models import blockwise

Remat = Literal["full", "attention", "dots", "none"]
"""What a block's backward pass computes again: all of it, all but its attention, all
but attention and weight products, or nothing (every intermediate is kept)."""

_ATTENTION = jax.checkpoint_policies.save_only_these_names(blockwise.KEPT)
_POLICIES: Mapping[Remat, Callable[..., bool]] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": _ATTENTION,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _ATTENTION
    ),
}


def rematerialised(block: Any, remat: Remat, *, in_scan: bool = True) -> Any:
    """A block class that keeps its inputs (and what ``remat`` says) for its gradient.

    In a scan the loop itself keeps XLA from undoing it; elsewhere a barrier must.
    """
    if remat == "none":
        return block
    return nn.remat(block, policy=_POLICIES[remat], prevent_cse=not in_scan)


class Stack(nn.Module):
    """``depth`` blocks in sequence: ``block(cfg)(x, *args) -> (x, extra)``.

    Returns the last ``x`` and the blocks' extras: a list when looped, stacked along a
    leading layer axis when scanned. ``remat`` applies to the scan.
    """

    block: Callable[..., nn.Module]
    cfg: Any
    depth: int
    scan: bool = False
    remat: Remat = "full"

    @nn.compact
    def __call__(self, x: jax.Array, *args: Any, per_layer: Any = None):
        if self.scan:
            if per_layer is not None:
                raise ValueError("a scanned stack takes no per-layer arguments (cache)")
            layers = nn.scan(
                rematerialised(self.block, self.remat),
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=cast(Any, nn.broadcast),
                length=self.depth,
                metadata_params={},
            )
            return layers(self.cfg, name="block")(x, *args)
        extras = []
        for i in range(self.depth):
            own = () if per_layer is None else (per_layer[i],)
            x, extra = self.block(self.cfg, name=str(i))(x, *args, *own)
            extras.append(extra)
        return x, extras


def stack_layers(layers: dict[str, Any]) -> dict[str, Any]:
    """``{"0": tree, "1": tree, ...}`` -> ``{"block": stacked tree}``."""
    trees = [layers[str(i)] for i in range(len(layers))]
    return {"block": jax.tree.map(lambda *xs: jnp.stack(xs), *trees)}


def unstack_layers(layers: dict[str, Any]) -> dict[str, Any]:
    """The inverse of ``stack_layers``."""
    block = layers["block"]
    depth = jax.tree.leaves(block)[0].shape[0]
    return {str(i): jax.tree.map(lambda x, i=i: x[i], block) for i in range(depth)}
