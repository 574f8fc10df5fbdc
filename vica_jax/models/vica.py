"""ViCA and ViCA2: SigLIP (and Hiera) -> projectors -> one gather -> Qwen2.

The whole model reads as its data flow: encode what a batch holds into a *bank* of
visual rows (``vica_jax.layout``), gather the sequence from bank and token embeddings,
run the language model. ViCA is ViCA2 without the Hiera stream.

Axes: B batch, F frames, T tokens, S cache slots, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vica_jax.models.cache import KV, KVDtype, Prefix
from vica_jax.models.config import VicaConfig
from vica_jax.models.hiera import Hiera, hiera_pixels
from vica_jax.models.layers import normal
from vica_jax.models.projector import Projector
from vica_jax.models.quantize import MaybeInt8, to_int8
from vica_jax.models.qwen2 import Qwen2
from vica_jax.models.resize import pool_bilinear
from vica_jax.models.siglip import Siglip
from vica_jax.models.stack import Remat, rematerialised
from vica_jax.sharding import (
    abstract_params,
    constrain,
    declare,
    per_device,
    unbox,
)
from vica_jax.typing import Batch, Params


class Vica(nn.Module):
    """Parameters ``siglip siglip_projector [hiera hiera_projector] newline llm``.

    ``frame_chunk`` frames are encoded at a time on each device, by Hiera half as many
    (its first stages hold ten times as much), which bounds the encoders' memory. With
    ``scan`` the homogeneous stacks hold stacked parameters and every block is computed
    again in the backward pass as ``remat`` says (training).
    ``kv_dtype`` is what prefill leaves in caches and prefixes: the compute dtype (None)
    or ``"int8"``.
    """

    cfg: VicaConfig
    dtype: jax.typing.DTypeLike = jnp.float32
    scan: bool = False
    frame_chunk: int = 8
    remat: Remat = "full"
    kv_dtype: KVDtype = None

    def setup(self):
        c = self.cfg
        self.siglip = Siglip(c.siglip, self.dtype, self.scan, self.remat)
        remat = self.remat if self.scan else "none"
        projector = rematerialised(Projector, remat, in_scan=False)
        self.siglip_projector = projector(c.llm.width)
        if c.hiera is not None:
            self.hiera = Hiera(c.hiera, c.layout.output_stage, self.dtype, remat)
            self.hiera_projector = projector(c.llm.width)
        std = c.llm.width**-0.5
        init = declare(normal(std), ("channels",))
        self.newline = self.param("newline", init, (c.llm.width,), jnp.float32)
        self.llm = Qwen2(c.llm, self.dtype, self.scan, self.remat)

    # ------------------------------------------------------------- encoders
    def siglip_tokens(self, pixels: jax.Array) -> jax.Array:
        """uint8 ``[n,S,S,3]`` -> SigLIP's tokens ``[n,P,C]``, not projected."""
        return self.siglip(pixels)

    def encode_siglip(self, pixels: jax.Array) -> jax.Array:
        """uint8 ``[n,S,S,3]`` -> projected grid ``[n,g,g,D]``."""
        side = self.cfg.siglip.grid
        x = self.siglip_projector(self.siglip(pixels))
        return x.reshape(-1, side, side, x.shape[-1])

    def hiera_features(self, frames: jax.Array, sizes: jax.Array) -> jax.Array:
        """Raw uint8 ``[n,h,w,3]`` of ``sizes [n,2]`` -> Hiera's map ``[n,r,r,C]``."""
        assert self.cfg.hiera is not None
        return self.hiera(hiera_pixels(frames, sizes, self.cfg.hiera))

    def encode_hiera(self, frames: jax.Array, sizes: jax.Array) -> jax.Array:
        """Raw uint8 ``[n,h,w,3]`` of ``sizes [n,2]`` -> projected map ``[n,r,r,D]``."""
        return self.hiera_projector(self.hiera_features(frames, sizes))

    def _encode_frames(self, pixels: jax.Array) -> jax.Array:
        grid = self.encode_siglip(pixels)
        return pool_bilinear(grid, self.cfg.layout.siglip_pooled_grid)

    def _encode_hiera_frames(self, frames: jax.Array, sizes: jax.Array) -> jax.Array:
        grid = self.encode_hiera(frames, sizes)
        return pool_bilinear(grid, self.cfg.layout.hiera_pooled_grid)

    def _project_features(self, features: jax.Array) -> jax.Array:
        return self.hiera_projector(features.astype(self.dtype))

    def _project_frame_features(self, features: jax.Array) -> jax.Array:
        grid = self._project_features(features)
        return pool_bilinear(grid, self.cfg.layout.hiera_pooled_grid)

    def visual_bank(self, batch: Batch) -> jax.Array | None:
        """Everything visual in a batch as rows ``[B,R,D]``; None without media."""
        segments = []
        hiera_chunk = max(self.frame_chunk // 2, 1)

        def encode(function, *inputs, chunk=self.frame_chunk):
            rows = _in_chunks(self, function, inputs, chunk)
            segments.append(rows.reshape(rows.shape[0], -1, rows.shape[-1]))

        if "frames" in batch:
            encode(Vica._encode_frames, batch["frames"])
        if "views" in batch:
            encode(Vica.encode_siglip, batch["views"])
        if "hiera_frames" in batch:
            frames = batch["hiera_frames"]
            sizes = jnp.repeat(
                batch["hiera_frame_sizes"][:, None], frames.shape[1], axis=1
            )
            encode(Vica._encode_hiera_frames, frames, sizes, chunk=hiera_chunk)
        if "hiera_frame_features" in batch:
            encode(Vica._project_frame_features, batch["hiera_frame_features"])
        if "hiera_images" in batch:
            sizes = batch["hiera_image_sizes"]
            encode(Vica.encode_hiera, batch["hiera_images"], sizes, chunk=hiera_chunk)
        if "hiera_image_features" in batch:
            encode(Vica._project_features, batch["hiera_image_features"])
        if not segments:
            return None
        B, _, D = segments[0].shape
        newline = jnp.broadcast_to(self.newline.astype(self.dtype), (B, 1, D))
        bank = jnp.concatenate([newline, *segments], axis=1)
        if "resample_taps" in batch:
            taps, weights = batch["resample_taps"], batch["resample_weights"]
            blended = jnp.zeros((B, taps.shape[1], D), jnp.float32)
            for i in range(4):  # one tap at a time: four at once quadruple the rows
                blended += _take_rows(bank, taps[..., i]) * weights[..., i, None]
            bank = jnp.concatenate([bank, blended.astype(bank.dtype)], axis=1)
        return bank

    # ------------------------------------------------------- language model
    def embed(self, batch: Batch, bank: jax.Array | None) -> jax.Array:
        """The language model's input ``[B,T,D]``: one gather, no dynamic shapes."""
        x = self.llm.embed(batch["tokens"])
        if bank is None:
            return x
        index = batch["visual_index"]
        visual = _take_rows(bank, jnp.maximum(index, 0))
        return jnp.where((index >= 0)[..., None], visual, x)

    def prefill(
        self, batch: Batch, bank: jax.Array | None, cache_length: int
    ) -> tuple[jax.Array, Sequence[KV]]:
        """Logits float32 ``[B,V]`` at each row's last token, and the KV cache.

        ``bank`` is ``visual_bank(batch)``; of the batch only the three text arrays
        are read. The cache has ``cache_length`` slots per row, the first T filled.
        """
        x = self.embed(batch, bank)
        return self._prompt(x, batch["lengths"], cache_length, None)

    def prefill_prefix(self, batch: Batch, bank: jax.Array | None) -> Prefix:
        """The keys and values of a batch of one row, to be shared by many rows."""
        x = self.embed(batch, bank)
        _, kv = self.llm(x, jnp.arange(x.shape[1])[None])
        layers = [(k[0].swapaxes(0, 1), v[0].swapaxes(0, 1)) for k, v in kv]
        layers = [
            (constrain(k, "kv_heads", None, None), constrain(v, "kv_heads", None, None))
            for k, v in layers
        ]
        kept = [(self._kept(k), self._kept(v)) for k, v in layers]
        return Prefix(kept, batch["lengths"][0])

    def prefill_after(
        self, tokens: jax.Array, lengths: jax.Array, prefix: Prefix, cache_length: int
    ) -> tuple[jax.Array, Sequence[KV]]:
        """``prefill`` of text ``tokens [B,T]`` that follows a shared prefix.

        The cache holds the rows' own tokens only.
        """
        return self._prompt(self.llm.embed(tokens), lengths, cache_length, prefix)

    def _prompt(
        self,
        x: jax.Array,
        lengths: jax.Array,
        cache_length: int,
        prefix: Prefix | None,
    ) -> tuple[jax.Array, Sequence[KV]]:
        B, T, _ = x.shape
        first = 0 if prefix is None else prefix.length
        positions = jnp.broadcast_to(first + jnp.arange(T), (B, T))
        hidden, kv = self.llm(x, positions, prefix=prefix)
        room = [(0, 0), (0, cache_length - T), (0, 0), (0, 0)]
        cache = [
            (self._kept(jnp.pad(k, room)), self._kept(jnp.pad(v, room))) for k, v in kv
        ]
        last = hidden[jnp.arange(B), lengths - 1]
        return self.llm.logits(last), cache

    def _kept(self, x: jax.Array) -> MaybeInt8:
        """Keys or values as caches and prefixes keep them."""
        return to_int8(x) if self.kv_dtype == "int8" else x

    def decode_step(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        lengths: jax.Array,
        cache: Sequence[KV],
        prefix: Prefix | None = None,
    ) -> tuple[jax.Array, Sequence[KV]]:
        """One token per row, int32 ``[B]`` -> logits ``[B,V]`` and the grown cache."""
        x = self.llm.embed(tokens[:, None])
        hidden, cache = self.llm(x, positions[:, None], lengths, cache, prefix)
        return self.llm.logits(hidden[:, 0]), cache

    def hidden_states(self, batch: Batch) -> jax.Array:
        """Hidden states ``[B,T,D]`` before the final norm, for every position."""
        x = self.embed(batch, self.visual_bank(batch))
        positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        return self.llm(x, positions)[0]

    def logits(self, hidden: jax.Array) -> jax.Array:
        return self.llm.logits(hidden)

    def __call__(self, batch: Batch) -> jax.Array:
        """Logits float32 ``[B,T,V]`` at every position: for short inputs only."""
        return self.logits(self.hidden_states(batch))


def apply(model: Vica, params: Params, *inputs: Any, method: str = "__call__") -> Any:
    """``model.apply`` over plain parameters, for a method that changes nothing."""
    return model.apply({"params": params}, *inputs, method=method)


def abstract_vica(cfg: VicaConfig, scan: bool = False) -> tuple[Any, Any]:
    """Shapes and logical axes of every parameter of a model; allocates nothing."""
    return abstract_params(lambda: _init(cfg, jax.random.key(0), scan))


def init_vica(cfg: VicaConfig, key: jax.Array, scan: bool = False) -> Params:
    """Freshly initialised float32 parameters as a plain nested dict."""
    return unbox(jax.jit(lambda key: _init(cfg, key, scan))(key))


def _init(cfg: VicaConfig, key: jax.Array, scan: bool):
    size = cfg.siglip.image_size
    batch: Batch = {
        "tokens": jnp.zeros((1, 2), jnp.int32),
        "visual_index": jnp.full((1, 2), -1, jnp.int32),
        "lengths": jnp.full((1,), 2, jnp.int32),
        "frames": jnp.zeros((1, 1, size, size, 3), jnp.uint8),
    }
    if cfg.hiera is not None:
        batch["hiera_frames"] = jnp.zeros((1, 1, 8, 8, 3), jnp.uint8)
        batch["hiera_frame_sizes"] = jnp.full((1, 2), 8, jnp.int32)
    return Vica(cfg, scan=scan).init(key, batch)["params"]


def _take_rows(bank: jax.Array, index: jax.Array) -> jax.Array:
    """``bank [B,R,D]`` at ``index [B,n]`` -> ``[B,n,D]``."""
    return jnp.take_along_axis(bank, index[..., None], axis=1)


def _in_chunks(
    module: Vica, function: Callable[..., jax.Array], inputs: tuple, limit: int
) -> jax.Array:
    """``function(module, *inputs)`` over two leading axes ``[B,n,...]``.

    A step takes some of n from every row, ``limit`` in all on each device: the batch
    axis, which may be split over devices, is never a loop. Steps are of equal size, the
    smallest that needs no more of them.
    """
    B, n = inputs[0].shape[:2]
    steps = -(-n // max(limit // per_device("batch", B), 1))
    chunk = -(-n // steps)
    extra = steps * chunk - n

    def encode(module, inputs):
        flat = (x.reshape(-1, *x.shape[2:]) for x in inputs)
        out = function(module, *flat)
        return out.reshape(B, -1, *out.shape[1:])

    if steps == 1:
        return encode(module, inputs)

    def split(x):
        # Repeated, not zero: a frame of size 0 x 0 would divide by zero.
        x = jnp.concatenate([x, jnp.repeat(x[:, :1], extra, 1)], 1) if extra else x
        return x.reshape(B, steps, chunk, *x.shape[2:]).swapaxes(0, 1)

    scan = nn.scan(
        lambda mdl, carry, xs: (carry, encode(mdl, xs)),
        variable_broadcast="params",
        split_rngs={"params": False, "dropout": True},
    )
    _, out = scan(module, (), tuple(split(x) for x in inputs))
    return out.swapaxes(0, 1).reshape(B, steps * chunk, *out.shape[3:])[:, :n]
