"""What attention remembers: arguments and results of the language model, never state.

Axes: B batch, S cache slots of a row, P slots of a prefix, K kv heads, H head dim.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
from flax import struct

KV = tuple[jax.Array, jax.Array]
"""Keys and values of one layer: ``[B,S,K,H]`` each, in a prefix ``[K,P,H]``."""


@struct.dataclass
class Prefix:
    """What every row of a batch has seen before its own tokens, held once.

    ``layers`` holds one ``(k, v)`` of ``[K,P,H]`` per layer, of which the first
    ``length`` (int32 scalar) slots are filled. Heads come first because every product
    over a prefix is one per kv head.
    """

    layers: Sequence[KV]
    length: jax.Array


class Past(NamedTuple):
    """What one layer's queries see besides the input.

    ``cache`` has room for the new key at slot ``lengths[b]`` of row b: a decode step.
    ``prefix`` is seen by every query, up to ``prefix_length``.
    """

    cache: KV | None = None
    lengths: jax.Array | None = None
    prefix: KV | None = None
    prefix_length: jax.Array | None = None
