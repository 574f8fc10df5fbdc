"""Published sizes: exact parameter and token counts, by abstract evaluation."""

import math
from dataclasses import replace

import jax
import pytest

from vica_jax.layout import LayoutError
from vica_jax.models.config import ConfigError, VicaConfig, make_layout
from vica_jax.models.variants import (
    HIERA_BASE_PLUS,
    QWEN2_0_5B,
    SIGLIP_SO400M,
    VARIANTS,
)
from vica_jax.models.vica import abstract_vica


def count(tree) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def test_vica2_7b_counts():
    cfg = VARIANTS["vica2_7b"]
    shapes, _ = abstract_vica(cfg)
    parts = {name: count(tree) for name, tree in shapes.items()}
    assert parts == {
        "siglip": 397_747_744,
        "siglip_projector": 16_980_992,
        "hiera": 68_675_712,
        "hiera_projector": 16_063_488,
        "newline": 3_584,
        "llm": 7_615_616_512,
    }
    assert sum(parts.values()) - parts["hiera"] == 8_046_412_320
    assert cfg.layout.siglip_video_tokens(64) == 13_440
    assert cfg.layout.hiera_video_tokens(64) == 8_704


def test_hiera_large_widths():
    cfg = VARIANTS["vica2_7b_hiera_large"]
    assert cfg.hiera.stage_widths == (144, 288, 576, 1152)
    shapes, _ = abstract_vica(cfg)
    assert shapes["hiera_projector"]["fc1"]["kernel"].shape == (1152, 3584)


def test_vica_has_no_hiera():
    shapes, _ = abstract_vica(VARIANTS["vica_7b"])
    assert set(shapes) == {"siglip", "siglip_projector", "newline", "llm"}


def test_tied_embeddings_have_no_head():
    cfg = VicaConfig(
        siglip=SIGLIP_SO400M, llm=QWEN2_0_5B, layout=make_layout(SIGLIP_SO400M)
    )
    shapes, _ = abstract_vica(cfg)
    assert "lm_head" not in shapes["llm"]
    assert count(shapes["llm"]) == 494_032_768


@pytest.mark.parametrize("scan", [False, True])
def test_every_parameter_has_axes(scan):
    shapes, axes = abstract_vica(VARIANTS["tiny"], scan=scan)
    for shape, names in zip(
        jax.tree.leaves(shapes),
        jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple)),
        strict=True,
    ):
        assert len(shape.shape) == len(names)


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_projector_follows_the_output_stage(stage):
    cfg = VARIANTS["tiny"]
    cfg = cfg.with_layout(replace(cfg.layout, output_stage=stage))
    shapes, _ = abstract_vica(cfg)
    width = cfg.hiera.stage_widths[stage - 1]
    assert shapes["hiera_projector"]["fc1"]["kernel"].shape == (width, 64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"global_blocks": (2,)}, "global and query-pooling"),
        ({"global_blocks": (99,)}, "global block 99"),
        ({"windows": (8, 4, 14)}, "3 windows for 4 stages"),
        ({"windows": (8, 4, 7, 7)}, "window 7 of stage 3"),
        ({"image_size": 1000}, "image_size 1000"),
        ({"num_pools": 4}, "num_pools"),
        ({"num_heads": 5}, "does not divide"),
    ],
)
def test_hiera_configs_that_cannot_be(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(HIERA_BASE_PLUS, **change)


def test_stage_past_the_last_is_refused():
    with pytest.raises(LayoutError, match=r"1\.\.4, got 5"):
        make_layout(SIGLIP_SO400M, HIERA_BASE_PLUS, output_stage=5)
