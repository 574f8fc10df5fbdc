"""Low-rank adapters: what they compute and train, and the products below them."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vica_jax.errors import InputError
from vica_jax.models import qwen2
from vica_jax.models.layers import Linear, dot, dropout
from vica_jax.models.qwen2 import Qwen2, SwiGlu
from vica_jax.models.stack import Stack, stack_layers
from vica_jax.models.variants import QWEN2_TINY, VARIANTS
from vica_jax.models.vica import Vica, abstract_vica
from vica_jax.train.lora import (
    LoraConfig,
    attach,
    find_targets,
    init_lora,
    lora_axes,
    merge,
    merge_kernel,
)
from vica_jax.train.partition import insert, leaves

TINY = VARIANTS["tiny"]
LLM_CFG = replace(QWEN2_TINY, depth=2)
EVERY = LoraConfig(
    rank=3,
    alpha=7.5,
    targets=(
        "llm/layers/.*_proj",
        "siglip/layers/.*/(._proj|fc.)",
        "hiera/blocks/.*/(qkv|o_proj|fc.|proj)",
        "(siglip|hiera)_projector/fc.",
    ),
)
# Few: random numbers take the compiler long.
LLM = LoraConfig(
    rank=4, alpha=6, dropout=0.25, targets=("llm/layers/.*/(q|o|gate|down)_proj",)
)


@pytest.fixture(scope="module", params=[False, True], ids=["layers", "stacked"])
def tree(request):
    """Shapes and axes of the tiny model in either form."""
    return abstract_vica(TINY, scan=request.param)


# -------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"alpha": float("nan")}, "alpha must be positive"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\)"),
        ({"targets": ()}, "targets is empty"),
        ({"targets": ("(",)}, "is no regular expression"),
    ],
)
def test_settings_refused(fields, message):
    with pytest.raises(InputError, match=message):
        LoraConfig(**fields)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("llm/layers/.*/attn/q_prj", r"nearest is 'llm/layers/\.\*/attn/q_proj'"),
        ("hiera/blocks/99/mlp/fc1", r"nearest is 'hiera/blocks/\.\*/mlp/fc1'"),
        ("llm/layers/.*/q_proj/kernel", "matches no module"),
        ("llm/embedder", "matches llm/embedder, which is no matrix product"),
        ("newline", "matches newline, which is no matrix product"),
        ("llm/layers/.*", "attn_norm, which is no matrix product"),
        ("siglip/patch_embed", r"no matrix product to adapt \(a convolution\)"),
        ("hiera/patch_embed", r"no matrix product to adapt \(a convolution\)"),
        ("llm/lm_head", "the output matrix"),
    ],
)
def test_targets_refused(pattern, message, tree):
    config = LoraConfig(targets=("llm/layers/.*/q_proj", pattern))
    with pytest.raises(InputError, match=message) as caught:
        find_targets(tree[0], config)
    assert len(str(caught.value).splitlines()) == 1


def test_some_layers_only_where_they_are_not_stacked():
    config = LoraConfig(targets=("llm/layers/[13]/attn/q_proj",))
    shapes, _ = abstract_vica(TINY)
    found = [f"llm/layers/{i}/attn/q_proj" for i in (1, 3)]
    assert find_targets(shapes, config) == found
    with pytest.raises(InputError, match="takes 2 of the 4 layers of llm/layers"):
        find_targets(abstract_vica(TINY, scan=True)[0], config)


# ------------------------------------------------------------------ the leaves
def test_every_layer_of_every_part_can_be_adapted(tree):
    """Input axes are the layers' own, shapes and axes those of the kernels."""
    contracts = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, Linear) and context.method_name == "__call__":
            contracts["/".join(context.module.path)] = context.module.contract
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        abstract_vica(TINY, scan=any("/block/" in path for path, _ in leaves(tree[0])))
    shapes, axes = (dict(leaves(t)) for t in tree)
    adapters = jax.eval_shape(lambda: init_lora(tree[0], EVERY, jax.random.key(0)))
    adapters, own_axes = dict(leaves(adapters)), dict(leaves(lora_axes(tree[1], EVERY)))
    assert adapters.keys() == own_axes.keys()
    targets = find_targets(tree[0], EVERY)
    mlps = {path for path in targets if path.startswith("llm") and "/mlp/" in path}
    assert set(targets) - mlps == contracts.keys() - {"siglip/patch_embed"}
    assert len(mlps) in (3, 12)
    for path in targets:
        stacked = int("/block/" in path)
        last = stacked + contracts.get(path, 1)
        for source, a, b in (
            (
                shapes[f"{path}/kernel"].shape,
                adapters[f"{path}/lora_a"].shape,
                adapters[f"{path}/lora_b"].shape,
            ),
            (
                axes[f"{path}/kernel"],
                own_axes[f"{path}/lora_a"],
                own_axes[f"{path}/lora_b"],
            ),
        ):
            rank = 3 if source is not axes[f"{path}/kernel"] else None
            assert a == (*source[:last], rank)
            assert b == (*source[:stacked], rank, *source[last:])
    assert {x.dtype for x in adapters.values()} == {np.dtype(np.float32)}


def test_initial_values(tree):
    stacked = any("/block/" in path for path, _ in leaves(tree[0]))

    key = jax.random.key(0)
    two = LoraConfig(rank=4, targets=("llm/layers/.*/(o|down)_proj",))
    one = LoraConfig(rank=4, targets=("llm/layers/.*/o_proj",))
    adapters = dict(leaves(init_lora(tree[0], two, key)))
    alone = dict(leaves(init_lora(tree[0], one, key)))
    for path, leaf in adapters.items():
        if path.endswith("lora_b"):
            assert not leaf.any()
            continue
        shape = leaf.shape[stacked:]
        bound = np.prod(shape[:-1]) ** -0.5  # Kaiming's, a = sqrt(5)
        assert 0.9 * bound < np.abs(leaf).max() <= bound
        assert np.abs(leaf.mean()) < 5 * bound / np.sqrt(3 * leaf.size)
        if path in alone:
            np.testing.assert_array_equal(leaf, alone[path])
    if not stacked:
        whole = init_lora(abstract_vica(TINY, scan=True)[0], two, key)
        own = {}
        for path, leaf in adapters.items():
            insert(own, path, leaf)
        again = {"llm": {"layers": stack_layers(own["llm"]["layers"])}}
        jax.tree.map(np.testing.assert_array_equal, again, whole)
    values = [np.asarray(x).ravel()[:8] for p, x in adapters.items() if "lora_a" in p]
    assert len(np.unique(np.concatenate(values))) == 8 * len(values)


# ------------------------------------------------------------------- the model
@pytest.fixture(scope="module")
def llm():
    """The tiny decoder's stacked parameters, trained-looking adapters, an input."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 12, LLM_CFG.width), np.float32))
    positions = jnp.broadcast_to(jnp.arange(12), (2, 12))
    init = jax.jit(lambda key: Qwen2(LLM_CFG, scan=True).init(key, x, positions))
    shapes = nn.meta.unbox(jax.eval_shape(init, jax.random.key(1)))["params"]
    draw = lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32)
    params = jax.tree.map(lambda x: draw(x) + (x.ndim == 2), shapes["layers"])
    params = {"llm": {"layers": params}}  # norms near 1
    adapters = jax.jit(lambda key: init_lora(params, LLM, key))(jax.random.key(2))
    return params, adapters, jax.tree.map(draw, adapters), (x, positions)


def apply(params, inputs, key=None) -> Any:
    rngs = {} if key is None else {"dropout": key}
    model: Any = Qwen2(LLM_CFG, scan=True)
    return model.apply({"params": params["llm"]}, *inputs, rngs=rngs)[0]


run = jax.jit(apply)


def test_fresh_adapters_change_no_bit(llm):
    params, adapters, _, inputs = llm
    np.testing.assert_array_equal(
        run(attach(params, adapters, LLM), inputs), run(params, inputs)
    )


def test_adapters_compute_what_merged_kernels_compute(llm):
    params, _, adapters, inputs = llm
    plain = run(params, inputs)
    adapted = run(attach(params, adapters, LLM), inputs)
    assert np.abs(adapted - plain).max() > 0.1
    merged = merge(params, adapters, LLM)
    np.testing.assert_allclose(run(merged, inputs), adapted, atol=2e-5)
    layers = merged["llm"]["layers"]["block"]
    assert type(layers["attn"]["o_proj"]["kernel"]) is np.ndarray
    bias = params["llm"]["layers"]["block"]["attn"]["q_proj"]["bias"]
    assert layers["attn"]["q_proj"]["bias"] is bias


def close(found, expected, rtol=1e-4):
    """Leaves agree within a share of the largest value of each."""

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())

    jax.tree.map(compare, found, expected)


def shapes_of(jaxpr, primitive):
    """Operand and result shapes and dtypes of a primitive, inner jaxprs included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == primitive:
            yield [v.aval for v in (*eqn.invars, *eqn.outvars)]
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from shapes_of(inner, primitive)


def test_only_adapters_have_gradients(llm, monkeypatch):
    params, _, adapters, inputs = llm
    monkeypatch.setattr(qwen2, "MLP_CHUNK", 6)  # as long inputs: in chunks

    def loss(adapters, params):
        return (apply(attach(params, adapters, LLM), inputs) ** 2).mean()

    grads = jax.jit(jax.grad(loss))(adapters, params)
    norms = {path: float(jnp.linalg.norm(g)) for path, g in leaves(grads)}
    assert norms.keys() == dict(leaves(adapters)).keys() and min(norms.values()) > 0

    # Gradients of kernels would be products of a kernel's shape.
    c = QWEN2_TINY
    kernels = {(c.width, c.mlp_dim), (c.mlp_dim, c.width), (c.width, 4, 16)}

    def made(loss, *args):
        jaxpr = jax.make_jaxpr(jax.grad(loss))(*args).jaxpr
        return {avals[-1].shape for avals in shapes_of(jaxpr, "dot_general")} & kernels

    assert made(loss, adapters, params) == set()
    whole = lambda params: (apply(params, inputs) ** 2).mean()
    assert made(whole, params) == kernels

    # Against differences of the loss along the gradient.
    step = 1e-3 / max(norms.values())
    moved = lambda sign: jax.tree.map(lambda a, g: a + sign * step * g, adapters, grads)
    value = jax.jit(loss)
    change = value(moved(1), params) - value(moved(-1), params)
    expected = 2 * step * sum(norm**2 for norm in norms.values())
    np.testing.assert_allclose(change, expected, rtol=1e-2)


def test_a_scale_must_be_given(llm):
    params, adapters, _, inputs = llm
    with pytest.raises(ValueError, match="lora_a without lora_scale"):
        run(attach(params, adapters, None), inputs)


# --------------------------------------------------------------------- dropout
def test_dropout_happens_with_a_key_alone(llm):
    params, _, adapters, inputs = llm
    with_rate = attach(params, adapters, LLM)
    plain = replace(LLM, dropout=0.0)
    off = run(attach(params, adapters, plain), inputs)
    np.testing.assert_array_equal(run(with_rate, inputs), off)
    one, two, again = (
        run(with_rate, inputs, jax.random.key(seed)) for seed in (0, 1, 0)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - off).max() > 0.1 and np.abs(one - two).max() > 0.1
    keyed = run(attach(params, adapters, plain), inputs, jax.random.key(0))
    np.testing.assert_array_equal(keyed, off)


class Layer(nn.Module):
    """A residual block of one layer, which it also shows by itself."""

    cfg: int

    @nn.compact
    def __call__(self, x):
        y = Linear((self.cfg, self.cfg), (None, None), name="fc1")(x)
        return x + y, y


def stack_of_layers(x, adapter, rate, key, **kwargs):
    """``(sum, [L,...])`` of three layers with nothing but one adapter each."""
    width, depth = x.shape[-1], 3
    layer = {"kernel": jnp.zeros((depth, width, width))}
    layer |= {"bias": jnp.zeros((depth, width))}
    layer |= {"lora_a": adapter, "lora_b": adapter, "lora_scale": jnp.full(depth, 2.0)}
    layer["lora_dropout"] = jnp.full(depth, rate)
    model = Stack(Layer, width, depth, scan=True, **kwargs)
    return model.apply({"params": {"block": {"fc1": layer}}}, x, rngs={"dropout": key})


def test_layers_drop_out_differently_and_keep_the_mean():
    rate, width = 0.4, 8
    x = jnp.linspace(0.5, 1.5, width)[None]
    adapter = jnp.broadcast_to(jnp.eye(width), (3, width, width))

    @jax.jit
    @jax.vmap
    def outputs(key):
        return stack_of_layers(x, adapter, rate, key)[1]

    y = np.asarray(outputs(jax.random.split(jax.random.key(0), 4000)))  # [n,L,1,width]
    np.testing.assert_allclose(y[:, 0].mean(0), 2 * x, rtol=0.05)
    kept = y != 0
    doubled = np.asarray(2 * x / (1 - rate))[0]
    np.testing.assert_allclose(y[:, 0, 0], kept[:, 0, 0] * doubled, rtol=1e-5)
    agree = (kept[:, 0] == kept[:, 1]).mean()  # of two independent layers
    np.testing.assert_allclose(agree, rate**2 + (1 - rate) ** 2, atol=0.02)


def test_dropout_is_the_same_when_a_block_is_computed_again():
    rng = np.random.default_rng(0)
    adapter = jnp.asarray(0.3 * rng.standard_normal((3, 8, 8)), jnp.float32)

    def gradient(remat):
        def loss(adapter):
            x, key = jnp.ones((2, 8)), jax.random.key(5)
            return (stack_of_layers(x, adapter, 0.4, key, remat=remat)[0] ** 2).mean()

        return jax.jit(jax.value_and_grad(loss))(adapter)

    close(gradient("full"), gradient("none"), 1e-6)


def test_dropout_keeps_the_dtype():
    x = jnp.ones((64, 64), jnp.bfloat16)
    y = dropout(x, jnp.float32(0.5), jax.random.key(0))
    assert y.dtype == x.dtype
    assert set(np.unique(np.asarray(y, np.float32))) == {0.0, 2.0}


# --------------------------------------------------------------------- merging
def test_merging_sums_in_float32():
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((6, 2, 5)).astype(jnp.bfloat16)
    a = rng.standard_normal((6, 2, 3)).astype(np.float32)
    b = rng.standard_normal((3, 5)).astype(np.float32)
    merged = merge_kernel(kernel, a, b, 0.7)
    exact = kernel.astype(np.float64) + 0.7 * np.einsum("inr,ro->ino", a, b)
    assert merged.dtype == kernel.dtype
    np.testing.assert_allclose(merged.astype(np.float64), exact, rtol=2**-8, atol=1e-6)
    stack = merge_kernel(
        np.stack([kernel] * 2), np.stack([a] * 2), np.stack([b] * 2), 1
    )
    np.testing.assert_array_equal(stack[1], merge_kernel(kernel, a, b, 1))


@pytest.mark.parametrize("shape", [(6, 5), (2, 6, 5), (6, 2, 4)])
def test_kernels_and_adapters_that_do_not_fit(shape):
    with pytest.raises(InputError, match="has no adapter of shapes"):
        merge_kernel(np.ones(shape), np.ones((6, 2, 3)), np.ones((3, 5)), 1.0)


# -------------------------------------------------- products under differentiation
def test_dot_gradients_are_those_of_the_product():
    rng = np.random.default_rng(0)
    x, kernel, weight = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((3, 4, 5, 6), (5, 6, 2, 7), (3, 4, 2, 7))
    )

    def plain(x, kernel):
        y = jnp.einsum("abcd,cdef->abef", x, kernel, precision="highest")
        return (y * weight).sum()

    def ours(x, kernel):
        return (dot(x, kernel, 2) * weight).sum()

    expected = jax.jit(jax.grad(plain, (0, 1)))(x, kernel)
    found = jax.jit(jax.grad(ours, (0, 1)))(x, kernel)
    close(found, expected, 1e-6)
    half = x.astype(jnp.bfloat16)  # a float32 master keeps a float32 gradient
    d_x, d_kernel = jax.jit(jax.grad(ours, (0, 1)))(half, kernel)
    assert (d_x.dtype, d_kernel.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(d_x.astype(jnp.float32), expected[0], rtol=0.1, atol=0.2)
    np.testing.assert_allclose(d_kernel, expected[1], rtol=0.1, atol=0.2)
    jaxpr = jax.make_jaxpr(jax.grad(ours, (0, 1)))(half, kernel).jaxpr
    products = list(shapes_of(jaxpr, "dot_general"))
    assert len(products) == 3
    for left, right, out in products:
        assert (left.dtype, right.dtype, out.dtype) == (
            *[jnp.bfloat16] * 2,
            jnp.float32,
        )


@pytest.mark.parametrize("shape", [(2, 12), (4, 5)])
def test_chunks_do_not_show_in_gradients(shape, monkeypatch):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((*shape, LLM_CFG.width), np.float32))
    model: Any = SwiGlu(LLM_CFG)
    config = LoraConfig(rank=2, targets=(".*_proj",))

    @jax.jit
    def init(key):
        params = nn.meta.unbox(model.init(key, x))["params"]
        adapters = init_lora(params, config, key)
        return attach(params, jax.tree.map(lambda a: a + 0.1, adapters), config)

    params = init(jax.random.key(1))

    def compute(chunk):
        """Value, gradients, and the number of loops in the programs of the two."""
        monkeypatch.setattr(qwen2, "MLP_CHUNK", chunk)

        def loss(params, x):
            return (model.apply({"params": params}, x) ** 2).mean()

        functions = loss, jax.grad(loss, (0, 1))
        loops = [
            len([*shapes_of(jaxpr, "while"), *shapes_of(jaxpr, "scan")])
            for jaxpr in (jax.make_jaxpr(f)(params, x).jaxpr for f in functions)
        ]
        return *(jax.jit(f)(params, x) for f in functions), loops

    value, gradients, loops = compute(6)
    plain_value, plain_gradients, plain_loops = compute(10**6)
    assert (loops, plain_loops) == ([1, 0], [0, 0])
    np.testing.assert_allclose(value, plain_value, rtol=1e-6)
    close(gradients, plain_gradients, 1e-6)


def test_chunks_in_a_scanned_model(llm, monkeypatch):
    """As in training: remat in a scan, and the kernels' own gradients."""
    params, _, _, inputs = llm

    def gradients(chunk):
        monkeypatch.setattr(qwen2, "MLP_CHUNK", chunk)

        def loss(params):
            return (apply(params, inputs) ** 2).mean()

        return jax.jit(jax.grad(loss))(params)

    close(gradients(6), gradients(10**6), 1e-5)


def test_the_whole_model_has_the_leaves_where_it_reads_them():
    """No adapter is left unread: each changes the program of some layer."""
    shapes, _ = abstract_vica(TINY, scan=True)
    model: Any = Vica(TINY, scan=True)
    adapters = jax.eval_shape(lambda: init_lora(shapes, EVERY, jax.random.key(0)))
    size = TINY.siglip.image_size
    array = jax.ShapeDtypeStruct
    batch = {
        "tokens": array((1, 4), jnp.int32),
        "visual_index": array((1, 4), jnp.int32),
        "lengths": array((1,), jnp.int32),
        "frames": array((1, 1, size, size, 3), jnp.uint8),
        "hiera_frames": array((1, 1, 8, 8, 3), jnp.uint8),
        "hiera_frame_sizes": array((1, 2), jnp.int32),
    }

    def grads(adapters, params, batch):
        def loss(adapters):
            both = attach(params, adapters, EVERY)
            return model.apply({"params": both}, batch).sum()

        return jax.grad(loss)(adapters)

    jaxpr = jax.make_jaxpr(grads)(adapters, shapes, batch).jaxpr
    # A gradient that is a constant zero comes from no product.
    made = {id(v): eqn.primitive.name for eqn in jaxpr.eqns for v in eqn.outvars}
    unread = [
        path
        for (path, _), v in zip(leaves(adapters), jaxpr.outvars, strict=True)
        if made.get(id(v)) in (None, "broadcast_in_dim")
    ]
    assert unread == []
