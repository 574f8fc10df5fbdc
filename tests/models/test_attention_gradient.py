"""Gradients of attention: those of the direct form, in O(T) memory, wherever traced."""

import functools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from vica_jax.models import attention
from vica_jax.models.attention import attend
from vica_jax.models.blockwise import KEPT, blockwise

TOLERANCE = 1e-5  # of the norm, float32


def draw(T, S, N, K, H, B=2, seed=0):
    """q, k, v and the gradient of the output."""
    rng = np.random.default_rng(seed)
    shapes = [(B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H)]
    return [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes]


def gradients(function, q, k, v, g):
    return jax.jit(lambda *x: jax.vjp(function, *x[:3])[1](x[3]))(q, k, v, g)


def direct(q, k, v, causal):
    with jax.default_matmul_precision("highest"):
        return attention._reference(q, k, v, causal)


def assert_close(actual, expected, tolerance=TOLERANCE):
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for x, y in pairs:
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        # One key alone has weight 1: its true gradients are 0, hence the floor.
        assert np.linalg.norm(x - y) <= tolerance * max(np.linalg.norm(y), 1.0)


@pytest.fixture
def no_short(monkeypatch):
    monkeypatch.setattr(attention, "SHORT_LIMIT", 0)


@settings(max_examples=6)
@given(
    T=st.integers(1, 70),
    extra=st.integers(0, 20),
    heads=st.sampled_from([(1, 1), (4, 2), (7, 1)]),
    H=st.sampled_from([4, 9]),
    rows=st.sampled_from([1, 8, 21, 64]),
    keys=st.sampled_from([4, 16, 33, 128]),
    causal=st.booleans(),
    batched=st.booleans(),
)
def test_gradients_equal_the_direct_ones(
    T, extra, heads, H, rows, keys, causal, batched
):
    x = draw(T, T if causal else T + extra, *heads, H)
    blocks = functools.partial(
        blockwise, causal=causal, query_rows=rows, key_block=keys
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vica_jax.models.blockwise.on_one_cpu", lambda: not batched)
        actual = gradients(blocks, *x)
    assert_close(actual, gradients(functools.partial(direct, causal=causal), *x))


@pytest.mark.parametrize("T, causal, H", [(729, False, 72), (1100, True, 16)])
def test_gradients_in_blocks_of_full_size(T, causal, H):
    x = draw(T, T, 2, 1, H, B=1)
    actual = gradients(functools.partial(attend, causal=causal), *x)
    assert_close(actual, gradients(functools.partial(direct, causal=causal), *x))


def test_half_precision_gradients():
    x = [a.astype(jnp.bfloat16) for a in draw(60, 60, 4, 2, 16)]
    blocks = functools.partial(blockwise, causal=True, query_rows=32, key_block=16)
    actual = gradients(blocks, *x)
    assert [a.dtype for a in actual] == [jnp.bfloat16] * 3
    full = [a.astype(jnp.float32) for a in x]
    expected = gradients(functools.partial(direct, causal=True), *full)
    assert_close(actual, expected, 0.01)


def three_layers(q, k, v, layer):
    def step(x, _):
        return layer(x, k, v), None

    return jax.lax.scan(step, q, None, length=3)[0]


def test_inside_a_scan_of_rematerialised_layers(no_short):
    x = draw(40, 40, 4, 2, 8)
    layer = functools.partial(attend, causal=True)
    policy = jax.checkpoint_policies.save_only_these_names(KEPT)
    plain = functools.partial(direct, causal=True)
    expected = gradients(functools.partial(three_layers, layer=plain), *x)
    for remat in (jax.checkpoint(layer), jax.checkpoint(layer, policy=policy)):
        actual = gradients(functools.partial(three_layers, layer=remat), *x)
        assert_close(actual, expected)


def test_a_policy_can_keep_what_the_backward_pass_needs(no_short):
    *x, _ = draw(40, 40, 4, 2, 8)
    layer = functools.partial(attend, causal=True)

    def exponentials(**remat):
        loss = lambda *x: jax.checkpoint(layer, **remat)(*x).sum()
        return str(jax.make_jaxpr(jax.grad(loss))(*x)).count("= exp ")

    # Two in the forward pass (of the scores, of the change of their maximum), one in
    # the backward pass.
    policy = jax.checkpoint_policies.save_only_these_names(KEPT)
    assert (exponentials(), exponentials(policy=policy)) == (2 + 2 + 1, 2 + 1)


def test_inference_computes_no_log_sum_exp(no_short):
    *x, _ = draw(40, 40, 4, 2, 8)
    assert " log " not in str(jax.make_jaxpr(attend)(*x))


class Encoder(nn.Module):
    chunk: int

    @nn.compact
    def __call__(self, x):
        project = nn.Dense(3 * 16, name="qkv")

        def encode(project, x):
            qkv = project(x).reshape(*x.shape[:2], 3, 2, 8)
            return attend(*(qkv[:, :, i] for i in range(3)))

        scan = nn.scan(
            lambda module, carry, x: (carry, encode(module, x)),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        parts = x.reshape(-1, self.chunk, *x.shape[1:])
        return scan(project, (), parts)[1].reshape(*x.shape[:2], 2, 8)


def test_inside_a_scan_over_chunks_of_images(no_short):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 30, 16)), jnp.float32)
    params = Encoder(6).init(jax.random.key(0), x)

    def gradient(chunk):
        loss = lambda params, x: jnp.square(Encoder(chunk).apply(params, x)).sum()
        return jax.jit(jax.grad(loss, (0, 1)))(params, x)

    assert_close(gradient(2), gradient(6))


def test_no_square_array_in_the_gradient_program():
    T = 4096
    q = jax.ShapeDtypeStruct((1, T, 4, 64), jnp.float32)
    kv = jax.ShapeDtypeStruct((1, T, 2, 64), jnp.float32)
    pull = lambda *x: jax.vjp(functools.partial(attend, causal=True), *x[:3])[1](x[3])
    compiled = jax.jit(pull).lower(q, kv, kv, q).compile()
    # q, g and the output in other layouts, and tiles: far from 4 x T x T floats.
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * T * T


@pytest.fixture
def stand_in(monkeypatch):
    """Puts a function in the place of cuDNN's kernel, on a pretended GPU."""

    def put(kernel):
        monkeypatch.setattr(attention, "_cudnn", kernel)
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    attention._cudnn_agrees.cache_clear()
    yield put
    attention._cudnn_agrees.cache_clear()


def kernel_with(backward):
    """A kernel whose forward pass is right."""

    @functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
    def kernel(q, k, v, causal):
        return attention._reference(q, k, v, causal)

    def forward(q, k, v, causal):
        return jax.vjp(functools.partial(direct, causal=causal), q, k, v)

    kernel.defvjp(forward, backward)
    return kernel


def pull(q, k, v, g):
    return jax.vjp(functools.partial(attend, causal=True), q, k, v)[1](g)


def halves():
    return [x.astype(jnp.bfloat16) for x in draw(24, 24, 2, 1, 8)]


def test_a_right_kernel_is_used_both_ways(no_short, stand_in, caplog):
    lengths = []

    def backward(causal, pullback, g):
        lengths.append(g.shape[1])
        return pullback(g)

    stand_in(kernel_with(backward))
    jax.eval_shape(pull, *halves())
    assert lengths == [512, 24]  # the self-test, then the gradient
    assert not caplog.records


def test_a_wrong_backward_kernel_is_not_used(no_short, stand_in, caplog):
    stand_in(kernel_with(lambda causal, pullback, g: pullback(2 * g)))
    x = halves()
    with caplog.at_level(logging.WARNING):
        jax.eval_shape(functools.partial(attend, causal=True), *x[:3])
        assert not caplog.records  # the forward kernel is
        actual = jax.jit(jax.checkpoint(pull))(*x)
    expected = "does not compute attention's gradients (bfloat16, head dim 8, causal)"
    assert expected in caplog.text
    assert_close(actual, gradients(functools.partial(direct, causal=True), *x), 0.01)


def test_a_kernel_that_fails_is_not_used(no_short, stand_in, caplog):
    def kernel(q, k, v, causal):
        raise NotImplementedError("no such head dim")

    stand_in(kernel)
    jax.eval_shape(attend, *halves()[:3])
    assert "NotImplementedError: no such head dim" in caplog.text


def test_no_head_copies_all_heads():
    """On a CPU heads are a loop: a copy of an array in it costs all heads at each."""
    q = jax.ShapeDtypeStruct((2, 300, 4, 8), jnp.float32)

    def gradients(q, k, v, g):
        return jax.vjp(functools.partial(blockwise, causal=False), q, k, v)[1](g)

    program = jax.jit(gradients).lower(q, q, q, q).compile().as_text()
    bodies, _, entry = program.partition("\nENTRY ")
    # A ROOT is a computation of its own, called before or after the loops.
    whole = re.compile(r"^ +%\S+ = f32\[8,300(,1)?,8\]\S* copy\(", re.MULTILINE)
    assert "while(" in entry and not whole.search(bodies)
