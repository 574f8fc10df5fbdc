"""Invariants of the whole model at tiny size with random weights."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vica_jax.data.example import Example, collate, video_medium
from vica_jax.models.stack import stack_layers, unstack_layers
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import Vica, abstract_vica, init_vica


@pytest.fixture(scope="module")
def tiny():
    cfg = VARIANTS["tiny"]
    return cfg, init_vica(cfg, jax.random.key(1))


def example(cfg, frames=3, seed=0, text=(5, 9)):
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 256, (frames, 40, 56, 3), np.uint8)
    chunks = [rng.integers(0, 500, n).tolist() for n in text]
    return Example(chunks=chunks, media=[video_medium(video, cfg.layout)])


def logits(cfg, params, batch, **kwargs):
    return jax.jit(Vica(cfg, **kwargs).apply)({"params": params}, batch)


def test_scan_equals_loop(tiny):
    cfg, params = tiny
    stacked = jax.tree.map(lambda x: x, params)
    for tower in ("siglip", "llm"):
        stacked[tower] = {
            **stacked[tower],
            "layers": stack_layers(stacked[tower]["layers"]),
        }
    shapes, _ = abstract_vica(cfg, scan=True)
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(lambda s: s.shape, shapes)
    batch = collate([example(cfg)], cfg.layout)
    looped = logits(cfg, params, batch)
    scanned = logits(cfg, stacked, batch, scan=True)
    np.testing.assert_allclose(scanned, looped, atol=2e-5)


def test_unstack_inverts_stack(tiny):
    layers = tiny[1]["llm"]["layers"]
    again = unstack_layers(stack_layers(layers))
    jax.tree.map(np.testing.assert_array_equal, again, dict(layers))


def test_frame_chunks_change_nothing(tiny):
    cfg, params = tiny
    batch = collate([example(cfg, frames=5)], cfg.layout)
    whole = logits(cfg, params, batch, frame_chunk=8)
    parts = logits(cfg, params, batch, frame_chunk=2)
    np.testing.assert_allclose(parts, whole, atol=2e-5)


def test_padding_and_company_change_nothing(tiny):
    """A row's logits do not depend on its bucket or on the other rows."""
    cfg, params = tiny
    short, long = example(cfg, 2, 0), example(cfg, 5, 1, (30, 40))
    alone = logits(cfg, params, collate([short], cfg.layout))
    both = logits(cfg, params, collate([short, long], cfg.layout, pad_id=7))
    n = short.length(cfg.layout)
    np.testing.assert_allclose(both[0, :n], alone[0, :n], atol=2e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_every_token_ratio_runs(stride, stage):
    cfg = VARIANTS["tiny"]
    pool = {1: 8, 2: 5, 3: 3, 4: 1}[stage]
    layout = replace(
        cfg.layout, frame_stride=stride, output_stage=stage, pool_stride=pool
    )
    cfg = cfg.with_layout(layout)
    batch = collate([example(cfg, frames=4)], layout)
    shapes, _ = abstract_vica(cfg)
    bank = jax.eval_shape(
        lambda p, b: Vica(cfg).apply({"params": p}, b, method="visual_bank"),
        shapes,
        batch,
    )
    frames = -(-4 // stride)
    side = -(-(32 // 2 ** (stage - 1)) // pool)
    assert bank.shape == (1, 1 + 4 * 9 + frames * side**2, 64)
    assert (batch["visual_index"] < bank.shape[1]).all()
    used = np.unique(batch["visual_index"][batch["visual_index"] >= 0])
    assert used.size == bank.shape[1]  # every row of the bank is used


def test_unused_stages_are_not_run(tiny):
    """Output stage 2 leaves the later blocks out of the program."""
    cfg = VARIANTS["tiny"]
    early = cfg.with_layout(replace(cfg.layout, output_stage=2))

    def flops(cfg):
        shapes, _ = abstract_vica(cfg)
        batch = collate([example(cfg)], cfg.layout)
        encode = jax.jit(
            lambda p, b: Vica(cfg).apply({"params": p}, b, method="visual_bank")
        )
        return encode.lower(shapes, batch).cost_analysis()["flops"]

    assert flops(early) < flops(cfg)


def test_bfloat16_runs_near_float32(tiny):
    cfg, params = tiny
    batch = collate([example(cfg)], cfg.layout)
    full = logits(cfg, params, batch)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    low = logits(cfg, half, batch, dtype=jnp.bfloat16)
    assert low.dtype == jnp.float32
    gap = np.abs(np.asarray(full) - np.asarray(low)).max()
    assert 0 < gap < 0.1 * np.abs(full).max()
