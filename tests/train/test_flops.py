"""Model FLOPs: published figures, the products that the model's own program holds."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.models.config import VicaConfig
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import Vica, abstract_vica
from vica_jax.train.flops import (
    PARTS,
    batch_flops,
    part_flops,
    peak_flops,
    sample_flops,
)

TERA = 1e12
VICA, VICA2, TINY = VARIANTS["vica_7b"], VARIANTS["vica2_7b"], VARIANTS["tiny"]
SIGLIP_ONLY = set(PARTS) - {"hiera", "hiera_projector"}
NOTHING: frozenset[str] = frozenset()
VIDEO: dict[str, Any] = {"frames": 64, "hiera_frames": 32}


# --------------------------------------------------------------------------- figures
def test_parts_of_one_video_at_full_size():
    """22,144 visual and 150 text positions, forward: the floor figures."""
    length = VICA2.layout.video_tokens(64) + 150
    parts = part_flops(VICA2, lengths=[length], **VIDEO, trainable=NOTHING)
    projectors = parts["siglip_projector"] + parts["hiera_projector"]
    assert parts["siglip"] / TERA == pytest.approx(41.1, rel=0.005)
    assert parts["hiera"] / TERA == pytest.approx(20.4, rel=0.005)
    assert projectors / TERA == pytest.approx(2.6, rel=0.02)
    assert parts["llm"] / TERA == pytest.approx(391, rel=0.005)


@pytest.mark.parametrize(
    ("cfg", "media", "trainable", "figure"),
    [
        (VICA, {"frames": 64}, SIGLIP_ONLY, 772),
        (VICA2, VIDEO, set(PARTS) - {"hiera"}, 1324),
    ],
)
def test_training_sample_at_full_size(
    cfg: VicaConfig, media: dict[str, Any], trainable: set[str], figure: float
):
    length = cfg.layout.video_tokens(64) + 150
    flops = sample_flops(cfg, length=length, targets=100, trainable=trainable, **media)
    assert flops / TERA == pytest.approx(figure, rel=0.005)


def test_stage_1_sample_is_dominated_by_the_frozen_language_model():
    """Projector alone: one image of at most a tile, 60 text positions, 74 TFLOP."""
    length = VICA2.layout.anyres_image_tokens((336, 336)) + 60
    assert length == 2601
    numbers: dict[str, Any] = {"views": 2, "hiera_images": 1, "targets": 30}
    parts = part_flops(
        VICA2, lengths=[length], trainable={"hiera_projector"}, **numbers
    )
    forward = part_flops(VICA2, lengths=[length], trainable=NOTHING, **numbers)
    assert sum(parts.values()) / TERA == pytest.approx(74.1, rel=0.005)
    for part in ("siglip", "siglip_projector", "hiera"):
        assert parts[part] == forward[part]  # nothing below the projector learns
    assert 2 < parts["llm"] / forward["llm"] < 2.1  # inputs' gradients, not weights'
    # Three times its products but for the first one's input gradient.
    first = VICA2.hiera_out_width / (VICA2.hiera_out_width + VICA2.llm.width)
    ratio = parts["hiera_projector"] / forward["hiera_projector"]
    assert ratio == pytest.approx(3 - first)


# ------------------------------------------------- the program's own products, counted
def count(function: Callable[..., Any], *inputs: Any) -> float:
    """FLOPs of every matrix product and convolution in a traced function."""
    return _count(jax.make_jaxpr(function)(*inputs).jaxpr)


def _count(jaxpr: Any) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        size = math.prod(eqn.outvars[0].aval.shape) if eqn.outvars else 0
        if name == "dot_general":
            (contract, _), _ = params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += 2 * size * math.prod(shape[axis] for axis in contract)
        elif name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            out = kernel[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * size * math.prod(kernel) / out
        inner = sum(
            _count(getattr(sub, "jaxpr", sub))
            for value in params.values()
            for sub in (value if isinstance(value, tuple | list) else [value])
            if hasattr(getattr(sub, "jaxpr", sub), "eqns")
        )
        assert not (inner and name == "while"), "a loop of unknown length"
        total += inner * params.get("length", 1) if name == "scan" else inner
    return total


CFG = replace(TINY, llm=replace(TINY.llm, depth=2))
LENGTH, TARGETS = 60, 7
BATCH: Any = {
    "tokens": jnp.zeros((1, LENGTH), jnp.int32),
    "visual_index": jnp.full((1, LENGTH), 1, jnp.int32),
    "lengths": jnp.full((1,), LENGTH, jnp.int32),
    "views": jnp.zeros((1, 3, 72, 72, 3), jnp.uint8),
    "hiera_images": jnp.zeros((1, 2, 16, 16, 3), jnp.uint8),
    "hiera_image_sizes": jnp.full((1, 2, 2), 16, jnp.int32),
}
MEDIA: dict[str, Any] = {"views": 3, "hiera_images": 2, "targets": TARGETS}


def loss(model: Vica, batch: Any) -> jax.Array:
    return (model.logits(model.hidden_states(batch)[:, :TARGETS]) ** 2).sum()


def program_flops(trainable: frozenset[str]) -> float:
    """Of one forward and backward pass of the whole tiny model."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract_vica(CFG)[0])

    def run(params: Any) -> Any:
        return Vica(CFG).apply({"params": zeros | params}, BATCH, method=loss)

    if not trainable:
        return count(run, {})
    return count(jax.value_and_grad(run), {name: zeros[name] for name in trainable})


def uncounted(trainable: frozenset[str]) -> float:
    """Products of the program that model FLOPs leave out, in closed form.

    Key-query pairs above the diagonal, which the direct attention masks, and the resize
    of Hiera's position table as two small products.
    """
    heads = CFG.llm.num_heads * CFG.llm.head_dim * CFG.llm.depth
    hidden = LENGTH * (LENGTH - 1) // 2
    hiera = CFG.hiera
    assert hiera is not None
    side, (height, width) = hiera.image_size // hiera.patch_stride, hiera.pos_embed_size
    resize = 2 * hiera.width * (side * height * width + side * side * width)
    attention = 4 * hidden * heads * (3 if trainable else 1)
    return attention + resize * (2 if "hiera" in trainable else 1)


@pytest.mark.parametrize(
    "trainable",
    [
        NOTHING,
        {"hiera_projector"},
        {"newline"},
        {"llm"},
        {"siglip"},
        set(PARTS) - {"hiera"},
        set(PARTS),
    ],
    ids=lambda parts: "+".join(sorted(parts)) or "forward",
)
def test_equals_the_products_of_the_program(trainable: set[str]):
    """To the last FLOP, forward and backward, whatever trains."""
    parts = frozenset(trainable)
    ours = sample_flops(CFG, length=LENGTH, trainable=parts, **MEDIA)
    assert program_flops(parts) - uncounted(parts) == ours


# ------------------------------------------------------------------------ properties
COUNTS = st.fixed_dictionaries(
    {
        "length": st.integers(1, 5000),
        "frames": st.integers(0, 64),
        "views": st.integers(0, 10),
        "hiera_frames": st.integers(0, 32),
        "hiera_images": st.integers(0, 4),
        "targets": st.integers(0, 500),
    }
)
TRAINABLE = st.frozensets(st.sampled_from(PARTS))


@given(st.lists(COUNTS, min_size=1, max_size=4), TRAINABLE)
def test_a_batch_is_the_sum_of_its_examples(
    examples: list[dict[str, Any]], trainable: frozenset[str]
):
    """``lengths`` may be an array; an integer sum would overflow in int32."""
    lengths = np.array([example["length"] for example in examples], np.int32)
    names = [name for name in examples[0] if name != "length"]
    sums = {name: sum(example[name] for example in examples) for name in names}
    batch = batch_flops(VICA2, lengths=lengths, trainable=trainable, **sums)
    each = [sample_flops(VICA2, trainable=trainable, **numbers) for numbers in examples]
    assert batch == pytest.approx(sum(each), rel=1e-12)


@given(COUNTS, TRAINABLE, TRAINABLE)
def test_training_more_costs_no_less_and_at_most_three_forwards(
    numbers: dict[str, Any], some: frozenset[str], more: frozenset[str]
):
    forward = sample_flops(VICA2, trainable=NOTHING, **numbers)
    less = sample_flops(VICA2, trainable=some, **numbers)
    both = sample_flops(VICA2, trainable=some | more, **numbers)
    assert forward <= less <= both <= 3 * forward


def test_adapters_pass_gradients_without_those_of_weights():
    numbers: dict[str, Any] = {"lengths": [1000], "frames": 8, "targets": 20}
    adapted = part_flops(VICA, trainable=NOTHING, adapted={"llm"}, **numbers)
    through = part_flops(VICA, trainable={"newline"}, **numbers)
    forward = part_flops(VICA, trainable=NOTHING, **numbers)
    assert adapted["llm"] == through["llm"] > forward["llm"]
    assert adapted["siglip"] == forward["siglip"]


def test_cached_hiera_features_cost_their_projection_alone():
    numbers: dict[str, Any] = {"lengths": [1000], "hiera_frames": 4}
    trainable = {"hiera_projector"}
    full = part_flops(VICA2, trainable=trainable, **numbers)
    cached = part_flops(VICA2, trainable=trainable, cached_hiera=True, **numbers)
    assert cached == full | {"hiera": 0}


@pytest.mark.parametrize(
    ("cfg", "numbers", "message"),
    [
        (VICA, {"trainable": {"hiera_projector"}}, "unknown part 'hiera_projector'"),
        (VICA2, {"trainable": {"vision"}}, "unknown part 'vision'"),
        (VICA, {"trainable": NOTHING, "hiera_images": 1}, "does not have"),
        (VICA2, {"trainable": {"hiera"}, "cached_hiera": True}, "cannot train Hiera"),
    ],
)
def test_wrong_parts_are_refused(cfg: VicaConfig, numbers: dict, message: str):
    with pytest.raises(ValueError, match=message):
        sample_flops(cfg, length=10, **numbers)


# ----------------------------------------------------------------------------- peaks
@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA GH200 480GB", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L4", 121),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A10G", None),
        ("Tesla V100-SXM2-32GB", None),
        ("cpu", None),
        ("", None),
    ],
)
def test_peak_of_a_device(kind: str, tflops: float | None):
    peak = peak_flops(kind)
    assert peak == (None if tflops is None else pytest.approx(tflops * 1e12))
