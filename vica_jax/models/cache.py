"""What attention remembers: arguments and results of the language model, never state.

Axes: B batch, S cache slots of a row, P slots of a prefix, K kv heads, H head dim.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
from flax import struct

from vica_jax.models.quantize import MaybeInt8

KV = tuple[MaybeInt8, MaybeInt8]
"""Keys and values of one layer: ``[B,S,K,H]`` each, in a prefix ``[K,P,H]``.

Both exact, in the compute dtype, or both int8 with a scale ``[B,S,K]`` or ``[K,P]``.
"""

KVDtype = Literal["int8"] | None
"""What they are kept in; None: the compute dtype."""


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
