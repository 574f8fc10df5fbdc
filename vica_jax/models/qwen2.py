"""Qwen2 decoder (Qwen team 2024): grouped-query attention, SwiGLU, RMSNorm, RoPE.

The KV cache is an argument and a result: per layer ``(k, v)``, each ``[B,S,K,H]``, with
the number of valid entries per row beside it. Positions are always an input: the next
position is a counter of its own, not the cache's length.

Axes: B batch, T query tokens, S cached tokens, N heads, K kv heads, H head dim,
D width, M MLP width, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vica_jax.models.attention import attend, attend_cache
from vica_jax.models.config import Qwen2Config
from vica_jax.models.layers import Linear, RMSNorm, dot, map_in_place, normal
from vica_jax.models.rope import apply_rope, rope_table
from vica_jax.models.stack import Stack
from vica_jax.sharding import constrain, declare

KV = tuple[jax.Array, jax.Array]
MLP_CHUNK = 4096  # tokens of one MLP product; bounds its [tokens, M] temporaries


class Attention(nn.Module):
    """Causal self-attention over the input, or one decode step over a cache."""

    cfg: Qwen2Config

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        table: tuple[jax.Array, jax.Array],
        lengths: jax.Array | None,
        cache: KV | None,
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
        if cache is None or lengths is None:
            out = attend(q, k, v, causal=True)
        else:
            row = jnp.arange(x.shape[0])
            k, v = (
                old.at[row, lengths].set(new[:, 0].astype(old.dtype), mode="drop")
                for old, new in zip(cache, (k, v), strict=True)
            )
            out = attend_cache(q, k, v, lengths + 1)
        o_proj = Linear(
            (c.num_heads, c.head_dim, c.width),
            ("heads", "head_dim", "embed"),
            contract=2,
            use_bias=False,
            name="o_proj",
        )
        return o_proj(out), (k, v)


class SwiGlu(nn.Module):
    """``down(silu(gate(x)) * up(x))``; long inputs in chunks of tokens."""

    cfg: Qwen2Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.cfg

        def kernel(name, shape, axes):
            return _Kernel(shape, axes, name=name)()

        into, back = (c.width, c.mlp_dim), (c.mlp_dim, c.width)
        gate = kernel("gate_proj", into, ("embed", "mlp"))
        up = kernel("up_proj", into, ("embed", "mlp"))
        down = kernel("down_proj", back, ("mlp", "embed"))

        def mlp(x):
            hidden = jax.nn.silu(dot(x, gate)) * dot(x, up)
            return dot(hidden.astype(x.dtype), down).astype(x.dtype)

        B, T, D = x.shape
        if B * T <= MLP_CHUNK:
            return mlp(x)
        if B == 1 or T > MLP_CHUNK:
            chunk = MLP_CHUNK if T % MLP_CHUNK == 0 else _largest_divisor(T, MLP_CHUNK)
            parts = x.reshape(B, T // chunk, chunk, D).swapaxes(0, 1)
            parts = map_in_place(lambda _, part: mlp(part), parts)
            return parts.swapaxes(0, 1).reshape(B, T, D)
        return map_in_place(lambda _, row: mlp(row), x)


class _Kernel(nn.Module):
    shape: tuple[int, ...]
    axes: tuple[str, ...]

    @nn.compact
    def __call__(self) -> jax.Array:
        init = declare(nn.initializers.xavier_uniform(), self.axes)
        return self.param("kernel", init, self.shape, jnp.float32)


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
        lengths: jax.Array | None = None,
        cache: KV | None = None,
    ) -> tuple[jax.Array, KV]:
        c = self.cfg
        x = constrain(x, "batch", "length", None)
        h = RMSNorm(c.norm_eps, name="attn_norm")(x)
        h, kv = Attention(c, name="attn")(h, table, lengths, cache)
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

    def logits(self, x: jax.Array) -> jax.Array:
        return dot(x, self.embedding.T)


class Qwen2(nn.Module):
    """Embeddings in, final hidden states and keys/values out."""

    cfg: Qwen2Config
    dtype: jax.typing.DTypeLike = jnp.float32
    scan: bool = False

    def setup(self):
        c = self.cfg
        self.embedder = Embedder(c)
        self.layers = Stack(Block, c, c.depth, self.scan)
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
    ) -> tuple[jax.Array, Any]:
        """Run all layers; ``[B,T,D]`` -> hidden states *before* the final norm.

        The second result is the keys and values: one ``KV`` per layer, or one with a
        leading layer axis when scanned.

        Without ``cache`` attention is causal over the T inputs. With it T is 1: the
        new key goes to slot ``lengths[b]`` of row b, which then sees lengths[b] + 1.
        """
        table = rope_table(positions, self.cfg.head_dim, self.cfg.rope_theta)
        return self.layers(x, table, lengths, per_layer=cache)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Final norm and output matrix: ``[...,D]`` -> float32 ``[...,V]``."""
        hidden = self.final_norm(hidden)
        if self.cfg.tie_embeddings:
            return self.embedder.logits(hidden)
        return dot(hidden, self.lm_head())
