"""The published widths, with random weights: one frame, and two layers of the 7B.

Ours runs first and its parameters are dropped, so that at most one and a half copies
of the weights are in memory at a time.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import torch_peer
from convert.hiera import TRANSFORMERS, hiera_rows
from convert.qwen2 import qwen2_rows
from convert.siglip import siglip_rows
from vica_jax.models.hiera import Hiera
from vica_jax.models.qwen2 import Qwen2
from vica_jax.models.siglip import Siglip
from vica_jax.models.variants import (
    HIERA_BASE_PLUS,
    HIERA_LARGE,
    QWEN2_7B,
    SIGLIP_SO400M,
)

pytestmark = [pytest.mark.parity, pytest.mark.slow]


def test_siglip_so400m_agrees(random_tensors, to_params, record_error):
    cfg = SIGLIP_SO400M
    rows = siglip_rows(cfg, "")
    tensors = random_tensors(rows, 0)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 384, 384, 3), np.uint8)
    params = {"params": to_params(rows, tensors)["siglip"]}
    ours = np.asarray(jax.jit(Siglip(cfg).apply)(params, jnp.asarray(pixels)))
    del params

    normal = (pixels.transpose(0, 3, 1, 2) / np.float32(255) - 0.5) / 0.5
    peer = torch_peer.siglip(cfg, tensors)
    normal = np.ascontiguousarray(normal, np.float32)
    theirs = torch_peer.run(peer, normal, output_hidden_states=True)
    label = "so400m, 26 layers, 1 frame of 384"
    theirs = theirs["hidden_states"][-1]
    record_error("SigLIP", label, ours, theirs)


@pytest.mark.parametrize(
    ("name", "cfg"), [("B+", HIERA_BASE_PLUS), ("L", HIERA_LARGE)], ids=["B+", "L"]
)
def test_hiera_agrees(name, cfg, random_tensors, to_params, record_error):
    rows = hiera_rows(cfg, "", TRANSFORMERS)
    tensors = random_tensors(rows, 2)
    pixels = np.random.default_rng(3).standard_normal((1, 3, 1024, 1024), np.float32)
    params = {"params": to_params(rows, tensors)["hiera"]}
    model = Hiera(cfg)
    apply = jax.jit(lambda p, x: model.apply(p, x, mutable=["intermediates"])[1])
    maps = apply(params, jnp.asarray(pixels.transpose(0, 2, 3, 1)))
    maps = {k: np.asarray(v[0]) for k, v in maps["intermediates"]["blocks"].items()}
    del params

    peer = torch_peer.hiera(cfg, tensors)
    theirs = torch_peer.run(peer, pixels)["intermediate_hidden_states"]
    for stage, b in enumerate(theirs, 1):
        label = f"{name}, stage {stage}, 1 frame of 1024"
        record_error("Hiera", label, maps[f"stage{stage}"], b)


def test_two_layers_of_qwen2_7b_agree(random_tensors, to_params, record_error):
    """Two rows of 300 tokens, past the limit of attention in one piece."""
    cfg = replace(QWEN2_7B, depth=2, vocab_size=1000)
    rows = qwen2_rows(cfg)
    tensors = random_tensors(rows, 4)
    tokens = np.random.default_rng(5).integers(0, cfg.vocab_size, (2, 300), np.int64)
    params = {"params": to_params(rows, tensors)["llm"]}
    model = Qwen2(cfg)

    def apply(params, tokens, positions):
        bound = model.bind(params)
        return bound.logits(bound(bound.embed(tokens), positions)[0])

    positions = jnp.broadcast_to(jnp.arange(300), (2, 300))
    ours = jax.jit(apply)(params, jnp.asarray(tokens, jnp.int32), positions)
    ours = np.asarray(ours)
    del params

    peer = torch_peer.qwen2(cfg, tensors)
    theirs = torch_peer.run(peer, tokens, use_cache=False)["logits"]
    label = "7B, 2 layers, 2 x 300 tokens"
    record_error("Qwen2", label, ours, theirs)
