"""What each part of a model computes, here and in transformers' torch classes.

A part is a group of leaves small enough to be in memory several times: a layer, an
embedding, the output matrix. It runs on both sides on the same random input, in
float32, hidden states as they would come from a long video.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from convert import torch_peer
from convert.hiera import TRANSFORMERS, hiera_rows
from convert.projectors import hiera_projector_rows, siglip_projector_rows
from convert.qwen2 import qwen2_rows
from convert.rules import Row
from convert.siglip import siglip_rows
from convert.vica import AnyConfig
from vica_jax.models import hiera, qwen2, siglip
from vica_jax.models.config import HieraConfig, Qwen2Config, SiglipConfig, VicaConfig
from vica_jax.models.projector import Projector

LENGTH = 64  # tokens of a random input
FIRST = 20_000  # position of the first one

Sides = tuple[Any, Any]  # our output and the peer's


class Part(NamedTuple):
    """Leaves that are compared together, and what they compute on both sides.

    ``names`` gives the peer's name of a native path; leaves are those under
    ``prefixes``. ``run`` takes our parameter tree and the peer's tensors; without it
    the values themselves are the output.
    """

    module: str
    part: str
    prefixes: tuple[str, ...]
    names: Mapping[str, str] = {}
    run: Callable[[dict, dict[str, np.ndarray]], Sides] | None = None

    def owns(self, path: str) -> bool:
        return any(f"{path}/".startswith(f"{prefix}/") for prefix in self.prefixes)


def siglip_parts(cfg: SiglipConfig) -> Iterator[Part]:
    rows = siglip_rows(cfg, "")
    pixels = _rng().integers(0, 256, (1, cfg.image_size, cfg.image_size, 3), np.uint8)
    normal = np.asarray(siglip.siglip_pixels(jnp.asarray(pixels), cfg))
    hidden = _noise(1, min(cfg.grid**2, LENGTH), cfg.width)
    bottom = siglip.Siglip(replace(cfg, depth=0))
    block = jax.jit(siglip.Block(cfg).apply)

    def embeddings(params, tensors):
        ours = bottom.apply({"params": params["siglip"]}, jnp.asarray(pixels))
        peer = torch_peer.siglip_embeddings(cfg, tensors)
        return ours, torch_peer.run(peer, _nchw(normal))

    def layer(number):
        def run(params, tensors):
            own = params["siglip"]["layers"][str(number)]
            ours, _ = block({"params": own}, jnp.asarray(hidden))
            peer = torch_peer.siglip_layer(cfg, tensors)
            return ours, torch_peer.run(peer, hidden, None)

        return run

    stem = ("siglip/patch_embed", "siglip/pos_embed")
    yield Part("siglip", "embeddings", stem, _names(rows, "embeddings."), embeddings)
    for i in range(cfg.depth):
        names = _names(rows, f"encoder.layers.{i}.")
        yield Part("siglip", f"layers/{i}", (f"siglip/layers/{i}",), names, layer(i))
    yield Part("siglip", "post_norm (unused)", ("siglip/post_norm",))


def hiera_parts(cfg: HieraConfig) -> Iterator[Part]:
    rows = hiera_rows(cfg, "", TRANSFORMERS)

    def stem(params, tensors):
        pixels = _noise(1, cfg.image_size, cfg.image_size, 3)
        bottom = hiera.Hiera(cfg, num_stages=0)
        ours = bottom.apply({"params": params["hiera"]}, jnp.asarray(pixels))
        peer = torch_peer.hiera_stem(cfg, tensors)
        return ours, torch_peer.run(peer, _nchw(pixels))["last_hidden_state"]

    def block(index):
        before = max(index - 1, 0)
        pooled = sum(start <= before for start in cfg.pool_blocks)
        side = cfg.image_size // cfg.patch_stride // cfg.pool**pooled
        width = cfg.stage_widths[cfg.stage_of(before)]

        def run(params, tensors):
            x = _noise(1, side, side, width)
            own = {"params": params["hiera"]["blocks"][str(index)]}
            ours = jax.jit(hiera.Block(cfg, index).apply)(own, jnp.asarray(x))
            peer = torch_peer.hiera_block(cfg, index, tensors)
            return ours, torch_peer.run(peer, x)

        return run

    tables = ("hiera/patch_embed", "hiera/pos_embed", "hiera/pos_embed_window")
    yield Part("hiera", "embeddings", tables, _names(rows, ""), stem)
    for i in range(sum(cfg.depths)):
        names = _names(rows, f"blocks.{i}.")
        yield Part("hiera", f"blocks/{i}", (f"hiera/blocks/{i}",), names, block(i))


def qwen2_parts(cfg: Qwen2Config) -> Iterator[Part]:
    rows = qwen2_rows(cfg)
    model, one = qwen2.Qwen2(cfg), qwen2.Qwen2(replace(cfg, depth=1))
    hidden = _noise(1, LENGTH, cfg.width)
    positions = np.arange(FIRST, FIRST + LENGTH)[None]
    decode = jax.jit(lambda *inputs: one.apply(*inputs)[0])

    def embedder(params, tensors):
        ids = _rng().integers(0, cfg.vocab_size, (1, LENGTH), np.int64)
        ids[0, :2] = 0, cfg.vocab_size - 1
        own = {"params": params["llm"]}
        ours = model.apply(own, jnp.asarray(ids, jnp.int32), method="embed")
        return ours, torch_peer.run(torch_peer.embedding(tensors), ids)

    def layer(number):
        def run(params, tensors):
            own = {"params": {"layers": {"0": params["llm"]["layers"][str(number)]}}}
            inputs = jnp.asarray(hidden), jnp.asarray(positions, jnp.int32)
            ours = decode(own, *inputs)
            peer = torch_peer.qwen2_layer(cfg, tensors)
            theirs = torch_peer.run(
                peer, inputs_embeds=hidden, position_ids=positions, use_cache=False
            )
            return ours, theirs["last_hidden_state"]

        return run

    def head(params, tensors):
        own, x = {"params": params["llm"]}, hidden[:, :8]
        ours = model.apply(own, jnp.asarray(x), method="logits")
        return ours, torch_peer.run(torch_peer.qwen2_head(cfg, tensors), x)

    table = "llm/embedder"
    names = _names(rows, "model.embed_tokens.")
    yield Part("llm", "embedder", (table,), names, embedder)
    for i in range(cfg.depth):
        names = _names(rows, f"model.layers.{i}.")
        yield Part("llm", f"layers/{i}", (f"llm/layers/{i}",), names, layer(i))
    matrix = table if cfg.tie_embeddings else "llm/lm_head"
    names = {"llm/final_norm/scale": "0.weight"}
    names |= {f"{matrix}/{leaf}": "1.weight" for leaf in ("embedding", "kernel")}
    yield Part("llm", "final_norm, lm_head", ("llm/final_norm", matrix), names, head)


def _projector_part(module: str, rows: Sequence[Row]) -> Part:
    width, into = rows[0].hf_shape

    def run(params, tensors):
        x = _noise(1, LENGTH, into)
        ours = Projector(width).apply({"params": params[module]}, jnp.asarray(x))
        return ours, torch_peer.run(torch_peer.projector(tensors), x)

    prefix = rows[0].hf.removesuffix("0.weight")
    return Part(module, "fc1, gelu, fc2", (module,), _names(rows, prefix), run)


def parts(config: AnyConfig) -> Iterator[Part]:
    """Every part of a model, or of a component, in the order of the data flow."""
    match config:
        case SiglipConfig():
            yield from siglip_parts(config)
        case HieraConfig():
            yield from hiera_parts(config)
        case Qwen2Config():
            yield from qwen2_parts(config)
        case VicaConfig():
            width = config.llm.width
            yield from siglip_parts(config.siglip)
            into = siglip_projector_rows(config.siglip.width, width)
            yield _projector_part("siglip_projector", into)
            if config.hiera is not None:
                yield from hiera_parts(config.hiera)
                into = hiera_projector_rows(config.hiera_out_width, width)
                yield _projector_part("hiera_projector", into)
            yield Part("newline", "embedding", ("newline",))
            yield from qwen2_parts(config.llm)


def _names(rows: Sequence[Row], prefix: str) -> dict[str, str]:
    """Native path -> name inside the peer's module of that prefix."""
    return {row.native: row.hf.removeprefix(prefix) for row in rows}


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _noise(*shape: int) -> np.ndarray:
    return _rng().standard_normal(shape, np.float32)


def _nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
