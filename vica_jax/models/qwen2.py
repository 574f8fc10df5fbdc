"""Qwen2 decoder (Qwen team 2024): grouped-query attention, SwiGLU, RMSNorm, RoPE.

The KV cache is an argument and a result (``models/cache``): per layer ``(k, v)``, each
``[B,S,K,H]``, with the number of valid entries per row beside it, and before it maybe a
prefix that all rows share. Positions are always an input: the next position is a
counter of its own, not the cache's length.

Axes: B batch, T query tokens, S cached tokens, N heads, K kv heads, H head dim,
D width, M MLP width, V vocabulary.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vica_jax.models.attention import attend
from vica_jax.models.cache import KV, Past, Prefix
from vica_jax.models.cached import attend_cache, write_cache
from vica_jax.models.config import Qwen2Config
from vica_jax.models.layers import (
    Linear,
    LowRank,
    RMSNorm,
    dot,
    instantiate,
    low_rank,
    map_in_place,
    multiply,
    normal,
    read_scale,
)
from vica_jax.models.quantize import Int8, MaybeInt8
from vica_jax.models.rope import apply_rope, rope_table
from vica_jax.models.shared import attend_shared
from vica_jax.models.stack import Remat, Stack
from vica_jax.sharding import constrain, declare

MLP_CHUNK = 4096  # tokens of one MLP product; bounds its [tokens, M] temporaries


class Attention(nn.Module):
    """Causal self-attention over the input, or one decode step over a cache.

    Both with or without a prefix that every query sees first.
    """

    cfg: Qwen2Config

    @nn.compact
    def __call__(
        self, x: jax.Array, table: tuple[jax.Array, jax.Array], past: Past
    ) -> tuple[jax.Array, KV]:
        c = self.cfg
        sizes = {"q": c.num_heads, "k": c.num_kv_heads, "v": c.num_kv_heads}
        axes = {"q": "heads", "k": "kv_heads", "v": "kv_heads"}
        q, k, v = (
            Linear(
                (c.width, sizes[name], c.head_dim),
                ("embed", axes[name], "head_dim"),
                name=f"{name}_proj",
            )(x)
            for name in ("q", "k", "v")
        )
        q = constrain(apply_rope(q, table), "batch", "length", "heads", None)
        k = constrain(apply_rope(k, table), "batch", "length", "kv_heads", None)
        own: KV = (k, v)
        seen = None
        if past.cache is not None and past.lengths is not None:
            own = write_cache(past.cache, (k, v), past.lengths)
            seen = past.lengths + 1
        if past.prefix is not None and past.prefix_length is not None:
            out = attend_shared(q, own, past.prefix, past.prefix_length, seen)
        elif seen is not None:
            out = attend_cache(q, *own, seen)
        else:
            out = attend(q, k, v, causal=True)
        o_proj = Linear(
            (c.num_heads, c.head_dim, c.width),
            ("heads", "head_dim", "embed"),
            contract=2,
            use_bias=False,
            name="o_proj",
        )
        return o_proj(out), own


class SwiGlu(nn.Module):
    """``down(silu(gate(x)) * up(x))``; long inputs in chunks of tokens.

    In chunks only where nothing is differentiated: the loop would keep its whole carry
    once for every chunk.
    """

    cfg: Qwen2Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.cfg

        def weights(name, shape, axes) -> Weights:
            kernel = _Kernel(shape, axes, name=name)
            return kernel(), low_rank(kernel)

        into, back = (c.width, c.mlp_dim), (c.mlp_dim, c.width)
        gate = weights("gate_proj", into, ("embed", "mlp"))
        up = weights("up_proj", into, ("embed", "mlp"))
        down = weights("down_proj", back, ("mlp", "embed"))
        branches = [branch for _, branch in (gate, up, down) if branch is not None]
        drops_out = any(branch.key is not None for branch in branches)
        if x.shape[0] * x.shape[1] <= MLP_CHUNK or drops_out:
            return _swiglu(x, gate, up, down)
        leaves, tree = jax.tree.flatten((x, gate, up, down))
        return _chunked_swiglu(tree, *leaves)


Weights = tuple[MaybeInt8, LowRank | None]


def _swiglu(x: jax.Array, gate: Weights, up: Weights, down: Weights) -> jax.Array:
    hidden = jax.nn.silu(multiply(x, *gate)) * multiply(x, *up)
    return multiply(hidden.astype(x.dtype), *down).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked_swiglu(tree: Any, *leaves: jax.Array) -> jax.Array:
    """``_swiglu`` of the arguments' leaves; differentiated, the plain product."""
    x, *weights = jax.tree.unflatten(tree, leaves)
    B, T, D = x.shape
    if B == 1 or T > MLP_CHUNK:
        chunk = MLP_CHUNK if T % MLP_CHUNK == 0 else _largest_divisor(T, MLP_CHUNK)
        parts = x.reshape(B, T // chunk, chunk, D).swapaxes(0, 1)
        parts = map_in_place(lambda _, part: _swiglu(part, *weights), parts)
        return parts.swapaxes(0, 1).reshape(B, T, D)
    return map_in_place(lambda _, row: _swiglu(row, *weights), x)


def _swiglu_forward(tree, *leaves):
    # Weights that are not differentiated stay out, so that they have no gradient.
    moving = {i: leaf.value for i, leaf in enumerate(leaves) if leaf.perturbed}

    def plain(moving):
        values = [moving.get(i, leaf.value) for i, leaf in enumerate(leaves)]
        return _swiglu(*jax.tree.unflatten(tree, values))

    return jax.vjp(plain, moving)


def _swiglu_backward(tree, pull_back, gradient):
    (gradients,) = pull_back(instantiate(gradient))
    return tuple(gradients.get(i) for i in range(tree.num_leaves))


_chunked_swiglu.defvjp(_swiglu_forward, _swiglu_backward, symbolic_zeros=True)


class _Kernel(nn.Module):
    shape: tuple[int, ...]
    axes: tuple[str, ...]

    @nn.compact
    def __call__(self) -> MaybeInt8:
        init = declare(nn.initializers.xavier_uniform(), self.axes)
        kernel = self.param("kernel", init, self.shape, jnp.float32)
        return read_scale(self, kernel)


def _largest_divisor(n: int, limit: int) -> int:
    return max(d for d in range(1, limit + 1) if n % d == 0)


class Block(nn.Module):
    """Pre-norm decoder layer, ``[B,T,D]`` -> ``[B,T,D]`` and its keys and values."""

    cfg: Qwen2Config

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        table: tuple[jax.Array, jax.Array],
        past: Past = Past(),  # noqa: B008 (immutable)
    ) -> tuple[jax.Array, KV]:
        c = self.cfg
        x = constrain(x, "batch", "length", None)
        h = RMSNorm(c.norm_eps, name="attn_norm")(x)
        h, kv = Attention(c, name="attn")(h, table, past)
        x = x + h
        x = x + SwiGlu(c, name="mlp")(RMSNorm(c.norm_eps, name="mlp_norm")(x))
        self.sow("intermediates", "output", x)
        return x, kv


class Embedder(nn.Module):
    """Token embedding ``[V,D]``; also the output matrix where embeddings are tied."""

    cfg: Qwen2Config

    def setup(self):
        shape = (self.cfg.vocab_size, self.cfg.width)
        init = declare(normal(0.02), ("vocab", "embed"))
        self.embedding = self.param("embedding", init, shape, jnp.float32)

    def __call__(self, tokens: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
        return jnp.take(self.embedding, tokens, axis=0).astype(dtype)


class Qwen2(nn.Module):
    """Embeddings in, final hidden states and keys/values out."""

    cfg: Qwen2Config
    dtype: jax.typing.DTypeLike = jnp.float32
    scan: bool = False
    remat: Remat = "full"

    def setup(self):
        c = self.cfg
        self.embedder = Embedder(c)
        self.layers = Stack(Block, c, c.depth, self.scan, self.remat)
        self.final_norm = RMSNorm(c.norm_eps)
        if not c.tie_embeddings:
            shape, axes = (c.width, c.vocab_size), ("embed", "vocab")
            self.lm_head = _Kernel(shape, axes)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """int32 ``[B,T]`` -> ``[B,T,D]``."""
        return self.embedder(tokens, self.dtype)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        lengths: jax.Array | None = None,
        cache: Sequence[KV] | None = None,
        prefix: Prefix | None = None,
    ) -> tuple[jax.Array, Any]:
        """Run all layers; ``[B,T,D]`` -> hidden states *before* the final norm.

        The second result is the keys and values: one ``KV`` per layer, or one with a
        leading layer axis when scanned.

        Without ``cache`` attention is causal over the T inputs. With it T is 1: the
        new key goes to slot ``lengths[b]`` of row b, which then sees lengths[b] + 1.
        Either way every query sees all of ``prefix`` first, if there is one.
        """
        table = rope_table(positions, self.cfg.head_dim, self.cfg.rope_theta)
        if cache is None and prefix is None:
            return self.layers(x, table)
        no_layer = [None] * self.cfg.depth
        own = no_layer if cache is None else cache
        shared = no_layer if prefix is None else prefix.layers
        length = None if prefix is None else prefix.length
        past = [
            Past(kv, lengths, kept, length)
            for kv, kept in zip(own, shared, strict=True)
        ]
        return self.layers(x, table, per_layer=past)

    def output_kernel(self) -> jax.Array:
        """The output matrix ``[D,V]``, for training.

        Raises:
          ValueError: it is of int8.
        """
        kernel = self._output()
        if isinstance(kernel, Int8):
            raise ValueError("llm/lm_head: an int8 kernel does not train")
        return kernel

    def _output(self) -> MaybeInt8:
        return self.embedder.embedding.T if self.cfg.tie_embeddings else self.lm_head()

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Final norm and output matrix: ``[...,D]`` -> float32 ``[...,V]``."""
        return dot(self.final_norm(hidden), self._output())
