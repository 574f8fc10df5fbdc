"""int8 weights: half a scale of error, the same products, no float copies."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vica_jax.decode.generate import Sampling, decode, prefill, start
from vica_jax.models import layers, quantize
from vica_jax.models.layers import Linear, dot
from vica_jax.models.quantize import (
    LEAST,
    SCALE,
    QuantizeError,
    dequantize,
    int8_form,
    is_quantized,
    quantize_kernel,
    to_int8,
)
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import Vica, abstract_vica, init_vica
from vica_jax.train.partition import leaves

Q, O, DOWN = (
    f"llm/layers/0/{x}/kernel" for x in ("attn/q_proj", "attn/o_proj", "mlp/down_proj")
)
FLOATS = {"allow_nan": False, "allow_infinity": False, "width": 32}


# ------------------------------------------------------------------ there and back
@given(
    kernel=arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=3, max_dims=3, max_side=5),
        elements=st.floats(**FLOATS) | st.sampled_from([0.0, 1e-45, -3e38, 1e-38]),
    ),
    path=st.sampled_from([Q, O]),
)
def test_every_element_is_within_half_a_scale(kernel, path):
    """Also subnormal ones and those next to the largest number there is."""
    values, scale = quantize_kernel(path, kernel)
    outs = kernel.shape[2:] if path == O else kernel.shape[1:]
    assert (values.dtype, values.shape) == (np.int8, kernel.shape)
    assert (scale.dtype, scale.shape) == (np.float32, outs)
    assert (scale >= LEAST).all() and values.min() >= -127
    wide = scale.astype(np.float64)
    gap = np.abs(values * wide - kernel.astype(np.float64))
    # Quotients of up to 127 are rounded to float32, three times on the way.
    assert (gap <= wide * (0.5 + 127 * 3 * 2**-24)).all()


@given(st.integers(0, 99), st.sampled_from([np.float32, ml_dtypes.bfloat16]))
def test_blocks_of_rows_change_nothing(seed, dtype):
    kernel = np.random.default_rng(seed).standard_normal((7, 3, 5)).astype(dtype)
    whole = quantize_kernel(O, kernel)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "BLOCK_BYTES", 2 * 4 * 15)
        for x, y in zip(whole, quantize_kernel(O, kernel), strict=True):
            assert np.array_equal(x, y)
    for x, y in zip(whole, to_int8(jnp.asarray(kernel), (0, 1)), strict=True):
        np.testing.assert_array_equal(x, y)  # numpy's and a device's are the same


def test_a_channel_of_zeros_and_one_element_that_stands_out():
    kernel = np.zeros((4, 3), np.float32)
    kernel[:, 1] = [1, -2, 127, 0.5]
    values, scale = quantize_kernel(DOWN, kernel)
    assert scale.tolist() == [np.float32(LEAST), 1.0, np.float32(LEAST)]
    assert values[:, 1].tolist() == [1, -2, 127, 0] and not values[:, ::2].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(bad):
    kernel = np.ones((4, 3), np.float32)
    kernel[2, 1] = bad
    with pytest.raises(QuantizeError, match=f"^{DOWN}: an element is infinite or no"):
        quantize_kernel(DOWN, kernel)


def test_the_language_models_products_alone():
    cfg = VARIANTS["vica2_7b"]
    shapes = dict(leaves(abstract_vica(cfg)[0]))
    chosen = {path for path in shapes if is_quantized(path)}
    assert len(chosen) == 7 * cfg.llm.depth + 1
    assert all(path.startswith("llm/") and path.endswith("/kernel") for path in chosen)
    left = {p.split("/")[-1] for p in shapes.keys() - chosen if p.startswith("llm/")}
    assert left == {"embedding", "scale", "bias"}
    assert sum(shapes[path].size for path in chosen) == 7_070_285_824


@pytest.fixture(scope="module")
def small():
    cfg = replace(VARIANTS["tiny"], llm=replace(VARIANTS["tiny"].llm, depth=2))
    return cfg, init_vica(cfg, jax.random.key(0))


def test_trees_there_and_back(small):
    _, params = small
    before, made = dict(leaves(params)), quantize.quantize(params)
    after = dict(leaves(dequantize(made)))
    assert before.keys() == after.keys()
    scales = {p for p, _ in leaves(made)} - before.keys()
    assert scales == {p[: -len("kernel")] + SCALE for p in before if is_quantized(p)}
    for path, leaf in before.items():
        if is_quantized(path):
            gap = np.abs(np.asarray(after[path]) - np.asarray(leaf)).max()
            assert 0 < gap <= 0.51 * np.abs(leaf).max() / 127
        else:
            assert after[path] is leaf
    host = quantize.quantize(jax.tree.map(np.asarray, params))
    for x, y in zip(*map(jax.tree.leaves, (made, host)), strict=True):
        assert np.array_equal(x, y)


def test_the_form_is_that_of_quantised_parameters(small):
    cfg, params = small
    shapes, axes = int8_form(*abstract_vica(cfg))
    forms, axes = dict(leaves(shapes)), dict(leaves(axes))
    made = dict(leaves(quantize.quantize(params)))
    assert forms.keys() == axes.keys() == made.keys()
    for path, form in forms.items():
        assert (form.shape, form.dtype) == (made[path].shape, made[path].dtype)
        assert len(axes[path]) == len(form.shape)
    layer = "llm/layers/1/attn"
    assert axes[f"{layer}/q_proj/{SCALE}"] == ("heads", "head_dim")
    assert axes[f"{layer}/o_proj/{SCALE}"] == ("embed",)


# -------------------------------------------------------------------- the products
@settings(max_examples=12)
@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 5),
    sizes=st.tuples(*[st.integers(1, 9)] * 3),
    contract=st.sampled_from([1, 2]),
    block=st.sampled_from([1, 7, 2**20]),
    one_cpu=st.booleans(),
)
def test_a_product_is_that_of_the_dequantised(
    seed, rows, sizes, contract, block, one_cpu
):
    """By blocks of any size, the last of them overlapping, or all at once."""
    rng = np.random.default_rng(seed)
    kernel = to_int8(jnp.asarray(rng.normal(size=sizes)), tuple(range(contract)))
    x = jnp.asarray(rng.normal(size=(2, rows, *sizes[:contract])), jnp.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "KERNEL_BLOCK", block)
        patch.setattr(layers, "on_one_cpu", lambda: one_cpu)
        y = jax.jit(lambda x, kernel: dot(x, kernel, contract))(x, kernel)
    wide = np.asarray(kernel.values, np.float64) * np.asarray(kernel.scale, np.float64)
    expected = np.tensordot(np.asarray(x, np.float64), wide, contract)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_a_layer_whose_scale_is_missing():
    layer = Linear((3, 4), ("embed", "mlp"), use_bias=False)
    params = {"kernel": jnp.ones((3, 4), jnp.int8)}
    with pytest.raises(ValueError, match="an int8 kernel without kernel_scale"):
        layer.apply({"params": params}, jnp.ones((1, 3)))


def test_an_int8_output_matrix_does_not_train(small):
    cfg, params = small
    made = {"params": quantize.quantize(params)}
    with pytest.raises(ValueError, match="int8 kernel does not train"):
        Vica(cfg).apply(made, method=lambda module: module.llm.output_kernel())


# -------------------------------------------------------------------- the memory
LLM = replace(
    VARIANTS["tiny"].llm, width=256, mlp_dim=8192, vocab_size=8192, head_dim=64
)
NEW = 16
SAMPLING = Sampling(eos_ids=(1,), pad_id=0, vocab_limit=LLM.vocab_size)


@pytest.mark.parametrize("mlp_dim", [8192, 2048])  # the second: less than a block
def test_no_float_copy_of_the_kernels(mlp_dim):
    """XLA would make those of all layers before the loop of decode steps."""
    depth = 6
    cfg = replace(VARIANTS["tiny"], llm=replace(LLM, depth=depth, mlp_dim=mlp_dim))
    params, _ = int8_form(*abstract_vica(cfg))
    floats = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    ints = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
    model, choice = Vica(cfg), SAMPLING.choice()

    def steps(params, logits, lengths, cache):
        state = start(choice, logits, lengths, jax.random.key(0), cache)
        return decode(model, NEW, params, choice, state, NEW)

    kv = floats(1, 64, LLM.num_kv_heads, LLM.head_dim)
    asked = params, floats(1, LLM.vocab_size), ints(1), [(kv, kv)] * depth
    text = {"tokens": ints(1, 64), "visual_index": ints(1, 64), "lengths": ints(1)}
    for lowered in (
        jax.jit(steps, donate_argnums=3).lower(*asked),
        prefill.lower(model, 80, params, text, None),
    ):
        used = lowered.compile().memory_analysis().temp_size_in_bytes
        assert used < 3 * 4 * layers.KERNEL_BLOCK
